"""What every method gives: logit differences, of each pair with each head patched, and what they come to as scores."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from spt_lens.data.check import PAIRS_READ, PairsCheck, checked
from spt_lens.data.mass import Reader
from spt_lens.data.pairs import ContrastPairs
from spt_lens.heads import Head
from spt_lens.model.limits import Limits, Tick
from spt_lens.model.ranks import Share, warn_caller
from spt_lens.model.view import ModelView
from spt_lens.patching.rows import Batch, Row, Rows, run_source
from spt_lens.scores.head_scores import HeadScores
from spt_lens.scores.metrics import check_finite, least_gap, mean_gap, recovery

Side = Literal["into", "source"]
ENOUGH = 8  # rows without any gap, after which the others' gaps are looked at before anything else is measured


class Readings:
    """A measurement under way: what is read, row by row, without a patch, in the other run, and with each head patched.

    engine: which one reads. limits: how much at once. tick: told of the tokens that went through a block. verified:
    `[n_layers, n_heads]`, the heads that were measured; None: all. resting: what the pairs' check needs. about: the
    method's settings. Raises, as they come in: ValueError for readings that are not finite.
    """

    def __init__(self, view: ModelView, rows: Rows, engine: str, limits: Limits, tick: Tick) -> None:
        self.view, self.rows, self.engine, self.limits, self.tick = view, rows, engine, limits, tick
        self.heads = [Head(layer, head) for layer in range(view.n_layers) for head in range(view.n_heads)]
        self.verified: Bool[Tensor, "n_layers n_heads"] | None = None
        self.resting: Resting | None = None
        self.about: dict[str, Any] = {}
        dtype = torch.promote_types(view.dtype, torch.float32)
        self._base, self._target = torch.full((2, len(rows)), torch.nan, dtype=dtype)
        self._patched = torch.zeros(len(rows), view.n_layers, view.n_heads, dtype=dtype)

    def runs(self, part: list[int], base: Float[Tensor, " batch"], target: Float[Tensor, " batch"]) -> None:
        """The two runs without any patch. rows.targets, where there are any, take the place of `target`."""
        target = target if self.rows.targets is None else self.rows.targets[part]
        for name, into, values in (("patched", self._base, base), ("source", self._target, target)):
            check_finite(values, [self.rows.rows[i].pair for i in part], name)
            into[part] = values.to(into)
        self._patched[part] = self._base[part, None, None]  # heads that nothing is said of change nothing

    @torch.no_grad()
    def both_runs(self) -> None:
        """Both runs of every row that nothing was read from yet. Raises ValueError if there is no gap."""
        unseen = set(self._base.isnan().nonzero().flatten().tolist())

        def run(part: list[int]) -> None:
            chosen, readout = self.rows.some(part)
            _, target = run_source(self.view, chosen, readout, partial(self.note, part, "source"))
            logits = Batch.of(chosen, "into").logits(self.view)
            self.note(part, "into", logits)
            self.runs(part, readout.of(logits), target)
            self.tick(2 * sum(len(row.into) for row in chosen) * self.view.n_layers)

        self.limits.each(
            [[i for i in group if i in unseen] for group in self.rows.alike()], run, self.share("both runs")
        )
        mean_gap(self.base, self.target, least_gap(self.view.dtype))

    def share(self, what: str, **settings: Any) -> Share:
        """Of work that reads these rows: what ranks must have in common, and what they then all hold."""
        same = {"model": self.view, "pairs": self.rows.same, "settings": [self.about, settings]}
        held = [self._base, self._target, self._patched, *([] if self.resting is None else self.resting.reader.held)]
        return Share(f"{what}, {self.engine}", same, held)

    def note(
        self, part: list[int], which: Literal["into", "source"], logits: Float[Tensor, "batch reads vocab"]
    ) -> None:
        """All logits of some rows at the places that are read, in the run that is patched or in the other one."""
        if self.resting is not None:
            self.resting.note([self.rows.rows[i] for i in part], which, logits)

    @property
    def gapless(self) -> bool:
        """Whether some rows were read, and no two runs of them differ."""
        seen, gap = int((~self._base.isnan()).sum()), (self._target - self._base).abs()
        return seen >= min(ENOUGH, len(self.rows)) and not bool((gap >= least_gap(self.view.dtype)).any())

    def patched(self, part: list[int], heads: Iterable[tuple[int, int]], values: Float[Tensor, "heads batch"]) -> None:
        """With each of some heads patched alone."""
        layers, units = (torch.tensor(each) for each in zip(*heads, strict=True))
        self._patched[torch.tensor(part)[:, None], layers, units] = values.T.to(self._patched)

    def changed(self, part: list[int], change: Float[Tensor, "n_layers n_heads batch"]) -> None:
        """By how much patching each head moves what is read."""
        self._patched[part] = self._base[part, None, None] + change.permute(2, 0, 1).to(self._patched)

    def estimate_rest(self, estimated: Readings, measured: Iterable[Head]) -> None:
        """Takes all other heads' readings from an estimate, and marks those that were measured."""
        self.verified = torch.zeros(self._patched.shape[1:], dtype=torch.bool)
        self.verified[tuple(zip(*measured, strict=True))] = True
        self._patched = torch.where(self.verified, self._patched, estimated._patched)

    @property
    def base(self) -> Float[Tensor, " n_pairs"]:
        return self.rows.by_pair(self._base)

    @property
    def target(self) -> Float[Tensor, " n_pairs"]:
        return self.rows.by_pair(self._target)

    @property
    def logit_differences(self) -> Float[Tensor, "n_pairs n_layers n_heads"]:
        return self.rows.by_pair(self._patched)

    def shares(self) -> Float[Tensor, "n_pairs n_layers n_heads"]:
        """Each head's effect in each pair as a share of the mean gap. Raises ValueError if that is nearly zero."""
        patched = self.logit_differences.movedim(0, -1)
        return recovery(patched, self.base, self.target, least_gap(self.view.dtype)).movedim(-1, 0).contiguous()


class Resting:
    """What a measurement rests on: the pairs' check, from what it reads anyway.

    direction: "noising" patches the truthful run; all others the sycophantic one.
    """

    def __init__(self, view: ModelView, pairs: ContrastPairs, direction: str) -> None:
        self.view, self.pairs, self.turned = view, pairs, direction == "noising"
        self.reader = Reader(pairs, PAIRS_READ)

    def wants(self, rows: Iterable[Row]) -> bool:
        return any(row.pair < PAIRS_READ for row in rows)

    def note(self, rows: Sequence[Row], which: Side, logits: Float[Tensor, "batch reads vocab"]) -> None:
        for row, each in zip(rows, logits, strict=True):
            self.reader.note(row.pair, int((which == "source") != self.turned), row.side, each)

    def check(self, base: Float[Tensor, " n_pairs"], target: Float[Tensor, " n_pairs"]) -> PairsCheck:
        """The check itself."""
        runs = (target, base) if self.turned else (base, target)
        return checked(self.view, self.pairs, self.reader.answers, *runs)

    def found(self, base: Float[Tensor, " n_pairs"], target: Float[Tensor, " n_pairs"]) -> dict[str, Any]:
        """The check as JSON, for meta["check"]; warns the user's line of what is wrong."""
        check = self.check(base, target)
        for text in check.warnings:
            warn_caller(text)
        return check.to_json()


def to_scores(readings: Readings, method: str, direction: str, positions: str, settings: dict[str, Any]) -> HeadScores:
    """Recoveries: the mean effect over the mean gap. meta["check"]: what they rest on, with its warnings."""
    shares, base, target = readings.shares(), readings.base, readings.target
    return HeadScores(
        values=shares.mean(dim=0),
        per_pair=shares,
        method=method,
        direction=direction,
        positions=positions,
        model_name=readings.view.name,
        engine=readings.engine,
        logit_differences=readings.logit_differences,
        base=base,
        target=target,
        verified=readings.verified,
        meta={
            "n_pairs": readings.rows.n_pairs,
            "logit_difference_before": float(base.mean()),
            "logit_difference_target": float(target.mean()),
            "settings": settings,
            **({} if readings.resting is None else {"check": readings.resting.found(base, target)}),
        },
    )
