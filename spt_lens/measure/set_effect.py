"""How much of a behaviour a set of heads carries by itself, beside what its heads carry one by one, and random sets."""

from __future__ import annotations

import html
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import pandas as pd

from spt_lens.data.padding import Padding
from spt_lens.data.pairs import ContrastPairs
from spt_lens.heads import HeadSet
from spt_lens.measure import saved
from spt_lens.measure.joint import check_set, joint_effects
from spt_lens.measure.places import Direction, Positions, named
from spt_lens.measure.rank_steps import check_n_random, matched_random
from spt_lens.measure.statistics import interval
from spt_lens.models import Model, ModelView
from spt_lens.scores import HeadScores

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
        return {**self.heads.to_json(), **{n: getattr(self, n) for n in names}, "table": saved.rows(self.table)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> SetEffect:
        """The reverse of `to_json`. Raises KeyError or ValueError for data of another kind."""
        table = saved.table_of_sets(data, _COLUMNS)
        return cls(
            HeadSet.from_json(data),
            table,
            saved.entry(data, "apology_rate_before", float),
            saved.choice(data, "direction", get_args(Direction)),
            saved.entry(data, "positions", str),
            saved.entry(data, "n_pairs", int),
            saved.entry(data, "settings", dict),
        )

    def save(self, path: str | Path) -> Path:
        """Writes the effect and its settings as JSON. Raises OSError when the file can't be written."""
        return saved.save_json(path, "set effect", self.to_json())

    @classmethod
    def load(cls, path: str | Path) -> SetEffect:
        """Reads what `save` wrote. Raises FileNotFoundError, or ValueError for a damaged or a different file."""
        return saved.load_json(path, "set effect", cls.from_json)

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
    layer are drawn. scores: the recoveries of single heads (head_recovery), to be summed over each set; measured with
    the same direction and positions. Everything else is as in joint_recovery. The model is left as it was.

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
        raise ValueError("these scores are a null of random pairs, not the set's own: give those of head_recovery")
    same = {"method": "activation", "metric": "recovery", "direction": direction, "positions": positions}
    for name, own in same.items():
        if getattr(scores, name) != own:
            raise ValueError(
                f"the scores were measured with {name}={getattr(scores, name)!r} and the set is with {own!r}, so their "
                "sum can't be compared: measure both alike"
            )
