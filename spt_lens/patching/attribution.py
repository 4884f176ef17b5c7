"""Attribution patching: what patching each head would do, estimated from gradients for all heads at once.

With one step it is the gradient at the unpatched run times the change of the head's output (Nanda 2023): one backward
pass. With more, the gradient is averaged along the straight line from the head outputs of one layer to those of the
other run, layer by layer (integrated gradients, Sundararajan et al. 2017): the estimates of a layer's heads then add
up to the effect of patching the whole layer, the nearer the more steps.

Screening measures the best of the heads, by their estimates, exactly.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from spt_lens.checking import MANY, door, share, whole_number
from spt_lens.data.pairs import ContrastPairs
from spt_lens.model.view import Hook, Model, ModelView
from spt_lens.patching.activation import Activation, patch_each
from spt_lens.patching.engine import METHODS, Engine, Method, both_runs_work, joined_blocks, scores_by
from spt_lens.patching.readings import Readings
from spt_lens.patching.rows import Direction, Positions, Rows
from spt_lens.patching.sweep import Variants, each_part, waves
from spt_lens.scores.head_scores import HeadScores
from spt_lens.scores.metrics import Metric


@dataclass(frozen=True)
class Attribution(Method):
    """Estimates from gradients, for all heads at once; see attribution_patching."""

    ig_steps: int = 1
    name: ClassVar[str] = "attribution"
    engines: ClassVar[tuple[str, ...]] = ("sweep", "hooks")  # stacked heads have no gradients of their own
    memory: ClassVar[int] = 3  # a backward pass keeps what a forward pass can drop

    def check(self, view: ModelView, rows: Rows) -> None:
        whole_number(self.ig_steps, "ig_steps", 1, MANY)

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
        for parameter in readings.view.backend.root.parameters():
            parameter.requires_grad_(False)  # gradients of head outputs alone; `kept` takes this back

        def work(part: list[int], variants: Variants) -> None:
            readings.changed(part, _estimate(variants, len(part), self.ig_steps))

        each_part(readings, work, also=[], weight=self.memory)


METHODS["attribution"] = Attribution


@torch.enable_grad()
def _estimate(variants: Variants, batch: int, steps: int) -> Float[Tensor, "layer n_heads batch"]:
    """How patching each head would change what is read."""
    row, pos, n_layers = variants.row, variants.pos, len(variants.values)
    device = variants.values.device
    own = torch.stack([variants.own[ModelView.z_name(i)][row, pos].to(device) for i in range(n_layers)])
    difference = variants.values.to(own) - own
    wide = torch.promote_types(own.dtype, torch.float32)  # halves lose digits in a sum
    change = torch.zeros(n_layers, own.shape[2], batch, dtype=wide, device=own.device)
    # (layer, step): with one step, all layers' gradients come of the same unpatched run.
    every = [(0, 0)] if steps == 1 else [(layer, step) for layer in range(n_layers) for step in range(steps)]
    for wave in waves(every, variants.most):
        leaves: list[tuple[int, Tensor]] = []

        def hooks_at(layer: int, new: list[int], first: int, leaves: list[tuple[int, Tensor]] = leaves) -> list[Hook]:
            if steps == 1:
                new, first = [0], 0
            leaf = torch.zeros(len(new), *own.shape[1:], dtype=own.dtype, device=own.device).requires_grad_()
            leaves.append((layer, leaf))

            def shift(z: Float[Tensor, "batch variants_length n_heads d_head"], hook: Any = None) -> Tensor:
                z = z.clone()
                each = z.view(len(z), -1, variants.length, *z.shape[2:])
                for i, step in enumerate(new):
                    share = (step + 0.5) / steps if steps > 1 else 0.0
                    each[row, first + i, pos] += (share * difference[layer] + leaf[i]).to(z.device)
                return z

            return [(ModelView.z_name(layer), shift)] if new else []

        variants.run(wave, hooks_at).sum().backward()
        for layer, leaf in leaves:
            if leaf.grad is not None:
                product = (leaf.grad.to(wide) * difference[layer].to(wide)).sum(dim=(0, 3)) / steps
                change[layer].index_add_(1, row.to(change.device), product.T)
    return change


@door
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


@dataclass(frozen=True)
class Screened(Method):
    """The best heads by their estimates, measured exactly; see screened_patching."""

    share: float = 0.2
    ig_steps: int = 1
    name: ClassVar[str] = "activation"  # what it comes to, with `verified` beside it
    memory: ClassVar[int] = Attribution.memory

    def check(self, view: ModelView, rows: Rows) -> None:
        share(self.share, "share")
        Attribution(self.ig_steps).check(view, rows)

    def settings(self) -> dict[str, Any]:
        return {**Attribution(self.ig_steps).settings(), "screen": self.share}

    def work(self, view: ModelView, rows: Rows, engine: str) -> float:
        estimates = Attribution(self.ig_steps).work(view, rows, engine) + both_runs_work(view, rows)
        return estimates + self.share * Activation().work(view, rows, engine)

    def measure(self, readings: Readings) -> None:
        estimated = Readings(readings.view, readings.rows, readings.engine, readings.limits, readings.tick)
        Attribution(self.ig_steps).measure(estimated)
        size = estimated.shares().mean(dim=0).abs().flatten()
        many = max(1, math.floor(self.share * len(size) + 1e-9))
        best = [readings.heads[i] for i in size.argsort(descending=True, stable=True)[:many].tolist()]
        patch_each(readings, best)
        readings.estimate_rest(estimated, best)


METHODS["screened"] = Screened


@door
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
