"""Weights under the names that others give them, under ours: ``tower.*`` and ``head.*``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from pipeline.errors import ModelError
from pipeline.models.backbone import backbone_module
from pipeline.records import ModelDescription
from pipeline.weights import Checkpoint, WeightsChoice, read_checkpoint

# Of transformers' CLIPModel and CLIPVisionModelWithProjection; open_clip keeps query, key and value in one tensor.
_CLIP = {
    r"vision_model\.embeddings\.class_embedding": "class_embedding",
    r"vision_model\.embeddings\.patch_embedding\.weight": "conv1.weight",
    r"vision_model\.embeddings\.position_embedding\.weight": "positional_embedding",
    r"vision_model\.pre_layrnorm\.(.*)": r"ln_pre.\1",
    r"vision_model\.post_layernorm\.(.*)": r"ln_post.\1",
    r"vision_model\.encoder\.layers\.(\d+)\.layer_norm([12])\.(.*)": r"transformer.resblocks.\1.ln_\2.\3",
    r"vision_model\.encoder\.layers\.(\d+)\.mlp\.fc1\.(.*)": r"transformer.resblocks.\1.mlp.c_fc.\2",
    r"vision_model\.encoder\.layers\.(\d+)\.mlp\.fc2\.(.*)": r"transformer.resblocks.\1.mlp.c_proj.\2",
    r"vision_model\.encoder\.layers\.(\d+)\.self_attn\.out_proj\.(.*)": r"transformer.resblocks.\1.attn.out_proj.\2",
}
_QUERY = re.compile(r"vision_model\.encoder\.layers\.(\d+)\.self_attn\.q_proj\.(weight|bias)")


def read_own(path: Path, weights: WeightsChoice, description: ModelDescription) -> tuple[Checkpoint, dict[str, Tensor]]:
    """A checkpoint, and its state under our names (see `own_names`).

    Raises ModelError as `read_checkpoint` does, and for a folder that is of another model than ``description``.
    """
    checkpoint = read_checkpoint(path, weights)
    check_folder = getattr(backbone_module(description.backbone), "check_folder", None)
    if path.is_dir() and check_folder is not None:
        check_folder(path, description)
    try:
        return checkpoint, own_names(checkpoint.state, description.head_name)
    except (RuntimeError, IndexError) as error:  # names of CLIP over tensors that are none of CLIP's
        raise ModelError(f"{path}: has the names of a CLIP model, and tensors of other shapes; leave it out") from error


def own_names(state: Mapping[str, Tensor], head_name: str | None) -> dict[str, Tensor]:
    """``state`` under our names; without ``head.*`` where it holds no classification head.

    Known are this pipeline's own files, the classifiers of mlfoundations/model-soups (CLIP and
    ``classification_head``), CLIP as open_clip and as Hugging Face's transformers name it, and the networks of
    torchvision and timm and the text classifiers of transformers, whose last layer is ``head_name``; where that has no
    bias, the head has one of zeros. The parts of CLIP that see no images are left out. Names that fit none of this stay
    what they are, below ``tower.``.
    """
    if any(name.startswith("tower.") for name in state):
        return dict(state)
    head = {name: value for name, value in state.items() if name.startswith("classification_head.")}
    if any(name.startswith("vision_model.") for name in state):
        tower = _from_transformers(state)
    elif visual := {name: value for name, value in state.items() if re.match(r"(model\.)?visual\.", name)}:
        tower = {name.partition("visual.")[2]: value for name, value in visual.items()}
    else:
        tower = {name: value for name, value in state.items() if name not in head}
        if not head and head_name is not None:
            head = {name: tower.pop(name) for name in state if name.startswith(f"{head_name}.")}
            if head.keys() == {weight := f"{head_name}.weight"}:
                head[f"{head_name}.bias"] = head[weight].new_zeros(len(head[weight]))
    return {
        **{f"tower.{name}": value for name, value in tower.items()},
        **{f"head.{name.rpartition('.')[2]}": value for name, value in head.items()},
    }


def _from_transformers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    tower: dict[str, Tensor] = {}
    for name, value in state.items():
        for pattern, ours in _CLIP.items():
            if match := re.fullmatch(pattern, name):
                tower[match.expand(ours)] = value
        if match := _QUERY.fullmatch(name):
            parts = [state.get(name.replace("q_proj", f"{part}_proj"), value[:0]) for part in "qkv"]
            tower[f"transformer.resblocks.{match[1]}.attn.in_proj_{match[2]}"] = torch.cat(parts)
        if name == "visual_projection.weight":
            tower["proj"] = value.T
    return tower


def tower_weights(state: Mapping[str, Tensor], head_name: str | None = None) -> dict[str, Tensor]:
    """The image tower of a classifier or a CLIP model, whoever named its tensors (see `own_names`)."""
    own = own_names(state, head_name)
    return {name.removeprefix("tower."): value for name, value in own.items() if name.startswith("tower.")}
