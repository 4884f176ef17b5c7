"""How faithful a ranking's best heads are to what all heads do, over all set sizes: one area instead of one size.

After the Mechanistic Interpretability Benchmark (Mueller et al. 2025, arXiv 2504.13151), which scores circuits of
edges: f(k) = (m(k) - m(none)) / (m(all) - m(none)), CPR the area under f over the share k of what is kept, components
by their signed score; CMD the area between f and 1, components by their absolute score: what works against the effect
belongs to the mechanism as well. Here components are attention heads, m is the logit difference of the sycophantic run
with the best heads patched in from the truthful one at the positions that were asked for, "none" that run as it is,
"all" with every head patched in. Sizes are MIB's, rounded to whole heads, with none and all; areas are by the trapezoid
rule, and shares count heads alike (MIB weighs edges). Neither area has a value that is known for a random order: heads
that work against the effect can take a curve above one, or below zero. Measure some on the same pairs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from spt_lens import saving
from spt_lens.checking import door
from spt_lens.data.pairs import ContrastPairs
from spt_lens.heads import HeadSet
from spt_lens.measure.sets import Runs, both_runs, patched_runs, recovery_figures
from spt_lens.model.generation import finish
from spt_lens.model.limits import find_limits, progress_bar
from spt_lens.model.view import Model, ModelView
from spt_lens.patching.rows import Direction, Positions, make_rows
from spt_lens.scores.head_scores import HeadScores

SIZES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
LEAST = 0.05  # of the gap, by all heads together: shares of less are noise
COLUMNS: dict[str, type] = {"size": int, "share": float, "recovery": float, "faithfulness": float}


@dataclass(frozen=True, eq=False)
class Faithfulness:
    """table: a row for each size, the best heads by signed score first: size (heads), share (of all heads), recovery
    (of the gap), faithfulness (the recovery over that of all heads). absolute: the same, by the scores' sizes first;
    of an order without scores, the table again. cpr: the area under the table's faithfulness over shares, the higher
    the better. cmd: the area between that of `absolute` and 1, the lower the better, 0 if the first head does all."""

    table: pd.DataFrame
    absolute: pd.DataFrame
    cpr: float
    cmd: float

    def __str__(self) -> str:
        return f"CPR {self.cpr:.3f}, CMD {self.cmd:.3f} over {len(self.table)} sizes"

    def to_json(self) -> dict[str, Any]:
        tables = {"table": saving.rows(self.table), "absolute": saving.rows(self.absolute)}
        return tables | {"cpr": self.cpr, "cmd": self.cmd}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Faithfulness:
        """The reverse of `to_json`. Raises KeyError or ValueError for data of another kind."""
        tables = saving.table(data, COLUMNS), saving.table(data, COLUMNS, "absolute")
        return cls(*tables, saving.entry(data, "cpr", float), saving.entry(data, "cmd", float))


def areas(shares: Sequence[float], values: Sequence[float]) -> tuple[float, float]:
    """CPR and CMD of faithfulness at shares from 0 to 1, ascending, by the trapezoid rule."""
    under = off = 0.0
    for (a, one), (b, other) in zip(
        zip(shares, values, strict=True), list(zip(shares, values, strict=True))[1:], strict=False
    ):
        under += (b - a) * (one + other) / 2
        off += (b - a) * (abs(1 - one) + abs(1 - other)) / 2
    return under, off


@door
def faithfulness(
    model: Model,
    pairs: ContrastPairs,
    heads: HeadScores | HeadSet,
    *,
    direction: Direction = "denoising",
    positions: Positions = "last",
    batch_size: int | None = 32,
    progress: bool = True,
) -> Faithfulness:
    """The best heads patched in together at every size, from none to all, and the areas CPR and CMD (top of the file).

    heads: scores, by their signed value for CPR and by its size for CMD; or all heads in their order, for both. The
    other arguments are those of set_patching.
    The model is left as it was.

    Raises: as set_patching; ValueError for a selection that leaves heads out, or if all heads together bring back
    hardly any of the gap, of which shares would be noise.
    """
    view = ModelView(model)
    n = view.n_layers * view.n_heads
    orders = orders_of(heads) if isinstance(heads, HeadScores) else [heads]
    for order in orders:
        if len(order) != n:
            raise ValueError(
                f"the order has {len(order)} heads, {view.name} has {n}: give scores, or all heads in order"
            )
    sizes = sizes_of(n)
    sets = [order[:size] for order in orders for size in sizes]
    figures = recoveries(view, pairs, sets, direction, positions, batch_size, progress)
    found = [each["recovery"] for each in figures]
    return of_recoveries(sizes, found[: len(sizes)], found[len(sizes) :])


def orders_of(scores: HeadScores) -> list[HeadSet]:
    """All heads by signed score, and by its size, where that is another order."""
    signed, absolute = scores.order(), scores.order("size")
    return [signed] if list(signed) == list(absolute) else [signed, absolute]


def sizes_of(n_heads: int) -> list[int]:
    """The sizes of the curve, for so many heads in all: SIZES in whole heads, with none and all."""
    return sorted({0, *(round(n_heads * share) for share in SIZES)})


def of_recoveries(sizes: Sequence[int], recovered: Sequence[float], absolute: Sequence[float] = ()) -> Faithfulness:
    """The curves and their areas, of what sets of these sizes recover, the last one of all heads. absolute: by the
    scores' sizes; empty, where that is the same order. Raises ValueError."""
    if recovered[-1] < LEAST:
        raise ValueError(
            f"all heads together bring back {recovered[-1]:.3f} of the gap, of which no share means anything: patch at "
            "more positions, or give other pairs"
        )
    tables, both = [], []
    for each in (recovered, absolute or recovered):
        shares = [size / sizes[-1] for size in sizes]
        table = pd.DataFrame({"size": list(sizes), "share": shares, "recovery": list(each)})
        table["faithfulness"] = table["recovery"] / each[-1]
        tables.append(table)
        both.append(areas(shares, table["faithfulness"].tolist()))
    return Faithfulness(tables[0], tables[1], both[0][0], both[1][1])


def recoveries(
    view: ModelView,
    pairs: ContrastPairs,
    sets: Sequence[HeadSet],
    direction: Direction = "denoising",
    positions: Positions = "last",
    batch_size: int | None = 32,
    progress: bool = True,
) -> list[dict[str, float]]:
    """What each of some sets brings back, patched in together: recovery, low and high, as in set_patching. Both runs
    of the pairs are made once for all of them; of a set without heads it is zero.

    Raises: ValueError as set_patching does.
    """
    for heads in sets:
        if len(heads):
            heads.check(view)
    runs = Runs(view, pairs, make_rows(view, pairs, direction, positions))
    limits = find_limits(view, runs.rows.longest, batch_size, None)
    with view.held(), progress_bar(len(sets) * len(runs.rows), "patching sets", progress) as tick:
        unpatched = finish(both_runs(runs, limits))
        shares, _ = finish(patched_runs(runs, limits, sets, unpatched, tick))
    gaps = unpatched.gaps(runs.rows)
    return [recovery_figures(share, gaps) for share in shares]
