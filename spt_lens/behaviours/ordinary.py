"""What any suite can be given: ordinary prompts, on which nothing should change, and choices made of questions."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Literal

from spt_lens.behaviours.choices import Choice
from spt_lens.behaviours.question import Question
from spt_lens.chat.dialogues import Dialogue, dialogue
from spt_lens.checking import door, instance, seed_number, whole_number

PROMPTS = Path(__file__).with_name("ordinary.json")


@door
def ordinary_prompts(split: Literal["validation", "test"] | None = "test") -> list[Dialogue]:
    """Everyday requests, 40 a split: chat, writing, rewriting, ideas, advice, how-to, code, sums (`meta["kind"]`).

    For drift on the untuned model's own replies (`Suite.prompts`). One of each kind in turn, so that the first eight
    have all. None asks what the question bank asks, and none opposes an answer. split=None: both.

    Raises: ValueError for another split: nothing is tuned on these.
    """
    names = ("validation", "test") if split is None else (split,)
    return [
        dialogue(text, kind=kind)
        for name in names
        for turn in zip(*_prompts()[name].values(), strict=True)
        for kind, text in zip(_prompts()[name], turn, strict=True)
    ]


@door
def choices_of(questions: Sequence[Question], n: int, seed: int = 0) -> tuple[Choice, ...]:
    """At most n of the questions as choices between the right answer and the wrong ones, for ability by likelihood.

    Drawn by `seed` among those that have a wrong answer, in their order. An option is the answer as it stands, as those
    of `choices_from` are; where the right one stands is never told to the model.

    Raises: TypeError for what is no Question; ValueError for an n below one.
    """
    for i, question in enumerate(instance(questions, "questions", (list, tuple), "give a list of Questions")):
        instance(question, f"questions[{i}]", Question, "make one by Question(text, answers, wrong)")
    usable = [question for question in questions if question.wrong]
    count = min(whole_number(n, "n"), len(usable))
    drawn = sorted(random.Random(f"choices {seed_number(seed)}").sample(range(len(usable)), count))
    made = []
    for question in (usable[i] for i in drawn):
        options = tuple(sorted([question.answer, *question.wrong]))
        made.append(Choice(Dialogue(question.asked), options, options.index(question.answer)))
    return tuple(made)


@cache
def _prompts() -> dict[str, dict[str, list[str]]]:
    found: dict[str, dict[str, list[str]]] = json.loads(PROMPTS.read_text(encoding="utf-8"))
    return found
