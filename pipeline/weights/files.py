"""What kind of file a checkpoint is, told from its bytes, and its content as plain values and tensors.

A name says little: files are called ``.pt`` that are safetensors, web pages or pointers to the real file.
"""

from __future__ import annotations

import argparse
import json
import re
import warnings
import zipfile
from pathlib import Path
from typing import Any, Literal, NoReturn

import numpy as np
import safetensors
import torch

from pipeline.errors import ModelError
from pipeline.files import absence
from pipeline.weights.texts import shown

FileKind = Literal["safetensors", "pytorch"]

# What checkpoints hold beside tensors (a command line, the best accuracy so far), and nothing that can be run.
_SCALAR = np.float64(0).__reduce__()[0]
_PLAIN_VALUES: list[Any] = [
    argparse.Namespace,
    *((_SCALAR, f"numpy.{module}.multiarray.scalar") for module in ("core", "_core")),
    np.dtype,
    *(type(np.dtype(kind)) for kind in ("float64", "float32", "int64", "int32", "bool")),
]

_AGAIN = "copy or download it again"
_UNPACK = "unpack it and give what is inside"
_FRAMEWORK = "save the weights from PyTorch as a state dict"
# How files begin that people take for checkpoints: what they are, and what to do.
_BEGINNINGS: tuple[tuple[bytes, str, str], ...] = (
    (b"version https://git-lfs.github.com/spec/", "a Git LFS pointer, not the file", "fetch it with `git lfs pull`"),
    (b"/annex/objects/", "a git-annex pointer, not the file", "fetch it with `git annex get`"),
    (b"\x00\x05\x16\x07", "what macOS keeps beside a file (its name begins with ._)", "give the file itself"),
    (b"\x93NUMPY", "a NumPy array", _FRAMEWORK),
    (b"GGUF", "a GGUF file, of llama.cpp", "give the weights that it was converted from"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file, of Keras perhaps", _FRAMEWORK),
    (b"\x1f\x8b", "compressed (gzip)", _UNPACK),
    (b"BZh", "compressed (bzip2)", _UNPACK),
    (b"\xfd7zXZ\x00", "compressed (xz)", _UNPACK),
    (b"\x28\xb5\x2f\xfd", "compressed (Zstandard)", _UNPACK),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", _UNPACK),
    (b"Rar!\x1a\x07", "a RAR archive", _UNPACK),
)
# The same for files that are text, whatever the case of their letters and the spaces before them.
_TEXT_BEGINNINGS: tuple[tuple[bytes, str, str], ...] = (
    (b"<!doctype", "a web page, perhaps of a download that failed or needs a login", "download it again"),
    (b"<html", "a web page, perhaps of a download that failed or needs a login", "download it again"),
    (b"<?xml", "an XML text, perhaps the answer of a store that refused a download", "download it again"),
    (b"{", "a JSON text, no weights", "give the file or the folder that it belongs to"),
)
# Entries of zip archives by which kinds of them are known, as regular expressions; torch.save makes the last one.
_ZIP_ENTRIES: tuple[tuple[str, str, str], ...] = (
    (r"(.*/)?(constants\.pkl|code/.*)", "a TorchScript archive", "save `model.state_dict()` of it"),
    (r"(.*/)?archive_format", "a program of torch.export", "save `program.state_dict` of it"),
    (r".*\.npy", "a NumPy archive (.npz)", _FRAMEWORK),
    (r"(.*/)?(model\.weights\.h5|saved_model\.pb)", "a model of Keras or TensorFlow", _FRAMEWORK),
)
_TORCH_ZIP = r"(.*/)?data\.pkl"
_HEADER_LIMIT = 100_000_000  # bytes; that of safetensors itself


def file_kind(path: Path) -> FileKind:
    """Whether a file is safetensors or PyTorch's, from its first bytes (of zip archives also from their list).

    Raises ModelError that names any other kind of file and what to do about it.
    """
    head, size = _beginning(path)
    if size == 0:
        _refuse(path, "is empty (0 bytes)", _AGAIN)
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= _HEADER_LIMIT:  # the length of a header, the header
        return "safetensors"
    for start, kind, remedy in _BEGINNINGS:
        if head.startswith(start):
            _refuse(path, f"is {kind}", remedy)
    for start, kind, remedy in _TEXT_BEGINNINGS:
        if head.lstrip().lower().startswith(start):
            _refuse(path, f"is {kind}", remedy)
    if head[257:262] == b"ustar":
        _refuse(path, "is a tar archive", _UNPACK)
    if head[4:8] == b"TFL3":
        _refuse(path, "is a TensorFlow Lite model", _FRAMEWORK)
    if head.startswith(b"PK\x03\x04"):
        _check_zip(path)
        return "pytorch"
    if head.startswith(b"\x80"):  # how pickles begin, and torch.save before PyTorch 1.6
        return "pytorch"
    if head.startswith(b"\x08") and head[2:3] in (b"\x12", b"\x1a"):
        _refuse(path, "seems to be an ONNX model", "give the state dict that it was exported from")
    _refuse(path, "is neither safetensors nor a file of torch.save, nor of another kind that is known here", _AGAIN)


def read_file(path: Path) -> tuple[Any, dict[str, str]]:
    """The content of a weight file, tensors on the CPU, and what a safetensors header says besides.

    Raises ModelError where the file is of another kind, damaged, or could only be read by running what it holds.
    """
    if file_kind(path) == "safetensors":
        return _read_safetensors(path)
    try:
        # An open file: by its path, torch.load takes any *.safetensors for one.
        with path.open("rb") as file, torch.serialization.safe_globals(_PLAIN_VALUES), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of deprecated kinds of tensors, which the caller tells in a line
            return torch.load(file, map_location="cpu", weights_only=True), {}
    except Exception as error:  # of many kinds
        text = str(error)
        if pickled := re.search(r"GLOBAL (\S+)", text):
            cause, remedy = f"holds {pickled[1]}, which would have to be run to be read", "save its state dict alone"
        elif "Unsupported operand" in text or "Unsupported class" in text or "persistent" in text:
            cause, remedy = "is damaged, or a pickle that would have to be run to be read", "save it with torch.save"
        elif isinstance(error, EOFError) or "unexpected EOF" in text:
            cause, remedy = "ends early", _AGAIN
        else:
            cause, remedy = f"is damaged, or no file of torch.save ({_brief(error)})", _AGAIN
        raise ModelError(f"{path}: {cause}; {remedy}") from error


def damage(path: Path, error: Exception) -> str:
    """What is wrong with a safetensors file that the library refuses with ``error``, and what to do."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = file.read(length) if length <= _HEADER_LIMIT else b""
    if len(header) < length <= _HEADER_LIMIT:
        return f"ends early: it has {size} bytes, its header alone {8 + length}; {_AGAIN}"
    whole = _whole_size(header)
    if whole is not None and size < whole:
        return f"ends early: it has {size} of {whole} bytes; {_AGAIN}"
    return f"is a damaged safetensors file ({_brief(error)}); {_AGAIN}"


def _read_safetensors(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except Exception as error:  # of many kinds, some of them about types that torch does not know
        raise ModelError(f"{path}: {damage(path, error)}") from error


def _whole_size(header: bytes) -> int | None:
    """The bytes that a safetensors file with this header should have; None where it cannot be read."""
    try:
        entries = [entry for name, entry in json.loads(header).items() if name != "__metadata__"]
        return 8 + len(header) + max((int(entry["data_offsets"][1]) for entry in entries), default=0)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
        return None


def _beginning(path: Path) -> tuple[bytes, int]:
    """The first bytes of a file and its size. Raises ModelError where there is none to be read."""
    if (why := absence(path)) is not None:
        _refuse(path, why, "check the path")
    if not path.is_file():  # a pipe would be waited for
        _refuse(path, "is no file", "give a weight file")
    try:
        with path.open("rb") as file:
            return file.read(512), path.stat().st_size
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({error.strerror}); check its permissions") from error


def _check_zip(path: Path) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            parts = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, EOFError, NotImplementedError):
        _refuse(path, "ends early or is damaged (its list of parts, which comes last, is not there)", _AGAIN)
    names = [part.filename for part in parts]
    for pattern, kind, remedy in _ZIP_ENTRIES:
        if any(re.fullmatch(pattern, name) for name in names):
            _refuse(path, f"is {kind}", remedy)
    if not any(re.fullmatch(_TORCH_ZIP, name) for name in names):
        _refuse(path, "is a zip archive without the parts that torch.save writes", _UNPACK)
    # torch.save compresses nothing. A small archive that was made otherwise may unpack to more than there is memory.
    if sum(part.file_size for part in parts) > path.stat().st_size:
        _refuse(path, "is larger unpacked than packed, which torch.save does not do", "save it again with torch.save")


def _refuse(path: Path, cause: str, remedy: str) -> NoReturn:
    raise ModelError(f"{path}: {cause}; {remedy}")


def _brief(error: Exception) -> str:
    """The beginning of an error of a library in one line."""
    text = " ".join(str(error).split()) or type(error).__name__
    return shown(text, 120)
