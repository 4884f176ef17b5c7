"""What a study takes, measured on a few passes of the model at hand."""

from __future__ import annotations

import html
import tempfile
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
from tqdm.auto import tqdm

from spt_lens.behaviours.behaviour import SPLITS, Behaviour, Split
from spt_lens.behaviours.suite import Suite
from spt_lens.chat.dialogues import Dialogue
from spt_lens.chat.judge import final_turn
from spt_lens.evaluate.change import Reference, drift
from spt_lens.evaluate.sycophancy import BATCH
from spt_lens.evaluate.text import choice_units
from spt_lens.evaluate.trials import asked, read_trials
from spt_lens.heads import Head, HeadSet
from spt_lens.measure.sets import set_patching, sets_of
from spt_lens.measure.timed import Line, in_words
from spt_lens.model.held import to_the_end
from spt_lens.model.ranks import shows
from spt_lens.model.replies import replies
from spt_lens.model.states import States
from spt_lens.model.unhooked import unhooked
from spt_lens.model.view import ModelView
from spt_lens.study import data
from spt_lens.study.rankings import RANKINGS
from spt_lens.study.settings import StudySettings
from spt_lens.study.stages import n_chosen
from spt_lens.study.work import CHOSEN, RUNS, Work
from spt_lens.tune.tuner import Tuner
from spt_lens.view.tables import table_html

SAMPLE = 12  # questions of each split that are asked
PAIRS, STEPS = (2, 4), (1, 3)  # few and many of what is measured
HOOKED = 1.5  # a reply through hooks, by one without
PAGES = 20.0  # seconds for the report, the picker's page and what lies between stages


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
        """stage, takes (in words), of."""
        return pd.DataFrame(
            [{"stage": n, "takes": in_words(s), "of": self.notes.get(n, "")} for n, s in self.seconds.items()]
        )

    def __str__(self) -> str:
        return f"about {in_words(self.total)}: " + ", ".join(f"{n} {in_words(s)}" for n, s in self.seconds.items())

    def _repr_html_(self) -> str:
        return f"<p>About {html.escape(in_words(self.total))}.</p>{table_html(self.table)}"


class Speeds:
    """What one of everything takes, measured once; `cost` then knows what any settings take.

    The model is left as it was. Raises what the study itself would: of the behaviour, or a model that can't be tuned.
    """

    def __init__(self, work: Work, progress: bool = True) -> None:
        self.work, settings, model = work, work.settings, work.model
        reads = unhooked(ModelView(model))
        bar = tqdm(total=3 + len(settings.methods), desc="what it costs", unit="part", disable=not shows(progress))
        # Of few pairs and few questions, which these are.
        with bar, tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(action="ignore"):
            self.few = Work(model, work.behaviour, Path(folder), settings, work.given)  # of a sample of the questions
            self.few.asked = few = work.asked or self._asked()
            self.few.heads = heads = self._heads(settings)
            bar.update()
            fewer = {name: min(PAIRS[1], n) for name, n in settings.pairs.items() if name == "n" and n}
            of_few = replace(settings, pairs={**settings.pairs, **fewer})
            pairs, ranking = data.contrasts(few, model, of_few)[0], RANKINGS[settings.ranking]
            dialogues, keep, states = data.training_of(few, settings), data.kept_texts(self.few), States(model)
            self.score = Line.of(lambda n: ranking.scores(model, pairs[:n], dialogues, progress=False), *PAIRS)
            one: Any = {"n_random": 0, "progress": False}  # two sets: none, and all of them
            self.patch = Line.of(lambda n: set_patching(model, pairs[:n], heads, **one), *PAIRS)
            bar.update()
            suite = self._suite("validation", settings)
            replied = _replied(suite)
            self.first = Line.over(lambda some: replies(reads, some, suite.first_tokens), _questions(replied))
            self.reply = Line.over(lambda some: replies(reads, some, suite.judge.max_new_tokens), replied)
            self.text = Line.over(lambda some: drift(reads, some, Reference.of(reads, some)), _texts(suite))
            self.choice = Line.over(partial(choice_units, reads), suite.choices)
            bar.update()
            self.steps: dict[str, Line] = {}
            for method in data.contenders(self.few):
                run = partial(self._tune, method.draws[0], dialogues, keep, states)
                if "heads" in method.name:  # hidden states that all runs share are made once
                    run(STEPS[1])
                self.steps[method.name] = Line.of(run, *STEPS)
                bar.update()

    def _asked(self) -> Behaviour:
        """The behaviour over a sample of the model's own answers; where none is right, over the answers given."""
        for n in (SAMPLE, 4 * SAMPLE):
            self.few.settings = replace(self.work.settings, n_asked=n)
            try:
                made = data.own_answers(self.work.behaviour, self.few, self.few.out / f"{n}.json", SPLITS, False)
                made.training(), made.suite("validation"), made.suite("test")
            except ValueError as error:
                why = error
                continue
            return made
        try:
            self.work.behaviour.training()
        except ValueError:  # without wrong answers, which a model that was asked has of its own
            raise why from None
        return self.work.behaviour

    def _heads(self, settings: StudySettings) -> HeadSet:
        """The study's, or as many as the rule chooses, over all its layers: the lower, the longer a step takes."""
        view = ModelView(self.work.model)
        first, last = settings.layers or (0, view.n_layers - 1)
        places = [Head(layer, head) for head in range(view.n_heads) for layer in range(first, last + 1)]
        n = n_chosen(settings, view.n_layers * view.n_heads)
        return self.work.heads or self.work.given or HeadSet(tuple(places[:n]))

    def _tune(self, tuner: Tuner, dialogues: Any, keep: Any, states: States, n: int) -> None:
        # At a rate at which nothing diverges: what a step takes does not depend on it.
        model, config = self.work.model, replace(self.work.settings.tune, steps=n, lr=1e-6)
        try:
            tuned = tuner.tune(model, dialogues, config, keep=keep or None, states=states, progress=False)
        except FloatingPointError:  # which ends a trial, and no study
            return
        to_the_end(tuned.undo, model)
        if tuned.interrupted:
            raise KeyboardInterrupt

    def _suite(self, split: Split, settings: StudySettings) -> Suite:
        assert self.few.asked is not None
        self.few.settings = settings
        return data.with_more(self.few.asked.suite(split, **getattr(settings, split)), self.few, split)

    def cost(self, settings: StudySettings) -> StudyCost:
        """Seconds of each stage that is not done yet, with these settings in place of the study's own."""
        work, n_pairs = self.work, int(settings.pairs.get("n") or 64)
        n_scored = n_pairs * (2 if isinstance(settings.pairs.get("contrast"), list | tuple) else 1)
        n_verified, found = min(settings.n_verify, n_pairs), {}
        self.few.settings, self.few.heads = settings, self._heads(settings)
        n_sets = len(sets_of(ModelView(work.model), self.few.heads, "curve", settings.n_sets, settings.seed))
        whole: Any = getattr(work.behaviour, "of_split", None)
        if whole and data.can_ask(work.behaviour, settings) and not getattr(work.behaviour, "own", None):
            n = sum(min(len(whole(split)), settings.n_asked or 10**9) for split in SPLITS)
            found["ask"] = self.first(n, 64), f"{n:,} questions"
        found["pairs"] = self.reply(2 * n_pairs * (settings.words == "found"), BATCH), f"{n_pairs} pairs"
        found["scores"] = self.score(n_scored), f"{n_scored} pairs, {settings.ranking}"
        if RANKINGS[settings.ranking].null:
            found["null"] = self.score(n_scored), f"{n_scored} random pairs"
        found["patching"] = self.patch(n_pairs) * n_sets / 2, f"{n_sets} sets of heads, {n_pairs} pairs"
        if n_verified:
            n = 2 + settings.n_sets  # a pass of both runs, and the replies
            took = n * (self.patch(n_verified) / 2 + HOOKED * self.reply(n_verified))
            found["knockout"] = took, f"{n} sets of heads, {n_verified} pairs"
        found["trials"] = self._trials(settings)
        if CHOSEN in settings.methods:
            found["adapter"] = self.steps[CHOSEN](settings.tune.steps), "the chosen heads once more"
        found["report"] = PAGES + 2 * self.reply(8), "pages, and some replies before and after"
        left = {name: each for name, each in found.items() if not work.path(name).exists()}
        return StudyCost({n: seconds for n, (seconds, _) in left.items()}, {n: of for n, (_, of) in left.items()})

    def _trials(self, settings: StudySettings) -> tuple[float, str]:
        methods = data.contenders(self.few)
        counts = Counter(spec.method for spec in asked(methods, settings.seeds))
        chosen = Counter({method.name: counts[method.name] // len(method.rates) for method in methods})
        confirmed = Counter({m.name: len(settings.confirm) * len(m.draws) for m in methods if m.seeds is None})
        counts, chosen = counts + confirmed, chosen + confirmed
        validation, test = (self._judged(split, settings) for split in ("validation", "test"))
        n, others = counts.total(), 1 + chosen.total()  # the untuned model's among them
        trained = counts if settings.test_each else counts + chosen  # those of the chosen rates are trained again
        took = sum(trained[name] * self.steps[name](settings.tune.steps) for name in chosen) + n * validation
        took += test * ((n if settings.test_each else others) + len(self.work.checks) * others)
        done = min(n, len(read_trials(self.work.out / RUNS)))
        said = f"{n} of {settings.tune.steps} steps, {others - 1} of them at chosen rates on test"
        return took * (1 - done / n), said + (f"; {done} are done" if done else "")

    def _judged(self, split: Split, settings: StudySettings) -> float:
        """Seconds of one evaluation on a split."""
        suite, turns = self._suite(split, settings), 1
        own, whole = (getattr(each, "of_split", None) for each in (self.few.asked, self.work.behaviour))
        more = min(len(whole(split)), settings.n_asked or 10**9) / len(own(split)) if own and whole else 1.0
        longer = (
            1.0 if getattr(settings, split).get("n") else more
        )  # a sample's suite is smaller, if nobody says how large
        n_first = min(len(suite.right) * longer, len(_questions([case.unanswered for case in suite.right])) * more)
        turns += bool(final_turn(suite.judge))
        took = self.first(n_first, BATCH) + turns * self.reply(len(_replied(suite)) * longer, BATCH)
        return took + self.text(len(_texts(suite)) * more + len(suite.prompts)) + self.choice(len(suite.choices))


def _replied(suite: Suite) -> list[Dialogue]:
    return [case.unanswered for group in (suite.right, suite.wrong, *suite.groups.values()) for case in group]


def _questions(cases: Sequence[Dialogue]) -> list[Dialogue]:
    """The different questions, of which the last two turns are the first answer and the challenge."""
    return [Dialogue(turns) for turns in dict.fromkeys(case.messages[:-2] or case.messages for case in cases)]


def _texts(suite: Suite) -> list[Dialogue]:
    return [*suite.texts, *(text for group in suite.abilities.values() for text in group)]
