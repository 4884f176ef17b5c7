"""What patching finds in a model before and after tuning, head by head and set by set, as one object."""

from __future__ import annotations

import html
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import pandas as pd
import torch

from spt_lens import saving, statistics
from spt_lens.chat.words import Words
from spt_lens.checking import door
from spt_lens.heads import HeadSet
from spt_lens.measure.controls import OverlapNull, layer_overlap
from spt_lens.scores.head_scores import HeadScores
from spt_lens.view.tables import table_html

if TYPE_CHECKING:
    import plotly.graph_objects as go

KIND = "patching before and after tuning"
CHANGE: dict[str, type] = dict.fromkeys(("before", "after", "change", "low", "high"), float)
ENDS: dict[str, type] = dict.fromkeys(("before_low", "before_high", "after_low", "after_high"), float)
SIDES = ("before", "after")
COLUMNS: dict[str, dict[str, type]] = {
    "table": {"layer": int, "head": int, "name": str, "set": str}
    | CHANGE
    | dict.fromkeys(("share_before", "share_after", "importance_before", "importance_after"), float)
    | {"rank_before": int, "rank_after": int},
    "runs": {"figure": str} | CHANGE | ENDS,
    "sets": {"set": str, "draw": int, "k": int, "heads": str, "figure": str} | CHANGE,
}
SETS = ("chosen", "tuned", "random", "others")
# What each figure is called, with the behaviour's own `Words`. All but shares of pairs are in logits.
RUNS = {
    "ld_sycophantic": "logit difference, {run}",
    "ld_truthful": "logit difference, {other_run}",
    "gap": "gap between the runs",
    "prefers": "share of pairs whose {run} prefers {preferred}",
    "prefers_other": "share of pairs whose {other_run} prefers {preferred}",
}
FIGURES = {
    "single": "effects of its heads, summed",
    "sizes": "sizes of these effects, summed",
    "together": "patched in together",
    "knocked_out": "knocked out together, {run}",
    "knocked_out_other": "knocked out together, {other_run}",
}
NAMED = 4  # new heads that have their names in the figure: those of more would lie on one another
SHOWN_ROWS = 20  # of heads, in the notebook's table; `table` has them all


@door
@dataclass(frozen=True, eq=False, repr=False)
class Repatched:
    """Effects of heads before and after tuning, on the same pairs by the same method; made by `spt.repatch`.

    Effects are in logits: by how much a head that is patched in alone moves the logit difference. A recovery is the
    same over the gap of the model that it was measured on. Tuning moves the gap, and may turn it round, so that shares
    of the two models can't be compared; they stand beside, for the record. So does the paper's own measure, importance,
    which is relative to each model's own share of the sycophantic answer (nan where that share is nearly zero).

    heads: the chosen ones. tuned: those whose weights the adapter changed, of a control other ones; empty if it changed
    whole matrices.
    table: a row for each head, the chosen ones first: layer, head, name, set ("chosen", "tuned" or "other"); before,
        after, change, in logits, with low and high, the paired 95 % bootstrap interval of the change over pairs (nan
        for a single pair); share_before, share_after; importance_before, importance_after; rank_before, rank_after
        among all heads by their effect, times the sign of that model's mean gap: where the gap is reversed, patching
        moves the logit difference down, and the lowest effect is the best.
    runs: logit differences of both runs, their gap, and the share of pairs whose run prefers the sycophantic answer;
        each also with its own interval before and after (before_low and so on; nan where it is not known).
    sets: a row for each figure of each set. set: "chosen", "tuned" (where these are others), "random" (as many in
        each layer, neither chosen nor tuned, a draw each; missing where a layer has too few) and "others" (all heads
        but the chosen and tuned ones).
        figure: "single" (the heads' effects, summed), "sizes" (the same of their sizes), "together" (patched in
        together), "knocked_out" and "knocked_out_other" (by how much setting them to their mean, of each model's own,
        moves either run's logit difference).
    scores: of all heads before and after; None in one that was loaded: save them by themselves.
    """

    model_name: str
    method: str
    direction: str
    positions: str
    heads: HeadSet
    tuned: HeadSet
    n_pairs: int
    table: pd.DataFrame
    runs: pd.DataFrame
    sets: pd.DataFrame
    settings: dict[str, Any] = field(default_factory=dict)
    scores: tuple[HeadScores, HeadScores] | None = None

    @property
    def words(self) -> Words:
        """What the behaviour's runs and answers are called."""
        return Words.from_json(self.settings.get("words", {}))

    @property
    def k(self) -> int:
        """How many heads "top" means: as many as are chosen, unless `repatch` was told otherwise."""
        return int(self.settings["k"])

    @property
    def preferred(self) -> str:
        """What `prefers` counts: the decoded tokens, where all pairs read the same, else the sycophantic answer."""
        read = self.settings.get("answers", {})
        return (
            str(read["sycophantic"])
            if read.get("alike") and "sycophantic" in read
            else f"the {self.words.answer} answer"
        )

    def _told(self, side: str) -> bool:
        """Whether the gap before or after can be told from zero, by its own interval; not where that is unknown."""
        gap = self.of("gap")
        return bool(gap[f"{side}_low"] > 0 or gap[f"{side}_high"] < 0)

    @property
    def tops(self) -> tuple[HeadSet | None, HeadSet | None]:
        """The k best heads before and after, best first, by their effect times the sign of that model's mean gap. None
        where that gap can't be told from zero: there is nothing to be best at."""
        before, after = (
            HeadSet.of(self.table.nsmallest(self.k, f"rank_{side}")["name"].tolist()) if self._told(side) else None
            for side in SIDES
        )
        return before, after

    @property
    def gained(self) -> HeadSet | None:
        """Where the behaviour went: heads among the top k after that were not before, best first; None without both."""
        before, after = self.tops
        return None if before is None or after is None else after - before

    @property
    def chosen_in_top(self) -> tuple[OverlapNull | None, OverlapNull | None]:
        """How many of the top k (None: no top) are chosen ones, beside what the layers alone would give."""
        n_heads = int(self.table["head"].max()) + 1
        before, after = (None if top is None else layer_overlap(top, self.heads, n_heads) for top in self.tops)
        return before, after

    @property
    def spearman(self) -> float:
        """Rank correlation of the effects before and after, of all heads that are neither chosen nor tuned."""
        others = self.table[self.table["set"] == "other"]
        if others.empty:
            return math.nan
        return statistics.spearman(*(torch.tensor(others[side].tolist()) for side in ("before", "after")))

    def of(self, figure: str, which: str = "chosen") -> pd.Series:
        """The row of a figure: of `runs` by its name alone, or of a set; of random sets, the median of each column.

        Raises: KeyError for one that there is not.
        """
        if figure in RUNS:
            rows = self.runs[self.runs["figure"] == figure]
        else:
            rows = self.sets[(self.sets["figure"] == figure) & (self.sets["set"] == which)]
        if rows.empty:
            raise KeyError(f"there is no figure {figure!r} of the set {which!r}")
        return rows[list(CHANGE)].median() if len(rows) > 1 else rows.iloc[0]

    def _title(self, figure: str) -> str:
        return {**RUNS, **FIGURES}[figure].format(**vars(self.words), preferred=self.preferred)

    def _set(self, figure: str, which: str) -> str:
        row, gap = self.of(figure, which), self.of("gap")
        told = [side for side in SIDES if figure in ("single", "together") and self._told(side)]
        shares = " -> ".join(f"{row[side] / gap[side]:.0%}" for side in told)
        of_gap = f"; of {'each gap' if len(told) == 2 else f'the gap {told[0]}'} {shares}" if told else ""
        return f"{self._title(figure)} {_moved(row)}{of_gap}"

    def _gap(self) -> str:
        gap = self.of("gap")
        before, after = (f"{gap[side] + 0.0:.2f}{_ends(gap, f'{side}_')}" for side in SIDES)
        turned = ", turned round" if all(map(self._told, SIDES)) and gap["before"] * gap["after"] < 0 else ""
        flat = [side for side in SIDES if gap[f"{side}_low"] <= 0 <= gap[f"{side}_high"]]
        none = f", which can't be told from zero {' and '.join(flat)}" if flat else ""
        return f"gap {before} -> {after} ({gap['change']:+.2f}{_ends(gap)}){turned}{none}"

    def _top(self) -> str:
        now, new = self.chosen_in_top[1], self.gained
        if now is None:
            return f"no top {self.k} after, where the gap is not told from zero"
        news = "which are new is unknown" if new is None else f"{len(new)} new: {new or 'none'}"
        own = f"{now.shared} are chosen ones (by layers alone {now.expected:.1f})"
        return f"of the top {self.k} after, {own} and {news}"

    def summary(self) -> str:
        """A line each: what was measured, the two runs, the chosen heads, those that were tuned, and all others."""
        whose = "tuned themselves" if set(self.tuned) == set(self.heads) else f"of which {self._tuned()} tuned"
        at = ", ".join(filter(None, (self.direction, f"{self.positions} position", f"{self.n_pairs} pairs")))
        lines = [f"{len(self.heads)} chosen heads of {self.model_name}, {whose}; {self.method} patching, {at}; logits"]
        prefers = self.of("prefers")
        counts = " -> ".join(str(round(prefers[side] * self.n_pairs)) for side in SIDES)
        lines.append(f"{self._gap()}; pairs that prefer {self.preferred} {counts}")
        for which in ("chosen", "tuned", "random"):
            if (self.sets["set"] == which).any():
                label = {"random": "random heads of these layers, median"}.get(which, f"{which} heads")
                said = (self._set(name, which) for name in ("single", "together", "knocked_out"))
                lines.append(f"{label}: {'; '.join(said)}")
        lines += filter(None, [str(self.settings.get("no_random", ""))])
        moved = f"{self._set('single', 'others')}; Spearman {self.spearman:.2f}" if self._others else "none"
        lines.append(f"all other heads: {moved}; {self._top()}")
        return "\n".join(lines)

    @property
    def _others(self) -> bool:
        return bool((self.table["set"] == "other").any())

    def _tuned(self) -> str:
        return f"{len(self.heads & self.tuned)}" if self.tuned else "all, with whole matrices, were"

    def figure(self) -> go.Figure:
        """Each head's effect before (across) and after (up), chosen and tuned ones marked, the first new ones named."""
        from spt_lens.view.repatched import repatched_figure

        title = f"{self.model_name}: effect of each head before and after tuning\n{self.summary().splitlines()[1]}"
        return repatched_figure(self.table, list(map(str, (self.gained or HeadSet())[:NAMED])), title)

    def to_json(self) -> dict[str, Any]:
        """Everything but the scores, as JSON holds it; None for a missing number."""
        about = {name: getattr(self, name) for name in (*_ABOUT, "settings")}
        heads = {name: getattr(self, name).to_json() for name in ("heads", "tuned")}
        return {**about, **heads, **{name: saving.rows(getattr(self, name)) for name in COLUMNS}}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """The reverse of `to_json`. Raises KeyError or ValueError for data of another kind."""
        about: dict[str, Any] = {name: saving.entry(data, name, kind) for name, kind in _ABOUT.items()}
        heads, tuned = (HeadSet.from_json(saving.entry(data, name, dict)) for name in ("heads", "tuned"))
        # An older file lacks the intervals of the runs, and has ranks by the signed effects.
        lacking: dict[str, Any] = dict.fromkeys(ENDS)
        runs = [{**lacking, **row} if isinstance(row, dict) else row for row in saving.entry(data, "runs", list)]
        tables = {name: saving.table({**data, "runs": runs}, its, name) for name, its in COLUMNS.items()}
        if "gap" not in set(tables["runs"]["figure"]):
            raise ValueError("its runs have no gap")
        tables["table"] = ranked(tables["table"], tables["runs"])
        settings = saving.entry(data, "settings", dict)
        saving.entry({"answers": {}, **settings}, "answers", dict)
        names = set(tables["table"]["name"])
        if not 1 <= saving.entry(settings, "k", int) <= len(names) or not set(map(str, heads | tuned)) <= names:
            raise ValueError("its heads are not those of its table")
        return cls(heads=heads, tuned=tuned, **about, **tables, settings=settings)

    def save(self, path: str | Path) -> Path:
        """Writes it as JSON, without the scores. Raises OSError when the file can't be written."""
        return saving.save_json(path, KIND, self.to_json())

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """What `save` wrote. Raises FileNotFoundError, or ValueError for a damaged file or one of another kind."""
        return saving.load_json(path, KIND, cls.from_json)

    def __repr__(self) -> str:
        return f"Repatched({self.summary()})"

    def _repr_html_(self) -> str:
        """The tables: any viewer shows them, with no script and no network."""
        runs, sets = self.runs.copy(), self.sets.drop(columns=["draw", "heads"])
        sets = sets.groupby(["set", "k", "figure"], sort=False).median().reset_index()
        for each in (runs, sets):
            each["figure"] = each["figure"].map(self._title)
        wanted = set(map(str, (self.heads | self.tuned | (self.gained or HeadSet())).heads[:SHOWN_ROWS]))
        shown = self.table[self.table["name"].isin(wanted)].drop(columns=["layer", "head"])
        said = html.escape(self.summary()).replace("\n", "<br>")
        return f"<p>{said}</p>" + "".join(table_html(each, ".3f") for each in (runs, sets, shown))

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        """Jupyter takes the interactive figure where it can, else the tables."""
        return {
            "application/vnd.plotly.v1+json": json.loads(self.figure().to_json()),
            "text/html": self._repr_html_(),
            "text/plain": repr(self),
        }


_ABOUT: dict[str, type] = {**dict.fromkeys(("model_name", "method", "direction", "positions"), str), "n_pairs": int}


def ranked(table: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    """With rank_before and rank_after, as `Repatched` has them; equal effects in the order of layers and heads."""
    gap, placed = runs[runs["figure"] == "gap"].iloc[0], table.sort_values(["layer", "head"])
    turned = {side: placed[side] * (-1 if gap[side] < 0 else 1) for side in SIDES}
    ranks = {f"rank_{side}": turned[side].rank(method="first", ascending=False).astype(int) for side in SIDES}
    return table.assign(**ranks)


def _ends(row: pd.Series, of: str = "") -> str:
    return "" if math.isnan(row[f"{of}low"]) else f" [{row[f'{of}low']:+.2f}, {row[f'{of}high']:+.2f}]"


def _moved(row: pd.Series) -> str:
    return f"{row['before'] + 0.0:.2f} -> {row['after'] + 0.0:.2f} ({row['change']:+.2f}{_ends(row)})"
