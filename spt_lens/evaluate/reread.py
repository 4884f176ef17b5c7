"""Reading a model's heads, sets and runs the same way each time, for patching again after tuning."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from spt_lens.data.pairs import ContrastPairs
from spt_lens.heads import HeadSet
from spt_lens.measure.ablation import ablation_hooks, ablation_values
from spt_lens.measure.sets import Runs, both_runs, check_scores, patched_runs
from spt_lens.model.generation import finish
from spt_lens.model.limits import find_limits, progress_bar
from spt_lens.model.view import ModelView
from spt_lens.patching.engine import measure
from spt_lens.patching.methods import method_named
from spt_lens.patching.readings import Resting, to_scores
from spt_lens.patching.rows import Positions, Rows, named
from spt_lens.scores.head_scores import HeadScores
from spt_lens.scores.metrics import least_gap

OFF = 1e-2  # logits: scores that were measured before, on another machine or in other batches
HOW = ("engine", "engine_reason", "batch_size")  # settings that change how fast scores come, and not what they are
PerPair = Float[Tensor, " n_pairs"]


@contextmanager
def of_the_tuned() -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise ValueError(f"of the tuned model, {error}") from error


@dataclass(frozen=True, eq=False)
class Read:
    """Of one model: scores of all heads; by figure, each pair's of both runs; by figure, each set's and pair's; of the
    untuned one, what its pairs' check found."""

    scores: HeadScores
    runs: dict[str, PerPair]
    sets: dict[str, list[PerPair]]
    check: dict[str, Any]


@dataclass(frozen=True, eq=False)
class Reader:
    """Reads a model as it is now, the same way each time."""

    view: ModelView
    pairs: ContrastPairs
    rows: Rows
    method: str
    direction: str
    positions: Positions
    batch_size: int | None

    def check(self, before: HeadScores) -> None:
        """Raises ValueError for scores of another model, or measured in another way or in part, or of other pairs."""
        check_scores(self.view, before)
        wanted: dict[str, Any] = {
            "method": self.method,
            "direction": self.direction,
            "positions": named(self.positions),
        }
        wanted |= {"metric": "recovery", "model_name": self.view.name, "n_pairs": len(self.pairs)}
        theirs = {name: getattr(before, name) for name in wanted}
        wanted |= method_named(self.method, {}).settings()
        theirs |= {name: value for name, value in before.meta.get("settings", {}).items() if name not in HOW}
        # What an older file does not say is not known to differ.
        off = {name: value for name, value in theirs.items() if name not in wanted or value != wanted[name]}
        if off:
            its = ", ".join(f"{name}={value!r}" for name, value in off.items())
            own = ", ".join(f"{name}={wanted[name]!r}" if name in wanted else f"no {name}" for name in off)
            raise ValueError(
                f"before= was measured with {its}, and this is with {own}: measure it alike, or leave it out"
            )
        if not bool(before.measured.all()):
            raise ValueError(
                f"before= holds estimates: {int((~before.measured).sum())} of its {before.values.numel()} heads were "
                f"not measured by {self.method} patching itself: measure them all, or leave it out"
            )
        if before.effects is None or before.meta.get("null"):
            raise ValueError("before= holds no effects of these pairs: give scores of patching, or leave it out")

    def read(self, sets: list[HeadSet], what: str, before: HeadScores | None, progress: bool, warn: bool) -> Read:
        """warn: the usual warnings of what the pairs are to this model; that a tuned one no longer gives in is none."""
        limits = find_limits(self.view, self.rows.longest, self.batch_size, None)
        resting = Resting(self.view, self.pairs, self.direction) if warn else None
        runs = Runs(self.view, self.pairs, self.rows)
        with self.view.held(), self.view.kept(), torch.no_grad():
            unpatched = finish(both_runs(runs, limits, resting=resting))
            base, target = (self.rows.by_pair(each).double() for each in (unpatched.base, unpatched.target))
            self._same(before, base, target)
            check = {} if resting is None else resting.found(base, target)
            with progress_bar(2 * len(sets) * len(self.rows), f"sets of the {what} model", progress) as tick:
                shares, _ = finish(patched_runs(runs, limits, sets, unpatched, tick))
                values = ablation_values(self.view, self.pairs, "mean", "both", limits.batch_size)
                without = []
                for heads in sets:
                    found = finish(both_runs(runs, limits, ablation_hooks(self.view, heads, values)))
                    without.append(self._turned(*(self.rows.by_pair(each) for each in (found.base, found.target))))
                    tick(len(self.rows))
        one, other = self._turned(base, target)
        gap = other - one
        scores = before if before is not None else self._scores(f"heads of the {what} model", progress)
        return Read(
            scores,
            {
                "ld_sycophantic": one,
                "ld_truthful": other,
                "gap": gap,
                "prefers": (one < 0).double(),
                "prefers_other": (other < 0).double(),
            },
            {
                "together": list(shares.double() * gap.mean()),
                "knocked_out": [each - one for each, _ in without],
                "knocked_out_other": [each - other for _, each in without],
            },
            check,
        )

    def _turned(self, base: PerPair, target: PerPair) -> tuple[PerPair, PerPair]:
        """The logit differences of the sycophantic and of the truthful run."""
        runs = (target, base) if self.direction == "noising" else (base, target)
        return runs[0].double(), runs[1].double()

    def _scores(self, title: str, progress: bool) -> HeadScores:
        way = method_named(self.method, {})
        # Without a check of the pairs: that a tuned model no longer gives in is no warning.
        found = measure(self.view, self.rows, way, "auto", self.batch_size, None, progress, title)
        return to_scores(found[0], self.method, self.direction, named(self.positions), found[1])

    def _same(self, before: HeadScores | None, base: PerPair, target: PerPair) -> None:
        if before is None or before.base is None or before.target is None:
            return
        off = max(float((a.double() - b).abs().max()) for a, b in ((before.base, base), (before.target, target)))
        if off > max(OFF, 100 * least_gap(self.view.dtype)):
            raise ValueError(
                "before= was measured on other pairs or on another model: the runs' logit differences are off by "
                f"{off:.2g}: measure it on these pairs and the untuned model, or leave it out"
            )
