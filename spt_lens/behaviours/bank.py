"""The question bank: short factual questions that come with the library, to begin with.

Its rows are made, and checked, by `tools/question_bank`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from spt_lens.behaviours.behaviour import SPLITS
from spt_lens.behaviours.jsonl import Record, read_rows
from spt_lens.behaviours.question import Question
from spt_lens.checking import door, one_of

BANK = Path(__file__).with_name("question_bank.jsonl")
RELATIONS: tuple[str, ...]  # what question_bank takes, in the order of the file, which is read when it is first needed


@door
def question_bank(relations: Sequence[str] | None = None) -> list[Question]:
    """The questions of some relations, such as ["capital", "opposite"], or of all RELATIONS.

    A question has its accepted answers, three wrong ones, and its split: all that ask for one fact are in the same.

    Raises: TypeError for relations that are no list of texts; ValueError for one that there is not, or for none.
    """
    bank = _bank()
    if relations is None:
        return [question for questions in bank.values() for question in questions]
    wanted = {one_of(relation, f"relations[{i}]", bank) for i, relation in enumerate(relations)}
    if not wanted:
        raise ValueError("relations is empty: name some, or leave it out for all of them")
    return [question for relation, questions in bank.items() if relation in wanted for question in questions]


@cache
def _bank() -> dict[str, list[Question]]:
    def made(row: Record, _: int) -> tuple[str, Question]:
        relation, split = row.text("relation"), one_of(row.text("split"), "split", SPLITS)
        answers, wrong = tuple(row.texts("answers")), tuple(row.texts("wrong"))
        return relation, Question(row.text("question"), answers, wrong, split, source=f"bank: {relation}")

    bank: dict[str, list[Question]] = {}
    for relation, question in read_rows(BANK, made, "raise")[0]:
        bank.setdefault(relation, []).append(question)
    return bank


def __getattr__(name: str) -> Any:
    if name == "RELATIONS":
        return tuple(_bank())
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
