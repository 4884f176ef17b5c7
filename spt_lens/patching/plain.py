"""The plain hook functions on hook_z that all measurements are defined by, and activation patching by them.

Each maker returns a function of (z, hook) as TransformerLens calls it, z of shape [batch, pos, n_heads, d_head]. They
return a changed copy and leave the model's own tensor as it is.

Whole forward passes are what the sweep must equal, and what stands in for it: copies of a batch are stacked and each
copy gets another head ("stacked"), or there is one forward pass for each head ("hooks").
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from spt_lens.heads import Head, HeadSet
from spt_lens.patching.readings import Readings
from spt_lens.patching.rows import Batch, Readout, Row, run_source

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
) -> HookFunction:
    """As patch_heads, one head at a time: z holds len(heads) copies of a batch, and copy i gets heads[i] alone."""

    def patch(z: Float[Tensor, "copies_batch pos n_heads d_head"], hook: Any = None) -> Tensor:
        z = z.clone()
        for copy, head in zip(z.chunk(len(heads)), heads, strict=True):  # views
            copy[row, pos, head] = source[:, head].to(z)
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


@torch.no_grad()
def both_runs(readings: Readings) -> None:
    """Reads both runs of every row that nothing was read from yet. Raises ValueError if no pair has a gap."""
    view, rows, unseen = readings.view, readings.rows, set(readings.unseen)

    def run(part: list[int]) -> None:
        chosen, readout = rows.some(part)
        _, target = run_source(view, chosen, readout)
        readings.runs(part, readout.of(Batch.of(chosen, "into").logits(view)), target)
        readings.tick(2 * sum(len(row.into) for row in chosen) * view.n_layers)

    readings.limits.each([[i for i in group if i in unseen] for group in rows.alike()], run)
    readings.shares()


def patch_each(
    readings: Readings,
    heads: Sequence[Head],
    values: Callable[[list[Row], Readout], Float[Tensor, "layer places n_heads d_head"]],
) -> None:
    """Reads every row with each of the heads alone at its values, by plain hooks on whole prompts."""
    view = readings.view
    both_runs(readings)

    def run(part: list[int]) -> None:
        chosen, readout = readings.rows.some(part)
        z, batch = values(chosen, readout), Batch.of(chosen, "into")
        together = max(1, readings.limits.batch_size // len(part)) if readings.engine == "stacked" else 1
        for layer, own in HeadSet.of(heads).by_layer().items():
            for some in (own[start : start + together] for start in range(0, len(own), together)):
                hook = (view.z_name(layer), patch_stacked_heads(batch.row, batch.pos, z[layer], some))
                logits = batch.logits(view, [hook], copies=len(some))
                found = readout.of(logits.view(len(some), len(part), *logits.shape[1:]))
                readings.patched(part, [(layer, head) for head in some], found)
                readings.tick(len(some) * batch.prompts.tokens.numel() * view.n_layers)

    readings.each(run)
