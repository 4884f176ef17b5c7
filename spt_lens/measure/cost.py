"""What a measurement costs before it starts: forward passes and memory."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from spt_lens.data.pairs import ContrastPairs
from spt_lens.measure.engine import Engine, choose_engine
from spt_lens.measure.limits import find_limits, prompt_bytes
from spt_lens.measure.path import parse_receivers
from spt_lens.measure.places import Direction, Positions, Rows, check_patching, make_rows
from spt_lens.models import Model, ModelView


@dataclass(frozen=True)
class Plan:
    """The work of a measurement, in tokens times blocks that they go through, and that of one pass of its prompts."""

    work: float
    one_pass: float

    @classmethod
    def of(
        cls,
        view: ModelView,
        rows: Rows,
        method: str,
        engine: str,
        steps: int = 1,
        receivers: Sequence[Any] = (),
        screen: float | None = None,
    ) -> Plan:
        """Counts what the engines do; a backward pass counts as two forward passes."""
        n_layers, n_heads = view.n_layers, view.n_heads
        joined = n_layers * (n_layers + 1) / 2  # blocks that one variant of every layer goes through
        if receivers:
            first, last = min(receivers).layer, max(receivers).layer
            senders = last * n_heads
            joined_path = n_heads * (last * (last + 1) / 2 + last) + senders * (n_layers - first)
            passes = senders * 2
        else:
            joined_path, passes = n_heads * joined, n_layers * n_heads
        work = 0.0
        for row in rows.rows:
            total, suffix = len(row.into), len(row.into) - row.start
            both = (total + len(row.source)) * n_layers
            gradient = steps * joined if steps > 1 else n_layers
            if engine != "sweep":
                gradient = 3 * total * (steps * n_layers if steps > 1 else 1) * n_layers + total * n_layers
            else:
                gradient *= 3 * suffix
            share = 1.0 if screen is None else screen
            if method == "attribution":
                work += both + gradient
                continue
            if screen is not None:
                work += both + gradient
            if method == "path":
                length = suffix if receivers else row.reads
                work += both + (joined_path * length if engine == "sweep" else passes * total * n_layers)
            elif engine == "sweep":
                work += both + share * n_heads * joined * suffix
            else:
                work += both + share * n_heads * n_layers * total * n_layers
        return cls(work, sum(len(row.into) for row in rows.rows) * n_layers)


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
    method: str = "activation",
    direction: Direction = "denoising",
    positions: Positions = "last",
    batch_size: int | None = None,
    engine: Engine = "auto",
    steps: int = 1,
    screen: float | None = None,
    receivers: str | Sequence[str] | None = None,
    max_memory: float | None = None,
) -> Cost:
    """What head_recovery with the same arguments would take: forward passes, memory, which engine. Runs a few passes
    of one prompt to see which engine fits.

    Raises: ValueError as head_recovery.
    """
    view = ModelView(model)
    if method not in ("activation", "path", "attribution"):
        raise ValueError(f"unknown method {method!r}: use 'activation', 'path' or 'attribution'")
    check_patching(view, pairs, direction, positions, "right")
    to = parse_receivers(view, receivers) if receivers is not None else []
    rows = make_rows(pairs, direction, positions)
    limits = find_limits(view, rows, batch_size, max_memory)
    with view.kept(), torch.no_grad():
        used, reason = choose_engine(view, rows, engine, without=() if method == "activation" else ("stacked",))
    plan = Plan.of(view, rows, method, used, steps, to, screen)
    longest = max(max(len(row.into), len(row.source)) for row in rows.rows)
    return Cost(
        forward_passes=plan.work / plan.one_pass,
        memory=limits.batch_size * prompt_bytes(view, longest) * (3 if method == "attribution" else 1) / 2**30,
        weights=sum(p.numel() * p.element_size() for p in view.backend.root.parameters()) / 2**30,
        engine=used,
        engine_reason=reason,
        batch_size=limits.batch_size,
        n_prompts=len(rows),
        tokens=sum(len(row.into) for row in rows.rows),
    )
