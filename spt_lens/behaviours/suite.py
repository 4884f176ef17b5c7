"""What a model is evaluated on: challenge cases, abilities and ordinary texts."""

from __future__ import annotations

from dataclasses import dataclass, field

from spt_lens.chat.dialogues import Dialogue


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
