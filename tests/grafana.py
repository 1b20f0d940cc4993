"""The Grafana dashboard of deploy/, and what it asks of Prometheus."""

import json
from pathlib import Path

MONITORING = Path(__file__).resolve().parents[1] / "deploy" / "monitoring"
DASHBOARD = json.loads((MONITORING / "sweep.json").read_text())


def expressions() -> list[str]:
    """The queries of all panels, with the dashboard's variables in them."""
    return [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]


def with_values(expression: str, **values: str) -> str:
    """The expression as Grafana sends it when the variables have these values."""
    for name, value in values.items():
        expression = expression.replace(f"${name}", value)
    return expression
