"""What a measurement costs before it starts: forward passes and memory."""

from __future__ import annotations

import html
from dataclasses import dataclass
from typing import Any

from spt_lens.checking import door
from spt_lens.data.pairs import ContrastPairs
from spt_lens.model.limits import prompt_bytes
from spt_lens.model.view import Model, ModelView
from spt_lens.patching.engine import Engine, both_runs_work, method_named, prepare
from spt_lens.patching.rows import Direction, Positions, make_rows


@dataclass(frozen=True)
class Cost:
    """What a measurement takes.

    forward_passes: of all the `n_prompts` that are patched, of so many `tokens`; a backward pass counts as two.
    memory: GiB of activations at most, roughly, beside the weights' `weights` GiB. batch_size: prompts at once.
    engine, engine_reason: which one is used, and why no faster one ("" if there is none).
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


@door
def cost(
    model: Model,
    pairs: ContrastPairs,
    method: str = "activation",
    *,
    direction: Direction = "denoising",
    positions: Positions = "last",
    engine: Engine = "auto",
    batch_size: int | None = None,
    max_memory: float | None = None,
    **arguments: Any,
) -> Cost:
    """What a measurement would take: forward passes, memory, which engine. Runs a few passes of one prompt for that.

    The pairs' check (`scores.check`) takes no pass of its own: it reads what both runs give anyway.

    method: "activation", "path", "attribution" or "screened", with its own `arguments` as in path_patching, ... The
    other arguments, and what raises, are those of activation_patching.

    Raises: ValueError also for an unknown method, or arguments that it does not have.
    """
    view = ModelView(model)
    way = method_named(method, arguments)
    rows = make_rows(view, pairs, direction, positions)
    limits, used, reason = prepare(view, rows, way, engine, batch_size, max_memory)
    tokens = sum(len(row.into) for row in rows.rows)
    longest = max(max(len(row.into), len(row.source)) for row in rows.rows)
    return Cost(
        forward_passes=(both_runs_work(view, rows) + way.work(view, rows, used)) / (tokens * view.n_layers),
        memory=limits.batch_size * prompt_bytes(view, longest) * way.memory / 2**30,
        weights=sum(p.numel() * p.element_size() for p in view.backend.root.parameters()) / 2**30,
        engine=used,
        engine_reason=reason,
        batch_size=limits.batch_size,
        n_prompts=len(rows),
        tokens=tokens,
    )
