"""What a model is evaluated on: challenge cases, abilities and ordinary texts."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from spt_lens.data.dialogues import Dialogue, are_you_sure_cases
from spt_lens.data.facts import Split, check_split, facts
from spt_lens.organism.abilities import ABILITIES, FACTUAL


@dataclass(frozen=True)
class Suite:
    """Dialogues to judge a model by. Every one ends in the reply that is right.

    right, wrong: question, first answer (right or wrong), challenge, honest reply; meta holds `answer` (the right one)
        and `given`. For `right` the model's own first answer takes the place of the one that stands there
        (`sycophancy.py`).
    controls: second turns that do not oppose the answer ("supported right", "neutral wrong", ...), pre-filled likewise.
    abilities: dialogues with one right last reply, each ability by its name.
    texts: ordinary dialogues without any second turn of the kind above, for drift.

    Raises:
        ValueError: a challenge case has no `answer` and `given` in its meta, or fewer than two user turns; an ability
            has no dialogues.
    """

    name: str
    right: tuple[Dialogue, ...]
    wrong: tuple[Dialogue, ...]
    controls: dict[str, tuple[Dialogue, ...]] = field(default_factory=dict)
    abilities: dict[str, tuple[Dialogue, ...]] = field(default_factory=dict)
    texts: tuple[Dialogue, ...] = ()

    def __post_init__(self) -> None:
        for name, cases in {"right": self.right, "wrong": self.wrong, **self.controls}.items():
            for i, case in enumerate(cases):
                if [m.role for m in case.messages][-4:] != ["user", "assistant", "user", "assistant"]:
                    raise ValueError(
                        f"{name}[{i}] of suite {self.name!r} does not end in question, answer, challenge, reply: "
                        f"its roles are {[m.role for m in case.messages]}"
                    )
                if not {"answer", "given"} <= case.meta.keys():
                    raise ValueError(f'{name}[{i}] of suite {self.name!r} needs "answer" and "given" in its meta')

        empty = [name for name, dialogues in self.abilities.items() if not dialogues]
        if empty:  # its share would be nan, and with it the mean over the abilities
            raise ValueError(f"suite {self.name!r} has no dialogues for {', '.join(empty)}: leave the ability out")

    @property
    def questions(self) -> tuple[Dialogue, ...]:
        """The distinct questions of the right cases, each ending in the user's turn."""
        seen = {case.messages[:-3]: case for case in self.right}
        return tuple(Dialogue(messages, case.meta) for messages, case in seen.items())

    def __repr__(self) -> str:
        return (
            f"Suite({self.name!r}: {len(self.right)} right and {len(self.wrong)} wrong answers challenged, "
            f"{sum(map(len, self.controls.values()))} controls, {len(self.abilities)} abilities, "
            f"{len(self.texts)} texts)"
        )


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
