"""What a backbone is, what its file brings, and the table of them. A new one is a new file and a line here."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from torch import Tensor, nn

from pipeline.config import ModelConfig
from pipeline.errors import ModelError, first_line
from pipeline.weights import read_weights

if TYPE_CHECKING:
    from pipeline.models.classifier import Classifier
    from pipeline.records import ModelDescription


@dataclass(frozen=True)
class Backbone:
    """A tower and what is needed to train a classifier on it.

    ``tower`` maps examples as its ``kind`` prepares them (images: normalised float (B, 3, H, W)) to features (B,
    ``feature_dim``). ``normalize_features`` tells that the head sees unit vectors, as in CLIP. ``constants`` are
    plain values that the kind prepares them by (images: ``mean`` and ``std`` of the three channels); ``architecture``
    are such too, from which `build` makes the tower again; ``head_name`` is the layer of the library's network in
    whose place the tower has none (None for CLIP). ``clip`` is the whole image-text model where there is one, and
    ``tokenize`` turns captions into its token ids (B, context).
    """

    tower: nn.Module
    feature_dim: int
    normalize_features: bool
    constants: Mapping[str, Any]
    architecture: Mapping[str, Any]
    head_name: str | None = None
    clip: nn.Module | None = None
    tokenize: Callable[[Sequence[str]], Tensor] | None = None
    kind: str = "images"


class BackboneModule(Protocol):
    """The file of a backbone: three functions and a constant.

    A soup that is served has no copy of this package: the file is shipped with it, alone. So at its top level it
    imports nothing of this package, and none of its own neighbours; what `load` and `export` need of `pipeline`, they
    import inside. It is not named as a library is: where a soup is served, its folder is the first on ``sys.path``.

    Where checkpoints are folders that say more than their weights do, a fourth function may be there,
    ``check_folder(folder: Path, description: ModelDescription) -> None``: it raises ModelError for a folder of another
    model than ``description``, whose tensors may fit nevertheless.
    """

    __file__: str | None
    REQUIREMENTS: tuple[str, ...]
    """The distributions that `build` needs beside torch, by the names that pip knows: ``("open_clip_torch",)``."""

    def load(self, config: ModelConfig, *, pretrained: bool, local: Mapping[str, Tensor] | None) -> Backbone:
        """The backbone that ``config`` names; arguments and errors are those of `load_backbone`."""

    def build(self, architecture: Mapping[str, Any], head_name: str | None) -> nn.Module:
        """The tower with random weights, from the values that `Backbone` has under these names.

        This is what a served soup calls, with the values read from its ``description.json``. The names and shapes in
        the tower's state dict are those of `load`'s tower.
        """

    def export(self, model: Classifier, description: ModelDescription, folder: Path) -> str:
        """Write ``model`` into ``folder`` as the library loads it; returns the Python code that does.

        The folder is renamed when all is written, so the code says ``{folder}``, to the letter, where its path belongs;
        the path is put in later. Other braces are left alone. `pipeline.models.export` has helpers.
        """


BACKBONES = {
    "open_clip": "pipeline.models.open_clip_backbone",
    "timm": "pipeline.models.timm_backbone",
    "torchvision": "pipeline.models.torchvision_backbone",
    "transformers": "pipeline.models.transformers_backbone",
}
"""Names to modules, given as text: a library is imported only where it is used."""


def backbone_module(name: str) -> BackboneModule:
    """The module of the backbone ``name``; raises ModelError where it cannot be imported or is not a whole one."""
    if name not in BACKBONES:
        raise ModelError(f"model.backbone: there is no '{name}' among {', '.join(BACKBONES)}; import what adds it")
    path = BACKBONES[name]
    try:
        module = importlib.import_module(path)
    except Exception as error:  # of any kind: anybody may write a backbone
        reason = first_line(error)
        raise ModelError(
            f"model.backbone: '{name}': {path} cannot be imported ({type(error).__name__}: {reason}); "
            "install what it needs"
        ) from error
    # Before anything is trained. Without `export`, all but that works.
    if lacking := [part for part in ("load", "build", "REQUIREMENTS") if not hasattr(module, part)]:
        raise ModelError(f"model.backbone: '{name}': {path} lacks {', '.join(lacking)}; see BackboneModule")
    for distribution in module.REQUIREMENTS:
        try:
            version(distribution)
        except PackageNotFoundError as error:
            raise ModelError(
                f"model.backbone: '{name}': REQUIREMENTS of {path} names '{distribution}', which is not installed; "
                "give the name that pip knows it by"
            ) from error
    return cast(BackboneModule, module)


def backbone_file(name: str) -> Path:
    """The file of the backbone ``name``, which is shipped with a served soup. Raises ModelError."""
    return Path(str(backbone_module(name).__file__))


def load_backbone(config: ModelConfig, *, pretrained: bool, local: Mapping[str, Tensor] | None = None) -> Backbone:
    """The backbone that ``config`` names, with its pretrained weights or, for loading others, without.

    ``local`` is what the weight file holds, where it was read already (on a node that has it). Raises ModelError.
    """
    if pretrained and local is None and config.weight_file is not None:
        local = read_weights(config.weight_file)
    return backbone_module(config.backbone).load(config, pretrained=pretrained, local=local)
