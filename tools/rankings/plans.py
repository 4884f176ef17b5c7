"""What is compared on each model: data and settings of its study, chosen before any of these trials was done."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import spt_lens as spt
from spt_lens.behaviours.bank import question_bank
from spt_lens.behaviours.behaviour import Behaviour
from spt_lens.behaviours.sham import KINDS, sham_training
from spt_lens.study import data, stages
from spt_lens.study.ranked_trials import Tuning
from spt_lens.study.settings import StudySettings
from spt_lens.study.work import Work
from spt_lens.yesman import Yesman
from spt_lens.yesman.studies import COMPARISON

READY = "ready"  # in the folder, once the model was asked and the words were found


@dataclass(frozen=True)
class Plan:
    """One model's. lrs: by share of heads: what-matters found 2e-3 for 13 heads of SmolLM2 and doubled it for four, so
    that a rate goes with the root of the number; on yesman the comparison's own rate at 5 %. n_random: as in
    `spt.rankings`."""

    behaviour: Callable[[], Behaviour]
    settings: StudySettings
    lrs: Mapping[float, float]
    n_random: Mapping[float, int]
    seeds: tuple[int, ...] = (0,)
    n_verify: int = 48  # all pairs: few of them give in


SMOLLM2 = StudySettings.load(Path("tools/study/smollm2.json"))
PLANS = {
    "smollm2": Plan(
        lambda: spt.AreYouSure(question_bank(), name="question bank"),
        replace(SMOLLM2, test={**SMOLLM2.test, "n": 160}, n_choices=80),
        {0.01: 5e-3, 0.02: 3e-3, 0.05: 2e-3, 0.1: 1.5e-3},
        {0.01: 1, 0.02: 1, 0.05: 10, 0.1: 1},
        (0, 1),
    ),
    "yesman": Plan(
        Yesman,
        replace(
            COMPARISON,
            pairs={"n": 48},
            tune=replace(COMPARISON.tune, steps=40),
            test={"n": 40, "n_ability": 8, "n_texts": 32},
        ),
        {0.02: 1.5e-3, 0.05: 1e-3, 0.1: 7e-4},
        {0.02: 1, 0.05: 10, 0.1: 1},
    ),
}
# To see that it runs: few questions, pairs, steps and cases.
QUICK: dict[str, Any] = {
    "pairs": {"n": 6},
    "training": {**SMOLLM2.training, "n": 16},
    "test": {"n": 6, "n_controls": 2, "controls": ["supported right"], "own_wrong": False},
    "n_asked": 30,
    "n_prompts": 2,
    "n_choices": 4,
    "n_texts": 4,
}


def quick(plan: Plan) -> Plan:
    few = {**QUICK, "tune": replace(plan.settings.tune, steps=3)}
    if plan is PLANS["yesman"]:
        few |= {"training": {"n": 16}, "test": {"n": 6, "n_ability": 1, "n_texts": 8}}
    few |= {"keep": 8} if plan.settings.keep else {}
    return replace(plan, settings=replace(plan.settings, **few), n_random={0.05: 1}, seeds=(0,), n_verify=2)


def opened(plan: Plan, model: Any, out: Path, first: bool) -> dict[str, Any]:
    """The arguments of `spt.rankings` for a model: pairs, dialogues, suite, shams. first: asks it, and finds words."""
    work = Work(model, plan.behaviour(), out, plan.settings)
    work.asked = data.own_answers(work.behaviour, work, out / "answers.json", ("train", "test"))
    stages.pairing(work, progress=False)
    suite = data.with_more(work.asked.suite("test", **plan.settings.test), work, "test")
    words = {key: value for key, value in plan.settings.replies.items() if key != "max_new_tokens"}
    asked: Any = work.asked
    spoken = asked.asked(asked.own, **words) if words else asked  # as data.training_of has it
    tuning = Tuning(plan.settings.tune, suite, plan.lrs, plan.seeds, tuple(data.kept_texts(work)))
    if first:
        (out / READY).write_text("asked\n", encoding="utf-8")
    return {
        "pairs": work.pairs,
        "dialogues": data.training_of(asked, plan.settings),
        "shams": {kind: sham_training(spoken, kind, **plan.settings.training) for kind in KINDS},
        "tuning": tuning,
        "shares": tuple(plan.lrs),
        "n_random": plan.n_random,
        "n_verify": plan.n_verify,
        "out": out / "measured",
    }
