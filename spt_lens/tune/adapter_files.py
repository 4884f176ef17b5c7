"""An adapter's two files: tensors in safetensors, the rest in JSON with the tensors' checksum."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

TENSORS, DESCRIPTION = "adapter.safetensors", "adapter.json"
_FORMAT = "spt_lens adapter 1"


def write(folder: Path, tensors: Mapping[str, Tensor], description: Mapping[str, Any]) -> Path:
    """Writes both files, each in one move, so that no reader ever sees half a file; returns the folder.

    Raises:
        OSError: the folder can't be made or written to.
    """
    # Copies: safetensors refuses tensors that share memory, and a caller's before and after may.
    own = {name: value.detach().cpu().clone(memory_format=torch.contiguous_format) for name, value in tensors.items()}
    data = save(own)
    # The checksum ties the two files together: an interrupt between the two moves is noticed on loading.
    known = {"format": _FORMAT, "sha256": hashlib.sha256(data).hexdigest(), **description}
    text = json.dumps(known, indent=2).encode()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(f"Can't make the folder {folder} for the adapter: {error.strerror or error}.") from error
    if not os.access(folder, os.W_OK):
        raise PermissionError(f"Can't write to the folder {folder}; choose another one for the adapter.")
    _replace(folder / TENSORS, data)
    _replace(folder / DESCRIPTION, text)
    return folder


def read(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors (on the CPU) and the description.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file is truncated or damaged, or the two don't belong together.
    """
    for name in (TENSORS, DESCRIPTION):
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"No adapter in {folder}: {name} is missing. Give the folder that adapter.save wrote."
            )
    try:
        description = json.loads((folder / DESCRIPTION).read_text())
    except ValueError as error:
        raise ValueError(f"{folder / DESCRIPTION} is not whole JSON ({error}); save the adapter again.") from error
    if not isinstance(description, dict) or description.get("format") != _FORMAT:
        raise ValueError(f"{folder / DESCRIPTION} does not describe an adapter of this library ({_FORMAT!r}).")
    data = (folder / TENSORS).read_bytes()
    if hashlib.sha256(data).hexdigest() != description.get("sha256"):
        raise ValueError(
            f"{folder / TENSORS} is truncated or damaged, or not what {DESCRIPTION} belongs to; save it again."
        )
    try:
        return load(data), description
    except SafetensorError as error:
        raise ValueError(f"{folder / TENSORS} is not a whole safetensors file ({error}).") from error


def _replace(path: Path, data: bytes) -> None:
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.chmod(temporary, 0o644)  # mkstemp makes files that only their owner may read
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
