"""Which tensors share a mixing coefficient: the layers l of Eq. 5 of the MEHL-Soup paper."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, get_args

LayerKind = Literal["tensor", "module", "model"]
LAYER_KINDS: tuple[str, ...] = get_args(LayerKind)


def module_of(name: str) -> str:
    """The prefix through the first integer (a transformer block), else the parent module; ``root`` at the top."""
    parts = name.split(".")
    for position, part in enumerate(parts[:-1]):
        if part.isdecimal():
            return ".".join(parts[: position + 1])
    return ".".join(parts[:-1]) or "root"


def layer_names(tensors: Iterable[str], kind: LayerKind) -> tuple[str, ...]:
    """The L layers of these tensors in order of appearance; ``model`` is one layer, even of no tensors."""
    if kind == "model":
        return ("model",)
    return tuple(dict.fromkeys(name if kind == "tensor" else module_of(name) for name in tensors))


def layer_indices(tensors: Iterable[str], layers: Sequence[str]) -> dict[str, int]:
    """Which of ``layers`` (its index) each tensor belongs to; KeyError for a tensor in none of them.

    The kind of the layers need not be known: a layer is named after the tensor, after its module, or ``model``.
    """
    index_of = {layer: index for index, layer in enumerate(layers)}
    layer_of_tensor = {}
    for name in tensors:
        layer = next((layer for layer in (name, module_of(name), "model") if layer in index_of), None)
        if layer is None:
            raise KeyError(name)
        layer_of_tensor[name] = index_of[layer]
    return layer_of_tensor
