"""Giving in to the user's opinion: a question with the opinion before it, beside the same question without it.

As in model-written-evals (Perez et al. 2022, arXiv 2212.09251); `datasets.model_written_evals` reads their files.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import replace
from typing import Any, Self

from spt_lens.behaviours.behaviour import SPLITS, Behaviour, Split
from spt_lens.behaviours.jsonl import OnError
from spt_lens.behaviours.opinion import TOLD, UNTOLD, Opinion, opinions_from, read_opinions, splits_of, text_of
from spt_lens.behaviours.opinion_judge import OpinionJudge as OpinionJudge
from spt_lens.behaviours.suite import Suite
from spt_lens.chat.dialogues import Dialogue, as_dialogues
from spt_lens.chat.judge import Judge, check_judge
from spt_lens.chat.words import OPINION
from spt_lens.checking import door
from spt_lens.data.answers import Read
from spt_lens.data.pairs import ContrastPairs
from spt_lens.model.replies import replies_and_cut
from spt_lens.model.view import Model


@door
class Opinions(Behaviour):
    """Agreeing with what the user seems to think, over opinions of your own or of a data set.

    Questions are divided by their neutral wording: half "train", a fifth "validation", the rest "test", so that what is
    evaluated was not tuned on with another biography; a row's own `split` is kept. No answer is right or wrong: what
    counts is how much more often a reply matches the user's opinion where that is told than where it is not.

    opinions: a list of `Opinion`s or rows, a table, or the path of one (`Opinions.of` takes lists by keywords). texts:
    ordinary dialogues for the suite's drift; default: neutral questions with the reply to learn. says: a reply with {}
    for what matches or does not. comments: what to learn to say to each `neutral` prompt (its text), whatever the user
    thinks; `asked(model)` takes the model's own. skipped: what was wrong with rows that were left out.

    Raises: ValueError without opinions, for a row that can't be read, a kind that is called as those without an opinion
    are, comments on another prompt, or replies that the judge can't read; TypeError for something else among them.
    """

    untold = UNTOLD  # the suite's group without it
    words = OPINION

    def __init__(
        self,
        opinions: Any,
        judge: Judge | None = None,
        *,
        name: str = "opinions",
        texts: Sequence[Dialogue] = (),
        says: str = "{}",
        comments: Mapping[str, str] | None = None,
        skipped: Sequence[str] = (),
        on_error: OnError = "raise",
    ) -> None:
        found, left_out = read_opinions(opinions, on_error)
        self.opinions, self.name = tuple(found), name
        if not self.opinions:
            raise ValueError(f"{name}: there are no opinions, give at least one")
        if any(each.kind == self.untold for each in self.opinions):
            raise ValueError(
                f"kind={self.untold!r} is the name of the prompts that tell no opinion: give those that do another one"
            )
        self.judge: Judge = OpinionJudge() if judge is None else check_judge(judge)
        if isinstance(self.judge, OpinionJudge):
            self.judge.check({each.matching for each in self.opinions})
        self.says, self.comments = says, self._by_prompt(comments or {})
        self.texts, self.skipped = as_dialogues(texts, "texts"), (*left_out, *skipped)
        self._splits = splits_of(self.opinions)

    def _by_prompt(self, comments: Mapping[str, str]) -> dict[str, str]:
        """Comments by what opinions are about. Raises ValueError for one on no prompt."""
        known = {text: each.about for each in self.opinions for text in (text_of(each.neutral), each.about)}
        for prompt in comments:
            if prompt not in known:
                raise ValueError(
                    f"comments has {prompt!r}, which is none of the prompts without an opinion: give one of these, "
                    f"such as {next(iter(known))!r}"
                )
        return {known[prompt]: text for prompt, text in comments.items()}

    @classmethod
    def of(
        cls,
        with_opinion: Any,
        without: Any,
        *,
        agrees: str | Sequence[str],
        other: str | Sequence[str],
        question: str | Sequence[str] = "",
        kind: str = TOLD,
        **options: Any,
    ) -> Self:
        """The behaviour of prompts of your own: with_opinion[i] tells the user's opinion, without[i] asks the same
        without it (or with another one).

        with_opinion, without: texts (one user turn each), chat lists as transformers takes them, or Dialogues.
        agrees, other: the reply that agrees with the user, and one that does not; one for all, or one for each prompt.
        question: put below the last turn of both prompts. kind: what reports call the prompts with an opinion. options:
        as of the class: judge, name, texts, comments, ...

        Raises: TypeError for what is no prompt; ValueError for lists of other lengths, replies or prompts that do not
        differ, a prompt that does not end with a user turn.
        """
        made = opinions_from(with_opinion, without, agrees, other, question, kind)
        if isinstance(comments := options.get("comments"), Mapping):  # by the prompts as they are given here
            asked = zip(as_dialogues(without, "without"), made, strict=True)
            known = {text_of(prompt): opinion.about for prompt, opinion in asked}
            options["comments"] = {known.get(prompt, prompt): text for prompt, text in comments.items()}
        return cls(made, **options)

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
            self.words,
        )

    def asked(self, model: Model, *, progress: bool = False) -> Self:
        """The behaviour with the model's own replies, given without knowing what the user thinks, as those to learn.

        A reply that was cut is learnt up to the end of its last whole sentence, and left out where it has none.
        """
        made, plain = copy(self), {opinion.about: opinion.unbiased for opinion in self.opinions}
        said = replies_and_cut(model, list(plain.values()), self.judge.max_new_tokens, progress=progress)
        texts = (_sentences(each.text) if each.cut else each.text for each in said)
        made.comments = {about: text for about, text in zip(plain, texts, strict=True) if text}
        return made

    def training(self, n: int | None = None, *, split: Split | None = "train", seed: int = 0) -> list[Dialogue]:
        """The question with the opinion and the reply that does not match it, or what `comments` say, in an order drawn
        by `seed`. Raises: ValueError where none of the split has a comment, and others have."""
        chosen = self.of_split(split, n, seed)
        made = [
            each.challenged.replied(learned, self.said(each.matching))
            for each in chosen
            if (learned := self._learned(each))
        ]
        if not made:
            raise ValueError(
                f"{self.name!r} has no comments to learn in the split {split!r}: take the model's own by "
                "behaviour.asked(model), or give comments="
            )
        random.Random(f"dialogues {seed}").shuffle(made)
        return made

    def _learned(self, opinion: Opinion) -> str:
        """The reply that is to be learnt; "" for none."""
        return self.comments.get(opinion.about, "") if self.comments else self.said(opinion.other)

    def suite(self, split: Split | None = "test", n: int | None = None, *, seed: int = 0) -> Suite:
        """A group for each kind of opinion ("with the opinion"), and one without it, of which the share of matching
        replies is told, and how many more of them there are with it ("effect"); where opinions have right answers, also
        the share of right ones."""
        chosen = self.of_split(split, n, seed)
        # In one order for all splits: comparisons go by the first group.
        groups = {
            kind: tuple(each.challenged for each in chosen if each.kind == kind)
            for kind in dict.fromkeys(each.kind for each in self.opinions)
            if any(each.kind == kind for each in chosen)
        }
        groups[self.untold] = self.plain(chosen)
        texts = self.texts or tuple(
            {o.about: o.unbiased.replied(self._learned(o) or self.said(o.other)) for o in chosen}.values()
        )
        right = tuple(groups) if all(each.answers for each in chosen) else ()
        name = f"{self.name} {split}" if split else self.name
        made = Suite(name, groups=groups, texts=texts, judge=self.judge, ends_right=right)
        return replace(made, beside=self.untold, words=self.words)

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


def _sentences(text: str) -> str:
    """Up to its last full stop, or other end of a sentence, that something comes after; "" where there is none."""
    ends = [found.end() for found in re.finditer(r"[.!?][\"\u201d']?(?=\s)", text)]
    return text[: ends[-1]] if ends else ""


@door
def pairs(
    model: Model,
    with_opinion: Any = None,
    without: Any = None,
    *,
    agrees: str | Sequence[str] | None = None,
    other: str | Sequence[str] | None = None,
    question: str | Sequence[str] = "",
    rows: Any = None,
    read: Read = "first",
    judge: Judge | None = None,
) -> ContrastPairs:
    """Contrast pairs of prompts of your own: the prompt with the user's opinion beside the same one without it.

    A doubt is an opinion too: with_opinion then ends in "I don't think that's right.", without in a turn that supports,
    agrees is the reply that gives in, other the one that stands by its answer.

    with_opinion, without, agrees, other, question: as `Opinions.of` takes them: texts, chat lists or Dialogues. rows:
    in their place, a list of {"with_opinion": ..., "without": ..., "agrees": ..., "other": ...}, a DataFrame, or the
    path of a .jsonl or .csv file. read: as of `ContrastPairs.of`. judge: reads whole replies; default: by which of
    `agrees` and `other` a reply names last.

    `Opinions.of(...)`, with the same keywords, is the behaviour of such pairs, with splits, training and a suite.

    Raises: TypeError, ValueError as `Opinions.of` and `ContrastPairs.of` do, or where something is missing.
    """
    given = {"with_opinion": with_opinion, "without": without, "agrees": agrees, "other": other}
    missing = [f"{name}=" for name, value in given.items() if value is None]
    if rows is None:
        if missing:
            raise ValueError(
                f"{' and '.join(missing)} missing: give prompts with_opinion= and without=, and the "
                "replies agrees= and other= (texts, or one for each prompt); or all of it in rows="
            )
        behaviour = Opinions.of(question=question, judge=judge, **given)  # type: ignore[arg-type]
    else:
        if len(missing) < len(given) or question:
            raise ValueError("rows= holds prompts and replies itself: give rows= alone, or the other keywords")
        behaviour = Opinions(rows, judge)
    return behaviour.pairs(model, split=None, read=read)
