"""The mean of two measurements of the same heads, pair by pair."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from spt_lens.checking import door
from spt_lens.scores.head_scores import HeadScores


@door
def mean_scores(one: HeadScores, other: HeadScores) -> HeadScores:
    """The mean of two measurements of the same heads on the same pairs, pair by pair.

    For example of patching in the supported run and the neutral one: a head that carries the user's opinion restores
    the honest reply from either. Where the two kept different pairs (`meta["pairs_used"]`), it is over those in both.
    The result has no logit differences, which would be of two runs; a head is verified where it is in both.

    Raises: ValueError if the shapes differ, or how or on which model they were measured, or no pair is in both.
    """
    one.check_alike(other, "their mean would be of neither kind")
    if (null := one.meta.get("null")) != other.meta.get("null"):
        raise ValueError(
            "one of these scores is a null and the other is none, or of another kind: average like with like"
        )
    meta: dict[str, Any] = {"mean_of": [one.meta, other.meta]} | ({"null": null} if null else {})
    if "pairs_used" in one.meta or "pairs_used" in other.meta:
        here, there = _places(one), _places(other)
        both = meta["pairs_used"] = [number for number in here if number in there]
        if not both:
            raise ValueError("no pair was kept in both measurements, so they have no mean pair by pair: use more pairs")
        per_pair = (one.per_pair[[here[n] for n in both]] + other.per_pair[[there[n] for n in both]]) / 2
        values = per_pair.mean(0)
    elif one.n_pairs != other.n_pairs:
        raise ValueError(
            f"scores of {one.n_pairs} and {other.n_pairs} pairs have no mean: measure both on as many pairs"
        )
    else:
        values, per_pair = (one.values + other.values) / 2, (one.per_pair + other.per_pair) / 2
    every_head = one.verified is None and other.verified is None
    return replace(
        one,
        values=values,
        per_pair=per_pair,
        meta=meta,
        engine=one.engine if one.engine == other.engine else "",
        logit_differences=None,
        base=None,
        target=None,
        verified=None if every_head else one.measured & other.measured,
    )


def _places(scores: HeadScores) -> dict[int, int]:
    """Where each pair stands, by its number: `meta["pairs_used"]` lists those that were kept; without it, all were."""
    used = scores.meta.get("pairs_used", range(scores.n_pairs))
    numbers = isinstance(used, (list, tuple, range)) and all(isinstance(number, int) for number in used)
    if not numbers or len(used) != scores.n_pairs or len(set(used)) != len(used):
        raise ValueError(
            f"meta['pairs_used'] is {str(used)[:80]} and does not fit scores of {scores.n_pairs} pairs: it must "
            "list the number of each, once"
        )
    return {number: place for place, number in enumerate(used)}
