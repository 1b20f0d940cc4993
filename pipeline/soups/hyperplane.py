"""The hyperplane of Eq. 3: soup = centre + sum_k alpha_k (theta_k - centre), explored a block of models at a time."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType

import torch
from torch import Tensor, nn

from pipeline.errors import SoupError
from pipeline.soups.descent import Descent, soup_gradient
from pipeline.soups.directions import Directions, load_directions
from pipeline.soups.fit_data import Batch
from pipeline.soups.ingredients import IngredientSet
from pipeline.soups.layers import LayerKind, layer_indices, layer_names
from pipeline.soups.streaming import weighted_sum
from pipeline.soups.workbench import copy_into_model, weight_slots


class Hyperplane:
    """The soup in the model's weights and the coefficients alpha (K, L) that make it.

    ``centre`` (K) are the coefficients of the centre, by default those of the mean. Memory holds the soup, its fixed
    part and the directions of one block. The centre is needed again for every block and lies in a temporary
    memory-mapped file. Use it as a context, with the model borrowed.
    """

    def __init__(
        self,
        model: nn.Module,
        ingredients: IngredientSet,
        kind: LayerKind,
        *,
        centre: Sequence[float] | None = None,
        centred: bool = True,
        recalibrate: Callable[[nn.Module], None] | None = None,
    ) -> None:
        self.model, self.ingredients, self.centred, self.recalibrate = model, ingredients, centred, recalibrate
        self.layers = layer_names(ingredients.varying, kind)
        self.layer_of = layer_indices(ingredients.varying, self.layers)
        slots = weight_slots(model, ingredients.state_dict(0))
        self.varying = {name: slots[name] for name in ingredients.varying}
        for name, slot in self.varying.items():
            if slot.dtype not in (torch.float32, torch.float64):
                raise SoupError(
                    f"tensor {name!r} of the model is {slot.dtype}; give a float32 model, and precision='bfloat16'"
                )
        for parameter in model.parameters():
            parameter.requires_grad_(False)
        self.parameters = {name: slot for name, slot in self.varying.items() if isinstance(slot, nn.Parameter)}
        for slot in self.parameters.values():
            slot.requires_grad_(True)
        if self.varying and not self.parameters:
            raise SoupError("the ingredients differ in no parameter of the model; there is nothing to learn")
        # Statistics measured on the soup at the start of a block hold for the block: only parameters are mixed then.
        self.mixed: dict[str, Tensor] = self.varying if recalibrate is None else dict(self.parameters)
        count = len(ingredients)
        self.origin = torch.tensor(centre or [1.0 / count] * count, dtype=torch.float64)[:, None]
        # In units of the ingredients, whatever scale the directions of a block were trained in.
        self.alpha = torch.zeros(count, len(self.layers), dtype=torch.float64)
        if not centred:
            self.alpha += self.origin
        self._folder = tempfile.TemporaryDirectory(prefix="soup-centre-")

    def __enter__(self) -> Hyperplane:
        self.centre = self._file_backed()
        terms = [(weight, k) for k, weight in enumerate(self.origin[:, 0].tolist()) if weight != 0]
        for name, tensor in self.centre.items():
            weighted_sum([(weight, self.ingredients.tensor(k, name)) for weight, k in terms], tensor)
        copy_into_model(self.model, {**self.ingredients.state_dict(0), **self.centre})
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._folder.cleanup()

    def _file_backed(self) -> dict[str, Tensor]:
        """Room for the centre in the temporary file: pages that the system may write out, unlike allocated memory."""
        dtypes = {name: torch.promote_types(slot.dtype, torch.float32) for name, slot in self.varying.items()}
        sizes = {name: slot.numel() * dtypes[name].itemsize for name, slot in self.varying.items()}
        starts, total = {}, 0
        for name, size in sizes.items():
            starts[name] = total
            total += -(-size // 8) * 8
        path = Path(self._folder.name) / "centre"
        storage = torch.from_file(str(path), shared=True, size=max(total, 1), dtype=torch.uint8)
        return {
            name: storage[starts[name] : starts[name] + sizes[name]].view(dtypes[name]).view(slot.shape)
            for name, slot in self.varying.items()
        }

    def renew_statistics(self) -> None:
        """Set the BatchNorm statistics of the soup as it stands, where the caller knows how to."""
        if self.recalibrate is not None:
            self.recalibrate(self.model)
            self.model.eval()

    def directions(self, block: Sequence[int], dtype: torch.dtype | None = None, *, unit: bool = False) -> Directions:
        """The directions of these models, read from their files."""
        centre = self.centre if self.centred else None
        layers = len(self.layers)
        directions = load_directions(self.ingredients, block, centre, self.mixed, self.layer_of, layers, dtype)
        if unit:
            directions.scale_to_unit_length()
        return directions

    def resume(self, alpha: Tensor, soup: Mapping[str, Tensor]) -> None:
        """Go on from the coefficients (K, L) and the soup of an earlier process."""
        self.alpha.copy_(alpha)
        with torch.no_grad():
            for name, slot in self.mixed.items():
                slot.copy_(soup[name])

    def train_block(
        self,
        block: Sequence[int],
        batches: Iterator[Batch],
        descent: Descent,
        *,
        dtype: torch.dtype | None = None,
        unit: bool = False,
        read_ahead: Sequence[int] = (),
    ) -> list[float]:
        """Lines 5 to 17 of Algorithm 1: J steps on the coefficients of these models; returns the J losses.

        The models of ``read_ahead`` are read from disk meanwhile.
        """
        rows = list(block)
        directions = self.directions(block, dtype, unit=unit)
        self.ingredients.read_ahead(read_ahead)
        alpha = self.alpha[rows].to(directions.scale) / directions.scale
        fixed = {name: torch.empty_like(slot, requires_grad=False) for name, slot in self.mixed.items()}
        directions.mix(-alpha, self.mixed, fixed)
        losses = self._descend(alpha, directions, fixed, batches, descent)
        self.alpha[rows] = (alpha * directions.scale).to("cpu", torch.float64)
        return losses

    def _descend(
        self,
        alpha: Tensor,
        directions: Directions,
        fixed: Mapping[str, Tensor],
        batches: Iterator[Batch],
        descent: Descent,
    ) -> list[float]:
        optimizer = descent.new_optimizer()
        # Layers of buffers alone get no gradient and must not be moved by weight decay either.
        learned = {self.layer_of[name] for name in self.parameters}
        fixed_layers = [layer for layer in range(len(self.layers)) if layer not in learned]
        fixed_alpha = alpha[:, fixed_layers].clone()
        losses = []
        for step, batch in zip(range(descent.steps), batches, strict=False):
            loss, gradients = soup_gradient(self.model, self.parameters, batch, descent)
            losses.append(loss)
            optimizer.step(alpha, directions.project(gradients), descent.rate(step))
            del gradients  # or the next step would hold two models' worth
            alpha[:, fixed_layers] = fixed_alpha
            directions.mix(alpha, fixed, self.mixed)
        return [float(loss) for loss in torch.stack(losses).cpu()]

    def coefficients(self) -> Tensor:
        """Coefficients of the ingredients themselves, (K, L) in float64 (Eq. 4); alpha as it is where not centred."""
        if not self.centred:
            return self.alpha.clone()
        return self.alpha + self.origin * (1.0 - self.alpha.sum(dim=0))
