"""Text encoders of Hugging Face's transformers: by name or folder, with safetensors alone and no code from outside.

Shipped with a served soup: the top level imports nothing of this package (see `BackboneModule`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel

if TYPE_CHECKING:
    from pipeline.config import ModelConfig
    from pipeline.models import Backbone, Classifier
    from pipeline.records import ModelDescription

REQUIREMENTS: tuple[str, ...] = ("transformers",)

_SEGMENT_BIT = 24  # of `pipeline.data.tokens`, which is not at hand where this file is shipped to
_OWN_WEIGHTS = "DEFAULT"
_POOLING_FILE = Path("1_Pooling", "config.json")  # of sentence-transformers


class Encoder(nn.Module):
    """Rows of token ids, int32 (B, T) as `pipeline.data.tokens` has them, to features (B, hidden size).

    ``pooling`` is ``cls``, the last hidden state of the first token, or ``mean``, that of all tokens.
    """

    def __init__(self, network: Any, pooling: str) -> None:
        super().__init__()
        self.network, self.pooling = network, pooling
        config: Any = network.config
        if not torch.cuda.is_available():  # a step of training there is 1.4 times as fast as with its other form
            network.set_attn_implementation("eager")
        self.has_segments = getattr(config, "type_vocab_size", 0) > 1
        self.padding = config.pad_token_id or 0

    def forward(self, rows: Tensor) -> Tensor:
        """Features."""
        real = rows != 0
        if rows.device.type == "cpu" and not torch.compiler.is_compiling():  # a GPU would wait for the host here
            longest = max(1, int(real.sum(1).max()))
            rows, real = rows[:, :longest], real[:, :longest]
        tokens = (rows.long() - 1).clamp(min=0)
        ids = torch.where(real, tokens & (1 << _SEGMENT_BIT) - 1, self.padding)
        segments = {"token_type_ids": tokens >> _SEGMENT_BIT} if self.has_segments else {}
        hidden: Tensor = self.network(input_ids=ids, attention_mask=real.long(), **segments).last_hidden_state
        if self.pooling == "cls":
            return hidden[:, 0]
        weights = real.to(hidden.dtype)[..., None]  # (B, T, 1)
        return (hidden * weights).sum(1) / weights.sum(1).clamp(min=1)


def load(config: ModelConfig, *, pretrained: bool, local: Mapping[str, Tensor] | None) -> Backbone:
    """The encoder of the model that ``config`` names; raises ModelError for what cannot be one."""
    from pipeline.errors import ModelError
    from pipeline.models.backbone import Backbone
    from pipeline.models.foreign import tower_weights
    from pipeline.weights import load_weights

    if config.name is None:
        raise ModelError("model.architecture: only backbone 'open_clip' takes one; give model.name")
    if config.weight_tag not in (None, _OWN_WEIGHTS):
        raise ModelError(
            f"model.pretrained: '{config.weight_tag}' is none of a model of transformers; use {_OWN_WEIGHTS} for the "
            "weights that the folder or name has, or the path of a weight file"
        )
    network_config = _config(config.name)
    is_folder = Path(config.name).is_absolute()
    if config.weight_tag is not None and is_folder and not list(Path(config.name).glob("*.safetensors")):
        raise ModelError(
            f"model.name: {config.name} has no .safetensors file, and files of other kinds may run code as they are "
            "read; convert it (save_pretrained of a current transformers does)"
        )
    pooling = config.pooling or _pooling(config.name)
    if pretrained and config.weight_tag is not None:
        network = _pretrained(config.name, network_config)
    else:
        network = AutoModel.from_config(network_config)  # type: ignore[no-untyped-call]
    tower = Encoder(_encoder(network), pooling)
    if local is not None:
        load_weights(tower, tower_weights(local), source=str(config.pretrained))
    return Backbone(
        tower=tower,
        feature_dim=int(network_config.hidden_size),
        normalize_features=False,
        constants={},
        architecture={"config": network_config.to_dict(), "pooling": pooling},
        kind="text",
    )


def build(architecture: Mapping[str, Any], head_name: str | None) -> nn.Module:
    """The encoder of that configuration; the head follows it, so ``head_name`` is None."""
    values = dict(architecture["config"])
    config = AutoConfig.for_model(values.pop("model_type"), **values)
    network = AutoModel.from_config(config)  # type: ignore[no-untyped-call]
    return Encoder(_encoder(network), architecture["pooling"])


def export(model: Classifier, description: ModelDescription, folder: Path) -> str:
    """A folder that transformers loads, with the head beside it."""
    from pipeline.models.export import write_tensors

    network: Any = model.tower.get_submodule("network")
    write_tensors(network.state_dict(), folder / "model.safetensors")
    write_tensors(model.head.state_dict(), folder / "head.safetensors")
    (folder / "config.json").write_text(json.dumps(network.config.to_dict(), indent=1), encoding="utf-8")
    return (
        f"model = transformers.{type(network).__name__}.from_pretrained('{{folder}}')\n"
        "head = safetensors.torch.load_file('{folder}/head.safetensors')  # on what 'pooling' in description.json says"
    )


def _encoder(network: Any) -> nn.Module:
    """Without what the features do not depend on: the pooler that BERTs have, and a decoder."""
    if network.config.is_encoder_decoder:
        network = network.get_encoder()
    if getattr(network, "pooler", None) is not None:
        network.pooler = None
    return network  # type: ignore[no-any-return]


def _config(name: str) -> Any:
    from pipeline.errors import ModelError, first_sentence

    is_folder = Path(name).is_absolute()
    if is_folder and not Path(name).is_dir():
        raise ModelError(f"model.name: {name} is no folder; give the folder of a model, or its name")
    try:
        return AutoConfig.from_pretrained(name, local_files_only=is_folder, trust_remote_code=False)
    except Exception as error:  # of many kinds
        raise ModelError(
            f"model.name: {name} cannot be loaded ({first_sentence(error)}); give a folder with config.json, or the "
            "name of a model that can be downloaded"
        ) from error


def _pretrained(name: str, config: Any) -> Any:
    from pipeline.errors import ModelError, first_sentence

    try:
        return AutoModel.from_pretrained(
            name,
            config=config,
            local_files_only=Path(name).is_absolute(),
            trust_remote_code=False,
            use_safetensors=True,
            dtype=torch.float32,
        )
    except Exception as error:  # of many kinds
        raise ModelError(
            f"model.pretrained: the weights of {name} cannot be loaded ({first_sentence(error)}); give a folder"
        ) from error


def _pooling(name: str) -> str:
    """What the model was trained with, as far as its folder says; the first token where it does not."""
    file = Path(name) / _POOLING_FILE
    if not file.is_file():
        return "cls"
    return "mean" if json.loads(file.read_text(encoding="utf-8")).get("pooling_mode_mean_tokens") else "cls"
