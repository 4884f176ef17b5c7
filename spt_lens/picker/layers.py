"""What the page is told of the scores: numbers rounded for reading, orders and presets as Python computes them.

The page never ranks heads itself. Top k, presets and ranks come from `HeadScores`, so that a choice made in the page is
the one that the same call makes in Python.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import unescape
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spt_lens.heads import HeadSet, projection_letters
from spt_lens.measure.statistics import By, heads_within
from spt_lens.models import ModelView
from spt_lens.score_compare import special
from spt_lens.scores import HeadScores
from spt_lens.view.heatmap import SCALE, colour_limit, describe

BY: tuple[By, ...] = ("signed", "size")
Layers = HeadScores | Mapping[str, HeadScores] | Sequence[HeadScores]


def named_layers(scores: Layers) -> dict[str, HeadScores]:
    """The score layers by the names that the page shows: a mapping's own, else how each was measured.

    Raises:
        TypeError: Something in it is not HeadScores.
        ValueError: There are none, or they are of different shapes.
    """
    if isinstance(scores, HeadScores):
        scores = [scores]
    if isinstance(scores, Mapping):
        layers = {str(name): each for name, each in scores.items()}
    elif isinstance(scores, Iterable) and not isinstance(scores, (str, Tensor)):
        layers = {}
        for each in scores:
            name = own = _name(each) if isinstance(each, HeadScores) else str(len(layers))
            copy = 1
            while name in layers:
                copy += 1
                name = f"{own} ({copy})"
            layers[name] = each
    else:
        layers = {"": scores}
    odd = [each for each in layers.values() if not isinstance(each, HeadScores)]
    if odd:
        raise TypeError(f"expected HeadScores, got {type(odd[0]).__name__}: measure them, e.g. by spt.head_recovery")
    if not layers:
        raise ValueError("there are no scores to pick from: give at least one HeadScores")
    shapes = {name: (each.n_layers, each.n_heads) for name, each in layers.items()}
    if len(set(shapes.values())) > 1:
        sizes = ", ".join(f"{name!r} {layer} x {head}" for name, (layer, head) in shapes.items())
        raise ValueError(f"all scores must be of one model, but their layers x heads differ: {sizes}")
    return layers


def _name(scores: HeadScores) -> str:
    if scores.method == "attention":
        return f"attention to the {scores.meta.get('span', 'prompt')}"
    details = [scores.direction if scores.direction != "denoising" else "", *special(scores)]
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
        "budget": budget,
        "budgetHeads": k,
        "presets": {name: flat(heads, first.n_heads) for name, heads in presets.items()},
    }


def layer_payload(name: str, scores: HeadScores, k: int) -> dict[str, Any]:
    """One layer of scores as the page takes it: flat lists over heads, layer by layer.

    k: what "top" means for the probability of being in it. A single pair has no intervals, probabilities or noise.
    """
    several = scores.n_pairs > 1
    low, high = scores.interval() if several else (None, None)
    return {
        "name": name,
        "about": unescape(describe(scores)),
        "method": scores.method,
        "single": scores.values.dtype == torch.float32,
        "values": _short(scores.values, 17 if scores.values.dtype == torch.float64 else 9),
        "low": None if low is None else _short(low),
        "high": None if high is None else _short(high),
        "order": {by: flat(scores.order(by), scores.n_heads) for by in BY},
        "top": {by: _short(scores.top_probability(k, by), 3) for by in BY} if several else None,
        "noise": None
        if low is None or high is None
        else {by: flat(scores.beyond_zero(low, high, by), scores.n_heads) for by in BY},
        "estimates": np.flatnonzero(~scores.measured.numpy().ravel()).tolist(),
        "limit": float(colour_limit(scores)),
    }


def sizes_payload(view: ModelView, projections: str = "auto") -> dict[str, Any]:
    """What the page counts weights by: a head's own, what each group shares, and the model's total."""
    letters = projection_letters(view, projections)
    matrix = view.d_head * view.d_model
    return {
        "own": sum(letter in "qo" for letter in letters) * matrix,
        "shared": sum(letter in "kv" for letter in letters) * matrix,
        "group": view.n_heads // view.n_kv_heads,
        "total": view.n_params,
    }


def flat(heads: HeadSet, n_heads: int) -> list[int]:
    """Heads as the page counts them: layer * n_heads + head."""
    return [layer * n_heads + head for layer, head in heads]


def unflat(indices: Sequence[int], n_heads: int) -> HeadSet:
    """The reverse of `flat`."""
    return HeadSet(tuple(divmod(i, n_heads) for i in indices))  # type: ignore[misc]


def _short(values: Tensor, digits: int = 5) -> list[float]:
    """Of few digits: 5,120 heads would take a megabyte otherwise. 9 give a float32 back exactly, 17 a float64."""
    return [float(f"{value:.{digits}g}") for value in values.flatten().tolist()]
