"""What deploy/ has for Prometheus and Grafana: the dashboard against the gauges there are, and its provisioning."""

import itertools
import re
from pathlib import Path

import pytest
import yaml
from grafana import DASHBOARD, MONITORING, expressions
from ray.dashboard.modules.metrics.dashboards import default_dashboard_panels

from pipeline.gauges import GAUGES

DEPLOY = MONITORING.parent
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
VARIABLES = {variable["name"]: variable for variable in DASHBOARD["templating"]["list"]}
OURS = {f"ray_{name}": set(labels) for name, (_, labels) in GAUGES.items()}


def read(name):
    return yaml.safe_load((MONITORING / name).read_text())


def test_every_gauge_is_shown_and_every_metric_shown_is_one():
    named = set(re.findall(r"\bray_\w+", " ".join([*expressions(), VARIABLES["sweep"]["definition"]])))
    assert named >= OURS.keys()
    of_ray = Path(default_dashboard_panels.__file__).read_text()
    assert [name for name in named - OURS.keys() if f"({name}{{" not in of_ray] == [], "neither ours nor Ray's"


@pytest.mark.parametrize("expression", expressions())
def test_expressions_use_labels_and_variables_that_there_are(expression):
    assert set(re.findall(r"\$(\w+)", expression)) <= VARIABLES.keys()
    for gauge, selector in re.findall(r"(ray_\w+)\{(.*?)\}", expression):
        assert set(re.findall(r"(\w+)=", selector)) <= OURS[gauge]
    for gauge, labels in OURS.items():
        if gauge in expression:
            # Of the drivers that went on with a sweep, each has series of its own: by label they are one.
            (by,) = re.findall(rf"max by \(([\w, ]+)\) \({gauge}\{{", expression)
            assert labels - {"split"} == set(by.split(", "))


def test_panels_are_told_apart_and_ask_the_chosen_prometheus():
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len({panel["title"] for panel in panels}) == len(panels)
    assert VARIABLES["datasource"]["type"] == "datasource"
    askers = [*panels, *itertools.chain(*(panel["targets"] for panel in panels)), VARIABLES["sweep"]]
    assert all(asker["datasource"] == {"type": "prometheus", "uid": "${datasource}"} for asker in askers)
    assert VARIABLES["split"]["current"]["value"] == "select"


def test_no_panel_lies_on_another():
    taken = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        columns, rows = range(place["x"], place["x"] + place["w"]), range(place["y"], place["y"] + place["h"])
        cells = set(itertools.product(columns, rows))
        assert max(columns) < 24
        assert not cells & taken, panel["title"]
        taken |= cells


def test_compose_brings_dashboards_and_prometheus_together():
    services, configs = COMPOSE["services"], COMPOSE["configs"]
    head, prometheus, grafana = (services[name] for name in ("ray-head", "prometheus", "grafana"))
    (job,) = read("prometheus.yaml")["scrape_configs"]
    (port,) = [option.partition("=")[2] for option in head["command"] if option.startswith("--metrics-export-port=")]
    assert job["static_configs"] == [{"targets": [f"ray-head:{port}"]}]
    (source,) = read("datasources.yaml")["datasources"]
    assert source["url"] == "http://prometheus:9090"
    targets = {Path(one["target"]): DEPLOY / configs[one["source"]]["file"] for one in grafana["configs"]}
    ours, of_ray = (Path(provider["options"]["path"]) for provider in read("dashboards.yaml")["providers"])
    assert targets[ours / "sweep.json"] == MONITORING / "sweep.json"
    assert of_ray == Path(head["environment"]["RAY_METRICS_OUTPUT_ROOT"]) / "grafana" / "dashboards"
    assert "metrics:/metrics" in head["volumes"]
    assert "metrics:/metrics:ro" in grafana["volumes"]
    for service in (prometheus, grafana):
        assert (service["cap_drop"], service["security_opt"]) == (["ALL"], ["no-new-privileges:true"])
        assert service["mem_limit"]
        assert service["cpus"]
    assert "ports" not in prometheus, "it asks nobody for a password"
    assert grafana["environment"]["GF_AUTH_ANONYMOUS_ENABLED"] == "false"


def test_kuberay_gets_the_same_dashboard_and_every_node_is_asked():
    kustomization = read("kustomization.yaml")
    (generator,) = kustomization["configMapGenerator"]
    for name in (*kustomization["resources"], *generator["files"]):
        assert (MONITORING / name).exists()
    monitor = read("podmonitor.yaml")
    assert (monitor["apiVersion"], monitor["kind"]) == ("monitoring.coreos.com/v1", "PodMonitor")
    assert monitor["spec"]["selector"]["matchLabels"] == {"ray.io/is-ray-node": "yes"}
    assert [endpoint["port"] for endpoint in monitor["spec"]["podMetricsEndpoints"]] == ["metrics"]
