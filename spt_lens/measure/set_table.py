"""What curves over ranked heads share: at which numbers of heads to measure, and which random heads to set beside.

What both curves over heads in rank order share: files, and how a notebook shows them.

How many heads does it take? Joint recovery as heads are patched in together, one after the other by rank.

The other side of knockout: knockout asks whether the behaviour needs the heads, patching whether the heads suffice.

How much of a behaviour a set of heads carries by itself, beside what its heads carry one by one, and random sets.
"""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self, get_args

import pandas as pd

from spt_lens import saving
from spt_lens.chat.batches import Padding
from spt_lens.data.pairs import ContrastPairs
from spt_lens.heads import HeadSet
from spt_lens.measure.sets import check_set, joint_effects
from spt_lens.model.view import Model, ModelView
from spt_lens.patching.rows import Direction, Positions, named
from spt_lens.scores.head_scores import HeadScores
from spt_lens.statistics import interval

if TYPE_CHECKING:
    import plotly.graph_objects as go


def ranked_heads(view: ModelView, heads: HeadScores | HeadSet) -> HeadSet:
    """All heads by their scores, the highest first, or a selection in its own order.

    Raises: TypeError for anything else; ValueError for an empty selection, or heads that the model does not have.
    """
    if not isinstance(heads, HeadScores | HeadSet):
        raise TypeError(f"expected HeadScores or a HeadSet, got {type(heads).__name__}: use HeadSet.of(...)")
    ranked = heads.top(view.n_layers * view.n_heads) if isinstance(heads, HeadScores) else heads
    ranked.check(view)
    return ranked


def steps(ks: Sequence[int] | None, n: int, largest: int) -> list[int]:
    """The numbers of heads to measure at, in order and once each; default 0, 1, 2, 4 and so on, up to `largest`."""
    if ks is None:
        largest = min(n, largest)
        doubling = [2**i for i in range(largest.bit_length()) if 2**i < largest]
        return [0, *doubling, largest]
    if not ks or min(ks) < 0 or max(ks) > n:
        raise ValueError(f"ks={list(ks)} must be numbers of heads from 0 to {n}, and at least one")
    return sorted(set(ks))


def runs(
    view: ModelView, ranked: HeadSet, at: Sequence[int], n_random: int, seed: int
) -> list[tuple[int, str, int, HeadSet]]:
    """Every set of heads to measure, as (k, "ranked" or "random", draw, heads).

    Made before any of them is measured: an impossible draw is an early error.

    Raises: ValueError for a negative n_random, or more heads to draw than there are.
    """
    check_n_random(n_random)
    found = [(k, "ranked", 0, ranked[:k]) for k in at]
    for k in at:
        for draw in range(n_random if k else 0):
            found.append((k, "random", draw, matched_random(view, ranked[:k], seed + draw)))
    return found


def matched_random(view: ModelView, heads: HeadSet, seed: int) -> HeadSet:
    """As many other heads in each layer; where a layer has too few others, heads of any layer."""
    room = all(2 * len(chosen) <= view.n_heads for chosen in heads.by_layer().values())
    return heads.random_like(view, seed=seed, matched=room)


def check_n_random(n_random: int) -> None:
    """Raises ValueError for what is no number of draws."""
    if isinstance(n_random, bool) or not isinstance(n_random, int) or n_random < 0:
        raise ValueError(f"n_random={n_random}: the number of random draws must be a whole number, zero or more")


def curve_table(data: Mapping[str, Any], heads: HeadSet, metrics: Sequence[str]) -> pd.DataFrame:
    """The table of a saved curve over `heads`: k, order, draw and the metrics.

    Raises: KeyError if there is none; ValueError for one that no curve has.
    """
    table = saving.table(data, {"k": int, "order": str, "draw": int, **dict.fromkeys(metrics, float)})
    odd = table[~(table["k"].between(0, len(heads)) & table["order"].isin(["ranked", "random"]))]
    if len(odd):
        raise ValueError(f"row {odd.index[0]} of its table is of k = {odd['k'].iloc[0]}, {odd['order'].iloc[0]!r}")
    return table


class RankCurve:
    """A curve with a `table` that has the columns k, order and draw. kind: what its files are called."""

    kind: ClassVar[str]
    table: pd.DataFrame

    def summary(self) -> str:
        raise NotImplementedError

    def figure(self) -> go.Figure:
        raise NotImplementedError

    def to_json(self) -> dict[str, Any]:
        raise NotImplementedError

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        raise NotImplementedError

    def save(self, path: str | Path) -> Path:
        """Writes the curve and its settings as JSON. Raises OSError when the file can't be written."""
        return saving.save_json(path, self.kind, self.to_json())

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Reads what `save` wrote. Raises FileNotFoundError, or ValueError for a damaged or a different file."""
        return saving.load_json(path, cls.kind, cls.from_json)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.summary()})"

    def _repr_html_(self) -> str:
        """A table of means over draws that any viewer shows, with no script and no network."""
        means = self.table.drop(columns="draw").groupby(["order", "k"], sort=False).mean().reset_index()
        table = means.to_html(index=False, escape=True, float_format="%.2f", na_rep="")
        return f"<p>{html.escape(self.summary())}</p>{table}"

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        """Jupyter takes the interactive figure where it can, else the table."""
        return {
            "application/vnd.plotly.v1+json": json.loads(self.figure().to_json()),
            "text/html": self._repr_html_(),
            "text/plain": repr(self),
        }


@dataclass(frozen=True, eq=False, repr=False)
class RecoveryCurve(RankCurve):
    """What comes back as heads are patched in together in rank order, and as random heads are.

    table: a row for each number of heads k and draw, with the columns k, order ("ranked" or "random"), draw (0 for
    ranked), recovery (the mean over pairs of the share of the gap that came back, or with direction="noising" was lost)
    and apology_rate (the share of pairs whose reply would begin with the sycophantic completion). heads: those of the
    largest k, in rank order. settings: what else the curve was made with (model, n_random, seed) and the numbers of the
    pairs that were left out.
    """

    table: pd.DataFrame
    heads: HeadSet
    direction: Direction
    positions: str
    n_pairs: int
    settings: dict[str, Any] = field(default_factory=dict)

    kind: ClassVar[str] = "recovery curve"

    def summary(self) -> str:
        """One line: the recovery with all heads of the curve, and with as many random ones."""
        last = self.table[self.table["k"] == self.table["k"].max()]
        ranked, random = (last.loc[last["order"] == order, "recovery"] for order in ("ranked", "random"))
        beside = f", random heads {random.min():.2f} to {random.max():.2f}" if len(random) else ""
        at = f"{self.positions} position{'s' if self.positions != 'last' else ''}"
        what = "recovered" if self.direction == "denoising" else "lost"
        return (
            f"{len(self.heads)} heads patched in together: {float(ranked.iloc[0]):.2f} of the gap {what}{beside}; "
            f"{self.direction}, {at}, {self.n_pairs} pairs"
        )

    def figure(self) -> go.Figure:
        """The curve, with the random heads as a band."""
        from spt_lens.view.curves import recovery_figure

        return recovery_figure(self.table, title=self.summary())

    def to_json(self) -> dict[str, Any]:
        """Everything in it, as JSON holds it."""
        about = {name: getattr(self, name) for name in ("direction", "positions", "n_pairs", "settings")}
        return {**self.heads.to_json(), **about, "table": saving.rows(self.table)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> RecoveryCurve:
        """The reverse of `to_json`. Raises KeyError or ValueError for data of another kind."""
        heads = HeadSet.from_json(data)
        return cls(
            curve_table(data, heads, ("recovery", "apology_rate")),
            heads,
            saving.choice(data, "direction", get_args(Direction)),
            saving.entry(data, "positions", str),
            saving.entry(data, "n_pairs", int),
            saving.entry(data, "settings", dict),
        )


def recovery_curve(
    model: Model,
    pairs: ContrastPairs,
    heads: HeadScores | HeadSet,
    ks: Sequence[int] | None = None,
    n_random: int = 5,
    seed: int = 0,
    direction: Direction = "denoising",
    positions: Positions = "last",
    batch_size: int | None = 32,
    padding: Padding = "right",
    progress: bool = True,
) -> RecoveryCurve:
    """joint_recovery of the best k heads together, for several k, with matched random heads beside them.

    heads: scores (ranked by their signed value, highest first) or a selection in its own order. ks: how many to patch
    at each point; default 0, 1, 2, 4, 8 and so on, up to the selection's size or to 16. Each of the n_random draws at a
    point has as many heads in each layer as those in rank order, and none of them; where a layer has too few others,
    heads of any layer are drawn. Everything else is as in joint_recovery. The model is left as it was.

    Raises: ValueError as joint_recovery does, for ks out of range, a negative n_random, or more heads to draw than
    there are; TypeError for heads that are neither scores nor a selection.
    """
    view = ModelView(model)
    ranked = ranked_heads(view, heads)
    at = steps(ks, len(ranked), 16 if isinstance(heads, HeadScores) else len(ranked))
    draws = runs(view, ranked, at, n_random, seed)
    effects = joint_effects(
        view, pairs, [chosen for *_, chosen in draws], direction, positions, batch_size, padding, progress
    )
    rows = [
        {
            "k": k,
            "order": order,
            "draw": draw,
            "recovery": float(effect.recovery.mean()),
            "apology_rate": float(effect.apologises_after.double().mean()),
        }
        for (k, order, draw, _), effect in zip(draws, effects, strict=True)
    ]
    one = effects[0]
    settings = {"model": view.name, "n_random": n_random, "seed": seed, "left_out": list(one.left_out)}
    return RecoveryCurve(pd.DataFrame(rows), ranked[: at[-1]], direction, one.positions, len(one.recovery), settings)


_COLUMNS = {"set": str, "draw": int, "heads": str, "recovery": float, "low": float, "high": float}
_COLUMNS |= {"apology_rate": float, "sum_of_single": float}


@dataclass(frozen=True, eq=False, repr=False)
class SetEffect:
    """What a set of heads carries when it alone is patched, and what matched random sets do.

    table: a row for the set ("chosen", draw 0) and one for each draw of random heads ("random"), with the columns set,
    draw, heads, recovery (the mean over pairs of the share of the gap that comes back, or is lost: the set's
    faithfulness), low and high (its 95 % bootstrap interval over pairs; nan for a single pair), apology_rate (the share
    of pairs whose reply would begin with the sycophantic completion) and sum_of_single (the sum of its heads' own
    scores; nan without scores). Where sum_of_single is above recovery, heads do the same work twice; where it is below,
    they need each other.

    apology_rate_before: without any patch. settings: what else it was made with (model, n_random, seed, the scores'
    method) and the numbers of the pairs that were left out.
    """

    heads: HeadSet
    table: pd.DataFrame
    apology_rate_before: float
    direction: Direction
    positions: str
    n_pairs: int
    settings: dict[str, Any] = field(default_factory=dict)

    def summary(self) -> str:
        """One line: the set's recovery, the sum of its heads' own, and the random sets'."""
        chosen = self.table.iloc[0]
        what = "recovered" if self.direction == "denoising" else "lost"
        parts = [f"{len(self.heads)} heads alone: {chosen['recovery']:.2f} of the gap {what}"]
        if pd.notna(chosen["low"]):
            parts[0] += f" [{chosen['low']:.2f}, {chosen['high']:.2f}]"
        if pd.notna(chosen["sum_of_single"]):
            parts.append(f"sum of its heads' own scores {chosen['sum_of_single']:.2f}")
        random = self.table.loc[self.table["set"] == "random", "recovery"]
        if len(random):
            parts.append(f"{len(random)} random sets {random.min():.2f} to {random.max():.2f}")
        at = f"{self.positions} position{'s' if self.positions != 'last' else ''}"
        return f"{'; '.join(parts)}; {self.direction}, {at}, {self.n_pairs} pairs"

    def to_json(self) -> dict[str, Any]:
        """Everything in it, as JSON holds it."""
        names = ("apology_rate_before", "direction", "positions", "n_pairs", "settings")
        return {**self.heads.to_json(), **{n: getattr(self, n) for n in names}, "table": saving.rows(self.table)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> SetEffect:
        """The reverse of `to_json`. Raises KeyError or ValueError for data of another kind."""
        table = saving.table_of_sets(data, _COLUMNS)
        return cls(
            HeadSet.from_json(data),
            table,
            saving.entry(data, "apology_rate_before", float),
            saving.choice(data, "direction", get_args(Direction)),
            saving.entry(data, "positions", str),
            saving.entry(data, "n_pairs", int),
            saving.entry(data, "settings", dict),
        )

    def save(self, path: str | Path) -> Path:
        """Writes the effect and its settings as JSON. Raises OSError when the file can't be written."""
        return saving.save_json(path, "set effect", self.to_json())

    @classmethod
    def load(cls, path: str | Path) -> SetEffect:
        """Reads what `save` wrote. Raises FileNotFoundError, or ValueError for a damaged or a different file."""
        return saving.load_json(path, "set effect", cls.from_json)

    def __repr__(self) -> str:
        return f"SetEffect({self.summary()})"

    def _repr_html_(self) -> str:
        table = self.table.dropna(axis=1, how="all").to_html(index=False, escape=True, float_format="%.2f", na_rep="")
        return f"<p>{html.escape(self.summary())}</p>{table}"


def set_effect(
    model: Model,
    pairs: ContrastPairs,
    heads: HeadSet,
    n_random: int = 5,
    seed: int = 0,
    scores: HeadScores | None = None,
    direction: Direction = "denoising",
    positions: Positions = "last",
    batch_size: int | None = 32,
    padding: Padding = "right",
    progress: bool = True,
) -> SetEffect:
    """How much of the gap comes back when only these heads are patched in, together; and so for random sets.

    Each random set has as many heads in each layer, and none of these; where a layer has too few others, heads of any
    layer are drawn. scores: the recoveries of single heads (activation_patching), to be summed over each set; measured
    with the same direction and positions. Everything else is as in joint_recovery. The model is left as it was.

    Raises: ValueError as joint_recovery does, for a negative n_random, fewer other heads than are to be drawn, or
    scores of another model's shape, metric, direction or positions; TypeError for heads that are no HeadSet.
    """
    view = ModelView(model)
    check_set(view, heads)
    check_n_random(n_random)
    if scores is not None:
        _check_scores(view, scores, direction, named(positions))
    draws = [matched_random(view, heads, seed + draw) for draw in range(n_random)]
    sets = [heads, *draws]
    effects = joint_effects(view, pairs, sets, direction, positions, batch_size, padding, progress)
    rows = []
    for i, effect in enumerate(effects):
        low, high = interval(effect.recovery) if len(effect.recovery) > 1 else (float("nan"), float("nan"))
        rows.append(
            {
                "set": "random" if i else "chosen",
                "draw": max(0, i - 1),
                "heads": str(effect.heads),
                "recovery": float(effect.recovery.mean()),
                "low": float(low),
                "high": float(high),
                "apology_rate": float(effect.apologises_after.double().mean()),
                "sum_of_single": float("nan") if scores is None else sum(scores[head] for head in effect.heads),
            }
        )
    before = float(effects[0].apologises_before.double().mean())
    settings = {
        "model": view.name,
        "n_random": n_random,
        "seed": seed,
        "scores": None if scores is None else scores.method,
        "left_out": list(effects[0].left_out),
    }
    n_pairs = len(effects[0].recovery)
    return SetEffect(heads, pd.DataFrame(rows), before, direction, effects[0].positions, n_pairs, settings)


def _check_scores(view: ModelView, scores: HeadScores, direction: str, positions: str) -> None:
    if (scores.n_layers, scores.n_heads) != (view.n_layers, view.n_heads):
        raise ValueError(
            f"the scores are of {scores.n_layers} layers x {scores.n_heads} heads, {view.name} has {view.n_layers} x "
            f"{view.n_heads}: measure them on this model"
        )
    if scores.meta.get("null"):
        raise ValueError("these scores are a null of random pairs, not the set's own: give activation_patching's")
    same = {"method": "activation", "metric": "recovery", "direction": direction, "positions": positions}
    for name, own in same.items():
        if getattr(scores, name) != own:
            raise ValueError(
                f"the scores were measured with {name}={getattr(scores, name)!r} and the set is with {own!r}, so their "
                "sum can't be compared: measure both alike"
            )
