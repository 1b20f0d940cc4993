"""State dicts: loading them into a model, writing and identifying them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from pipeline.errors import ModelError
from pipeline.files import replacing
from pipeline.weights.texts import shown

# Types of weights; what has another type (8 bits, complex) means something only with what decodes it.
_FLOATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
_COUNTER = "num_batches_tracked"  # of BatchNorm; PyTorch before 0.4.1 wrote none, and nothing here rests on it


def unique_state(model: nn.Module) -> dict[str, Tensor]:
    """The state of ``model`` with every tied tensor once, under its first name; detached, not copied."""
    # Tied tensors begin at the same address with the same shape. So do all empty ones, at 0: those are never left out.
    seen_keys: set[tuple[int, torch.Size]] = set()
    state = {}
    for name, value in model.state_dict().items():
        key = (value.data_ptr(), value.shape)
        if value.numel() == 0 or key not in seen_keys:
            state[name] = value
        seen_keys.add(key)
    return state


def load_weights(model: nn.Module, state: Mapping[str, Tensor], *, source: str) -> None:
    """Load ``state`` into ``model``; tied tensors may be given once.

    Counters of BatchNorm may be missing, and constants (see `is_constant`) that the model lacks are passed over.
    Raises ModelError that names ``source`` and the tensors that are missing, left over, or of another shape or type.
    """
    model_state = model.state_dict()
    needed_names = unique_state(model).keys()
    shared = [name for name in model_state if name in state]
    problems = [
        _some("lacks ", [f"'{name}'" for name in needed_names if name not in state and not name.endswith(_COUNTER)]),
        _some(
            "has ",
            [f"'{name}'" for name, value in state.items() if name not in model_state and not is_constant(value)],
            ", which the model lacks",
        ),
        _some(
            "has ",
            [
                f"'{name}' of shape {shown(str(tuple(state[name].shape)))}, the model {tuple(model_state[name].shape)}"
                for name in shared
                if state[name].shape != model_state[name].shape
            ],
        ),
        _some(
            "has ",
            [
                f"'{name}' as {_kind(state[name])}, the model as {_kind(model_state[name])}"
                for name in shared
                if not _converts(state[name], model_state[name]) and not name.endswith(_COUNTER)
            ],
            "; save it in that type",
        ),
    ]
    if any(problems):
        raise ModelError(f"{source}: does not fit the model: {'; '.join(filter(None, problems))}")
    model.load_state_dict({name: state[name] for name in shared}, strict=False)


def is_constant(value: Tensor) -> bool:
    """Whether a tensor can only be a constant of a network, no weight: whole numbers, or a mask of 0 and infinities."""
    if not value.is_floating_point() and not value.is_complex():
        return True
    if value.dtype not in _FLOATS:
        return False
    infinite = value.isinf()
    return bool(infinite.any() and (infinite | (value == 0)).all())


def _converts(value: Tensor, like: Tensor) -> bool:
    """Whether a value keeps its meaning in the type of another."""
    if like.is_floating_point():
        return value.dtype in _FLOATS
    return value.dtype == like.dtype or not (value.is_floating_point() or value.is_complex() or like.is_complex())


def _kind(value: Tensor) -> str:
    return str(value.dtype).removeprefix("torch.")


def _some(before: str, names: Sequence[str], after: str = "") -> str:
    """The first three of ``names`` and how many more there are, as a part of a sentence; empty without names."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{before}{', '.join(names[:3])}{more}{after}" if names else ""


def save_weights(state: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str]) -> str:
    """Write ``state`` as safetensors with ``metadata`` in its header, atomically; returns the file's SHA-256.

    The same weights and metadata give the same bytes, so that an upload may be repeated.
    """
    data = safetensors.torch.save({name: value.detach().cpu().contiguous() for name, value in state.items()})
    digest = hashlib.sha256()
    with replacing(path) as partial, partial.open("wb") as file:
        for part in _with_metadata(data, metadata):
            digest.update(part)
            file.write(part)
    return digest.hexdigest()


def _with_metadata(data: bytes, metadata: Mapping[str, str]) -> tuple[bytes, memoryview]:
    """A safetensors file's header with ``metadata``, and the rest of the file, not copied."""
    # safetensors itself writes metadata in an order that changes from call to call. A file is the length of its header
    # in 8 bytes, the header in JSON, and the tensors, at offsets counted from there: they stay right for any header.
    length = int.from_bytes(data[:8], "little")
    header = {"__metadata__": dict(sorted(metadata.items())), **json.loads(data[8 : 8 + length])}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors begin at multiples of eight
    return len(text).to_bytes(8, "little") + text, memoryview(data)[8 + length :]


def weights_sha256(state: Mapping[str, Tensor]) -> str:
    """SHA-256 over the sorted (name, dtype, shape, bytes): the identity of weights whatever file holds them."""
    digest = hashlib.sha256()
    for name in sorted(state):
        value = state[name].detach().cpu().contiguous()
        digest.update(json.dumps([name, str(value.dtype), list(value.shape)]).encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().tobytes() if value.numel() else b"")
    return digest.hexdigest()
