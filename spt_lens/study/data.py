"""What a study measures on, tunes on and judges by, as its settings say: made anew each time, from the same."""

from __future__ import annotations

import inspect
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from spt_lens.behaviours.are_you_sure import AreYouSure
from spt_lens.behaviours.asking import Answers, ask
from spt_lens.behaviours.bank import question_bank
from spt_lens.behaviours.behaviour import Behaviour, Split
from spt_lens.behaviours.ordinary import choices_of, ordinary_prompts
from spt_lens.behaviours.suite import Suite
from spt_lens.chat.dialogues import Dialogue
from spt_lens.data.pairs import ContrastPairs
from spt_lens.evaluate.methods import named
from spt_lens.evaluate.trials import Contender
from spt_lens.model.view import Model, ModelView
from spt_lens.study.folder import loaded
from spt_lens.study.settings import StudySettings
from spt_lens.study.work import Work


def can_ask(behaviour: Behaviour, settings: StudySettings) -> bool:
    """Whether the model is asked first: the settings want it, and `asked` goes on from a file. Another method of that
    name, such as `Feedback.asked`, is the behaviour's own affair."""
    asked = getattr(behaviour, "asked", None)
    return settings.ask and callable(asked) and {"path", "progress"} <= inspect.signature(asked).parameters.keys()


def own_answers(
    behaviour: Behaviour, work: Work, path: Path, splits: Sequence[Split], progress: bool = True
) -> Behaviour:
    """The behaviour over the model's own first answers to the questions of some splits; of one that can't be asked, or
    that is not to be, itself. Its pairs are read by its own words."""
    if not can_ask(behaviour, work.settings):
        return behaviour
    asked: Any = getattr(behaviour, "asked")  # noqa: B009
    words = {name: value for name, value in work.settings.replies.items() if name == "max_new_tokens"}
    if not isinstance(behaviour, AreYouSure):  # of one's own: it knows what to ask
        own_kind: Behaviour = asked(work.model, path=path, progress=progress, **words)
        return own_kind
    own, length = behaviour.own, words.pop("max_new_tokens", 32)
    if path.exists():
        loaded(path, Answers.load)
    if own is None:
        draw = f"asked {work.settings.seed}"
        questions = [
            replace(question, split=split)
            for split in splits
            for question in some(behaviour.of_split(split), work.settings.n_asked, draw)
        ]
        how: Any = {"how": behaviour.how, "judge": behaviour.judge, "path": path, "progress": progress}
        own = ask(work.model, questions, max_new_tokens=length, **how)
    elif not path.exists():
        own.save(path)
    return asked(own, **words)


def training_of(behaviour: Behaviour, settings: StudySettings) -> list[Dialogue]:
    """What is tuned on, with replies in the words of the settings."""
    words = {name: value for name, value in settings.replies.items() if name != "max_new_tokens"}
    if words and isinstance(behaviour, AreYouSure) and behaviour.own is not None:
        behaviour = behaviour.asked(behaviour.own, **words)
    return behaviour.training(**settings.training)


def some(items: Sequence[Any], n: int | None, draw: str) -> list[Any]:
    """At most n of the items, in their order."""
    if n is None or n >= len(items):
        return list(items)
    return [items[i] for i in sorted(random.Random(draw).sample(range(len(items)), n))]


def contrasts(behaviour: Behaviour, model: Model, settings: StudySettings) -> list[ContrastPairs]:
    """The pairs of each contrast that the settings name."""
    words = dict(settings.pairs)
    named = words.pop("contrast", None)
    each = named if isinstance(named, list | tuple) else [named]
    return [behaviour.pairs(model, **words, **({} if name is None else {"contrast": name})) for name in each]


def contenders(work: Work) -> list[Contender]:
    """The methods of the settings, with their rates."""
    assert work.heads is not None
    heads, settings, view = work.heads, work.settings, ModelView(work.model)
    draws = range(settings.seed, settings.seed + settings.n_random)
    return [
        named(name, view, heads, settings.rates.get(name, ()), draws, settings.seeds[:1]) for name in settings.methods
    ]


def suites_of(work: Work) -> dict[str, Suite]:
    """What trials are judged by: "validation", "test", and that of every external behaviour by its name."""
    assert work.asked is not None
    settings = work.settings
    suites = {
        "validation": with_more(work.asked.suite("validation", **settings.validation), work, "validation"),
        "test": with_more(work.asked.suite("test", **settings.test), work, "test"),
    }
    for name, check in work.asked_checks.items():
        words = dict(settings.test) if isinstance(check, type(work.behaviour)) else {}
        if isinstance(check, AreYouSure) and words.get("n"):  # each of its questions once
            words["n"] = min(words["n"], len(check.pools("test")["right"]))
        suites[name] = replace(made := check.suite("test", **words), texts=made.texts[: settings.n_texts])
    return suites


def with_more(suite: Suite, work: Work, split: Any) -> Suite:
    """A suite with ordinary prompts and four-way choices where it has none, and with no more texts than wanted."""
    settings = work.settings
    more: dict[str, Any] = {"texts": suite.texts[: settings.n_texts]}
    if settings.n_prompts and not suite.prompts:
        more["prompts"] = tuple(ordinary_prompts(split)[: settings.n_prompts])
    if settings.n_choices and not suite.choices:
        own: Any = work.behaviour
        questions = own.of_split(split) if isinstance(own, AreYouSure) else []
        if not any(question.wrong for question in questions):
            questions = [question for question in question_bank() if question.split == split]
        n = settings.n_choices if split == "test" else max(1, settings.n_choices // 4)  # every trial pays for these
        more["choices"] = choices_of(questions, n, settings.seed)
    return replace(suite, **more)


def kept_texts(work: Work) -> list[Dialogue]:
    """Ordinary dialogues for the KL term."""
    assert work.asked is not None
    settings = work.settings
    texts = work.asked.suite("train").texts if settings.keep else ()
    if settings.keep and not texts:
        raise ValueError(f"keep={settings.keep}, and the suite of the split 'train' has no texts: leave keep out")
    return some(texts, settings.keep, f"keep {settings.seed}")
