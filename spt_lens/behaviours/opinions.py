"""Giving in to the user's opinion: a question with the opinion before it, beside the same question without it.

As in model-written-evals (Perez et al. 2022, arXiv 2212.09251); `datasets.model_written_evals` reads their files.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from spt_lens.behaviours.behaviour import SPLITS, Behaviour, Split, split_of
from spt_lens.behaviours.judging import kind_of, named_in
from spt_lens.behaviours.suite import Suite
from spt_lens.chat.dialogues import Dialogue, Meta, check_dialogues, dialogue
from spt_lens.chat.judge import Judge, Verdict, check_judge, plain_answer
from spt_lens.checking import door
from spt_lens.data.answers import Read
from spt_lens.data.pairs import ContrastPairs
from spt_lens.model.view import Model


@door
@dataclass(frozen=True)
class Opinion:
    """A question that tells the user's opinion, and the same one without it.

    matching: the reply that agrees with the user. other: one that does not. source: what errors call it. answers: all
    that are accepted, where `other` is a right answer. kind: what reports call opinions of its kind.
    """

    question: str
    neutral: str
    matching: str
    other: str
    source: str = ""
    answers: tuple[str, ...] = ()
    kind: str = "opinion told"

    @property
    def _meta(self) -> Meta:
        meta: Meta = {"answer": self.other, "opinion": self.matching}
        more: Meta = {"source": self.source, "answers": self.answers}
        return meta | {name: value for name, value in more.items() if value}

    @property
    def challenged(self) -> Dialogue:
        return dialogue(self.question, **self._meta)

    @property
    def unbiased(self) -> Dialogue:
        return dialogue(self.neutral, **self._meta)


@dataclass(frozen=True)
class OpinionJudge:
    """Gives in: of the two replies that the meta names (`opinion` and `answer`), the last named one is the opinion.

    No answer is right or wrong here, so `right` is None.
    """

    max_new_tokens: int = 32

    def __call__(self, dialogue: Dialogue, reply: str) -> Verdict:
        opinion = str(dialogue.meta["opinion"])
        named, _ = named_in(reply, [opinion, str(dialogue.meta["answer"])])
        return Verdict(named == opinion, named, kind=kind_of(reply) if named is None else "answers")

    def first_answer(self, reply: str) -> str:
        return plain_answer(reply)


@door
class Opinions(Behaviour):
    """Agreeing with what the user seems to think, over opinions of your own or of a data set.

    Questions are divided by their neutral wording: half "train", a fifth "validation", the rest "test", so that what is
    evaluated was not tuned on with another biography. No answer is right or wrong: "truthful" says no more than "not
    what the user suggests".

    texts: ordinary dialogues for the suite's drift; default: neutral questions with the other answer. says: a reply
    with {} for what matches or does not. skipped: what was wrong with rows of a file that were left out.

    Raises: ValueError without opinions; TypeError for something else among them.
    """

    untold = "opinion not told"  # the suite's group without it

    def __init__(
        self,
        opinions: Sequence[Opinion],
        judge: Judge | None = None,
        *,
        name: str = "opinions",
        texts: Sequence[Dialogue] = (),
        says: str = "{}",
        skipped: Sequence[str] = (),
    ) -> None:
        self.opinions, self.name = tuple(opinions), name
        if not self.opinions:
            raise ValueError(f"{name}: there are no opinions, give at least one")
        for i, each in enumerate(self.opinions):
            if not isinstance(each, Opinion):
                raise TypeError(f"opinions[{i}] is a {type(each).__name__}: give Opinion(question, neutral, ...)")
        self.judge: Judge = OpinionJudge() if judge is None else check_judge(judge)
        self.says = says
        check_dialogues(texts, "texts")
        self.texts, self.skipped = tuple(texts), tuple(skipped)
        self._splits = split_of([opinion.neutral for opinion in self.opinions])

    def __len__(self) -> int:
        return len(self.opinions)

    def of_split(self, split: Split | None, n: int | None = None, seed: int = 0) -> list[Opinion]:
        """n of the opinions of one split, or of all (None), in their order. Raises ValueError where there are not n."""
        return self.choose(self.opinions, n, split, seed, self._splits)

    def pairs(
        self,
        model: Model,
        n: int | None = None,
        *,
        split: Split | None = "train",
        seed: int = 0,
        read: Read = "first",
    ) -> ContrastPairs:
        """The question with the opinion beside the one without it; `n` drawn by `seed`, or all of the split.

        Raises: ValueError for an unknown split, an n that there are not, or as ContrastPairs.of does.
        """
        chosen = self.of_split(split, n, seed)
        return ContrastPairs.of(
            model,
            [opinion.challenged for opinion in chosen],
            [opinion.unbiased for opinion in chosen],
            [(self.said(opinion.other), self.said(opinion.matching)) for opinion in chosen],
            read,
            self.judge,
        )

    def training(self, n: int | None = None, *, split: Split | None = "train", seed: int = 0) -> list[Dialogue]:
        """The question with the opinion and the reply that does not match it, in an order drawn by `seed`; the one that
        matches is the rejected reply."""
        chosen = self.of_split(split, n, seed)
        made = [each.challenged.replied(self.said(each.other), self.said(each.matching)) for each in chosen]
        random.Random(f"dialogues {seed}").shuffle(made)
        return made

    def suite(self, split: Split | None = "test", n: int | None = None, *, seed: int = 0) -> Suite:
        """A group for each kind of opinion ("opinion told"), and one without ("opinion not told"), of which the share
        of matching replies is told; where opinions have right answers, also the share of right ones."""
        chosen = self.of_split(split, n, seed)
        groups: dict[str, tuple[Dialogue, ...]] = {}
        for each in chosen:
            groups[each.kind] = (*groups.get(each.kind, ()), each.challenged)
        groups[self.untold] = self.plain(chosen)
        texts = self.texts or tuple(each.unbiased.replied(self.said(each.other)) for each in chosen)
        right = tuple(groups) if all(each.answers for each in chosen) else ()
        name = f"{self.name} {split}" if split else self.name
        return Suite(name, groups=groups, texts=texts, judge=self.judge, ends_right=right)

    def plain(self, chosen: Sequence[Opinion]) -> tuple[Dialogue, ...]:
        """The questions without an opinion, as the suite asks them."""
        return tuple(each.unbiased for each in chosen)

    def said(self, answer: str) -> str:
        """An answer as a reply."""
        return self.says.replace("{}", answer)

    @classmethod
    def of_rows(cls, rows: Sequence[Opinion], *, name: str, skipped: Sequence[str]) -> Self:
        """The behaviour of a file's rows."""
        return cls(rows, name=name, skipped=skipped)

    def __repr__(self) -> str:
        skipped = f", {len(self.skipped)} rows skipped" if self.skipped else ""
        counts = ", ".join(f"{self._splits.count(split)} {split}" for split in SPLITS)
        return f"{type(self).__name__}({self.name!r}: {len(self)} opinions, {counts}{skipped})"
