"""Every source through a real local Ray: from files to splits, and the errors on the way."""

import dataclasses
import hashlib
import json
import pickle
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from data_samples import data_config, encoded, flat_image, write_folders, write_parquet
from PIL import Image
from text_samples import write_table, write_tokenizer

from pipeline.data import KINDS, SOURCES, load_splits, prepare
from pipeline.data.decode import decode
from pipeline.data.preparation import _write_set
from pipeline.data.sources.parquet import chunks as parquet_chunks
from pipeline.data.sources.parquet import columns_of
from pipeline.errors import DataError
from pipeline.testing import check_source

pytestmark = pytest.mark.usefixtures("local_ray")

CIFAR_LABELS = {10: [0, 1, 2, 1] * 3, 100: [0, 1, 2, 1] * 3}


@pytest.fixture
def store(tmp_path):
    return tmp_path / "store"


def parquet_config(store, train, test, **settings):
    return data_config(
        source="parquet", train=train, test=test, store=store, image_size=6, validation_size=0.4, **settings
    )


def by_first_pixel(images):
    """Label of each image by the value that `flat_image` gave it."""
    return dict(zip(images.inputs[:, 0, 0, 0].tolist(), images.labels.tolist(), strict=True))


def error_of(data, seed=0):
    with pytest.raises(DataError) as caught:
        load_splits(data, seed)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_digits(store):
    sizes = {"pretrain_size": 300, "train_size": 500, "validation_size": 500, "test_size": 497}
    data = data_config(source="digits", store=store, image_size=16, **sizes)
    splits = load_splits(data, seed=0)
    assert {record.name: record.size for record in splits.records} == {
        "pretrain": 300,
        "train": 500,
        "fit": 400,
        "select": 100,
        "test": 497,
    }
    assert splits.class_names[::9] == ("zero", "nine")
    assert splits.train.inputs.shape == (500, 3, 16, 16)
    assert splits.train.inputs.flags.c_contiguous
    assert splits.train.inputs.dtype == np.uint8
    assert splits.train.labels.dtype == np.int64
    parts = (splits.pretrain, splits.train, splits.fit, splits.select, splits.test)
    assert np.bincount(np.concatenate([part.labels for part in parts])).tolist() == [
        178, 182, 177, 183, 181, 182, 181, 179, 174, 180,
    ]  # fmt: skip
    again, other = load_splits(data, seed=0), load_splits(data, seed=1)
    assert np.array_equal(splits.fit.inputs, again.fit.inputs)
    assert splits.records == again.records
    assert all(a.indices_sha256 != b.indices_sha256 for a, b in zip(splits.records, other.records, strict=True))


def test_digits_keep_their_pixels_at_their_own_size(store):
    from sklearn.datasets import load_digits

    splits = load_splits(data_config(source="digits", store=store, image_size=8, test_size=500), seed=0)
    order = np.random.default_rng([0, 0]).permutation(1797)  # the test images are cut first
    expected = np.round(load_digits().images[order[:500]] * 255 / 16).astype(np.uint8)
    assert np.array_equal(splits.test.inputs, np.repeat(expected[:, None], 3, axis=1))
    assert np.array_equal(splits.test.labels, load_digits().target[order[:500]])


def test_parquet_rows_keep_their_label_whatever_the_row_groups(store, tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.data.sources.parquet.CHUNK_SIZE", 7)
    labels = [row * 5 % 8 for row in range(100)]
    train = write_parquet(tmp_path / "train.parquet", labels, row_group_size=30)
    test = write_parquet(tmp_path / "test.parquet", labels[:20])
    splits = load_splits(parquet_config(store, train, test, select_fraction=0.25), seed=0)
    assert [record.name for record in splits.records] == ["train", "fit", "select", "test"]
    assert (len(splits.train), len(splits.fit), len(splits.select)) == (60, 30, 10)
    seen = by_first_pixel(splits.train) | by_first_pixel(splits.fit) | by_first_pixel(splits.select)
    assert seen == dict(enumerate(labels))
    assert splits.test.labels.tolist() == labels[:20]
    assert splits.test.inputs[:, 0, 0, 0].tolist() == list(range(20))
    assert splits.class_names == tuple("01234567")


def test_no_image_is_lost_where_a_task_hands_on_several_blocks(store, tmp_path):
    pixels = [encoded(np.full((1, 1, 3), row, dtype=np.uint8)) for row in range(40)]
    train = write_parquet(tmp_path / "train.parquet", [0] * 40, pixels)
    data = data_config(source="parquet", train=train, test=train, store=store, image_size=700)
    table = pq.read_table(prepare(data) / "train.parquet")
    assert sorted(table["index"].to_pylist()) == list(range(40))


def test_images_that_cannot_be_read_by_a_task_or_do_not_arrive(store, tmp_path, monkeypatch):
    train = write_parquet(tmp_path / "train.parquet", [0, 1] * 10)
    data = parquet_config(store, train, train)

    def chunks_of(change):
        chunks, _ = parquet_chunks([train], columns_of(data), None, "train")
        return [dataclasses.replace(chunk, **change(chunk)) for chunk in chunks]

    gone = chunks_of(lambda chunk: {"read": dataclasses.replace(chunk.read, path=tmp_path / "elsewhere.parquet")})
    with pytest.raises(DataError, match=r"could not read the images .*elsewhere\.parquet.*; every node must see"):
        _write_set(gone, data, "source", tmp_path / "out.parquet", [])
    short = chunks_of(lambda chunk: {"count": 21})
    with pytest.raises(DataError, match="20 of 21 images arrived"):
        _write_set(short, data, "source", tmp_path / "out.parquet", [])


def test_parquet_as_hugging_face_writes_it_in_several_files(store, tmp_path):
    folder = tmp_path / "train"
    folder.mkdir()
    features = b'{"info": {"features": {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}}}'
    for number in range(2):
        rows = range(number * 10, number * 10 + 10)
        images = [{"bytes": encoded(flat_image(row), "PNG"), "path": f"{row}.png"} for row in rows]
        table = pa.table({"image": images, "label": [row % 2 for row in rows]})
        name = folder / f"train-{number}.parquet"
        pq.write_table(table.replace_schema_metadata({b"huggingface": features}), name)
    splits = load_splits(parquet_config(store, folder, folder / "train-0.parquet"), seed=0)
    assert splits.class_names == ("cat", "dog")
    assert sum(len(part) for part in (splits.train, splits.fit, splits.select)) == 20
    assert splits.test.labels.tolist() == [0, 1] * 5


def test_image_folder_of_png_and_jpeg(store, tmp_path):
    train = write_folders(tmp_path / "train", {"dog": 6, "cat": 5, ".hidden": 1})
    test = write_folders(tmp_path / "test", {"cat": 1, "dog": 2}, "JPEG")
    (train / "cat" / "notes.txt").write_text("no image")
    settings = {"source": "image_folder", "train": train, "test": test, "store": store, "image_size": 6}
    splits = load_splits(data_config(**settings, validation_size=4, select_fraction=0.5), seed=0)
    assert splits.class_names == ("cat", "dog")
    assert splits.test.labels.tolist() == [0, 1, 1]
    # .hidden/0 has the value 0, the cats 1 to 5, the dogs 6 to 11
    seen = by_first_pixel(splits.train) | by_first_pixel(splits.fit) | by_first_pixel(splits.select)
    assert seen == {value: int(value > 5) for value in range(1, 12)}
    renamed = data_config(**settings, validation_size=4, class_names=["a cat", "a dog"])
    assert load_splits(renamed, seed=0).class_names == ("a cat", "a dog")
    assert "1 names, but the images have 2 classes" in error_of(data_config(**settings, class_names=["cat"]))
    swapped = error_of(data_config(**settings, validation_size=4, class_names=["Dog", "a cat"]))
    assert "'Dog' is class 0 there, but class 1 of the images; name the classes in the order cat, dog" in swapped


def test_shifts_are_labelled_as_the_training_set(store, tmp_path):
    train = write_folders(tmp_path / "train", {"ant": 6, "bee": 6, "cat": 6})
    test = write_folders(tmp_path / "test", {"ant": 1, "bee": 1, "cat": 1})
    folders = write_folders(tmp_path / "sketches", {"bee": 2, "cat": 1})  # of some of the classes only
    rows = write_parquet(tmp_path / "noisy.parquet", [2, 0])
    settings = {"source": "image_folder", "train": train, "test": test, "store": store, "image_size": 6}
    settings |= {"validation_size": 6, "select_fraction": 0.5}
    shifts = {"sketches": folders, "noisy": rows}
    splits = load_splits(data_config(**settings, shifts=shifts), 0)
    assert {name: images.labels.tolist() for name, images in splits.shifts.items()} == {
        "sketches": [1, 1, 2],
        "noisy": [2, 0],
    }
    assert splits.shifts["sketches"].inputs[:, 0, 0, 0].tolist() == [0, 1, 2]
    assert [(record.name, record.size) for record in splits.records[-2:]] == [("sketches", 3), ("noisy", 2)]
    assert set(splits.measured()) == {"fit", "select", "test", "sketches", "noisy"}
    without = load_splits(data_config(**settings), 0)
    assert without.records == splits.records[:-2]

    def error(**shifts):
        return error_of(data_config(**settings, shifts=shifts))

    assert "data.shifts.gone: " in error(gone=tmp_path / "gone")
    write_folders(tmp_path / "other", {"beee": 1})
    assert "beee is a class that the training set does not have; did you mean 'bee'?" in error(x=tmp_path / "other")
    high = write_parquet(tmp_path / "high.parquet", [3])
    assert f"data.shifts.y: label 3 in row 0 of {high} is outside the classes 0 to 2" in error(y=high)


def test_image_folder_problems_name_the_folder(store, tmp_path):
    train = write_folders(tmp_path / "train", {"cat": 1, "dog": 1, "empty": 0})
    test = write_folders(tmp_path / "test", {"cat": 1, "dgo": 1})
    bare = tmp_path / "bare"
    bare.mkdir()

    def message(train, test):
        return error_of(data_config(source="image_folder", train=train, test=test, store=store, image_size=6))

    assert f"data.test: {test / 'dgo'} is a class that the training set does not have; did you mean 'dog'?" in message(
        train, test
    )
    assert f"images in {train / 'empty'}" in message(train, train)
    assert f"{bare} holds no class folders" in message(bare, test)
    (train / "empty").rmdir()
    assert f"images in the class folders of {bare}" in message(train, bare)
    assert f"{train / 'cat' / '0.png'} is a file" in message(train / "cat" / "0.png", test)


def cifar_copy(root: Path, classes: int, monkeypatch) -> np.ndarray:
    """A copy of CIFAR with 12 images a file in its real form on disk; returns the training images (N, 32, 32, 3)."""
    from torchvision.datasets import CIFAR10, CIFAR100

    kind = {10: CIFAR10, 100: CIFAR100}[classes]
    folder = root / kind.base_folder
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    key = "labels" if classes == 10 else "fine_labels"

    def dump(name, content):
        (folder / name).write_bytes(pickle.dumps(content))
        return [name, hashlib.md5((folder / name).read_bytes()).hexdigest()]

    train = []
    for attribute in ("train_list", "test_list"):
        files = []
        for name, _ in getattr(kind, attribute):
            pixels = rng.integers(0, 256, (12, 3 * 32 * 32), dtype=np.uint8)
            if attribute == "train_list":
                train.append(pixels)
            files.append(dump(name, {"data": pixels, key: CIFAR_LABELS[classes]}))
        monkeypatch.setattr(kind, attribute, files)
    names = [f"class_{number}" for number in range(classes)]
    filename, md5 = dump(kind.meta["filename"], {kind.meta["key"]: names})
    monkeypatch.setattr(kind, "meta", kind.meta | {"filename": filename, "md5": md5})
    return np.concatenate(train).reshape(-1, 3, 32, 32)


@pytest.mark.parametrize("classes", [10, 100])
def test_cifar_as_torchvision_keeps_it(store, tmp_path, monkeypatch, classes):
    images = cifar_copy(tmp_path / "root", classes, monkeypatch)
    data = data_config(
        source=f"cifar{classes}", root=tmp_path / "root", store=store, image_size=32, validation_size=0.5
    )
    splits = load_splits(data, seed=0)
    assert splits.class_names == tuple(f"class {number}" for number in range(classes))
    assert splits.test.labels.tolist() == CIFAR_LABELS[classes]
    order = np.random.default_rng([0, 0]).permutation(len(images))
    select = len(splits.select)
    assert np.array_equal(splits.select.inputs, images[order[:select]])
    assert np.array_equal(splits.fit.inputs, images[order[select : select + len(splits.fit)]])


@pytest.mark.parametrize("name", SOURCES)
def test_every_source_keeps_its_contract(name, store, tmp_path, monkeypatch):
    folders = {"train": tmp_path / "train", "test": tmp_path / "test"}
    match name:
        case "parquet":
            settings = {part: write_parquet(path.with_suffix(".parquet"), [0, 1] * 5) for part, path in folders.items()}
        case "image_folder":
            settings = {part: write_folders(path, {"cat": 2, "dog": 3}) for part, path in folders.items()}
        case "cifar10" | "cifar100":
            cifar_copy(tmp_path / "root", int(name.removeprefix("cifar")), monkeypatch)
            settings = {"root": tmp_path / "root"}
        case "imagenet":
            monkeypatch.setattr("pipeline.data.sources.imagenet._NUM_CLASSES", 2)
            for part in ("train", "val"):
                write_folders(tmp_path / "root" / part, {"n00": 2, "n01": 2})
            settings = {"root": tmp_path / "root"}
        case "text_table":
            tables = {part: path.with_suffix(".csv") for part, path in folders.items()}
            settings = {part: write_table(path, text=["good", "bad"], label=[1, 0]) for part, path in tables.items()}
            settings["tokenizer"] = str(write_tokenizer(tmp_path / "tokenizer"))
        case _:
            settings = {}
    check_source(SOURCES[name], data_config(source=name, store=store, image_size=8, **settings))


def test_cifar_that_cannot_be_downloaded_says_what_to_do(store, tmp_path, monkeypatch):
    def offline(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr("torchvision.datasets.cifar.download_and_extract_archive", offline)
    data = data_config(source="cifar10", root=tmp_path / "none", store=store, image_size=32)
    assert "could not be downloaded (no network); copy cifar-10-python.tar.gz there" in error_of(data)


def test_a_finished_store_is_used_again_without_ray(store, tmp_path, monkeypatch):
    train = write_parquet(tmp_path / "train.parquet", [0, 1] * 10)
    data = parquet_config(store, train, train)
    folder = prepare(data)
    monkeypatch.setitem(sys.modules, "ray", None)  # any import of ray fails
    assert prepare(data) == folder
    assert len(load_splits(data, seed=0).test) == 20


def test_changed_files_and_sizes_make_another_store(store, tmp_path):
    train = write_parquet(tmp_path / "train.parquet", [0, 1] * 10)
    data = parquet_config(store, train, train)
    first = prepare(data)
    assert prepare(data.model_copy(update={"image_size": 5})) != first
    write_parquet(train, [1, 0] * 10)
    second = prepare(data)
    assert second != first
    assert load_splits(data, seed=0).test.labels.tolist() == [1, 0] * 10


def test_half_written_stores_are_made_again_and_failures_leave_none(store, tmp_path, monkeypatch):
    train = write_parquet(tmp_path / "train.parquet", [0, 1] * 10)
    data = parquet_config(store, train, train)
    folder = prepare(data)
    (folder / "prepared.json").unlink()
    (folder / "train.parquet").write_bytes(b"half")
    folder.with_name(f"{folder.name}.partial").mkdir()
    assert prepare(data) == folder
    assert len(load_splits(data, seed=0).test) == 20

    shutil.rmtree(store)

    def killed(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr("pipeline.data.preparation.write_marker", killed)
    with pytest.raises(KeyboardInterrupt):
        prepare(data)
    assert [entry.suffix for entry in store.iterdir()] == [".lock"]


def test_two_that_prepare_the_same_images_at_once_do_it_once(store, tmp_path, monkeypatch):
    from pipeline.data import preparation

    made = []
    make = preparation._make
    monkeypatch.setattr(preparation, "_make", lambda *args: (made.append(args), make(*args)))
    train = write_parquet(tmp_path / "train.parquet", [0, 1] * 10)
    with ThreadPoolExecutor(2) as pool:
        folders = list(pool.map(prepare, [parquet_config(store, train, train)] * 2))
    assert folders[0] == folders[1]
    assert len(made) == 1


def test_unreadable_images_are_counted_and_the_first_named(store, tmp_path):
    images = [encoded(flat_image(row)) for row in range(20)]
    images[3], images[7], images[11], images[12] = b"no image", None, images[11][:40], b""
    train = write_parquet(tmp_path / "train.parquet", [0, 1] * 10, images)
    message = error_of(parquet_config(store, train, train))
    assert "source 'parquet': 4 of 20 images cannot be used" in message
    assert f"{train}, row 3: cannot identify image file; {train}, row 7: no image; {train}, row 11: " in message
    assert "row 12" not in message
    assert [entry.suffix for entry in store.iterdir()] == [".lock"]


def test_unreadable_image_files_are_named(store, tmp_path):
    train = write_folders(tmp_path / "train", {"cat": 3, "dog": 3})
    (train / "dog" / "1.png").write_bytes(b"no image")
    settings = {"source": "image_folder", "store": store, "image_size": 6, "validation_size": 2, "select_fraction": 0}
    message = error_of(data_config(**settings, train=train, test=train))
    assert f"1 of 6 images cannot be used ({train / 'dog' / '1.png'}: cannot identify image file" in message
    message = error_of(data_config(**settings, max_pixels=5, train=train, test=train))
    assert f"6 of 6 images cannot be used ({train / 'cat' / '0.png'}: it has more than 5 pixels; " in message
    assert message.endswith("PPM of at most 5 pixels, or as data.max_pixels says)")


def test_labels_outside_the_classes_are_named(store, tmp_path):
    def parquet(name, labels):
        return write_parquet(tmp_path / f"{name}.parquet", labels)

    good = parquet("good", [0, 1, 2, 3, 4] * 4)
    negative = parquet("negative", [0, 1, -1, 1, -2] * 4)
    message = error_of(parquet_config(store, negative, good))
    assert f"data.train: label -1 in row 2 of {negative} is outside the classes" in message
    assert "(8 such rows)" in message
    message = error_of(parquet_config(store, good, good, class_names=["a", "b", "c"]))
    assert f"data.train: label 3 in row 3 of {good} is outside the classes 0 to 2" in message
    unknown = parquet("unknown", [0, 7])
    assert f"data.test: label 7 in row 1 of {unknown} does not occur in {good}" in error_of(
        parquet_config(store, good, unknown)
    )
    ids = parquet("ids", [10**12, 0] * 10)
    assert f"label {10**12} in row 0" in error_of(parquet_config(store, ids, good))
    none = parquet("none", [0, None] * 10)
    assert f"10 of 20 images cannot be used ({none}, row 1: no label" in error_of(parquet_config(store, none, good))


def test_what_counts_and_labels_tell_is_said_before_anything_is_prepared(store, tmp_path, caplog, monkeypatch):
    one = write_folders(tmp_path / "one", {"cat": 20})
    two = write_folders(tmp_path / "two", {"cat": 20, "dog": 4})
    settings = {"source": "image_folder", "store": store, "image_size": 6}

    def error(**more):
        return error_of(data_config(**(settings | {"train": two, "test": two} | more)))

    assert f"data.train: all images of {one} are of one class ('cat')" in error(train=one, test=one)
    assert "'Dog' is class 0 there, but class 1 of the images" in error(class_names=["Dog", "Cat"])
    message = error(pretrain_size=30)
    assert "more than the 24 images there are to cut from (pretrain 30, train -8, fit 2, select 0)" in message
    assert message.endswith("lower data.pretrain_size (30) or data.validation_size (0.1)")
    assert {entry.suffix for entry in store.iterdir()} == {".lock"}
    monkeypatch.setattr("pipeline.data.preparation._write", _stop)
    with pytest.raises(RuntimeError, match="stop here"):
        load_splits(data_config(**settings, train=two, test=one, validation_size=5), seed=0)
    assert "data: no test images of 1 of 2 classes (dog)" in caplog.text


def _stop(*args):
    raise RuntimeError("stop here")


def test_the_same_images_in_train_and_test_are_said_whenever_they_are_used(store, tmp_path, caplog):
    train = write_folders(tmp_path / "train", {"cat": 10, "dog": 10})
    test = write_folders(tmp_path / "test", {"cat": 1, "dog": 1})  # cat/0 has the pixels of that of the training set
    (test / "dog" / "0.png").write_bytes(encoded(flat_image(99)))
    (test / "dog" / "1.bmp").write_bytes(encoded(flat_image(13), "BMP"))
    (train / "cat" / "again.png").write_bytes(encoded(flat_image(3)))
    settings = {"source": "image_folder", "store": store, "image_size": 6, "validation_size": 5}
    data = data_config(**settings, train=train, test=test)
    for _ in range(2):
        caplog.clear()
        load_splits(data, seed=0)
        assert caplog.text.count("data: 2 of 3 test images are in the training set too, with the same pixels") == 1
        assert f"({test / 'cat' / '0.png'}, {test / 'dog' / '1.bmp'}); test accuracies" in caplog.text
        assert caplog.text.count("data: 1 of 21 training images are there twice, with the same pixels") == 1
    caplog.clear()
    for name in ("cat/0.png", "dog/1.bmp"):
        (test / name).write_bytes(encoded(flat_image(100 + len(name))))
    (train / "cat" / "again.png").unlink()
    load_splits(data, seed=0)
    assert caplog.text.count("same pixels") == 0


def test_stores_stay_where_decoding_changes_nothing(store, tmp_path, monkeypatch):
    digits = data_config(source="digits", store=store, image_size=8, test_size=100)
    key = hashlib.sha256(json.dumps([1, "digits", 8, "scikit-learn's digits"]).encode()).hexdigest()[:16]
    folder = prepare(digits)
    assert folder.name == f"digits-8-{key}"
    # As an older version left it.
    marker = json.loads((folder / "prepared.json").read_text())
    old = {name: marker[name] for name in ("num_train", "num_test", "class_names", "folder_names")}
    (folder / "prepared.json").write_text(json.dumps(old))
    assert {record.images_sha256 for record in load_splits(digits, seed=0).records} == {None}
    train = write_parquet(tmp_path / "train.parquet", [0, 1] * 10)
    before = prepare(parquet_config(store, train, train))
    monkeypatch.setitem(KINDS, "images", dataclasses.replace(KINDS["images"], version=3))
    assert prepare(digits) == folder
    assert prepare(parquet_config(store, train, train)) != before


def test_digests_tell_whether_labels_or_pixels_changed(store, tmp_path):
    labels, images = [0, 1] * 10, [encoded(flat_image(row)) for row in range(20)]

    def digests(labels, images, form):
        path = write_parquet(tmp_path / "train.parquet", labels, images, row_group_size=form)
        return {record.images_sha256 for record in load_splits(parquet_config(store, path, path), seed=0).records}

    first = digests(labels, images, 20)
    assert len(first) == 1
    assert None not in first
    assert digests(labels, images, 3) == first
    assert digests([1, 0] * 10, images, 20) != first
    assert digests(labels, images[1:] + images[:1], 20) != first


def test_bad_parquet_files_are_named(store, tmp_path):
    good = write_parquet(tmp_path / "good.parquet", [0, 1] * 10)

    def message(train):
        return error_of(parquet_config(store, train, good))

    def table(**columns):
        pq.write_table(pa.table(columns), tmp_path / "bad.parquet")
        return tmp_path / "bad.parquet"

    assert f"data.train: {tmp_path / 'gone'} does not exist" in message(tmp_path / "gone")
    (tmp_path / "text").write_text("no table")
    assert f"data.train: {tmp_path / 'text'} cannot be read as a Parquet file" in message(tmp_path / "text")
    (tmp_path / "folder").mkdir()
    assert f"data.train: no .parquet files in {tmp_path / 'folder'}" in message(tmp_path / "folder")
    assert "has no column 'image'; set data.image_column, did you mean 'images'?" in message(
        table(images=[b""], label=[0])
    )
    assert "has no column 'label'" in message(table(image=[b""], target=[0]))
    assert "column 'image' of" in message(table(image=["text"], label=[0]))
    assert "column 'label' of" in message(table(image=[b""], label=[0.5]))
    assert "has no rows" in message(table(image=pa.array([], pa.binary()), label=pa.array([], pa.int64())))


def test_a_store_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    data = data_config(source="digits", store=tmp_path / "file" / "store", image_size=8, test_size=100)
    assert f"{tmp_path / 'file' / 'store'}: Not a directory" in error_of(data)


def test_decode_resizes_the_shorter_side_and_keeps_the_centre():
    # thirds of red, green, blue: the centre square of a 3:1 image is the green one
    wide = np.zeros((20, 60, 3), dtype=np.uint8)
    for third in range(3):
        wide[:, third * 20 : third * 20 + 20, third] = 200
    result = decode(encoded(wide), 8)
    assert result.shape == (3, 8, 8)
    assert result[:, 4, 4].tolist() == [0, 200, 0]
    assert decode(encoded(wide.transpose(1, 0, 2)), 8)[:, 4, 4].tolist() == [0, 200, 0]
    stripes = np.zeros((400, 400, 3), dtype=np.uint8)
    stripes[::2] = 255
    assert np.abs(decode(stripes, 100).astype(int) - 128).max() < 16  # antialiased, not picked


def test_decode_takes_every_common_kind_of_image(tmp_path):
    grey = np.tile(np.arange(0, 256, 16, dtype=np.uint8), (16, 1))
    expected = np.stack([grey] * 3)
    assert np.array_equal(decode(encoded(grey), 16), expected)
    assert np.array_equal(decode(encoded(grey.astype(np.uint16) * 257), 16), expected)
    rgba = np.dstack([grey, grey, grey, np.full_like(grey, 255)])
    assert np.array_equal(decode(encoded(rgba), 16), expected)
    path = tmp_path / "palette.png"
    Image.fromarray(grey).convert("P").save(path)
    assert np.array_equal(decode(path, 16), expected)
    Image.fromarray(grey).convert("CMYK").save(tmp_path / "cmyk.jpg", quality=100)
    assert np.abs(decode(tmp_path / "cmyk.jpg", 16).astype(int) - expected).max() < 12


def test_imagenet_as_its_archives_unpack(tmp_path, store):
    root = tmp_path / "imagenet"
    for number in range(1000):
        for part, count in (("train", 1), ("val", 1)):
            folder = root / part / f"n{number:08d}"
            folder.mkdir(parents=True)
            for image in range(count):
                Image.fromarray(flat_image(number % 256, (4, 4))).save(folder / f"{number}_{image}.JPEG")
    data = data_config(source="imagenet", root=root, store=store, image_size=4, validation_size=0.1)
    splits = load_splits(data, seed=0)
    assert (len(splits.train), len(splits.test)) == (900, 1000)
    assert splits.class_names[:2] == ("tench", "goldfish")
    assert splits.test.labels.tolist() == list(range(1000))
    for part in ("train", "val"):
        shutil.rmtree(root / part / "n00000007")
    assert "has 999 class folders, ImageNet has 1000" in error_of(data)
    shutil.rmtree(root / "val")
    assert f"data.root: {root} has no folder 'val'" in error_of(data)
