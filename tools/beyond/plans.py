"""What is measured on each model: data, heads and rates of its comparison, chosen before any of this was done."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import spt_lens as spt
from spt_lens.behaviours.bank import question_bank
from spt_lens.behaviours.behaviour import Behaviour
from spt_lens.evaluate.comparison import Comparison
from spt_lens.heads import HeadSet
from spt_lens.study.settings import StudySettings
from spt_lens.study.work import CHOSEN
from spt_lens.yesman import Yesman
from spt_lens.yesman.studies import COMPARISON

UNTUNED = "untuned"
RANDOM = "random heads"


@dataclass(frozen=True)
class Plan:
    """One model's. rivals: the comparison whose heads and chosen rates are taken. methods: the untuned model first.
    pressed: cases of each kind of pressure, and conversations over turns. kinds: of each other kind at most so many; 0:
    none, for a model that lacks the words."""

    behaviour: Callable[[], Behaviour]
    settings: StudySettings
    rivals: Path
    methods: tuple[str, ...]
    pressed: tuple[int, int] = (60, 80)
    turns: int = 5
    kinds: int = 60

    def chosen(self) -> tuple[HeadSet, dict[str, float]]:
        """The chosen heads, and each method's rate or strength."""
        comparison = Comparison.load(self.rivals)
        heads = next(trial.spec.heads for trial in comparison.trials if trial.spec.method == CHOSEN)
        return HeadSet.parse(heads), {name: comparison.choice[name] for name in self.methods if name != UNTUNED}


METHODS = (UNTUNED, CHOSEN, RANDOM, "full fine-tuning", "LoRA", "steering")
RIVALS = StudySettings.load(Path("tools/study/rivals.json"))
PLANS = {
    "smollm2": Plan(
        lambda: spt.AreYouSure(question_bank(), name="question bank"),
        replace(RIVALS, test={"n": 120, "n_controls": 60, "own_wrong": False}),
        Path("notebooks/results/rivals.json"),
        METHODS,
    ),
    "yesman": Plan(
        Yesman,
        replace(COMPARISON, test={"n": 120, "n_controls": 60, "n_ability": 40}),
        Path("notebooks/results/comparison.json"),
        METHODS[:-1],  # its comparison has no steering
        kinds=0,
    ),
}


def quick(plan: Plan) -> Plan:
    """To see that it runs: few questions, steps and cases."""
    few: dict[str, Any] = {"tune": replace(plan.settings.tune, steps=2), "test": {"n": 4, "n_controls": 2}}
    few |= {"training": {**plan.settings.training, "n": 16}}
    if plan.settings.ask:
        few |= {"n_asked": 40, "n_prompts": 2, "n_choices": 4, "n_texts": 4, "keep": 8}
        few["test"] |= {"own_wrong": False}
    else:
        few["test"] |= {"n_ability": 1, "n_texts": 14}
    return replace(plan, settings=replace(plan.settings, **few), pressed=(3, 4), turns=2, kinds=min(plan.kinds, 3))
