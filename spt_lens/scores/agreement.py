"""Two measurements of the same heads side by side: do another method, model or set of pairs rank them alike?"""

from __future__ import annotations

import html
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd

from spt_lens.heads import Head, HeadSet
from spt_lens.scores.described import named
from spt_lens.statistics import pearson, spearman

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from spt_lens.scores.head_scores import HeadScores


SHOWN_ROWS = 20  # in the notebook's table; `table` has them all


@dataclass(frozen=True, eq=False, repr=False)
class ScoreComparison:
    """How far two scores of the same layers and heads agree. Made by `scores.compare(other)`.

    Scores by another method, of another model of the same shape, or on other pairs can be compared. Values that were
    only estimated (where `verified` is False) count like any others, except that they come last in the overlaps. A
    correlation over all heads is mostly one of the many that do little: look at the overlap as well.

    Attributes:
        one, other: The scores.
        k: How many heads "top" means.
        spearman, pearson: Correlation over all heads, of ranks and of values; nan where all scores of one are equal.
        overlap, overlap_by_size: Share of the top k that both have in common, by "signed" and by "size".
        same_sign: Share of heads with the same sign in both, among those in the top k by size of either.
        largest_difference, largest_at: other minus one where that is largest in size, and at which head. It means
            something only where both have the same metric.
    """

    one: HeadScores
    other: HeadScores
    k: int
    spearman: float
    pearson: float
    overlap: float
    overlap_by_size: float
    same_sign: float
    largest_difference: float
    largest_at: Head

    @property
    def names(self) -> tuple[str, str]:
        """How and on which model each was measured: method, direction, positions, model, pairs."""
        return named(self.one), named(self.other)

    @property
    def top_heads(self) -> HeadSet:
        """The heads in the top k of either, those of `one` first."""
        return self.one.top(self.k) | self.other.top(self.k)

    @property
    def table(self) -> pd.DataFrame:
        """A row for each head, in the order of `one`.

        Columns: layer, head, name, score_one, score_other, difference (other minus one), rank_one, rank_other.
        """
        return self._rows(self.one.order())

    def _rows(self, heads: HeadSet) -> pd.DataFrame:
        ranks, others = self.one.ranks(), self.other.ranks()
        return pd.DataFrame(
            [
                {
                    "layer": head.layer,
                    "head": head.head,
                    "name": str(head),
                    "score_one": self.one[head],
                    "score_other": self.other[head],
                    "difference": self.other[head] - self.one[head],
                    "rank_one": int(ranks[head]),
                    "rank_other": int(others[head]),
                }
                for head in heads
            ]
        )

    def summary(self) -> str:
        """One line: how far they agree."""
        differing = self.one.metric != self.other.metric
        return (
            f"Spearman {self.spearman:.3f}, Pearson {self.pearson:.3f} over {self.one.values.numel()} heads; "
            f"{self.overlap:.0%} of the top {self.k} in common, by size {self.overlap_by_size:.0%}, and "
            f"{self.same_sign:.0%} of either's top by size of the same sign; "
            + (
                f"differences mean nothing, of {self.one.metric} and {self.other.metric}"
                if differing
                else f"largest difference {self.largest_difference:+.3f} at {self.largest_at}"
            )
        )

    def figure(self) -> go.Figure:
        """Both scores of every head as a scatter plot; see `spt_lens.view.curves.comparison_figure`."""
        from spt_lens.view.curves import comparison_figure

        return comparison_figure(self)

    def __repr__(self) -> str:
        one, other = self.names
        return f"ScoreComparison(one: {one}; other: {other}: {self.summary()})"

    def _repr_html_(self) -> str:
        one, other = (html.escape(name) for name in self.names)
        heads = self.top_heads
        more = f"<p>{len(heads) - SHOWN_ROWS} more in .table</p>" if len(heads) > SHOWN_ROWS else ""
        table = self._rows(heads[:SHOWN_ROWS]).to_html(index=False, escape=True, float_format="%.4f")
        return f"<p>one: {one}<br>other: {other}<br>{html.escape(self.summary())}</p>{table}{more}"


def compare(one: HeadScores, other: HeadScores, k: int | None = None) -> ScoreComparison:
    """How far two scores agree. k: default 5 % of the heads, at least one.

    Raises: ValueError for different numbers of layers or heads, or a k outside of 1 to the number of heads.
    """
    if one.values.shape != other.values.shape:
        raise ValueError(
            f"scores of {one.n_layers} layers x {one.n_heads} heads and of {other.n_layers} x {other.n_heads} can't be "
            "compared head by head: compare models of one shape"
        )
    k = len(one.top_fraction(0.05)) if k is None else k
    by_size = one.top(k, "size"), other.top(k, "size")
    union = by_size[0] | by_size[1]
    # sign() keeps zero apart: a head that does nothing in one and something in the other does not agree.
    alike = sum(bool(one.values[head].sign() == other.values[head].sign()) for head in union)
    difference = (other.values.double() - one.values.double()).flatten()
    at = int(difference.abs().argmax())
    return ScoreComparison(
        one=one,
        other=other,
        k=k,
        spearman=spearman(one.values, other.values),
        pearson=pearson(one.values, other.values),
        overlap=len(one.top(k) & other.top(k)) / k,
        overlap_by_size=len(by_size[0] & by_size[1]) / k,
        same_sign=alike / len(union),
        largest_difference=float(difference[at]),
        largest_at=Head(*divmod(at, one.n_heads)),
    )
