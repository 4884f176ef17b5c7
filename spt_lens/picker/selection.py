"""What may be chosen in a picker, and where a selection came from."""

from __future__ import annotations

import datetime
import warnings
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import traitlets

from spt_lens.data.pairs import ContrastPairs
from spt_lens.heads import HeadSet
from spt_lens.models import ModelView
from spt_lens.picker.layers import unflat
from spt_lens.scores import HeadScores


class SelectionError(traitlets.TraitError, ValueError):
    """A selection that a picker can't hold. traitlets puts back what was there only after an error of its own."""


class Chosen(traitlets.Any):
    """A trait whose validator sees every value: traitlets.Any takes None as it is.

    While a page's message is taken (`lock` held), traitlets puts off the checks of all traits: a cell that sets this
    one meanwhile waits.
    """

    allow_none = False

    def set(self, obj: Any, value: Any) -> None:
        with obj.lock:
            super().set(obj, value)


def share(budget: Any) -> float:
    """A share of all heads. Raises ValueError for what is none."""
    try:
        if not isinstance(budget, bool) and 0 < float(budget) <= 1:
            return float(budget)
    except (TypeError, ValueError):
        pass
    raise ValueError(f"budget={budget!r}: give a share of all heads above 0 and up to 1, e.g. 0.05")


def fitting(heads: Any, n_layers: int, n_heads: int) -> HeadSet:
    """What `HeadSet.of` takes, as a HeadSet. Raises SelectionError for heads that have no score, or what is no head."""
    try:
        found = heads if isinstance(heads, HeadSet) else HeadSet.of(heads)
    except ValueError as error:
        raise SelectionError(str(error)) from None
    odd = [str(head) for head in found if head.layer >= n_layers or head.head >= n_heads]
    if odd:
        raise SelectionError(f"{', '.join(odd)} have no score: there are {n_layers} layers x {n_heads} heads")
    return found


def named_selections(presets: Mapping[str, HeadSet] | None, n_layers: int, n_heads: int) -> dict[str, HeadSet]:
    """Selections by name. Raises TypeError if they are no mapping; ValueError, with the name, as `fitting` does."""
    if presets is not None and not isinstance(presets, Mapping):
        raise TypeError(f'presets are selections by name, such as {{"mine": heads}}, not {type(presets).__name__}')
    found = {}
    for name, heads in (presets or {}).items():
        try:
            found[str(name)] = fitting(heads, n_layers, n_heads)
        except ValueError as error:
            raise ValueError(f"preset {str(name)!r}: {error}") from None
    return found


def check_model(view: ModelView, pairs: ContrastPairs, scores: HeadScores) -> None:
    """Raises ValueError for a model of another shape than the scores', TypeError for pairs that are none.

    A model of another name gives a warning, for the line that called the caller.
    """
    if (view.n_layers, view.n_heads) != (scores.n_layers, scores.n_heads):
        raise ValueError(
            f"the scores are of {scores.n_layers} layers x {scores.n_heads} heads, {view.name} has {view.n_layers} x "
            f"{view.n_heads}: measure them on this model"
        )
    if not isinstance(pairs, ContrastPairs):
        raise TypeError(f"expected ContrastPairs, got {type(pairs).__name__}: make them, e.g. by spt.are_you_sure")
    if view.name != scores.model_name:
        message = f"the scores are of {scores.model_name} and the model is {view.name}: is it the one they are of?"
        warnings.warn(message, stacklevel=3)


def heads_in(numbers: Any, n_layers: int, n_heads: int) -> HeadSet | None:
    """The heads that a page names by their flat numbers; None if it names anything else."""
    every = range(n_layers * n_heads)
    if not isinstance(numbers, (list, tuple)) or not all(type(i) is int and i in every for i in numbers):
        return None
    return unflat(numbers, n_heads)


def provenance(name: str, budget: float, layers: Mapping[str, HeadScores]) -> dict[str, Any]:
    """Where a selection came from, as JSON holds it: what an adapter tuned on it keeps in meta["selection"]."""
    keys = ("method", "direction", "positions", "metric", "n_pairs", "model_name")
    try:
        ours = f"spt_lens {version('spt-lens')}"
    except PackageNotFoundError:  # run from its source folder
        ours = "spt_lens"
    return {
        "name": name,
        "model": next(iter(layers.values())).model_name,
        "scores": [{"layer": layer, **{key: getattr(s, key) for key in keys}} for layer, s in layers.items()],
        "chosen_by": f"HeadPicker, {ours}",
        "budget": budget,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
