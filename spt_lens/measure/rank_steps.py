"""What curves over ranked heads share: at which numbers of heads to measure, and which random heads to set beside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from spt_lens.heads import HeadSet
from spt_lens.measure import saved
from spt_lens.models import ModelView
from spt_lens.scores import HeadScores


def ranked_heads(view: ModelView, heads: HeadScores | HeadSet) -> HeadSet:
    """All heads by their scores, the highest first, or a selection in its own order.

    Raises: TypeError for anything else; ValueError for an empty selection, or heads that the model does not have.
    """
    if not isinstance(heads, HeadScores | HeadSet):
        raise TypeError(f"expected HeadScores or a HeadSet, got {type(heads).__name__}: use HeadSet.of(...)")
    ranked = heads.top(view.n_layers * view.n_heads) if isinstance(heads, HeadScores) else heads
    ranked.check(view)
    return ranked


def steps(ks: Sequence[int] | None, n: int, largest: int) -> list[int]:
    """The numbers of heads to measure at, in order and once each; default 0, 1, 2, 4 and so on, up to `largest`."""
    if ks is None:
        largest = min(n, largest)
        doubling = [2**i for i in range(largest.bit_length()) if 2**i < largest]
        return [0, *doubling, largest]
    if not ks or min(ks) < 0 or max(ks) > n:
        raise ValueError(f"ks={list(ks)} must be numbers of heads from 0 to {n}, and at least one")
    return sorted(set(ks))


def runs(
    view: ModelView, ranked: HeadSet, at: Sequence[int], n_random: int, seed: int
) -> list[tuple[int, str, int, HeadSet]]:
    """Every set of heads to measure, as (k, "ranked" or "random", draw, heads).

    Made before any of them is measured: an impossible draw is an early error.

    Raises: ValueError for a negative n_random, or more heads to draw than there are.
    """
    check_n_random(n_random)
    found = [(k, "ranked", 0, ranked[:k]) for k in at]
    for k in at:
        for draw in range(n_random if k else 0):
            found.append((k, "random", draw, matched_random(view, ranked[:k], seed + draw)))
    return found


def matched_random(view: ModelView, heads: HeadSet, seed: int) -> HeadSet:
    """As many other heads in each layer; where a layer has too few others, heads of any layer."""
    room = all(2 * len(chosen) <= view.n_heads for chosen in heads.by_layer().values())
    return heads.random_like(view, seed=seed, matched=room)


def check_n_random(n_random: int) -> None:
    """Raises ValueError for what is no number of draws."""
    if isinstance(n_random, bool) or not isinstance(n_random, int) or n_random < 0:
        raise ValueError(f"n_random={n_random}: the number of random draws must be a whole number, zero or more")


def curve_table(data: Mapping[str, Any], heads: HeadSet, metrics: Sequence[str]) -> pd.DataFrame:
    """The table of a saved curve over `heads`: k, order, draw and the metrics.

    Raises: KeyError if there is none; ValueError for one that no curve has.
    """
    table = saved.table(data, {"k": int, "order": str, "draw": int, **dict.fromkeys(metrics, float)})
    odd = table[~(table["k"].between(0, len(heads)) & table["order"].isin(["ranked", "random"]))]
    if len(odd):
        raise ValueError(f"row {odd.index[0]} of its table is of k = {odd['k'].iloc[0]}, {odd['order'].iloc[0]!r}")
    return table
