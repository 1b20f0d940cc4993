"""Text encoders of Hugging Face's transformers: by name or folder, with safetensors alone and no code from outside.

Shipped with a served soup: the top level imports nothing of this package (see `BackboneModule`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification
from transformers.utils import logging

if TYPE_CHECKING:
    from pipeline.config import ModelConfig
    from pipeline.models import Backbone, Classifier
    from pipeline.records import ModelDescription

REQUIREMENTS: tuple[str, ...] = ("transformers",)

_SEGMENT_BIT = 24  # of `pipeline.data.tokens`, which is not at hand where this file is shipped to
_OWN_WEIGHTS = "DEFAULT"
_POOLING_FILE = "1_Pooling/config.json"  # of sentence-transformers
_POOLINGS = {"pooling_mode_cls_token": "cls", "pooling_mode_mean_tokens": "mean"}  # in that file
_CLASSIFIER = "classifier"  # a pooling: whatever transformers' classifier has between the encoder and its last layer
# Of config.json, what no output of a model in eval mode depends on.
_WITHOUT_EFFECT = {
    "_name_or_path", "architectures", "classifier_dropout", "dropout", "dtype", "finetuning_task", "id2label",
    "initializer_factor", "initializer_range", "label2id", "problem_type", "torch_dtype", "transformers_version",
    "use_cache",
}  # fmt: skip


def _inputs(
    network: nn.Module, args: tuple[Tensor], kwargs: Mapping[str, Any], *, padding: int, segments: bool
) -> tuple[tuple[()], dict[str, Tensor]]:
    """From rows of tokens, int32 (B, T) as `pipeline.data.tokens` has them, to what a network of transformers takes."""
    (rows,) = args
    real = rows != 0
    if rows.device.type == "cpu" and not torch.compiler.is_compiling():  # a GPU would wait for the host here
        longest = max(1, int(real.sum(1).max()))
        rows, real = rows[:, :longest], real[:, :longest]
    tokens = (rows.long() - 1).clamp(min=0)
    ids = torch.where(real, tokens & (1 << _SEGMENT_BIT) - 1, padding)
    inputs = {"input_ids": ids, "attention_mask": real.long()}
    return (), {**inputs, "token_type_ids": tokens >> _SEGMENT_BIT} if segments else inputs


def _features(
    network: nn.Module, args: tuple[()], inputs: Mapping[str, Tensor], output: Any, *, pooling: str
) -> Tensor:
    """From the output of a network to features (B, D): ``cls``, the last hidden state of the first token, ``mean``,
    that of all tokens, or ``classifier``, what the missing last layer of a classifier would get.
    """
    if pooling == _CLASSIFIER:
        logits: Tensor = output.logits
        return logits
    hidden: Tensor = output.last_hidden_state  # (B, T, D)
    if pooling == "cls":
        return hidden[:, 0]
    weights = inputs["attention_mask"].to(hidden.dtype)[..., None]  # (B, T, 1)
    return (hidden * weights).sum(1) / weights.sum(1).clamp(min=1)


def _tower(network: Any, pooling: str, head_name: str | None) -> nn.Module:
    """A network of transformers that takes rows and returns features, without what these do not depend on.

    It is the network itself with a hook before and one after its forward pass, so that its tensors keep the names that
    checkpoints have.
    """
    if head_name is not None:
        network.set_submodule(head_name, nn.Identity())
    elif network.config.is_encoder_decoder:
        network = network.get_encoder()
    if head_name is None and getattr(network, "pooler", None) is not None:  # as BERTs have it
        network.pooler = None
    if not torch.cuda.is_available():  # a step of training there is 1.4 times as fast as with its other form
        network.set_attn_implementation("eager")
    config = network.config
    segments = getattr(config, "type_vocab_size", None) or 0
    network.register_forward_pre_hook(
        partial(_inputs, padding=config.pad_token_id or 0, segments=segments > 1), with_kwargs=True
    )
    network.register_forward_hook(partial(_features, pooling=pooling), with_kwargs=True)
    return network  # type: ignore[no-any-return]


def _library_class(pooling: str) -> Any:
    return AutoModelForSequenceClassification if pooling == _CLASSIFIER else AutoModel


def load(config: ModelConfig, *, pretrained: bool, local: Mapping[str, Tensor] | None) -> Backbone:
    """The encoder of the model that ``config`` names; raises ModelError for what cannot be one."""
    from pipeline.errors import ModelError
    from pipeline.models.backbone import Backbone
    from pipeline.models.foreign import tower_weights
    from pipeline.weights import load_weights

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
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
    pooling = config.pooling or _pooling(config.name, network_config)
    if pooling == _CLASSIFIER and network_config.is_encoder_decoder:
        raise ModelError(
            f"model.pooling: 'classifier' is none for {config.name}, which has a decoder; take cls or mean"
        )
    if pretrained and config.weight_tag is not None:
        network = _pretrained(config.name, network_config, pooling)
    else:
        network = _library_class(pooling).from_config(network_config)
    head_name, feature_dim = None, network_config.hidden_size
    if pooling == _CLASSIFIER:
        head_name, feature_dim = _last_layer(network, config.name)
    tower = _tower(network, pooling, head_name)
    if pooling == _CLASSIFIER:
        _check_classifies(tower, config.name)
    if local is not None:
        load_weights(tower, tower_weights(local, head_name), source=str(config.pretrained))
    return Backbone(
        tower=tower,
        feature_dim=int(feature_dim),
        normalize_features=False,
        constants={},
        architecture={"config": network_config.to_dict(), "pooling": pooling},
        head_name=head_name,
        kind="text",
    )


def build(architecture: Mapping[str, Any], head_name: str | None) -> nn.Module:
    """The encoder of that configuration; the head follows it, or has the place of the layer ``head_name``."""
    pooling = architecture["pooling"]
    return _tower(_library_class(pooling).from_config(_configuration(architecture)), pooling, head_name)


def _configuration(architecture: Mapping[str, Any]) -> Any:
    values = dict(architecture["config"])
    return AutoConfig.for_model(values.pop("model_type"), **values)


def export(model: Classifier, description: ModelDescription, folder: Path) -> str:
    """A folder that transformers loads, tokenizer included: a classifier of its own, or an encoder with a head beside.

    The second for poolings that no classifier of transformers has.
    """
    from pipeline.models.export import state_with_head, write_tensors
    from pipeline.weights import load_weights

    network: Any = model.tower
    if description.head_name is not None:
        config = _configuration(description.architecture)
        config.id2label = dict(enumerate(description.class_names))
        config.label2id = {name: label for label, name in config.id2label.items()}
        network = _library_class(_CLASSIFIER).from_config(config)
        state = state_with_head(model, description)
        if (bias := f"{description.head_name}.bias") not in network.state_dict() and not state[bias].any():
            del state[bias]  # of a layer that has none in transformers
        load_weights(network, state, source=f"a {type(network).__name__}")
    network.save_pretrained(folder)
    _write_tokenizer(network.config, description.inputs, folder)
    texts = "['the first text', 'another']" + (", ['a second text', 'another']" if description.inputs["pairs"] else "")
    loading = [
        "import torch, transformers",
        "tokenizer = transformers.AutoTokenizer.from_pretrained('{folder}')",
        f"tokens = tokenizer({texts}, truncation=True, padding=True, return_tensors='pt')",
    ]
    if description.head_name is not None:
        loading += [
            "model = transformers.AutoModelForSequenceClassification.from_pretrained('{folder}')",
            "logits = model(**tokens).logits",
        ]
        return "\n".join(loading)
    write_tensors(model.head.state_dict(), folder / "head.safetensors")
    pooled = {
        "cls": "hidden[:, 0]",
        "mean": "(hidden * mask).sum(1) / mask.sum(1)",
    }[description.architecture["pooling"]]
    name = type(network).__name__
    loading += [
        "import safetensors.torch",
        f"from {type(network).__module__} import {name}",
        f"model = {name}.from_pretrained('{{folder}}')",
        "head = safetensors.torch.load_file('{folder}/head.safetensors')",
        "hidden, mask = model(**tokens).last_hidden_state, tokens['attention_mask'][..., None]",
        f"logits = torch.nn.functional.linear({pooled}, head['weight'], head['bias'])",
    ]
    return "\n".join(loading)


def _write_tokenizer(config: Any, inputs: Mapping[str, Any], folder: Path) -> None:
    """The tokenizer of a description as transformers loads it; texts are cut off where they were for training."""
    from tokenizers import Tokenizer

    # Its own class would make it again from a vocabulary, this one takes the file as it is.
    has_segments = (getattr(config, "type_vocab_size", None) or 0) > 1
    about = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": inputs["max_length"],
        "model_input_names": ["input_ids", *(["token_type_ids"] if has_segments else []), "attention_mask"],
        "pad_token": Tokenizer.from_str(inputs["tokenizer"]).id_to_token(config.pad_token_id or 0),
        "padding_side": "right",
        "truncation_side": "right",
        "clean_up_tokenization_spaces": False,
    }
    (folder / "tokenizer.json").write_text(inputs["tokenizer"], encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(about, indent=1), encoding="utf-8")


def check_folder(folder: Path, description: ModelDescription) -> None:
    """Compare what a folder says beside its weights with the model of ``description``.

    Weights of the same shapes may mean something else: with other numbers of attention heads, say, or for the tokens of
    another vocabulary. Raises ModelError.
    """
    from pipeline.data.kinds.text import serialized_tokenizer
    from pipeline.errors import DataError, ModelError, first_sentence

    if not (folder / "config.json").is_file():
        return
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # of many kinds
        raise ModelError(f"{folder}: its config.json cannot be read ({first_sentence(error)}); leave it out") from error
    own, pooling = _configuration(description.architecture), description.architecture["pooling"]
    name = (config.architectures or [type(config).__name__])[0]
    classifies = _is_classifier(config)
    if config.model_type != own.model_type:
        raise ModelError(f"{folder}: is a {name}, and the model of the settings is of type '{own.model_type}'")
    if classifies != (pooling == _CLASSIFIER):
        remedy = "set model.pooling: classifier" if classifies else "leave it out, or set another pooling"
        raise ModelError(f"{folder}: is a {name}, and model.pooling is '{pooling}'; {remedy}")
    if config.problem_type not in (None, "single_label_classification"):
        raise ModelError(f"{folder}: was trained for {config.problem_type}, not to tell classes apart; leave it out")
    values, own_values = config.to_dict(), own.to_dict()
    for key in type(config)().to_dict():  # of the others, models know nothing
        if key not in _WITHOUT_EFFECT and "drop" not in key and values.get(key) != own_values.get(key):
            raise ModelError(
                f"{folder}: its config.json has {key} {values.get(key)}, the model of the settings "
                f"{own_values.get(key)}; leave it out, or set model.name to this folder"
            )
    if (folder / "tokenizer.json").is_file():
        try:
            tokenizer = serialized_tokenizer(str(folder))
        except DataError as error:
            raise ModelError(
                f"{folder}: its tokenizer.json cannot be loaded; delete it if data.tokenizer is the right one"
            ) from error
        if tokenizer != description.inputs["tokenizer"]:
            raise ModelError(f"{folder}: its tokenizer is another than data.tokenizer; set that to this folder")


def _is_classifier(config: Any) -> bool:
    return any(name.endswith("ForSequenceClassification") for name in config.architectures or ())


def _check_classifies(tower: Any, name: str) -> None:
    """Raise ModelError where features of a text depend on the padding behind it: they are of the last place, padding
    or not, in models that are used with padding before the texts.
    """
    from pipeline.errors import ModelError, first_sentence

    was_training = tower.training
    ids = [number for number in range(4) if number != tower.config.pad_token_id][:3]
    text = torch.tensor([[number + 1 for number in ids]], dtype=torch.int32)  # (1, 3)
    rows = torch.cat([nn.functional.pad(text, (0, 3)), torch.cat([text, text], dim=1)])  # the text beside a longer one
    try:
        with torch.no_grad():
            alone, padded = (tower.eval()(some)[:1] for some in (text, rows))
        differ = not torch.allclose(alone, padded, rtol=1e-3, atol=1e-4 * alone.abs().max().item())
        reason = "what it makes of a text depends on the padding behind it" if differ else None
    except Exception as error:  # of any kind: there are some 100 classifiers
        reason = first_sentence(error).rstrip(".")
    tower.train(was_training)
    if reason is not None:
        raise ModelError(f"model.pooling: 'classifier' is none for {name} ({reason}); take cls or mean")


def _last_layer(network: Any, name: str) -> tuple[str, int]:
    """The last linear layer that gives a logit for each class, and how many features it takes."""
    from pipeline.errors import ModelError

    linear = [(layer, module) for layer, module in network.named_modules() if isinstance(module, nn.Linear)]
    found = [
        (layer, module.in_features) for layer, module in linear if module.out_features == network.config.num_labels
    ]
    if not found:
        raise ModelError(
            f"model.pooling: {name} has no last linear layer that a new head could replace; take cls or mean"
        )
    return found[-1]


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


def _pretrained(name: str, config: Any, pooling: str) -> Any:
    from pipeline.errors import ModelError, first_sentence

    try:
        return _library_class(pooling).from_pretrained(
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


def _pooling(name: str, config: Any) -> str:
    """What the model was trained with, as far as its folder or name says; the first token where it does not."""
    from pipeline.errors import ModelError

    if _is_classifier(config):
        return _CLASSIFIER
    file = _pooling_file(name)
    if file is None:
        return "cls"
    try:
        modes = json.loads(file.read_text(encoding="utf-8"))
        chosen = [mode for mode, is_chosen in modes.items() if mode.startswith("pooling_mode_") and is_chosen is True]
    except (OSError, ValueError, AttributeError):
        chosen = []
    if len(chosen) != 1 or chosen[0] not in _POOLINGS:
        said = " and ".join(chosen) or "no pooling"
        raise ModelError(f"model.pooling: {_POOLING_FILE} of {name} names {said}; set cls or mean")
    return _POOLINGS[chosen[0]]


def _pooling_file(name: str) -> Path | None:
    """Of a folder, or of a name on the hub, where that is in reach; None where there is none."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    if Path(name).is_absolute():
        file = Path(name, _POOLING_FILE)
        return file if file.is_file() else None
    try:
        return Path(hf_hub_download(name, _POOLING_FILE))
    except EntryNotFoundError:
        return None
