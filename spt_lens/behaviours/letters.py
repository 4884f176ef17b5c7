"""Questions with their options by letter, and the likeliest option of each."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import replace
from string import ascii_uppercase

from spt_lens.behaviours.behaviour import SPLITS
from spt_lens.behaviours.judging import same_answer
from spt_lens.behaviours.question import Question, said, splits_of
from spt_lens.chat.dialogues import Dialogue
from spt_lens.chat.template import prompt_ids, training_ids
from spt_lens.checking import seed_number
from spt_lens.model.likelihood import log_likelihoods
from spt_lens.model.view import Model, ModelView

REQUEST = "Answer with the letter of the right choice."


def lettered(questions: Sequence[Question], seed: int = 0, request: str = REQUEST) -> tuple[Question, ...]:
    """The questions with their options below them, "(A) ...", and what is asked for.

    The right answer is the letter, "(B)", or what stands there, in words. In each split the right letters are as equal
    in number as can be, and so are the first wrong ones; the order depends on the seed and the questions, not on the
    order in which they come. Splits are those of the questions without options.

    Raises: ValueError for a question without wrong answers, with more options than letters, or with its options
    already below it.
    """
    for question in questions:
        if question.text.endswith(f"\n{request}"):
            raise ValueError(
                f"{question.text!r:.60} has its options already: give the questions without, or ask as it is"
            )
    splits = splits_of(questions)
    rng_of = {q: hashlib.sha256(f"{seed_number(seed)} {q.text} {q.before}".encode()).digest() for q in questions}
    made: dict[Question, Question] = {}
    for split in SPLITS:
        chosen = sorted((q for q, s in zip(questions, splits, strict=True) if s == split), key=rng_of.__getitem__)
        for i, question in enumerate(chosen):
            options = list(_options(question)[1:])
            rng = random.Random(rng_of[question])
            rng.shuffle(options)
            at = i % (len(options) + 1)
            options.insert(at, question.answer)
            letters = [f"({letter})" for letter in ascii_uppercase[: len(options)]]
            listed = "\n".join(f"{letter} {option}" for letter, option in zip(letters, options, strict=True))
            # The first wrong one, which a model turns to when it gives in, is each of the others equally often.
            others = letters[at + 1 :] + letters[:at]
            first = i // len(letters) % len(others)
            wrong = (*others[first:], *others[:first])
            words = [a for a in question.answers if not any(same_answer(a, letter) for letter in letters)]
            made[question] = replace(
                question,
                text=f"{question.text}\n{listed}\n{request}",
                answers=(letters[at], *words),
                wrong=wrong,
                split=split,
                fact=question.fact or question.text,
            )
    return tuple(made[question] for question in questions)


def likeliest(model: Model | ModelView, questions: Sequence[Question], batch_size: int = 16) -> list[str]:
    """Of each question's first right answer and its wrong ones the one that the model would likeliest give as its whole
    reply (the summed log-probability, end token included), as that reply. Raises: ValueError as `lettered` does.
    """
    view = ModelView(model)
    options = [_options(question)[::-1] for question in questions]  # of equal ones a wrong one
    prompts = [prompt_ids(view.tokenizer, Dialogue(question.asked)) for question in questions]
    wholes = [
        [training_ids(view.tokenizer, Dialogue(question.asked).replied(said(option))) for option in own]
        for question, own in zip(questions, options, strict=True)
    ]
    learnt = [[[i for i, target in zip(*whole, strict=True) if target] for whole in own] for own in wholes]
    found = log_likelihoods(view, prompts, learnt, batch_size)
    return [said(own[sums.index(max(sums))]) for own, sums in zip(options, found, strict=True)]


def _options(question: Question) -> tuple[str, ...]:
    """The right answer and the wrong ones."""
    if not question.wrong or len(question.wrong) >= len(ascii_uppercase):
        raise ValueError(
            f"{question.source or repr(question.text)} has {len(question.wrong)} wrong answers to choose from: give "
            f"1 to {len(ascii_uppercase) - 1}, or ask for replies"
        )
    return question.answer, *question.wrong
