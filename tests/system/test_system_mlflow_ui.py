"""What a person sees of a run in MLflow's own UI, asked of its REST interface and looked at in a real browser.

The pictures lie in pytest's temporary folder, to be looked at.
"""

import json
import sys
from dataclasses import dataclass
from urllib.request import Request, urlopen

import pytest
from program import MLFLOW, ROOT, Background, environment, free_ports, needs_mlflow, wait_for, wait_for_server

sys.path.append(str(ROOT / "tests" / "report"))
from report_browser import CHROMIUM, chromium

pytestmark = [pytest.mark.system, pytest.mark.timeout(1500), needs_mlflow]
METHODS = {"best-individual", "uniform", "greedy", "mehl", "mehl-plus", "ensemble"}


@dataclass(frozen=True)
class Server:
    """An MLflow server on the store of the finished run."""

    url: str

    def ask(self, path: str, body: dict | None = None) -> dict:
        data = None if body is None else json.dumps(body).encode()
        request = Request(f"{self.url}/api/2.0/mlflow/{path}", data, {"Content-Type": "application/json"})
        with urlopen(request, timeout=60) as answer:
            return json.load(answer)

    def experiment(self) -> dict:
        return self.ask("experiments/get-by-name?experiment_name=digits")["experiment"]

    def runs(self) -> dict[str, dict]:
        """All runs by name."""
        experiment = self.experiment()["experiment_id"]
        found = self.ask("runs/search", {"experiment_ids": [experiment], "max_results": 1000})["runs"]
        assert len({run["info"]["run_name"] for run in found}) == len(found), "two runs of the same name"
        return {run["info"]["run_name"]: run for run in found}


def tags(run: dict) -> dict[str, str]:
    return {tag["key"]: tag["value"] for tag in run["data"]["tags"]}


def metrics(run: dict) -> dict[str, float]:
    return {metric["key"]: metric["value"] for metric in run["data"].get("metrics", [])}


@pytest.fixture(scope="module")
def server(finished, tmp_path_factory):
    (port,) = free_ports(1)
    command = [str(MLFLOW), "server", "--backend-store-uri", finished.uri, "--host", "127.0.0.1", "--port", str(port)]
    env = environment(MLFLOW_SERVER_ENABLE_JOB_EXECUTION="false", MLFLOW_DISABLE_TELEMETRY="true")

    log = tmp_path_factory.mktemp("mlflow-server") / "server.log"
    with Background([*command, "--workers", "1"], env, log) as running:
        wait_for_server(f"http://127.0.0.1:{port}/health", running)
        yield Server(f"http://127.0.0.1:{port}")


@pytest.fixture(scope="module")
def parent(server):
    (found,) = (run for run in server.runs().values() if tags(run)["role"] == "sweep")
    return found


def test_everything_is_nested_below_the_sweep(server, parent):
    runs = server.runs()
    others = {name: tags(run) for name, run in runs.items() if run is not parent and tags(run)["role"] != "sweep"}
    assert {tag["mlflow.parentRunId"] for tag in others.values()} == {parent["info"]["run_id"]}
    assert {tag["sweep_id"] for tag in others.values()} == {tags(parent)["sweep_id"]}
    trials = {name for name, tag in others.items() if tag["role"] == "trial"}
    assert trials == {"trial 0", "trial 1", "trial 2"}
    assert {name for name, tag in others.items() if tag["role"] == "soup"} == METHODS
    curves = {name for name, tag in others.items() if tag["role"] == "cost-accuracy"}
    assert curves == {"greedy: cost curve", "mehl-plus: cost curve"}
    assert set(others) == trials | METHODS | curves | {"theta0"}
    assert {run["info"]["status"] for run in runs.values()} == {"FINISHED"}


def test_the_sweep_is_described(parent, finished):
    note = tags(parent)["mlflow.note.content"]
    assert "is the champion, " in note.splitlines()[2]
    assert all(method in note for method in METHODS)
    assert f"{100 * finished.soups()[0].test_accuracy:.2f}" in note
    assert tags(parent)["champion"] in METHODS
    (champion,) = [soup for soup in finished.soups() if soup.method == tags(parent)["champion"]]
    assert metrics(parent)["test_accuracy"] == pytest.approx(champion.test_accuracy)
    assert metrics(parent)["gpu_hours"] == pytest.approx(sum(row.gpu_hours for row in finished.ingredients()))


def test_trials_and_soups_can_be_compared(server, finished):
    runs = server.runs()
    for row in finished.ingredients():
        logged = runs[f"trial {row.trial_index}"]
        assert metrics(logged)["val_accuracy"] == pytest.approx(row.val_accuracy)
        assert metrics(logged)["gpu_hours"] == pytest.approx(row.gpu_hours)
        parameters = {parameter["key"]: parameter["value"] for parameter in logged["data"]["params"]}
        assert float(parameters["lr"]) == row.lr
    for row in finished.soups():
        logged = metrics(runs[row.method])
        for name in ("val_accuracy", "select_accuracy", "test_accuracy", "construction_seconds", "gpu_hours"):
            assert logged[name] == pytest.approx(getattr(row, name)), name
        assert logged["peak_memory_bytes"] == row.peak_memory_bytes
        lasted = runs[row.method]["info"]["end_time"] - runs[row.method]["info"]["start_time"]
        assert lasted >= 1000 * row.construction_seconds - 1, "the page would show another duration"


def test_the_cost_curve_has_the_number_of_ingredients_as_step(server):
    for method in ("greedy", "mehl-plus"):
        run = server.runs()[f"{method}: cost curve"]
        for name in ("val_accuracy", "test_accuracy", "gpu_hours"):
            points = server.ask(f"metrics/get-history?run_id={run['info']['run_id']}&metric_key={name}")["metrics"]
            assert [int(point["step"]) for point in points] == [0, 2, 3]
        hours = [point["value"] for point in points]
        assert hours[0] == 0 < hours[1] < hours[2], "cost must grow with the number of ingredients"


def test_models_have_versions_and_aliases(server, parent):
    ingredient = server.ask("registered-models/get?name=digits-ingredient")["registered_model"]
    soup = server.ask("registered-models/get?name=digits-soup")["registered_model"]
    assert ingredient["description"]
    assert soup["description"]
    aliases = {alias["alias"]: alias["version"] for alias in soup["aliases"]}
    assert set(aliases) == METHODS - {"ensemble"} | {"champion"}
    assert aliases["champion"] == aliases[tags(parent)["champion"]]
    versions = server.ask("model-versions/search?filter=name%3D%27digits-ingredient%27")["model_versions"]
    indices = [{tag["key"]: tag["value"] for tag in version["tags"]}.get("trial_index") for version in versions]
    assert sorted(index for index in indices if index) == ["0", "1", "2"]


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
def test_the_pages_in_chromium(server, parent, tmp_path):
    runs = server.runs()
    experiment = parent["info"]["experiment_id"]
    greedy, learned = (runs[name]["info"]["run_id"] for name in ("greedy", "mehl-plus"))
    runs_of = f"experiments/{experiment}/runs"
    pages = {
        "runs": (runs_of, ["digits", "13 matching runs", "soups · cost · trials", "is the champion"]),
        "soups": (f"{runs_of}?viewStateShareKey=soups", ["6 matching runs", "test_accuracy", "num_selected"]),
        "trials": (f"{runs_of}?viewStateShareKey=trials", ["3 matching runs", "val_accuracy", "gpu_hours", "lr"]),
        "cost": (
            f"{runs_of}?viewStateShareKey=cost&compareRunsMode=CHART",
            ["2 matching runs", "Cost against accuracy (2)", "gpu_hours", "greedy: cost curve (test_accuracy)"],
        ),
        "sweep": (f"{runs_of}/{parent['info']['run_id']}", ["champion", "mehl-plus", "models"]),
        "compare": (
            f'compare-runs?runs=["{greedy}","{learned}"]&experiments=["{experiment}"]',
            ["Comparing 2 Runs from 1 Experiment", "Parameters: method Metrics: test_accuracy", "greedy", "mehl-plus"],
        ),
        "models": ("models", ["digits-ingredient", "digits-soup"]),
        "soup": (
            "models/digits-soup",
            ["Version 5", "@ champion", "@ mehl-plus", 'load_model("models:/digits-soup@champion")'],
        ),
        "version": ("models/digits-soup/versions/3", ["test_accuracy", 'load_model("models:/digits-soup/3")']),
    }
    with chromium(tmp_path / "profile") as page:
        page.call("Emulation.setDeviceMetricsOverride", width=1500, height=1000, deviceScaleFactor=1, mobile=False)
        for name, (path, texts) in pages.items():
            page.events.clear()
            page.call("Page.navigate", url="about:blank")
            page.call(
                "Page.navigate", url=f"{server.url}/#/{path}{'&' if '?' in path else '?'}workflowType=machine_learning"
            )

            def shown() -> str:
                return " ".join((page.value("document.body.innerText") or "").split())

            try:
                wait_for(
                    lambda texts=texts: all(text in shown() for text in texts), f"{texts} on the page '{name}'", 90
                )
            except AssertionError as error:
                raise AssertionError(f"{error}; it shows: {shown()}") from None
            finally:
                page.screenshot(tmp_path / f"{name}.png")
            failed = [
                event["params"]
                for event in page.events
                if event["method"] == "Runtime.exceptionThrown"
                or (event["method"] == "Network.responseReceived" and event["params"]["response"]["status"] >= 500)
            ]
            assert failed == []
