"""The hyperplane of Eq. 3: soup = centre + sum_k alpha_k (theta_k - centre), explored a block of models at a time."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from pipeline.errors import SoupError
from pipeline.soups.alphas import Descent, soup_gradient
from pipeline.soups.directions import Directions, load_directions
from pipeline.soups.fit_data import Batch
from pipeline.soups.ingredients import IngredientSet, open_file
from pipeline.soups.layers import LayerKind, layer_indices, layer_names
from pipeline.soups.workbench import load_weights, weight_slots


class Hyperplane:
    """The soup in the model's weights and the coefficients alpha (K, L) that make it.

    Memory holds the soup, its fixed part and the directions of one block. The centre is needed again for every block
    and lies in a temporary memory-mapped file. Use it as a context, with the model borrowed.
    """

    def __init__(self, model: nn.Module, ingredients: IngredientSet, kind: LayerKind, *, centred: bool) -> None:
        self.model, self.ingredients, self.centred = model, ingredients, centred
        self.layers = layer_names(ingredients.varying, kind)
        self.layer_of = layer_indices(ingredients.varying, self.layers)
        slots = weight_slots(model, ingredients.state_dict(0))
        self.mixed = {name: slots[name] for name in ingredients.varying}
        for name, slot in self.mixed.items():
            if slot.dtype not in (torch.float32, torch.float64):
                raise SoupError(
                    f"tensor {name!r} of the model is {slot.dtype}; give a float32 model and set precision instead"
                )
        for parameter in model.parameters():
            parameter.requires_grad_(False)
        self.parameters = {name: slot for name, slot in self.mixed.items() if isinstance(slot, nn.Parameter)}
        for slot in self.parameters.values():
            slot.requires_grad_(True)
        count = len(ingredients)
        # In units of the ingredients, whatever scale the directions of a block were trained in.
        self.alpha = torch.full((count, len(self.layers)), 0.0 if centred else 1.0 / count, dtype=torch.float64)
        self._folder = tempfile.TemporaryDirectory(prefix="soup-centre-")

    def __enter__(self) -> Hyperplane:
        path = Path(self._folder.name) / "centre.safetensors"
        save_file({name: self.ingredients.mean_tensor(name) for name in self.mixed}, path)
        file = open_file(path)
        self.centre = {name: file.tensor(name) for name in self.mixed}
        load_weights(self.model, {**self.ingredients.state_dict(0), **self.centre})
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._folder.cleanup()

    def train_block(
        self,
        block: Sequence[int],
        batches: Iterator[Batch],
        descent: Descent,
        unit: bool,
        recalibrate: Callable[[nn.Module], None] | None,
        device: str,
    ) -> list[float]:
        """Lines 4 to 17 of Algorithm 1: J steps on the coefficients of these models; returns the J losses."""
        mixed: Mapping[str, Tensor] = self.mixed
        if recalibrate is not None:
            # Statistics measured on this soup hold for the block; only parameters are mixed in its steps.
            recalibrate(self.model)
            self.model.eval()
            mixed = self.parameters
        if not mixed:
            raise SoupError("the ingredients differ in no parameter of the model; there is nothing to learn")
        centre = self.centre if self.centred else None
        directions = load_directions(self.ingredients, block, centre, mixed, self.layer_of, len(self.layers), unit=unit)
        rows = list(block)
        alpha = (self.alpha[rows].to(directions.scale) / directions.scale).requires_grad_(True)
        fixed = {name: torch.empty_like(slot, requires_grad=False) for name, slot in mixed.items()}
        with torch.no_grad():
            directions.mix(alpha, mixed, fixed, sign=-1.0)
        learned = self._train(alpha, directions, fixed, mixed, batches, descent, device)
        with torch.no_grad():
            self.alpha[rows] = (alpha * directions.scale).to("cpu", torch.float64)
        return learned

    def _train(
        self,
        alpha: Tensor,
        directions: Directions,
        fixed: Mapping[str, Tensor],
        mixed: Mapping[str, Tensor],
        batches: Iterator[Batch],
        descent: Descent,
        device: str,
    ) -> list[float]:
        optimizer = descent.optimizer_for(alpha)
        # Layers of buffers alone get no gradient and must not be moved by weight decay either.
        still = [layer not in {self.layer_of[name] for name in self.parameters} for layer in range(len(self.layers))]
        held = alpha.detach()[:, still].clone()
        losses = []
        for step, batch in zip(range(descent.steps), batches, strict=False):
            optimizer.param_groups[0]["lr"] = descent.rate(step)
            loss, gradients = soup_gradient(self.model, self.parameters, batch, descent, device)
            losses.append(loss)
            with torch.no_grad():
                alpha.grad = directions.project(gradients)
                optimizer.step()
                alpha[:, still] = held
                directions.mix(alpha, fixed, mixed)
        return [float(loss) for loss in torch.stack(losses).cpu()]

    def coefficients(self) -> Tensor:
        """Coefficients of the ingredients themselves, (K, L) in float64 (Eq. 4); alpha as it is where not centred."""
        if not self.centred:
            return self.alpha.clone()
        return 1.0 / len(self.ingredients) + self.alpha - self.alpha.mean(dim=0, keepdim=True)
