"""One of the processes that compare rankings in one folder; a new process finds it by this module's name."""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

import spt_lens as spt
from spt_lens.study.ranked_result import Rankings
from spt_lens.study.rankings import RANKINGS
from tools.rankings.plans import PLANS, READY, opened, quick


def run(given: argparse.Namespace, turn: int, end: float, others: Sequence[Any] = ()) -> Rankings | None:
    """One process's part. The others wait for the first, which asks the model; each begins with another ranking.
    others: that the first waits for, so that what they were at when the time was over counts too."""
    warnings.simplefilter("ignore")
    torch.set_float32_matmul_precision("medium" if given.device == "cpu" else "highest")
    if given.processes > 1:
        torch.set_num_threads(1)
    plan = PLANS[given.plan]
    if given.n:
        plan = replace(plan, settings=replace(plan.settings, test={**plan.settings.test, "n": given.n}))
    if given.draws:
        plan = replace(plan, n_random={**plan.n_random, 0.05: given.draws})
    plan = quick(plan) if given.quick else plan
    model = spt.load_model(given.model, device=given.device)
    while turn and not (given.out / READY).exists():
        if time.time() > end:
            return None
        time.sleep(0.5)
    asked = opened(plan, model, given.out, first=turn == 0)
    names = given.only or list(RANKINGS)
    turned = names[turn % len(names) :] + names[: turn % len(names)]
    said("ready", turn, end)
    left = max(1e-3, (end - time.time()) / 60) if given.minutes else None
    more: dict[str, Any] = {"layers": given.layers, "minutes": left, "progress": False}
    found = spt.rankings(model, names=turned, **asked, **more)
    for other in others:
        other.join()
    if others and found.settings["todo"]:
        found = spt.rankings(model, names=turned, **asked, **{**more, "minutes": 1e-6})
    said(found.summary(), turn, end)
    return found


def said(what: str, turn: int, end: float) -> None:
    print(f"process {turn}, {end - time.time():.0f} s left: {what}", flush=True)
