"""Attribution patching: what patching each head would do, estimated from gradients for all heads at once.

With one step it is the gradient at the unpatched run times the change of the head's output (Nanda 2023): one backward
pass. With more steps, the gradient is averaged along the straight line from the head outputs of one layer to those of
the other run, layer by layer (integrated gradients, Sundararajan et al. 2017): the estimates of a layer's heads then
add up to the effect of patching the whole layer, the nearer the more steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from spt_lens.chat.batches import Padding
from spt_lens.heads import Head
from spt_lens.model.view import Hook, ModelView
from spt_lens.patching.limits import Limits, Tick
from spt_lens.patching.plain import both_runs
from spt_lens.patching.readings import Readings
from spt_lens.patching.readout import Readout
from spt_lens.patching.rows import Batch, Row, Rows, run_source
from spt_lens.patching.suffix import SuffixRun
from spt_lens.patching.sweep import each_suffix, most_variants, read, through, waves


def attribution_readings(
    view: ModelView, rows: Rows, engine: str, steps: int, limits: Limits, padding: Padding, tick: Tick
) -> Readings:
    """Every row's reading plus the estimated change by each head."""
    readings = Readings(view, rows)
    everyone = [Head(layer, head) for layer in range(view.n_layers) for head in range(view.n_heads)]

    def by_sweep(part: list[int], chosen: list[Row], run: SuffixRun, source: list[Tensor], readout: Readout) -> None:
        base = read(run, run.final[None, :, -chosen[0].reads :], readout)[0]
        # A backward pass keeps what a forward pass can drop: three times the memory.
        most = max(1, most_variants(run, limits.batch_size) // 3)
        change = _estimate(run, source, readout, chosen[0].reads, steps, most, tick)
        readings.patched(part, everyone, base + change.flatten(0, 1))

    def by_hooks(part: list[int]) -> None:
        chosen, readout = [rows.rows[i] for i in part], rows.readout(part)
        with torch.no_grad():
            z, _ = run_source(view, chosen, readout, padding)
        base, change = _estimate_by_hooks(view, chosen, z, readout, padding, steps, tick)
        readings.patched(part, everyone, base + change.flatten(0, 1))

    for parameter in view.backend.root.parameters():  # gradients of head outputs alone; `kept` takes this back
        parameter.requires_grad_(False)
    if engine == "sweep":
        with torch.no_grad():
            each_suffix(view, rows, readings, limits, padding, tick, lambda row: row.start, by_sweep)
    else:
        both_runs(view, readings, limits, padding, tick)
        limits.each(rows.alike(padding), by_hooks)
    return readings


@torch.enable_grad()
def _estimate(
    run: SuffixRun, source: list[Tensor], readout: Readout, reads: int, steps: int, most: int, tick: Tick
) -> Float[Tensor, "layer n_heads batch"]:
    batch, n_heads = len(run.tokens), run.view.n_heads
    wide = torch.promote_types(run.z[0].dtype, torch.float32)  # halves lose digits in a sum
    change = torch.zeros(len(run.z), n_heads, batch, dtype=wide, device=run.tokens.device)
    # (layer, step): with one step, all layers' gradients come of the same unpatched run.
    variants = [(0, 0)] if steps == 1 else [(layer, step) for layer in range(len(run.z)) for step in range(steps)]
    for wave in waves(variants, most):
        leaves: list[tuple[int, Tensor]] = []

        def joining(layer: int, new: list[int], first: int, leaves: list[tuple[int, Tensor]] = leaves) -> Hook:
            difference = source[layer] - run.z[layer]
            shares = [(step + 0.5) / steps for step in new] if steps > 1 else [0.0]
            leaf = torch.zeros(batch, len(new), *difference.shape[1:], dtype=difference.dtype, device=difference.device)
            leaf.requires_grad_()
            leaves.append((layer, leaf))

            def shift(z: Float[Tensor, "batch variants_length n_heads d_head"], hook: Any = None) -> Tensor:
                moved = torch.stack([share * difference for share in shares], dim=1) + leaf
                behind = (first + len(new)) * run.length
                before, own, after = z[:, : first * run.length], z[:, first * run.length : behind], z[:, behind:]
                return torch.cat([before, own + moved.flatten(1, 2), after], dim=1)

            return run.view.z_name(layer), shift

        if steps == 1:
            ends = _with_leaves(run, joining, tick)
        else:
            ends = through(run, wave, joining, lambda tokens: tick(3 * tokens))
        read(run, ends[:, :, -reads:], readout).sum().backward()
        for layer, leaf in leaves:
            assert leaf.grad is not None
            product = leaf.grad.to(change) * (source[layer] - run.z[layer])[:, None].to(change)
            change[layer] += product.sum(dim=(1, 2, 4)).T / steps
    return change.detach()


def _with_leaves(run: SuffixRun, joining: Any, tick: Tick) -> Float[Tensor, "1 batch length d_model"]:
    """The unpatched suffix with a leaf added to every layer's head outputs."""
    hidden = run.resid[0]
    for layer in range(len(run.resid)):
        hidden = run.block(layer, hidden, [joining(layer, [0], 0)])
        tick(3 * hidden.shape[0] * hidden.shape[1])
    return hidden[None]


@torch.enable_grad()
def _estimate_by_hooks(
    view: ModelView,
    rows: Sequence[Row],
    z: Float[Tensor, "layer places n_heads d_head"],
    readout: Readout,
    padding: Padding,
    steps: int,
    tick: Tick,
) -> tuple[Float[Tensor, " batch"], Float[Tensor, "layer n_heads batch"]]:
    """The same with whole prompts and plain hooks: the reading, and the estimated change by each head."""
    batch = Batch.of(rows, "into", padding)
    own: list[Tensor] = []

    def keep(value: Tensor, hook: Any = None) -> None:
        own.append(value.detach()[batch.row, batch.pos])

    def run(hooks: list[Hook]) -> Tensor:
        tick(3 * batch.prompts.tokens.numel() * view.n_layers)
        return readout.of(view.logits(batch.prompts.tokens, batch.prompts.attention_mask, hooks, at=batch.reads))

    with torch.no_grad():
        base = run([(view.z_name(layer), keep) for layer in range(view.n_layers)])
    wide = torch.promote_types(z.dtype, torch.float32)
    change = torch.zeros(view.n_layers, view.n_heads, len(rows), dtype=wide, device=z.device)
    layers = list(range(view.n_layers))
    for together, share in (
        [(layers, 0.0)] if steps == 1 else [([i], (step + 0.5) / steps) for i in layers for step in range(steps)]
    ):
        leaves = {i: (own[i] + share * (z[i] - own[i])).requires_grad_() for i in together}

        def put(i: int, leaf: Tensor) -> Hook:
            def hook_fn(value: Tensor, hook: Any = None) -> Tensor:
                # With one step all layers keep their own values, and gradients flow through them to earlier ones.
                there = value[batch.row, batch.pos]
                value = value.clone()
                value[batch.row, batch.pos] = leaf + (there - there.detach() if steps == 1 else 0)
                return value

            return view.z_name(i), hook_fn

        run([put(i, leaf) for i, leaf in leaves.items()]).sum().backward()
        for i, leaf in leaves.items():
            assert leaf.grad is not None
            product = (leaf.grad.to(change) * (z[i] - own[i]).to(change)).sum(-1) / steps
            change[i].index_add_(1, batch.row.to(change.device), product.T)
    return base, change
