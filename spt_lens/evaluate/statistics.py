"""Estimates with 95 % intervals: shares, means, means of shares. Knows nothing of models."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from statistics import NormalDist
from typing import NamedTuple

import torch

CONFIDENCE = 0.95


class Estimate(NamedTuple):
    """A figure, its 95 % interval and the number of cases behind it. Without cases: value nan, no bounds known."""

    value: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}], n={self.n}"

    def to_json(self) -> list[float | int | None]:
        return [None if isinstance(x, float) and not math.isfinite(x) else x for x in self]

    @classmethod
    def from_json(cls, data: Sequence[float | int | None]) -> Estimate:
        value, low, high, n = (math.nan if x is None else x for x in data)
        return cls(float(value), float(low), float(high), int(n))


def wilson_interval(successes: float, n: float) -> tuple[float, float]:
    """Wilson's 95 % interval for `successes` of `n` independent cases. Sensible at 0 and 1, and for small n."""
    if n <= 0:
        return 0.0, 1.0
    p = successes / n
    z = NormalDist().inv_cdf(0.5 + CONFIDENCE / 2)
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return min(p, max(0.0, centre - half)), max(p, min(1.0, centre + half))


def share(hits: Sequence[bool], groups: Sequence[Hashable] | None = None) -> Estimate:
    """The share of hits with Wilson's interval.

    Cases of one group (say, two challenges to the same answer) need not be independent. With `groups` the interval is
    that of the effective number of cases, which lies between the number of groups and the number of cases.

    Raises:
        ValueError: `groups` and `hits` differ in length.
    """
    n = len(hits)
    if groups is not None and len(groups) != n:
        raise ValueError(f"{n} hits but {len(groups)} groups: give one group for each case")
    if n == 0:
        return Estimate(math.nan, 0.0, 1.0, 0)
    p = sum(map(bool, hits)) / n
    effective = n if groups is None else effective_cases(hits, groups)
    low, high = wilson_interval(p * effective, effective)
    return Estimate(p, low, high, n)


def effective_cases(hits: Sequence[bool], groups: Sequence[Hashable]) -> float:
    """How many independent cases would give the share the variance that it has between groups (Kish's design effect).

    All hits equal says nothing of how alike the cases of a group are: then each group counts once.
    """
    n = len(hits)
    p = sum(map(bool, hits)) / n
    residuals: dict[Hashable, float] = {}
    for hit, group in zip(hits, groups, strict=True):
        residuals[group] = residuals.get(group, 0.0) + bool(hit) - p
    n_groups = len(residuals)
    if p in (0.0, 1.0) or n_groups == 1:
        return float(n_groups)
    between = n_groups / (n_groups - 1) * sum(r * r for r in residuals.values()) / n**2
    return float(min(n, max(n_groups, p * (1 - p) / between))) if between else float(n)


def mean_of_shares(parts: Sequence[Estimate]) -> Estimate:
    """The mean of independent estimates; its interval adds their half-widths in squares (Newcombe 1998, method 10).

    Discernment is `mean_of_shares([defended, retracted])`.
    """
    if not parts:
        raise ValueError("no estimates to average: give at least one")
    value = sum(e.value for e in parts) / len(parts)
    below = math.sqrt(sum((e.value - e.low) ** 2 for e in parts)) / len(parts)
    above = math.sqrt(sum((e.high - e.value) ** 2 for e in parts)) / len(parts)
    return Estimate(value, value - below, value + above, sum(e.n for e in parts))


def weighted_mean(sums: Sequence[float], sizes: Sequence[int], seed: int = 0, draws: int = 1000) -> Estimate:
    """sum(sums) / sum(sizes), with the percentile bootstrap over the units; n is the number of units.

    For a mean over positions whose units are texts: `sums[i]` over the positions of text i, `sizes[i]` positions.
    """
    n = len(sums)
    if n != len(sizes):
        raise ValueError(f"{n} sums but {len(sizes)} sizes: give one size for each sum")
    if n == 0:
        return Estimate(math.nan, math.nan, math.nan, 0)
    pairs = torch.tensor([list(map(float, sums)), list(map(float, sizes))], dtype=torch.float64)
    picks = torch.randint(n, (draws, n), generator=torch.Generator().manual_seed(seed))
    drawn = pairs[:, picks].sum(-1)
    tail = (1 - CONFIDENCE) / 2
    low, high = torch.quantile(drawn[0] / drawn[1], torch.tensor([tail, 1 - tail], dtype=torch.float64)).tolist()
    return Estimate((pairs[0].sum() / pairs[1].sum()).item(), low, high, n)
