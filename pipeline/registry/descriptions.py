"""What MLflow's pages of a sweep begin with: what came out, and how to load it."""

from __future__ import annotations

import re

from pipeline.registry.client import redact
from pipeline.registry.sweeps import CHAMPION, Sweep
from pipeline.registry.views import links

_NOTE = "mlflow.note.content"
_BEGIN, _END = "<!-- what came out -->", "<!-- /what came out -->"  # of our part of a description


def describe(sweep: Sweep, headline: str, table: str) -> None:
    """Put what came out where MLflow's pages begin: of the sweep's run, of its experiment, of the soup model.

    That is a line, and the table of methods (plain text) below it; what people wrote there besides stays.
    """
    client, table = sweep.client(), f"```\n{table}\n```"
    note = client.get_run(sweep.run_id).data.tags.get(_NOTE, "")
    client.set_tag(sweep.run_id, _NOTE, _with_block(note, headline, table))
    if not sweep.is_latest():
        return
    note = client.get_experiment(sweep.experiment_id).tags.get(_NOTE, "")
    note = _with_block(note, f"{links(sweep.experiment_id)}: {headline}", table)
    client.set_experiment_tag(sweep.experiment_id, _NOTE, note)
    description = client.get_registered_model(sweep.soup_model).description or ""
    how = how_to_load(sweep, f"@{CHAMPION}")
    client.update_registered_model(sweep.soup_model, _with_block(description, headline, how, table))


def how_to_load(sweep: Sweep, version: str) -> str:
    """Code that loads a version (``@champion``, ``/3``) of the soup model from this registry, as Markdown."""
    store, model = redact(sweep.tracking_uri), f"models:/{sweep.soup_model}{version}"
    code = ["import mlflow", "", f'mlflow.set_tracking_uri("{store}")', f'model = mlflow.pyfunc.load_model("{model}")']
    return "\n".join(["```python", *code, "```"])


def _with_block(text: str, *paragraphs: str) -> str:
    """``text`` with the paragraphs in place of earlier ones, else at the end; older ones were a table alone."""
    block = "\n\n".join([_BEGIN, *paragraphs, _END])
    old = rf"{re.escape(_BEGIN)}.*?{re.escape(_END)}|```\n.*?\n```"
    with_block, count = re.subn(old, lambda _: block, text, count=1, flags=re.DOTALL)
    return with_block if count else f"{text}\n\n{block}".strip()
