"""Checkpoints in one GGUF file, by transformers' own reader. The numbers come out dequantised, as ordinary weights."""

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, BinaryIO
from unittest import mock

from transformers import modeling_gguf_pytorch_utils

# Bytes of a header's numbers by their type; 8 is text, 9 a list.
_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_LONGEST_HEADER = 256 * 2**20  # bytes; those of models with a quarter of a million tokens take about 15 million
_AGAIN = "download or convert it again"


def is_gguf(source: str | Path) -> bool:
    """Whether a checkpoint is named by its .gguf file."""
    return str(source).lower().endswith(".gguf") and Path(source).is_file()


def where(source: str | Path) -> tuple[str, dict[str, str]]:
    """A checkpoint as transformers wants it: the place, and the option that names a GGUF file in it."""
    file = Path(source)
    return (str(file.parent), {"gguf_file": file.name}) if is_gguf(source) else (str(source), {})


def unmarked(plain: Any) -> Any:
    """The model without the mark of a quantised one, which its weights are no longer: it may be saved and trained."""
    if getattr(plain, "hf_quantizer", None) is not None:
        plain.hf_quantizer, plain.is_quantized, plain.quantization_method = None, False, None
        plain.config.__dict__.pop("quantization_config", None)
    return plain


@contextmanager
def quiet() -> Iterator[None]:
    """Without transformers' bar of the tensors that it dequantises, which nothing else turns off."""
    silent = partial(modeling_gguf_pytorch_utils.tqdm, disable=True)
    with mock.patch.object(modeling_gguf_pytorch_utils, "tqdm", silent):
        yield


@contextmanager
def kept_tokenizer(tokenizer: Any, trust_remote_code: bool) -> Iterator[None]:
    """In the block TransformerLens, which reads a tokenizer a second time, is told whether its own code may run.

    It passes these arguments on; without that one transformers would ask on stdin. The tokenizer of a GGUF file, which
    it can't read, it keeps.
    """
    known = dict(tokenizer.init_kwargs)
    try:
        tokenizer.init_kwargs["trust_remote_code"] = trust_remote_code
        if is_gguf(tokenizer.name_or_path):
            tokenizer.init_kwargs["add_bos_token"] = True  # what it asks for
        yield
    finally:
        tokenizer.init_kwargs.clear()
        tokenizer.init_kwargs.update(known)


def check_gguf(file: Path) -> None:
    """Checks that a GGUF file is whole and can be read, by its header alone.

    Raises: ImportError without the package gguf; ValueError for a damaged, truncated or split file, or one of numbers
    that the package does not know.
    """
    if find_spec("gguf") is None:
        raise ImportError(f"{file} is read by the package gguf: pip install 'spt-lens[gguf]'")
    size = file.stat().st_size
    with open(file, "rb") as opened:
        try:
            _check_header(opened, size)
        except (struct.error, OverflowError) as error:
            raise ValueError(f"{file} is truncated or damaged (its header ends too soon): {_AGAIN}") from error
        except ValueError as error:
            raise ValueError(f"{file} is no whole GGUF file ({error}): {_AGAIN}") from error


def _check_header(file: BinaryIO, size: int) -> None:
    from gguf import GGML_QUANT_SIZES

    def take(form: str) -> Any:
        return struct.unpack(f"<{form}", file.read(struct.calcsize(f"<{form}")))[0]

    def skip(length: int) -> None:
        if file.tell() + length > min(size, _LONGEST_HEADER):
            raise ValueError("its header goes on beyond its end")
        file.seek(length, 1)

    def text() -> bytes:
        length = take("Q")
        here = file.tell()
        skip(length)
        file.seek(here)
        return file.read(length)

    if file.read(4) != b"GGUF":
        raise ValueError("it does not begin with GGUF")
    if (version := take("I")) not in (2, 3):
        raise ValueError(f"it is of version {version}, and 2 and 3 are read")
    tensors, fields = take("Q"), take("Q")
    if tensors == 0:
        raise ValueError("it holds no weights")
    alignment = 32
    for _ in range(fields):
        name, kind = text(), take("I")
        if name == b"general.alignment" and kind == 4:
            alignment = take("I") or 32
        elif name == b"split.count" and kind in _SIZES and int.from_bytes(file.read(_SIZES[kind]), "little") > 1:
            raise ValueError("it is one part of several: join them by llama.cpp's llama-gguf-split --merge first")
        elif name != b"split.count":
            inner, count = (take("I"), take("Q")) if kind == 9 else (kind, 1)
            if inner in _SIZES:
                skip(_SIZES[inner] * count)
            elif inner == 8:
                for _ in range(count):
                    skip(take("Q"))
            else:
                raise ValueError(f"{name[:40].decode(errors='replace')} is of the unknown type {inner}")
    ends = []
    for _ in range(tensors):
        name, many = text(), 1
        for _ in range(min(take("I"), 9)):
            many *= take("Q")
        kind, start = take("I"), take("Q")
        if kind not in GGML_QUANT_SIZES:
            raise ValueError(f"{name[:40].decode(errors='replace')} holds numbers of the unknown type {kind}")
        block, length = GGML_QUANT_SIZES[kind]
        ends.append(start + many // block * length)
    begin = -(-file.tell() // alignment) * alignment
    if begin + max(ends) > size:
        raise ValueError(f"it is truncated: it has {size:,} bytes, and its weights end at {begin + max(ends):,}")
