"""The hyperplane of Eq. 3: soup = centre + sum_k alpha_k (theta_k - centre), explored a block of models at a time."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from pipeline.errors import SoupError
from pipeline.soups.descent import Descent, soup_gradient
from pipeline.soups.directions import Directions, load_directions
from pipeline.soups.fit_data import Batch
from pipeline.soups.flat import Layout, flattened
from pipeline.soups.ingredients import IngredientSet
from pipeline.soups.layers import LayerKind, layer_indices, layer_names
from pipeline.soups.streaming import weighted_sum
from pipeline.soups.workbench import copy_into_model, weight_slots


class Hyperplane:
    """The soup in the weights of a borrowed model, and the coefficients alpha that make it.

    Memory holds the soup, its fixed part and the directions of one block. The centre is needed again for every block
    and lies in a temporary memory-mapped file. The tensors that are mixed become pieces of one flat vector, and keep
    being the model's: mixing into the vector changes the model (`borrowed` gives them memory of their own again).

    Attributes:
        layers: The L names of layers.
        layer_of: The layer of each tensor, an index below L.
        varying: The model's tensors that differ among the ingredients, by name: writing to them changes the soup.
        parameters: Those of them that get a gradient, not buffers.
        mixed: Those of them that are mixed: all, or the parameters alone where BatchNorm statistics are renewed. Those
            that the ingredients store in one type stand side by side.
        layout: Where each of these lies in the flat vector.
        soup: The flat vector (N), on the model's device.
        origin: Coefficients (K, 1) of the centre: the mean's 1/K, or those given as ``centre``.
        centre: The weights that these make, by name; the soup starts there.
        alpha: (K, L) in float64 on the CPU: soup = centre + sum_k alpha_k (theta_k - centre) in each layer.
        centred: False leaves out both centres on the right (App. D): soup = sum_k alpha_k theta_k.
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
        if len({slot.dtype for slot in self.varying.values()}) > 1:
            raise SoupError(
                "the model has both float32 and float64 tensors; give it in one type, as with model.float()"
            )
        for parameter in model.parameters():
            parameter.requires_grad_(False)
        self.parameters = {name: slot for name, slot in self.varying.items() if isinstance(slot, nn.Parameter)}
        for slot in self.parameters.values():
            slot.requires_grad_(True)
        if self.varying and not self.parameters:
            raise SoupError("the ingredients differ in no parameter of the model; there is nothing to learn")
        # Statistics measured on the soup at the start of a block hold for the block: only parameters are mixed then.
        mixed = self.varying if recalibrate is None else self.parameters
        self.mixed: dict[str, Tensor] = dict(sorted(mixed.items(), key=lambda item: str(self._stored(item[0]))))
        self.layout = Layout.of(self.mixed)
        count = len(ingredients)
        self.origin = torch.tensor(centre or [1.0 / count] * count, dtype=torch.float64)[:, None]
        # By whole directions, whatever scale those of a block were trained in.
        self.alpha = torch.zeros(count, len(self.layers), dtype=torch.float64)
        if not centred:
            self.alpha += self.origin
        self.centre = self._file_backed()
        terms = [(weight, k) for k, weight in enumerate(self.origin[:, 0].tolist()) if weight != 0]
        for name, tensor in self.centre.items():
            device = self.varying[name].device
            weighted_sum([(weight, ingredients.tensor(k, name)) for weight, k in terms], tensor, device)
        copy_into_model(model, {**ingredients.state_dict(0), **self.centre})
        self.soup = flattened(self.mixed, self.layout) if self.mixed else torch.zeros(0)

    def _stored(self, name: str) -> torch.dtype:
        return self.ingredients.tensor(0, name).dtype

    def _file_backed(self) -> dict[str, Tensor]:
        """Tensors for the centre in one temporary file, whose pages the system may write out and drop.

        They lie one after the other, each from a multiple of eight bytes on, and are views of the one mapping. The file
        has no name once it is mapped, and goes with the tensors, however the process ends.
        """
        dtypes = {name: torch.promote_types(slot.dtype, torch.float32) for name, slot in self.varying.items()}
        sizes = {name: slot.numel() * dtypes[name].itemsize for name, slot in self.varying.items()}
        starts, total = {}, 0
        for name, size in sizes.items():
            starts[name] = total
            total += math.ceil(size / 8) * 8
        with tempfile.NamedTemporaryFile(prefix="soup-centre-") as file:
            storage = torch.from_file(file.name, shared=True, size=max(total, 1), dtype=torch.uint8)
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
        directions = load_directions(
            self.ingredients,
            block,
            self.centre if self.centred else None,
            self.layout,
            self.soup,
            self.layer_of,
            len(self.layers),
            dtype,
        )
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
        """Lines 5 to 17 of Algorithm 1: J steps on the coefficients of these b models; returns the J losses.

        Args:
            block: The models, by index.
            batches: At least J batches of images and labels.
            descent: How the coefficients are optimised.
            dtype: In which their directions are stored; None: as the ingredients are.
            unit: Whether each direction is divided by its norm within each layer.
            read_ahead: The models to read from disk meanwhile.
        """
        rows = list(block)
        directions = self.directions(block, dtype, unit=unit)
        self.ingredients.read_ahead(read_ahead)
        # (b, L), in the units of the scaled directions: alpha * scale is what the unscaled ones count by.
        alpha = self.alpha[rows].to(directions.scale) / directions.scale
        # Line 6: theta_fix = soup - sum over the block of alpha_k (theta_k - centre), flat as the soup is. It holds the
        # centre and the models outside of the block, so that no step needs to read those.
        fixed = torch.empty_like(self.soup)
        directions.mix(-alpha, self.soup, fixed)
        # Without a centre alpha = 0 is the zero network: weight decay draws to the start, as it does with one.
        start = None if self.centred else (self.origin[rows].to(alpha) / directions.scale)
        losses = self._descend(alpha, start, directions, fixed, batches, descent)
        self.alpha[rows] = (alpha * directions.scale).to("cpu", torch.float64)
        return losses

    def _descend(
        self,
        alpha: Tensor,
        start: Tensor | None,
        directions: Directions,
        fixed: Tensor,
        batches: Iterator[Batch],
        descent: Descent,
    ) -> list[float]:
        """Lines 7 to 17: move ``alpha`` (b, L) and the soup in place; weight decay draws to ``start`` (b, L).

        A step goes from the soup's gradients, one shaped as each parameter, by their inner products with the directions
        to the gradient of alpha (b, L) (Eq. 6), and from the new alpha back to the soup: fixed + alpha times directions
        (Eq. 8), written into the model's own tensors. The graph is always that of one model. On a GPU nothing in it
        waits for the device, and what it launches besides forward and backward pass does not grow with the model.
        """
        optimizer = descent.new_optimizer(start)
        # Layers of buffers alone get no gradient and must not be moved by weight decay either.
        learned = {self.layer_of[name] for name in self.parameters}
        unlearned = [layer for layer in range(len(self.layers)) if layer not in learned]
        fixed_layers = torch.tensor(unlearned, dtype=torch.int64).to(alpha.device)
        fixed_alpha = alpha.index_select(1, fixed_layers)
        losses = []
        for step, batch in zip(range(descent.steps), batches, strict=False):
            loss, gradients, descent = soup_gradient(self.model, self.parameters, batch, descent)
            losses.append(loss)
            optimizer.step(alpha, directions.project(gradients), descent.rate(step))
            del gradients  # or the next step would hold two models' worth
            if unlearned:
                alpha.index_copy_(1, fixed_layers, fixed_alpha)
            directions.mix(alpha, fixed, self.soup)
        return [float(loss) for loss in torch.stack(losses).cpu()]  # once for all: no step waits for the device

    def coefficients(self) -> Tensor:
        """Coefficients of the ingredients themselves, (K, L) in float64 (Eq. 4); alpha as it is where not centred.

        The centre is a soup too: what alpha leaves of one counts by the centre's own coefficients.
        """
        if not self.centred:
            return self.alpha.clone()
        return self.alpha + self.origin * (1.0 - self.alpha.sum(dim=0))
