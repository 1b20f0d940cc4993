"""Image towers of open_clip: by name and pretrained tag, by local weights, or from a small architecture."""

from __future__ import annotations

import copy
import logging
from pathlib import Path
from typing import Any

import open_clip
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from torch import nn

from pipeline.config import ModelConfig, nearest
from pipeline.errors import ModelError
from pipeline.models.backbone import Backbone
from pipeline.models.weights import load_weights, read_weights, tower_weights

# CLIP cannot be built without a text tower; where the settings give none, this one is built and dropped.
_NO_TEXT = {"context_length": 1, "vocab_size": 1, "width": 8, "heads": 1, "layers": 1}


def load(config: ModelConfig, *, pretrained: bool) -> Backbone:
    """Build the CLIP model of ``config``; raises ModelError for an unknown name, tag or unfitting weights."""
    local = config.pretrained is not None and Path(config.pretrained).is_absolute()
    tag = config.pretrained if pretrained and not local else None
    architecture = _architecture(config)
    clip = _build(config, architecture, tag)
    has_text = "text_cfg" in (config.architecture or {"text_cfg": None})
    if pretrained and local:
        text_loaded = _load_local(clip, Path(str(config.pretrained)), has_text=has_text)
        if config.head == "zero_shot" and config.contrastive is None and not text_loaded:
            raise ModelError(
                f"model.head: 'zero_shot' needs a text tower, but {config.pretrained} holds an image tower alone; "
                "use 'linear_probe'"
            )
    by_tag = config.name is not None and config.pretrained is not None and not local
    trained_with = open_clip.get_pretrained_cfg(config.name, config.pretrained) if by_tag else {}
    return Backbone(
        tower=clip.get_submodule("visual"),
        feature_dim=int(architecture["embed_dim"]),
        normalize_features=True,
        mean=config.mean or tuple(trained_with.get("mean") or OPENAI_DATASET_MEAN),
        std=config.std or tuple(trained_with.get("std") or OPENAI_DATASET_STD),
        clip=clip if has_text else None,
        # Only theta0 reads captions, and some tokenizers have to be downloaded.
        tokenize=_tokenizer(config, architecture) if has_text and pretrained else None,
    )


def _architecture(config: ModelConfig) -> dict[str, Any]:
    if config.architecture is not None:
        return {"text_cfg": _NO_TEXT, **copy.deepcopy(config.architecture)}
    architecture = open_clip.get_model_config(config.name)
    if architecture is None:
        raise ModelError(
            f"model.name: open_clip has no '{config.name}'; {nearest(str(config.name), open_clip.list_models())}"
        )
    return dict(architecture)


def _build(config: ModelConfig, architecture: dict[str, Any], tag: str | None) -> nn.Module:
    if config.architecture is not None:
        if tag is not None:
            raise ModelError(
                f"model.pretrained: '{tag}' is a tag, but model.architecture needs the path of a weight file"
            )
        try:
            model: nn.Module = open_clip.model.CLIP(**architecture)
        except Exception as error:  # of any kind: open_clip does not check what it is given
            reason = str(error).partition("\n")[0]
            raise ModelError(f"model.architecture: open_clip cannot build it: {reason}") from error
        return model
    if tag is not None and tag not in open_clip.list_pretrained_tags_by_model(config.name):
        tags = open_clip.list_pretrained_tags_by_model(config.name)
        raise ModelError(f"model.pretrained: '{config.name}' has no weights '{tag}'; {nearest(tag, tags)}")
    previous = logging.root.manager.disable
    logging.disable(logging.WARNING)  # open_clip reports on the root logger that it starts from random weights
    try:
        model = open_clip.create_model(config.name, pretrained=tag)
    except Exception as error:
        raise ModelError(
            f"model.pretrained: the weights '{tag}' of '{config.name}' could not be downloaded "
            f"({type(error).__name__}); give the path of a local weight file instead"
        ) from error
    finally:
        logging.disable(previous)
    return model


def _load_local(clip: nn.Module, path: Path, *, has_text: bool) -> bool:
    """Load a whole CLIP model, or its image tower alone (with or without the prefix ``visual.``, or
    in a classifier that this pipeline saved).

    Of a whole one, a model that ``has_text`` not takes the tower. Returns whether the text tower was loaded too.
    """
    state = tower_weights(read_weights(path))
    tower = {name.removeprefix("visual."): value for name, value in state.items() if name.startswith("visual.")}
    if has_text and tower and len(tower) < len(state):
        load_weights(clip, state, source=str(path))
        return True
    load_weights(clip.get_submodule("visual"), tower or state, source=str(path))
    return False


def _tokenizer(config: ModelConfig, architecture: dict[str, Any]) -> Any:
    if config.name is not None:
        return open_clip.get_tokenizer(config.name)
    return open_clip.SimpleTokenizer(context_length=architecture["text_cfg"].get("context_length", 77))
