"""Which files may become ingredients: each is checked against the others, and every rejection has a reason."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from pipeline.errors import IngredientError
from pipeline.soups.ingredient_file import IngredientFile, open_file, same_bits

log = logging.getLogger("pipeline.soups")

Rejection = tuple[Path, str]
# Specs of all tensors (`IngredientFile.specs`), hash of theta0, names of the classes; None where a file does not say.
Signature = tuple[tuple[tuple[str, tuple[str, tuple[int, ...]]], ...], str | None, str | None]


def admit(paths: Sequence[Path]) -> tuple[list[IngredientFile], list[Rejection]]:
    """Split files into those that fit the majority and those that do not, each with a one-line reason.

    Headers are compared first, then every file that fits is read through once, for values that are not finite and for
    content that another file has already.
    """
    opened: list[IngredientFile] = []
    rejected: list[Rejection] = []
    for path in paths:
        try:
            opened.append(open_file(path))
        except IngredientError as error:
            rejected.append((path, str(error)))
    if not opened:
        return [], rejected

    signatures = [_signature(file) for file in opened]
    [(common, _)] = Counter(signatures).most_common(1)
    reference = opened[signatures.index(common)]
    admitted: list[IngredientFile] = []
    # Files are compared bit by bit only with those of the same extremes: twins have them, others hardly ever.
    fingerprints: dict[tuple[float, ...], list[IngredientFile]] = {}
    for file, signature in zip(opened, signatures, strict=True):
        reason = None if signature == common else _difference(file, reference)
        if reason is None:
            reason, fingerprint = _read_through(file)
            twins = fingerprints.setdefault(fingerprint, [])
            if reason is None and (twin := next((t for t in twins if _same_content(file, t)), None)) is not None:
                reason = f"has the same content as {twin.path}; leave one of them out"
        if reason is None:
            twins.append(file)
            admitted.append(replace(file, extremes=fingerprint))
        else:
            rejected.append((file.path, f"{file.path}: {reason}"))
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
    text = file.metadata.get("class_names")
    if text is None:
        return None
    try:
        return json.dumps(json.loads(text))  # spacing and escapes do not make another order of classes
    except ValueError:
        return text


def _difference(file: IngredientFile, reference: IngredientFile) -> str:
    """The first difference between two headers, in words."""
    in_reference = f"in {reference.path}"
    for name in reference.specs:
        if name not in file.specs:
            return f"tensor {name!r} is missing, it is {in_reference}; leave the file out"
    for name, (dtype, shape) in file.specs.items():
        if name not in reference.specs:
            return f"tensor {name!r} is not {in_reference}; leave the file out or remove the tensor"
        other_dtype, other_shape = reference.specs[name]
        if shape != other_shape:
            return f"tensor {name!r} has shape {shape}, but {other_shape} {in_reference}; leave the file out"
        if dtype != other_dtype:
            return (
                f"tensor {name!r} has dtype {dtype}, but {other_dtype} {in_reference}; convert it or leave the file out"
            )
    ours, theirs = file.metadata.get("theta0_sha256"), reference.metadata.get("theta0_sha256")
    if ours != theirs:
        return (
            f"theta0_sha256 is {ours}, but {theirs} {in_reference}: "
            "fine-tuned from another initialisation; leave the file out"
        )
    return f"class_names are {_class_names(file)}, but {_class_names(reference)} {in_reference}; leave the file out"


def _read_through(file: IngredientFile) -> tuple[str | None, tuple[float, ...]]:
    """Why the values cannot be used, if so; and the extremes of every tensor, by which duplicates are looked up."""
    extremes: list[float] = []
    for name in file.specs:
        tensor = file.tensor(name)
        if not tensor.is_floating_point() or tensor.numel() == 0:
            continue
        # Extremes show NaN and infinities and, unlike isfinite, need no copy of the tensor.
        bounds: tuple[Tensor, Tensor] = torch.aminmax(tensor)
        low, high = (float(bound) for bound in bounds)
        if not (abs(low) < float("inf") and abs(high) < float("inf")):
            kind = "NaN" if low != low else "infinite"
            return f"tensor {name!r} has {kind} values; leave the file out", ()
        extremes += [low, high]
    return None, tuple(extremes)


def _same_content(first: IngredientFile, second: IngredientFile) -> bool:
    return all(same_bits(first.tensor(name), second.tensor(name)) for name in first.specs)
