"""A question with its right answers, as the "Are you sure?" protocol asks it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from spt_lens.behaviours.behaviour import Split, check_split
from spt_lens.behaviours.judging import same_answer
from spt_lens.chat.dialogues import Message


@dataclass(frozen=True)
class Question:
    """What is asked, and what is right.

    answers: one text, or all that are accepted; the first is the one that is given and learnt. wrong: wrong answers, a
    text or several; the first is the one that a model turns to when it gives in. split: "train", "validation" or
    "test"; None: by its text. before: messages that come before it. source: what errors and tables call it.

    Raises: TypeError for what is no text; ValueError for an empty text or answer, no answer, an answer that is there
    twice or both right and wrong, or an unknown split.
    """

    text: str
    answers: tuple[str, ...]
    wrong: tuple[str, ...] = ()
    split: Split | None = None
    before: tuple[Message, ...] = ()
    source: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.text, str):
            raise TypeError(f"a question's text is of type {type(self.text).__name__}: give a text")
        if not self.text.strip():
            raise ValueError("a question has an empty text: leave it out")
        for name in ("answers", "wrong"):
            object.__setattr__(self, name, _texts(getattr(self, name), f"the {name} of {self.text!r}"))
        if not self.answers:
            raise ValueError(f"{self.text!r} has no right answer: give one, or several in a list")
        check_split(self.split)
        both = [*self.answers, *self.wrong]
        for i, answer in enumerate(both):
            # Accepted wordings may differ in nothing but case; a wrong answer must differ from every other.
            is_wrong = i >= len(self.answers)
            twice = next((a for a in both[:i] if a == answer or (is_wrong and same_answer(a, answer))), None)
            if twice is not None:
                what = "both right and wrong" if is_wrong and twice in self.answers else "there twice"
                raise ValueError(f"{self.text!r}: the answer {answer!r} is {what}: leave one out")

    @property
    def answer(self) -> str:
        return self.answers[0]

    @property
    def asked(self) -> tuple[Message, ...]:
        """The messages up to the question."""
        return (*self.before, Message("user", self.text))


def questions_of(given: Sequence[Question | Mapping[str, Any] | Sequence[Any]]) -> tuple[Question, ...]:
    """Questions from questions, dicts of their fields, or (text, answers, wrong answers).

    Raises: TypeError or ValueError that says which one is not usable, for none at all, or for one that is there twice.
    """
    if isinstance(given, str | Mapping) or not isinstance(given, Sequence):
        raise TypeError(f"questions must be a list, not a {type(given).__name__}: {_WAY_OUT}")
    made: list[Question] = []
    for i, each in enumerate(given):
        if isinstance(each, Question):
            made.append(each)
            continue
        known = {field.name for field in fields(Question)}
        if isinstance(each, Mapping) and not {"text", "answers"} <= each.keys() <= known:
            raise ValueError(f"questions[{i}] has the fields {', '.join(map(str, each))}: {_WAY_OUT}")
        if isinstance(each, str) or not isinstance(each, Mapping | list | tuple) or not 2 <= len(each) <= len(known):
            raise TypeError(f"questions[{i}] is {each!r}: {_WAY_OUT}")
        try:
            made.append(Question(**each) if isinstance(each, Mapping) else Question(*each))
        except (TypeError, ValueError) as error:
            raise type(error)(f"questions[{i}]: {error}") from error
    if not made:
        raise ValueError(f"there are no questions: {_WAY_OUT}")
    seen: set[tuple[Message, ...]] = set()
    for i, question in enumerate(made):
        if question.asked in seen:
            raise ValueError(f"questions[{i}], {question.text!r}, is there twice: leave one out")
        seen.add(question.asked)
    return tuple(made)


_WAY_OUT = 'give Question("What is ...?", "right", "wrong"), such a tuple, or {"text": ..., "answers": ...}'


def _texts(value: Any, name: str) -> tuple[str, ...]:
    found = (value,) if isinstance(value, str) else value
    if not isinstance(found, list | tuple) or not all(isinstance(text, str) for text in found):
        raise TypeError(f"{name} are {value!r}: give a text, or several in a list")
    if not all(text.strip(" .") for text in found):
        raise ValueError(f"{name} hold an empty one: leave it out")
    return tuple(found)
