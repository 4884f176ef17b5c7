"""What head scores can be trusted for: intervals, how steady a choice of heads is, and which stand out from noise."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from spt_lens import statistics
from spt_lens.checking import door, whole_number
from spt_lens.heads import Head, HeadSet
from spt_lens.scores.described import Described
from spt_lens.statistics import By, Stability


@door
class Uncertainty(Described):
    """The order of HeadScores, and what it can be trusted for, where the pairs are taken as independent.

    A `k` is by default 5 % of the heads, at least one.
    """

    @property
    def effects(self) -> Float[Tensor, "n_pairs n_layers n_heads"] | None:
        """By how much each head moves the logit difference of each pair, in logits (of whole completions: nats).

        Signed so that more is more of the effect: towards the truthful answer, in noising towards the sycophantic one.
        None where there are no logit differences.
        """
        if self.logit_differences is None or self.base is None:
            return None
        moved = self.logit_differences - self.base[:, None, None]
        return -moved if self.direction == "noising" else moved

    def order(self, by: By = "signed") -> HeadSet:
        """All heads, best first. "signed": the highest score first; "size": the largest, of either sign.

        Heads that were only estimated come after all measured ones. Equal scores keep the order of layers and heads.
        """
        flat, measured = statistics.strength(self.values, by).flatten().tolist(), self.measured.flatten().tolist()
        ranked = sorted(range(len(flat)), key=lambda i: (not measured[i], -flat[i]))
        return HeadSet(tuple(Head(*divmod(i, self.values.shape[1])) for i in ranked))

    def interval(
        self, confidence: float = 0.95, draws: int = 1000, seed: int = 0
    ) -> tuple[Float[Tensor, "n_layers n_heads"], Float[Tensor, "n_layers n_heads"]]:
        """(low, high) of each head's score, by bootstrap over pairs; too narrow for fewer than about 20 pairs.

        Of a recovery, effects and gaps are drawn together: a mean gap that is uncertain shows as a wide interval. (The
        order of heads does not hang on the gap, so neither do top_probability and stability.) Of an estimate, it is
        that of the estimate.

        Raises: ValueError for a single pair, a confidence outside of (0, 1), or too few draws for it.
        """
        low, high = statistics.interval(self.per_pair, confidence, draws, seed, self.gaps)
        return low.to(self.values), high.to(self.values)

    def top_probability(
        self, k: int | None = None, by: By = "signed", draws: int = 1000, seed: int = 0
    ) -> Float[Tensor, "n_layers n_heads"]:
        """How often a head would be in `top(k)` with other pairs: its share of resamples of the pairs. Sums to k.

        Raises: ValueError for a single pair, or a wrong k or `by`.
        """
        k = self._k(k)
        measured = self.measured
        enough = k <= (n := int(measured.sum()))  # else all measured heads are in, and estimates compete for the rest
        found = torch.full_like(self.values, 0.0 if enough else 1.0)
        among, places = (measured, k) if enough else (~measured, k - n)
        found[among] = statistics.top_probability(self.per_pair[:, among], places, by, draws, seed).to(found)
        return found

    def stability(self, k: int | None = None, by: By = "signed", splits: int = 100, seed: int = 0) -> Stability:
        """How far the rankings of two random halves of the pairs agree, over the heads that were measured.

        Raises: ValueError for fewer than four pairs, a wrong k or `by`, or a k that takes all heads that were measured.
        """
        k, n = self._k(k), int(self.measured.sum())
        if n < self.values.numel() and k >= n:
            raise ValueError(f"k={k}: only {n} heads were measured, and a top of all says nothing; take fewer")
        return statistics.split_half(self.per_pair[:, self.measured], k, by, splits, seed)

    def above_noise(self, by: By = "signed", confidence: float = 0.95, draws: int = 1000, seed: int = 0) -> HeadSet:
        """The measured heads whose interval excludes zero, best first: "signed", from above; "size", on either side.

        Each head is judged by itself: of heads that do nothing, about (1 - confidence) / 2 pass by chance ("size":
        twice that). Raise the confidence, with more draws, or use `above_null`; and not zero is not large.

        Raises: ValueError as `interval`, or for a wrong `by`.
        """
        statistics.strength(self.values, by)
        return self.beyond_zero(*self.interval(confidence, draws, seed), by)

    def beyond_zero(
        self, low: Float[Tensor, "n_layers n_heads"], high: Float[Tensor, "n_layers n_heads"], by: By = "signed"
    ) -> HeadSet:
        """`above_noise` by intervals that are there already, as `interval` gives them."""
        # Estimates are left out: the interval of an estimate does not say how far the estimate is off.
        return self._where(self.measured & ((low > 0) | ((high < 0) & (by == "size"))), by)

    def notes(self, low: Float[Tensor, "n_layers n_heads"], high: Float[Tensor, "n_layers n_heads"]) -> list[list[str]]:
        """What is to be said of each head's score, by layer and head, "" for nothing: that its interval holds zero, and
        of a share of the gap that it is above 1, more than all of it."""
        holds, above = self.marks(low, high)
        both = zip(holds.tolist(), above.tolist(), strict=True)
        said = {"interval holds 0": 0, "above 1: more than the gap": 1}
        return [
            ["; ".join(text for text, i in said.items() if marks[i]) for marks in zip(*layer, strict=True)]
            for layer in both
        ]

    def marks(
        self, low: Float[Tensor, "n_layers n_heads"], high: Float[Tensor, "n_layers n_heads"]
    ) -> tuple[Bool[Tensor, "n_layers n_heads"], Bool[Tensor, "n_layers n_heads"]]:
        """Which heads a map marks: those whose interval holds zero, and those above 1, of a share of the gap."""
        return (low <= 0) & (high >= 0), (self.values > 1) & self.of_gap

    def _where(self, mask: Bool[Tensor, "n_layers n_heads"], by: By) -> HeadSet:
        """The heads where the mask is true, best first."""
        kept = mask.tolist()
        return HeadSet(tuple(head for head in self.order(by) if kept[head.layer][head.head]))

    def _k(self, k: int | None) -> int:
        """k, or its default. Raises ValueError unless it is from 1 to the number of heads."""
        n = self.values.numel()
        return statistics.heads_within(0.05, n) if k is None else whole_number(k, "k", 1, n)
