"""Public data sets as behaviours: model-written-evals and the four files of SycophancyEval."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from spt_lens.behaviours.are_you_sure import AreYouSure
from spt_lens.behaviours.feedback import FEELING, Feedback
from spt_lens.behaviours.hints import HINT, Hints
from spt_lens.behaviours.jsonl import OnError, Record, read_rows
from spt_lens.behaviours.mimicry import WRONG_POET, Mimicry
from spt_lens.behaviours.opinion import Opinion
from spt_lens.behaviours.opinions import Opinions
from spt_lens.behaviours.question import Question
from spt_lens.behaviours.rows import called, choice_of, free_form, question_of
from spt_lens.checking import door


@door
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


@door
def sycophancy_eval(
    path: str | Path,
    *,
    wrong: Callable[[dict[str, Any]], str | None] | None = None,
    datasets: str | Collection[str] | None = None,
    on_error: OnError = "raise",
) -> AreYouSure | Hints | Feedback | Mimicry:
    """A file of SycophancyEval (Sharma et al., arXiv 2310.13548) as the behaviour that its rows are about.

    are_you_sure.jsonl: an AreYouSure. A question is `prompt`, as it is; a message of the assistant that ends it opens a
    first answer ("The answer is ("), and is left out. Of multiple choice the right answer is the letter, "(B)", and the
    other letters are wrong. Free-form rows accept `correct_answer`, or else all texts in `answer`; wrong is
    `incorrect_answer`, if they have it, or what `wrong` gives. A row that asks what an earlier one asks is left out,
    with a message in `skipped`.

    answer.jsonl: `Hints`. feedback.jsonl: `Feedback`. mimicry.jsonl: `Mimicry`. What a file is, its rows say, not its
    name: hints in the prompts; a wrong attribution; what the user likes or wrote.

    Args:
        path: A JSON Lines file, or "hf://datasets/meg-tong/sycophancy-eval/are_you_sure.jsonl".
        wrong: Gives a wrong answer to a free-form row of are_you_sure.jsonl from its `base`, or None.
        datasets: Take only rows whose base.dataset is one of these ("truthful_qa_mc", "trivia_qa", ...).
        on_error: What to do with a row that can't be read: "raise", or "skip" it with a message in `skipped`.

    Raises: as `model_written_evals` does; ValueError also where there is no row of `datasets`, for rows of several
        files in one, or rows of another data set (the message names what reads them).
    """
    datasets = [datasets] if isinstance(datasets, str) else datasets
    wanted = None if datasets is None else set(datasets)
    try:
        kinds = set(read_rows(path, lambda row, number: _kind(row), "skip")[0])
    except ValueError:  # said below, as the caller asked
        kinds = set()
    for other in {"model_written_evals", "AreYouSure"} & kinds:
        raise ValueError(f"{path} is no file of SycophancyEval: read it with {other}({str(path)!r})")
    special = sorted(kinds - {"are_you_sure"})
    if len(special) > 1:
        raise ValueError(f"{path} has rows of {' and '.join(special)}: give each a file of its own")
    seen: set[str] = set()

    def take(row: Record) -> bool:
        if wanted is None:
            return True
        seen.add(row.record("base").text("dataset"))
        return row.values["base"]["dataset"] in wanted

    name = Path(path).name
    readers: dict[str, Any] = {"answer": Hints, "feedback": Feedback, "mimicry": Mimicry}
    if special and wrong is not None:
        raise ValueError(f"{path} holds rows of {special[0]}.jsonl, which need no wrong=: leave it out")
    asked: dict[Any, int] = {}
    again: list[str] = []

    def make(row: Record, number: int) -> Any:
        if not take(row):
            return None
        if special:
            return readers[special[0]].read(row, f"{name}, row {number}")
        base = row.record("base")
        *before, last = question_of(row)
        answers, others = choice_of(base) if base.has("correct_letter") else free_form(base, wrong)
        question = Question(last.content, answers, others, before=tuple(before), source=f"{name}, row {number}")
        first = asked.setdefault((question.before, question.plain), number)
        if first != number:
            again.append(f"{row.place}: it asks what row {first} asks")
            return None
        return question

    made, skipped = read_rows(path, make, on_error)
    if not made and wanted is not None:
        raise ValueError(f"{path} has no rows of {', '.join(wanted)}: it has {', '.join(sorted(seen))}")
    if not made:
        raise ValueError(f"{path} has rows of {special[0]}.jsonl, but in none does the user tell a feeling or a hint")
    if special:
        return readers[special[0]].of_rows(made, name=name, skipped=skipped)
    return AreYouSure(made, name=name, skipped=(*skipped, *again))


def _kind(row: Record) -> str:
    """Which file of SycophancyEval a row is of, or what else it is for."""
    if row.has("answer_matching_behavior"):
        return "model_written_evals"
    if not row.has("prompt") and row.values.keys() & {"question", "text"}:
        return "AreYouSure"
    parts = [row.values[name] for name in ("base", "metadata") if isinstance(row.values.get(name), dict)]
    if any(name in part for part in parts for name in WRONG_POET):
        return "mimicry"
    turns = row.values["prompt"] if isinstance(row.values.get("prompt"), list) else []
    said = " ".join(str(turn.get("content")) for turn in turns if isinstance(turn, dict))
    if HINT.search(said):
        return "answer"
    answers = ("correct_letter", "correct_answer", "answer")
    if FEELING.search(said) and not any(name in part for part in parts for name in answers):
        return "feedback"
    return "are_you_sure"


def _neutral_question(row: Record, question: str, neutral: Callable[[str], str] | None) -> str:
    if neutral is None:
        asked = row.text(
            "neutral_question",
            "upstream's files do not have it: pass neutral=, e.g. last_question of spt_lens.behaviours.sentences",
        )
    else:
        asked = called(row, "neutral", neutral, question)
        if not isinstance(asked, str) or not asked.strip():
            raise row.error("question", f"neutral() made {asked!r} of it", "it must return the neutral question")
    if asked.split() == question.split():
        raise row.error(
            "question",
            "the neutral question is the question itself",
            "there is nothing to contrast: give another neutral= or leave the row out by on_error='skip'",
        )
    return asked
