"""What is tuned and read on each model: data and settings of its study, heads of its rankings, all chosen before."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import spt_lens as spt
from spt_lens.behaviours.bank import question_bank
from spt_lens.behaviours.behaviour import Behaviour
from spt_lens.chat.dialogues import Dialogue
from spt_lens.data.pairs import ContrastPairs
from spt_lens.heads import HeadSet
from spt_lens.measure.controls import same_layers
from spt_lens.model.view import Model
from spt_lens.scores.head_scores import HeadScores
from spt_lens.scores.mean import mean_scores
from spt_lens.study import data, stages
from spt_lens.study.rankings import RANKINGS
from spt_lens.study.settings import StudySettings
from spt_lens.study.work import Work
from spt_lens.yesman import Yesman
from spt_lens.yesman.studies import COMPARISON

PATCHING, GRADIENT = "activation patching", "objective gradient"
OWN = "themselves"


@dataclass(frozen=True)
class Reading:
    """Pairs that effects are read on, and how: `Behaviour.pairs` by these words, by default of the test split. found:
    read by the words that were found on the training split's pairs, else by the behaviour's own. controls: read after
    random heads were tuned too."""

    name: str
    method: Any = "activation"
    direction: Any = "denoising"
    pairs: Mapping[str, Any] = field(default_factory=dict)
    found: bool = False
    controls: bool = True


@dataclass(frozen=True)
class Plan:
    """One model's. selections: a ranking, the layers that its best heads are taken from (None: all), and how many draws
    of random heads of their layers are tuned alike. n: pairs. n_random: as `spt.repatch` has it. SmolLM2 has as
    many as a GPU does in some minutes; one core takes an hour and more."""

    behaviour: Callable[[], Behaviour]
    settings: StudySettings
    lr: float
    selections: Mapping[str, tuple[tuple[int, int] | None, int]]
    readings: tuple[Reading, ...]
    n: int = 48
    n_random: int = 5


SMOLLM2 = StudySettings.load(Path("tools/study/rivals.json"))
PLANS = {
    "smollm2": Plan(
        lambda: spt.AreYouSure(question_bank(), name="question bank"),
        SMOLLM2,
        2e-3,  # what the comparison of rivals chose on the validation split, for chosen and for random heads
        {PATCHING: (None, 2), GRADIENT: (SMOLLM2.layers, 1)},
        (
            Reading("found words", found=True),
            Reading("found words, on training pairs", pairs={"split": "train"}, found=True),
            Reading("found words, noising", direction="noising", found=True, controls=False),
        ),
        n_random=2,
    ),
    "yesman": Plan(
        Yesman,
        COMPARISON,
        1e-3,  # what the comparison chose
        {PATCHING: (None, 1), GRADIENT: (None, 0)},
        (
            Reading("its words"),
            Reading("its words, noising", direction="noising"),
            Reading("its words, path patching", "path", controls=False),
        ),
    ),
}


@dataclass(frozen=True)
class Case:
    """Heads that a ranking chose, and those that were tuned: themselves, or a draw of random ones of their layers."""

    selection: str
    tuned: str
    draw: int
    heads: HeadSet
    moved: HeadSet

    @property
    def key(self) -> str:
        return f"{self.selection}-{self.tuned}-{self.draw}".replace(" ", "-")


@dataclass(frozen=True)
class Opened:
    """A model with all that is needed of its plan."""

    plan: Plan
    model: Model
    dialogues: list[Dialogue]
    keep: list[Dialogue]
    pairs: dict[str, ContrastPairs]
    cases: list[Case]


def quick(plan: Plan) -> Plan:
    """Next to nothing, to see that it runs."""
    few: dict[str, Any] = {
        "tune": replace(plan.settings.tune, steps=2),
        "training": {**plan.settings.training, "n": 16},
    }
    if plan is PLANS["smollm2"]:
        few |= {"pairs": {"n": 6}, "n_asked": 30, "keep": 8}
    else:
        few |= {"pairs": {**plan.settings.pairs, "n": 6}}
    selections = {name: (layers, min(1, draws)) for name, (layers, draws) in plan.selections.items()}
    return replace(plan, settings=replace(plan.settings, **few), selections=selections, n=4)


def opened(plan: Plan, model: Model, out: Path) -> Opened:
    """Asks the model where its answers are not in the folder, and measures rankings whose scores are not."""
    work = Work(model, plan.behaviour(), out, plan.settings)
    work.asked = data.own_answers(work.behaviour, work, out / "answers.json", ("train", "test"), progress=False)
    stages.pairing(work, progress=False)
    dialogues = data.training_of(work.asked, plan.settings)
    behaviour: Any = work.asked
    pairs = {}
    for reading in plan.readings:
        its = behaviour.pairs(model, plan.n, **{"split": "test", **reading.pairs})
        pairs[reading.name] = its.with_words(work.wording) if reading.found and work.wording is not None else its
    return Opened(plan, model, dialogues, data.kept_texts(work), pairs, list(cases(work, plan, dialogues)))


def cases(work: Work, plan: Plan, dialogues: list[Dialogue]) -> Iterator[Case]:
    """First what the ranking chose, then random heads, ranking by ranking."""
    for name, (layers, draws) in plan.selections.items():
        scores = _scores(work, name, dialogues)
        first, last = layers or (0, scores.n_layers - 1)
        ranked = [head for head in scores.order() if first <= head.layer <= last]
        heads = HeadSet(tuple(ranked[: stages.n_chosen(plan.settings, scores.values.numel())]))
        yield Case(name, OWN, 0, heads, heads)
        for draw in range(draws):
            yield Case(name, "random", draw, heads, same_layers(work.model, heads, draw))


def _scores(work: Work, name: str, dialogues: list[Dialogue]) -> HeadScores:
    path = work.out / f"scores-{name.replace(' ', '-')}.safetensors"
    if not path.exists():
        ranking = RANKINGS[name]
        assert work.pairs is not None and work.asked is not None
        each = [work.pairs] if ranking.by_dialogues else stages._read(work)
        measured = [ranking.scores(work.model, pairs, dialogues, progress=False) for pairs in each]
        (measured[0] if len(measured) == 1 else mean_scores(*measured)).save(path)
    return HeadScores.load(path)
