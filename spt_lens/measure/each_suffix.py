"""The part that every method on suffixes shares: both runs of a few rows at a time, then the method's own work."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from spt_lens.data.padding import Padding
from spt_lens.measure.limits import Limits
from spt_lens.measure.measured import Readings
from spt_lens.measure.places import Row, Rows, run_source
from spt_lens.measure.plain import both_runs
from spt_lens.measure.readout import Readout
from spt_lens.measure.sweep import Tick, read, suffix_source
from spt_lens.models import ModelView
from spt_lens.suffix import SuffixRun, suffix_run


def each_suffix(
    view: ModelView,
    rows: Rows,
    readings: Readings,
    limits: Limits,
    padding: Padding,
    tick: Tick,
    start: Callable[[Row], int],
    work: Callable[[list[int], list[Row], SuffixRun, list[Tensor], Readout], None],
) -> None:
    """For rows of one length and one start of their suffix at a time: both runs, then `work` with what they left."""

    def run(part: list[int]) -> None:
        chosen, readout = [rows.rows[i] for i in part], rows.readout(part)
        z, target = run_source(view, chosen, readout, padding)
        suffix = suffix_run(view, torch.tensor([row.into for row in chosen]), start(chosen[0]))
        tick(sum(len(row.into) + len(row.source) for row in chosen) * view.n_layers)
        base = read(suffix, suffix.final[None, :, -chosen[0].reads :], readout)[0]
        readings.runs(part, base, target)
        if readings.gapless:  # rather than measure on in vain
            both_runs(view, readings, limits, padding, tick)
        work(part, chosen, suffix, suffix_source(chosen, z, suffix), readout)

    limits.each(rows.alike(padding, lambda row: (len(row.into), start(row))), run)
