"""Sweeps in a real registry, written by what writes them in a run, without the run."""

from pathlib import Path

from mlflow.entities import Metric
from report_records import a_run, a_sweep, the_costs, the_soups
from samples import hyperparameters

from pipeline.config.yaml_text import dump_yaml
from pipeline.records import EpochRecord, LineageRecord
from pipeline.registry import (
    IngredientRecorder,
    Sweep,
    log_costs,
    log_datasets,
    log_settings,
    open_sweep,
    register_soup,
    set_champion,
)
from pipeline.registry.ingredients import log_row

RULE = {"max_gpu_hours": 0.05, "max_price": 0.2, "min_gain": 0.01, "per_gpu_hours": 0.005, "patience": 2}
SETTINGS = {
    "name": "digits",
    "search": {"num_trials": 24, "stop": RULE},
    "report": {"price_per_gpu_hour": 2.5},
}


def running_sweep(uri: str, folder: Path, name="digits", sweep_id="sweep-1", size=18, **origin) -> Sweep:
    """Eighteen trials, two of which gave no ingredient, two that run, a curve, no soup."""
    folder.mkdir(exist_ok=True)
    sweep = open_sweep(uri, name, sweep_id, folder / "artifacts", {"seed": "0", **origin})
    settings = folder / "config.yaml"
    settings.write_text(dump_yaml({**SETTINGS, "name": name, "registry": {"tracking_uri": uri}}))
    log_settings(sweep, settings)
    run = a_run(name=name, sweep_id=sweep_id)
    log_datasets(sweep, "digits", run.splits)
    rows = a_sweep(size)
    client = sweep.client()
    for row in rows:
        log_row(
            sweep, client, sweep.child_run(client, "trial", str(row.trial_index), f"trial {row.trial_index}"), row, {}
        )
    recorder = IngredientRecorder(sweep, None, ("a", "b"))
    for index in (size, size + 1):
        recorder.begin(index, hyperparameters(lr=1e-3, seed=index))
    epoch = EpochRecord(epoch=1, train_loss=0.7, learning_rate=1e-3, images_per_second=1.0, data_wait=0.0)
    recorder.log_epochs(size, [epoch])
    log_costs(sweep, run.theta0_figures, the_costs(rows))
    for curve in sweep.runs(client, "tags.role = 'cost-accuracy'"):
        values = {8: (-0.01, 0.03), 12: (-0.02, 0.002), 16: (-0.03, 0.001)}
        for step, (low, high) in values.items():
            gains = [("select_gain_low", low), ("select_gain_high", high)]
            client.log_batch(curve.info.run_id, metrics=[Metric(name, value, step, step) for name, value in gains])
    return sweep


def finished_sweep(uri: str, folder: Path, name="digits", sweep_id="sweep-0", **origin) -> Sweep:
    """As `running_sweep`, with soups, a champion and the names of the methods; nothing runs."""
    sweep = running_sweep(uri, folder, name, sweep_id, **origin)
    client = sweep.client()
    for run in sweep.runs(client, "tags.role = 'trial' and attributes.status = 'RUNNING'"):
        client.delete_run(run.info.run_id)
    soups = {}
    for soup in the_soups():
        lineage = LineageRecord(method=soup.method, settings={}, seed=0, learned_on="f", layers=[], ingredients=[])
        soups[soup.method] = register_soup(sweep, soup, lineage, None)
    set_champion(sweep, "mehl-plus", soups["mehl-plus"])
    record = folder / "run.json"
    record.write_text(a_run(name=name, sweep_id=sweep_id).model_dump_json())
    client.log_artifact(sweep.run_id, str(record))
    client.log_metric(sweep.run_id, "test_accuracy", 0.9557)
    client.set_terminated(sweep.run_id)
    return sweep
