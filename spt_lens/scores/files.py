"""Head scores as one safetensors file: the tensors, with the description as JSON in the header."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as safetensors_bytes

if TYPE_CHECKING:
    from spt_lens.scores.head_scores import HeadScores


HEADER = "spt_lens.scores"
TENSORS = ("values", "per_pair")
OPTIONAL = ("logit_differences", "base", "target", "verified")
TEXTS = ("method", "direction", "positions", "model_name")
LATER = ("engine", "metric")  # texts that files of the first version lack


def save_scores(scores: HeadScores, path: str | Path) -> None:
    """Writes one file. Raises OSError when it can't be written, TypeError when JSON can't hold `meta`."""
    about = {name: getattr(scores, name) for name in (*TEXTS, *LATER, "meta")}
    found = {name: getattr(scores, name) for name in (*TENSORS, *OPTIONAL)}
    # Cloned, since the format refuses tensors that share memory, such as two rows of one.
    tensors = {
        name: tensor.clone(memory_format=torch.contiguous_format)
        for name, tensor in found.items()
        if tensor is not None
    }
    # Made whole before the file is opened: what can't be written as JSON must not cost the file that is there.
    data = safetensors_bytes(tensors, metadata={HEADER: json.dumps(about)})
    Path(path).write_bytes(data)


def load_scores(path: str | Path) -> HeadScores:
    """Reads what `save_scores` wrote, also before there were the optional tensors.

    Raises: FileNotFoundError, or ValueError for a damaged or a different file.
    """
    from spt_lens.scores.head_scores import HeadScores

    if not Path(path).is_file():
        raise FileNotFoundError(f"{path} does not exist")
    try:
        with safe_open(str(path), framework="pt") as file:
            about = json.loads((file.metadata() or {})[HEADER])
            present = set(file.keys())
            tensors = {name: file.get_tensor(name) for name in (*TENSORS, *OPTIONAL) if name in {*TENSORS, *present}}
        texts = {name: about[name] for name in (*TEXTS, *LATER) if name in {*TEXTS, *about}}
        odd = [name for name, text in texts.items() if not isinstance(text, str)]
        if odd or not isinstance(about["meta"], dict):
            raise ValueError(f"{', '.join(odd) or 'meta'} in its header is of a wrong type")
        return HeadScores(**texts, meta=about["meta"], **tensors)
    except (SafetensorError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} does not hold saved head scores, or is damaged: {error}") from error
