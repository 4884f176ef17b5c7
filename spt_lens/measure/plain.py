"""Activation patching by plain hooks on whole prompts: what the sweep must equal, and what stands in for it.

With `together` above one, copies of a batch are stacked and each copy gets another head: the same numbers in fewer,
larger forward passes ("stacked"). With one, it is one forward pass for each head ("hooks").
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from spt_lens.data.padding import Padding
from spt_lens.heads import Head
from spt_lens.measure.hooks import patch_stacked_heads
from spt_lens.measure.limits import Limits
from spt_lens.measure.measured import Readings
from spt_lens.measure.places import Batch, Row, run_source
from spt_lens.measure.readout import Readout
from spt_lens.measure.sweep import Tick
from spt_lens.models import ModelView


def plain_values(
    view: ModelView,
    rows: Sequence[Row],
    z: Float[Tensor, "layer places n_heads d_head"],
    readout: Readout,
    heads: Sequence[Head],
    together: int,
    padding: Padding,
    tick: Tick = lambda tokens: None,
) -> Float[Tensor, "heads batch"]:
    """What is read with each of the heads patched alone, in the order of `heads`."""
    batch = Batch.of(rows, "into", padding)
    size = len(rows)
    found: dict[Head, Tensor] = {}
    by_layer: dict[int, list[int]] = {}
    for head in heads:
        by_layer.setdefault(head.layer, []).append(head.head)
    for layer, all_of_layer in by_layer.items():
        for start in range(0, len(all_of_layer), together):
            some = all_of_layer[start : start + together]
            hook = (view.z_name(layer), patch_stacked_heads(batch.row, batch.pos, z[layer], some, size))
            prompts = batch.prompts.repeat(len(some))
            at = batch.reads.repeat(len(some), 1)
            logits = view.logits(prompts.tokens, prompts.attention_mask, [hook], at=at)
            values = readout.of(logits.view(len(some), size, *logits.shape[1:]))
            found |= {Head(layer, head): value for head, value in zip(some, values, strict=True)}
            tick(prompts.tokens.numel() * view.n_layers)
    return torch.stack([found[head] for head in heads])


def plain_base(view: ModelView, rows: Sequence[Row], readout: Readout, padding: Padding) -> Float[Tensor, " batch"]:
    """What is read without any patch."""
    batch = Batch.of(rows, "into", padding)
    return readout.of(view.logits(batch.prompts.tokens, batch.prompts.attention_mask, at=batch.reads))


@torch.no_grad()
def both_runs(view: ModelView, readings: Readings, limits: Limits, padding: Padding, tick: Tick) -> None:
    """Reads both runs of every row that nothing was read from yet. Raises ValueError if no pair has a gap."""
    rows, unseen = readings.rows, set(readings.unseen)

    def run(part: list[int]) -> None:
        chosen, readout = [rows.rows[i] for i in part], rows.readout(part)
        _, target = run_source(view, chosen, readout, padding)
        readings.runs(part, plain_base(view, chosen, readout, padding), target)
        tick(2 * sum(len(row.into) for row in chosen) * view.n_layers)

    limits.each([[i for i in group if i in unseen] for group in rows.alike(padding)], run)
    readings.check_gap()
