"""Two measurements of the same heads side by side: do another method, model or set of pairs rank them alike?"""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from spt_lens import statistics
from spt_lens.heads import Head, HeadSet
from spt_lens.view.tables import table_html

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from spt_lens.scores.described import Described

SHOWN_ROWS = 20  # in the notebook's table; `table` has them all


def named(one: Described, other: Described, names: Sequence[str] = ()) -> tuple[str, str]:
    """What a comparison calls its two: the names, or how each was measured; of two measured alike, by what each was
    read, or which is which.

    Raises: ValueError for names that are not two.
    """
    if names:
        if isinstance(names, str) or len(names) != 2:
            raise ValueError(f"names={names!r}: give two, such as names=('Yes / No', 'whole replies')")
        return names[0], names[1]
    if one.label != other.label:
        return one.label, other.label
    read = [each.check.answers if each.check is not None else "" for each in (one, other)]
    ends = [f"read by {text}" for text in read] if all(read) and read[0] != read[1] else ["the first", "the second"]
    return f"{one.label}, {ends[0]}", f"{other.label}, {ends[1]}"


@dataclass(frozen=True, eq=False, repr=False)
class ScoreComparison:
    """How far two scores of the same layers and heads agree; made by `scores.compare(other)`.

    Values that were only estimated (where `verified` is False) count like any others, except that they come last in
    the overlaps. A correlation over all heads is mostly one of the many that do little: look at the overlap as well.

    table: a row for each head, in the order of the one: layer, head, name, score_one, score_other, difference (other
    minus one), rank_one, rank_other. names: how and on which model each was measured. metrics: of each. k: how many
    heads "top" means. largest: the top k of each by size.
    """

    table: pd.DataFrame
    names: tuple[str, str]
    metrics: tuple[str, str]
    k: int
    largest: tuple[HeadSet, HeadSet]

    @property
    def spearman(self) -> float:
        """Correlation of ranks over all heads; nan where all scores of one are equal."""
        return statistics.spearman(*self._scores())

    @property
    def pearson(self) -> float:
        """Correlation of values over all heads; nan where all scores of one are equal."""
        return statistics.pearson(*self._scores())

    @property
    def tops(self) -> tuple[HeadSet, HeadSet]:
        """The top k of each, best first."""
        one, other = (self.table.nsmallest(self.k, rank)["name"].tolist() for rank in ("rank_one", "rank_other"))
        return HeadSet.of(one), HeadSet.of(other)

    @property
    def top_heads(self) -> HeadSet:
        """The heads in the top k of either, those of the one first."""
        return self.tops[0] | self.tops[1]

    @property
    def overlap(self) -> float:
        """Share of the top k that both have in common."""
        return len(self.tops[0] & self.tops[1]) / self.k

    @property
    def overlap_by_size(self) -> float:
        """Share of the top k by size that both have in common."""
        return len(self.largest[0] & self.largest[1]) / self.k

    @property
    def same_sign(self) -> float:
        """Share of heads with the same sign in both, among those in the top k by size of either."""
        either = self.table[self.table["name"].isin(list(map(str, self.largest[0] | self.largest[1])))]
        # sign() keeps zero apart: a head that does nothing in one and something in the other does not agree.
        return float((np.sign(either["score_one"]) == np.sign(either["score_other"])).mean())

    @property
    def largest_at(self) -> Head:
        """The head whose scores differ most."""
        table = self.table.sort_values(["layer", "head"])
        return Head.parse(table.loc[table["difference"].abs().idxmax(), "name"])

    @property
    def largest_difference(self) -> float:
        """Other minus one at `largest_at`. It means something only where both have the same metric."""
        return float(self.table.set_index("name").loc[str(self.largest_at), "difference"])

    def _scores(self) -> list[Float[Tensor, " heads"]]:
        table = self.table.sort_values(["layer", "head"])
        return [torch.tensor(table[side].tolist(), dtype=torch.float64) for side in ("score_one", "score_other")]

    def summary(self) -> str:
        """One line: how far they agree."""
        one, other = self.metrics
        difference = f"largest difference {self.largest_difference:+.3f} at {self.largest_at}"
        return (
            f"Spearman {self.spearman:.3f}, Pearson {self.pearson:.3f} over {len(self.table)} heads; "
            f"{self.overlap:.0%} of the top {self.k} in common, by size {self.overlap_by_size:.0%}, and "
            f"{self.same_sign:.0%} of either's top by size of the same sign; "
            f"{difference if one == other else f'differences mean nothing, of {one} and {other}'}"
        )

    def figure(self) -> go.Figure:
        """Both scores of every head as a scatter plot; see `spt_lens.view.curves.comparison_figure`."""
        from spt_lens.view.curves import comparison_figure

        # Along the axes only what tells the two apart; what they share is said once.
        one, other = ([*dict.fromkeys(name.split(", "))] for name in self.names)
        same = ", ".join(part for part in one if part in other)
        own = [", ".join(part for part in parts if part not in (same.split(", "))) for parts in (one, other)]
        sides = (own[0], own[1]) if all(own) else self.names
        title = f"Spearman {self.spearman:.3f}, overlap {self.overlap:.0%}"
        title += f"\nboth: {same}" if same and all(own) else ""
        return comparison_figure(self.table, self.k, sides, title, diagonal=self.metrics[0] == self.metrics[1])

    def __repr__(self) -> str:
        return f"ScoreComparison(one: {self.names[0]}; other: {self.names[1]}: {self.summary()})"

    def _repr_html_(self) -> str:
        one, other, summary = map(html.escape, (*self.names, self.summary()))
        names = list(map(str, self.top_heads))
        more = f"<p>{len(names) - SHOWN_ROWS} more in .table</p>" if len(names) > SHOWN_ROWS else ""
        rows = self.table.set_index("name", drop=False).loc[names[:SHOWN_ROWS]]
        return f"<p>one: {one}<br>other: {other}<br>{summary}</p>{table_html(rows, '.4f')}{more}"
