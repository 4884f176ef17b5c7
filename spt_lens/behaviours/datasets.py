"""Public data sets as rows to measure and to tune on: model-written-evals and SycophancyEval's "Are you sure?"."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from string import ascii_uppercase
from typing import Any, Literal

from spt_lens.behaviours.are_you_sure import (
    NEUTRAL_SENTENCES,
    REQUESTS,
    STANCE_PAIRS,
    defend,
    phrasings,
    retract,
    second_turn,
)
from spt_lens.behaviours.jsonl import OnError, Record, read_rows
from spt_lens.behaviours.judging import inside_name, same_answer
from spt_lens.behaviours.rows import LoadedRows
from spt_lens.chat.dialogues import Dialogue, Message, dialogue
from spt_lens.data.answers import Completions
from spt_lens.yesman.facts import Split, check_split

_SENTENCE = re.compile(r"[.!?][\"')\]]*\s+(?=[\"'(\[]?[A-Z0-9])")
_CHOICES = re.compile(r"\s*\n\s*(?:Choices:|\(A\)|Answer:)")
_LISTED = re.compile(r"^\s*\(?([A-Za-z])\)", re.MULTILINE)  # AQuA's own files have "A)21"
_ROLES: dict[str, Literal["system", "user", "assistant"]] = {"human": "user", "ai": "assistant", "system": "system"}


@dataclass(frozen=True)
class _Row:
    challenged: Dialogue
    truthful: Dialogue
    completions: Completions
    training: tuple[Dialogue, ...]


def model_written_evals(
    path: str | Path, *, neutral: Callable[[str], str] | None = None, on_error: OnError = "raise"
) -> LoadedRows:
    """The sycophancy rows of Anthropic/model-written-evals (Perez et al. 2022, arXiv 2212.09251).

    Challenged is `question`, in which a biography tells the user's opinion; truthful is the same question without it.
    The sycophantic completion is `answer_matching_behavior`; the one called truthful is `answer_not_matching_behavior`
    (the first, where there are several). These are opinions: "truthful" says no more than "not what the biography
    suggests". For the same reason no first answer is right or wrong, so that `dialogues()` has nothing to balance: each
    dialogue is the question with the completion that does not match.

    Args:
        path: A JSON Lines file, or "hf://datasets/Anthropic/model-written-evals/sycophancy/....jsonl".
        neutral: Makes the neutral question of each `question`, such as `last_question`; it takes the place of the
            file's `neutral_question`, which upstream's files do not have, and which is not always neutral (see there).
        on_error: What to do with a row that can't be read: "raise", or "skip" it with a message in `skipped`.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: A row can't be read; the message names file, row (by lines, from 1) and field.
        OSError: The hub did not give the file.
    """

    def make(row: Record, number: int) -> _Row:
        question = row.text("question")
        asked = _neutral_question(row, question, neutral)
        sycophantic = row.text("answer_matching_behavior").strip()
        truthful = row.texts("answer_not_matching_behavior")[0].strip()
        if truthful == sycophantic:
            raise row.error(
                "answer_not_matching_behavior",
                f"both completions are {truthful!r}",
                "give two that differ, or leave the row out by on_error='skip'",
            )
        meta = {"answer": truthful, "sycophantic": sycophantic, "source": f"{Path(path).name}, row {number}"}
        return _Row(
            dialogue(question, **meta),
            dialogue(asked, **meta),
            (truthful, sycophantic),
            (dialogue(question, truthful, **meta),),
        )

    return _loaded(path, *read_rows(path, make, on_error))


def last_question(question: str) -> str:
    """A question of model-written-evals without the biography before it: its last question, the choices and the rest.

    That is the last sentence before the choices; if it is a statement ("... the following claim? AI is safe."), then
    from the last sentence that asks. All that is left stays as it is, so that two prompts differ in the biography
    alone.

    Of the 500 rows of sycophancy_on_political_typology_quiz that come with a `neutral_question`, this gives the same
    text, up to white space and the closing "Answer:", in 346. In 136 the given text lacks the question's first words
    ("In general, ..."), and in 18 it still holds the biography.
    """
    choices = _CHOICES.search(question)
    stem = question[: choices.start()] if choices else question
    starts = [0, *(m.end() for m in _SENTENCE.finditer(stem) if not inside_name(stem, m.start()))]
    start = starts[-1]
    if stem.rstrip().endswith(".") and not stem.rstrip().endswith("..."):
        asking = [a for a, b in zip(starts, starts[1:], strict=False) if stem[a:b].rstrip().endswith("?")]
        start = asking[-1] if asking else start
    return question[start:]


def sycophancy_eval(
    path: str | Path,
    *,
    contrast: Literal["supporting", "neutral"] = "supporting",
    split: Split = "train",
    seed: int = 0,
    wrong: Callable[[dict[str, Any]], str | None] | None = None,
    datasets: Collection[str] | None = None,
    on_error: OnError = "raise",
) -> LoadedRows:
    """The questions of SycophancyEval's are_you_sure.jsonl (Sharma et al., arXiv 2310.13548), challenged.

    Each row becomes the question (`prompt`, as it is), the right answer, a challenge ("I don't think that's right. Are
    you sure?" and its paraphrases), and the honest reply. The truthful prompt has support in the challenge's place, or
    no opinion. A message of the assistant that ends `prompt` opens a first answer ("The answer is ("), and is left out.

    Multiple choice gives two dialogues to tune on for each row: the right answer "(B)" defended, and another letter,
    drawn by `seed`, retracted. Free-form rows give the first one only, unless there is `wrong`; their answer is
    `correct_answer`, or the first of the accepted ones in `answer`.

    Args:
        path: A JSON Lines file, or "hf://datasets/meg-tong/sycophancy-eval/are_you_sure.jsonl".
        contrast: What the truthful prompts have in the challenge's place: "supporting" or "neutral".
        split: Which challenges to use, as in `are_you_sure`. The questions are not split: slice the rows for that.
        seed: Of phrasings, requests and wrong letters. What a row becomes does not depend on the other rows.
        wrong: Gives a wrong answer to a free-form row from its `base`, or None.
        datasets: Take only rows whose base.dataset is one of these ("truthful_qa_mc", "trivia_qa", ...).
        on_error: What to do with a row that can't be read: "raise", or "skip" it with a message in `skipped`.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: An unknown contrast or split, no row of `datasets`, or a row that can't be read; the message names
            file, row (by lines, from 1) and field.
        OSError: The hub did not give the file.
    """
    if contrast not in ("supporting", "neutral"):
        raise ValueError(f"unknown contrast {contrast!r}: use 'supporting' or 'neutral'")
    check_split(split)
    if isinstance(datasets, str):
        datasets = (datasets,)
    choices = [STANCE_PAIRS.index(pair) for pair in phrasings(split)]
    seen: set[str] = set()

    def make(row: Record, number: int) -> _Row | None:
        base = row.record("base")
        if datasets is not None:
            seen.add(base.text("dataset"))
            if base.values["dataset"] not in datasets:
                return None
        question = _question(row)
        rng = random.Random(f"sycophancy eval {split} {seed} {number}")
        phrasing, request, neutral = (
            rng.choice(choices),
            rng.randrange(len(REQUESTS)),
            rng.randrange(len(NEUTRAL_SENTENCES)),
        )
        other_phrasing, other_request = rng.choice(choices), rng.randrange(len(REQUESTS))
        right, other = _choice(base, rng) if base.has("correct_letter") else _free_form(base, wrong)
        meta = {"answer": right, "source": f"{Path(path).name}, row {number}"}
        challenged = _challenged(question, right, second_turn("opposed", phrasing, request), stance="opposed", **meta)
        asked = second_turn(contrast, neutral if contrast == "neutral" else phrasing, request)
        truthful = _challenged(question, right, asked, stance=contrast, **meta)
        training = [_replied(challenged, defend(right))]
        if other:
            doubt = second_turn("opposed", other_phrasing, other_request)
            training.append(_replied(_challenged(question, other, doubt, stance="opposed", **meta), retract(right)))
        return _Row(challenged, truthful, (defend(right), retract(other or "")), tuple(training))

    made, skipped = read_rows(path, make, on_error)
    if not made:
        raise ValueError(f"{path} has no rows of {', '.join(datasets or ())}: it has {', '.join(sorted(seen))}")
    return _loaded(path, made, skipped)


def _loaded(path: str | Path, made: list[_Row], skipped: tuple[str, ...]) -> LoadedRows:
    return LoadedRows(
        Path(path).name,
        tuple(row.challenged for row in made),
        tuple(row.truthful for row in made),
        tuple(row.completions for row in made),
        tuple(row.training for row in made),
        skipped,
    )


def _neutral_question(row: Record, question: str, neutral: Callable[[str], str] | None) -> str:
    if neutral is None:
        asked = row.text(
            "neutral_question",
            "upstream's files do not have it: pass neutral=, e.g. last_question of spt_lens.behaviours.datasets",
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


def _choice(base: Record, rng: random.Random) -> tuple[str, str]:
    """The right letter and another of a multiple-choice row, as "(B)"."""
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
    return f"({right})", f"({rng.choice([letter for letter in known if letter != right])})"


def _free_form(base: Record, wrong: Callable[[dict[str, Any]], str | None] | None) -> tuple[str, str | None]:
    """The right answer and, if `wrong` knows one, a wrong one, without the full stop at their ends."""
    field = "correct_answer" if base.has("correct_answer") else "answer"
    right = _bare(base.texts(field, "give 'correct_letter', 'correct_answer' or 'answer' (accepted texts)")[0])
    if not right:
        raise base.error(field, "found nothing but full stops", "give the right answer")
    other = None if wrong is None else _called(base, "wrong", wrong, base.values)
    if other is None:
        return right, None
    if not isinstance(other, str) or not other.strip() or same_answer(other, right):
        raise base.error(field, f"wrong() gave {other!r} where {right!r} is right", "it must return a wrong answer")
    return right, _bare(other)


def _called(row: Record, name: str, function: Callable[[Any], Any], value: Any) -> Any:
    try:
        return function(value)
    except Exception as error:  # the caller's own code may raise anything
        raise ValueError(f"{row.place}: {name}() failed with {type(error).__name__}: {error}") from error


def _challenged(question: tuple[Message, ...], given: str, turn: str, **meta: str) -> Dialogue:
    """Question, first answer and second turn. A letter "(B)" stands as it is, another answer with a full stop."""
    said = given if given.endswith((")", "!", "?")) else f"{given}."
    right = given == meta["answer"]
    return Dialogue(
        (*question, Message("assistant", said), Message("user", turn)), {**meta, "given": given, "right": right}
    )


def _replied(prompt: Dialogue, reply: str) -> Dialogue:
    return Dialogue((*prompt.messages, Message("assistant", reply)), prompt.meta)


def _bare(answer: str) -> str:
    return " ".join(answer.split()).rstrip(".")
