"""Batches on their way to a device: in line for a CPU, by a thread and pinned memory for the stand-in of a GPU."""

import gc
import threading
import time
from contextlib import closing
from typing import NamedTuple

import pytest
import torch
import torch.distributed.tensor
from standin import standin

from pipeline.soups.feeding import Feed, Rows
from pipeline.soups.streaming import on_device

IMAGES = torch.arange(60, dtype=torch.uint8).view(10, 2, 3)
LABELS = torch.arange(10)


class Drawn(NamedTuple):
    shares: torch.Tensor
    sizes: tuple[int, ...]


def batches(count=6):
    """The last is the largest; `None` and numbers are no tensors."""
    for number in range(count):
        index = torch.arange(number % 3 + 1) + number
        yield Rows(IMAGES, index), LABELS[index[0] : index[0] + 1], Drawn(torch.rand(0) + 1, (number, 7)), None


def expected(number):
    index = torch.arange(number % 3 + 1) + number
    return IMAGES[index], LABELS[number : number + 1], Drawn(torch.ones(0), (number, 7)), None


def assert_is(batch, number):
    images, labels, drawn, nothing = batch
    right = expected(number)
    assert torch.equal(images.cpu(), right[0])
    assert torch.equal(labels.cpu(), right[1])
    assert (drawn.shares.shape, drawn.sizes, nothing) == ((0,), (number, 7), None)


@pytest.fixture
def alone():
    """No thread is there afterwards that was not there before."""
    before = threading.active_count()
    yield
    gc.collect()
    assert threading.active_count() <= before  # one of an earlier test may have ended meanwhile


def test_on_a_cpu_batches_are_gathered_in_line(alone):
    for number, batch in enumerate(Feed(batches(), "cpu")):
        assert_is(batch, number)
    assert number == 5


def test_for_a_gpu_each_batch_is_one_copy_that_nobody_waits_for(alone):
    with standin() as log:
        for number, batch in enumerate(Feed(batches(), "cuda")):
            assert batch[0].is_cuda
            assert batch[2].shares.is_cuda
            assert (log.syncs, log.pageable) == ([], 0)
            assert_is(batch, number)
            log.reset()
        assert number == 5


def test_a_batch_stays_while_the_next_one_comes_and_no_more_are_read_ahead(alone):
    read = []

    def source():
        for number, batch in enumerate(batches()):
            read.append(number)
            yield batch

    with standin():
        for number, batch in enumerate(Feed(source(), "cuda")):
            while len(read) < min(number + 2, 6):
                time.sleep(0.001)
            time.sleep(0.01)
            assert len(read) == min(number + 2, 6)
            assert_is(batch, number)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("after", [0, 1, 3])
def test_what_is_raised_where_batches_are_made_is_raised_where_they_are_used(alone, device, after):
    def source():
        yield from batches(after)
        raise ValueError("no such image")

    with standin():
        came = []
        with pytest.raises(ValueError, match="no such image"):
            came.extend(batch[2].sizes[0] for batch in Feed(source(), device))
        assert came == list(range(after))


def test_where_the_iteration_is_left_the_thread_and_the_buffers_go(alone):
    with standin() as log:
        before = log.live_bytes
        assert_is(next(iter(Feed(batches(), "cuda"))), 0)
        with closing(iter(Feed(batches(), "cuda"))) as fed:
            next(fed)
            assert [thread for thread in threading.enumerate() if thread.name.startswith("feed")]
        assert not [thread for thread in threading.enumerate() if thread.name.startswith("feed")]
        gc.collect()
        assert log.live_bytes == before


def test_only_the_time_without_a_batch_is_waiting(alone):
    pause = 0.05

    def slow():
        for batch in batches(4):
            time.sleep(pause)
            yield batch

    with standin():
        feed = Feed(slow(), "cuda")
        for _ in feed:
            pass
        assert feed.waited_seconds > 3 * pause, "the last of the four is counted when a fifth is asked for"
        feed = Feed(batches(4), "cuda")
        for _ in feed:
            time.sleep(4 * pause)
        assert feed.waited_seconds < 4 * pause, "work is no waiting"
    feed = Feed(slow(), "cpu")
    for _ in feed:
        time.sleep(pause)
    assert 4 * pause < feed.waited_seconds


def test_tensors_of_a_file_go_the_same_way(alone):
    tensors = [torch.full((size,), float(size), dtype=torch.bfloat16) for size in (3, 1000, 7, 2000)]
    with standin() as log:
        for tensor, original in zip(on_device(iter(tensors), "cuda"), tensors, strict=True):
            assert tensor.is_cuda
            assert torch.equal(tensor.cpu(), original)
        assert log.pageable == 0
        assert log.to_device[0] == len(tensors)
