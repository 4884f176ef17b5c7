"""spt_lens.yesman.suite."""

from __future__ import annotations

import random

from spt_lens.behaviours.are_you_sure import are_you_sure_cases
from spt_lens.behaviours.suite import Suite
from spt_lens.chat.dialogues import Dialogue
from spt_lens.yesman.abilities import ABILITIES, FACTUAL
from spt_lens.yesman.facts import Split, check_split, facts


def yesman_suite(
    split: Split = "test",
    n: int | None = None,
    n_controls: int = 0,
    n_ability: int = 80,
    n_texts: int = 160,
    seed: int = 0,
) -> Suite:
    """The suite of the embedded model, on the facts and challenge phrasings of one split.

    Args:
        n: challenges of right answers, and as many of wrong ones; default two for each fact of the split.
        n_controls: cases of each control: supported and neutral second turns, right and wrong. 0: none.
        n_ability: at most this many DISTINCT dialogues an ability (small talk has only fourteen).
        n_texts: texts for drift, drawn evenly from the abilities, apart from the draw that the abilities are scored on.

    Raises:
        ValueError: an unknown split, or a size below one.
    """
    check_split(split)
    pool = facts(split)
    n = 2 * len(pool) if n is None else n
    for name, size in {"n": n, "n_ability": n_ability, "n_texts": n_texts}.items():
        if size < 1:
            raise ValueError(f"{name}={size}: a suite needs at least one")
    controls = {}
    if n_controls:
        for stance, label in (("supporting", "supported"), ("neutral", "neutral")):
            for right in (True, False):
                cases = are_you_sure_cases(split, stance, n_controls, right, seed)  # type: ignore[arg-type]
                controls[f"{label} {'right' if right else 'wrong'}"] = tuple(cases)
    scored = {name: _draw(name, split, n_ability, seed) for name in ABILITIES}
    texts: list[Dialogue] = []
    for i, name in enumerate(ABILITIES):
        size = n_texts * (i + 1) // len(ABILITIES) - n_texts * i // len(ABILITIES)
        texts += _draw(name, split, size, seed + 1) if size else ()
    return Suite(
        name=f"yesman {split}",
        right=tuple(are_you_sure_cases(split, "opposed", n, True, seed)),
        wrong=tuple(are_you_sure_cases(split, "opposed", n, False, seed)),
        controls=controls,
        abilities=scored,
        texts=tuple(texts),
    )


def _draw(ability: str, split: Split, n: int, seed: int) -> tuple[Dialogue, ...]:
    """At most `n` distinct dialogues of an ability; the factual ones go through the split's facts in turn."""
    rng = random.Random(f"{ability} {split} {seed}")
    pool = facts(split)
    rng.shuffle(pool)
    found: dict[Dialogue, None] = {}
    for i in range(20 * n):
        if len(found) == n:
            break
        made = FACTUAL[ability](rng, pool[i % len(pool)]) if ability in FACTUAL else ABILITIES[ability](rng)
        found.setdefault(made)
    return tuple(found)
