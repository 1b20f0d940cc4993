import dataclasses
import os
from pathlib import Path

import pytest
import yaml
from samples import special_files
from sqlalchemy.engine import make_url

from pipeline.commands.common import describe_settings
from pipeline.config import dump_config, load_config
from pipeline.errors import ConfigError

BASE = """
name: tiny
data: {source: digits, image_size: 8, test_size: 100}
model: {backbone: open_clip, name: ViT-B-32}
"""


@pytest.fixture
def load(write_config, known):
    def load(text=BASE, *overrides):
        return load_config(write_config(text), overrides, known)

    return load


def refused(load, *overrides, text=BASE):
    with pytest.raises(ConfigError) as caught:
        load(text, *overrides)
    return str(caught.value)


@pytest.mark.parametrize(
    ("key", "nearest"),
    [
        ("serch", "search"),
        ("data.image_sise", "image_size"),
        ("model.pretraind", "pretrained"),
        ("model.contrastive.epoch", "epochs"),
        ("search.num_trails", "num_trials"),
        ("search.distributions.lr.unifrom", "uniform"),
        ("soup.method", "methods"),
        ("study.cost_acuracy", "cost_accuracy"),
        ("study.cost_accuracy.steps", "step"),
        ("registry.traking_uri", "tracking_uri"),
    ],
)
def test_unknown_key_names_its_place_and_the_nearest_key(load, key, nearest):
    message = refused(load, f"{key}=1")
    assert f"{key}: unknown key; did you mean '{nearest}'?" in message


@pytest.mark.parametrize(
    ("override", "place", "nearest"),
    [
        ("data.source=digit", "data.source", "digits"),
        ("model.backbone=openclip", "model.backbone", "open_clip"),
        ("search.space=rondom", "search.space", "random"),
        ("soup.methods=[greedy, mehl-pluss]", "soup.methods.1", "mehl-plus"),
        ("soup.settings={unifrom: {}}", "soup.settings.unifrom", "uniform"),
        ("study.cost_accuracy.methods=[gready]", "study.cost_accuracy.methods.0", "greedy"),
        ("search.distributions={weight_decai: 0.1}", "search.distributions", "weight_decay"),
    ],
)
def test_unknown_name_names_its_place_and_the_nearest_name(load, override, place, nearest):
    message = refused(load, override)
    assert f" {place}" in message
    assert f"did you mean '{nearest}'?" in message


def test_a_name_like_no_other_lists_all(load):
    message = refused(load, "data.source=qqqqq")
    assert "choose from: digits, cifar10, cifar100, image_folder, imagenet, parquet" in message


@pytest.mark.parametrize(
    ("override", "said"),
    [
        (
            "soup.settings.mehl-plus.learning_rat=0.1",
            "mehl-plus.learning_rat: unknown key; did you mean 'learning_rate'?",
        ),
        ("soup.settings.mehl-plus.learning_rate=fast", "mehl-plus.learning_rate: input should be a valid number"),
        ("soup.settings.mehl.block_size=2.5", "mehl.block_size"),
        ("soup.settings.mehl.learning_rate=-1", "mehl: learning_rate is -1"),
        ("soup.settings.greedy.ties=perhaps", "greedy.ties"),
        ("soup.settings.uniform.learning_rate=1", "uniform.learning_rate: unknown key; this method has no settings"),
    ],
)
def test_settings_of_a_method_are_checked_against_its_defaults(load, override, said):
    assert said in refused(load, override)


def test_settings_of_a_method_are_completed_from_its_defaults(load, known):
    settings = load(BASE, "soup.settings.mehl-plus.learning_rate=0.5").soup.settings
    assert settings["mehl-plus"] == dataclasses.asdict(known().methods["mehl-plus"]) | {"learning_rate": 0.5}
    assert settings["mehl"] == dataclasses.asdict(known().methods["mehl"])
    assert settings["uniform"] == {}


def test_all_problems_are_reported_together(load):
    text = """
name: "with space"
seed: -1
data: {source: parquet, image_size: 0, train: a.parquet}
model: {backbone: open_clip}
search: {num_trials: 0, distributions: {lr: {uniform: [2, 1]}}}
soup: {methods: [greedy, gready]}
extra: 1
"""
    message = refused(load, text=text)
    for place in ("name", "seed", "data.image_size", "model", "search.num_trials", "search.distributions.lr", "extra"):
        assert f"\n  {place}: " in message
    assert "\n  soup.methods.1: " in message
    assert f"{len(message.splitlines()) - 1} problem(s)" in message


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("data.source=parquet", "data: source 'parquet' needs data.train and data.test"),
        ("data.source=cifar10", "data: source 'cifar10' needs data.root"),
        ("data.validation_size=1.5", "data.validation_size: must be a count of images (500) or a fraction"),
        ("data.validation_size=true", "data.validation_size: must be a count"),
        ("model.architecture={embed_dim: 8}", "model: give either model.name or model.architecture"),
        ("model.name=null", "model: give either model.name or model.architecture"),
        ("model.mean=[0.5, 0.5, 0.5]", "model: give model.mean and model.std together"),
        ("model.templates=[a digit]", "model.templates: 'a digit' lacks the placeholder {}"),
        ("model.contrastive={epochs: 1}", "model.contrastive needs data.pretrain_size"),
        ("soup.methods=[greedy, mehl, greedy]", "soup.methods: listed twice: greedy"),
        ("soup.methods=[]", "soup.methods: "),
        ("search.distributions={lr: {uniform: [0, 1], choice: [1]}}", "search.distributions.lr: give exactly one"),
        (
            "search.distributions={lr: {loguniform: [0, 1]}}",
            "search.distributions.lr: loguniform [0.0, 1.0]: the first",
        ),
        ("search.distributions={lr: {choice: []}}", "search.distributions.lr: choice is empty"),
        (
            "search.distributions={lr: [1e-4, 1e-3]}",
            "write {loguniform: [0.0001, 0.001]} for values between them, {choice: [0.0001, 0.001]} for one of these",
        ),
        ("search.distributions={epochs: [4, 17]}", "write {randint: [4, 17]} for values between them, {choice"),
        ("search.distributions={mixup: [0.0, 0.5]}", "write {uniform: [0.0, 0.5]} for values between them"),
        ("search.distributions={augmentation: [minimal, medium]}", "write {choice: [minimal, medium]} for one of"),
        ("name=a/b", "name: "),
    ],
)
def test_values_that_do_not_go_together(load, override, said):
    assert said in refused(load, override)


def test_a_shift_has_a_name_of_its_own(load):
    for name in ("test", "No Name"):
        with pytest.raises(ConfigError, match=r"data.*shifts"):
            load(BASE, f"data.shifts={{{name}: /x}}")
    assert load(BASE, "data.shifts={sketch: /x}").data.shifts == {"sketch": Path("/x")}


@pytest.mark.parametrize(
    ("override", "said"),
    [
        (
            "study.ablation.mehl.block_sise=[2]",
            "study.ablation.mehl.block_sise: unknown key; did you mean 'block_size'?",
        ),
        ("study.ablation.mehl.layers=[tensor, blok]", "study.ablation.mehl.layers: "),
        ("study.ablation.mehl.block_size=[auto]", "auto only with a memory_budget_gib"),
        ("study.ablation.mehl.seed=[1, -2]", "study.ablation.mehl.seed: must be whole numbers from 0 on, got -2"),
        ("study.ablation.mehll.seed=[1]", "did you mean 'mehl'?"),
        ("study.wise_ft.methods=[hl]", "study.wise_ft.methods: 'hl' is not in soup.methods"),
        ("study.wise_ft.methods=[wise-ft]", "wise-ft lies on such a line itself"),
        ("study.elimination.top=[0]", "study.elimination.top.0: "),
        ("study.elimination.top=[2, 2]", "study.elimination.top: listed twice: 2"),
        ("study.cost_accuracy.methods=[greedy, greedy]", "study.cost_accuracy.methods: listed twice: greedy"),
        ("study.wise_ft.alphas=[.nan]", "study.wise_ft.alphas.0: "),
        ("study.ablation.mehl.block_size=[]", "study.ablation.mehl.block_size: "),
    ],
)
def test_studies_are_checked_against_the_methods(load, override, said):
    with pytest.raises(ConfigError) as caught:
        load(BASE, override)
    assert said in str(caught.value)


def test_a_setting_that_needs_another_of_the_run_may_be_ablated(load):
    budget = "soup.settings.mehl.memory_budget_gib=2"
    study = load(BASE, budget, "study.ablation.mehl={block_size: [auto, null], seed: [1]}").study
    assert study.ablation == {"mehl": {"block_size": ["auto", None], "seed": [1]}}


def test_ablated_values_are_those_that_the_setting_takes(load):
    study = load(BASE, "study.ablation.mehl={learning_rate: [1e-3, 0.001], block_size: [4.0]}").study
    assert study.ablation == {"mehl": {"learning_rate": [0.001], "block_size": [4]}}


@pytest.mark.parametrize(
    ("distribution", "said"),
    [
        ("lr: -0.1", "lr: cannot be -0.1"),
        ("lr: fast", "lr: cannot be 'fast'"),
        ("epochs: 0", "epochs: cannot be 0"),
        ("epochs: {randint: [0, 4]}", "epochs: cannot be 0"),
        ("epochs: {randint: [1, 4], probability: 0.5}", "epochs: cannot be 0"),
        ("epochs: {uniform: [1, 4]}", "epochs: takes no real numbers"),
        ("batch_size: {choice: [32, 0.5]}", "batch_size: cannot be 0.5"),
        ("augmentation: {choice: [minimal, maximal]}", "augmentation: cannot be 'maximal'"),
        ("randaugment_m: {randint: [0, 32]}", "randaugment_m: cannot be 31"),
        ("label_smoothing: {uniform: [0, 1.5]}", "label_smoothing: cannot be 1.5"),
    ],
)
def test_a_distribution_draws_only_what_the_hyperparameter_can_be(load, distribution, said):
    assert said in refused(load, f"search.distributions={{{distribution}}}")


def test_a_plain_value_is_a_constant(load):
    found = load(BASE, "search.distributions={epochs: 3, lr: 1e-3, augmentation: minimal}").search.distributions
    assert [found[name].choice for name in ("epochs", "lr", "augmentation")] == [[3], [0.001], ["minimal"]]


def test_overrides_are_dotted_yaml_and_create_sections(load):
    config = load(
        BASE,
        "search.num_trials=32",
        "search.distributions.lr.loguniform=[1e-5, 1e-3]",
        "registry.tracking_uri=http://server:5000",
        "soup.methods=[uniform]",
        "data.select_fraction=0",
        "model.name=RN50=x",
    )
    assert config.search.num_trials == 32
    assert config.search.distributions["lr"].loguniform == (1e-5, 1e-3)
    assert config.registry.tracking_uri == "http://server:5000"
    assert config.soup.methods == ["uniform"]
    assert config.data.select_fraction == 0
    assert config.model.name == "RN50=x"


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("search.num_trials", "write it as dotted.key=value"),
        ("=3", "write it as dotted.key=value"),
        ("search..num_trials=3", "write it as dotted.key=value"),
        ("search.num_trials=[", "is not valid YAML"),
        ("name.x=3", "'name' is a value and has no keys below it"),
    ],
)
def test_bad_overrides_are_named(load, override, said):
    message = refused(load, override)
    assert message.startswith(f"override '{override}': ")
    assert said in message
    assert len(message.splitlines()) == 1


def test_relative_output_is_resolved_against_the_working_directory(load, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load().output == tmp_path / "runs" / "tiny"
    assert load(BASE, "output=here/../there").output == tmp_path / "there"
    assert load(BASE, "output=/elsewhere").output == Path("/elsewhere")
    assert load(BASE, "output=~/x").output == Path.home() / "x"


def test_pipeline_home_comes_before_the_working_directory_and_a_ray_job(load, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "user"))
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    config = load()
    assert config.output == tmp_path / "user" / "pipeline-runs" / "runs" / "tiny"
    assert config.registry.tracking_uri == f"sqlite:///{config.output.parent / 'mlflow.db'}"
    monkeypatch.setenv("PIPELINE_HOME", str(tmp_path / "home"))
    assert load().output == tmp_path / "home" / "runs" / "tiny"


def test_every_path_is_absolute(load, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = load(
        BASE, "data.train=a", "data.test=~/b", "data.root=./c/../d", "data.store=e", "model.pretrained=weights.pt"
    )
    assert [config.data.train, config.data.root, config.data.store] == [tmp_path / name for name in "ade"]
    assert config.data.test == Path.home() / "b"
    assert config.model.pretrained == str(tmp_path / "weights.pt")
    assert load().data.store == tmp_path / "runs" / "prepared-data"


@pytest.mark.parametrize("tag", ["openai", "DEFAULT", "laion2b_s34b_b79k"])
def test_a_pretrained_tag_is_no_path(load, tag):
    assert load(BASE, f"model.pretrained={tag}").model.pretrained == tag


def test_tracking_uri_from_settings_then_environment_then_beside_the_output(load, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load().registry.tracking_uri == f"sqlite:///{tmp_path}/runs/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://environment")
    assert load().registry.tracking_uri == "http://environment"
    assert load(BASE, "registry.tracking_uri=http://settings").registry.tracking_uri == "http://settings"


def test_the_address_of_a_database_says_what_its_path_says(load, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    uri = load(BASE, "output='ü %41#b?c d/run'").registry.tracking_uri
    assert uri == f"sqlite:///{tmp_path}/%C3%BC %2541%23b%3Fc d/mlflow.db"
    assert load(BASE, f"registry.tracking_uri={uri}").registry.tracking_uri == uri
    assert make_url(uri).database == str(tmp_path / "ü %41#b?c d" / "mlflow.db")  # as MLflow reads it


def test_a_relative_database_is_made_absolute(load, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load(BASE, "registry.tracking_uri=sqlite:///my.db").registry.tracking_uri == f"sqlite:///{tmp_path}/my.db"
    assert load(BASE, "registry.tracking_uri=sqlite:////a/my.db").registry.tracking_uri == "sqlite:////a/my.db"


def test_dumped_settings_load_to_the_same(load, tmp_path, write_config, known, monkeypatch):
    text = """
name: tiny
data: {source: digits, image_size: 8, test_size: 0.25, pretrain_size: 30, class_names: [null-ish, "1"]}
model: {backbone: open_clip, name: ViT-B-32, mean: [0.1, 0.2, 0.3], std: [1, 1, 1], contrastive: {epochs: 3}}
search: {num_trials: 3, distributions: {lr: {loguniform: [1e-4, 1e-2]}, mixup: {uniform: [0, 0.9], probability: 0.5}}}
soup: {methods: [greedy, mehl], settings: {mehl: {block_size: null}, mehl-plus: {learning_rate: 0.3}}}
"""
    config = load(text)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://elsewhere")
    assert load_config(write_config(dump_config(config), "dumped.yaml"), [], known).model_dump() == config.model_dump()
    assert yaml.safe_load(dump_config(config))["soup"]["settings"]["mehl"]["block_size"] is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name: [unclosed", "is not valid YAML"),
        ("name: \x00", "is not valid YAML"),
        ("", "is empty"),
        ("- a\n- b\n", "holds a list"),
        ("just text", "holds a str"),
    ],
)
def test_files_without_settings_are_one_line_errors(load, write_config, text, said):
    message = refused(load, text=text)
    assert said in message
    assert "config.yaml: " in message
    assert len(message.splitlines()) == 1


@pytest.mark.parametrize("content", [None, b"name: \xff\xfe"])
def test_a_missing_or_binary_file_is_a_one_line_error(tmp_path, known, content):
    path = tmp_path / "settings.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=rf"^{path}: (cannot be read \(No such file|is not valid YAML)"):
        load_config(path, [], known)


def test_settings_are_read_from_no_pipe_or_device(tmp_path, known):
    for path in special_files(tmp_path):
        with pytest.raises(ConfigError, match=f"^{path}: (is a pipe, a socket or a device|cannot be read)"):
            load_config(path, [], known)


def test_settings_are_frozen(load):
    config = load()
    with pytest.raises(ValueError, match="frozen"):
        config.search.num_trials = 3


def test_help_describes_every_setting_with_its_default():
    lines = dict(line.split(": ", 1) for line in describe_settings())
    assert all(lines.values())
    assert "search.num_trials [72]" in lines
    assert "study.cost_accuracy.step [4]" in lines
    assert "model.contrastive.lr [0.001]" in lines
    assert not any(os.sep in key for key in lines)


@pytest.mark.parametrize(
    "uri",
    ["s3://me:secret@bucket/x", "s3://me@bucket/x", "abfs://a/x?client_secret=secret", "https://a/x?sv=1&sig=secret"],
)
def test_credentials_in_the_storage_are_refused_and_not_repeated(load, uri):
    with pytest.raises(ConfigError, match=r"search\.storage: .*holds credentials") as caught:
        load(BASE, f"search.storage={uri}")
    assert "secret" not in str(caught.value)


def test_a_storage_is_a_uri_or_a_path_beside_the_outputs(load, monkeypatch):
    monkeypatch.setenv("PIPELINE_HOME", "/runs")
    for given, is_now in {
        "abfs://container@account.dfs.core.windows.net/x": None, "s3://bucket/x?region=eu": None, "kept": "/runs/kept",
    }.items():  # fmt: skip
        assert load(BASE, f"search.storage={given}").search.storage == (is_now or given)


@pytest.mark.parametrize("uri", ["http://me:secret@mlflow:5000", "postgresql://me:secret@db/mlflow"])
def test_a_password_in_the_tracking_uri_is_refused_and_not_repeated(load, uri):
    with pytest.raises(ConfigError, match=r"registry\.tracking_uri: holds a password") as caught:
        load(BASE, f"registry.tracking_uri={uri}")
    assert "secret" not in str(caught.value)


def with_lines(*lines):
    return BASE.strip() + "\n" + "\n".join(lines) + "\n"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("seed: 012", "`012` is read as the octal number 10; write 12 or 10, or put it in quotes: '012'"),
        ("seed: 1:30", "`1:30` is read as the number 90, of digits to the base of 60; write the number, or"),
        ("output: 2024-01-01", "`2024-01-01` is read as a date; put it in quotes: '2024-01-01'"),
        ("seed: yes", "seed: `yes` is read as the truth value true, which this setting does not take"),
        (
            "soup: {settings: {mehl: {inner_iterations: true}}}",
            "soup: settings.mehl.inner_iterations: input should be a valid integer, got the truth value true",
        ),
        ("search: {distributions: {lr: true}}", "search.distributions: lr: cannot be the truth value true"),
        ("plugins: [no]", "plugins.0: `no` is read as the truth value false; put it in quotes if text is meant"),
        ("output: ~", "output: "),
        ("plugins: [~]", "plugins.0: `~` is read as no value; put it in quotes if text is meant"),
        ("plugins: [1e3]", "plugins.0: `1e3` is read as the number 1000.0; put it in quotes if text is meant"),
        ("plugins: []\nseed: 1\nplugins: []", "key 'plugins' stands twice, first in line 4; remove one"),
        ("soup: {settings: {mehl: {seed: 1, seed: 2}}}", "key 'seed' stands twice, first in line 4; remove one"),
        ("report: {no: 1}", "key `no` is read as the truth value false; put it in quotes"),
        ("report: {1: 1}", "key `1` is read as the number 1; put it in quotes"),
        ("report: {[a]: 1}", "a key must be a word"),
        ("report: &own {title: *own}", "an alias stands for something that it is in; write it out"),
        ("seed: -1", "seed: input should be greater than or equal to 0, got -1"),
    ],
)
def test_what_yaml_reads_otherwise_than_it_looks_is_an_error_with_its_line(load, line, said):
    message = refused(load, text=with_lines(line))
    number = 4 + line.count("\n")
    assert f"config.yaml:{number}: " in message
    assert said in message
    assert len(message.splitlines()) == 1


def test_class_names_that_yaml_takes_for_something_else_are_named_together_with_their_lines(load):
    text = BASE.replace("test_size: 100}", "test_size: 100, class_names:\n [NO,\n SE, 012,\n null, 7]}")
    message = refused(load, text=text)
    assert "config.yaml:5: `012` is read as the octal number 10" in message
    message = refused(load, text=text.replace("012", "'012'"))
    assert "data.class_names.0: `NO` is read as the truth value false; put it in quotes if text is meant (" in message
    assert "config.yaml:4)" in message
    assert "data.class_names.3: `null` is read as no value; put it in quotes" in message
    assert "data.class_names.4: `7` is read as the number 7; put it in quotes" in message
    quoted = text.replace("NO", "'NO'").replace("null", '"null"').replace("7", '"7"').replace("012", '"012"')
    assert load(quoted).data.class_names == ["NO", "SE", "012", "null", "7"]


def test_overrides_are_read_like_the_file_and_named_in_its_place(load):
    for override, said in {
        "seed=012": "`012` is read as the octal number 10",
        "name=no": "name: `no` is read as the truth value false; put it in quotes",
        "data.class_names=[NO]": "data.class_names.0: `NO` is read as the truth value false",
        "seed=on": "seed: `on` is read as the truth value true, which this setting does not take",
        "search={num_trials: 1, num_trials: 2}": "key 'num_trials' stands twice",
        "search.num_trials=0": "search.num_trials: input should be greater than or equal to 1, got 0",
    }.items():
        message = refused(load, override)
        assert message.startswith(f"override '{override.partition('=')[0]}': ")
        assert said in message
    assert load(with_lines("search: {num_trials: yes}"), "search.num_trials=3").search.num_trials == 3


def test_truth_values_where_they_are_meant(load):
    settings = "soup: {settings: {mehl: {decentralize: no}}, include_initialization: yes}"
    soup = load(with_lines(settings, "study: {ablation: {mehl: {decentralize: [off, on]}}}"))
    assert soup.soup.settings["mehl"]["decentralize"] is False
    assert soup.soup.include_initialization is True
    assert soup.study.ablation == {"mehl": {"decentralize": [False, True]}}
    architecture = load(with_lines(), "model={backbone: open_clip, architecture: {quick_gelu: no}}").model.architecture
    assert architecture == {"quick_gelu": False}


def test_numbers_without_a_dot_and_merged_keys(load, known, write_config):
    text = """
name: "1e-3"
data: &small {source: digits, image_size: 8, test_size: 1e-1, validation_size: 5E-2}
model: {backbone: open_clip, architecture: {<<: {embed_dim: 4, dropout: 1}, dropout: 1e-4}}
"""
    config = load(text)
    assert (config.data.test_size, config.data.validation_size) == (0.1, 0.05)
    assert config.model.architecture == {"embed_dim": 4, "dropout": 1e-4}
    assert config.name == "1e-3"
    again = load_config(write_config(dump_config(config), "dumped.yaml"), [], known)
    assert again.model_dump() == config.model_dump()


def test_training_images_are_one_path_or_several(load, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = load(BASE, "data.train=[a, b/*]", "data.test=c*", "data.shifts={far: [d]}").data
    assert (data.train, data.test) == ([tmp_path / "a", tmp_path / "b" / "*"], tmp_path / "c*")
    assert data.shifts == {"far": [tmp_path / "d"]}
    for wrong in ("[]", "3", "[a, 3]", "{a: b}"):
        assert "data.train: must be a path or a list of paths, got " in refused(load, f"data.train={wrong}")
    assert "data.class_names: listed twice: cat" in refused(load, "data.class_names=[cat, dog, cat]")


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["search.stop.max_gpu_hours=-1"], "search.stop.max_gpu_hours: input should be greater than 0"),
        (["search.stop.patience=0"], "search.stop.patience: input should be greater than or equal to 1"),
        (["search.stop.max_price=5"], "search.stop.max_price: needs report.price_per_gpu_hour"),
        (["search.stop.min_gain=0.01"], "search.stop.min_gain: looks at soups of the trials so far"),
        (
            ["search.stop.min_gain=0.01", "study.cost_accuracy.live=true", "data.select_fraction=0"],
            "search.stop.min_gain: gains are measured on select",
        ),
        (
            ["search.stop.min_gain=0.01", "study.cost_accuracy={live: true, step: 4}", "search.num_trials=12"],
            "search.stop.min_gain: speaks at point 3 of the curve (patience 2), and before its last trial the sweep "
            "has 2",
        ),
        (["search.stop.patience=3"], "search.stop: patience without min_gain is no rule"),
        (
            ["search.stop={max_gpu_hours: 1, patience: 3, per_gpu_hours: 2}"],
            "per_gpu_hours and patience without min_gain",
        ),
        (["search.keep_stopped=true"], "search: keep_stopped is true, and without search.scheduler=asha"),
        (["search.scheduler=asha", "search.distributions.epochs=1"], "search: scheduler asha compares trials after"),
        (["search.scheduler=asha", "search.distributions={epochs: {randint: [1, 2]}}"], "these have no second one"),
        (["search.stop.max_hours=1"], "search.stop.max_hours: unknown key; did you mean 'max_gpu_hours'?"),
    ],
)
def test_a_rule_that_could_not_be_followed_is_refused(load, overrides, said):
    assert said in refused(load, *overrides)


def test_a_curve_of_just_enough_points_is_a_rule(load):
    enough = ["search.stop.min_gain=0.01", "study.cost_accuracy={live: true, step: 4}", "search.num_trials=13"]
    assert load(BASE, *enough).search.stop.is_given
