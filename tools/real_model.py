"""What a real chat model's heads can be read by: `make real-model`, about ten minutes on two cores.

Asks SmolLM2 questions of the bank, and on those that it gets right: which words tell its runs apart, in four contrasts;
how far rankings of its heads by different readouts agree; and how far bfloat16 agrees with float32. Writes
notebooks/results/real-model.json and the tables in docs/real-models.md and docs/measuring.md.
"""

from __future__ import annotations

import copy
import random
import warnings
from pathlib import Path
from typing import Any

import torch

import spt_lens as spt
from spt_lens import saving
from spt_lens.behaviours.are_you_sure import Contrast
from spt_lens.behaviours.asking import ask
from spt_lens.behaviours.bank import question_bank
from spt_lens.data.wording import FoundWords
from tools.marks import put_between

MODEL, N_QUESTIONS, N_PAIRS, N_HALF, N_DIALOGUES = "smollm2", 160, 24, 16, 64
RESULT = Path("notebooks/results/real-model.json")
KIND = "real model"
CONTRASTS: tuple[Contrast, ...] = ("supporting", "neutral", "first answer", "first turn")
PAGES = {
    "readouts": Path("docs/real-models.md"),
    "rankings": Path("docs/real-models.md"),
    "precision": Path("docs/measuring.md"),
}


def measure() -> dict[str, Any]:
    """Everything, as JSON holds it."""
    model = spt.load_model(MODEL)
    questions = random.Random(0).sample(question_bank(), N_QUESTIONS)
    doubt = spt.AreYouSure(questions)
    answers = ask(model, doubt)
    known = doubt.asked(answers)
    found: dict[str, Any] = {"model": answers.about["model"], "asked": repr(answers)}
    rankings: dict[str, spt.HeadScores] = {}
    readouts = []
    for contrast in CONTRASTS:
        pairs = known.pairs(model, N_PAIRS, contrast=contrast, split=None)
        rankings[f"{contrast}, words of the behaviour"] = scores = spt.activation_patching(model, pairs)
        readouts.append(_row(contrast, "its words", scores))
        words: FoundWords = pairs.find_words(model)
        if words.best is None:
            readouts.append({"contrast": contrast, "read": "found: none"})
            continue
        named = f"{words.best.texts[0]}: {words.best.texts[1]} / {words.best.texts[2]}"
        read = pairs.with_words(words)
        rankings[f"{contrast}, words found"] = scores = spt.activation_patching(model, read)
        readouts.append(_row(contrast, named, scores) | {"by": words.by, "held": list(words.best.held.gap)})
    rankings["objective"] = spt.objective_gradient(model, known.training(N_DIALOGUES, split=None))
    names = list(rankings)
    found["readouts"] = readouts
    found["rankings"] = [
        {"one": one, "other": other} | _agreement(rankings[one], rankings[other])
        for i, one in enumerate(names)
        for other in names[i + 1 :]
    ]
    found["halves"] = {name: scores.stability()._asdict() for name, scores in rankings.items()}
    found["precision"] = precision(model, known)
    return found


def precision(model: Any, known: spt.AreYouSure) -> list[dict[str, Any]]:
    """The same pairs in bfloat16, and in float32 with weights rounded to bfloat16, against float32."""
    pairs = known.pairs(model, N_HALF, split=None)
    exact = spt.activation_patching(model, pairs)
    halves = exact.stability()
    rows = [{"in": "float32, half of the pairs against the other half", "spearman": halves.spearman}]
    rows[0]["overlap"] = halves.overlap
    rounded = spt.load_model(MODEL, dtype=torch.bfloat16)
    rows.append({"in": "bfloat16"} | _agreement(exact, spt.activation_patching(rounded, pairs)))
    del rounded
    kept = copy.deepcopy(list(model.parameters()))
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(p.to(torch.bfloat16))
    rows.append(
        {"in": "weights rounded to bfloat16, computed in float32"}
        | _agreement(exact, spt.activation_patching(model, pairs))
    )
    with torch.no_grad():
        for p, before in zip(model.parameters(), kept, strict=True):
            p.copy_(before)
    return rows


def _row(contrast: str, read: str, scores: spt.HeadScores) -> dict[str, Any]:
    check, best = scores.check, scores.top(1)[0]
    low, high = scores.interval()
    assert check is not None
    return {
        "contrast": contrast,
        "read": read,
        "mass": list(check.mass),
        "prefers": list(check.sycophantic),
        "gap": list(check.mean_gap),
        "best": str(best),
        "score": [scores[best], float(low[best]), float(high[best])],
        "warnings": list(check.warnings),
    }


def _agreement(one: spt.HeadScores, other: spt.HeadScores) -> dict[str, Any]:
    found = one.compare(other)
    return {"spearman": found.spearman, "overlap": found.overlap, "n_heads": one.values.numel()}


def tables(found: dict[str, Any]) -> dict[str, str]:
    """The tables, by the names of their marks."""
    rows = [
        "| contrast | read by | their probability | prefers the sycophantic answer | mean gap, logits | best head |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for row in found["readouts"]:
        if "mass" not in row:
            rows.append(f"| {row['contrast']} | no words tell the runs apart | | | | |")
            continue
        mass = " and ".join(f"{value:.1%}" for value in row["mass"])
        rows.append(
            f"| {row['contrast']} | {row['read']} | {mass} | {row['prefers'][0]:.2f} "
            f"| {_short(row['gap'])} | {row['best']} {_short(row['score'])} |"
        )
    other = ("supporting, words found", "objective")
    ranks = [
        f"| ranking | halves of its own | with {other[0]} | with the {other[1]}'s gradient |",
        "| --- | --- | --- | --- |",
    ]
    both = {frozenset((row["one"], row["other"])): row for row in found["rankings"]}
    for name, halves in found["halves"].items():
        cells = [both.get(frozenset((name, each))) for each in other]
        ranks.append("| " + " | ".join([name, *(_agree(cell) for cell in (halves, *cells))]) + " |")
    half = ["| | Spearman over 270 heads | of the top 13 in common |", "| --- | --- | --- |"]
    half += [f"| {row['in']} | {row['spearman']:.2f} | {13 * row['overlap']:.0f} |" for row in found["precision"]]
    return {"readouts": "\n".join(rows), "rankings": "\n".join(ranks), "precision": "\n".join(half)}


def _agree(row: dict[str, Any] | None) -> str:
    return "" if row is None else f"{row['spearman']:.2f}, {13 * row['overlap']:.0f} of 13"


def _short(estimate: Any) -> str:
    value, low, high = list(estimate)[:3]
    return f"{value:.2f} [{low:.2f}, {high:.2f}]"


def marks(name: str) -> tuple[str, str]:
    return f"<!-- {name}: make real-model -->", f"<!-- end of {name} -->"


def main() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they stand in the result
        found = measure()
    saving.save_json(RESULT, KIND, found)
    write(found)


def write(found: dict[str, Any]) -> None:
    """The tables, into their pages."""
    for name, text in tables(found).items():
        put_between(PAGES[name], *marks(name), text)


if __name__ == "__main__":
    main()
