"""The work of a measurement, counted before it starts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from spt_lens.model.view import ModelView
from spt_lens.patching.rows import Rows


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
