"""`head_knockout`: what the model does without each head, one head at a time."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from spt_lens.chat.batches import Padding
from spt_lens.data.pairs import ContrastPairs
from spt_lens.heads import Head
from spt_lens.measure.ablation import Ablation, MeanOver, ablation_values, check_ablation
from spt_lens.model.view import Model, ModelView
from spt_lens.patching.engine import has_hooks
from spt_lens.patching.limits import find_limits, progress_bar
from spt_lens.patching.plain import both_runs, plain_values
from spt_lens.patching.plan import Plan
from spt_lens.patching.readings import Readings
from spt_lens.patching.rows import check_patching, make_rows
from spt_lens.scores.head_scores import HeadScores
from spt_lens.scores.made import How, to_scores


def head_knockout(
    model: Model,
    pairs: ContrastPairs,
    ablation: Ablation = "mean",
    mean_over: MeanOver = "both",
    batch_size: int | None = 32,
    padding: Padding = "right",
    progress: bool = True,
) -> HeadScores:
    """How far each head's removal moves the sycophantic run towards the truthful one, every head removed by itself.

    (LD_without_head - LD_sycophantic) / (LD_truthful - LD_sycophantic), in the unit of head_recovery, so that the maps
    can be compared: 1 means that the truthful reply is back without this head, below zero that the model gives in even
    more. A positive score: the head carries the giving in. LD is read as head_recovery reads it.

    A removed head is set to its mean over all positions of the pairs' prompts, or to zero, at every position of the
    sycophantic prompt (and of a whole completion behind it); `mean_over` says which prompts. To remove several heads
    together see `joint_knockout`, and for replies in words `knockout_curve`.

    Cost: n_layers * n_heads forward passes of the sycophantic prompts, one for each head, and up to four more: both
    runs, and the means over one or both kinds of prompts. That is many times what head_recovery takes at the last
    position: a head that is removed at every position leaves no beginning of the prompt for the others to share.

    batch_size: at most so many prompts at once, None for what memory allows; with fewer pairs, several heads share a
    pass. When memory runs out all the same, it goes on with half as many. padding: the side on which prompts of
    different lengths are filled up.

    A score is the mean over pairs; the per-pair scores are kept, and the logit differences without each head. Pairs
    whose two runs hardly differ are left out with a warning, as in head_recovery. The model is left as it was, also
    when it is interrupted. Source: Chen et al. 2024, section 3.2, knocks heads out in rank order.

    Raises: ValueError for an unknown ablation, mean_over or padding, a batch size below one, ids outside of the
    vocabulary, logits that are not finite, no pair with a gap, or a model in training mode; TypeError for an
    unsupported model.
    """
    view = ModelView(model)
    check_ablation(ablation, mean_over)
    check_patching(view, pairs, "denoising", "last", padding)
    rows = make_rows(pairs, "denoising", "last")
    # What is patched are all positions of the prompt; the values are one vector for each head and no other run's.
    rows = replace(rows, rows=tuple(replace(row, into_at=tuple(range(len(row.into)))) for row in rows.rows))
    limits = find_limits(view, rows, batch_size, None)
    # Hooks of the user's may count on the shape of a batch, so that they get one copy of it at a time.
    engine = "hooks" if has_hooks(view) else "stacked"
    readings = Readings(view, rows)
    heads = [Head(layer, head) for layer in range(view.n_layers) for head in range(view.n_heads)]
    work = Plan.of(view, rows, "activation", engine).work
    with view.kept(), torch.no_grad(), progress_bar(work, "knocking heads out", progress) as tick:
        both_runs(view, readings, limits, padding, tick)  # first, since pairs without any gap are an error
        values = ablation_values(view, pairs, ablation, mean_over, limits.batch_size)

        def remove(part: list[int]) -> None:
            chosen, readout = [rows.rows[i] for i in part], rows.readout(part)
            places = sum(len(row.into_at) for row in chosen)
            z = values[:, None].expand(-1, places, -1, -1)
            together = max(1, limits.batch_size // len(part)) if engine == "stacked" else 1
            readings.patched(part, heads, plain_values(view, chosen, z, readout, heads, together, padding, tick))

        limits.each(rows.alike(padding), remove)
    settings: dict[str, Any] = {"ablation": ablation, "mean_over": mean_over}
    settings |= {"batch_size": limits.batch_size, "padding": padding}
    # No direction: no other run's value is put in.
    how = How("knockout", "", "all", engine, settings)
    return to_scores(view, how, readings.base, readings.target, readings.logit_differences)
