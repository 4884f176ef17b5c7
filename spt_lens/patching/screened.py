"""Screening: attribution patching estimates all heads, and only the best share by size is measured exactly."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

from spt_lens.data.pairs import ContrastPairs
from spt_lens.model.view import Model, ModelView
from spt_lens.patching.activation import Activation, patch_each
from spt_lens.patching.attribution import Attribution
from spt_lens.patching.engine import METHODS, Engine, Method, both_runs_work, scores_by
from spt_lens.patching.readings import Readings
from spt_lens.patching.rows import Direction, Positions, Rows
from spt_lens.scores.head_scores import HeadScores
from spt_lens.scores.metrics import Metric


@dataclass(frozen=True)
class Screened(Method):
    share: float = 0.2
    ig_steps: int = 1
    name: ClassVar[str] = "activation"  # what it comes to, with `verified` beside it
    memory: ClassVar[int] = Attribution.memory

    def check(self, view: ModelView, rows: Rows) -> None:
        if isinstance(self.share, bool) or not isinstance(self.share, int | float) or not 0 < self.share <= 1:
            raise ValueError(f"share={self.share!r}: give the share of heads to measure, above 0 and up to 1")
        Attribution(self.ig_steps).check(view, rows)

    def settings(self) -> dict[str, Any]:
        return {**Attribution(self.ig_steps).settings(), "screen": self.share}

    def work(self, view: ModelView, rows: Rows, engine: str) -> float:
        estimates = Attribution(self.ig_steps).work(view, rows, engine) + both_runs_work(view, rows)
        return estimates + self.share * Activation().work(view, rows, engine)

    def measure(self, readings: Readings) -> None:
        estimated = readings.fresh()
        Attribution(self.ig_steps).measure(estimated)
        size = estimated.shares()[0].mean(dim=0).abs().flatten()
        many = max(1, math.floor(self.share * len(size) + 1e-9))
        best = [readings.heads[i] for i in size.argsort(descending=True, stable=True)[:many].tolist()]
        patch_each(readings, best)
        readings.estimate_rest(estimated, best)


METHODS["screened"] = Screened


def screened_patching(
    model: Model,
    pairs: ContrastPairs,
    *,
    share: float = 0.2,
    ig_steps: int = 1,
    direction: Direction = "denoising",
    positions: Positions = "last",
    metric: Metric = "recovery",
    engine: Engine = "auto",
    batch_size: int | None = None,
    max_memory: float | None = None,
    progress: bool = True,
) -> HeadScores:
    """activation_patching of the best `share` of heads by the size of their attribution_patching (of `ig_steps`).

    `scores.verified` tells which were measured; the others are estimates. The other arguments, and what raises, are
    those of activation_patching.

    Raises: ValueError also for a share that is not above 0 and up to 1, or ig_steps below one.
    """
    how = (direction, positions, metric, engine, batch_size, max_memory, progress)
    return scores_by(Screened(share, ig_steps), model, pairs, *how)
