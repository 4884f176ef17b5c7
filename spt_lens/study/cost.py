"""What a study takes, measured on a few passes of the model at hand; and the largest one within a budget."""

from __future__ import annotations

import html
import inspect
import math
import re
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Self

import pandas as pd
from tqdm.auto import tqdm

from spt_lens.behaviours.behaviour import SPLITS, Behaviour, Split
from spt_lens.behaviours.suite import Suite
from spt_lens.chat.dialogues import Dialogue
from spt_lens.chat.judge import final_turn
from spt_lens.checking import number
from spt_lens.evaluate.change import Reference, drift
from spt_lens.evaluate.sycophancy import BATCH
from spt_lens.evaluate.text import choice_units
from spt_lens.evaluate.trials import Contender, asked, read_trials
from spt_lens.heads import Head, HeadSet
from spt_lens.measure.sets import set_patching, sets_of
from spt_lens.model.kept import to_the_end
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

SAMPLE = 12  # questions of each split that are asked
MANY = 24  # of what is measured at once
PAIRS = (2, 4)
STEPS = (1, 3)
HOOKED = 1.5  # a reply through hooks, by one without
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
    """The largest settings within a budget, what they take, and what was left out for it, in the ladder's order."""

    settings: StudySettings
    cost: StudyCost
    left_out: tuple[str, ...] = ()


def seconds_of(text: str) -> float:
    """What "90s", "30min", "2h" or "1.5 h" is in seconds; a number alone is seconds. Raises ValueError."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(s|sec|m|min|h|d)?\s*", text)
    if found is None or not float(found[1]):
        raise ValueError(f"a budget of {text!r} is no time: give one such as 30min or 2h")
    return float(found[1]) * {"m": 60, "h": 3600, "d": 86400}.get((found[2] or "s")[0], 1)


def in_words(seconds: float) -> str:
    """ "45 s", "12 min", "2.3 h"."""
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


def study_cost(work: Work, progress: bool = True) -> StudyCost:
    """Seconds of each stage that is not done yet. The model is left as it was. Raises as `Speeds`."""
    return Speeds(work, progress).cost(work.settings)


class Speeds:
    """What one of everything takes, measured once; `cost` then knows what any settings take.

    The model is left as it was. Raises what the study itself would: of the behaviour, or a model that can't be tuned.
    """

    def __init__(self, work: Work, progress: bool = True) -> None:
        self.work, settings, model = work, work.settings, work.model
        view = ModelView(model)
        reads = unhooked(view)
        bar = tqdm(total=4 + len(settings.methods), desc="what it costs", unit="part", disable=not shows(progress))
        # Of few pairs and few questions, which these are.
        with bar, tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(action="ignore"):
            self.few = Work(model, work.behaviour, Path(folder), settings, work.given)  # of a sample of the questions
            self.few.asked = work.asked or self._asked()
            self.few.heads = heads = self._heads(settings)
            bar.update()
            n_pairs = {**settings.pairs, "n": PAIRS[1]}
            pairs = data.contrasts(self.few.asked, model, replace(settings, pairs=n_pairs))[0]
            ranking, dialogues = RANKINGS[settings.ranking], self.few.asked.training(**settings.training)
            self.score = Line.of(lambda n: ranking.scores(model, pairs[:n], dialogues, progress=False), *PAIRS)
            one: Any = {"n_random": 0, "progress": False}  # two sets: none, and all of them
            self.patch = Line.of(lambda n: set_patching(model, pairs[:n], heads, **one), *PAIRS)
            bar.update()
            suite = self._suite("validation", settings)
            asked = _replied(suite)
            self.first = _line(lambda some: replies(reads, some, suite.first_tokens), _questions(asked))
            self.reply = _line(lambda some: replies(reads, some, suite.judge.max_new_tokens), asked)
            bar.update()
            self.text = _line(lambda some: drift(reads, some, Reference.of(reads, some)), _texts(suite))
            self.choice = _line(partial(choice_units, reads), suite.choices)
            bar.update()
            self.steps: dict[str, Line] = {}
            states, keep = States(view), data.kept_texts(self.few)
            for method in data.contenders(self.few):
                run = partial(self._tune, method.draws[0], method.rates[0], dialogues, keep, states)
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
            except ValueError:
                continue
            return made
        return self.work.behaviour

    def _heads(self, settings: StudySettings) -> HeadSet:
        """The study's, or as many as the rule chooses, over all its layers: the lower, the longer a step takes."""
        view = ModelView(self.work.model)
        first, last = settings.layers or (0, view.n_layers - 1)
        places = [
            Head(layer, i) for i in range(view.n_heads) for layer in range(first, min(last, view.n_layers - 1) + 1)
        ]
        n = n_chosen(settings, view.n_layers * view.n_heads)
        return self.work.heads or self.work.given or HeadSet(tuple(places[:n]))

    def _tune(self, tuner: Tuner, lr: float, dialogues: Any, keep: Any, states: States, n: int) -> None:
        model, config = self.work.model, replace(self.work.settings.tune, steps=n, lr=lr)
        tuned = tuner.tune(model, dialogues, config, keep=keep or None, states=states, progress=False)
        to_the_end(partial(tuned.undo, model))
        if tuned.interrupted:
            raise KeyboardInterrupt

    def _suite(self, split: Split, settings: StudySettings) -> Suite:
        assert self.few.asked is not None
        self.few.settings = settings
        return data.with_more(self.few.asked.suite(split, **getattr(settings, split)), self.few, split)

    def cost(self, settings: StudySettings) -> StudyCost:
        """Seconds of each stage that is not done yet, with these settings in place of the study's own."""
        work, n_pairs = self.work, int(settings.pairs.get("n", 64))
        contrast = settings.pairs.get("contrast", "")
        n_scored = n_pairs * (1 if isinstance(contrast, str) else len(contrast))
        self.few.settings, self.few.heads = settings, self._heads(settings)
        n_sets = len(sets_of(ModelView(work.model), self.few.heads, "curve", settings.n_sets, settings.seed))
        n_verified, found = min(settings.n_verify, n_pairs), {}
        own: Any = work.behaviour
        if settings.ask and hasattr(own, "asked") and hasattr(own, "of_split") and getattr(own, "own", None) is None:
            n = sum(min(len(own.of_split(split)), settings.n_asked or 10**9) for split in SPLITS)
            found["ask"] = self.first(n, 64), f"{n:,} questions"
        words = self.reply(2 * n_pairs, BATCH) if settings.words == "found" else 0.0
        found["pairs"] = words, f"{n_pairs} pairs"
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
        chosen = {method.name: counts[method.name] // len(method.rates) for method in methods}
        steps = {name: line(settings.tune.steps) for name, line in self.steps.items()}
        validation, test = (self._judged(split, settings) for split in ("validation", "test"))
        n, n_chosen, checks = counts.total(), sum(chosen.values()), len(self.work.checks)
        took = sum(counts[name] * steps[name] for name in chosen) + n * validation
        if settings.test_each:
            took += n * test
        else:  # those of the chosen rates are trained again
            took += sum(chosen[name] * steps[name] for name in chosen) + (n_chosen + 1) * test
        took += checks * (n_chosen + 1) * test
        done = min(n, len(read_trials(self.work.out / RUNS)))
        said = f"{n} of {settings.tune.steps} steps, {n_chosen} of them at chosen rates on test"
        return took * (1 - done / n), said + (f"; {done} are done" if done else "")

    def _judged(self, split: Split, settings: StudySettings) -> float:
        """Seconds of one evaluation on a split."""
        suite, turns = self._suite(split, settings), 1
        own, whole = (getattr(each, "of_split", None) for each in (self.few.asked, self.work.behaviour))
        more = min(len(whole(split)), settings.n_asked or 10**9) / len(own(split)) if own and whole else 1.0
        longer = (
            1.0 if "n" in getattr(settings, split) else more
        )  # a sample's suite is smaller, if nobody says how large
        n_first = min(len(suite.right) * longer, len(_questions([case.unanswered for case in suite.right])) * more)
        turns += bool(final_turn(suite.judge))
        took = self.first(n_first, BATCH) + turns * self.reply(len(_replied(suite)) * longer, BATCH)
        return took + self.text(len(_texts(suite)) * more + len(suite.prompts)) + self.choice(len(suite.choices))


def _replied(suite: Suite) -> list[Dialogue]:
    cases = (suite.right, suite.wrong, *suite.groups.values())
    return [case.unanswered for group in cases for case in group]


def _questions(cases: Sequence[Dialogue]) -> list[Dialogue]:
    """The different questions, of which the last two turns are the first answer and the challenge."""
    return [Dialogue(turns) for turns in dict.fromkeys(case.messages[:-2] or case.messages for case in cases)]


def _texts(suite: Suite) -> list[Dialogue]:
    return [*suite.texts, *(text for group in suite.abilities.values() for text in group)]


def _line(run: Callable[[Sequence[Any]], Any], items: Sequence[Any]) -> Line:
    many = min(MANY, len(items))
    return Line.of(lambda n: run(items[:n]), max(1, many // 4), many) if many else Line(0.0, 0.0)


def _cases(settings: StudySettings, split: Split, behaviour: Behaviour, n: int) -> StudySettings:
    """At most n cases of a kind, where the behaviour's suites can be told how many."""
    given: Any = getattr(settings, split)
    if "n" not in inspect.signature(behaviour.suite).parameters or given.get("n", math.inf) <= n:
        return settings
    controls = {"n_controls": min(given["n_controls"], n // 2)} if "n_controls" in given else {}
    more: Any = {split: {**given, "n": n, **controls}}
    return replace(settings, **more)


def _rates(settings: StudySettings, methods: Sequence[Contender], n: int) -> StudySettings:
    """At most n learning rates a method, those in the middle."""
    rates = {method.name: tuple(sorted(method.rates)) for method in methods if method.name in settings.methods}
    return replace(settings, rates={m: r[(len(r) - n + 1) // 2 :][:n] if len(r) > n else r for m, r in rates.items()})


def _pairs(settings: StudySettings, n: int) -> StudySettings:
    return replace(settings, pairs={**settings.pairs, "n": min(n, settings.pairs.get("n", 64))})


def fit(work: Work, seconds: float, progress: bool = True, speeds: Speeds | None = None) -> Fitted:
    """The largest settings within a budget: the study's own, or the first rung of a ladder that fits, with all above.

    The ladder leaves out, in this order: trials on test but those of the chosen rates; all but three draws of random
    heads; all but three learning rates a method; asking more than 300 questions a split; all but 100 validation cases
    of a kind; all but one seed; LoRA; test cases beyond 200; all but two rates; half of the steps; pairs beyond 24; all
    but one draw; cases beyond 50; questions beyond 100; all but 20 steps. The chosen heads, full fine-tuning and random
    heads are in every one.

    speeds: measured before. Raises: ValueError if nothing fits, with the least that would do.
    """
    number(seconds, "seconds", above=0)
    speeds = Speeds(work, progress) if speeds is None else speeds
    last, kept = work.settings, work.behaviour
    methods = data.contenders(speeds.few)
    rungs: list[tuple[str, Callable[[StudySettings], StudySettings]]] = [
        ("trials on test other than those of the chosen rates", lambda s: replace(s, test_each=False)),
        ("draws of random heads beyond 3", lambda s: replace(s, n_random=min(3, s.n_random))),
        ("learning rates beyond 3 a method", lambda s: _rates(s, methods, 3)),
        ("questions beyond 300 a split", lambda s: replace(s, n_asked=min(300, s.n_asked or 300))),
        ("validation cases beyond 100 of a kind", lambda s: _cases(s, "validation", kept, 100)),
        ("tuning seeds beyond the first", lambda s: replace(s, seeds=s.seeds[:1])),
        ("LoRA", _core),
        ("test cases beyond 200 of a kind", lambda s: _cases(s, "test", kept, 200)),
        ("learning rates beyond 2 a method", lambda s: _rates(s, methods, 2)),
        ("half of the steps", lambda s: replace(s, tune=replace(s.tune, steps=max(1, s.tune.steps // 2)))),
        ("pairs beyond 24", lambda s: _pairs(s, 24)),
        ("draws of random heads beyond 1", lambda s: replace(s, n_random=min(1, s.n_random))),
        ("cases beyond 50 of a kind", lambda s: _cases(_cases(s, "test", kept, 50), "validation", kept, 50)),
        ("questions beyond 100 a split", lambda s: replace(s, n_asked=min(100, s.n_asked or 100))),
        ("steps beyond 20", lambda s: replace(s, tune=replace(s.tune, steps=min(20, s.tune.steps)))),
    ]
    left_out: list[str] = []
    cost = speeds.cost(last)
    for name, smaller in rungs:
        if cost.total <= seconds:
            return Fitted(last, cost, tuple(left_out))
        before, last = last, smaller(last)
        if last != before and (less := speeds.cost(last)).total < cost.total:
            cost, left_out = less, [*left_out, name]
        else:
            last = before
    if cost.total <= seconds:
        return Fitted(last, cost, tuple(left_out))
    raise ValueError(
        f"nothing fits into {in_words(seconds)}: the least study of {ModelView(work.model).name} takes {cost}. Give it "
        f"{in_words(cost.total * 1.1)}, a smaller model, or settings with less in them"
    )


def _core(settings: StudySettings) -> StudySettings:
    kept = tuple(method for method in settings.methods if method in CORE) or settings.methods
    return replace(settings, methods=kept, rates={m: r for m, r in settings.rates.items() if m in kept})
