"""Attribution patching: what patching each head would do, estimated from gradients for all heads at once.

With one step it is the gradient at the unpatched run times the change of the head's output (Nanda 2023): one backward
pass. With more, the gradient is averaged along the straight line from the head outputs of one layer to those of the
other run, layer by layer (integrated gradients, Sundararajan et al. 2017): the estimates of a layer's heads then add
up to the effect of patching the whole layer, the nearer the more steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from spt_lens.data.pairs import ContrastPairs
from spt_lens.model.view import Hook, Model, ModelView
from spt_lens.patching.engine import METHODS, Engine, Method, joined_blocks, scores_by
from spt_lens.patching.limits import Tick
from spt_lens.patching.plain import both_runs
from spt_lens.patching.readings import Readings
from spt_lens.patching.rows import Batch, Direction, Positions, Readout, Rows, run_source
from spt_lens.patching.suffix import SuffixRun
from spt_lens.patching.sweep import Source, each_suffix, most_variants, read, through, waves
from spt_lens.scores.head_scores import HeadScores
from spt_lens.scores.metrics import Metric


@dataclass(frozen=True)
class Attribution(Method):
    ig_steps: int = 1
    name: ClassVar[str] = "attribution"
    engines: ClassVar[tuple[str, ...]] = ("sweep", "hooks")  # stacked heads have no gradients of their own
    memory: ClassVar[int] = 3  # a backward pass keeps what a forward pass can drop

    def check(self, view: ModelView, rows: Rows) -> None:
        if isinstance(self.ig_steps, bool) or not isinstance(self.ig_steps, int) or self.ig_steps < 1:
            raise ValueError(f"ig_steps={self.ig_steps!r}: attribution takes one step or more")

    def settings(self) -> dict[str, Any]:
        return {"steps": self.ig_steps}

    def work(self, view: ModelView, rows: Rows, engine: str) -> float:
        n = view.n_layers
        if engine == "sweep":
            blocks = self.ig_steps * joined_blocks(view) if self.ig_steps > 1 else n
            return 3 * blocks * sum(len(row.into) - row.start for row in rows.rows)
        passes = 1 + 3 * (self.ig_steps * n if self.ig_steps > 1 else 1)
        return passes * n * sum(len(row.into) for row in rows.rows)

    def measure(self, readings: Readings) -> None:
        """Every row's reading plus the estimated change by each head."""

        def by_sweep(part: list[int], run: SuffixRun, source: Source, readout: Readout) -> None:
            base = read(run, run.final[None], readout)[0]
            most = max(1, most_variants(run, readings.limits.batch_size) // self.memory)
            change = _estimate(run, source, readout, self.ig_steps, most, readings.tick)
            readings.patched(part, readings.heads, base + change.flatten(0, 1))

        def by_hooks(part: list[int]) -> None:
            base, change = _estimate_by_hooks(readings, part, self.ig_steps)
            readings.patched(part, readings.heads, base + change.flatten(0, 1))

        for parameter in readings.view.backend.root.parameters():
            parameter.requires_grad_(False)  # gradients of head outputs alone; `kept` takes this back
        if readings.engine == "sweep":
            each_suffix(readings, by_sweep)
        else:
            both_runs(readings)
            readings.each(by_hooks)


METHODS["attribution"] = Attribution


@torch.enable_grad()
def _estimate(
    run: SuffixRun, source: Source, readout: Readout, steps: int, most: int, tick: Tick
) -> Float[Tensor, "layer n_heads batch"]:
    batch, n_heads = len(run.tokens), run.view.n_heads
    wide = torch.promote_types(run.z[0].dtype, torch.float32)  # halves lose digits in a sum
    change = torch.zeros(len(run.z), n_heads, batch, dtype=wide, device=run.tokens.device)
    # (layer, step): with one step, all layers' gradients come of the same unpatched run.
    variants = [(0, 0)] if steps == 1 else [(layer, step) for layer in range(len(run.z)) for step in range(steps)]
    for wave in waves(variants, most):
        leaves: list[tuple[int, Tensor]] = []

        def join(layer: int, new: list[int], first: int, leaves: list[tuple[int, Tensor]] = leaves) -> Hook:
            difference = source[layer] - run.z[layer]
            shares = [(step + 0.5) / steps for step in new] if steps > 1 else [0.0]
            leaf = difference.new_zeros(batch, len(new), *difference.shape[1:]).requires_grad_()
            leaves.append((layer, leaf))

            def shift(z: Float[Tensor, "batch variants_length n_heads d_head"], hook: Any = None) -> Tensor:
                moved = torch.stack([share * difference for share in shares], dim=1) + leaf
                behind = (first + len(new)) * run.length
                before, own, after = z[:, : first * run.length], z[:, first * run.length : behind], z[:, behind:]
                return torch.cat([before, own + moved.flatten(1, 2), after], dim=1)

            return run.view.z_name(layer), shift

        if steps > 1:
            ends = through(run, wave, join, lambda tokens: tick(3 * tokens))
        else:  # the unpatched suffix with a leaf added to every layer's head outputs
            ends = run.resid[0][None]
            for layer in range(len(run.resid)):
                ends = run.block(layer, ends[0], [join(layer, [0], 0)])[None]
                tick(3 * batch * run.length)
        read(run, ends, readout).sum().backward()
        for layer, leaf in leaves:
            assert leaf.grad is not None
            product = leaf.grad.to(change) * (source[layer] - run.z[layer])[:, None].to(change)
            change[layer] += product.sum(dim=(1, 2, 4)).T / steps
    return change.detach()


@torch.enable_grad()
def _estimate_by_hooks(
    readings: Readings, part: list[int], steps: int
) -> tuple[Float[Tensor, " batch"], Float[Tensor, "layer n_heads batch"]]:
    """The same with whole prompts and plain hooks: the reading, and the estimated change by each head."""
    view = readings.view
    rows, readout = readings.rows.some(part)
    batch = Batch.of(rows, "into")
    own: list[Tensor] = []

    def keep(value: Tensor, hook: Any = None) -> None:
        own.append(value.detach()[batch.row, batch.pos])

    def run(hooks: list[Hook], passes: int) -> Tensor:
        readings.tick(passes * batch.prompts.tokens.numel() * view.n_layers)
        return readout.of(batch.logits(view, hooks))

    with torch.no_grad():
        z, _ = run_source(view, rows, readout)
        base = run([(view.z_name(layer), keep) for layer in range(view.n_layers)], 1)
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

        run([put(i, leaf) for i, leaf in leaves.items()], 3).sum().backward()
        for i, leaf in leaves.items():
            assert leaf.grad is not None
            product = (leaf.grad.to(change) * (z[i] - own[i]).to(change)).sum(-1) / steps
            change[i].index_add_(1, batch.row.to(change.device), product.T)
    return base, change


def attribution_patching(
    model: Model,
    pairs: ContrastPairs,
    *,
    ig_steps: int = 1,
    direction: Direction = "denoising",
    positions: Positions = "last",
    metric: Metric = "recovery",
    engine: Engine = "auto",
    batch_size: int | None = None,
    max_memory: float | None = None,
    progress: bool = True,
) -> HeadScores:
    """An estimate of activation_patching by one backward pass, or by integrated gradients of `ig_steps` > 1.

    Compare it with the exact scores (`scores.compare`) before you rely on it, or let screened_patching measure the
    best. The other arguments, and what raises, are those of activation_patching; there are no stacked heads.

    Raises: ValueError also for ig_steps below one. Source: Nanda 2023; Sundararajan et al. 2017.
    """
    how = (direction, positions, metric, engine, batch_size, max_memory, progress)
    return scores_by(Attribution(ig_steps), model, pairs, *how)
