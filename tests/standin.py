"""A stand-in for a CUDA device: tensors that say they are on cuda:0, compute on the CPU, and are counted.

Code that asks `tensor.device`, `tensor.is_cuda` or `.to("cuda")` takes its GPU path, autograd, optimizers and autocast
included, and a test can say how many kernels, waits and copies that path costs where no GPU is at hand:

    with standin() as log:
        model.to("cuda")
        train_step(model)  # warm-up
        log.reset()
        train_step(model)
    assert not log.syncs and log.launches < 300

How it works. A `StandIn` is a tensor over memory of the host whose dispatch keys and whose device, as C++ sees it, are
those of a backend without kernels ("PrivateUse1"; the "CUDA" of a build for GPUs refuses without a driver). Every
operation therefore ends in Python, below autograd: `_Mode` unwraps the arguments, computes on the CPU, wraps the result
and counts. Views share memory with their base as ever. What the numbers mean is said at `Log`.

Copies to the device on a stream other than the default one are made when an event behind them, or the stream, is waited
for: memory of the host that is filled anew too early, and work that does not wait for its data, give wrong numbers.

What it cannot show: the results of CUDA's own kernels and generators, other races between streams, CUDA graphs,
compiled code. An operation counts as one launch, though some (a convolution with a bias) are two or three. Attention
counts as fused, as on a GPU. It is for machines without a GPU, and skips the test on others.
"""

from __future__ import annotations

import math
import threading
import time
import types
import weakref
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from importlib import import_module
from typing import Any
from unittest import mock

import pytest
import torch
from torch.nn import functional as F
from torch.utils import _foreach_utils, backend_registration
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

CUDA = torch.device("cuda", 0)
_NAME = "standin"  # of the device in C++
_aten = torch.ops.aten

# By name of the operation, without the overload. No kernel: they allocate, or change metadata.
_ALLOCATE = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "empty_permuted"}
_NO_KERNEL = _ALLOCATE | {"set_", "resize_", "resize_as_", "record_stream", "_local_scalar_dense"}
# The host waits, because the size of the result, or the result, must be known to it.
_WAIT = {
    *("_local_scalar_dense", "nonzero", "masked_select", "equal", "bincount", "_linalg_check_errors"),
    *("_unique", "_unique2", "unique_dim", "unique_consecutive"),
}
_INDEX = {"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index", "_unsafe_index_put"}
_READ_SOME = {"index", "_unsafe_index", "index_select", "gather", "embedding", "take"}  # of the first argument
_OVERWRITE = {"copy_", "zero_", "fill_", "_foreach_copy_", "_foreach_zero_"}  # without reading it
# Kernels over lists of tensors take so many tensors by number of lists, and 320 chunks of 65536 entries, per launch.
_FOREACH_TENSORS, _FOREACH_CHUNKS, _FOREACH_CHUNK = {1: 110, 2: 64, 3: 48, 4: 36, 5: 30}, 320, 65536


class Log:
    """What was done on the stand-in device since `reset`.

    Waits count for the thread that opened the stand-in alone, since only that one feeds the device: `item()`, `nonzero`
    and whatever else the host must know the result of; a boolean index; an index on the CPU (a list or a tensor; also a
    copy to the device); a copy to the device that is blocking or from pageable memory; a copy from the device that is
    blocking or into pageable memory (`.to("cpu", non_blocking=True)` pins its result); `synchronize` of the device, a
    stream or an event.
    """

    def __init__(self, memory: int) -> None:
        self.memory = memory  # bytes of the device
        self.live_bytes = 0  # of storages
        self.allocator_peak = 0  # since torch.cuda.reset_peak_memory_stats
        self._lock, self._thread = threading.Lock(), threading.get_ident()
        self.reset()

    def reset(self) -> None:
        """Begin anew; what is allocated stays."""
        self.by_op: Counter[str] = Counter()  # launches
        self.bytes_moved = 0  # that launches read and write; an operand counts once, and once more if it is changed
        self.syncs: list[str] = []  # why the host waited
        self.to_device, self.to_host = (0, 0), (0, 0)  # copies and their bytes
        self.pageable = 0  # of those to the device, how many were from pageable memory
        self.peak_bytes = self.live_bytes  # of storages alive at a time
        self.errors: list[str] = []  # operations on tensors of both devices; they raise too

    @property
    def launches(self) -> int:
        """Operations that compute: no views, allocations, or copies between host and device."""
        return self.by_op.total()

    def _wait(self, why: str) -> None:
        if threading.get_ident() == self._thread:
            self.syncs.append(why)

    def _copy(self, name: str, source: torch.Tensor, *, to_device: bool, waits: bool) -> None:
        copies, size = self.to_device if to_device else self.to_host
        total = (copies + 1, size + source.numel() * source.element_size())
        if to_device:
            self.to_device = total
            self.pageable += not _is_pinned(source)
        else:
            self.to_host = total
        if waits:
            self._wait(f"{name}: copy {'to' if to_device else 'from'} the device")

    def _allocated(self, storage: torch.UntypedStorage) -> None:
        size = storage.nbytes()
        with self._lock:
            if self.live_bytes + size > self.memory:
                raise torch.OutOfMemoryError(
                    f"CUDA out of memory. Tried to allocate {size / 2**20:.2f} MiB. GPU 0 has a total capacity of "
                    f"{self.memory / 2**30:.2f} GiB of which {(self.memory - self.live_bytes) / 2**20:.2f} MiB is free."
                )
            self.live_bytes += size
            self.peak_bytes = max(self.peak_bytes, self.live_bytes)
            self.allocator_peak = max(self.allocator_peak, self.live_bytes)
        weakref.finalize(storage, self._freed, size)

    def _freed(self, size: int) -> None:
        self.live_bytes -= size  # without the lock: the garbage collector may run this inside `_allocated`

    def _reset_allocator_peak(self) -> None:
        self.allocator_peak = self.live_bytes


class StandIn(torch.Tensor):
    """A tensor that says that it is on cuda:0; see the module."""

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        if func is torch.ops.prim.device.default:
            return torch.device(_NAME, 0)
        with _Mode(_log or Log(2**62)):  # a thread of C++'s, or the stand-in is closed
            return func(*args, **(kwargs or {}))

    device = property(lambda self: CUDA)
    is_cuda = property(lambda self: True)

    def get_device(self):
        return 0

    def to(self, *args, **kwargs):
        # C++ knows the device by another name, and would copy.
        def renamed(value):
            return torch.device(_NAME, 0) if _is_cuda(value) else value

        return super().to(*map(renamed, args), **{name: renamed(value) for name, value in kwargs.items()})

    def cuda(self, *args, **kwargs):
        return self

    def tolist(self):
        return self.cpu().tolist()

    def record_stream(self, stream):
        pass

    def __repr__(self):
        return f"StandIn({_plain(self)})"

    def __deepcopy__(self, memo):
        copy = self.detach().clone().requires_grad_(self.requires_grad)
        copy.__dict__.update(self.__dict__)  # it may be an nn.Parameter
        memo[id(self)] = copy
        return copy

    def __reduce_ex__(self, protocol):  # loaded, it is on the CPU
        return self.cpu().__reduce_ex__(protocol)


@contextmanager
def standin(memory: int = 80 * 2**30) -> Iterator[Log]:
    """Inside, "cuda" is the stand-in device, with ``memory`` bytes; more are refused as CUDA does. See `Log`."""
    global _log
    if torch.cuda.is_available():
        pytest.skip("the stand-in device is for machines without a GPU")
    _set_up()
    log = Log(memory)
    run_thread = threading.Thread.run

    def run(thread):  # modes are a thread's own
        with _Mode(log), torch.autograd.set_multithreading_enabled(False):
            run_thread(thread)

    with ExitStack() as stack:
        for name, value in _cuda_functions(log).items():
            stack.enter_context(mock.patch.object(torch.cuda, name, value))
        for owner, name, value in (
            (torch, "Generator", _generator),
            (torch, "autocast", _Autocast),
            (F, "scaled_dot_product_attention", _attention),
            (threading.Thread, "run", run),
            (
                import_module("torch.optim.optimizer"),
                "_foreach_supported_types",
                [torch.Tensor, torch.nn.Parameter, StandIn],
            ),
            (_foreach_utils, "_foreach_supported_types", [torch.Tensor, StandIn]),
        ):
            stack.enter_context(mock.patch.object(owner, name, value))
        stack.enter_context(torch.autograd.set_multithreading_enabled(False))  # engine threads are for devices of C++'s
        # Data of Python's reaches the device by an operation that we see.
        stack.callback(torch._C._set_only_lift_cpu_tensors, torch._C._only_lift_cpu_tensors())
        torch._C._set_only_lift_cpu_tensors(True)
        stack.enter_context(_Mode(log))
        stack.enter_context(mock.patch.dict(globals(), _log=log))
        yield log


_log: Log | None = None  # of the stand-in that is open
_sizes: dict[int, int] = {}  # of storages on the device that are alive, by address of the object in C++
_pinned: set[int] = set()  # storages likewise


class _Mode(TorchDispatchMode):
    def __init__(self, log: Log) -> None:
        super().__init__()
        self.log = log

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if func is torch.ops.prim.device.default:
            return torch.device(_NAME, 0)
        if torch.is_inference_mode_enabled() and func._can_decompose():  # else autograd has done it
            with self:
                return func.decompose(*args, **kwargs)
        name = func._schema.name.removeprefix("aten::")
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        ours = [tensor for tensor in tensors if isinstance(tensor, StandIn)]
        if name == "scalar_tensor" and kwargs.get("device") == torch.device(_NAME, 0):
            kwargs["device"] = torch.device("cpu")  # of C++'s: for CUDA it leaves `x[i] = 1` a number of the host's
        to_cuda, to_cpu = _is_cuda(kwargs.get("device")), _is_cpu(kwargs.get("device"))
        if not ours and not to_cuda:
            return _on_host(name, func, args, kwargs)
        self._check(name, func, args, kwargs, tensors)
        if to_cuda:
            kwargs["device"] = torch.device("cpu")
        self._before(name, func, args, kwargs, ours, to_cuda=to_cuda, to_cpu=to_cpu)
        if to_cpu or (name in _OVERWRITE and not isinstance(tree_leaves(args)[0], StandIn)):
            args, kwargs = tree_map_only(StandIn, _plain, (args, kwargs))
            result = func(*args, **kwargs)
            return _pin(result) if to_cpu and kwargs.get("non_blocking") else result
        stream = _current_stream()
        if stream is not _default_stream and name == "copy_" and not isinstance(args[1], StandIn):
            stream.copies.append(partial(_plain(args[0]).copy_, args[1]))
            return args[0]
        # Ours are no inference tensors, or views of parameters could not be ones of ours.
        with torch.inference_mode(False):
            plain = {id(tensor): _plain(tensor) for tensor in ours}
            given = tree_map_only(StandIn, lambda tensor: plain[id(tensor)], (args, kwargs))
            result = func(*given[0], **given[1])
            wrapper = {id(plain[id(tensor)]): tensor for tensor in ours}
            copied = to_cuda and name == "_to_copy" and not ours
            self._count(name, func, args, kwargs, ours, list(plain.values()), result, copied=copied)
            if func._schema.is_mutable:
                for tensor in ours:
                    _follow(tensor, plain[id(tensor)], self.log)
            return tree_map_only(
                torch.Tensor, lambda t: wrapper[id(t)] if id(t) in wrapper else _wrap(t, self.log), result
            )

    def _check(self, name, func, args, kwargs, tensors):
        """Refuse what CUDA refuses: tensors of the host beside our own, but for copies, indices and scalars."""
        generator = kwargs.get("generator")
        if generator is not None and not isinstance(generator, _Generator):
            raise RuntimeError(f"{name}: Expected a 'cuda' device type for generator but found 'cpu'")
        if name in _OVERWRITE or name in ("_to_copy", "set_"):
            return
        if name in _INDEX:
            tensors = [args[0], *args[2:3]]
        on_device = [isinstance(tensor, StandIn) for tensor in tensors]
        if any(on_device) and any(t.dim() and not ours for t, ours in zip(tensors, on_device, strict=True)):
            message = f"{func}: Expected all tensors to be on the same device, but found at least cuda:0 and cpu!"
            self.log.errors.append(message)
            raise RuntimeError(message)

    def _before(self, name, func, args, kwargs, ours, *, to_cuda, to_cpu):
        """Count copies between host and device, and waits."""
        log = self.log
        if name in _WAIT and ours:
            log._wait(name)
        if name == "repeat_interleave" and kwargs.get("output_size") is None:
            log._wait(name)
        if name in _INDEX:
            indices = [index for index in args[1] if index is not None]
            masked_fill = "put" in name and args[2].dim() == 0 and not isinstance(args[2], StandIn)
            for index in indices:
                if not isinstance(index, StandIn):
                    log._copy("index on the CPU", index, to_device=True, waits=True)
                elif index.dtype in (torch.bool, torch.uint8) and not masked_fill:
                    log._wait("boolean index")
        if name == "_to_copy":
            source = args[0]
            if to_cuda and not isinstance(source, StandIn):
                log._copy(name, source, to_device=True, waits=not (kwargs.get("non_blocking") and _is_pinned(source)))
            elif to_cpu and isinstance(source, StandIn):
                log._copy(name, source, to_device=False, waits=not kwargs.get("non_blocking"))
        if name in ("copy_", "_foreach_copy_"):
            non_blocking = kwargs.get("non_blocking", args[2] if len(args) > 2 else False)
            pairs = zip(*args[:2], strict=True) if name == "_foreach_copy_" else [args[:2]]
            for target, source in pairs:
                to_device, on_device = isinstance(target, StandIn), isinstance(source, StandIn)
                if to_device != on_device:
                    host = source if to_device else target
                    log._copy(name, source, to_device=to_device, waits=not (non_blocking and _is_pinned(host)))

    def _count(self, name, func, args, kwargs, ours, plain, result, *, copied):
        """Count the launches of an operation, and the bytes that they move."""
        mutable = func._schema.is_mutable
        if copied or name in _NO_KERNEL or (mutable and torch.Tag.inplace_view in func.tags):
            return
        if name in ("copy_", "_foreach_copy_") and not all(isinstance(t, StandIn) for t in tree_leaves(args[:2])):
            return
        results = [leaf for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)]
        addresses = {tensor.untyped_storage()._cdata for tensor in plain}
        made = [tensor for tensor in results if tensor.untyped_storage()._cdata not in addresses and tensor.numel()]
        changed = []
        if mutable:
            given = dict(zip((argument.name for argument in func._schema.arguments), args, strict=False)) | kwargs
            for argument in func._schema.arguments:
                if argument.alias_info is not None and argument.alias_info.is_write and argument.name in given:
                    changed += [t for t in tree_leaves(given[argument.name]) if isinstance(t, StandIn)]
        if not made and not changed and results:
            return  # a view
        launches = 1
        if name.startswith("_foreach"):
            lists = [a for a in args if isinstance(a, (list, tuple)) and a and isinstance(a[0], torch.Tensor)]
            depth = min(len(lists) + (not mutable), 5)
            chunks = sum(math.ceil(tensor.numel() / _FOREACH_CHUNK) for tensor in lists[0])
            launches = max(math.ceil(len(lists[0]) / _FOREACH_TENSORS[depth]), math.ceil(chunks / _FOREACH_CHUNKS), 1)
        self.log.by_op[name] += launches
        only_written = {id(t) for t in changed} if name in _OVERWRITE or func._overloadname.endswith("out") else set()
        read = {id(t): t for t in ours if id(t) not in only_written}
        if name in _READ_SOME:
            del read[id(args[0])]
            self.log.bytes_moved += sum(map(_bytes, results))
        self.log.bytes_moved += sum(map(_bytes, [*read.values(), *{id(t): t for t in changed}.values(), *made]))


def _on_host(name, func, args, kwargs):
    """An operation without tensors of ours: as ever, but that pinned memory is remembered instead of pinned."""
    if name == "is_pinned":
        return _is_pinned(args[0])
    if name == "_pin_memory":
        return _pin(args[0].clone())
    if kwargs.pop("pin_memory", False):
        return _pin(func(*args, **kwargs))
    return func(*args, **kwargs)


def _is_cuda(value: Any) -> bool:
    if isinstance(value, str):
        value = torch.device(value) if value.split(":")[0] in ("cuda", _NAME) else None
    return isinstance(value, torch.device) and value.type in ("cuda", _NAME)


def _is_cpu(value: Any) -> bool:
    return value is not None and torch.device(value).type == "cpu"


def _pin(tensor: torch.Tensor) -> torch.Tensor:
    storage = tensor.untyped_storage()
    _pinned.add(storage._cdata)
    weakref.finalize(storage, _pinned.discard, storage._cdata)
    return tensor


def _is_pinned(tensor: torch.Tensor) -> bool:
    return tensor.untyped_storage()._cdata in _pinned


def _plain(tensor: StandIn) -> torch.Tensor:
    """A tensor of the CPU over the same memory."""
    plain = torch.empty(0, dtype=tensor.dtype)
    return plain.set_(tensor.untyped_storage(), tensor.storage_offset(), tensor.size(), tensor.stride())


def _wrap(plain: torch.Tensor, log: Log) -> StandIn:
    storage = plain.untyped_storage()
    address = storage._cdata
    if address not in _sizes:
        log._allocated(storage)
        _sizes[address] = storage.nbytes()
        weakref.finalize(storage, _sizes.pop, address)
    return torch.Tensor._make_subclass(
        StandIn, plain, False, dispatch_device=True, device_for_backend_keys=torch.device(_NAME, 0)
    )


def _follow(tensor: StandIn, plain: torch.Tensor, log: Log) -> None:
    """Give ``tensor`` the memory, shape and strides of ``plain``, in case that an operation in place changed them."""

    def form(of):
        return (of.untyped_storage()._cdata, of.storage_offset(), of.size(), of.stride())

    if form(tensor) != form(plain):
        new = _wrap(plain, log)
        with torch._C._DisableTorchDispatch():
            tensor.data = new


def _bytes(tensor: torch.Tensor) -> int:
    """Of memory that is read: an expanded dimension counts once."""
    sizes = (size for size, stride in zip(tensor.size(), tensor.stride(), strict=True) if stride)
    return math.prod(sizes) * tensor.element_size() if tensor.numel() else 0


class _Generator(torch.Generator):
    """Of the stand-in device; it draws as the CPU's."""

    device = property(lambda self: CUDA)


_host_generator = torch.Generator


def _generator(device="cpu"):
    return _Generator() if _is_cuda(device) else _host_generator(device)


class _Autocast(torch.autocast):
    def __init__(self, device_type, *args, **kwargs):
        super().__init__(_NAME if device_type == "cuda" else device_type, *args, **kwargs)


_sdpa = F.scaled_dot_product_attention


def _attention(query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False):
    """Fused, as a GPU has it: one kernel forward, one backward."""
    fused = torch.backends.cuda.flash_sdp_enabled() or torch.backends.cuda.mem_efficient_sdp_enabled()
    if not isinstance(query, StandIn) or dropout_p or enable_gqa or not fused:
        return _sdpa(query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa)
    return _aten._scaled_dot_product_flash_attention_for_cpu(
        query, key, value, dropout_p, is_causal, attn_mask=attn_mask, scale=scale
    )[0]


class _Stream:
    """What `torch.cuda.stream` makes the current one copies late: when somebody waits for the copy."""

    def __init__(self, *args, **kwargs):
        self.copies = []
        _all_streams.add(self)

    def finish(self):
        while self.copies:
            self.copies.pop(0)()

    def synchronize(self):
        if _log:
            _log._wait("synchronize")
        self.finish()

    def query(self):
        return not self.copies

    def record_event(self, event=None):
        event = event or _Event()
        event.record(self)
        return event

    def wait_event(self, event):
        event.wait()

    def wait_stream(self, stream):
        stream.finish()


class _Event:
    def __init__(self, *args, **kwargs):
        self.stream, self.time = _default_stream, None

    def record(self, stream=None):
        self.stream = stream or _current_stream()
        self.time = None
        self.stream.copies.append(self._reached)
        if self.stream is _default_stream:
            self.stream.finish()

    def _reached(self):
        self.time = time.perf_counter()

    def wait(self, stream=None):
        self.stream.finish()

    def synchronize(self):
        self.stream.synchronize()

    def query(self):
        return self.stream.query()

    def elapsed_time(self, end):
        return 1000 * (end.time - self.time)


_all_streams = weakref.WeakSet()
_default_stream = _Stream()
_streams = threading.local()  # the thread's own is its attribute `current`


def _synchronize(device=None):
    for stream in list(_all_streams):
        stream.finish()
    _default_stream.synchronize()


def _current_stream(device=None):
    return getattr(_streams, "current", _default_stream)


@contextmanager
def _stream(stream):
    before = _current_stream()
    _streams.current = stream or before
    try:
        yield
    finally:
        _streams.current = before


def _cuda_functions(log: Log) -> dict[str, Any]:
    """What stands for the functions of `torch.cuda`, by name."""
    properties = types.SimpleNamespace(
        name="stand-in", total_memory=log.memory, multi_processor_count=132, major=9, minor=0, warp_size=32
    )
    stats = {
        "allocated_bytes.all.peak": lambda: log.allocator_peak,
        "allocated_bytes.all.current": lambda: log.live_bytes,
        "reserved_bytes.all.peak": lambda: log.allocator_peak,
        "reserved_bytes.all.current": lambda: log.live_bytes,
    }
    values = {
        "is_available": True,
        "is_initialized": True,
        "is_bf16_supported": True,
        "is_current_stream_capturing": False,
        "device_count": 1,
        "current_device": 0,
        "get_device_name": "stand-in",
        "get_device_capability": (9, 0),
        "get_device_properties": properties,
        "get_sync_debug_mode": 0,
    }
    nothing = ("_lazy_init", "init", "set_device", "empty_cache", "ipc_collect", "manual_seed", "manual_seed_all")
    functions = {name: (lambda *args, _value=value, **kwargs: _value) for name, value in values.items()}
    functions |= {name: (lambda *args, **kwargs: None) for name in (*nothing, "set_sync_debug_mode", "set_stream")}
    return functions | {
        "Stream": _Stream,
        "Event": _Event,
        "stream": _stream,
        "device": lambda device: nullcontext(),
        "current_stream": _current_stream,
        "default_stream": lambda device=None: _default_stream,
        "synchronize": _synchronize,
        "memory_allocated": lambda device=None: log.live_bytes,
        "memory_reserved": lambda device=None: log.live_bytes,
        "max_memory_allocated": lambda device=None: log.allocator_peak,
        "max_memory_reserved": lambda device=None: log.allocator_peak,
        "reset_peak_memory_stats": lambda device=None: log._reset_allocator_peak(),
        "mem_get_info": lambda device=None: (log.memory - log.live_bytes, log.memory),
        "memory_stats": lambda device=None: {name: value() for name, value in stats.items()},
    }


_autocast_kernels: list[torch.library.Library] = []  # they end with their library
_LOWER = ("mm", "addmm", "bmm", "baddbmm", "addbmm", "mv", "addmv", "matmul", "linear", "conv1d", "conv2d", "conv3d")
_FLOAT32 = ("layer_norm", "group_norm", "softmax.int", "log_softmax.int", "nll_loss", "cross_entropy_loss", "mse_loss")


def _set_up() -> None:
    """Once in a process: make the backend known to PyTorch, with autocast for the operations that matter here."""
    if _autocast_kernels:
        return

    class Hooks(torch._C._acc.PrivateUse1Hooks):
        def has_primary_context(self, device):
            return False

        def is_built(self):
            return True

        def is_available(self):
            return False

    class Module(backend_registration._DummyBackendModule):
        def _lazy_init(self):
            pass

        def is_available(self):
            return True

        def device_count(self):
            return 0  # whose generators PyTorch would keep and restore

        def get_amp_supported_dtype(self):
            return [torch.bfloat16, torch.float16]

    torch._C._ensureCUDADeviceGuardSet()  # `.to("cuda")` asks for the current device before it reaches Python
    backend_registration._setup_privateuseone_for_python_backend(_NAME, Module(), Hooks())
    others = torch.library.Library("_", "IMPL", "AutocastPrivateUse1")
    others.fallback(torch.library.fallthrough_kernel)
    library = torch.library.Library("aten", "IMPL", "AutocastPrivateUse1")
    for name in (*_LOWER, *_FLOAT32):
        operation, _, overload = name.partition(".")
        function = getattr(getattr(_aten, operation), overload or getattr(_aten, operation).overloads()[0])
        library.impl(name, _autocasting(function, None if name in _LOWER else torch.float32))
    _autocast_kernels.extend((library, others))


def _autocasting(function, dtype):
    def kernel(*args, **kwargs):
        to = dtype or torch.get_autocast_dtype(_NAME)

        def cast(tensor):
            return tensor.to(to) if tensor.is_floating_point() and tensor.dtype != torch.float64 else tensor

        with torch._C._ExcludeDispatchKeyGuard(torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastPrivateUse1)):
            args, kwargs = tree_map_only(torch.Tensor, cast, (args, kwargs))
            return function(*args, **kwargs)

    return kernel
