"""`head_recovery`: every head's share of the logit-difference gap, by the method and the engine asked for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch

from spt_lens.data.padding import Padding
from spt_lens.data.pairs import ContrastPairs
from spt_lens.heads import Head
from spt_lens.measure.activation import activation_readings
from spt_lens.measure.attribution import attribution_readings
from spt_lens.measure.bar import progress_bar
from spt_lens.measure.cost import Plan
from spt_lens.measure.engine import Engine, choose_engine
from spt_lens.measure.limits import find_limits
from spt_lens.measure.measured import How, Readings, to_scores
from spt_lens.measure.path import Mlps, check_mlps, parse_receivers, path_readings
from spt_lens.measure.places import Direction, Positions, check_patching, make_rows
from spt_lens.measure.plain_path import plain_path_readings
from spt_lens.models import Model, ModelView
from spt_lens.scores import HeadScores

Method = Literal["activation", "path", "attribution"]


def head_recovery(
    model: Model,
    pairs: ContrastPairs,
    method: Method = "activation",
    direction: Direction = "denoising",
    positions: Positions = "last",
    batch_size: int | None = None,
    progress: bool = True,
    padding: Padding = "right",
    metric: Literal["recovery", "importance"] = "recovery",
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
    _check(method, metric, steps, screen, mlps, receivers)
    check_patching(view, pairs, direction, positions, padding)
    check_mlps(view, mlps)
    to = parse_receivers(view, receivers) if receivers is not None else []
    rows = make_rows(pairs, direction, positions)
    limits = find_limits(view, rows, batch_size, max_memory)
    everyone = [Head(layer, head) for layer in range(view.n_layers) for head in range(view.n_heads)]
    verified = None
    with view.kept(), torch.no_grad():
        used, reason = choose_engine(view, rows, engine, without=() if method == "activation" else ("stacked",))
        plan = Plan.of(view, rows, method, used, steps=steps, receivers=to, screen=screen)
        with progress_bar(plan.work, f"{method} patching", progress) as tick:
            if method == "attribution":
                readings = attribution_readings(view, rows, used, steps, limits, padding, tick)
            elif method == "path" and used == "sweep":
                readings = path_readings(view, rows, everyone, mlps, to, limits, padding, tick)
            elif method == "path":
                readings = plain_path_readings(view, rows, everyone, mlps, to, limits, padding, tick)
            elif screen is None:
                readings = activation_readings(view, rows, everyone, used, limits, padding, tick)
            else:
                estimated = attribution_readings(view, rows, _second(used), steps, limits, padding, tick)
                best = _screened(estimated, screen)
                readings = activation_readings(view, rows, best, used, limits, padding, tick)
                verified = torch.zeros(view.n_layers, view.n_heads, dtype=torch.bool)
                verified[tuple(zip(*best, strict=True))] = True
                patched = torch.where(verified, readings.logit_differences, estimated.logit_differences)
    if verified is None:
        patched = readings.logit_differences
    settings: dict[str, Any] = {"engine": engine, "batch_size": limits.batch_size, "padding": padding}
    if reason:
        settings["engine_reason"] = reason
    if method == "path":
        settings |= {"mlps": mlps, "receivers": [f"L{r.layer}.{r.which}{r.unit}" for r in to] or "logits"}
    if method == "attribution" or screen is not None:
        settings["steps"] = steps
    if screen is not None:
        settings["screen"] = screen
    how = How(method, direction, _named(positions), used, settings)
    scores = to_scores(view, how, readings.base, readings.target, patched, verified)
    return scores.as_metric(metric)


def _check(
    method: str, metric: str, steps: int, screen: float | None, mlps: str, receivers: str | Sequence[str] | None
) -> None:
    if method not in get_args(Method):
        raise ValueError(f"unknown method {method!r}: use 'activation', 'path' or 'attribution'")
    if metric not in ("recovery", "importance"):
        raise ValueError(f"unknown metric {metric!r}: use 'recovery' or 'importance'")
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise ValueError(f"steps={steps}: attribution takes one step or more")
    if screen is not None and not 0 < screen <= 1:
        raise ValueError(f"screen={screen}: give the share of heads to measure, above 0 and up to 1, such as 0.2")
    if method != "activation" and screen is not None:
        raise ValueError(f"screen goes with method='activation', not with {method!r}: leave it out")
    if method != "path" and (receivers is not None or mlps != "recomputed"):
        raise ValueError(f"receivers and mlps go with method='path', not with {method!r}: leave them out")
    if method != "attribution" and screen is None and steps != 1:
        raise ValueError(f"steps go with method='attribution' or with screen, not with {method!r}: leave them out")


def _second(engine: str) -> str:
    """The engine for gradients: stacked heads have none of their own."""
    return "sweep" if engine == "sweep" else "hooks"


def _screened(estimated: Readings, screen: float) -> list[Head]:
    """The best share of heads by the size of their mean estimate, at least one."""
    change = (estimated.logit_differences - estimated.base[:, None, None]).sum(0)
    size = (change / (estimated.target - estimated.base).sum()).abs()
    many = max(1, math.floor(screen * size.numel() + 1e-9))
    best = size.flatten().argsort(descending=True, stable=True)[:many]
    return [Head(*divmod(int(i), size.shape[1])) for i in best]


def _named(positions: Positions) -> str:
    return positions if isinstance(positions, str) else ",".join(map(str, positions))
