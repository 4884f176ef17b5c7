"""`head_recovery`: every head's share of the logit-difference gap, and the same between random pairs."""

from __future__ import annotations

import random
import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import get_args

import torch

from spt_lens.data.padding import Padding
from spt_lens.data.pairs import ContrastPairs
from spt_lens.measure.engine import Engine
from spt_lens.measure.limits import find_limits
from spt_lens.measure.measured import How, to_scores
from spt_lens.measure.method import Method, Options, measure_rows
from spt_lens.measure.path import Mlps
from spt_lens.measure.places import Direction, Positions, Row, Rows, check_patching, make_rows, named, run_source
from spt_lens.models import Model, ModelView
from spt_lens.score_metrics import Metric
from spt_lens.scores import HeadScores


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


def random_pairs_null(
    model: Model,
    pairs: ContrastPairs,
    method: Method = "activation",
    direction: Direction = "denoising",
    positions: Positions = "last",
    seed: int = 0,
    batch_size: int | None = None,
    progress: bool = True,
    padding: Padding = "right",
    engine: Engine = "auto",
    steps: int = 1,
    mlps: Mlps = "recomputed",
    receivers: str | Sequence[str] | None = None,
    max_memory: float | None = None,
) -> HeadScores:
    """How large the scores of head_recovery get where nothing is to be recovered: `scores.above_null(null)`.

    The values come from the same kind of run of another, random pair instead of the other run of the pair itself. They
    differ in what is talked about and not in the stance; the change is still divided by the pair's own gap. With
    positions other than "last" only prompts of equal length are paired, and a pair without such a partner is left out.

    seed: of the draw of partners. The other arguments, and what raises, are those of head_recovery.

    Raises: ValueError also when there are no two pairs that can be partners.
    """
    view = ModelView(model)
    options = Options(method, engine, steps, None, mlps, receivers, batch_size, max_memory, padding)
    options.check()
    check_patching(view, pairs, direction, positions, padding)
    rows = make_rows(pairs, direction, positions)
    partners = _partners(pairs, direction, positions == "last", seed)
    kept = sorted(partners)
    place = {pair: i for i, pair in enumerate(kept)}
    real = Rows(
        tuple(replace(row, pair=place[row.pair]) for row in rows.rows if row.pair in place),
        tuple(readout[kept] for readout in rows.readouts),
        len(kept),
    )
    prompts = pairs.sycophantic if direction == "denoising" else pairs.truthful
    with view.kept(), torch.no_grad():
        targets = torch.zeros(len(real), dtype=torch.promote_types(view.dtype, torch.float32))
        limits = find_limits(view, real, batch_size, max_memory)

        def read_targets(part: list[int]) -> None:
            _, target = run_source(view, [real.rows[i] for i in part], real.readout(part), padding)
            targets[part] = target.to(targets)

        limits.each(real.alike(padding), read_targets)
    swapped = tuple(_from(row, prompts[partners[kept[row.pair]]]) for row in real.rows)
    found = measure_rows(view, replace(real, rows=swapped, targets=targets), options, progress)
    how = How(method, direction, named(positions), found.engine, {**found.settings, "seed": seed})
    base, target = found.readings.base, found.readings.target
    scores = to_scores(view, how, base, target, found.patched, found.verified, numbers=kept)
    used = [kept[i] for i in scores.meta["pairs_used"]]
    left_out = [i for i in range(len(pairs)) if i not in used]
    return replace(scores, meta={**scores.meta, "pairs_used": used, "left_out": left_out, "null": "random pairs"})


def _partners(pairs: ContrastPairs, direction: Direction, any_length: bool, seed: int) -> dict[int, int]:
    """Another pair for each pair, none twice; pairs whose prompt is as long as no other's have none."""
    prompts = pairs.sycophantic if direction == "denoising" else pairs.truthful
    groups: dict[int, list[int]] = {}
    for i, prompt in enumerate(prompts):
        groups.setdefault(0 if any_length else len(prompt), []).append(i)
    draw = random.Random(f"random pairs {seed}")
    found: dict[int, int] = {}
    for group in groups.values():
        if len(group) > 1:
            ring = draw.sample(group, len(group))
            found |= dict(zip(ring, ring[1:] + ring[:1], strict=True))
    if not found:
        raise ValueError(
            "no two pairs can be partners in a random-pairs null: give more pairs, or with positions other than 'last' "
            "pairs with prompts of equal length"
        )
    return found


def _from(row: Row, prompt: tuple[int, ...]) -> Row:
    """The row with its values from another prompt of the same kind, the row's own completion behind it."""
    behind = row.into[len(row.into) - row.reads + 1 :]
    source = (*prompt, *behind)
    return replace(row, source=source, source_at=tuple(at + len(source) - len(row.into) for at in row.into_at))
