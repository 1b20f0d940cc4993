"""The state dict in a checkpoint, whatever it is wrapped in and whoever wrote it."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import torch
from torch import Tensor

from pipeline.errors import ModelError
from pipeline.files import absence
from pipeline.weights.files import read_file
from pipeline.weights.texts import name_problem, shown

WeightsChoice: TypeAlias = Literal["auto", "raw", "averaged"]
"""Which weights of a file that holds raw and averaged ones (an EMA, SWA); ``auto``: the averaged, where there are any.
"""
WEIGHTS_CHOICES: tuple[str, ...] = get_args(WeightsChoice)

# The keys that training scripts keep a state dict under: of timm, torchvision, Lightning, DeepSpeed and others.
_RAW_KEYS = ("state_dict", "model_state_dict", "model", "model_state", "module", "net", "network", "params", "weights")
# Beside them, averaged weights are under a key with one of these words in it: state_dict_ema, model_ema, swa_model.
_AVERAGED_WORDS = {"ema", "swa", "averaged", "average", "avg"}
# What DataParallel and Fabric put before all names, and torch.compile, FSDP and checkpointing into them. Lightning puts
# there whatever its module calls the network, and marks its files.
_PREFIXES = ("module.", "_forward_module.")
_LIGHTNING = "pytorch-lightning_version"
_MOST_LOOKED_INTO = 16  # wrappings, averages: more than anybody makes, but a file may hold any number
_MOST_EXPANDED = 16  # times the file: what its tensors may take in memory
_INSERTED = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")
_ADAPTER = "adapter_config.json"
# What folders hold in place of a model: what that is, and what makes a model of it.
_SHARDS = {
    "global_step*": "shards of DeepSpeed; put them together with its zero_to_fp32.py",
    "pytorch_model_fsdp_*": "shards of FSDP; put them together with `accelerate merge-weights`",
}
_HUGGING_FACE = ("model.safetensors", "open_clip_model.safetensors", "pytorch_model.bin", "open_clip_pytorch_model.bin")

State: TypeAlias = Mapping[str, Tensor]


@dataclass(frozen=True)
class Checkpoint:
    """What a weight file holds.

    Attributes:
        state: Names to tensors on the CPU, without the prefixes that wrappers put before all of them.
        metadata: The header of a safetensors file, text by text; of other files empty.
        taken: The key that the weights are under, as messages show it; empty where they are all that the file holds.
        averaged: Whether these weights are averages over the steps of training.
        beside: The keys of the weights that were not taken.
    """

    state: dict[str, Tensor]
    metadata: dict[str, str]
    taken: str
    averaged: bool
    beside: tuple[str, ...]

    @property
    def choice(self) -> str | None:
        """What was taken of raw and averaged weights in one file, in words; None where there was no choice."""
        if not self.beside:
            return None
        kind, other = ("averaged", "raw") if self.averaged else ("raw", "averaged")
        return f"{kind} weights ({self.taken}) are taken, {other} ones are beside them ({', '.join(self.beside)})"


@dataclass(frozen=True)
class _Found:
    key: str
    state: State
    averaged: bool


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors that a weight file holds; see `read_checkpoint`."""
    return read_checkpoint(path).state


def read_checkpoint(path: Path, weights: WeightsChoice = "auto") -> Checkpoint:
    """The state dict of a safetensors file, of a file of torch.save, or of a Hugging Face folder with either.

    Wrapper keys such as ``state_dict`` and the prefixes that DataParallel and torch.compile put before all names are
    taken off. Of raw and averaged weights in one file ``weights`` says which.

    Raises:
        ModelError: The file is missing, is no such file, or holds no state dict, not the weights asked for, or tensors
            without plain values (sparse, quantized, meta) or of far more values than the file has bytes; the message
            says what and what to do.
    """
    content, metadata = _read_folder(path) if absence(path) is None and path.is_dir() else read_file(path)
    found = list(_states_in(content))
    if not found:
        raise ModelError(f"{path}: {_what_else(content)}")
    if isinstance(content, Mapping) and _LIGHTNING in content:
        found = [_of_attribute(one) for one in found]
    averaged, raw = ([one for one in found if one.averaged is kind] for kind in (True, False))
    wanted = {"auto": averaged or raw, "raw": raw, "averaged": averaged}[weights]
    if not wanted:
        raise ModelError(
            f"{path}: holds no {weights} weights, only {'raw' if raw else 'averaged'} ones; take --weights auto for it"
        )
    first = wanted[0]
    state = {name: value.detach() for name, value in first.state.items()}
    problems = (name_problem(name) or _no_plain_values(name, value) for name, value in state.items())
    if problem := next(filter(None, problems), None) or _expanded(state, path):
        raise ModelError(f"{path}: {problem}")
    beside = tuple(shown(one.key) for one in (raw if first.averaged else averaged))
    return Checkpoint(state, metadata, shown(first.key), first.averaged, beside)


def _states_in(content: Any) -> Iterator[_Found]:
    """The state dicts in the content of a file, those under well-known keys first."""
    if _is_state(content):
        yield from _split(content)
    elif isinstance(content, Mapping):
        # Known keys may hold another wrapping, {"model": {"state_dict": …}}; a value that holds itself is seen once.
        yield from _under_known_keys(content, "", set()) or _under_other_keys(content)


def _under_known_keys(content: Mapping[Any, Any], prefix: str, seen: set[int]) -> list[_Found]:
    seen.add(id(content))
    lightning = {"current_model_state", "averaging_state"} <= content.keys()  # of its callback WeightAveraging
    found: list[_Found] = []
    for key in [*_RAW_KEYS, *(key for key in content if isinstance(key, str) and key not in _RAW_KEYS)]:
        value = content.get(key)
        averaged = _says_averaged(key) or (lightning and key == "state_dict")
        raw = key in _RAW_KEYS or (lightning and key == "current_model_state")
        if not isinstance(value, Mapping) or not (raw or averaged) or id(value) in seen:
            continue
        if len(seen) >= _MOST_LOOKED_INTO:
            break
        name = f"{prefix}{key}"
        if _is_state(value):
            seen.add(id(value))
            inner = [_Found(f"{name}.{one.key}".rstrip("."), one.state, one.averaged) for one in _split(value)]
        else:
            inner = _under_known_keys(value, f"{name}.", seen)
        found += [_Found(one.key, one.state, averaged or one.averaged) for one in inner]
    return found


def _says_averaged(key: str) -> bool:
    return bool(_AVERAGED_WORDS & set(key.lower().replace("-", "_").split("_")))


def _under_other_keys(content: Mapping[Any, Any]) -> list[_Found]:
    """The only state dict under keys that are not known; none where there are several to choose from."""
    states = _states_under(content)
    if len(states) != 1 or "param_groups" in content:
        return []
    [(key, state)] = states
    return [_Found(key, one.state, one.averaged) for one in _split(state)]


def _states_under(content: Mapping[Any, Any]) -> list[tuple[str, State]]:
    """The state dicts that are values of ``content`` with their keys; what stands under several keys is there once."""
    values = {id(value): (key, value) for key, value in content.items() if isinstance(value, Mapping)}
    return [(_key_text(key), value) for key, value in values.values() if _is_state(value)]


def _is_state(value: Any) -> bool:
    return (
        isinstance(value, Mapping)
        and len(value) > 0
        and "state_dict" not in value  # a wrapping, whatever is in it
        and all(isinstance(name, str) and isinstance(entry, Tensor) for name, entry in value.items())
    )


def _split(state: State) -> list[_Found]:
    """The state under plain names; of a module that keeps averaged weights of itself, both of them."""
    parts = filter(_says_averaged, dict.fromkeys(name.partition(".")[0] for name in state))
    for part in itertools.islice(parts, _MOST_LOOKED_INTO):
        inside = {name.removeprefix(f"{part}."): value for name, value in state.items() if _is_in(part, name)}
        outside = {name: value for name, value in state.items() if not _is_in(part, name)}
        raw, averaged = _plain(outside, "beside it"), _plain(inside, part)
        for one in (raw, _of_attribute(raw)):
            if one.state.keys() == averaged.state.keys():
                return [one, _Found(part, averaged.state, True)]
    return [_plain(state, "")]


def _of_attribute(found: _Found) -> _Found:
    """The state of the only attribute of a module; the same where it has several."""
    attributes = {name.partition(".")[0] for name in found.state}
    if len(attributes) > 1 or attributes & found.state.keys():
        return found
    inside = {name.partition(".")[2]: value for name, value in found.state.items()}
    plain = _plain(inside, found.key)
    return _Found(found.key, plain.state, found.averaged or plain.averaged)


def _is_in(part: str, name: str) -> bool:
    return name.startswith(f"{part}.")


def _plain(state: State, key: str) -> _Found:
    """The state without what wrappers add: prefixes of all names, parts within them, the counter of AveragedModel."""
    names = {name: name for name in state}  # those in the file, and what is left of them
    for inserted in _INSERTED:
        shorter = {name: plain.replace(inserted, "") for name, plain in names.items()}
        if len(set(shorter.values())) == len(names):  # else two tensors would become one
            names = shorter
    averaged = False
    while names:
        counter = next((name for name, plain in names.items() if plain == "n_averaged"), None)
        if counter is not None and all(plain.startswith("module.") for n, plain in names.items() if n != counter):
            del names[counter]
            averaged = True
        prefix = next((p for p in _PREFIXES if all(plain.startswith(p) for plain in names.values())), None)
        if prefix is None:
            break
        names = {name: plain.removeprefix(prefix) for name, plain in names.items()}
    return _Found(key, {plain: state[name] for name, plain in names.items()}, averaged)


def _no_plain_values(name: str, value: Tensor) -> str | None:
    """Why a tensor cannot be mixed as it stands, and what to do; None for an ordinary one."""
    if value.is_meta:
        return f"'{name}' has a shape but no values (device meta); save the model after its weights were loaded"
    if value.is_quantized:
        return f"'{name}' is quantized ({str(value.dtype).removeprefix('torch.')}); save it with .dequantize()"
    if value.is_nested:
        return f"'{name}' is a nested tensor; save it with .to_padded_tensor()"
    if value.layout != torch.strided:
        return f"'{name}' is sparse ({str(value.layout).removeprefix('torch.')}); save it with .to_dense()"
    return None


def _expanded(state: State, path: Path) -> str | None:
    """What to say of tensors that are views of a few stored values, and would fill the memory as weights of their own.

    A file may say that its one value is a tensor of a billion.
    """
    files = [path] if path.is_file() else [file for file in path.iterdir() if file.is_file()]
    stored, taken = sum(file.stat().st_size for file in files), sum(value.nbytes for value in state.values())
    if taken <= _MOST_EXPANDED * stored:
        return None
    largest = max(state, key=lambda name: state[name].nbytes)
    return f"its tensors would take {taken} bytes, and it has {stored}; save '{largest}' with .clone()"


def _what_else(content: Any) -> str:
    """What a file without a state dict holds instead, and what to do."""
    if isinstance(content, Mapping) and "param_groups" in content:
        return "is the state of an optimizer, no model; leave it out"
    kinds = "no state dict (names to tensors)"
    if isinstance(content, Mapping):
        content = next((content[key] for key in _RAW_KEYS if isinstance(content.get(key), Mapping)), content)
    if not isinstance(content, Mapping):
        return f"holds {kinds} but a {type(content).__name__}; save the model's state_dict()"
    states = [shown(key) for key, _ in _states_under(content)]
    if len(states) > 1:
        return f"holds several state dicts ({', '.join(states[:4])}); save the one that is meant alone"
    others = [key for key, value in content.items() if not (isinstance(key, str) and isinstance(value, Tensor))]
    if others and len(others) < len(content) / 2:
        return (
            f"holds {kinds}: besides tensors there is {_entry(others[0], content[others[0]])}; "
            "save the model's state_dict() alone"
        )
    if not content:
        return f"holds {kinds}: it is empty; save the model's state_dict()"
    entries = [_entry(key, value) for key, value in itertools.islice(content.items(), 4)]
    return f"holds {kinds} but {', '.join(entries)}; save the model's state_dict()"


def _entry(key: Any, value: Any) -> str:
    """A key of a dictionary and the type of its value, for a message."""
    return f"'{shown(_key_text(key))}' ({type(value).__name__})"


def _key_text(key: Any) -> str:
    """A key as text; of one that is neither text nor a number its type alone, as it may be nested without end."""
    return str(key) if isinstance(key, str | int | float | None) else f"a {type(key).__name__}"


def _read_folder(folder: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a Hugging Face folder, of which large models have several files; its class names as metadata."""
    if (folder / _ADAPTER).is_file():
        raise ModelError(
            f"{folder}: holds an adapter (LoRA, say), not a whole model; merge it into its model first "
            "(merge_and_unload of peft, then save_pretrained)"
        )
    for name in _HUGGING_FACE:
        if (folder / name).is_file():
            content, metadata = read_file(folder / name)
            return content, {**_class_names(folder), **metadata}
        if (index := folder / f"{name}.index.json").is_file():
            return _read_parts(index), _class_names(folder)
    for pattern, what in _SHARDS.items():
        if any(folder.glob(pattern)):
            raise ModelError(f"{folder}: holds {what}")
    raise ModelError(f"{folder}: this folder holds none of {', '.join(_HUGGING_FACE)}; give a weight file")


def _class_names(folder: Path) -> dict[str, str]:
    """As the header of a safetensors file has them; empty where config.json has none but ``LABEL_0`` and so on."""
    try:
        by_label = json.loads((folder / "config.json").read_text(encoding="utf-8"))["id2label"]
        names = [str(by_label[str(label)]) for label in range(len(by_label))]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return {}
    if names == [f"LABEL_{label}" for label in range(len(names))]:
        return {}
    return {"class_names": json.dumps(names)}


def _read_parts(index: Path) -> dict[str, Tensor]:
    try:
        file_of = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        parts = sorted(set(file_of.values()))
        if not parts or not all(isinstance(part, str) and _is_file_name(part) for part in parts):
            raise ValueError("its weight_map does not name files")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ModelError(f"{index}: is not the index of a model in several files; download it again") from error
    if missing := [part for part in parts if absence(index.parent / part) is not None]:
        raise ModelError(
            f"{index}: {len(missing)} of the {len(parts)} files that it names are not there ({shown(missing[0])}); "
            "download the folder again"
        )
    state: dict[str, Tensor] = {}
    for part in parts:
        content, _ = read_file(index.parent / part)
        held: Mapping[str, Tensor] = content if _is_state(content) else {}
        problem = None
        if strays := [name for name, file in file_of.items() if file == part and name not in held]:
            problem = f"says that '{shown(strays[0])}' is in {part}, which has no such tensor"
        elif others := [name for name in held if file_of.get(name, part) != part]:
            problem = f"says that '{shown(others[0])}' is in {file_of[others[0]]}, but {part} has it"
        if problem is not None:
            raise ModelError(f"{index}: {problem}; download the folder again")
        state |= held
    return state


def _is_file_name(text: str) -> bool:
    """Whether ``text`` is a file name alone: no path, and nothing that a message could not show."""
    return Path(text).name == text and text not in ("", "..") and text.isprintable()
