"""The stand-in for a CUDA device, on which other tests rest."""

import copy
import threading

import pytest
import torch
import torchvision
from standin import standin
from torch import nn
from torch.nn import functional as F


def _vit():
    torch.manual_seed(0)
    return torchvision.models.VisionTransformer(16, 8, 2, 2, 16, 32, num_classes=5)


def _resnet():
    torch.manual_seed(0)
    return torchvision.models.resnet18(num_classes=5)


def _trained(make, device, lower=False):
    model = make().to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    images = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(1)).to(device)
    labels = torch.arange(4).to(device)
    for _ in range(2):
        with torch.autocast(device, torch.bfloat16, enabled=lower):
            logits = model(images)
        optimizer.zero_grad()
        F.cross_entropy(logits.float(), labels).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return model, logits


@pytest.mark.parametrize(("make", "lower"), [(_vit, False), (_vit, True), (_resnet, False)])
def test_training_gives_the_numbers_of_the_cpu(make, lower):
    expected, _ = _trained(make, "cpu", lower)
    with standin() as log:
        model, logits = _trained(make, "cuda", lower)
        assert model(torch.zeros(2, 3, 16, 16, device="cuda")).device == torch.device("cuda:0")
        assert logits.dtype == (torch.bfloat16 if lower else torch.float32)
        assert log.by_op["_foreach_mul_"]
        assert not log.by_op["mul_"]
        weights = [parameter.cpu() for parameter in model.parameters()]
    torch.testing.assert_close(weights, list(expected.parameters()), rtol=0, atol=0)


def test_inference_and_gradients_of_given_tensors():
    with standin():
        weights = torch.ones(3, device="cuda", requires_grad=True)
        (gradient,) = torch.autograd.grad((weights * torch.arange(3, device="cuda")).sum(), weights)
        assert gradient.is_cuda
        assert gradient.tolist() == [0, 1, 2]
        model = copy.deepcopy(_vit().to("cuda")).eval()
        images = torch.zeros(2, 3, 16, 16)
        with torch.inference_mode():
            logits = model(images.to("cuda")).cpu()
    torch.testing.assert_close(logits, _vit().eval()(images), rtol=0, atol=0)


def test_tensors_of_both_devices_do_not_mix_but_for_scalars():
    with standin() as log:
        ours, host = torch.ones(3, device="cuda"), torch.ones(3)
        assert (ours + torch.tensor(2.0)).tolist() == [3, 3, 3]
        for mix in (lambda: ours + host, lambda: host.add_(ours), lambda: torch.cat([host, ours])):
            with pytest.raises(RuntimeError, match="same device"):
                mix()
        with pytest.raises(RuntimeError, match="generator"):
            torch.rand(3, device="cuda", generator=torch.Generator())
    assert len(log.errors) == 3
    assert host.tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    ("work", "waits", "to_device", "to_host"),
    [
        (lambda ours, host: ours.sum().item(), 1, (0, 0), (0, 0)),
        (lambda ours, host: bool((ours > 2).any()), 1, (0, 0), (0, 0)),
        (lambda ours, host: ours.nonzero(), 1, (0, 0), (0, 0)),
        (lambda ours, host: ours[ours > 2], 1, (0, 0), (0, 0)),
        (lambda ours, host: ours[[0, 2]], 1, (1, 16), (0, 0)),
        (lambda ours, host: ours[torch.tensor([0, 2])], 1, (1, 16), (0, 0)),
        (lambda ours, host: ours[torch.tensor([0, 2], device="cuda")], 1, (1, 16), (0, 0)),
        (lambda ours, host: ours[1:3] * 2, 0, (0, 0), (0, 0)),
        (lambda ours, host: F.one_hot(ours.long(), 4), 0, (0, 0), (0, 0)),
        (lambda ours, host: host.to("cuda"), 1, (1, 16), (0, 0)),
        (lambda ours, host: host.to("cuda", non_blocking=True), 1, (1, 16), (0, 0)),
        (lambda ours, host: host.pin_memory().to("cuda", non_blocking=True), 0, (1, 16), (0, 0)),
        (lambda ours, host: ours.copy_(torch.empty(4, pin_memory=True), non_blocking=True), 0, (1, 16), (0, 0)),
        (lambda ours, host: ours.cpu(), 1, (0, 0), (1, 16)),
        (lambda ours, host: host.copy_(ours, non_blocking=True), 1, (0, 0), (1, 16)),
        (lambda ours, host: ours.to("cpu", non_blocking=True), 0, (0, 0), (1, 16)),
        (lambda ours, host: ours.to("cuda").cuda(), 0, (0, 0), (0, 0)),
        (lambda ours, host: torch.cuda.synchronize(), 1, (0, 0), (0, 0)),
    ],
)
def test_waits_and_copies_are_counted(work, waits, to_device, to_host):
    with standin() as log:
        ours, host = torch.arange(4.0).to("cuda"), torch.arange(4.0)
        log.reset()
        work(ours, host)
        assert (len(log.syncs), log.to_device, log.to_host) == (waits, to_device, to_host), log.syncs


def test_launches_bytes_and_memory_are_counted():
    size = 4 * 1000
    with standin(memory=10 * size) as log:
        flat = torch.zeros(1000, device="cuda")
        log.reset()
        total = torch.add(flat, flat, out=torch.empty_like(flat))
        total.mul_(2)
        view = flat[:10].view(2, 5).t()
        assert log.launches == 2
        assert log.by_op == {"add": 1, "mul_": 1}
        assert log.bytes_moved == (1 + 1) * size + (1 + 1) * size  # operands once each, what changes in place twice
        assert log.live_bytes == log.peak_bytes == 2 * size
        del total
        assert log.live_bytes == size
        assert torch.cuda.max_memory_allocated() == 2 * size
        torch._foreach_add_([flat[:500], flat[500:]], 1)
        assert log.launches == 3
        parameter = nn.Parameter(torch.ones(5, 2, device="cuda"))
        parameter.data = view
        view.fill_(7)
        assert parameter[0].tolist() == flat[:10:5].tolist() == [7, 7]
        with pytest.raises(torch.OutOfMemoryError, match="out of memory"):
            flat.expand(10, 1000).clone()
    assert not torch.cuda.is_available()


def test_a_thread_sees_the_device_and_its_waits_hold_nobody_up():
    seen = []
    with standin() as log:
        thread = threading.Thread(target=lambda: seen.append(torch.ones(3).to("cuda").sum().item()))
        thread.start()
        thread.join()
    assert seen == [3]
    assert log.to_device == (1, 12)
    assert not log.syncs


def test_copies_on_another_stream_are_late():
    with standin() as log:
        pinned, ours = torch.ones(3, pin_memory=True), torch.zeros(3, device="cuda")
        stream, copied = torch.cuda.Stream(), torch.cuda.Event(enable_timing=True)
        begun = torch.cuda.Event(enable_timing=True)
        begun.record()
        for wait in (
            lambda: torch.cuda.current_stream().wait_event(copied),
            copied.synchronize,
            stream.synchronize,
            torch.cuda.synchronize,
        ):
            ours.zero_()
            with torch.cuda.stream(stream):
                ours.copy_(pinned, non_blocking=True)
                copied.record()
            assert not copied.query()
            assert ours.tolist() == [0, 0, 0]
            wait()
            assert copied.query()
            assert ours.tolist() == [1, 1, 1]
        assert begun.elapsed_time(copied) > 0
        assert (log.to_device, log.pageable) == ((4, 48), 0)
        torch.ones(2).to("cuda")
        assert log.pageable == 1
