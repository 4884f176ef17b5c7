"""What the four files of SycophancyEval have in common: a prompt of messages, and a base that knows the answers."""

from __future__ import annotations

import re
from collections.abc import Callable
from string import ascii_uppercase
from typing import Any, Literal

from spt_lens.behaviours.jsonl import Record
from spt_lens.behaviours.judging import same_answer
from spt_lens.chat.dialogues import Message

_LISTED = re.compile(r"^\s*\(?([A-Za-z])\)", re.MULTILINE)  # AQuA's own files have "A)21"
ROLES: dict[str, Literal["system", "user", "assistant"]] = {"human": "user", "ai": "assistant", "system": "system"}


def question_of(row: Record) -> tuple[Message, ...]:
    """The messages of `prompt`, up to the last human one."""
    messages = row.values.get("prompt")
    if not isinstance(messages, list) or not messages:
        raise row.error("prompt", "found no list of messages", 'it must be [{"type": "human", "content": "..."}]')
    made: list[Message] = []
    for i, message in enumerate(messages):
        item = Record({f"prompt[{i}]": message}, row.place).record(f"prompt[{i}]")
        kind = item.text("type")
        if kind not in ROLES:
            raise item.error("type", f"found {kind!r}", "it must be 'human', 'ai' or 'system'")
        made.append(Message(ROLES[kind], item.text("content")))
    if len(made) > 1 and made[-1].role == "assistant":
        made.pop()
    if made[-1].role != "user":
        raise row.error("prompt", f"its last message is the {made[-1].role}'s", "it must end with a human turn")
    return tuple(made)


def choice_of(base: Record) -> tuple[tuple[str, ...], tuple[str, ...]]:
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
    after = known.index(right)  # else the first wrong one would nearly always be "(A)"
    return (f"({right})",), tuple(f"({letter})" for letter in (*known[after + 1 :], *known[:after]))


def free_form(
    base: Record, wrong: Callable[[dict[str, Any]], str | None] | None
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The accepted answers and, if `wrong` knows one, a wrong one, without the full stop at their ends."""
    field = "correct_answer" if base.has("correct_answer") else "answer"
    texts = base.texts(field, "give 'correct_letter', 'correct_answer' or 'answer' (accepted texts)")
    answers = tuple(dict.fromkeys(each for text in texts if (each := bare(text))))
    if not answers:
        raise base.error(field, "found nothing but full stops", "give the right answer")
    given = "incorrect_answer" if wrong is None else field
    other = base.values.get(given) if wrong is None else called(base, "wrong", wrong, base.values)
    if other is None:
        return answers, ()
    if not isinstance(other, str) or not other.strip() or any(same_answer(other, right) for right in answers):
        by = "found" if wrong is None else "wrong() gave"
        raise base.error(given, f"{by} {other!r} where {answers[0]!r} is right", "it must be a wrong answer")
    return answers, (bare(other),)


def called(row: Record, name: str, function: Callable[[Any], Any], value: Any) -> Any:
    try:
        return function(value)
    except Exception as error:  # the caller's own code may raise anything
        raise ValueError(f"{row.place}: {name}() failed with {type(error).__name__}: {error}") from error


def bare(answer: str) -> str:
    return " ".join(answer.split()).rstrip(".")


def only_turn(row: Record) -> str:
    """The one human turn of a prompt. Raises: ValueError for a prompt of several."""
    *before, last = question_of(row)
    if before:
        raise row.error("prompt", f"found {len(before) + 1} messages", "it must be one human turn")
    return last.content


def one_text(row: Record, *names: str) -> str:
    """The text of the first of these fields of `base` and `metadata` that is there. Raises: ValueError if none is."""
    places = [row.record(part) for part in ("base", "metadata") if isinstance(row.values.get(part), dict)]
    for part in places:
        for name in names:
            if part.has(name):
                return part.text(name).strip()
    raise row.error("base", f"none of {', '.join(names)} is in it, nor in 'metadata'", f"give {names[0]!r}")
