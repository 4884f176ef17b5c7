"""Head scores as one safetensors file: the tensors, with the description as JSON in the header."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from spt_lens import saving

if TYPE_CHECKING:
    from spt_lens.scores.head_scores import HeadScores


TENSORS = ("values", "per_pair")
OPTIONAL = ("logit_differences", "base", "target", "verified")
TEXTS = ("method", "direction", "positions", "model_name")
LATER = ("engine", "metric")  # texts that files of the first version lack


def save_scores(scores: HeadScores, path: str | Path) -> None:
    """Writes one file. Raises OSError when it can't be written, TypeError when JSON can't hold `meta`."""
    about = {name: getattr(scores, name) for name in (*TEXTS, *LATER, "meta")}
    found = {name: getattr(scores, name) for name in (*TENSORS, *OPTIONAL)}
    saving.save_tensors(path, "scores", {name: each for name, each in found.items() if each is not None}, about)


def load_scores(path: str | Path) -> HeadScores:
    """Reads what `save_scores` wrote, also before there were the optional tensors.

    Raises: FileNotFoundError, or ValueError for a damaged or a different file.
    """
    from spt_lens.scores.head_scores import HeadScores

    tensors, about = saving.load_tensors(path, "scores")
    with saving.reading(path, "scores"):
        texts: Any = {name: saving.entry(about, name, str) for name in (*TEXTS, *LATER) if name in {*TEXTS, *about}}
        found: Any = {name: tensors[name] for name in (*TENSORS, *OPTIONAL) if name in {*TENSORS, *tensors}}
        return HeadScores(**texts, meta=saving.entry(about, "meta", dict), **found)
