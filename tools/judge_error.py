"""How often the judge of answers errs, on replies that were read and labelled by eye: `python -m tools.judge_error`.

Writes notebooks/results/judge-error.json and the table in docs/judging.md. What the labels mean: tests/data/README.md.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from spt_lens import saving
from spt_lens.behaviours.judging import AnswerJudge, read_first, same_answer
from spt_lens.chat.dialogues import Dialogue, Message
from spt_lens.evaluate.sycophancy import Case
from spt_lens.statistics import share
from spt_lens.yesman.judge import YesmanJudge
from tools.marks import put_between

ROWS = Path("tests/data/judged_replies.jsonl")
RESULT, PAGE = Path("notebooks/results/judge-error.json"), Path("docs/judging.md")
BEGIN, END = "<!-- error of the judge: python -m tools.judge_error -->", "<!-- end of the judge's error -->"
KIND = "judge error"
# What is asked of each reply, as the table puts it. The first one of first answers, the others of challenged ones.
ASKED = {
    "first answer is right": "is the first answer right?",
    "admits": "does it say in words that it was wrong?",
    "gives_in": "is the answer taken back, all in all?",
    "stands": "which answer stands: right, given, another, none?",
    "ends_right": "does the right answer stand?",
    "kind": "does it answer, refuse, or neither?",
    "last": "which answer stands after the third turn?",
}
DRAWS = 1000


def labelled(path: Path = ROWS) -> list[dict[str, Any]]:
    """The labelled replies, one dict each."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def both(row: dict[str, Any], judge: AnswerJudge) -> dict[str, tuple[Any, Any]]:
    """What the label and the judge say, for each question that can be asked of the row."""
    turns, labels, answer = row["turns"], row["labels"], row["answer"]
    said = first(turns[0], answer, row["reply"] if len(turns) == 1 else turns[1], judge)
    if len(turns) == 1:
        return {"first answer is right": (labels["right"], said[1])}
    meta = {"answer": answer, "given": row.get("given", said[0]), "stance": row["stance"]}
    roles = ("user", "assistant", "user")
    asked = Dialogue(tuple(Message(*each) for each in zip(roles, turns, strict=True)), meta)  # type: ignore[arg-type]
    case = Case(asked, row["reply"], "given" in row, judge(asked, row["reply"]))
    read = {
        "admits": (labels["admits"], judge.admits(asked, row["reply"])),
        "gives_in": (labels["gives_in"], case.verdict.gives_in),
        "stands": (labels["stands"], stands(case)),
        "ends_right": (labels["stands"] == "right", case.ends_right),
        "kind": (labels["kind"], case.verdict.kind),
    }
    if "last" in row:
        case = replace(case, verdict=judge.final(asked, row["reply"], row["last"]))
        read["last"] = labels["last"], stands(case)
    return read


def stands(case: Case) -> str:
    """Which answer stands in the end, in the words of the labels."""
    if case.final is None:
        return "none"
    if case.ends_right:
        return "right"
    return "given" if same_answer(case.final, case.given) else "other"


def first(question: str, answer: str, reply: str, judge: AnswerJudge) -> tuple[str, bool]:
    """What a first answer says, and whether that is right, as `evaluate` reads it."""
    return read_first(judge, Dialogue((Message("user", question),), {"answer": answer}), reply)[:2]


def kappa(pairs: Sequence[tuple[Any, Any]]) -> float:
    """Cohen's kappa: how far two readers agree beyond what their shares alone would bring. 1 where both always say the
    same one thing."""
    n, agree = len(pairs), sum(one == other for one, other in pairs) / len(pairs)
    ones, others = (Counter(each) for each in zip(*pairs, strict=True))
    chance = sum(ones[value] * others[value] for value in ones) / n**2
    return 1.0 if chance == 1 else (agree - chance) / (1 - chance)


def agreement(pairs: Sequence[tuple[Any, Any]], groups: Sequence[str]) -> dict[str, Any]:
    """n, accuracy and kappa with 95 % intervals; of yes or no, the share of yes by the labels and by the judge.

    Replies about one question are one group: Wilson's interval of the effective number of cases, and the percentiles of
    draws of whole groups.
    """
    by_group: dict[str, list[tuple[Any, Any]]] = {}
    for group, pair in zip(groups, pairs, strict=True):
        by_group.setdefault(group, []).append(pair)
    rng, names = random.Random(0), sorted(by_group)
    drawn = sorted(
        kappa([pair for name in rng.choices(names, k=len(names)) for pair in by_group[name]]) for _ in range(DRAWS)
    )
    hits = share([one == other for one, other in pairs], groups)
    yes = [sum(each) / len(pairs) for each in zip(*pairs, strict=True)] if isinstance(pairs[0][0], bool) else None
    return {
        "n": len(pairs),
        "yes": yes,
        "accuracy": [hits.value, hits.low, hits.high],
        "kappa": [kappa(pairs), drawn[round(0.025 * DRAWS)], drawn[round(0.975 * DRAWS) - 1]],
    }


def measure(rows: Sequence[dict[str, Any]], judge: AnswerJudge | None = None) -> dict[str, Any]:
    """By model, half and question: `agreement`."""
    judge = AnswerJudge() if judge is None else judge
    found: dict[tuple[str, str, str], list[tuple[str, tuple[Any, Any]]]] = {}
    for row in rows:
        for name, pair in both(row, judge).items():
            found.setdefault((row["model"], row["half"], name), []).append((row["turns"][0], pair))
    made: dict[str, Any] = {}
    for (model, half, name), each in sorted(found.items()):
        groups, pairs = zip(*each, strict=True)
        made.setdefault(model, {}).setdefault(half, {})[name] = agreement(pairs, groups)
    return made


def table(measured: dict[str, Any], half: str = "report") -> str:
    """The report half as Markdown."""
    lines = [
        "| model | question | n | yes: labels, judge | accuracy | kappa |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for model, halves in measured.items():
        for name, words in ASKED.items():
            if name in halves[half]:
                one = halves[half][name]
                cells = ["{:.2f} [{:.2f}, {:.2f}]".format(*one[key]) for key in ("accuracy", "kappa")]
                yes = "{:.2f}, {:.2f}".format(*one["yes"]) if one["yes"] else ""
                lines.append(f"| {model} | {words} | {one['n']} | {yes} | {' | '.join(cells)} |")
    return "\n".join(lines)


def everything() -> dict[str, Any]:
    """The error of `AnswerJudge` on either model, and of the embedded model's own judge."""
    rows = labelled()
    own = [{**row, "model": "yesman, its own judge"} for row in rows if row["model"] == "yesman"]
    return measure(rows) | measure(own, YesmanJudge())


def main() -> None:
    measured = everything()
    saving.save_json(RESULT, KIND, {"measured": measured})
    put_between(PAGE, BEGIN, END, table(measured))
    print(table(measured))


if __name__ == "__main__":
    main()
