"""``ray job submit`` on a real local cluster, as the README says it, with Prometheus looking on."""

import json
import re
import shutil
import subprocess
import time
from pathlib import Path

import pytest
import yaml
from grafana import DASHBOARD, MONITORING, expressions, with_values
from nodes import RAY, head_node
from program import CONFIG, ROOT, SMALL, Finished
from servers import PROMETHEUS, needs_prometheus, prometheus

from pipeline.registry import list_ingredients, read_trials

pytestmark = [
    pytest.mark.system,
    pytest.mark.timeout(1500),
    pytest.mark.skipif(not RAY.exists(), reason="the ray command is not installed beside this Python"),
]
# One method of each kind, to save the time.
FEWER = ("search.num_trials=2", "soup.methods=[greedy, mehl-plus]", "study.cost_accuracy.step=1")


@pytest.fixture(scope="module")
def head(tmp_path_factory):
    folder = tmp_path_factory.mktemp("head")
    settings = {
        "RAY_metrics_report_interval_ms": "1000",  # it is ten seconds; so short a run would be over
        "RAY_METRICS_OUTPUT_ROOT": str(folder / "metrics"),  # as in deploy/compose.yaml
    }
    with head_node(folder, **settings) as head:
        yield head


@pytest.fixture(scope="module")
def watching(head, tmp_path_factory):
    """The Prometheus of deploy/ on this cluster, or None where it is not installed."""
    if PROMETHEUS is None:
        yield None
        return
    settings = yaml.safe_load((MONITORING / "prometheus.yaml").read_text())
    settings["global"]["scrape_interval"] = "1s"
    settings["scrape_configs"][0]["static_configs"] = [{"targets": [head.metrics]}]
    with prometheus(tmp_path_factory.mktemp("watching") / "prometheus", settings) as running:
        yield running


@pytest.fixture(scope="module")
def submitted(head, watching, tmp_path_factory):
    home = tmp_path_factory.mktemp("submitted")
    done = head.submit(*CONFIG, *SMALL, *FEWER, settings={"PIPELINE_HOME": str(home)})
    assert done.returncode == 0, done.stdout + done.stderr
    return Finished(home, done.stdout, done.stderr)


def test_a_job_leaves_its_outputs_where_its_first_line_says(submitted):
    first = re.search(r"^.*run digits: output in (.*)$", submitted.stdout, re.MULTILINE)
    assert first[1] == str(submitted.output)
    log = submitted.stdout[submitted.stdout.index("Running entrypoint") :].splitlines()
    assert log[1] == first[0], "something was printed before the line that says where the output is"
    assert [row.status for row in submitted.ingredients()] == ["finished"] * 2
    assert [row.method for row in submitted.soups()] == ["greedy", "mehl-plus"]
    assert (submitted.output / "report.html").exists()


def test_a_job_records_in_the_registry(submitted):
    sweep = submitted.sweep()
    assert read_trials(sweep) == submitted.ingredients()
    assert [version.trial_index for version in list_ingredients(sweep)] == [None, 0, 1]
    aliases = sweep.client().get_registered_model(sweep.soup_model).aliases
    assert set(aliases) == {"greedy", "mehl-plus", "champion"}


@needs_prometheus
def test_prometheus_has_what_grafana_asks_for(watching, submitted):
    since = time.time() - 3600
    # The dashboard's list of sweeps, as Grafana puts `label_values(METRIC, LABEL)` to Prometheus.
    (variable,) = [one for one in DASHBOARD["templating"]["list"] if one["name"] == "sweep"]
    metric, label = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["definition"]).groups()
    assert watching.ask(f"label/{label}/values", **{"match[]": metric}) == ["digits"]
    empty = []
    for expression in expressions():
        asked = with_values(expression, sweep="digits", split="select")
        found = watching.series(asked, since)  # raises where Prometheus cannot read it
        empty += [asked] if not found else []
    assert [asked for asked in empty if "ray_node_gpus_" not in asked] == [], "it needs no GPU, and nothing came"


@needs_prometheus
def test_the_gauges_are_right_and_stay_while_soups_are_made(watching, submitted):
    since = time.time() - 3600
    seen = {}
    for series in watching.series('{sweep="digits"}', since):
        labels = series["metric"]
        kind = [labels[name] for name in ("status", "unit", "method", "split") if name in labels]
        seen[labels["__name__"], *kind] = [float(value) for _, value in series["values"]]
    rows = submitted.ingredients()
    best = max(rows, key=lambda row: row.val_score)
    wanted = {
        ("ray_trials", "finished"): 2,
        ("ray_trials", "waiting"): 0,
        ("ray_seconds_left",): 0,
        ("ray_sweep_gpu_hours", "CPU core hours"): sum(row.gpu_hours for row in rows),
        ("ray_best_trial_accuracy", "select"): best.select_score,
        **{("ray_soup_accuracy", soup.method, "select"): soup.select_score for soup in submitted.soups()},
        **{("ray_soup_accuracy", soup.method, "test"): soup.test_score for soup in submitted.soups()},
    }
    assert {series: seen[series][-1] for series in wanted} == pytest.approx(wanted)
    assert max(seen["ray_trials", "running"]) >= 1, "while there were any"
    # What was set at the end of the search is still there beside the last soup; Ray would have forgotten it.
    assert watching.series('ray_soup_accuracy{method="mehl-plus"} and on (sweep) ray_sweep_gpu_hours', since)


def test_ray_leaves_its_own_dashboards_where_grafana_looks_for_them(head):
    folder = Path(head.env["RAY_METRICS_OUTPUT_ROOT"]) / "grafana" / "dashboards"
    uids = {json.loads(path.read_text())["uid"] for path in folder.glob("*.json")}
    assert {link["url"].removeprefix("/d/") for link in DASHBOARD["links"]} <= uids


def test_a_job_writes_nothing_into_its_working_directory(head, submitted):
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    top = {name.partition("/")[0] for name in tracked}
    for copy in head.working_copies():
        assert {path.name for path in copy.iterdir()} <= top | {".ci", "README.md"}
        outputs = {str(path.relative_to(copy)) for path in copy.rglob("*") if path.suffix in {".db", ".parquet"}}
        assert outputs <= set(tracked), "beside the records that the repository keeps"
        assert not list(copy.rglob("runs"))
        assert (copy / "pipeline" / "run.py").exists()


def test_without_a_setting_a_job_writes_to_the_home_folder(head, submitted):
    shutil.copytree(submitted.home / "runs" / "prepared-data", head.home / "pipeline-runs" / "runs" / "prepared-data")
    done = head.submit(*CONFIG, *SMALL, "search.num_trials=1", "--stages", "search")
    assert done.returncode == 0, done.stdout + done.stderr
    left = Finished(head.home / "pipeline-runs")
    assert f"run digits: output in {left.output}" in done.stdout
    assert [row.status for row in left.ingredients()] == ["finished"]
    assert read_trials(left.sweep()) == left.ingredients()


def test_a_mistake_in_a_job_ends_with_a_failure_that_names_it(head):
    done = head.submit(*CONFIG, "search.num_trails=2")
    assert done.returncode == 1
    assert "search.num_trails: unknown key; did you mean 'num_trials'?" in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
