"""Two methods of a comparison at no more drift: what each reaches, how sure that is, and which goals hold."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd

from spt_lens.checking import one_of
from spt_lens.checking import share as a_share
from spt_lens.evaluate.evaluate import Evaluation
from spt_lens.evaluate.goals import Goal
from spt_lens.evaluate.remarks import EFFECT
from spt_lens.evaluate.trials import Trial
from spt_lens.statistics import Estimate


def groups_of(evaluation: Evaluation) -> list[str]:
    """The figures "gives in: GROUP", by the behaviour's own words."""
    return [name for name in evaluation.estimates if name.startswith(f"{evaluation.gives_in}: ")]


def effects_of(evaluation: Evaluation) -> list[str]:
    """The figures "effect: GROUP"."""
    return [name for name in evaluation.estimates if name.startswith(EFFECT)]


def made_of(evaluation: Evaluation) -> tuple[str, ...]:
    """The goals that `figure_of` makes of the figures of groups, the better one first."""
    found = {"independence": effects_of(evaluation), "resists": groups_of(evaluation)}
    return tuple(name for name, figures in found.items() if figures)


def figure_of(evaluation: Evaluation, metric: str) -> Estimate:
    """A figure by its name; "resists" is the share of replies to the first group that don't give in, "independence" one
    less the size of the first effect: 1 where as many replies agree with the opinion as without it."""
    if metric == "independence":
        value, low, high, n = evaluation[effects_of(evaluation)[0]]
        least = 0.0 if low <= 0 <= high else min(abs(low), abs(high))
        return Estimate(1 - abs(value), 1 - max(abs(low), abs(high)), 1 - least, n)
    if metric != "resists":
        return evaluation[metric]
    value, low, high, n = evaluation[groups_of(evaluation)[0]]
    return Estimate(1 - value, 1 - high, 1 - low, n)


def spread(trials: Sequence[Trial], split: str, metric: str) -> dict[str, float]:
    """value, low, high, n, runs, min, max: of one figure of a method's trials, as `Comparison.intervals` says."""
    middle = pd.Series.median if len({trial.spec.draw for trial in trials}) > 1 else pd.Series.mean
    found = pd.DataFrame([figure_of(trial.evaluations[split], metric) for trial in trials])
    # One rule for all three: a median can lie outside of the mean of the intervals.
    row: dict[str, float] = {name: float(middle(found[name], skipna=False)) for name in ("value", "low", "high")}
    row |= {"n": int(found["n"].iloc[0]), "runs": len(trials)}
    return row | {"min": found["value"].min(), "max": found["value"].max()}


def over_both(trials: Sequence[Trial], split: str, metric: str, most: float = 1.0) -> Estimate:
    """A figure with an interval over cases and draws: both half-widths, added in squares, within 0 and `most`.

    That over draws is from the lowest to the highest: of five draws it holds the true median in 94 % of cases, of two
    seeds in half of them, and of one it is nothing. n: the cases.
    """
    its = spread(trials, split, metric)
    value, n = its["value"], int(its["n"])
    below, above = ([value - its[name] for name in ends] for ends in (("low", "min"), ("high", "max")))
    return Estimate(value, max(0.0, value - math.hypot(*below)), min(most, value + math.hypot(*above)), n)


class Point(NamedTuple):
    """A method at one learning rate: the goal and the drift on the validation split, and the trials."""

    goal: float
    drift: float
    trials: list[Trial]


def at_equal_drift(
    by_method: Mapping[str, Sequence[Trial]],
    untuned: Evaluation,
    goal: str,
    method: str,
    rival: str,
    split: str,
    drift: str,
    share: float,
    goals: Sequence[Goal],
) -> pd.DataFrame:
    """`Comparison.at_equal_drift`, which says all. untuned: on the split."""
    shares = {method: a_share(share, "share"), rival: 1.0}
    if len(shares) < 2:
        raise ValueError(f"{method!r} is to be held against itself: name two methods")
    before = {name: each.value for name, each in untuned.estimates.items()}
    known = list(by_method)
    points = {name: points_of(by_method[one_of(name, "a method", known)], split, goal, drift) for name in shares}
    rows = []
    for budget in sorted({point.drift / shares[name] for name, each in points.items() for point in each}):
        ends = []
        row: dict[str, Any] = {"budget": budget}
        for name, start in ((method, ""), (rival, "rival_")):
            # To rounding: what a method spends is within its own budget.
            within = [point for point in points[name] if point.drift <= budget * shares[name] * (1 + 1e-9)]
            trials = max(within, key=lambda point: (point.goal, -point.drift)).trials if within else []
            found = over_both(trials, split, goal) if trials else Estimate(math.nan, math.nan, math.nan, 0)
            wanted = {m for m in (drift, *(each.metric for each in goals)) if all_have(trials, split, m)}
            its = {m: spread(trials, split, m)["value"] for m in wanted}
            missed = [each.name for each in goals if each.metric in its and not each.holds(each.value(its, before))]
            side: dict[str, Any] = {"lr": trials[0].spec.lr if trials else math.nan, "drift": its.get(drift, math.nan)}
            side |= {"value": found.value, "low": found.low, "high": found.high, "runs": len(trials)}
            row |= {f"{start}{column}": value for column, value in (side | {"missed": "; ".join(missed)}).items()}
            ends.append(found)
        ours, theirs = ends
        gap = ours.value - theirs.value
        below = math.hypot(ours.value - ours.low, theirs.high - theirs.value)
        above = math.hypot(ours.high - ours.value, theirs.value - theirs.low)
        rows.append(row | {"difference": gap, "difference_low": gap - below, "difference_high": gap + above})
    return pd.DataFrame(rows)


def points_of(all_trials: Sequence[Trial], split: str, goal: str, drift: str) -> list[Point]:
    by_rate: dict[float, list[Trial]] = {}
    for trial in all_trials:
        by_rate.setdefault(trial.spec.lr, []).append(trial)
    found = []
    for trials in by_rate.values():
        if all_have(trials, "validation", drift) and all_have(trials, split, goal):
            reached, spent = (spread(trials, "validation", name)["value"] for name in (goal, drift))
            found += [] if math.isnan(reached) or math.isnan(spent) else [Point(reached, spent, trials)]
    if not found:
        raise ValueError(
            f"no learning rate of {all_trials[0].spec.method!r} has {drift!r} on validation and {goal!r} on {split!r}: "
            "give the validation suite texts or prompts, and compare with test_each=True or name another split"
        )
    return found


def all_have(trials: Sequence[Trial], split: str, metric: str) -> bool:
    found = [trial.evaluations[split] for trial in trials if split in trial.evaluations]
    return 0 < len(found) == len(trials) and all(metric in each or metric in made_of(each) for each in found)
