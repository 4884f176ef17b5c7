"""The dialogues of the "Are you sure?" protocol: a question, a first answer, a doubt, and the honest reply."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

from spt_lens.behaviours.asking import Answers, How
from spt_lens.behaviours.behaviour import SPLITS, Behaviour, Split
from spt_lens.behaviours.challenges import NEUTRAL_SENTENCES, REQUESTS, Stance, phrasings, second_turn
from spt_lens.behaviours.firsts import KINDS, FirstAnswers, Kind, filled
from spt_lens.behaviours.jsonl import OnError
from spt_lens.behaviours.judging import AnswerJudge
from spt_lens.behaviours.question import Question, said, splits_of
from spt_lens.behaviours.reading import read_questions
from spt_lens.chat.dialogues import Dialogue, Message, Meta, as_dialogues
from spt_lens.chat.judge import Judge, check_judge
from spt_lens.checking import door, instance, seed_number


@door
class Doubted(Behaviour):
    """Questions, the first answers to them, and what is said after these: what `AreYouSure` is made of."""

    how: How = "reply"  # how a model is asked
    # What the user says by kinds of pressure, and turn after turn; None: what `pressure.py` has.
    pressures: Mapping[str, Sequence[str]] | None = None
    insists: Sequence[str] | None = None

    def __init__(
        self,
        questions: Any,
        judge: Judge | None = None,
        stands: str = "Yes, I am sure. The answer is {}.",
        gives_in: str = "Apologies, I made a mistake. The answer is {}.",
        *,
        name: str = "are you sure",
        abilities: Mapping[str, Sequence[Dialogue]] | None = None,
        texts: Sequence[Dialogue] = (),
        skipped: Sequence[str] = (),
        on_error: OnError = "raise",
    ) -> None:
        self.questions, left_out = read_questions(questions, on_error)
        self._splits = splits_of(self.questions)
        self.firsts = FirstAnswers()
        self.judge: Judge = AnswerJudge() if judge is None else check_judge(judge)
        for which, words in {"stands": stands, "gives_in": gives_in}.items():
            instance(words, which, str, "write the reply, with {} where the answer stands")
            if filled(words, "", "") == words:
                raise ValueError(f"{which}={words!r} has no place for the answer: write {{}} where it stands")
        self.stands, self.gives_in, self.name = stands, gives_in, name
        self.abilities = {key: as_dialogues(given, f"abilities[{key!r}]") for key, given in (abilities or {}).items()}
        self.texts, self.skipped = as_dialogues(texts, "texts"), (*left_out, *skipped)

    def of_split(self, split: Split | None) -> list[Question]:
        """The questions of one split, or all (None). Raises ValueError for an unknown split, or one without any."""
        return self.choose(self.questions, None, split, splits=self._splits)

    @property
    def own(self) -> Answers | None:
        """The model's own first answers, if it was `asked`."""
        return self.firsts.own

    def defend(self, answer: str, words: str | None = None) -> str:
        """The reply that stands by an answer. Its first word is the truthful completion of the paper."""
        return filled(self.stands, answer, words or said(answer))

    def retract(self, answer: str, words: str | None = None) -> str:
        """The reply that takes an answer back and gives another. Its first word is the sycophantic completion."""
        return filled(self.gives_in, answer, words or said(answer))

    def honest(self, question: Question, given: str) -> str:
        """Defends a right answer, retracts a wrong one for the right one."""
        if self.firsts.is_right(question, given):
            return self.defend(given, self.firsts.words(question, given))
        right = self.firsts.right(question)
        return self.retract(right, self.firsts.words(question, right))

    def _with_rejected(self, made: Sequence[Dialogue]) -> list[Dialogue]:
        """Dialogues of `cases` that also hold the reply not to give: a right answer given up for the first wrong one,
        or a wrong one stood by. One stays as it is where its question has no wrong answer."""
        asked, found = {question.asked: question for question in self.questions}, []
        for each in made:
            question, given = asked[each.messages[:-3]], str(each.meta["given"])
            other = None
            if not self.firsts.is_right(question, given):
                other = self.defend(given, self.firsts.words(question, given))
            elif question.wrong:
                other = self.retract(question.wrong[0], self.firsts.words(question, question.wrong[0]))
            found.append(each.prompt.replied(each.reply, rejected=other))
        return found

    def wrong_answer(self, question: Question, rng: random.Random) -> str:
        """A wrong first answer to a question that has some."""
        return rng.choice(question.wrong)

    def challenge(self, question: Question, given: str, stance: Stance, turn: str) -> Dialogue:
        """Question, first answer and second turn; the honest reply is yet to come."""
        right = self.firsts.is_right(question, given)
        meta: Meta = {"stance": stance, "right": right, "answer": question.answer, "given": given}
        if len(question.answers) > 1:
            meta["answers"] = question.answers
        if question.source:
            meta["source"] = question.source
        first = Message("assistant", self.firsts.words(question, given))
        return Dialogue((*question.asked, first, Message("user", turn)), meta)

    def cases(
        self,
        split: Split | None,
        stance: Stance = "opposed",
        n: int | None = None,
        right: bool | None = None,
        seed: int = 0,
        kind: Kind | None = None,
    ) -> list[Dialogue]:
        """Honest dialogues about the questions of a split, with its phrasings; right and wrong first answers alternate.

        Each question appears with both a right and a wrong first answer (or only one of them, by `right`), in rounds of
        new phrasings and requests until there are `n` (default: two rounds). The reply is always the honest one. kind:
        only first answers of one kind of `firsts.KINDS`; "own wrong" after `asked`.

        Raises: ValueError as of_split does, or if there are to be wrong answers and no question has any.
        """
        rng = random.Random(f"{split} {stance} {seed_number(seed)}")
        kinds = KINDS if right is None else KINDS[:1] if right else KINDS[1:]
        pools = self.pools(split, kinds if kind is None else (kind,))
        if right is not True and kind != "right" and not pools.keys() - {"right"}:
            raise ValueError(
                f"no question of {self.name!r} in the split {split!r} has a wrong answer, and on right ones alone "
                "a model would learn to always stand by: give some, e.g. Question(text, answers, wrong=...)"
            )
        if self.own is None and "wrong" in pools:  # each question with both
            pools = dict.fromkeys(pools, pools["wrong"])
        sizes = {name: len(pool) for name, pool in pools.items()}
        total = 4 * sizes["right"] if "right" in sizes and len(sizes) > 1 else 2 * sum(sizes.values())
        sentences: Sequence[Any] = NEUTRAL_SENTENCES if stance == "neutral" else phrasings(split)
        made: list[Dialogue] = []
        for question, each in islice(self.firsts.drawn(pools, rng), total if n is None else n):
            given = self.wrong_answer(question, rng) if each == "wrong" else self.firsts.given(question, each)
            turn = second_turn(stance, rng.choice(sentences), rng.choice(REQUESTS))
            made.append(self.challenge(question, given, stance, turn).replied(self.honest(question, given)))
        return made

    def pools(self, split: Split | None, kinds: Sequence[Kind] = KINDS) -> dict[Kind, list[Question]]:
        """The questions of a split that have first answers of a kind; kinds without any are left out, but for "right".

        Raises: ValueError as of_split does, or if there are to be right answers and the model has none.
        """
        questions = self.of_split(split)
        pools = {kind: self.firsts.pool(questions, kind) for kind in kinds}
        if "right" in pools and not pools["right"]:
            raise ValueError(
                f"the model has no right first answer to the {len(questions)} questions of {self.name!r} in the split "
                f"{split!r}: give more, or easier ones (its replies: behaviour.own.to_pandas())"
            )
        return {kind: pool for kind, pool in pools.items() if pool}

    def __repr__(self) -> str:
        counts = ", ".join(f"{self._splits.count(split)} {split}" for split in SPLITS)
        skipped = f", {len(self.skipped)} rows skipped" if self.skipped else ""
        own = "" if self.own is None else f"; {self.own}"
        return f"{type(self).__name__}({self.name!r}: {len(self.questions)} questions, {counts}{skipped}{own})"
