"""`head_recovery`: every head's share of the logit-difference gap, and the same between random pairs."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import get_args

from spt_lens.chat.batches import Padding
from spt_lens.data.pairs import ContrastPairs
from spt_lens.model.view import Model, ModelView
from spt_lens.patching.engine import Engine
from spt_lens.patching.method import Method, Options, measure_rows
from spt_lens.patching.path import Mlps
from spt_lens.patching.rows import Direction, Positions, check_patching, make_rows, named
from spt_lens.scores.head_scores import HeadScores
from spt_lens.scores.made import How, to_scores
from spt_lens.scores.metrics import Metric


def head_recovery(
    model: Model,
    pairs: ContrastPairs,
    method: Method = "activation",
    direction: Direction = "denoising",
    positions: Positions = "last",
    batch_size: int | None = None,
    progress: bool = True,
    padding: Padding = "right",
    metric: Metric = "recovery",
    engine: Engine = "auto",
    steps: int = 1,
    screen: float | None = None,
    mlps: Mlps = "recomputed",
    receivers: str | Sequence[str] | None = None,
    max_memory: float | None = None,
) -> HeadScores:
    """The share of each pair's logit-difference gap that each head's output carries, patched alone into hook_z.

    Denoising: (LD_patched - LD_sycophantic) / (LD_truthful - LD_sycophantic); 1 means that this head alone brings the
    truthful reply back. Noising: the share that is lost, (LD_truthful - LD_patched) / (LD_truthful - LD_sycophantic).
    LD is the logit of the truthful answer token minus the sycophantic one's at the last position; of sets of them, the
    log odds; of whole completions, the difference of their summed log-probabilities (`ContrastPairs`).

    method:
        "activation": all that comes after the head is recomputed. By the one-sweep engine about four forward passes at
            the last position; else one pass for each head.
        "path": what the head writes straight to the logits at the positions that are read, every other head frozen
            (Chen et al. 2024, section 3.1); `mlps` recomputed, as in the paper, or frozen too. With `receivers`, such
            as "L7.H3.q L8.H1.v", what it writes to these: for following a path backwards. Heads behind all receivers
            score zero.
        "attribution": an estimate by one backward pass, or by integrated gradients with several `steps`. Compare it
            with the exact scores (`scores.compare`) before you rely on it.
    positions: "last" patches the last position only (with whole completions, all that are read), and takes pairs of
        unequal length. "all" patches every position from the first that differs, and needs equal lengths within each
        pair, or `pairs.aligned()`. Numbers, such as [-3, -2, -1], patch these positions of both prompts.
    metric: "importance" is the paper's score with its sign turned; `scores.as_metric` changes it later.
    engine: "auto" takes the sweep where it gives what plain hooks give, else stacked heads or plain hooks;
        `scores.engine` says which, and meta["settings"] why. All give the same numbers up to rounding.
    screen: for the activation method, a share of heads such as 0.2: attribution scores all heads, and only the best
        share by size is measured. `scores.verified` tells which; the others are estimates.
    batch_size, max_memory: prompts at once, or GiB for activations; default: what fits in half of the free memory, at
        most 16 prompts. When memory runs out all the same, it goes on with half as many.
    padding: for engines other than the sweep, the side on which prompts of different lengths are filled up.

    A score is the mean over pairs; the per-pair scores are kept. Pairs whose two runs hardly differ (gap below 5 % of
    the median gap) are left out with a warning: meta["left_out"]. The model is left as it was.

    Raises: ValueError for unknown options or ones that do not go together, positions outside of a prompt, pairs of
    unequal length with positions="all", ids outside of the vocabulary, logits that are not finite, no pair with a gap,
    an engine that does not fit the model, or a model in training mode; TypeError for an unsupported model.
    """
    view = ModelView(model)
    options = Options(method, engine, steps, screen, mlps, receivers, batch_size, max_memory, padding)
    options.check()
    if metric not in get_args(Metric):
        raise ValueError(f"unknown metric {metric!r}: use 'recovery' or 'importance'")
    check_patching(view, pairs, direction, positions, padding)
    rows = make_rows(pairs, direction, positions)
    if method == "path" and receivers is None and not any(row.arrives for row in rows.rows):
        raise ValueError(
            f"positions={positions!r}: with every other head frozen, only what is written at the positions that are "
            "read reaches the logits: patch these too (positions='last'), or name receivers"
        )
    found = measure_rows(view, rows, options, progress)
    how = How(method, direction, named(positions), found.engine, found.settings)
    scores = to_scores(view, how, found.readings.base, found.readings.target, found.patched, found.verified)
    try:
        return scores.as_metric(metric)
    except ValueError as error:  # known only now, and no reason to lose the measurement
        warnings.warn(f"these are recoveries, since {metric} can't be told: {error}", stacklevel=2)
        return scores
