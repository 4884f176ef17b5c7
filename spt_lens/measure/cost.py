"""What a measurement costs before it starts: forward passes and memory."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass

from spt_lens.chat.batches import Padding
from spt_lens.data.pairs import ContrastPairs
from spt_lens.model.view import Model, ModelView
from spt_lens.patching.engine import Engine
from spt_lens.patching.limits import prompt_bytes
from spt_lens.patching.method import Method, Options
from spt_lens.patching.path import Mlps
from spt_lens.patching.plan import Plan
from spt_lens.patching.rows import Direction, Positions, check_patching, make_rows


@dataclass(frozen=True)
class Cost:
    """What a measurement takes.

    Attributes:
        forward_passes: in passes of all the prompts that are patched; a backward pass counts as two. Finding out which
            engine fits takes a few passes of one prompt more.
        memory: GiB of activations at most, roughly, beside the weights' `weights` GiB.
        engine, engine_reason: which one is used, and why no faster one ("" if there is none).
        batch_size: prompts at once.
        n_prompts, tokens: the prompts that are patched, and all their tokens.
    """

    forward_passes: float
    memory: float
    weights: float
    engine: str
    engine_reason: str
    batch_size: int
    n_prompts: int
    tokens: int

    def __str__(self) -> str:
        why = f" ({self.engine_reason})" if self.engine_reason else ""
        return (
            f"{self.forward_passes:.1f} forward passes of {self.n_prompts} prompts ({self.tokens:,} tokens), about "
            f"{self.memory:.2g} GiB beside the weights' {self.weights:.2g} GiB; engine {self.engine}{why}, "
            f"{self.batch_size} prompts at once"
        )

    def _repr_html_(self) -> str:
        return f"<p>{html.escape(str(self))}</p>"


def cost(
    model: Model,
    pairs: ContrastPairs,
    method: Method = "activation",
    direction: Direction = "denoising",
    positions: Positions = "last",
    batch_size: int | None = None,
    engine: Engine = "auto",
    steps: int = 1,
    screen: float | None = None,
    receivers: str | Sequence[str] | None = None,
    max_memory: float | None = None,
    mlps: Mlps = "recomputed",
    padding: Padding = "right",
    metric: str = "recovery",
    progress: bool = True,
) -> Cost:
    """What head_recovery with the same arguments would take: forward passes, memory, which engine. Runs a few passes
    of one prompt to see which engine fits. metric and progress cost nothing.

    Raises: ValueError as head_recovery.
    """
    view = ModelView(model)
    options = Options(method, engine, steps, screen, mlps, receivers, batch_size, max_memory, padding)
    options.check()
    check_patching(view, pairs, direction, positions, padding)
    rows = make_rows(pairs, direction, positions)
    limits, to, used, reason = options.prepared(view, rows)
    plan = Plan.of(view, rows, method, used, steps, to, screen)
    longest = max(max(len(row.into), len(row.source)) for row in rows.rows)
    return Cost(
        forward_passes=plan.work / plan.one_pass,
        memory=limits.batch_size
        * prompt_bytes(view, longest)
        * (3 if method == "attribution" or screen is not None else 1)
        / 2**30,
        weights=sum(p.numel() * p.element_size() for p in view.backend.root.parameters()) / 2**30,
        engine=used,
        engine_reason=reason,
        batch_size=limits.batch_size,
        n_prompts=len(rows),
        tokens=sum(len(row.into) for row in rows.rows),
    )
