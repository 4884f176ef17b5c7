"""Public data sets as behaviours: model-written-evals and SycophancyEval's "Are you sure?"."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from pathlib import Path
from string import ascii_uppercase
from typing import Any, Literal

from spt_lens.behaviours.are_you_sure import AreYouSure
from spt_lens.behaviours.jsonl import OnError, Record, read_rows
from spt_lens.behaviours.judging import same_answer
from spt_lens.behaviours.opinions import Opinion, Opinions
from spt_lens.behaviours.question import Question
from spt_lens.chat.dialogues import Message

_LISTED = re.compile(r"^\s*\(?([A-Za-z])\)", re.MULTILINE)  # AQuA's own files have "A)21"
_ROLES: dict[str, Literal["system", "user", "assistant"]] = {"human": "user", "ai": "assistant", "system": "system"}


def model_written_evals(
    path: str | Path, *, neutral: Callable[[str], str] | None = None, on_error: OnError = "raise"
) -> Opinions:
    """The sycophancy rows of Anthropic/model-written-evals (Perez et al. 2022, arXiv 2212.09251).

    The opinion is told in `question`, by a biography. The matching reply is `answer_matching_behavior`, the other one
    `answer_not_matching_behavior` (the first, where there are several).

    Args:
        path: A JSON Lines file, or "hf://datasets/Anthropic/model-written-evals/sycophancy/....jsonl".
        neutral: Makes the neutral question of each `question`, such as `sentences.last_question`; it takes the place of
            the file's `neutral_question`, which upstream's files do not have, and which is not always neutral.
        on_error: What to do with a row that can't be read: "raise", or "skip" it with a message in `skipped`.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: A row can't be read; the message names file, row (by lines, from 1) and field.
        OSError: The hub did not give the file.
    """

    def make(row: Record, number: int) -> Opinion:
        question = row.text("question")
        asked = _neutral_question(row, question, neutral)
        matching = row.text("answer_matching_behavior").strip()
        other = row.texts("answer_not_matching_behavior")[0].strip()
        if other == matching:
            raise row.error(
                "answer_not_matching_behavior",
                f"both completions are {other!r}",
                "give two that differ, or leave the row out by on_error='skip'",
            )
        return Opinion(question, asked, matching, other, f"{Path(path).name}, row {number}")

    made, skipped = read_rows(path, make, on_error)
    return Opinions(made, name=Path(path).name, skipped=skipped)


def sycophancy_eval(
    path: str | Path,
    *,
    wrong: Callable[[dict[str, Any]], str | None] | None = None,
    datasets: Collection[str] | None = None,
    on_error: OnError = "raise",
) -> AreYouSure:
    """The questions of SycophancyEval's are_you_sure.jsonl (Sharma et al., arXiv 2310.13548), to be challenged.

    A question is `prompt`, as it is; a message of the assistant that ends it opens a first answer ("The answer is ("),
    and is left out. Of multiple choice the right answer is the letter, "(B)", and the other letters are wrong.
    Free-form rows accept `correct_answer`, or else all texts in `answer`, and have no wrong answers unless there is
    `wrong`. A row that asks what an earlier one asks is left out, with a message in `skipped`.

    Args:
        path: A JSON Lines file, or "hf://datasets/meg-tong/sycophancy-eval/are_you_sure.jsonl".
        wrong: Gives a wrong answer to a free-form row from its `base`, or None.
        datasets: Take only rows whose base.dataset is one of these ("truthful_qa_mc", "trivia_qa", ...).
        on_error: What to do with a row that can't be read: "raise", or "skip" it with a message in `skipped`.

    Raises: as `model_written_evals` does; ValueError also where there is no row of `datasets`.
    """
    if isinstance(datasets, str):
        datasets = (datasets,)
    seen: set[str] = set()
    again: list[str] = []
    asked: dict[tuple[Message, ...], int] = {}

    def make(row: Record, number: int) -> Question | None:
        base = row.record("base")
        if datasets is not None:
            seen.add(base.text("dataset"))
            if base.values["dataset"] not in datasets:
                return None
        *before, last = _question(row)
        answers, others = _choice(base) if base.has("correct_letter") else _free_form(base, wrong)
        first = asked.setdefault((*before, last), number)
        if first != number:
            again.append(f"{row.place}: it asks what row {first} asks")
            return None
        source = f"{Path(path).name}, row {number}"
        return Question(last.content, answers, others, before=tuple(before), source=source)

    made, skipped = read_rows(path, make, on_error)
    if not made:
        raise ValueError(f"{path} has no rows of {', '.join(datasets or ())}: it has {', '.join(sorted(seen))}")
    return AreYouSure(made, name=Path(path).name, skipped=(*skipped, *again))


def _neutral_question(row: Record, question: str, neutral: Callable[[str], str] | None) -> str:
    if neutral is None:
        asked = row.text(
            "neutral_question",
            "upstream's files do not have it: pass neutral=, e.g. last_question of spt_lens.behaviours.sentences",
        )
    else:
        asked = _called(row, "neutral", neutral, question)
        if not isinstance(asked, str) or not asked.strip():
            raise row.error("question", f"neutral() made {asked!r} of it", "it must return the neutral question")
    if asked.split() == question.split():
        raise row.error(
            "question",
            "the neutral question is the question itself",
            "there is nothing to contrast: give another neutral= or leave the row out by on_error='skip'",
        )
    return asked


def _question(row: Record) -> tuple[Message, ...]:
    """The messages of `prompt`, up to the last human one."""
    messages = row.values.get("prompt")
    if not isinstance(messages, list) or not messages:
        raise row.error("prompt", "found no list of messages", 'it must be [{"type": "human", "content": "..."}]')
    made: list[Message] = []
    for i, message in enumerate(messages):
        item = Record({f"prompt[{i}]": message}, row.place).record(f"prompt[{i}]")
        kind = item.text("type")
        if kind not in _ROLES:
            raise item.error("type", f"found {kind!r}", "it must be 'human', 'ai' or 'system'")
        made.append(Message(_ROLES[kind], item.text("content")))
    if len(made) > 1 and made[-1].role == "assistant":
        made.pop()
    if made[-1].role != "user":
        raise row.error("prompt", f"its last message is the {made[-1].role}'s", "it must end with a human turn")
    return tuple(made)


def _choice(base: Record) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The right letter and the others of a multiple-choice row, as "(B)"."""
    right = base.text("correct_letter").strip(" ().").upper()
    if base.has("letters"):
        letters = "".join(base.texts("letters"))
    elif base.has("answers"):
        letters = "".join(_LISTED.findall("\n".join(base.texts("answers"))))
    else:
        letters = ascii_uppercase[: len(base.texts("answers_list", "give it, or 'letters' or 'answers'"))]
    known = sorted({letter.upper() for letter in letters if letter.isalpha()})
    if len(known) < 2 or right not in known:
        raise base.error(
            "correct_letter",
            f"found {base.values['correct_letter']!r}, and the letters {', '.join(known) or 'none'}",
            "it must be one of two or more 'letters'",
        )
    return (f"({right})",), tuple(f"({letter})" for letter in known if letter != right)


def _free_form(
    base: Record, wrong: Callable[[dict[str, Any]], str | None] | None
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The accepted answers and, if `wrong` knows one, a wrong one, without the full stop at their ends."""
    field = "correct_answer" if base.has("correct_answer") else "answer"
    texts = base.texts(field, "give 'correct_letter', 'correct_answer' or 'answer' (accepted texts)")
    answers = tuple(dict.fromkeys(bare for text in texts if (bare := _bare(text))))
    if not answers:
        raise base.error(field, "found nothing but full stops", "give the right answer")
    other = None if wrong is None else _called(base, "wrong", wrong, base.values)
    if other is None:
        return answers, ()
    if not isinstance(other, str) or not other.strip() or any(same_answer(other, right) for right in answers):
        raise base.error(
            field, f"wrong() gave {other!r} where {answers[0]!r} is right", "it must return a wrong answer"
        )
    return answers, (_bare(other),)


def _called(row: Record, name: str, function: Callable[[Any], Any], value: Any) -> Any:
    try:
        return function(value)
    except Exception as error:  # the caller's own code may raise anything
        raise ValueError(f"{row.place}: {name}() failed with {type(error).__name__}: {error}") from error


def _bare(answer: str) -> str:
    return " ".join(answer.split()).rstrip(".")
