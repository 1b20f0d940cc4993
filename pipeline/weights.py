"""Reading, writing, loading and identifying weights. Nothing is unpickled: safetensors, or ``weights_only=True``."""

from __future__ import annotations

import argparse
import hashlib
import json
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from pipeline.errors import ModelError
from pipeline.files import replacing

_WRAPPERS = ("state_dict", "model_state_dict", "model")
_PREFIXES = ("module.", "_orig_mod.")
# What checkpoints hold beside tensors (a command line, the best accuracy so far), and nothing that can be run.
_SCALAR = np.float64(0).__reduce__()[0]
_PLAIN_VALUES: list[Any] = [
    argparse.Namespace,
    *((_SCALAR, f"numpy.{module}.multiarray.scalar") for module in ("core", "_core")),
    np.dtype,
    *(type(np.dtype(kind)) for kind in ("float64", "float32", "int64", "int32", "bool")),
]
_HUGGING_FACE = ("model.safetensors", "open_clip_model.safetensors", "pytorch_model.bin", "open_clip_pytorch_model.bin")


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

    Raises ModelError that names ``source`` and the tensors that are missing, left over or of another shape.
    """
    model_state = model.state_dict()
    needed_names = unique_state(model).keys()
    problems = [
        _some("lacks ", [f"'{name}'" for name in needed_names if name not in state]),
        _some("has ", [f"'{name}'" for name in state if name not in model_state], ", which the model lacks"),
        _some(
            "has ",
            [
                f"'{name}' of shape {tuple(state[name].shape)}, the model {tuple(value.shape)}"
                for name, value in model_state.items()
                if name in state and state[name].shape != value.shape
            ],
        ),
    ]
    if any(problems):
        raise ModelError(f"{source}: does not fit the model: {'; '.join(filter(None, problems))}")
    model.load_state_dict(state, strict=False)


def _some(before: str, names: Sequence[str], after: str = "") -> str:
    """The first three of ``names`` and how many more there are, as a part of a sentence; empty without names."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{before}{', '.join(names[:3])}{more}{after}" if names else ""


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, a PyTorch state dict or a Hugging Face folder with either.

    Wrapper keys such as ``state_dict`` and the prefixes that DataParallel and torch.compile put before all names are
    taken off. Raises ModelError when the file is missing or is none of these.
    """
    parts = [_load(file) for file in _files(path)]
    state = {name: value for part in parts for name, value in part.items()} if len(parts) > 1 else parts[0]
    while isinstance(state, dict) and (wrapped := next((state[key] for key in _WRAPPERS if key in state), None)):
        state = wrapped
    if not isinstance(state, dict) or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()):
        raise ModelError(f"{path}: holds no state dict (names to tensors)")
    while prefix := _common_prefix(state):
        state = {name.removeprefix(prefix): value for name, value in state.items()}
    return state


def _common_prefix(names: Collection[str]) -> str | None:
    """A prefix of `_PREFIXES` that all ``names`` have."""
    return next((prefix for prefix in _PREFIXES if names and all(name.startswith(prefix) for name in names)), None)


def _load(file: Path) -> Any:
    try:
        if file.suffix == ".safetensors":
            return safetensors.torch.load_file(file)
        with torch.serialization.safe_globals(_PLAIN_VALUES):
            return torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise ModelError(f"{file}: weight file not found; check the path") from error
    except Exception as error:  # of many kinds
        pickled = re.search(r"GLOBAL (\S+)", str(error))
        hint = ""
        if pickled:
            hint = f": it holds {pickled[1]}, which would have to be run to be read; save its state dict alone"
        raise ModelError(f"{file}: is neither safetensors nor a PyTorch state dict of plain tensors{hint}") from error


def _files(path: Path) -> list[Path]:
    """The weight files of a Hugging Face folder, of which large models have several; any other path itself."""
    if not path.is_dir():
        return [path]
    for name in _HUGGING_FACE:
        if (path / name).is_file():
            return [path / name]
        if (index := path / f"{name}.index.json").is_file():
            try:
                parts = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
            except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
                raise ModelError(f"{index}: is not the index of a model in several files") from error
            return [path / part for part in sorted(set(parts))]
    raise ModelError(f"{path}: this folder holds none of {', '.join(_HUGGING_FACE)}; give a weight file")


def read_metadata(path: Path) -> dict[str, str]:
    """What the header of a safetensors file says; nothing for other files."""
    if path.suffix != ".safetensors":
        return {}
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {})
    except (OSError, safetensors.SafetensorError) as error:
        raise ModelError(f"{path}: is not a safetensors file ({error})") from error


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
