"""Head scores as one safetensors file: the tensors, with the description as JSON in the header."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from spt_lens import saving

Scores = TypeVar("Scores")

TENSORS = ("values", "per_pair", "logit_differences", "base", "target", "verified")
TEXTS = ("method", "direction", "positions", "model_name", "engine", "metric")


def save_scores(fields: Mapping[str, Any], path: str | Path) -> None:
    """Writes the fields of HeadScores. Raises OSError if that fails, TypeError if JSON can't hold `meta`."""
    tensors = {name: fields[name] for name in TENSORS if fields[name] is not None}
    saving.save_tensors(path, "scores", tensors, {name: fields[name] for name in (*TEXTS, "meta")})


def load_scores(path: str | Path, make: Callable[..., Scores]) -> Scores:
    """What `make` makes of the fields that were saved: files of earlier versions lack some.

    Raises: FileNotFoundError, or ValueError for a damaged or a different file.
    """
    tensors, about = saving.load_tensors(path, "scores")
    with saving.reading(path, "scores"):
        texts = {name: saving.entry(about, name, str) for name in TEXTS if name in about}
        found = {name: tensors[name] for name in TENSORS if name in tensors}
        return make(**texts, **found, meta=saving.entry(about, "meta", dict))
