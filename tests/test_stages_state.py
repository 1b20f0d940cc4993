import dataclasses
import re
from types import SimpleNamespace

import pytest
from samples import config, digit_splits, run_record

from pipeline.errors import ConfigError, DataError
from pipeline.records import SplitRecord
from pipeline.records.folder import RunFolder, write_run
from pipeline.stages.state import (
    all_stages,
    fingerprints,
    left_out,
    locked_output,
    open_state,
    save_state,
    stop_rule,
)
from pipeline.studies import STUDIES

DATA = {"source": "digits", "image_size": 8, "test_size": 100}


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "run"


def settings(folder, **sections):
    return config(output=str(folder), **sections)


def started(folder, **sections):
    """A run whose theta0 is recorded."""
    state, _ = open_state(settings(folder, **sections), fresh=False)
    (folder / "run.json").write_text("{}")
    return state


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_same_command_finds_its_state_again(folder):
    state = started(folder)
    state.done["search"] = "abc"
    save_state(RunFolder(folder), state)
    again, moved = open_state(settings(folder), fresh=False)
    assert again == state
    assert moved is None


def test_what_is_left_out_changes_soups_and_studies_but_not_the_sweep(folder):
    before, after = (fingerprints(settings(folder, soup=soup)) for soup in ({}, {"leave_out": [3, "model_4.pt"]}))
    assert {stage for stage in before if before[stage] == after[stage]} == {"search"}
    assert open_state(settings(folder), fresh=False)[0].sweep_id == (
        open_state(settings(folder, soup={"leave_out": [3]}), fresh=False)[0].sweep_id
    )


def test_trials_that_are_left_out_are_those_that_there_are(folder):
    state = started(folder)
    config = settings(folder, soup={"leave_out": [3, "trial 7"]}, search={"num_trials": 8})
    state.num_trials = 8
    assert left_out(config, state) == {3: 3, 7: "trial 7"}
    for name, said in {
        8: "'8' names none of the 8 ingredients; there are 0 to 7",
        "trial 8": "did you mean 'trial 7'?",
    }.items():
        with pytest.raises(ConfigError, match=re.escape(said)):
            left_out(settings(folder, soup={"leave_out": [name]}), state)
    state.imported = ["/a/model.pt", "/b/model.pt", "/b/other.pt"]
    assert left_out(settings(folder, soup={"leave_out": ["/a/model.pt", "other"]}), state) == {
        0: "/a/model.pt",
        2: "other",
    }
    with pytest.raises(ConfigError, match=r"'model\.pt' may be /a/model\.pt or /b/model\.pt"):
        left_out(settings(folder, soup={"leave_out": ["model.pt"]}), state)
    with pytest.raises(ConfigError, match="names all ingredients"):
        left_out(settings(folder, soup={"leave_out": [0, 1, 2]}), state)


@pytest.mark.parametrize(
    ("changed", "keys"),
    [
        ({"seed": 3}, "seed"),
        ({"data": {**DATA, "image_size": 16, "validation_size": 0.2}}, "data.image_size, data.validation_size"),
        ({"model": {"backbone": "torchvision", "name": "resnet18"}}, None),
        (
            {"search": {"distributions": {"lr": 0.1}}},
            "search.distributions.lr.choice, search.distributions.lr.probability",
        ),
        ({"search": {"gradient_clip": 2.0}}, "search.gradient_clip"),
        ({"name": "other"}, "name"),
    ],
)
def test_other_data_model_space_or_seed_is_an_error_that_names_the_keys(folder, changed, keys):
    started(folder)
    before = contents(folder)
    with pytest.raises(ConfigError) as caught:
        open_state(settings(folder, **changed), fresh=False)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert str(folder) in message
    assert "--fresh" in message
    if keys is None:
        assert {"model.backbone", "model.name"} < set(re.findall(r"model\.\w+", message))
    else:
        assert f"other settings: {keys}. " in message
    assert contents(folder) == before


@pytest.mark.parametrize(
    "changed",
    [
        {"soup": {"methods": ["uniform"], "settings": {"mehl": {"learning_rate": 1.0}}}},
        {"study": {"cost_accuracy": {"step": 2}}},
        {"report": {"price_per_gpu_hour": 2.5}},
        {"data": {**DATA, "store": "/elsewhere"}},
        {"data": {**DATA, "shifts": {"sketch": "/elsewhere"}}},
        {"search": {"cpus_per_trial": 2, "max_failures": 0, "num_trials": 80}},
    ],
)
def test_what_ingredients_do_not_depend_on_may_change(folder, changed):
    state = started(folder)
    again, _ = open_state(settings(folder, **changed), fresh=False)
    assert again.sweep_id == state.sweep_id


def test_settings_may_be_corrected_until_something_is_made_with_them(folder):
    state, _ = open_state(settings(folder, search={"num_trials": 9}), fresh=False)
    corrected = settings(folder, seed=5, search={"num_trials": 3})
    assert open_state(corrected, fresh=False)[0].sweep_id == state.sweep_id
    assert "seed: 5" in (folder / "config.yaml").read_text()


def test_a_run_of_an_older_version_goes_on_where_its_settings_are_the_defaults_of_now(folder):
    started(folder)
    path = folder / "config.yaml"
    lines = [line for line in path.read_text().splitlines() if not re.search("compile|gradient_clip", line)]
    path.write_text("\n".join(lines))
    open_state(settings(folder), fresh=False)
    path.write_text("\n".join(lines))
    with pytest.raises(ConfigError, match=r"holds a run with other settings: search\.gradient_clip\."):
        open_state(settings(folder, search={"gradient_clip": 2.0}), fresh=False)


def test_a_sweep_grows_and_does_not_shrink(folder):
    state = started(folder, search={"num_trials": 4})
    grown, _ = open_state(settings(folder, search={"num_trials": 6}), fresh=False)
    assert (grown.sweep_id, grown.num_trials) == (state.sweep_id, 6)
    with pytest.raises(ConfigError, match=r"^search.num_trials: is 5, but the sweep .* has 6 trials"):
        open_state(settings(folder, search={"num_trials": 5}), fresh=False)


@pytest.mark.parametrize(
    ("changed", "kept"),
    [
        ({"search": {"num_trials": 80}}, ()),
        ({"soup": {"settings": {"mehl": {"learning_rate": 1.0}}}}, ("search", "similarity")),
        ({"soup": {"include_initialization": True}}, ("search", "similarity")),
        (
            {"study": {"cost_accuracy": {"step": 2}}},
            ("search", "soup", *(study for study in STUDIES if study != "cost-accuracy")),
        ),
        (
            {"study": {"ablation": {"mehl": {"block_size": [2]}}}},
            ("search", "soup", *(study for study in STUDIES if study != "ablation")),
        ),
        ({"report": {"price_per_gpu_hour": 2.5}}, ("search", "soup", *STUDIES)),
        ({"search": {"cpus_per_trial": 2}}, all_stages()),
        ({"data": {**DATA, "shifts": {"sketch": "/elsewhere"}}}, ("search", "similarity")),
        ({"data": {**DATA, "store": "/elsewhere", "max_pixels": 10**9}}, all_stages()),
    ],
)
def test_settings_change_the_fingerprints_of_their_stage_and_the_later_ones(folder, changed, kept):
    before, after = fingerprints(settings(folder)), fingerprints(settings(folder, **changed))
    assert tuple(stage for stage in all_stages() if before[stage] == after[stage]) == kept


def test_what_is_done_by_accuracy_is_done_since_before_there_was_a_choice(folder):
    values = settings(folder).model_dump(mode="json")
    before = SimpleNamespace(model_dump=lambda mode: {**values, "data": without_metric})
    without_metric = {key: value for key, value in values["data"].items() if key != "metric"}
    assert fingerprints(before) == fingerprints(settings(folder))
    by_metric = fingerprints(settings(folder, data={**DATA, "metric": "macro_f1"}))
    assert all(by_metric[stage] != fingerprint for stage, fingerprint in fingerprints(before).items())


def test_what_is_done_is_done_since_before_a_sweep_could_end_early(folder):
    values = settings(folder).model_dump(mode="json")
    new = ("stop", "algorithm", "scheduler", "keep_stopped")
    search = {key: value for key, value in values["search"].items() if key not in new}
    curve = {key: value for key, value in values["study"]["cost_accuracy"].items() if key != "live"}
    older = {**values, "search": search, "study": {**values["study"], "cost_accuracy": curve}}
    before = fingerprints(SimpleNamespace(model_dump=lambda mode: older))
    assert before == fingerprints(settings(folder))
    assert before == fingerprints(settings(folder, study={"cost_accuracy": {"live": True}}))
    ended = fingerprints(settings(folder, search={"stop": {"max_gpu_hours": 1.0}}))
    assert all(ended[stage] != fingerprint for stage, fingerprint in before.items())


def test_another_price_is_another_rule_where_the_price_is_limited(folder):
    def search(price, **stop):
        given = settings(folder, search={"stop": stop}, report={"price_per_gpu_hour": price})
        return fingerprints(given)["search"], stop_rule(given)

    assert search(1.0, max_price=10.0) != search(2.0, max_price=10.0)
    assert search(1.0, max_gpu_hours=10.0) == search(2.0, max_gpu_hours=10.0)


def test_another_metric_is_refused_and_accuracy_is_what_decided_before(folder):
    started(folder)
    text = (folder / "config.yaml").read_text()
    assert "metric: accuracy" in text
    (folder / "config.yaml").write_text(text.replace("  metric: accuracy\n", ""))
    with pytest.raises(ConfigError, match=r"other settings: data\.metric\. Give another `output`"):
        open_state(settings(folder, data={**DATA, "metric": "macro_f1"}), fresh=False)
    open_state(settings(folder), fresh=False)


def test_fingerprints_do_not_depend_on_the_folder(tmp_path):
    one = settings(tmp_path / "a", registry={"tracking_uri": "http://server"})
    assert fingerprints(one) == fingerprints(settings(tmp_path / "b", registry={"tracking_uri": "http://server"}))


def test_fresh_moves_aside_and_deletes_nothing(folder):
    state = started(folder)
    (folder / "soups").mkdir()
    (folder / "soups" / "uniform.safetensors").write_bytes(b"weights")
    before = contents(folder)
    other, moved = open_state(settings(folder, seed=9), fresh=True)
    assert other.sweep_id != state.sweep_id
    assert contents(moved) == before
    assert moved.parent == folder.parent
    assert moved.name.startswith("run-until-")
    assert {path.name for path in folder.iterdir()} == {"config.yaml", "state.json"}


def test_fresh_on_a_new_folder_moves_nothing(folder):
    assert open_state(settings(folder), fresh=True)[1] is None


@pytest.mark.parametrize("fresh", [False, True])
def test_a_folder_of_other_files_is_refused_and_left_alone(folder, fresh):
    folder.mkdir()
    (folder / "thesis.tex").write_text("years of work")
    with pytest.raises(ConfigError, match=r"^output: .* is not empty and holds no run"):
        open_state(settings(folder), fresh=fresh)
    assert contents(folder.parent) == {(folder / "thesis.tex").relative_to(folder.parent): b"years of work"}


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("file", "it is a file"),
        ("file/below", "File exists|Not a directory"),
        ("nowhere", "it is a link to .*gone, which is not there"),
        ("/proc/run", "No such file or directory"),
    ],
    ids=["a file", "below a file", "a link to nowhere", "no place for folders"],
)
def test_an_output_that_cannot_be_is_refused(tmp_path, place, said):
    (tmp_path / "file").write_text("x")
    (tmp_path / "nowhere").symlink_to(tmp_path / "gone")
    with (
        pytest.raises(ConfigError, match=rf"^output: .* cannot be written \(({said})\); give another folder"),
        locked_output(settings(tmp_path / place)),
    ):
        pass


def test_one_process_at_a_time_works_on_an_output(folder):
    with locked_output(settings(folder)):
        started(folder)
        said = r"^output: .*run is being worked on by process \d+ on .* since .*; wait until that ends, or give another"
        with pytest.raises(ConfigError, match=said), locked_output(settings(folder)):
            pass
        _, moved = open_state(settings(folder), fresh=True)
        with pytest.raises(ConfigError, match=said), locked_output(settings(folder)):
            pass
        assert "run.json" in {path.name for path in moved.iterdir()}
        with locked_output(settings(moved)):  # the earlier run is nobody's
            pass
    with locked_output(settings(folder)):
        pass
    assert folder.exists()


def test_an_output_in_which_nothing_was_made_goes_again(folder):
    with pytest.raises(ConfigError, match="no server"), locked_output(settings(folder)):
        raise ConfigError("no server")
    assert not folder.exists()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("state.json", None),
        ("state.json", '{"sweep_id": "2026'),
        ("state.json", '{"sweep_id": "a"}'),
        ("config.yaml", None),
        ("config.yaml", ""),
        ("config.yaml", "name: [tiny"),
    ],
)
def test_a_half_written_run_is_a_one_line_error_and_fresh_goes_on(folder, name, content):
    started(folder)
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_text(content)
    with pytest.raises(ConfigError) as caught:
        open_state(settings(folder), fresh=False)
    assert len(str(caught.value).splitlines()) == 1
    assert str(folder) in str(caught.value)
    assert "--fresh" in str(caught.value)
    assert open_state(settings(folder), fresh=True)[1] is not None


def test_a_run_is_not_gone_on_with_on_other_data(tmp_path):
    from pipeline.stages.running import _check_same_data

    folder = RunFolder(tmp_path)
    records = (split_record("train"), split_record("far"))
    splits = dataclasses.replace(digit_splits(), records=records, shifts={"far": None})
    _check_same_data(folder, splits)  # nothing is begun
    write_run(folder, run_record(splits=list(splits.records)))
    _check_same_data(folder, splits)
    for change in ({"indices_sha256": "2"}, {"images_sha256": "2"}):
        other = split_record("train", **change)
        with pytest.raises(DataError, match=r"the 9 images of split 'train' are not the 9 that the run in .*--fresh"):
            _check_same_data(folder, dataclasses.replace(splits, records=(other,)))
        _check_same_data(folder, dataclasses.replace(splits, records=(split_record("far", **change),)))
    # What an older version prepared has no digest.
    _check_same_data(folder, dataclasses.replace(splits, records=(split_record("train", images_sha256=None),)))


def split_record(name, **values):
    return SplitRecord(**({"name": name, "size": 9, "indices_sha256": "1", "images_sha256": "1"} | values))


def test_a_power_of_ten_that_an_older_version_kept_as_text_is_the_same_number(folder):
    search = {"distributions": {"lr": 1e-3}}
    started(folder, search=search)
    text = (folder / "config.yaml").read_text()
    assert "- 0.001" in text
    (folder / "config.yaml").write_text(text.replace("- 0.001", "- 1e-3"))
    open_state(settings(folder, search=search), fresh=False)
