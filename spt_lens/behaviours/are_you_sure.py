"""The "Are you sure?" protocol over any questions: does a model stand by its answers, and take back wrong ones?

Source of the protocol: Sharma et al. 2023 (arXiv 2310.13548); of the two replies: Chen et al. 2024, section 3.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, Self

from spt_lens.behaviours.asking import Answer, Answers, ask, read_answer
from spt_lens.behaviours.behaviour import Split
from spt_lens.behaviours.challenges import NEUTRAL_SENTENCES, REQUESTS, Stance, phrasings, second_turn
from spt_lens.behaviours.doubted import Doubted
from spt_lens.behaviours.firsts import FirstAnswers, filled
from spt_lens.behaviours.letters import lettered
from spt_lens.behaviours.question import Question, splits_of
from spt_lens.behaviours.reading import read_questions
from spt_lens.behaviours.suite import Suite
from spt_lens.chat.dialogues import Dialogue
from spt_lens.checking import MANY, door, instance, number, one_of, seed_number, whole_number
from spt_lens.data.answers import Read
from spt_lens.data.pairs import ContrastPairs
from spt_lens.model.view import Model

Contrast = Literal["supporting", "neutral", "first answer", "first turn"]


CONTROLS = ("supported right", "supported wrong", "neutral right", "neutral wrong")


@door
class AreYouSure(Doubted):
    """Giving in when the user doubts an answer, over questions of your own.

        AreYouSure([("What is the capital of France?", "Paris", "Lyon"), ...])

    questions: a list of `Question`s, of dicts or of (text, answers, wrong answers); a table or its path, see
        `reading.read_questions`. Those that name no split are divided by their fact or text: half "train", a fifth
        "validation", the rest "test". Phrasings of the challenge are divided too. A question without wrong answers is
        only asked with a right first answer.
    judge: reads the replies. stands, gives_in: the replies that stand by an answer and that take one back, with {} for
        the answer or {reply} for the answer as a reply ("Paris.", or the model's own words after `asked`); the first
        token in which they differ is what measurements read (`read="first"`).
    abilities, texts: of the suite; texts default to the questions with their right answers, unchallenged.
    skipped: what was wrong with rows that were left out, by on_error="skip".

    Raises: ValueError or TypeError for no questions, one that is not usable (see Question), one that is there twice, or
    replies without {}.
    """

    @classmethod
    def multiple_choice(
        cls, questions: Any, how: Literal["letter", "likelihood"] = "letter", seed: int = 0, **options: Any
    ) -> Self:
        """The protocol over questions with options: the right answer and the wrong ones.

        how: "letter": the options stand below the question in an order drawn by `seed`, and the answer is a letter,
        "(B)". "likelihood": the question stands alone, and the model's own first answer is the likeliest option.
        options: as for AreYouSure.

        Raises: ValueError as AreYouSure does, or for a question without wrong answers.
        """
        read, left_out = read_questions(questions, options.pop("on_error", "raise"))
        choices = lettered(read, seed)
        made = cls(choices if how == "letter" else read, skipped=(*left_out, *options.pop("skipped", ())), **options)
        made.how = "likelihood" if how == "likelihood" else "reply"
        return made

    def asked(
        self,
        model: Model | Answers,
        path: str | Path | None = None,
        *,
        stands: str | None = None,
        gives_in: str | None = None,
        max_new_tokens: int = 32,
        batch_size: int = 64,
        progress: bool = True,
    ) -> Self:
        """The protocol over a model's own first answers: what it got right is to be stood by, in its own words.

        Pairs challenge its right answers; training has as many wrong ones beside them, in turns its own and pre-filled
        ones to questions that it got right. Of the suite, `right` and `wrong` (pre-filled) are about questions that it
        got right, and the group "own wrong" challenges its own wrong answers. A model that is evaluated on it still
        gives its own first answers.

        model: the model, or the Answers of one; questions that these do not answer are left out, and replies are read
        again where other answers are accepted now. path, max_new_tokens,
        batch_size: as for `asking.ask`. stands, gives_in: other replies than the behaviour's; with {reply}, in the
        model's own words where the right answer is its own.

        Raises: ValueError if no answer is right, or all are and no wrong one can be pre-filled; and as `ask` does.
        Warns where few are right.
        """
        known: dict[str, Any] = {"max_new_tokens": max_new_tokens, "batch_size": batch_size, "progress": progress}
        own = model if isinstance(model, Answers) else ask(model, self, path=path, **known)
        said = {answer.question.asked: answer for answer in own}
        asked = [replace(q, split=s) for q, s in zip(self.questions, self._splits, strict=True) if q.asked in said]
        if not asked:
            raise ValueError(f"these are no answers to the questions of {self.name!r}: give ask(model, behaviour)")

        def to(question: Question) -> Answer:
            old = said[question.asked]
            same = (old.question.answers, old.question.wrong) == (question.answers, question.wrong)
            again = read_answer(question, old.reply, old.cut, self.judge, self.how)
            return replace(old, question=question) if same else again

        own = Answers(tuple(map(to, asked)), own.about)
        made = copy(self)
        made.firsts = FirstAnswers(own)
        made.firsts.check(self.name)
        made.questions = tuple(asked)
        made._splits = splits_of(made.questions)
        for name, form in {"stands": stands, "gives_in": gives_in}.items():
            if form is not None and filled(instance(form, name, str, "write the reply"), "", "") == form:
                raise ValueError(f"{name}={form!r} has no place for the answer: write {{}} or {{reply}} there")
        made.stands, made.gives_in = stands or self.stands, gives_in or self.gives_in
        return made

    def pairs(
        self,
        model: Model,
        n: int = 64,
        *,
        contrast: Contrast = "supporting",
        split: Split | None = "train",
        seed: int = 0,
        read: Read = "first",
    ) -> ContrastPairs:
        """Pairs of the paper's protocol (section 3.1): a right first answer, then a challenge, or support in its place.

        Both runs of a pair share question, answer and request. With contrast="supporting" they share the phrasing too
        and differ in the stance alone, in as many words; with "neutral" the truthful run asks without any opinion, and
        lengths may differ. Questions are drawn without repeats until all of the split are used, then again.

        Where a model gives in to support too, two contrasts without any support are left. "first answer": both runs are
        challenged alike, and the first answer is wrong in the sycophantic run and right in the truthful one; heads that
        bring the latter back tell right from wrong. "first turn": the truthful run is the question alone, and what is
        read is which answer the model gives, the right one or the first wrong one. Both need wrong answers.

        With read="whole" the two replies are read as whole sentences, where the one that gives in turns to the first of
        the question's wrong answers; else by the first token in which they differ. The prompts are the same.

        Raises: ValueError for an unknown contrast, split or read, n below one, a tokenizer that gives both replies the
        same first token, a question without a wrong answer where one is needed, or read="whole" with "first answer",
        whose whole replies name two answers.
        """
        pool = self.pools(split, ("right",))["right"]
        whole_number(n, "n", 1, MANY)
        if contrast == "first answer" and read == "whole":
            raise ValueError("contrast='first answer' has other answers in either run: use read='first'")
        rng = random.Random(f"pairs {split} {seed_number(seed)}")
        wrong = random.Random(f"wrong {split} {seed}")  # apart, so that a pair has the same words in every contrast
        order = [question for _ in range(-(-n // len(pool))) for question in rng.sample(pool, len(pool))][:n]
        challenged, truthful, completions = [], [], []
        for question in order:
            phrasing, request, none = rng.choice(phrasings(split)), rng.choice(REQUESTS), rng.choice(NEUTRAL_SENTENCES)
            # What the first tokens are does not depend on the answers that follow, if these do not begin the reply.
            full = read == "whole" or "{reply}" in self.stands + self.gives_in
            if (full or contrast.startswith("first")) and not question.wrong:
                raise ValueError(
                    f"{question.text!r} has no wrong answer, which whole replies, {{reply}} and the contrasts "
                    "'first answer' and 'first turn' need: give it one, or use read='first' and another contrast"
                )
            doubt, given = second_turn("opposed", phrasing, request), self.firsts.right(question)
            right = self.challenge(question, given, "opposed", doubt)
            both = (given, question.wrong[0]) if full else ("", "")
            said_so = self.defend(both[0], self.firsts.words(question, given) if full else ""), self.retract(both[1])
            if contrast == "first answer":
                one, other = self.challenge(question, self.wrong_answer(question, wrong), "opposed", doubt), right
            elif contrast == "first turn":
                asked = {key: value for key, value in right.meta.items() if key not in ("given", "stance", "right")}
                one, other = right, Dialogue(question.asked, asked)
                said_so = self.firsts.words(question, given), self.firsts.words(question, question.wrong[0])
            else:
                turn = second_turn(contrast, none if contrast == "neutral" else phrasing, request)
                one, other = right, self.challenge(question, given, contrast, turn)
            challenged.append(one)
            truthful.append(other)
            completions.append(said_so)
        return ContrastPairs.of(model, challenged, truthful, completions, read, self.judge)

    def training(
        self,
        n: int | None = None,
        *,
        split: Split | None = "train",
        seed: int = 0,
        supports: float = 0.0,
        neutral: float = 0.0,
        wrong: float = 0.5,
        own_wrong: bool = True,
    ) -> list[Dialogue]:
        """Dialogues to tune on: right first answers defended, wrong ones retracted, as many of each (paper, section
        3.3).

        All are challenged, unless `supports` and `neutral` give the shares of the n dialogues in which the user agrees
        or has no opinion; the reply is honest in any case. n defaults to two rounds of the split's questions, right and
        wrong. wrong: the share with a wrong first answer. own_wrong: after `asked`, whether the model's own wrong
        answers are among these, to questions whose answer it does not know; else only those put in its mouth. Each
        holds the other reply too, as the rejected one, where the question has a wrong answer.

        Raises: ValueError for shares that are negative or leave no challenged dialogue, a share of wrong ones that is
        not between zero and one, n below two; and as cases does.
        """
        if number(supports, "supports") < 0 or number(neutral, "neutral") < 0 or supports + neutral >= 1:
            raise ValueError(
                f"supports={supports} and neutral={neutral} must be shares of zero or more, with a sum below one"
            )
        pools = self.pools(split, ("wrong",) if self.own is None else ("right",))
        total = 4 * sum(map(len, pools.values()))
        if n is not None:
            total = whole_number(n, "n", 2, MANY)  # right and wrong first answers
        shares: dict[Stance, float] = {"supporting": supports, "neutral": neutral}
        # Even numbers, so that right and wrong first answers stay balanced in each kind.
        counts: dict[Stance, int] = {stance: 2 * round(total * share / 2) for stance, share in shares.items()}
        counts["opposed"] = total - sum(counts.values())
        number(wrong, "wrong", above=0, below=1)
        if wrong == 0.5 and own_wrong:
            made = [d for stance, count in counts.items() for d in self.cases(split, stance, n=count, seed=seed)]
        else:
            made = []
            for stance, count in counts.items():
                which: dict[str, Any] = {"right": False} if own_wrong else {"kind": "wrong"}
                made += self.cases(split, stance, count - round(count * wrong), True, seed)
                made += self.cases(split, stance, n=round(count * wrong), seed=seed, **which)
        random.Random(f"training {split} {seed_number(seed)}").shuffle(made)
        return self._with_rejected(made)

    def suite(
        self,
        split: Split | None = "test",
        n: int | None = None,
        n_controls: int = 0,
        *,
        seed: int = 0,
        controls: Sequence[str] = CONTROLS,
        own_wrong: bool = True,
    ) -> Suite:
        """Challenges of right answers, and as many of wrong ones, about the questions of one split.

        n: of either kind; default two for each question (after `asked`: that the model got right). n_controls: cases
        of each of `controls`: supported and neutral second turns, right and wrong. own_wrong: after `asked`, whether
        there is the group "own wrong", which challenges the model's own wrong answers.

        Raises: ValueError for an unknown split or control, a split without questions, n below one.
        """
        pools = self.pools(split)
        count = 2 * len(pools["right"]) if n is None else whole_number(n, "n", 1, MANY)
        whole_number(n_controls, "n_controls", 0, MANY)
        kinds = [True, False] if "wrong" in pools else [True]
        groups: dict[str, tuple[Dialogue, ...]] = {}
        for name in controls:
            one_of(name, "a control", CONTROLS)
        for name in CONTROLS if n_controls else ():
            label, _, which = name.partition(" ")
            if name in controls and (which == "right") in kinds:
                stance: Stance = "neutral" if label == "neutral" else "supporting"
                groups[name] = tuple(self.cases(split, stance, n_controls, which == "right", seed))
        pools = {kind: pool for kind, pool in pools.items() if own_wrong or kind != "own wrong"}
        made = {kind: tuple(self.cases(split, "opposed", count, seed=seed, kind=kind)) for kind in pools}
        if "own wrong" in made:
            groups["own wrong"] = made["own wrong"]
        texts = self.texts or tuple(
            Dialogue(q.asked).replied(self.firsts.words(q, self.firsts.right(q))) for q in pools["right"]
        )
        name = f"{self.name} {split}" if split else self.name
        return Suite(
            name,
            made["right"],
            made.get("wrong", ()),
            groups,
            self.abilities,
            texts,
            self.judge,
            ends_right=tuple(name for name in groups if name in ("own wrong", *CONTROLS[::2])),
        )
