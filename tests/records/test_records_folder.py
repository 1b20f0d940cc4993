"""What lies where, and which versions of the records are read."""

import json

import pytest
from samples import run_record

from pipeline.errors import DataError
from pipeline.records import RECORDS_VERSION
from pipeline.records.folder import RunFolder, read_results, read_run, update_run, write_run


@pytest.fixture
def folder(tmp_path):
    folder = RunFolder(tmp_path)
    write_run(folder, run_record(labels={"greedy": "Greedy soup"}))
    return folder


def change(folder, **values):
    record = json.loads(folder.run.read_text())
    for name, value in values.items():
        if value is None:
            del record[name]
        else:
            record[name] = value
    folder.run.write_text(json.dumps(record))


def test_the_record_of_a_run_is_read_as_it_was_written(folder):
    assert read_run(folder) == run_record(labels={"greedy": "Greedy soup"})
    changed = update_run(folder, champion="greedy")
    assert changed.champion == "greedy"
    assert read_run(folder) == changed


def test_a_run_of_the_first_version_is_read_without_labels_and_then_goes_by_this_one(folder):
    change(folder, records_version=None, labels=None)
    old = read_run(folder)
    assert (old.records_version, old.labels) == (1, {})
    assert read_results(folder.root, {}).run == old
    assert update_run(folder, champion="greedy").records_version == RECORDS_VERSION


def test_a_run_of_a_newer_version_is_refused_in_a_line(folder):
    change(folder, records_version=RECORDS_VERSION + 1, something_new=3)
    with pytest.raises(DataError) as caught:
        read_results(folder.root, {})
    message = str(caught.value)
    assert message.startswith(f"{folder.run}: holds records of version {RECORDS_VERSION + 1}, and this program knows")
    assert len(message.splitlines()) == 1


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '{"records_version": "x"}', '{"name": "half"}'])
def test_a_damaged_record_is_no_finished_run(folder, text):
    folder.run.write_text(text)
    with pytest.raises(DataError, match="holds no finished run"):
        read_run(folder)
