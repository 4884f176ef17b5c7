"""The plain hook functions on hook_z that all measurements are defined by.

Each maker returns a function of (z, hook) as TransformerLens calls it, z of shape [batch, pos, n_heads, d_head]. They
return a changed copy and leave the model's own tensor as it is.

Activation patching by plain hooks on whole prompts: what the sweep must equal, and what stands in for it.

With `together` above one, copies of a batch are stacked and each copy gets another head: the same numbers in fewer,
larger forward passes ("stacked"). With one, it is one forward pass for each head ("hooks").
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from spt_lens.chat.batches import Padding
from spt_lens.heads import Head
from spt_lens.model.view import ModelView
from spt_lens.patching.limits import Limits, Tick
from spt_lens.patching.readings import Readings
from spt_lens.patching.readout import Readout
from spt_lens.patching.rows import Batch, Row, run_source

HookFunction = Callable[..., Tensor]


def patch_heads(
    row: Int[Tensor, " places"],
    pos: Int[Tensor, " places"],
    source: Float[Tensor, "places n_heads d_head"],
    heads: Sequence[int],
) -> HookFunction:
    """Gives these heads of a layer, together, their values from `source`: source[j] at pos[j] of row[j]."""
    chosen = list(heads)

    def patch(z: Float[Tensor, "batch pos n_heads d_head"], hook: Any = None) -> Tensor:
        z = z.clone()
        z[row[:, None], pos[:, None], chosen] = source[:, chosen].to(z)
        return z

    return patch


def patch_stacked_heads(
    row: Int[Tensor, " places"],
    pos: Int[Tensor, " places"],
    source: Float[Tensor, "places n_heads d_head"],
    heads: Sequence[int],
    size: int,
) -> HookFunction:
    """As patch_heads, one head at a time: z holds len(heads) copies of a batch of `size`, and copy i gets heads[i]
    alone. row counts in one copy.
    """
    chosen = list(heads)

    def patch(z: Float[Tensor, "copies_batch pos n_heads d_head"], hook: Any = None) -> Tensor:
        z = z.clone()
        for i, head in enumerate(chosen):
            z[row + i * size, pos, head] = source[:, head].to(z)
        return z

    return patch


def ablate_heads(values: Float[Tensor, "n_heads d_head"], heads: Sequence[int]) -> HookFunction:
    """Sets these heads of a layer to fixed values (their mean, or zero) at every position, so also while generating."""
    chosen = list(heads)

    def ablate(z: Float[Tensor, "batch pos n_heads d_head"], hook: Any = None) -> Tensor:
        z = z.clone()
        z[:, :, chosen] = values[chosen].to(z)
        return z

    return ablate


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
