"""What the READMEs say of the evidence study and of the demo is what their records say."""

import json

import evidence
from evidence import CONFIG, PAGE, RECORDS, RESULTS, ROOT, effects_of, keep, markdown, read_sweep, summary


def sweeps():
    seeds = json.loads((RESULTS / "evidence.json").read_text())["seeds"]
    return [read_sweep(RECORDS / f"{CONFIG}-{seed}") for seed in seeds]


def test_the_tables_of_the_readmes_are_those_of_the_records():
    measured = sweeps()
    effects = effects_of(measured)
    assert summary(measured, effects) in (ROOT / "README.md").read_text(encoding="utf-8")
    assert markdown(measured, effects) in PAGE.read_text(encoding="utf-8")


def test_the_readme_shows_the_demo_as_it_was_measured():
    assert json.loads((RESULTS / "demo.json").read_text())["printed"] in (ROOT / "README.md").read_text(
        encoding="utf-8"
    )


def test_the_same_records_give_the_same_effects():
    recorded = json.loads((RESULTS / "evidence.json").read_text())["effects_pp"]
    assert json.loads(json.dumps(effects_of(sweeps()))) == recorded


def test_records_and_predictions_are_kept_and_weights_are_not(tmp_path):
    kept = {"run.json", "config.yaml", "soups.parquet", "coefficients/mehl-plus.parquet", "predictions/a/b.parquet"}
    for name in kept | {"theta0.safetensors", "soups/mehl-plus.safetensors", "report.html", "state.json"}:
        path = tmp_path / "run" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    keep(tmp_path / "run", tmp_path / "records")
    found = {
        str(path.relative_to(tmp_path / "records")) for path in (tmp_path / "records").rglob("*") if path.is_file()
    }
    assert found == kept
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_a_sweep_whose_records_are_kept_is_not_run(tmp_path, monkeypatch):
    ran = []

    def run(config, output, *arguments):
        ran.append((config, *arguments))
        output.mkdir(parents=True)
        (output / "run.json").write_text("{}")

    monkeypatch.setattr(evidence, "run", run)
    for _ in range(2):
        evidence.measure("small", tmp_path / "runs", tmp_path / "kept" / "small-0", "seed=0")
    assert ran == [("small", "seed=0")]
    assert (tmp_path / "kept" / "small-0" / "run.json").read_text() == "{}"
