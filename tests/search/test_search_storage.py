import contextlib
import pickle
import shutil

import pytest
import torch
from buckets import object_store

from pipeline.errors import SearchError
from pipeline.search.storage import Storage
from pipeline.search.trial import load_state, save_state


@pytest.fixture(scope="module")
def bucket():
    """The URI of a bucket in an S3-compatible store on loopback."""
    with object_store() as store, pytest.MonkeyPatch.context() as patch:
        for name, value in store.keys.items():
            patch.setenv(name, value)
        yield f"s3://{store.name}/unfinished?scheme=http&endpoint_override={store.endpoint.removeprefix('http://')}"


@pytest.fixture(params=["folder", "file", "memory", "s3"])
def storage(request, tmp_path):
    """A local folder, the same as a URI, a file system of fsspec's that pyarrow does not know, an object store."""
    match request.param:
        case "folder":
            root = str(tmp_path)
        case "file":
            root = tmp_path.as_uri()
        case "memory":
            root = f"memory://{tmp_path.name}"
        case "s3":
            root = request.getfixturevalue("bucket")
    return pickle.loads(pickle.dumps(Storage(root).child(tmp_path.name).child("trial-1")))


def content(storage, name):
    with storage.reading(name) as file:
        return None if file is None else file.read()


def write(storage, name, data):
    with storage.writing(name) as file:
        file.write(data)


def test_files_are_written_over_and_listed(storage):
    assert (storage.names(), content(storage, "a")) == ([], None)
    write(storage, "b", b"1")
    write(storage, "a", b"2")
    write(storage, "a", b"3")
    assert storage.names() == ["a", "b"]
    assert (content(storage, "a"), content(storage, "b")) == (b"3", b"1")
    storage.remove()
    storage.remove()
    assert storage.names() == []


def test_a_file_that_is_not_finished_leaves_the_old_one(storage):
    write(storage, "a", b"old")
    with contextlib.suppress(ConnectionError), storage.writing("a") as file:
        file.write(b"new")
        raise ConnectionError
    assert content(storage, "a") == b"old"


def test_a_state_comes_back_as_it_was(storage):
    state = {"epoch": 3, "model": {"weight": torch.arange(5.0)}}
    with storage.writing("last.pt") as file:
        torch.save(state, file)
    with storage.reading("last.pt") as file:
        back = torch.load(file, weights_only=True)
    assert back["epoch"] == 3
    assert torch.equal(back["model"]["weight"], state["model"]["weight"])


@pytest.mark.parametrize("storage", ["memory", "s3"], indirect=True)
def test_a_save_that_breaks_off_leaves_the_state_before(storage, monkeypatch):
    def break_off(source, target, length):
        target.write(source.read(100))
        raise OSError("connection reset")

    save_state(storage, {"epoch": 1})
    with monkeypatch.context() as broken:
        broken.setattr(shutil, "copyfileobj", break_off)
        save_state(storage, {"epoch": 2})
    assert load_state(storage) == {"epoch": 1}
    save_state(storage, {"epoch": 3})
    assert load_state(storage) == {"epoch": 3}
    assert storage.names() == ["epoch-00003.pt"]


@pytest.mark.system  # the AWS client has patience of its own
def test_a_store_that_is_away_is_waited_for_and_then_named(monkeypatch):
    monkeypatch.setattr("pipeline.search.storage._PATIENCE", 2)
    away = Storage("s3://soups/unfinished?scheme=http&endpoint_override=127.0.0.1:9&region=us-east-1")
    save_state(away, {"epoch": 1})  # the trial goes on
    with pytest.raises(SearchError, match=r"^search\.storage: s3://soups.* cannot be reached .* goes on once"):
        away.names()


def test_other_folders_are_left_alone(storage):
    other = Storage(storage.root).child("other")
    write(storage, "a", b"1")
    write(other, "a", b"2")
    storage.remove()
    assert content(other, "a") == b"2"
    other.remove()


def test_a_storage_that_works_is_left_as_it_was(storage):
    write(storage, "a", b"1")
    storage.check()
    assert storage.names() == ["a"]
    assert storage.child("check").names() == []


@pytest.mark.parametrize("root", ["/proc/no/where", "nosuch://bucket/path"])
def test_a_storage_that_does_not_work_is_a_mistake_of_the_settings(root):
    with pytest.raises(SearchError, match=r"^search\.storage: .* cannot be used \("):
        Storage(root).check()
