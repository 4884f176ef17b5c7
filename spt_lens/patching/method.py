"""The methods behind one door: options that go together, and rows measured as they say."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from spt_lens.chat.batches import Padding
from spt_lens.heads import Head
from spt_lens.model.view import ModelView
from spt_lens.patching.activation import activation_readings
from spt_lens.patching.attribution import attribution_readings
from spt_lens.patching.engine import choose_engine
from spt_lens.patching.limits import Limits, find_limits, progress_bar
from spt_lens.patching.path import Mlps, Receiver, check_mlps, parse_receivers, path_readings
from spt_lens.patching.plain_path import plain_path_readings
from spt_lens.patching.plan import Plan
from spt_lens.patching.readings import Readings
from spt_lens.patching.rows import Rows
from spt_lens.scores.metrics import usable_pairs

Method = Literal["activation", "path", "attribution"]


@dataclass(frozen=True)
class Options:
    """How head_recovery measures: its arguments of these names."""

    method: str
    engine: str
    steps: int
    screen: float | None
    mlps: Mlps
    receivers: str | Sequence[str] | None
    batch_size: int | None
    max_memory: float | None
    padding: Padding

    def check(self) -> None:
        """Raises ValueError for unknown options, and for ones that do not go together."""
        method = self.method
        if method not in get_args(Method):
            raise ValueError(f"unknown method {method!r}: use 'activation', 'path' or 'attribution'")
        if isinstance(self.steps, bool) or not isinstance(self.steps, int) or self.steps < 1:
            raise ValueError(f"steps={self.steps}: attribution takes one step or more")
        if self.screen is not None and not (isinstance(self.screen, int | float) and 0 < self.screen <= 1):
            raise ValueError(f"screen={self.screen!r}: give the share of heads to measure, above 0 and up to 1")
        if method != "activation" and self.screen is not None:
            raise ValueError(f"screen goes with method='activation', not with {method!r}: leave it out")
        if method != "path" and (self.receivers is not None or self.mlps != "recomputed"):
            raise ValueError(f"receivers and mlps go with method='path', not with {method!r}: leave them out")
        if method != "attribution" and self.screen is None and self.steps != 1:
            raise ValueError(f"steps go with method='attribution' or with screen, not with {method!r}: leave them out")

    def prepared(self, view: ModelView, rows: Rows) -> tuple[Limits, list[Receiver], str, str]:
        """What goes at once, the receivers, the engine, and why no faster one. Runs a few passes of one prompt."""
        check_mlps(view, self.mlps)
        for row in rows.rows:
            for prompt in (row.into, row.source):
                view.backend.check_length(torch.empty(1, len(prompt)))
        receivers = parse_receivers(view, self.receivers) if self.receivers is not None else []
        limits = find_limits(view, rows, self.batch_size, self.max_memory)
        without = () if self.method == "activation" else ("stacked",)
        with view.kept(), torch.no_grad():
            return limits, receivers, *choose_engine(view, rows, self.engine, without)


class Found(NamedTuple):
    """What measure_rows gives. settings: for the scores' meta."""

    readings: Readings
    patched: Float[Tensor, "n_pairs n_layers n_heads"]
    verified: Bool[Tensor, "n_layers n_heads"] | None
    engine: str
    settings: dict[str, Any]


def measure_rows(view: ModelView, rows: Rows, options: Options, progress: bool) -> Found:
    """Reads every row with each head patched, by the method and engine that the options name."""
    limits, receivers, engine, reason = options.prepared(view, rows)
    plan = Plan.of(view, rows, options.method, engine, options.steps, receivers, options.screen)
    everyone = [Head(layer, head) for layer in range(view.n_layers) for head in range(view.n_heads)]
    padding, verified = options.padding, None
    with (
        torch.inference_mode(False),  # gradients may be wanted
        view.kept(),
        torch.no_grad(),
        progress_bar(plan.work, f"{options.method} patching", progress) as tick,
    ):
        if options.method == "path":
            by = path_readings if engine == "sweep" else plain_path_readings
            readings = by(view, rows, everyone, options.mlps, receivers, limits, padding, tick)
        elif options.method == "attribution":
            readings = attribution_readings(view, rows, engine, options.steps, limits, padding, tick)
        elif options.screen is None:
            readings = activation_readings(view, rows, everyone, engine, limits, padding, tick)
        else:
            # Stacked heads have no gradients of their own.
            second = "sweep" if engine == "sweep" else "hooks"
            estimated = attribution_readings(view, rows, second, options.steps, limits, padding, tick)
            best = _screened(estimated, options.screen)
            readings = activation_readings(view, rows, best, engine, limits, padding, tick)
            verified = torch.zeros(view.n_layers, view.n_heads, dtype=torch.bool)
            verified[tuple(zip(*best, strict=True))] = True
    patched = readings.logit_differences
    if verified is not None:
        patched = torch.where(verified, patched, estimated.logit_differences)
    settings: dict[str, Any] = {"engine": options.engine, "batch_size": limits.batch_size, "padding": padding}
    if reason:
        settings["engine_reason"] = reason
    if options.method == "path":
        to = options.receivers if receivers else "logits"
        assert to is not None
        settings |= {"mlps": options.mlps, "receivers": to if isinstance(to, str) else " ".join(to)}
    if options.method == "attribution" or options.screen is not None:
        settings["steps"] = options.steps
    if options.screen is not None:
        settings["screen"] = options.screen
    return Found(readings, patched, verified, engine, settings)


def _screened(estimated: Readings, screen: float) -> list[Head]:
    """The best share of heads by the size of their mean estimate, at least one."""
    base, target = estimated.base, estimated.target
    kept, _ = usable_pairs(base, target)
    shares = (estimated.logit_differences - base[:, None, None]) / (target - base)[:, None, None]
    size = shares[kept].mean(dim=0).abs()
    many = max(1, math.floor(screen * size.numel() + 1e-9))
    best = size.flatten().argsort(descending=True, stable=True)[:many]
    return [Head(*divmod(int(i), size.shape[1])) for i in best]
