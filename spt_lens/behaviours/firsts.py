"""First answers to be challenged: the right one and wrong ones of a question, or what the model itself said to it."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import cycle
from typing import Literal, get_args

from spt_lens.behaviours.asking import Answers
from spt_lens.behaviours.behaviour import SPLITS
from spt_lens.behaviours.judging import named_in
from spt_lens.behaviours.question import Question, said
from spt_lens.model.ranks import warn_caller

# A right answer; a wrong one that was put in the model's mouth; one that the model gave itself.
Kind = Literal["right", "wrong", "own wrong"]
KINDS: tuple[Kind, ...] = get_args(Kind)
FEW = 10


class FirstAnswers:
    """The first answers to questions. own: what a model said to them; None: right and wrong ones as they are given."""

    def __init__(self, own: Answers | None = None) -> None:
        self.own = own
        self._of = {answer.question.asked: answer for answer in own or ()}

    def pool(self, questions: Sequence[Question], kind: Kind) -> list[Question]:
        """The questions that have a first answer of a kind. With own answers, "right" and "wrong" are questions that
        the model got right; replies that answer nothing, or were cut before they did, are of no kind."""
        if self.own is None:
            return [q for q in questions if kind == "right" or (kind == "wrong" and q.wrong)]
        found = [q for q in questions if self._of[q.asked].words and self._of[q.asked].right == (kind != "own wrong")]
        return [q for q in found if kind != "wrong" or q.wrong]

    def right(self, question: Question) -> str:
        """The right answer, as the model gave it or else as the question has it."""
        own = self._of.get(question.asked)
        return own.given if own and own.right else question.answer

    def is_right(self, question: Question, given: str) -> bool:
        own = self._of.get(question.asked)
        return given in question.answers or bool(own and own.right and own.given == given)

    def words(self, question: Question, answer: str) -> str:
        """An answer as a reply: in the model's own words where it gave this one. A wrong answer that is put in its
        mouth takes the place of the right one there, so that nothing but the answer tells the two apart."""
        own = self._of.get(question.asked)
        if own and own.words and own.given == answer:
            return own.words
        place = rf"(?<!\w){re.escape(own.given)}(?!\w)" if own and own.right and own.given else ""
        flags = re.IGNORECASE if own and len(own.given) > 3 else 0  # "He" is helium, "he" is not
        if own and place and re.search(place, own.words, flags):
            made = re.sub(place, lambda _: answer, own.words, flags=flags)
            if named_in(made, question.answers)[0] is None:  # by another of its names
                return made
        return said(answer)

    def given(self, question: Question, kind: Kind) -> str:
        """The model's own wrong answer, or the right one."""
        return self._of[question.asked].given if kind == "own wrong" else self.right(question)

    def drawn(self, pools: Mapping[Kind, list[Question]], rng: random.Random) -> Iterator[tuple[Question, Kind]]:
        """Endless rounds through the pools: every question with each of its first answers; with own answers, right and
        wrong ones by turns, and of the wrong ones own and pre-filled."""

        def rounds(pool: list[Question]) -> Iterator[Question]:
            while True:
                yield from rng.sample(pool, len(pool))

        if self.own is None:
            for question in rounds(next(iter(pools.values()))):
                yield from ((question, kind) for kind in pools)
            return
        streams = {kind: rounds(pool) for kind, pool in pools.items()}
        wrong: list[Kind] = [kind for kind in pools if kind != "right"]
        right: list[Kind] = ["right"] if "right" in pools else []
        for kind in cycle([each for other in wrong for each in (*right, other)] or right):
            yield next(streams[kind]), kind

    def check(self, name: str) -> None:
        """Raises ValueError for own answers that nothing can be made of; warns where there is little."""
        assert self.own is not None
        n, hits = len(self.own), sum(answer.right for answer in self.own)
        n_cut = sum(answer.cut for answer in self.own)
        usable = [answer.question for answer in self.own]
        known = self.pool(usable, "right")
        if not known:
            why = f"its {hits} right replies were cut" if hits else f"{n_cut} of its replies were cut"
            raise ValueError(
                f"{self.own.about.get('model')} has no right first answer to the {n} questions of {name!r} ({why}): "
                "look at its replies (ask(model, questions).to_pandas()), and give easier questions, accepted answers "
                "in its words, or a higher max_new_tokens"
            )
        if hits == n:
            if not self.pool(usable, "wrong"):
                raise ValueError(
                    f"{self.own.about.get('model')} gets all {n} questions of {name!r} right, and none has a wrong "
                    "answer to be put in its mouth: give harder questions, or wrong answers"
                )
            warn_caller(f"all {n} questions of {name!r} are answered right, so that wrong first answers are pre-filled")
        counts = {split: sum(question.split == split for question in known) for split in SPLITS}
        asked = {question.split for question in usable}
        if any(counts[split] < FEW for split in SPLITS if split in asked):
            told = ", ".join(f"{count} in {split!r}" for split, count in counts.items())
            warn_caller(
                f"few questions of {name!r} are answered right ({told}): give more, {FEW} in each split at least"
            )


def filled(form: str, answer: str, words: str) -> str:
    """A reply's form with an answer in place of {}, and in place of {reply} the answer in the model's own words."""
    return re.sub(r"\{(reply)?\}", lambda found: words if found[1] else answer, form)
