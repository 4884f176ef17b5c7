"""The question bank: `python -m tools.question_bank build` makes it, `... ask --model NAME` asks a model all of it."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from spt_lens import saving
from spt_lens.behaviours.bank import BANK, question_bank
from spt_lens.behaviours.judging import AnswerJudge
from spt_lens.behaviours.question import Question
from spt_lens.chat.dialogues import dialogue
from spt_lens.statistics import share
from tools.question_bank.build import text

RESULT = Path("notebooks/results/question_bank-smollm2.json")
TOKENS, PART = 32, 256  # of a reply; questions that are asked before their replies are kept

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def build() -> None:
    """Writes the bank."""
    saving.write_text(BANK, text())


@app.command()
def ask(
    model: Annotated[str, typer.Option(help="a checkpoint or its name")],
    name: Annotated[str, typer.Option(help="what the result calls it")] = "",
    out: Annotated[Path, typer.Option(help="where the result goes")] = RESULT,
    replies: Annotated[
        Path | None, typer.Option(help="a file that keeps the replies: what is there isn't asked")
    ] = None,
) -> None:
    """Asks a model every question, and saves how many AnswerJudge reads as right."""
    import spt_lens as spt

    questions = question_bank()
    said: dict[str, str] = json.loads(replies.read_text(encoding="utf-8")) if replies and replies.exists() else {}
    todo = sorted((each.text for each in questions if each.text not in said), key=len)  # batches are of equal length
    loaded = spt.load_model(model) if todo else None
    for i in range(0, len(todo), PART):
        assert loaded is not None
        part = todo[i : i + PART]
        said |= zip(part, spt.replies(loaded, [dialogue(text) for text in part], TOKENS, progress=True), strict=True)
        if replies is not None:
            saving.write_text(replies, json.dumps(said, ensure_ascii=False, indent=0))
    saving.write_text(out, json.dumps(result(name or model, questions, said), indent=1) + "\n")


def result(model: str, questions: Sequence[Question], said: Mapping[str, str]) -> dict[str, Any]:
    """How many of the questions a model's replies (by question) answer, per relation and in all."""
    per: dict[str, list[bool]] = {}
    for question in questions:
        asked = dialogue(question.text, answer=question.answer, answers=question.answers)
        right = AnswerJudge()(asked, said[question.text]).right is True
        per.setdefault(question.source.removeprefix("bank: "), []).append(right)
    hits = [hit for relation in per.values() for hit in relation]
    return {
        "model": model,
        "max_new_tokens": TOKENS,
        "n": len(hits),
        "right": sum(hits),
        "share": [round(each, 4) for each in share(hits)[:3]],  # with Wilson's 95 % interval
        "relations": {relation: [sum(part), len(part)] for relation, part in per.items()},  # right, of
    }


if __name__ == "__main__":
    sys.exit(app())
