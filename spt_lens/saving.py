"""Files that are there whole or not at all, and that say what they are; what is read back is checked in every part.

Each holds a checksum of what it says: one that was damaged on the disk is refused, and never read as other numbers.
"""

import hashlib
import json
import math
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd
import torch
from safetensors import SafetensorError
from safetensors.torch import load as tensors_of_bytes
from safetensors.torch import save as bytes_of_tensors
from torch import Tensor

from spt_lens import files
from spt_lens.checking import a_path, existing_file

Result = TypeVar("Result")

# All that reading a damaged file, or one of another kind, can raise.
DAMAGE = (ArithmeticError, AttributeError, LookupError, RecursionError, SafetensorError, TypeError, ValueError)


LONGEST = 256 * 2**20  # bytes of a JSON file; the tokenizers of the largest vocabularies take 40 million
DEEPEST = 64  # levels of lists and objects in one another
SEAL = "sha256"


def write_bytes(path: str | Path, data: bytes, new: bool = False) -> Path:
    """Writes a file by one rename: a kill at any moment leaves the old file or the new one. Returns the path.

    A link is written through to what it points to. The permissions are those of the file that was there, or of any new
    one. What a killed run left half-written beside the file is removed. new: of two that write it, one alone does.

    Raises: OSError when the file can't be written; IsADirectoryError for a folder; FileExistsError if it is to be new.
    """
    path = a_path(path)
    target = Path(os.path.realpath(path))
    if target.is_dir():
        raise IsADirectoryError(f"{path} is a folder: name a file in it")
    try:
        if target.exists() and not target.is_file():  # a pipe or a device: nothing to keep, nothing to rename
            target.write_bytes(data)
        else:
            files.put(target, data, new)
    except OSError as error:
        raise OSError(error.errno, f"cannot write {path} ({error.strerror or error})") from error
    return path


def write_text(path: str | Path, text: str) -> Path:
    """`write_bytes` of text as UTF-8."""
    return write_bytes(path, text.encode("utf-8"))


@contextmanager
def reading(path: str | Path, kind: str) -> Iterator[None]:
    """Whatever a damaged file makes the block raise becomes one ValueError that names the file."""
    try:
        yield
    except DAMAGE as error:
        found = f"{error} is missing" if isinstance(error, KeyError) else str(error) or type(error).__name__
        found = found if len(found) <= 300 else f"{found[:300]} ..."  # it may quote the file
        raise ValueError(f"{path} holds no saved {kind}, or is damaged: {found}") from error


def make_folder(folder: Path, what: str) -> None:
    """Makes a folder, and those above it, unless it is there. Raises OSError that names it, and what it is for."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(error.errno, f"cannot make the folder {folder} for {what} ({error.strerror})") from error


def writable(folder: str | Path, what: str) -> Path:
    """The folder, made if need be, and known to be writable before anything long begins. Raises OSError."""
    folder = a_path(folder, "folder").expanduser()
    make_folder(folder, what)
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        way_out = f"{folder} can't be written to ({error.strerror}): choose another folder for {what}"
        raise OSError(error.errno, way_out) from error
    return folder


def parsed(text: str | bytes) -> Any:
    """What JSON text holds. Raises ValueError for what is no JSON, or nested too deeply to be worked with."""
    too_deep = f"it is nested in more than {DEEPEST} levels"
    try:
        found = json.loads(text)
    except RecursionError:
        raise ValueError(too_deep) from None
    level = [found]
    for _ in range(DEEPEST + 1):
        level = [x for each in level if isinstance(each, dict | list) for x in _inside(each)]
    if level:
        raise ValueError(too_deep)
    return found


def _inside(each: dict[str, Any] | list[Any]) -> Iterable[Any]:
    return each.values() if isinstance(each, dict) else each


def read_json(path: str | Path, kind: str) -> Any:
    """What a JSON file holds. Raises as `existing_file`; ValueError for what is no JSON, or too long or deep."""
    file = existing_file(path)
    with reading(path, kind):
        if (length := file.stat().st_size) > LONGEST:
            raise ValueError(f"it has {length:,} bytes, and up to {LONGEST:,} are read")
        return parsed(file.read_text(encoding="utf-8"))


def sealed(data: Mapping[str, Any]) -> dict[str, Any]:
    """The data with a checksum of all that it says, as `unsealed` takes it."""
    return {**data, SEAL: _checksum(data)}


def unsealed(data: Mapping[str, Any]) -> dict[str, Any]:
    """The data without its checksum, if it has one: what was written by hand has none.

    Raises: ValueError if it is the checksum of something else.
    """
    found = {name: value for name, value in data.items() if name != SEAL}
    if SEAL in data and data[SEAL] != _checksum(found):
        raise ValueError(f'it was changed after it was saved; if by you, take its "{SEAL}" out, and it is read')
    return found


def _checksum(data: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(data, allow_nan=False).encode()).hexdigest()


def save_json(path: str | Path, kind: str, data: Mapping[str, Any], new: bool = False) -> Path:
    """Writes {"kind": kind, **data}. Raises as `write_bytes`; TypeError or ValueError for what JSON can't hold."""
    text = json.dumps(sealed({"kind": kind, **data}), indent=1, allow_nan=False)
    return write_bytes(path, f"{text}\n".encode(), new)


def load_json(path: str | Path, kind: str, make: Callable[[Mapping[str, Any]], Result]) -> Result:
    """What `make` makes of the data that `save_json` wrote.

    Raises: as `existing_file`; ValueError for a damaged file or one of another kind.
    """
    data = read_json(path, kind)
    with reading(path, kind):
        if not isinstance(data, dict) or data.get("kind") != kind:
            other = data.get("kind") if isinstance(data, dict) else None
            raise ValueError(f"it holds a {other}" if isinstance(other, str) else "it is something else")
        return make(unsealed(data))


def save_tensors(path: str | Path, kind: str, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> Path:
    """Writes one safetensors file with the description as JSON in its header. Raises as `save_json` does."""
    # Copies, since the format refuses tensors that share memory, such as two rows of one.
    own = {name: value.detach().cpu().clone(memory_format=torch.contiguous_format) for name, value in tensors.items()}
    # One entry: of several, the order in the header is another each time.
    said = json.dumps({**about, SEAL: _tensors_checksum(own, json.dumps(about))})
    return write_bytes(path, bytes_of_tensors(own, {f"spt_lens.{kind}": said}))


def load_tensors(path: str | Path, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What `save_tensors` wrote. The tensors are copies: the file may change or go. Raises as `load_json` does."""
    file = existing_file(path)
    with reading(path, kind):
        data = file.read_bytes()
        tensors = tensors_of_bytes(data)
        header = parsed(data[8 : 8 + int.from_bytes(data[:8], "little")]).get("__metadata__") or {}
        name = f"spt_lens.{kind}"
        if name not in header:
            raise ValueError(f"its header tells of {', '.join(header) or 'nothing'}, not of {name}")
        about = parsed(header[name])
        if not isinstance(about, dict):
            raise ValueError("the description in its header is no JSON object")
        seal = about.pop(SEAL, None)
        if seal is not None and seal != _tensors_checksum(tensors, json.dumps(about)):
            raise ValueError("it was changed after it was saved")
        return tensors, about


def _tensors_checksum(tensors: Mapping[str, Tensor], said: str) -> str:
    digest = weights_digest(sorted(tensors.items()))
    digest.update(str([(name, str(value.dtype), *value.shape) for name, value in sorted(tensors.items())]).encode())
    digest.update(said.encode())
    return str(digest.hexdigest())


def bits(tensor: Tensor) -> Tensor:
    """The bytes of a tensor, on the CPU."""
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8)


def weights_digest(weights: Iterable[tuple[str, Tensor]]) -> Any:
    """A SHA-256 of names and every bit, in order; of weights that are not in memory, the names alone."""
    digest = hashlib.sha256()
    for name, weight in weights:
        digest.update(name.encode())
        digest.update(b"" if weight.is_meta else bits(weight).numpy().data)  # where it lies: a copy is large
    return digest


def same_bits(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are the same in dtype, shape and every bit."""
    return one.dtype == other.dtype and one.shape == other.shape and torch.equal(bits(one), bits(other))


def same_place(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are the same memory, seen in the same way."""
    return all(same(one) == same(other) for same in (Tensor.data_ptr, Tensor.stride, Tensor.size, lambda t: t.dtype))


def entry(data: Mapping[str, Any], name: str, kind: type[Result]) -> Result:
    """One entry, checked. Raises KeyError if there is none, ValueError if it is of another type."""
    value = data[name]
    if not _is(value, kind):
        raise ValueError(f"{name} must be {kind.__name__}, and is {str(value)[:40]!r}")
    return kind(value) if kind is float else value  # type: ignore[call-arg]


def choice(data: Mapping[str, Any], name: str, allowed: tuple[Any, ...]) -> Any:
    """One entry that must be one of a few. Raises KeyError if there is none, ValueError if it is another."""
    if data[name] not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, allowed))}, and is {str(data[name])[:40]!r}")
    return data[name]


def rows(table: pd.DataFrame) -> list[dict[str, Any]]:
    """A table's rows for JSON; None where a number is missing."""
    return [
        {str(name): None if isinstance(value, float) and math.isnan(value) else value for name, value in row.items()}
        for row in table.to_dict("records")
    ]


def table(
    data: Mapping[str, Any], columns: Mapping[str, type], name: str = "table", empty: bool = False
) -> pd.DataFrame:
    """The table of `data[name]`, with these columns: int, float (None is nan), str or bool. empty: it may have no rows.

    Raises: KeyError if there is none; ValueError if it has no rows, or any value is of another type or not finite.
    """
    found, its = data[name], "its table" if name == "table" else f"its table {name}"
    if not isinstance(found, list) or not (found or empty):
        raise ValueError(f"{its} has no rows")
    for i, row in enumerate(found):
        if not isinstance(row, dict) or row.keys() != columns.keys():
            raise ValueError(f"row {i} of {its} does not have the columns {', '.join(columns)}")
        for column, kind in columns.items():
            if not _is(row[column], kind) and not (kind is float and row[column] is None):
                raise ValueError(f"{column} in row {i} of {its} is {str(row[column])[:40]!r}, no {kind.__name__}")
    values = {column: [row[column] for row in found] for column in columns}
    return pd.DataFrame({column: pd.Series(values[column], dtype=kind) for column, kind in columns.items()})


def _is(value: Any, kind: type) -> bool:
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return isinstance(value, kind) and not (kind is int and isinstance(value, bool))
