"""`head_knockout`: what the model does without each head, one head at a time."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

from torch import Tensor

from spt_lens.checking import door
from spt_lens.data.pairs import ContrastPairs
from spt_lens.measure.ablation import Ablation, MeanOver, ablation_values, check_ablation
from spt_lens.model.view import Model, ModelView
from spt_lens.patching.activation import Activation, patch_each
from spt_lens.patching.engine import Method, measure
from spt_lens.patching.readings import Readings, Resting, to_scores
from spt_lens.patching.rows import Row, Rows, make_rows
from spt_lens.scores.head_scores import HeadScores


@dataclass(frozen=True)
class Knockout(Method):
    """Activation patching at all positions, with one value for each head instead of another run's."""

    pairs: ContrastPairs
    ablation: Ablation
    mean_over: MeanOver
    name: ClassVar[str] = "knockout"
    # A head that is removed at every position leaves no beginning of the prompt for the others to share: no sweep.
    engines: ClassVar[tuple[str, ...]] = ("stacked", "hooks")

    def settings(self) -> dict[str, Any]:
        return {"ablation": self.ablation, "mean_over": self.mean_over}

    def work(self, view: ModelView, rows: Rows, engine: str) -> float:
        return Activation().work(view, rows, engine)

    def measure(self, readings: Readings) -> None:
        readings.both_runs()  # first, since pairs without any gap are an error
        size = readings.limits.batch_size
        values = ablation_values(readings.view, self.pairs, self.ablation, self.mean_over, size)

        def everywhere(rows: list[Row]) -> Tensor:
            return values[:, None].expand(-1, sum(len(row.into_at) for row in rows), -1, -1)

        patch_each(readings, readings.heads, everywhere)


@door
def head_knockout(
    model: Model,
    pairs: ContrastPairs,
    *,
    ablation: Ablation = "mean",
    mean_over: MeanOver = "both",
    batch_size: int | None = 32,
    progress: bool = True,
) -> HeadScores:
    """How far each head's removal moves the sycophantic run towards the truthful one, every head removed by itself.

    (LD_without_head - LD_sycophantic) / (LD_truthful - LD_sycophantic), in the unit of activation_patching: 1 means
    that the truthful reply is back without this head, below zero that the model gives in even more.

    A removed head is set to its mean over all positions of the pairs' prompts, or to zero, at every position of the
    sycophantic prompt (and of a whole completion behind it); `mean_over` says which prompts. Several heads together:
    `set_knockout`. It takes a forward pass for each head; with fewer pairs than `batch_size`, several heads share one.

    Raises: as activation_patching, and ValueError for an unknown ablation or mean_over.
    Source: Chen et al. 2024, section 3.2, knocks heads out in rank order.
    """
    view = ModelView(model)
    check_ablation(ablation, mean_over)
    rows = make_rows(view, pairs)
    everywhere = tuple(replace(row, into_at=tuple(range(len(row.into)))) for row in rows.rows)
    rows, way = replace(rows, rows=everywhere), Knockout(pairs, ablation, mean_over)
    resting = Resting(view, pairs, "denoising")
    readings, settings = measure(view, rows, way, "auto", batch_size, None, progress, "knocking heads out", resting)
    return to_scores(readings, way.name, "", "all", settings)  # no direction: no other run's value is put in
