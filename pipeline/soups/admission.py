"""Which files may become ingredients: each is checked against the others, and every rejection has a reason."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from os.path import commonprefix
from pathlib import Path

import torch
from torch import Tensor

from pipeline.errors import IngredientError
from pipeline.soups.ingredient_file import IngredientFile, open_file, same_bits
from pipeline.weights import class_names_of, shown

log = logging.getLogger("pipeline.soups")

Rejection = tuple[Path, str]
# Specs of all tensors (`IngredientFile.specs`), hash of theta0, names of the classes; None where a file does not say.
Signature = tuple[tuple[tuple[str, tuple[str, tuple[int, ...]]], ...], str | None, str | None]

# Types, as headers name them, of weights; and how those of constants begin, which are copied and never averaged.
_MIXED = ("F64", "F32", "BF16", "F16")
_COPIED = ("I", "U", "BOOL")


def admit(paths: Sequence[Path], titles: Sequence[str]) -> tuple[list[IngredientFile], list[Rejection]]:
    """Split files into those that fit the majority and those that do not, each with a one-line reason.

    Headers are compared first, then every file that fits is read through once, for values that cannot be mixed and for
    content that another file has already. Infinite values are those of a mask, say, where all these files have the same
    ones, and then nothing is mixed.
    """
    opened: list[IngredientFile] = []
    rejected: list[Rejection] = []
    for path, title in zip(paths, titles, strict=True):
        try:
            opened.append(open_file(path, title))
        except IngredientError as error:
            rejected.append((path, str(error)))
    if not opened:
        return [], rejected

    def reject(file: IngredientFile, reason: str) -> None:
        rejected.append((file.path, f"{file.title}: {reason}"))

    signatures = [_signature(file) for file in opened]
    [(common, _)] = Counter(signatures).most_common(1)
    reference = opened[signatures.index(common)]
    read: list[IngredientFile] = []
    for file, signature in zip(opened, signatures, strict=True):
        if signature != common:
            reject(file, _difference(file, reference))
            continue
        unfit, file = _read_through(file)
        if unfit is not None:
            reject(file, unfit)
        else:
            read.append(file)
    infinite = frozenset().union(*(file.infinite for file in read))
    constants = {name for name in infinite if _same_in_all(read, name)}
    admitted: list[IngredientFile] = []
    # Files are compared bit by bit only with those of the same extremes: twins have them, others hardly ever.
    fingerprints: dict[tuple[float, ...], list[IngredientFile]] = {}
    for file in read:
        twins = fingerprints.setdefault(file.extremes, [])
        if faults := sorted(file.infinite - constants):
            reject(file, f"tensor {faults[0]!r} has infinite values, which not all files have; leave the file out")
        elif twin := next((t for t in twins if _same_content(file, t)), None):
            reject(file, f"has the same content as {twin.title}; leave one of them out")
        else:
            twins.append(file)
            admitted.append(file)
    if len(admitted) > 1 and "theta0_sha256" not in reference.metadata:
        log.warning(
            "the ingredients do not say which initialisation they started from (no theta0_sha256 in their headers); "
            "a soup of models from different ones is of no use"
        )
    return admitted, rejected


def _signature(file: IngredientFile) -> Signature:
    """What ingredients of one soup have in common: names, dtypes and shapes, theta0, the order of classes."""
    return tuple(file.specs.items()), file.metadata.get("theta0_sha256"), _class_names(file)


def _class_names(file: IngredientFile) -> str | None:
    try:
        names = class_names_of(file.metadata)
    except ValueError:
        return file.metadata["class_names"]
    return None if names is None else json.dumps(names)  # spacing and escapes do not make another order of classes


def _difference(file: IngredientFile, reference: IngredientFile) -> str:
    """The first difference between two headers, in words."""
    in_reference = f"in {reference.title}"
    for name in reference.specs:
        if name not in file.specs:
            return f"tensor {name!r} is missing, it is {in_reference}; leave the file out"
    for name, (dtype, shape) in file.specs.items():
        if name not in reference.specs:
            return f"tensor {name!r} is not {in_reference}; leave the file out or remove the tensor"
        other_dtype, other_shape = reference.specs[name]
        if shape != other_shape:
            shapes = f"{shown(str(shape))}, but {shown(str(other_shape))}"
            return f"tensor {name!r} has shape {shapes} {in_reference}; leave the file out"
        if dtype != other_dtype:
            return (
                f"tensor {name!r} has dtype {dtype}, but {other_dtype} {in_reference}; convert it or leave the file out"
            )
    ours, theirs = (one.metadata.get("theta0_sha256", "not given") for one in (file, reference))
    if ours != theirs:
        return (
            f"theta0_sha256 is {shown(ours, 64)}, but {shown(theirs, 64)} {in_reference}: "
            "fine-tuned from another initialisation; leave the file out"
        )
    ours, theirs = (_class_names(one) or "not given" for one in (file, reference))
    start = max(0, len(commonprefix([ours, theirs])) - 20)  # noqa: RUF071 (of letters; there may be thousands of names)
    ours, theirs = (f"{'…' if start else ''}{shown(names[start:])}" for names in (ours, theirs))
    return f"class_names are {ours}, but {theirs} {in_reference}; leave the file out"


def _read_through(file: IngredientFile) -> tuple[str | None, IngredientFile]:
    """Why the values cannot be used, if so; and the file with the extremes of its tensors, by which twins are found."""
    extremes: list[float] = []
    infinite: list[str] = []
    for name, (dtype, shape) in file.specs.items():
        if dtype not in _MIXED and not dtype.startswith(_COPIED):
            return f"tensor {name!r} has dtype {dtype}, which has no averages; convert it to F32 or leave it out", file
        if dtype not in _MIXED or 0 in shape:
            continue
        # Extremes show NaN and infinities and, unlike isfinite, need no copy of the tensor.
        bounds: tuple[Tensor, Tensor] = torch.aminmax(file.tensor(name))
        low, high = (float(bound) for bound in bounds)
        if low != low:
            return f"tensor {name!r} has NaN values; leave the file out", file
        if not (abs(low) < float("inf") and abs(high) < float("inf")):
            infinite.append(name)
        extremes += [low, high]
    return None, replace(file, extremes=tuple(extremes), infinite=frozenset(infinite))


def _same_in_all(files: Sequence[IngredientFile], name: str) -> bool:
    first = files[0].tensor(name)
    return all(same_bits(first, file.tensor(name)) for file in files[1:])


def _same_content(first: IngredientFile, second: IngredientFile) -> bool:
    return all(same_bits(first.tensor(name), second.tensor(name)) for name in first.specs)
