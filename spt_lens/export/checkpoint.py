"""Single tensors of a safetensors file, read and written in place, one at a time.

A local Hugging Face checkpoint without its model: config, where its tensors lie, and which files belong to it.
"""

import math
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import huggingface_hub
import torch
from jaxtyping import Float
from torch import Tensor

from spt_lens.model import huggingface
from spt_lens.model.folders import INDEX, SINGLE, check_folder, check_safetensors, weight_files
from spt_lens.model.layout import Layout, Part, Pick, Projection, Shape, layout_of
from spt_lens.saving import bits, parsed

_FLOATS = "an adapter is written into a checkpoint of F32, F16 or BF16 only, not a quantised one"
DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


@dataclass(frozen=True)
class Place:
    """Where a tensor lies: `start` is its first byte in the file. `kind` is safetensors' name for its dtype."""

    file: str
    start: int
    kind: str
    shape: tuple[int, ...]

    @property
    def dtype(self) -> torch.dtype:
        return DTYPES[self.kind]

    def read(self, folder: Path) -> Float[Tensor, "rows cols"]:
        """A copy of the tensor, from the file of that name in `folder`."""
        data = bytearray(math.prod(self.shape) * self.dtype.itemsize)
        with open(folder / self.file, "rb") as file:
            file.seek(self.start)
            if file.readinto(data) != len(data):
                raise ValueError(f"{folder / self.file} is truncated: download or save it again")
        return torch.frombuffer(data, dtype=self.dtype).view(self.shape)

    def edit(self, folder: Path, change: Callable[[Float[Tensor, "rows cols"]], None]) -> None:
        """Reads the tensor, lets `change` work on it in place, and writes it back. Nothing else in the file moves."""
        value = self.read(folder)
        change(value)
        with open(folder / self.file, "r+b") as file:
            file.seek(self.start)
            file.write(bits(value).numpy().data)


def places(folder: Path, file: str) -> dict[str, Place]:
    """The tensors of a safetensors file. Raises ValueError when it is damaged."""
    check_safetensors(folder / file)
    with open(folder / file, "rb") as opened:
        (length,) = struct.unpack("<Q", opened.read(8))
        header = parsed(opened.read(length))
    return {
        name: Place(file, 8 + length + entry["data_offsets"][0], entry["dtype"], tuple(entry["shape"]))
        for name, entry in header.items()
        if name != "__metadata__"
    }


# Weights of other frameworks and formats: they would hold the untuned model.
_OTHER_WEIGHTS = re.compile(r".*\.(bin|pt|pth|ckpt|h5|msgpack|onnx|gguf|safetensors|index\.json|pkl|npz|ot)(\.\d+)?")
_DOWNLOADED = ["*.json", "*.safetensors", "*.jinja", "*.model", "*.tiktoken", "*.txt", "*.py", "*.md", "LICENSE*"]
_NOT_DOWNLOADED = ["*/*.json", "*/*.safetensors", "consolidated*", "*/*.md", "*/*.txt", "*/*.py", "*/*.model"]


@dataclass(frozen=True)
class Checkpoint:
    """A local Hugging Face folder: its config, and where its tensors lie, under the model's names for them."""

    folder: Path
    name: str
    architecture: str
    layout: Layout
    shape: Shape
    vocab_size: int
    files: tuple[str, ...]
    tensors: dict[str, Place]

    def fingerprint(self) -> dict[str, str | int]:
        """As `ModelView.fingerprint` of a model that is loaded from it."""
        return self.shape.fingerprint(self.architecture, self.vocab_size)

    def pick(self, part: Part) -> Pick:
        """Takes a part out of its tensor, as a view."""
        return self.layout.pick(self.shape, part.which, part.unit)

    def place(self, layer: int, which: Projection) -> Place:
        """Where a projection's weight lies.

        Raises: ValueError if the checkpoint lacks it, or it has another shape than the config says; NotImplementedError
        if it is not stored as floating-point numbers.
        """
        name = self.layout.module(layer, which) + ".weight"
        # Checkpoints saved from the model without its head, such as the first GPT-2, leave out the outermost name.
        found = self.tensors.get(name) or self.tensors.get(name.partition(".")[2])
        if found is None:
            raise ValueError(f"{self.folder} lacks the weight {name} of its config.json: download or save it again")
        if found.kind not in DTYPES:
            raise NotImplementedError(f"{name} in {self.folder} is stored as {found.kind}: {_FLOATS}")
        if found.shape != self._expected(which):
            raise ValueError(f"{name} in {self.folder} is {list(found.shape)}, expected {list(self._expected(which))}")
        return found

    def copied(self) -> list[str]:
        """Its files but hidden ones, those of other formats in folders, and weights that transformers does not read."""
        index = () if SINGLE in self.files else (INDEX,)
        found = [file for file in self.folder.iterdir() if file.is_file() and not file.name.startswith(".")]
        names = {file.name for file in found if not _OTHER_WEIGHTS.fullmatch(file.name)}
        templates = {f"{file.parent.name}/{file.name}" for file in self.folder.glob("additional_chat_templates/*.*")}
        return sorted(names | templates | {*self.files, *index})

    def _expected(self, which: Projection) -> tuple[int, ...]:
        shape, layout = self.shape, self.layout
        together = "qkv" if layout.fused and which != "o" else which
        outputs = sum(len(shape.units(each)) for each in cast(list[Projection], list(together)))
        sizes = (outputs * shape.d_head, shape.d_model)
        return sizes[::-1] if (which == "o") != layout.transposed else sizes


def open_checkpoint(base: str | Path, revision: str | None = None) -> Checkpoint:
    """Reads a checkpoint's config and the headers of its weight files. A hub name is downloaded to the cache first.

    Raises: as `checked_source`; OSError if the hub does not know the name, or cannot be reached; NotImplementedError
    for a quantised checkpoint, or an architecture whose heads' places are not known.
    """
    source = huggingface.checked_source(base)
    folder = Path(source)
    if folder.is_file() or huggingface.base_of(folder) is not None:
        kind = (
            "is a GGUF file, of packed weights"
            if folder.is_file()
            else "holds a PEFT adapter, merged when it is loaded"
        )
        raise NotImplementedError(
            f"{source} {kind}, so its files can't be copied with other slices: load it, apply the adapter to it, and "
            "export the model"
        )
    if not folder.is_dir():
        folder = _download(source, revision)
        check_folder(folder)
    config = huggingface.read_config(folder)
    if getattr(config, "quantization_config", None) is not None:
        raise NotImplementedError(f"{source} is quantised: {_FLOATS}. Name the one that it was quantised from")
    architecture = next(iter(config.architectures or ()), "a model of no named architecture")
    files = weight_files(folder)
    name = source if folder != Path(source) else huggingface.name_of(folder.resolve())
    tensors = {tensor: place for file in files for tensor, place in places(folder, file).items()}
    layout, shape = layout_of(architecture), Shape.of_config(config)
    return Checkpoint(folder, name, architecture, layout, shape, config.vocab_size, files, tensors)


def _download(name: str, revision: str | None) -> Path:
    patterns: Any = {"allow_patterns": _DOWNLOADED, "ignore_patterns": _NOT_DOWNLOADED}
    try:
        return Path(huggingface_hub.snapshot_download(name, revision=revision, **patterns))
    except (OSError, ValueError) as error:
        raise huggingface.not_there(name, error, wanted="get") from error
