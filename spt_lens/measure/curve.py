"""How many heads does it take? Joint recovery as heads are patched in together, one after the other by rank.

The other side of knockout: knockout asks whether the behaviour needs the heads, patching whether the heads suffice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, get_args

import pandas as pd

from spt_lens.data.padding import Padding
from spt_lens.data.pairs import ContrastPairs
from spt_lens.heads import HeadSet
from spt_lens.measure import rank_steps, saved
from spt_lens.measure.joint import joint_effects
from spt_lens.measure.places import Direction, Positions
from spt_lens.measure.rank_curve import RankCurve
from spt_lens.models import Model, ModelView
from spt_lens.scores import HeadScores

if TYPE_CHECKING:
    import plotly.graph_objects as go


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
        from spt_lens.view.head_figures import recovery_figure

        return recovery_figure(self.table, title=self.summary())

    def to_json(self) -> dict[str, Any]:
        """Everything in it, as JSON holds it."""
        about = {name: getattr(self, name) for name in ("direction", "positions", "n_pairs", "settings")}
        return {**self.heads.to_json(), **about, "table": saved.rows(self.table)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> RecoveryCurve:
        """The reverse of `to_json`. Raises KeyError or ValueError for data of another kind."""
        heads = HeadSet.from_json(data)
        return cls(
            rank_steps.curve_table(data, heads, ("recovery", "apology_rate")),
            heads,
            saved.choice(data, "direction", get_args(Direction)),
            saved.entry(data, "positions", str),
            saved.entry(data, "n_pairs", int),
            saved.entry(data, "settings", dict),
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
    ranked = rank_steps.ranked_heads(view, heads)
    at = rank_steps.steps(ks, len(ranked), 16 if isinstance(heads, HeadScores) else len(ranked))
    runs = rank_steps.runs(view, ranked, at, n_random, seed)
    effects = joint_effects(
        view, pairs, [chosen for *_, chosen in runs], direction, positions, batch_size, padding, progress
    )
    rows = [
        {
            "k": k,
            "order": order,
            "draw": draw,
            "recovery": float(effect.recovery.mean()),
            "apology_rate": float(effect.apologises_after.double().mean()),
        }
        for (k, order, draw, _), effect in zip(runs, effects, strict=True)
    ]
    one = effects[0]
    settings = {"model": view.name, "n_random": n_random, "seed": seed, "left_out": list(one.left_out)}
    return RecoveryCurve(pd.DataFrame(rows), ranked[: at[-1]], direction, one.positions, len(one.recovery), settings)
