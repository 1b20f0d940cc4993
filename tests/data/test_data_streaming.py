"""Training images that are streamed from the store, against the same images in memory."""

import itertools
from contextlib import closing

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
import torch
import torch.distributed.tensor
from data_samples import data_config
from standin import standin

from pipeline.data import ExampleSet, StreamedExamples, load_splits
from pipeline.data.kinds import Form
from pipeline.data.store import column_of, read_rows, schema
from pipeline.soups.feeding import Feed, Rows

SIZE, COUNT, GROUP = 4, 100, 9
FORM = Form("image", (3, SIZE, SIZE), "uint8")


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """Images that are their own number, ten classes one after the other, in row groups of nine."""
    images = np.broadcast_to(np.arange(COUNT, dtype=np.uint8)[:, None, None, None], (COUNT, 3, SIZE, SIZE))
    labels = np.arange(COUNT) // 10
    table = pa.table([np.arange(COUNT), labels, column_of(images)], schema=schema(FORM))
    found = tmp_path_factory.mktemp("store") / "train.parquet"
    pq.write_table(table, found, row_group_size=GROUP)
    return found


@pytest.fixture(scope="module")
def rows():
    return np.random.default_rng(0).permutation(COUNT)[:67]


@pytest.fixture(scope="module")
def streamed(path, rows):
    return StreamedExamples(path, FORM, rows)


def numbers(batches):
    found = []
    for images, labels in batches:
        assert images.dtype == torch.uint8
        assert images.shape[1:] == (3, SIZE, SIZE)
        assert labels.dtype == torch.int64
        assert torch.equal(labels, images[:, 0, 0, 0] // 10)
        found.append(images[:, 0, 0, 0].tolist())
    return found


def flat(batches):
    return list(itertools.chain(*batches))


def test_an_epoch_has_every_image_once_in_an_order_of_its_seed(local_ray, streamed, rows):
    first, again, other = (numbers(streamed.epoch(16, seed)) for seed in (1, 1, 2))
    assert first == again
    assert first != other
    assert sorted(flat(first)) == sorted(flat(other)) == sorted(rows.tolist())
    assert [len(batch) for batch in first] == [14, 14, 14, 14, 11]  # not 16, 16, 16, 16, 3
    neighbours = sum(abs(a - b) == 1 for a, b in itertools.pairwise(flat(first)))
    assert neighbours < 10, "batches are drawn across row groups"


def test_a_thread_that_feeds_a_gpu_gets_the_same_batches(local_ray, streamed):
    expected = numbers(streamed.epoch(16, 1))
    with standin() as log:
        fed = [images[:, 0, 0, 0].tolist() for images, _ in Feed(streamed.epoch(16, 1, Rows), "cuda")]
        assert (log.to_device[0], log.pageable) == (len(expected), 0)
        with closing(iter(Feed(streamed.epoch(16, 1, Rows), "cuda"))) as left:
            next(left)
    assert fed == expected


def test_a_last_image_alone_is_left_out(local_ray, path):
    epoch = numbers(StreamedExamples(path, FORM, np.arange(10)).epoch(3, seed=0))
    assert [len(batch) for batch in epoch] == [3, 3, 3]


def test_as_many_steps_as_in_memory(local_ray, path, streamed, rows):
    (in_memory,) = read_rows(path, FORM, [rows])
    for batch_size in (5, 16, 67, 100):
        steps = len(numbers(in_memory.epoch(batch_size, 0)))
        assert len(numbers(streamed.epoch(batch_size, 0))) == steps


def test_in_order_and_as_a_sample(local_ray, streamed, rows):
    assert flat(numbers(streamed.ordered(4))) == sorted(rows.tolist())
    assert max(map(len, numbers(streamed.ordered(4)))) == 4
    sample = streamed.sample(20)[:, 0, 0, 0]
    assert len(set(sample.tolist()) & set(rows.tolist())) == 20
    assert torch.equal(sample, streamed.sample(20)[:, 0, 0, 0])
    assert len(set((sample // 10).tolist())) > 3, "neighbours in the file are of one class"
    assert len(streamed.sample(1000)) == len(streamed) == 67


@pytest.mark.timeout(120)
def test_trials_that_hold_all_cores_do_not_starve_the_readers(local_ray, streamed, rows):
    @ray.remote(num_cpus=1)
    def trial(images, seed):
        return sorted(int(image[0, 0, 0]) for batch, _ in images.epoch(16, seed) for image in batch)

    assert ray.get([trial.remote(streamed, seed) for seed in (0, 1)]) == [sorted(rows.tolist())] * 2


def test_the_size_decides(local_ray, tmp_path):
    settings = {"source": "digits", "image_size": 8, "test_size": 100, "store": tmp_path}
    size = len(load_splits(data_config(**settings), 0).train) * 3 * 8 * 8
    assert isinstance(load_splits(data_config(**settings), 0, memory_bytes=size).train, ExampleSet)
    splits = load_splits(data_config(**settings), 0, memory_bytes=size - 1)
    assert isinstance(splits.train, StreamedExamples)
    given = load_splits(data_config(**settings, memory_gib=size / 2**30), 0, memory_bytes=0)
    assert isinstance(given.train, ExampleSet), "what the settings say comes first"
    order = np.lexsort(given.train.inputs.reshape(len(given.train), -1).T)
    there = torch.cat([images for images, _ in splits.train.ordered(256)]).numpy()
    assert (there[np.lexsort(there.reshape(len(there), -1).T)] == given.train.inputs[order]).all()
    assert splits.records == given.records
