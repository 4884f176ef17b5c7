"""What the page is told of the scores: numbers rounded for reading, orders and presets as Python computes them.

The page never ranks heads itself. Top k, presets and ranks come from `HeadScores`, so that a choice made in the page is
the one that the same call makes in Python. And what may be chosen in a picker, and where a selection came from.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from itertools import chain, count
from typing import Any

import numpy as np
import torch
import traitlets
from torch import Tensor

from spt_lens import saving
from spt_lens.chat.words import Words
from spt_lens.checking import instance
from spt_lens.data.pairs import ContrastPairs
from spt_lens.heads import HeadSet
from spt_lens.measure.report_html import answer_names
from spt_lens.measure.sets import check_scores
from spt_lens.model.ranks import warn_caller
from spt_lens.model.view import ModelView
from spt_lens.scores.head_scores import HeadScores
from spt_lens.statistics import By, heads_within
from spt_lens.view.scale import ONE_SIDED, SCALE, Meaning, limits, ticks

BY: tuple[By, ...] = ("signed", "size")
Layers = HeadScores | Mapping[str, HeadScores] | Sequence[HeadScores]


def named_layers(scores: Layers) -> dict[str, HeadScores]:
    """The score layers by the names that the page shows: a mapping's own, else how each was measured.

    Raises: TypeError for what is no HeadScores; ValueError if there are none, or they are of different shapes.
    """
    if isinstance(scores, HeadScores):
        scores = [scores]
    if isinstance(scores, Mapping):
        layers = {str(name): each for name, each in scores.items()}
    elif isinstance(scores, Iterable) and not isinstance(scores, (str, Tensor)):
        layers = {}
        for each in scores:
            own = _name(each) if isinstance(each, HeadScores) else str(len(layers))
            names = chain([own], (f"{own} ({copy})" for copy in count(2)))
            layers[next(name for name in names if name not in layers)] = each
    else:
        layers = {"": scores}
    for each in layers.values():
        instance(each, "scores", HeadScores, "measure them, e.g. by spt.activation_patching")
    if not layers:
        raise ValueError("there are no scores to pick from: give at least one HeadScores")
    shapes = {name: (each.n_layers, each.n_heads) for name, each in layers.items()}
    if len(set(shapes.values())) > 1:
        sizes = ", ".join(f"{name!r} {layer} x {head}" for name, (layer, head) in shapes.items())
        raise ValueError(f"all scores must be of one model, but their layers x heads differ: {sizes}")
    (first, model), *others = ((name, each.model_name) for name, each in layers.items())
    for name, other in others:
        if other != model:
            warn_caller(f"{name!r} is of {other}, and {first!r} of {model}: heads of two models are not the same heads")
    return layers


def _name(scores: HeadScores) -> str:
    if scores.method == "attention":
        return f"attention to the {scores.meta.get('span', 'prompt')}"
    details = [scores.direction if scores.direction != "denoising" else "", *scores.special()]
    details += [f"{scores.positions} positions" if scores.positions != "last" and scores.method != "knockout" else ""]
    details += [scores.metric if scores.metric != "recovery" else ""]
    details += [f"null of {scores.meta['null']}" if scores.meta.get("null") else ""]
    return ", ".join(filter(None, [scores.method, *details]))


def map_payload(layers: Mapping[str, HeadScores], budget: float, presets: Mapping[str, HeadSet]) -> dict[str, Any]:
    """All that the page is told of the scores. presets: selections by name, whose heads all have a score."""
    first = next(iter(layers.values()))
    k = heads_within(budget, first.n_layers * first.n_heads)
    return {
        "layers": [layer_payload(name, each, k) for name, each in layers.items()],
        "nLayers": first.n_layers,
        "nHeads": first.n_heads,
        "scale": [list(stop) for stop in SCALE],
        "oneSided": [list(stop) for stop in ONE_SIDED],
        "budget": budget,
        "budgetHeads": k,
        "presets": {name: flat(heads, first.n_heads) for name, heads in presets.items()},
    }


def layer_payload(name: str, scores: HeadScores, k: int) -> dict[str, Any]:
    """One layer of scores as the page takes it: flat lists over heads, layer by layer.

    k: what "top" means for the probability of being in it. A single pair has no intervals, probabilities or noise.
    """
    found: dict[str, Any] = dict.fromkeys(("low", "high", "top", "noise"))
    holds, above = None, (scores.values > 1) & scores.of_gap
    if scores.n_pairs > 1:
        low, high = scores.interval()
        holds, above = scores.marks(low, high)
        found = {"low": _short(low), "high": _short(high)}
        found["top"] = {by: _short(scores.top_probability(k, by), 3) for by in BY}
        found["noise"] = {by: flat(scores.beyond_zero(low, high, by), scores.n_heads) for by in BY}
    return {
        "name": name,
        "about": scores.describe(),
        "plainly": scores.plainly(),
        "rests": "" if scores.check is None else scores.check.line(),
        "warns": [] if scores.check is None else list(scores.check.warnings),
        "method": scores.method,
        "share": scores.of_gap,
        "single": scores.values.dtype == torch.float32,
        "values": _short(scores.values, 17 if scores.values.dtype == torch.float64 else 9),
        "order": {by: flat(scores.order(by), scores.n_heads) for by in BY},
        **found,
        "estimates": np.flatnonzero(~scores.measured.numpy().ravel()).tolist(),
        "quantity": scores.quantity,
        "oneSided": scores.one_sided,
        # Where its colours end: at first, and to show all; with the numbers beside them.
        "ends": [
            {"limit": limit, **ticks(scores.values, limit, scores.one_sided)}
            for limit in dict.fromkeys(limits(scores.values))
        ],
        "marks": Meaning(scores.quantity, scores.one_sided, holds, above).lines(scores.values),
    }


def sizes_payload(view: ModelView, projections: str = "auto") -> dict[str, Any]:
    """What the page counts weights by: a head's own, what each group shares, and the model's total."""
    letters = view.shape.letters(projections)
    return {
        "own": sum(letter in "qo" for letter in letters) * view.shape.part_size,
        "shared": sum(letter in "kv" for letter in letters) * view.shape.part_size,
        "group": view.shape.group,
        "total": view.n_params,
    }


def words_payload(pairs: ContrastPairs | None) -> dict[str, Any]:
    """What the page calls the two runs, the first one's prompts, and the answers."""
    words = Words() if pairs is None else pairs.words
    return {"runs": words.runs, "prompt": words.of("prompt"), "answers": answer_names(words)}


def flat(heads: HeadSet, n_heads: int) -> list[int]:
    """Heads as the page counts them: layer * n_heads + head."""
    return [layer * n_heads + head for layer, head in heads]


def _short(values: Tensor, digits: int = 5) -> list[float]:
    """Of few digits: 5,120 heads would take a megabyte otherwise. 9 give a float32 back exactly, 17 a float64."""
    return [float(f"{value:.{digits}g}") for value in values.flatten().tolist()]


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


def named_selections(presets: Mapping[str, HeadSet | str] | None, n_layers: int, n_heads: int) -> dict[str, HeadSet]:
    """Selections by name. Raises ValueError, with the name, as `fitting` does."""
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
    check_scores(view, scores)
    instance(pairs, "pairs", ContrastPairs, "take those of a behaviour, or ContrastPairs.of")
    if view.name != scores.model_name:
        message = f"the scores are of {scores.model_name} and the model is {view.name}: is it the one they are of?"
        warn_caller(message)


def heads_in(numbers: Any, n_layers: int, n_heads: int) -> HeadSet | None:
    """The heads that a page names by their flat numbers; None if it names anything else."""
    every = range(n_layers * n_heads)
    if not isinstance(numbers, (list, tuple)) or not all(type(i) is int and i in every for i in numbers):
        return None
    return HeadSet(tuple(divmod(i, n_heads) for i in numbers))  # type: ignore[misc]


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


def page_provenance(name: str, budget: float, layers: Mapping[str, HeadScores]) -> dict[str, Any]:
    """`provenance` of what a page without a kernel saves, which dates it: also of which scores' numbers it is."""
    about = provenance(name, budget, layers)
    scores = [{**each, "digest": digest_of(s)} for each, s in zip(about["scores"], layers.values(), strict=True)]
    by = about["chosen_by"].replace("HeadPicker", "a HeadPicker's page")
    return {**about, "scores": scores, "chosen_by": by, "date": ""}


def digest_of(scores: HeadScores) -> str:
    """Tells scores from others, by every number of every pair."""
    return str(saving.weights_digest([("per_pair", scores.per_pair)]).hexdigest()[:16])
