"""Working on the caller's model: weights go in tensor by tensor, flags and mode come back as they were."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from pipeline.errors import SoupError


@contextmanager
def borrowed(model: nn.Module, device: str) -> Iterator[None]:
    """The model on ``device`` in eval mode; modes, requires_grad flags and device are restored, weights are not.

    Tensors that were made pieces of a larger one meanwhile have memory of their own again.
    """
    pieces: set[int] = set()
    modes = [(module, module.training) for module in model.modules()]
    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    original_device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    try:
        model.to(device)
        model.eval()
        pieces = {id(tensor) for tensor in _tensors(model) if _is_piece(tensor)}
        yield
    finally:
        for module, training in modes:
            module.training = training
        for parameter, flag in flags:
            parameter.requires_grad_(flag)
        for tensor in _tensors(model):
            if _is_piece(tensor) and id(tensor) not in pieces:
                tensor.data = tensor.data.clone()
        model.to(original_device)


def _tensors(model: nn.Module) -> list[Tensor]:
    return [*model.parameters(), *model.buffers()]


def _is_piece(tensor: Tensor) -> bool:
    return tensor.untyped_storage().nbytes() > tensor.nbytes


def weight_slots(model: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The model's own tensor behind each name of an ingredient: what is written to them is the model's weights.

    Tied tensors are stored once and fill every name that shares them. Raises SoupError when the model lacks a tensor,
    has another shape, has tensors that nothing fills, or is stored in a way that cannot be written in place.
    """
    own = model.state_dict(keep_vars=True)
    slots: dict[str, Tensor] = {}
    owners: dict[int, str] = {}  # address of a tensor -> the stored name that fills it
    for name, tensor in tensors.items():
        if name not in own:
            raise SoupError(
                f"the model has no tensor {name!r} that the ingredients have; build the model they were trained as"
            )
        slot = own[name]
        if slot.shape != tensor.shape:
            raise SoupError(
                f"tensor {name!r} has shape {tuple(slot.shape)} in the model and {tuple(tensor.shape)} in a file"
            )
        if not slot.is_contiguous():
            raise SoupError(
                f"tensor {name!r} of the model is not contiguous; give a model in the default memory format"
            )
        if slot.numel() and (twin := owners.setdefault(slot.data_ptr(), name)) != name:
            raise SoupError(
                f"tensors {twin!r} and {name!r} are tied in the model but stored twice; store tied tensors once"
            )
        slots[name] = slot
    for name, slot in own.items():
        if slot.numel() and slot.data_ptr() not in owners:
            raise SoupError(
                f"the ingredients have no tensor {name!r} that the model has; build the model they were trained as"
            )
    return slots


@torch.no_grad()
def copy_into_model(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Copy an ingredient or a soup into the caller's model, in place: dtype and device stay the model's.

    Args:
        model: Of the architecture that the tensors are of.
        tensors: Weights by name, tied ones once.

    Raises:
        SoupError: They do not fit the model; names the tensor.
    """
    for name, slot in weight_slots(model, tensors).items():
        slot.copy_(tensors[name])


def recalibrated(
    model: nn.Module, state_dict: Mapping[str, Tensor], recalibrate: Callable[[nn.Module], None], device: str
) -> dict[str, Tensor]:
    """The soup with its BatchNorm statistics renewed.

    Args:
        model: The architecture; keeps its mode and flags, not its weights.
        state_dict: The soup's weights.
        recalibrate: Sets the buffers of the model that it gets, which holds the soup.
        device: Where to compute.

    Returns:
        The same tensors, but for the model's buffers, which are copies in the dtypes of ``state_dict``.
    """
    with borrowed(model, device):
        copy_into_model(model, state_dict)
        recalibrate(model)
        model.eval()
        buffers = dict(model.named_buffers(remove_duplicate=False))
        return {
            name: buffers[name].detach().to(tensor.device, tensor.dtype, copy=True) if name in buffers else tensor
            for name, tensor in state_dict.items()
        }
