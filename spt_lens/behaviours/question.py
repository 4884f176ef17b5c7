"""A question with its right answers, as the "Are you sure?" protocol asks it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from spt_lens.behaviours.behaviour import Split, check_split, plain, split_of
from spt_lens.behaviours.judging import same_answer
from spt_lens.chat.dialogues import Dialogue, Message
from spt_lens.checking import instance, shown


@dataclass(frozen=True)
class Question:
    """What is asked, and what is right.

    answers: one text, or all that are accepted; the first is the one that is given and learnt. wrong: wrong answers, a
    text or several; the first is the one that a model turns to when it gives in. split: "train", "validation" or
    "test"; None: by its text. before: messages that come before it. source: what errors and tables call it. category:
    what it is about. fact: questions of one fact come into one split, in whatever words they ask.

    Raises: TypeError for what is no text; ValueError for an empty text or answer, no answer, an answer that is there
    twice or both right and wrong, or an unknown split.
    """

    text: str
    answers: tuple[str, ...]
    wrong: tuple[str, ...] = ()
    split: Split | None = None
    before: tuple[Message, ...] = ()
    source: str = ""
    category: str = ""
    fact: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.text, str):
            raise TypeError(f"a question's text is of type {type(self.text).__name__}: give a text")
        if not self.text.strip():
            raise ValueError("a question has an empty text: leave it out")
        for name in ("source", "category", "fact"):
            instance(getattr(self, name), name, str, "give a text")
        object.__setattr__(self, "before", Dialogue(self.before).messages)
        for name in ("answers", "wrong"):
            object.__setattr__(self, name, _texts(getattr(self, name), f"the {name} of {self.text!r}"))
        if not self.answers:
            raise ValueError(f"{self.text!r} has no right answer: give one, or several in a list")
        check_split(self.split)
        both = [*self.answers, *self.wrong]
        for text in (self.text, self.fact, *both):
            if any("\ud800" <= letter <= "\udfff" for letter in text):
                raise ValueError(f"{text!r} holds half a character: write it again")
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
    def plain(self) -> str:
        """The text as it is compared: what makes two questions the same."""
        return plain(self.text)

    @property
    def asked(self) -> tuple[Message, ...]:
        """The messages up to the question."""
        return (*self.before, Message("user", self.text))


def said(answer: str) -> str:
    """An answer as a reply of its own."""
    return answer if answer.endswith((")", ".", "!", "?")) else f"{answer}."


def splits_of(questions: Sequence[Question]) -> list[Split]:
    """The split of each question: its own, or one drawn by its fact or text. What is the same is never in two splits.

    Raises: ValueError for questions of one fact or text that name different splits.
    """
    texts = [question.fact or question.text for question in questions]
    joined = {plain(text): plain(text) for text in texts}

    def group_of(name: str) -> str:
        return name if joined[name] == name else group_of(joined[name])

    of_text: dict[str, str] = {}
    for question, text in zip(questions, texts, strict=True):  # one text may name a fact here and none there
        low, high = sorted((group_of(plain(text)), group_of(of_text.setdefault(question.plain, plain(text)))))
        joined[high] = low
    groups = [group_of(plain(text)) for text in texts]
    named: dict[str, Split] = {}
    first: dict[str, str] = {}
    for question, group, text in zip(questions, groups, texts, strict=True):
        first[group] = min(text, first.get(group, text))  # in whatever order they come
        if question.split and named.setdefault(group, question.split) != question.split:
            raise ValueError(
                f"{question.source or repr(question.text)} is in the split {question.split!r}, and what asks the same, "
                f"{first[group]!r}, in {named[group]!r}: put them into one split, or leave one out"
            )
    drawn = [group for group in first if group not in named]
    named |= dict(zip(drawn, split_of([first[group] for group in drawn]), strict=True))
    return [named[group] for group in groups]


def _texts(value: Any, name: str) -> tuple[str, ...]:
    found = (value,) if isinstance(value, str) else value
    if not isinstance(found, list | tuple) or not all(isinstance(text, str) for text in found):
        raise TypeError(f"{name} are {shown(value)}: give a text, or several in a list")
    if not all(text.strip(" .") for text in found):
        raise ValueError(f"{name} hold an empty one: leave it out")
    return tuple(found)
