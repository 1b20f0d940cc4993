"""A tracking server that is away while trials are recorded: nothing is lost, nothing is there twice."""

import threading
import time

import pytest
import torch
from program import needs_mlflow, wait_for
from samples import hyperparameters, ingredient
from servers import sqlite_server

from pipeline.registry import IngredientRecorder, fetch_ingredients, list_ingredients, open_sweep, read_trials

pytestmark = [pytest.mark.system, pytest.mark.timeout(900), needs_mlflow]
COUNT = 8


@pytest.fixture
def server(migrated_store, tmp_path):
    with sqlite_server(tmp_path, migrated_store) as server:
        yield server


def test_trials_are_recorded_once_the_server_is_back(server, tmp_path):
    sweep = open_sweep(server.uri, "away", "sweep-1", None, {})
    recorder = IngredientRecorder(sweep, "7" * 64, ("cat", "dog"))
    failures = []

    def record(indices):
        try:
            for index in indices:
                recorder.begin(index, hyperparameters())
                path, sha256 = recorder.upload(index, {"weight": torch.full((1000,), float(index))})
                recorder.record(ingredient(index, path=path, sha256=sha256))
        except Exception as error:
            failures.append(error)

    workers = [threading.Thread(target=record, args=(range(first, COUNT, 2),)) for first in range(2)]
    for worker in workers:
        worker.start()
    wait_for(lambda: read_trials(sweep), "the first trial", 60)
    server.kill()
    time.sleep(20)
    assert any(worker.is_alive() for worker in workers)
    server.start()
    for worker in workers:
        worker.join(300)
    assert failures == []
    assert [row.trial_index for row in read_trials(sweep)] == list(range(COUNT))
    versions = list_ingredients(sweep)
    assert [version.trial_index for version in versions] == list(range(COUNT))
    assert len(fetch_ingredients(versions, tmp_path / "fetched")) == COUNT
