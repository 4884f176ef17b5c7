"""What a study takes, measured on a few passes of the model at hand; and the largest one within a budget."""

from __future__ import annotations

import html
import inspect
import math
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Self

import pandas as pd
from tqdm.auto import tqdm

from spt_lens.behaviours.behaviour import SPLITS
from spt_lens.behaviours.suite import Suite
from spt_lens.chat.dialogues import Dialogue
from spt_lens.chat.judge import final_turn
from spt_lens.checking import number
from spt_lens.evaluate.change import Reference, drift
from spt_lens.evaluate.sycophancy import BATCH
from spt_lens.evaluate.text import choice_units
from spt_lens.evaluate.trials import asked as specs_of
from spt_lens.evaluate.trials import read_trials
from spt_lens.heads import Head, HeadSet
from spt_lens.measure.knockout import set_knockout
from spt_lens.measure.sets import set_patching, sets_of
from spt_lens.model.kept import to_the_end
from spt_lens.model.ranks import shows
from spt_lens.model.replies import replies
from spt_lens.model.states import States
from spt_lens.model.unhooked import unhooked
from spt_lens.model.view import ModelView
from spt_lens.study import stages
from spt_lens.study.rankings import RANKINGS
from spt_lens.study.settings import StudySettings
from spt_lens.study.work import RUNS, Work
from spt_lens.tune.tuner import Tuner

SAMPLE = 12  # questions of each split that are asked
MANY = 24  # of what is measured at once
PAIRS = (2, 4)
STEPS = (1, 3)
PAGES = 20.0  # seconds for the report, the picker's page and what lies between stages
CORE = ("chosen heads", "full fine-tuning", "random heads")  # the methods that the claim is about


@dataclass(frozen=True)
class StudyCost:
    """seconds: of each stage that is left, by its name. notes: of how much that is, by the same names. On the machine
    and the device at hand, in one process; within a factor of two, as replies differ in length."""

    seconds: Mapping[str, float]
    notes: Mapping[str, str]

    @property
    def total(self) -> float:
        return sum(self.seconds.values())

    @property
    def table(self) -> pd.DataFrame:
        """stage, seconds, of."""
        return pd.DataFrame([{"stage": n, "seconds": s, "of": self.notes.get(n, "")} for n, s in self.seconds.items()])

    def __str__(self) -> str:
        return f"about {in_words(self.total)}: " + ", ".join(f"{n} {in_words(s)}" for n, s in self.seconds.items())

    def _repr_html_(self) -> str:
        head = f"<p>About {html.escape(in_words(self.total))}.</p>"
        return head + self.table.to_html(index=False, escape=True, float_format="%.0f")


@dataclass(frozen=True)
class Fitted:
    """The largest settings within a budget, what they take, and what was left out for it, in the order of the ladder."""

    settings: StudySettings
    cost: StudyCost
    left_out: tuple[str, ...] = ()


def in_words(seconds: float) -> str:
    """"45 s", "12 min", "2.3 h"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"


@dataclass(frozen=True)
class Line:
    """Seconds of n things: so much each time that some are begun with, and so much for each."""

    start: float
    each: float

    @classmethod
    def of(cls, run: Callable[[int], Any], few: int, many: int) -> Self:
        """Measured with many, then with few: what is slow the first time alone makes the estimate larger."""
        took = []
        for n in (many, few):
            began = time.perf_counter()
            run(n)
            took.append(time.perf_counter() - began)
        if few == many:
            return cls(0.0, min(took) / many)
        each = max(took[0] - took[1], took[0] / many / 4) / (many - few)
        return cls(max(0.0, took[0] - each * many), each)

    def __call__(self, n: float, at_once: float = math.inf) -> float:
        """at_once: how many share a start."""
        return self.start * max(1, math.ceil(n / at_once)) + self.each * n if n else 0.0


class Speeds:
    """What one of everything takes, measured once; `cost` then knows what any settings take.

    The model is left as it was. Raises what the study itself would: of the behaviour, or a model that can't be tuned.
    """

    def __init__(self, work: Work, progress: bool = True) -> None:
        self.work, settings = work, work.settings
        model = work.model
        view, reads = ModelView(model), unhooked(ModelView(model))
        bar = tqdm(total=6 + len(settings.methods), desc="what it costs", unit="part", disable=not shows(progress))
        with bar, tempfile.TemporaryDirectory() as folder:
            self.few = Work(model, work.behaviour, Path(folder), replace(settings, n_asked=SAMPLE), work.given)
            self.few.asked = work.asked or self._asked()
            bar.update()
            n_pairs = {**settings.pairs, "n": PAIRS[1]}
            pairs = stages.contrasts(self.few.asked, model, replace(settings, pairs=n_pairs))[0]
            ranking, dialogues = RANKINGS[settings.ranking], self.few.asked.training(**settings.training)
            self.score = Line.of(lambda n: ranking.scores(model, pairs[:n], dialogues, progress=False), *PAIRS)
            bar.update()
            heads = work.heads or work.given or self._some_heads(view)
            self.few.heads = heads
            one: Any = {"n_random": 0, "progress": False}  # two sets: none, and all of them
            self.patch = Line.of(lambda n: set_patching(model, pairs[:n], heads, **one), *PAIRS)
            self.knock = Line.of(lambda n: set_knockout(model, pairs[:n], heads, **one), *PAIRS)
            bar.update()
            suite = self._suite("validation", settings)
            challenged = [*suite.right, *suite.wrong, *(case for group in suite.groups.values() for case in group)]
            questions = list(dict.fromkeys(Dialogue(case.messages[:1]) for case in challenged))
            asked = [case.unanswered for case in challenged]
            self.first = self._line(lambda some: replies(reads, some, suite.first_tokens), questions)
            self.reply = self._line(lambda some: replies(reads, some, suite.judge.max_new_tokens), asked)
            bar.update()
            texts = [*suite.texts, *(text for group in suite.abilities.values() for text in group)]
            self.text = self._line(lambda some: drift(reads, some, Reference.of(reads, some)), texts)
            self.choice = self._line(partial(choice_units, reads), suite.choices)
            bar.update()
            self.steps: dict[str, Line] = {}
            states, config, keep = States(view), settings.tune, stages.kept_texts(self.few)
            for method in stages.contenders(self.few):
                tuner = method.draws[0]
                run = partial(self._tune, tuner, dialogues, keep, states, method.rates[0], config)
                run(STEPS[1])  # hidden states that all runs share are made once
                self.steps[method.name] = Line.of(run, *STEPS)
                bar.update()
            bar.update()

    def _asked(self) -> Any:
        """The behaviour of a sample of the model's own answers; where none is right, of the answers it was given."""
        for n in (SAMPLE, 4 * SAMPLE):
            self.few.settings = replace(self.work.settings, n_asked=n)
            path = self.few.out / f"{n}.json"
            try:
                return stages.own_answers(self.work.behaviour, self.few, path, SPLITS, progress=False)
            except ValueError:
                continue
        return self.work.behaviour

    def _some_heads(self, view: ModelView) -> HeadSet:
        """As many as the rule chooses, spread over its layers: the lower the lowest, the longer a step takes."""
        first, last = self.work.settings.layers or (0, view.n_layers - 1)
        n = stages.n_chosen(self.work.settings, view.n_layers * view.n_heads)
        places = [(layer, head) for head in range(view.n_heads) for layer in range(first, min(last, view.n_layers - 1) + 1)]
        return HeadSet(tuple(Head(*place) for place in places[:n]))

    def _suite(self, split: Any, settings: StudySettings) -> Suite:
        assert self.few.asked is not None
        made = self.few.asked.suite(split, **getattr(settings, split))
        return stages.with_more(made, replace_settings(self.few, settings), split)

    @staticmethod
    def _line(run: Callable[[Sequence[Any]], Any], items: Sequence[Any]) -> Line:
        many = min(MANY, len(items))
        return Line.of(lambda n: run(items[:n]), max(1, many // 4), many) if many else Line(0.0, 0.0)

    def _tune(
        self, tuner: Tuner, dialogues: Sequence[Dialogue], keep: Any, states: States, lr: float, config: Any, n: int
    ) -> None:
        model, how = self.work.model, replace(config, steps=n, lr=lr)
        tuned = tuner.tune(model, dialogues, how, keep=keep or None, states=states, progress=False)
        to_the_end(partial(tuned.undo, model))
        if tuned.interrupted:
            raise KeyboardInterrupt

    def cost(self, settings: StudySettings) -> StudyCost:
        """Seconds of each stage that is not done yet, with these settings in place of the study's own."""
        work, view = replace_settings(self.work, settings), ModelView(self.work.model)
        few = replace_settings(self.few, settings)
        n_pairs = int(settings.pairs.get("n", 64))
        contrast = settings.pairs.get("contrast", "")
        n_scored = n_pairs * (1 if isinstance(contrast, str) else len(contrast))
        few.heads = self.few.heads if work.heads or work.given else self._some_heads_of(settings, view)
        assert few.heads is not None
        n_sets = len(sets_of(view, few.heads, "curve", settings.n_sets, settings.seed))
        n_verified = min(settings.n_verify, n_pairs)
        found: dict[str, tuple[float, str]] = {}
        if (n := self._n_asked(work)) is not None:
            found["ask"] = self.first(n, BATCH / 2), f"{n:,} questions"
        words = self.reply(2 * n_pairs, BATCH) if settings.words == "found" else 0.0
        found["pairs"] = words, f"{n_pairs} pairs"
        found["scores"] = self.score(n_scored), f"{n_scored} pairs, {settings.ranking}"
        if RANKINGS[settings.ranking].null:
            found["null"] = self.score(n_scored), f"{n_scored} random pairs"
        found["patching"] = self.patch(n_pairs) * n_sets / 2, f"{n_sets} sets of heads, {n_pairs} pairs"
        if n_verified:
            found["knockout"] = self.knock(n_verified) * (2 + settings.n_sets) / 2, f"{n_verified} pairs"
        found["trials"] = self._trials(work, few)
        if stages.CHOSEN in settings.methods:
            found["adapter"] = self.steps[stages.CHOSEN](settings.tune.steps), "the chosen heads once more"
        found["report"] = PAGES + 2 * self.reply(8), "pages, and replies before and after"
        left = {name: each for name, each in found.items() if not work.path(name).exists()}
        return StudyCost({n: each[0] for n, each in left.items()}, {n: each[1] for n, each in left.items()})

    def _some_heads_of(self, settings: StudySettings, view: ModelView) -> HeadSet:
        return Speeds._some_heads(self, view) if settings == self.work.settings else self._with(settings)._some_heads(view)

    def _n_asked(self, work: Work) -> int | None:
        """How many questions are asked; None if the behaviour is not."""
        own: Any = work.behaviour
        if not work.settings.ask or not hasattr(own, "asked") or getattr(own, "own", None) is not None:
            return None
        most = work.settings.n_asked or math.inf
        return sum(int(min(most, n)) for n in Counter(q.split for q in own.questions).values())
