"""What every method gives: logit differences, of each pair with each head patched, and what they come to as scores."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from spt_lens.heads import Head
from spt_lens.model.limits import Limits, Tick
from spt_lens.model.view import ModelView
from spt_lens.patching.rows import Batch, Rows, run_source
from spt_lens.scores.head_scores import HeadScores
from spt_lens.scores.metrics import MIN_GAP, check_finite, usable_pairs, warn_left_out

ENOUGH = 8  # rows without any gap, after which the others' gaps are looked at before anything else is measured


class Readings:
    """A measurement under way: what is read, row by row, without a patch, in the other run, and with each head patched.

    engine: which one reads. limits: how much at once. tick: told of the tokens that went through a block. verified:
    `[n_layers, n_heads]`, the heads that were measured; None: all. Raises, as they come in: ValueError for readings
    that are not finite.
    """

    def __init__(self, view: ModelView, rows: Rows, engine: str, limits: Limits, tick: Tick) -> None:
        self.view, self.rows, self.engine, self.limits, self.tick = view, rows, engine, limits, tick
        self.heads = [Head(layer, head) for layer in range(view.n_layers) for head in range(view.n_heads)]
        self.verified: Bool[Tensor, "n_layers n_heads"] | None = None
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
        """Both runs of every row that nothing was read from yet. Raises ValueError if no pair has a gap."""
        unseen = set(self._base.isnan().nonzero().flatten().tolist())

        def run(part: list[int]) -> None:
            chosen, readout = self.rows.some(part)
            _, target = run_source(self.view, chosen, readout)
            self.runs(part, readout.of(Batch.of(chosen, "into").logits(self.view)), target)
            self.tick(2 * sum(len(row.into) for row in chosen) * self.view.n_layers)

        self.limits.each([[i for i in group if i in unseen] for group in self.rows.alike()], run)
        usable_pairs(self.base, self.target)

    @property
    def gapless(self) -> bool:
        """Whether some rows were read, and no two runs of them differ."""
        seen = int((~self._base.isnan()).sum())
        return seen >= min(ENOUGH, len(self.rows)) and not bool(((self._target - self._base).abs() >= MIN_GAP).any())

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

    def shares(self) -> tuple[Float[Tensor, "n_kept n_layers n_heads"], list[int], list[int]]:
        """Each head's share of the gap in pairs that have one; their numbers, and the others'. Raises ValueError."""
        base, target = self.base, self.target
        kept, left_out = usable_pairs(base, target)
        shares = (self.logit_differences - base[:, None, None]) / (target - base)[:, None, None]
        return shares[kept], kept, left_out


def to_scores(
    readings: Readings,
    method: str,
    direction: str,
    positions: str,
    settings: dict[str, Any],
    numbers: list[int] | None = None,
) -> HeadScores:
    """Recoveries of the pairs that have a gap; the others are left out, with a warning and in meta["left_out"].

    numbers: of the pairs, as the warning names them; default: in order.
    """
    shares, kept, left_out = readings.shares()
    warn_left_out([numbers[i] for i in left_out] if numbers else left_out, readings.rows.n_pairs)
    base, target = readings.base[kept], readings.target[kept]
    return HeadScores(
        values=shares.mean(dim=0),
        per_pair=shares,
        method=method,
        direction=direction,
        positions=positions,
        model_name=readings.view.name,
        engine=readings.engine,
        logit_differences=readings.logit_differences[kept],
        base=base,
        target=target,
        verified=readings.verified,
        meta={
            "n_pairs": len(kept),
            "pairs_used": kept,
            "left_out": left_out,
            "reversed": int(((target - base) * (target - base).median() < 0).sum()),
            "logit_difference_before": float(base.mean()),
            "logit_difference_target": float(target.mean()),
            "settings": settings,
        },
    )
