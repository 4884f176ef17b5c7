"""Activation patching, head by head, by whichever engine the model allows.

Denoising puts a head's value from the truthful run into the sycophantic run and asks how much of the truthful logit
difference comes back; noising does the reverse and asks how much of it is lost.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from spt_lens.chat.batches import Padding
from spt_lens.heads import Head
from spt_lens.model.view import ModelView
from spt_lens.patching.limits import Limits, Tick
from spt_lens.patching.plain import both_runs, plain_values
from spt_lens.patching.readings import Readings
from spt_lens.patching.readout import Readout
from spt_lens.patching.rows import Row, Rows, run_source
from spt_lens.patching.suffix import SuffixRun
from spt_lens.patching.sweep import each_suffix, most_variants, sweep


def activation_readings(
    view: ModelView, rows: Rows, heads: Sequence[Head], engine: str, limits: Limits, padding: Padding, tick: Tick
) -> Readings:
    """Every row with each of the heads patched alone; the other heads' readings mean nothing."""
    readings = Readings(view, rows)

    def by_hooks(part: list[int]) -> None:
        chosen, readout = [rows.rows[i] for i in part], rows.readout(part)
        z, _ = run_source(view, chosen, readout, padding)
        together = max(1, limits.batch_size // len(part)) if engine == "stacked" else 1
        readings.patched(part, heads, plain_values(view, chosen, z, readout, heads, together, padding, tick))

    def by_sweep(part: list[int], chosen: list[Row], run: SuffixRun, source: list[Tensor], readout: Readout) -> None:
        most = most_variants(run, limits.batch_size)
        readings.patched(part, heads, sweep(run, source, readout, chosen[0].reads, heads, most, tick))

    if engine == "sweep":
        each_suffix(view, rows, readings, limits, padding, tick, lambda row: row.start, by_sweep)
    else:
        both_runs(view, readings, limits, padding, tick)
        limits.each(rows.alike(padding), by_hooks)
    return readings
