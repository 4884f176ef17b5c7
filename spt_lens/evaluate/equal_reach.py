"""Methods of a comparison at equal reach: the drift that each needs to come so far, and whether the goal still tells
them apart."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from spt_lens.checking import number
from spt_lens.evaluate.equal_drift import all_have, over_both, points_of, spread
from spt_lens.evaluate.trials import Trial

LEAST = 0.95
TOP = 0.98  # from here on a figure of at most 1 counts as full, unless intervals tell two methods apart


def drift_needed(
    by_method: Mapping[str, Sequence[Trial]], goal: str, split: str, drift: str, least: float
) -> pd.DataFrame:
    """`Comparison.drift_needed`, which says all."""
    number(least, "least", above=0, most=1)
    rows, why = [], None
    for method, trials in by_method.items():
        try:
            points = points_of(trials, split, goal, drift)
            if not all(all_have(point.trials, split, drift) for point in points):
                raise ValueError(
                    f"there is no {drift!r} on {split!r}: give that suite texts or prompts, or another split"
                )
        except ValueError as error:  # of this method alone
            points, why = [], error
        reach = [point for point in points if point.goal >= least]
        row: dict[str, Any] = {"method": method, "rates": len(points), "missed": math.nan}
        row |= dict.fromkeys(("lr", "drift", "drift_low", "drift_high", "value", "low", "high"), math.nan) | {"runs": 0}
        if reach:
            first = min(reach, key=lambda point: point.drift)
            spent, found = over_both(first.trials, split, drift, math.inf), over_both(first.trials, split, goal)
            row |= {"lr": first.trials[0].spec.lr, "runs": len(first.trials)}
            row |= {"drift": spent.value, "drift_low": spent.low, "drift_high": spent.high}
            row |= {"value": found.value, "low": found.low, "high": found.high}
            points = [point for point in points if point.drift < first.drift]
        if points:  # the dearest one that misses: the need lies above it
            row["missed"] = spread(max(points, key=lambda point: point.drift).trials, split, drift)["value"]
        rows.append(row)
    if why is not None and not any(row["rates"] for row in rows):
        raise why
    return pd.DataFrame(rows)


def saturated(intervals: pd.DataFrame, goal: str) -> bool:
    """Whether a figure no longer tells tuned methods apart, being full for all: there are two or more, each is at least
    TOP, none is ahead of another outside of both 95 % intervals, and the untuned model is below TOP.

    intervals: of `Comparison.intervals_on`.
    """
    its = intervals[intervals["metric"] == goal]
    tuned = its[its["method"] != "untuned"]
    full = len(tuned) > 1 and bool((tuned["value"] >= TOP).all()) and tuned["low"].max() <= tuned["high"].min()
    return bool(full and (its["value"][its["method"] == "untuned"] < TOP).all())  # not where it isn't known
