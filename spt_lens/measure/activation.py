"""Activation patching, head by head, by whichever engine the model allows.

Denoising puts a head's value from the truthful run into the sycophantic run and asks how much of the truthful logit
difference comes back; noising does the reverse and asks how much of it is lost.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from spt_lens.data.padding import Padding, PromptBatch
from spt_lens.data.pairs import ContrastPairs, PairBatch
from spt_lens.heads import Head
from spt_lens.measure.limits import Limits
from spt_lens.measure.measured import Readings
from spt_lens.measure.metrics import logit_difference
from spt_lens.measure.places import Direction, Positions, Row, Rows, check_patching, run_source
from spt_lens.measure.plain import plain_base, plain_values
from spt_lens.measure.readout import Readout
from spt_lens.measure.sweep import Tick, most_variants, read, suffix_source, sweep
from spt_lens.models import Hook, ModelView
from spt_lens.suffix import SuffixRun, suffix_run

__all__ = ["Direction", "Positions", "check_patching"]


def activation_readings(
    view: ModelView, rows: Rows, heads: Sequence[Head], engine: str, limits: Limits, padding: Padding, tick: Tick
) -> Readings:
    """Every row with each of the heads patched alone; the other heads read as without a patch."""
    readings = Readings(view, rows)

    def by_hooks(part: list[int]) -> None:
        chosen, readout = [rows.rows[i] for i in part], rows.readout(part)
        z, target = run_source(view, chosen, readout, padding)
        base = plain_base(view, chosen, readout, padding)
        tick(2 * sum(len(row.into) for row in chosen) * view.n_layers)
        readings.runs(part, base, target)
        together = max(1, limits.batch_size // len(part)) if engine == "stacked" else 1
        readings.patched(part, heads, plain_values(view, chosen, z, readout, heads, together, padding, tick))

    def by_sweep(part: list[int], chosen: list[Row], run: SuffixRun, source: list[Tensor], readout: Readout) -> None:
        most = most_variants(run, limits.batch_size)
        readings.patched(part, heads, sweep(run, source, readout, chosen[0].reads, heads, most, tick))

    if engine == "sweep":
        each_suffix(view, rows, readings, limits, padding, tick, lambda row: row.start, by_sweep)
    else:
        limits.each(rows.alike(padding), by_hooks)
    return readings


def each_suffix(
    view: ModelView,
    rows: Rows,
    readings: Readings,
    limits: Limits,
    padding: Padding,
    tick: Tick,
    start: Callable[[Row], int],
    work: Callable[[list[int], list[Row], SuffixRun, list[Tensor], Readout], None],
) -> None:
    """For rows of one length and one start of their suffix at a time: both runs, then `work` with what they left."""

    def run(part: list[int]) -> None:
        chosen, readout = [rows.rows[i] for i in part], rows.readout(part)
        z, target = run_source(view, chosen, readout, padding)
        suffix = suffix_run(view, torch.tensor([row.into for row in chosen]), start(chosen[0]))
        tick(sum(len(row.into) + len(row.source) for row in chosen) * view.n_layers)
        base = read(suffix, suffix.final[None, :, -chosen[0].reads :], readout)[0]
        readings.runs(part, base, target)
        work(part, chosen, suffix, suffix_source(chosen, z, suffix), readout)

    limits.each(rows.alike(padding, lambda row: (len(row.into), start(row))), run)


def prompts(batch: PairBatch, direction: Direction) -> tuple[PromptBatch, PromptBatch]:
    """The prompts that are patched, and those that the values come from."""
    return (batch.sycophantic, batch.truthful) if direction == "denoising" else (batch.truthful, batch.sycophantic)


def last_logits(view: ModelView, batch: PromptBatch, hooks: Sequence[Hook] = ()) -> Float[Tensor, "batch vocab"]:
    """What the model says after each row's last real token."""
    return view.logits(batch.tokens, batch.attention_mask, hooks, at=batch.last)


def source_z(view: ModelView, batch: PromptBatch, positions: Positions) -> Float[Tensor, "layer batch *pos n_heads d"]:
    """The values to patch in: each row's at its last real token, or those of all positions.

    All positions are patched as they stand: a pair's two prompts are equally long, so in a batch both runs are padded
    alike and position i of the one is position i of the other. Padded positions are patched too, and it does not
    matter: no real token attends to them (they come after all of a row's real ones, or are masked), and no logits are
    read there.
    """
    return view.cache_z(batch.tokens, batch.attention_mask, at=patch_place(batch, positions))


def patch_place(batch: PromptBatch, positions: Positions) -> Int[Tensor, " batch"] | None:
    """Where a patch goes in each row, as the hook functions take it; None is everywhere."""
    return None if positions == "all" else batch.last


def both_runs(
    view: ModelView, pairs: ContrastPairs, direction: Direction, batch_size: int, padding: Padding
) -> tuple[Float[Tensor, " n_pairs"], Float[Tensor, " n_pairs"]]:
    """The unpatched logit differences: of the run that is patched, and of the run that the values come from.

    In float32, or float64 for a model that is.
    """
    base, target = torch.zeros(2, len(pairs), dtype=torch.promote_types(view.dtype, torch.float32))
    for batch in pairs.batches(batch_size, padding):
        for into, run in zip((base, target), prompts(batch, direction), strict=True):
            into[batch.index] = logit_difference(last_logits(view, run), batch.answer_ids).to(into)
    return base, target
