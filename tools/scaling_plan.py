"""A plan on paper for 7B, 13B and 70B: the tables of docs/scaling.md, by `python -m tools.scaling_plan`.

What measuring, tuning and replying take by the formulas of `scaling_formulas.py`, and how far these are from what was
measured at two sizes (`scaling_check.py`, which wrote notebooks/results/scaling.json).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spt_lens import saving
from spt_lens.patching.activation import Activation
from spt_lens.patching.attribution import Attribution
from spt_lens.patching.path import Path as PathMethod
from tools.marks import put_between
from tools.scaling_check import KIND, RESULT, TASKS
from tools.scaling_formulas import LLAMAS, Sizes, Trained

PAGE = Path("docs/scaling.md")
GB = 1e9


@dataclass(frozen=True)
class Study:
    """What is done: pairs of so many tokens, which differ in the last `suffix` ones; tuning on dialogues of as many
    tokens, `targets` of them a reply's, `batch` a step; answers of `new` tokens to `replies` prompts."""

    pairs: int = 24
    tokens: int = 128
    suffix: int = 16
    dialogues: int = 1000
    targets: int = 24
    batch: int = 16
    steps: int = 200
    replies: int = 100
    at_once: int = 64
    new: int = 24
    share: float = 0.05  # of the heads
    runs: int = 71  # of a comparison


@dataclass(frozen=True)
class Card:
    """teraflops: the maker's figure for dense bfloat16. bandwidth: terabytes a second. memory: GB."""

    name: str
    teraflops: float
    bandwidth: float
    memory: float = 80


STUDY = Study()
CARDS = (Card("A100 80GB", 312, 2.0), Card("H100 80GB", 989, 3.35))
REACHED = 0.3  # of the maker's operations a second, in passes over many tokens
FED = 0.5  # of its bandwidth, in replies, which read all weights for each token
FREE = 0.9  # of a card's memory: the rest is the context's and what lies between tensors

WAYS: dict[str, tuple[Trained, float]] = {
    "5 % of the heads, from the middle on": ("slices", 1 / 2),
    "5 % of the heads, top third": ("slices", 2 / 3),
    "LoRA, rank 16, all attention": ("lora", 0),
    "full fine-tuning": ("full", 0),
}


def chosen(sizes: Sizes, trained: Trained, share: float) -> dict[str, Any]:
    """The heads of a way to tune, as the formulas take them."""
    if trained != "slices":
        return {}
    heads = round(STUDY.share * sizes.n_layers * sizes.n_heads)
    return {"lowest": math.ceil(share * sizes.n_layers), "heads": heads}


def tuning_bytes(sizes: Sizes, trained: Trained, share: float) -> float:
    """Above the weights: a step, and the kept hidden states."""
    s = STUDY
    how = chosen(sizes, trained, share)
    kept = sizes.states(s.dialogues * s.tokens) if trained == "slices" else 0
    return sizes.tuning(trained, s.batch * s.tokens, s.tokens, s.batch * s.targets, **how) + kept


def tuning_work(sizes: Sizes, trained: Trained, share: float) -> float:
    """Operations of all steps, and of the hidden states that are kept before them."""
    s = STUDY
    how = chosen(sizes, trained, share)
    below = sizes.below(s.dialogues * s.tokens, s.tokens, how.get("lowest", 0))
    return below + s.steps * sizes.step(trained, s.batch * s.tokens, s.tokens, s.batch * s.targets, **how)


def measuring(sizes: Sizes) -> dict[str, float]:
    """Forward passes of all prompts, by method."""
    s = STUDY
    return {
        "activation patching, last position": sizes.passes(Activation(), s.tokens, 1, s.pairs),
        "activation patching, all positions": sizes.passes(Activation(), s.tokens, s.suffix, s.pairs),
        "path patching to the logits": sizes.passes(PathMethod(), s.tokens, 1, s.pairs),
        "attribution, one step": sizes.passes(Attribution(), s.tokens, 1, s.pairs),
    }


def replies_seconds(sizes: Sizes, card: Card) -> float:
    """Reading the prompts by operations; each new token by the bytes that are read for a batch."""
    s = STUDY
    read = sizes.forward(s.replies * s.tokens, s.tokens, s.replies) / (card.teraflops * 1e12 * REACHED)
    batches = math.ceil(s.replies / s.at_once)
    each = sizes.weights * sizes.size + sizes.keys_and_values(s.at_once, s.tokens + s.new)
    return read + batches * s.new * each / (card.bandwidth * 1e12 * FED)


def cards(total: float) -> str:
    """How many cards of 80 GB hold so many bytes."""
    return f"{math.ceil(total / (CARDS[0].memory * GB * FREE))}"


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def memory_table() -> str:
    s = STUDY

    def row(title: str, of: Any) -> list[str]:
        return [title, *(f"{of(m) / GB:.3g}" for m in LLAMAS)]

    rows = [
        row("weights", lambda m: m.weights * m.size),
        row("hidden states kept of all dialogues, below one layer", lambda m: m.states(s.dialogues * s.tokens)),
        row("measuring, 16 prompts at once", lambda m: 16 * m.prompt(s.tokens)),
        row("the same, attribution", lambda m: 16 * m.prompt(s.tokens) * Attribution.memory),
        row(f"replies, {s.at_once} at once: keys and values", lambda m: m.keys_and_values(s.at_once, s.tokens + s.new)),
    ]
    for title, (trained, share) in WAYS.items():
        how = {m.name: chosen(m, trained, share) for m in LLAMAS}

        def kept(m: Sizes, trained: Trained = trained, how: Any = how) -> float:
            layers = m.n_layers - how[m.name].get("lowest", 0)
            return m.activations(trained, s.batch * s.tokens, s.tokens, layers)

        rows.append(row(f"{title}: activations of a step", kept))
        rows.append(
            row(
                "its weights, gradients, moments, and weights to undo it",
                lambda m, trained=trained, how=how: m.trained_bytes(trained, how[m.name].get("heads", 0)),
            )
        )
    for title, (trained, share) in WAYS.items():
        whole = [cards(m.weights * m.size + tuning_bytes(m, trained, share)) for m in LLAMAS]
        rows.append([f"**cards of {CARDS[0].memory:.0f} GB**, {title}", *whole])
    return table(["GB", *(m.name for m in LLAMAS)], rows)


def work_table() -> str:
    s = STUDY
    rows = [
        [f"{title}: forward passes of its prompts", *(f"{measuring(m)[title]:.1f}" for m in LLAMAS)]
        for title in measuring(LLAMAS[0])
    ]
    tokens, read = s.batch * s.tokens, s.batch * s.targets
    for title, (trained, share) in WAYS.items():
        steps = []
        for m in LLAMAS:
            unit, how = m.forward(tokens, s.tokens, read), chosen(m, trained, share)
            step = m.step(trained, tokens, s.tokens, read, **how) / unit
            below = m.below(tokens, s.tokens, how.get("lowest", 0)) / unit
            steps.append(f"{step:.2f}" + (f", and {below:.2f} once" if below else ""))
        rows.append([f"a step, {title}: forward passes of its batch", *steps])
    return table(["", *(m.name for m in LLAMAS)], rows)


def hours_table() -> str:
    s = STUDY

    def said(hours: float) -> str:
        if hours >= 1:
            return f"{hours:.1f} h"
        return f"{60 * hours:.1f} min" if 60 * hours >= 1 else f"{3600 * hours:.1f} s"

    rows = []
    for title in measuring(LLAMAS[0]):
        rows.append([title, *_each(lambda m, c, title=title: _measured_seconds(m, c, title), said)])
    for title, way in WAYS.items():
        rows.append([f"{s.steps} steps, {title}", *_each(lambda m, c, way=way: _tuned_seconds(m, c, way), said)])
    rows.append([f"{s.replies} replies of {s.new} tokens", *_each(replies_seconds, said)])
    way = WAYS["5 % of the heads, from the middle on"]
    rows.append(
        [
            f"**{s.runs} such runs, each with two rounds of replies**",
            *_each(lambda m, c: s.runs * (_tuned_seconds(m, c, way) + 2 * replies_seconds(m, c)), said),
        ]
    )
    return table(["", *(f"{m.name}, {c.name.split()[0]}" for m in LLAMAS for c in CARDS)], rows)


def _each(seconds: Any, said: Any) -> list[str]:
    return [said(seconds(m, c) / 3600) for m in LLAMAS for c in CARDS]


def _measured_seconds(sizes: Sizes, card: Card, title: str) -> float:
    s = STUDY
    unit = sizes.forward(s.pairs * s.tokens, s.tokens, s.pairs)
    return measuring(sizes)[title] * unit / (card.teraflops * 1e12 * REACHED)


def _tuned_seconds(sizes: Sizes, card: Card, way: tuple[Trained, float]) -> float:
    return tuning_work(sizes, *way) / (card.teraflops * 1e12 * REACHED)


def check_table(found: dict[str, Any]) -> str:
    """Predicted, measured and their ratio, as they were measured."""
    rows = []
    for row in found["rows"]:
        cells = [row["name"], row["task"]]
        for what in ("passes", "memory"):
            predicted, measured = row[what], row[f"{what} measured"]
            cells += [f"{predicted:.3g}", f"{measured:.3g}", f"{measured / predicted:.2f}"]
        rows.append(cells)
    three = ["predicted", "measured", "ratio"]
    return table(["", "", *(f"forward passes, {x}" for x in three), *(f"GiB, {x}" for x in three)], rows)


def tables(found: dict[str, Any]) -> dict[str, str]:
    """By the names of their marks."""
    return {"memory": memory_table(), "work": work_table(), "hours": hours_table(), "check": check_table(found)}


def marks(name: str) -> tuple[str, str]:
    return f"<!-- {name}: python -m tools.scaling_plan -->", f"<!-- end of {name} -->"


def main() -> None:
    found = saving.load_json(RESULT, KIND, dict)
    assert {row["task"] for row in found["rows"]} == set(TASKS)
    for name, text in tables(found).items():
        put_between(PAGE, *marks(name), text)


if __name__ == "__main__":
    main()
