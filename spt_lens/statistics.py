"""How sure scores of some pairs are, how far rankings agree, and estimates with 95 % intervals. Knows no models.

Scores come as `[n_pairs, ...]`, usually `[n_pairs, n_layers, n_heads]`; every figure is one of their mean over pairs.
The pairs are taken as independent. Where several share something (say, a question in two phrasings), they tell less
than their number says, and the true spread is wider than what is found here.

Not from scipy: its bootstrap draws pairs in another way than published figures were made with, and all at once
(gigabytes for a large model's heads); its Wilson interval is of whole cases, and the effective number of grouped ones
is none.
"""

import math
from collections.abc import Hashable, Iterator, Sequence
from statistics import NormalDist
from typing import Literal, NamedTuple, Self, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from spt_lens.checking import MANY, number, one_of, seed_number, whole_number

By = Literal["signed", "size"]
LEAST_GAP = 1e-3  # of the mean gap: drawn pairs with hardly any give a share that is large, and no infinity
CHUNK = 1_000_000  # numbers of float64 held at a time, 8 MB; a percentile needs some five times that


class Stability(NamedTuple):
    """How far the rankings of two random halves of the pairs agree, the mean over `splits` splits.

    Each half has half of the pairs, so the ranking of all pairs is steadier than this. spearman: the rank correlation
    over all heads, by chance 0; nan where all heads of a half are equal. overlap: the share of the best k that the
    halves have in common, by chance k / n_heads.
    """

    spearman: float
    overlap: float
    k: int
    n_heads: int
    n_pairs: int
    splits: int

    def __str__(self) -> str:
        return (
            f"two halves of {self.n_pairs} pairs: Spearman {self.spearman:.3f} over {self.n_heads} heads, "
            f"{self.overlap:.0%} of the top {self.k} in common (by chance {self.k / self.n_heads:.0%}); "
            f"mean of {self.splits} splits"
        )


def heads_within(fraction: float, n_heads: int) -> int:
    """How many heads a share of all heads allows, at least one."""
    # The small addition is for products such as 0.07 * 100 = 7.000000000000001, or 0.29 * 100 = 28.999999999999996.
    return max(1, math.floor(fraction * n_heads + 1e-9))


def strength(values: Float[Tensor, "*heads"], by: str = "signed") -> Float[Tensor, "*heads"]:
    """What heads are ranked by, the highest first. Raises ValueError if `by` is not "signed" or "size"."""
    return values if one_of(by, "by", get_args(By)) == "signed" else values.abs()


def bootstrap_means(
    per_pair: Float[Tensor, "n_pairs ..."],
    draws: int = 1000,
    seed: int = 0,
    gaps: Float[Tensor, " n_pairs"] | None = None,
) -> Iterator[Float[Tensor, "some_draws heads"]]:
    """The means over pairs drawn with replacement, in float64, some draws at a time and `draws` in all.

    Heads are flattened. The same seed draws the same pairs, whatever heads there are. gaps: of each pair, their mean 1;
    each mean is then divided by that of the drawn pairs' gaps, where that is nearly zero by LEAST_GAP of its sign.

    Raises: ValueError for fewer than two pairs (all draws of one pair are that pair, which says nothing of the spread)
    or no draws.
    """
    n = len(per_pair)
    if n < 2:
        pairs = f"{n} pair{'s' * (n != 1)} of prompts"
        raise ValueError(
            f"{pairs} can't show how much the scores vary over pairs: measure at least 2, better 20 or more"
        )
    whole_number(draws, "draws", 1, MANY)
    scores = per_pair.reshape(n, -1).double()
    gaps = torch.ones(n) if gaps is None else gaps
    generator = torch.Generator().manual_seed(seed_number(seed))
    rows = max(1, CHUNK // max(n, scores.shape[1]))
    for start in range(0, draws, rows):
        # One call for each draw, so that the drawn pairs do not depend on how many draws fit in a chunk.
        picks = (torch.randint(n, (n,), generator=generator) for _ in range(min(rows, draws - start)))
        counts = torch.stack([torch.bincount(pick, minlength=n) for pick in picks]).double()
        gap = counts @ gaps.double()[:, None] / n
        yield counts @ scores / n / torch.where(gap.abs() < LEAST_GAP, gap.sign().add(0.5).sign() * LEAST_GAP, gap)


def interval(
    per_pair: Float[Tensor, "n_pairs ..."],
    confidence: float = 0.95,
    draws: int = 1000,
    seed: int = 0,
    gaps: Float[Tensor, " n_pairs"] | None = None,
) -> tuple[Float[Tensor, "*heads"], Float[Tensor, "*heads"]]:
    """Percentile bootstrap interval of each head's mean over pairs, (low, high), in float64; gaps: as bootstrap_means.
    With few pairs it is too narrow: for normal scores, 95 % intervals hold the true mean
    in 84 % of cases with 5 pairs, 90 % with 10, 93 % with 20 and 94 % with 40.

    Raises: ValueError for fewer than two pairs, a confidence outside of (0, 1), or too few draws to tell its ends.
    """
    tail = (1 - number(confidence, "confidence", above=0, below=1)) / 2
    whole_number(draws, "draws", 1, MANY)
    needed = math.ceil(1 / tail - 1e-6)  # the ends must lie within the draws, not be their extremes
    if len(per_pair) > 1 and draws < needed:
        raise ValueError(f"{draws} draws are too few for an interval of {confidence:g}: take draws={needed} or more")
    ends = torch.tensor([tail, 1 - tail], dtype=torch.float64)
    parts = per_pair.reshape(len(per_pair), -1).split(max(1, CHUNK // draws), dim=1)
    drawn = (torch.cat(list(bootstrap_means(part, draws, seed, gaps))) for part in parts)
    found = torch.cat([torch.quantile(means, ends, dim=0) for means in drawn], dim=1)
    low, high = found.reshape(2, *per_pair.shape[1:])
    return low, high


def top_probability(
    per_pair: Float[Tensor, "n_pairs ..."], k: int, by: str = "signed", draws: int = 1000, seed: int = 0
) -> Float[Tensor, "*heads"]:
    """The share of resamples of the pairs in which a head is among the best k, in float64; sums to k.

    Raises: ValueError for fewer than two pairs, no draws, a k outside of 1 to the number of heads, or an unknown `by`.
    """
    n_heads = per_pair[0].numel() if len(per_pair) else 0
    whole_number(k, "k", 1, n_heads)
    hits = torch.zeros(n_heads, dtype=torch.float64)
    for means in bootstrap_means(per_pair, draws, seed):
        hits += torch.bincount(_top(means, k, by).flatten(), minlength=n_heads)
    return (hits / draws).reshape(per_pair.shape[1:])


def split_half(
    per_pair: Float[Tensor, "n_pairs ..."], k: int, by: str = "signed", splits: int = 100, seed: int = 0
) -> Stability:
    """How far the rankings from two random halves of the pairs agree; of an odd number, one half has a pair more.

    by: with "size", both the correlation and the top k are of the sizes.

    Raises: ValueError for fewer than four pairs or no splits, or as `overlap` does.
    """
    n = len(per_pair)
    if n < 4:
        raise ValueError(f"{n} pairs are too few to compare two halves of them: measure at least 4, better 20 or more")
    whole_number(splits, "splits", 1, MANY)
    scores = per_pair.reshape(n, -1).double()
    generator = torch.Generator().manual_seed(seed_number(seed))
    correlations, shared = [], []
    for _ in range(splits):
        order = torch.randperm(n, generator=generator)
        weights = torch.zeros(2, n, dtype=torch.float64)
        weights[0, order[: n // 2]] = 1 / (n // 2)
        weights[1, order[n // 2 :]] = 1 / (n - n // 2)
        one, other = weights @ scores
        correlations.append(spearman(strength(one, by), strength(other, by)))
        shared.append(overlap(one, other, k, by))
    return Stability(sum(correlations) / splits, sum(shared) / splits, k, scores.shape[1], n, splits)


def overlap(a: Float[Tensor, "*heads"], b: Float[Tensor, "*heads"], k: int, by: str = "signed") -> float:
    """The heads that are in the top k of both, as a share of k. Of equal scores the earlier head is taken.

    Raises: ValueError for different shapes, a k outside of 1 to the number of heads, or an unknown `by`.
    """
    _check_alike(a, b)
    whole_number(k, "k", 1, a.numel())
    return len({*_top(a.flatten(), k, by).tolist()} & {*_top(b.flatten(), k, by).tolist()}) / k


def spearman(a: Float[Tensor, "*heads"], b: Float[Tensor, "*heads"]) -> float:
    """Spearman's rank correlation, of equal values by the mean of their ranks. nan and errors as for `pearson`."""
    return _correlation("spearmanr", a, b)


def pearson(a: Float[Tensor, "*heads"], b: Float[Tensor, "*heads"]) -> float:
    """Pearson's correlation, in float64. nan where all of one are equal. Raises ValueError for other shapes or nan."""
    return _correlation("pearsonr", a, b)


def _correlation(name: Literal["spearmanr", "pearsonr"], a: Tensor, b: Tensor) -> float:
    from scipy import stats  # not above: it takes a second, and most of this library does without

    _check_alike(a, b)
    if any(x.numel() == 0 or bool((x == x.flatten()[0]).all()) for x in (a, b)):
        return math.nan  # scipy warns of it
    found = getattr(stats, name)(*(x.flatten().double().numpy() for x in (a, b)))
    return min(1.0, max(-1.0, float(found.statistic)))


def _top(means: Float[Tensor, "*draws heads"], k: int, by: str) -> Tensor:
    # A stable sort, unlike topk, has one answer where scores are equal.
    return strength(means, by).argsort(dim=-1, descending=True, stable=True)[..., :k]


def _check_alike(a: Tensor, b: Tensor) -> None:
    if a.shape != b.shape:
        raise ValueError(f"scores of shape {tuple(a.shape)} and {tuple(b.shape)} can't be compared head by head")
    if a.isnan().any() or b.isnan().any():
        raise ValueError("some scores are nan, which has no rank: leave these heads out of both")


CONFIDENCE = 0.95
_TAILS = torch.tensor([(1 - CONFIDENCE) / 2, 1 - (1 - CONFIDENCE) / 2], dtype=torch.float64)


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
    def from_json(cls, data: Sequence[float | int | None]) -> Self:
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
    """The share of hits with Wilson's interval, with `groups` that of `effective_cases`: cases of one group (say, two
    challenges to the same answer) need not be independent. Raises ValueError if `groups` and `hits` differ in length.
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
    n, p = len(hits), sum(map(bool, hits)) / len(hits)
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
    n = len(parts)
    value = sum(e.value for e in parts) / n
    below = math.sqrt(sum((e.value - e.low) ** 2 for e in parts)) / n
    above = math.sqrt(sum((e.high - e.value) ** 2 for e in parts)) / n
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
    picks = torch.randint(n, (draws, n), generator=torch.Generator().manual_seed(seed_number(seed)))
    drawn = pairs[:, picks].sum(-1)
    low, high = torch.quantile(drawn[0] / drawn[1], _TAILS).tolist()
    return Estimate((pairs[0].sum() / pairs[1].sum()).item(), low, high, n)
