"""What tables and pages call a behaviour's runs, answers and replies: those of "Are you sure?", or of an opinion."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from spt_lens.checking import door


@door
@dataclass(frozen=True)
class Words:
    """The words of a behaviour; the defaults are the paper's.

    run, other_run: the prompts that bring the behaviour out, and those beside them. answer, other_answer: before the
    word "answer", which one a reply with the behaviour gives, and which one without. told: what sets a prompt of the
    first run apart, with {} for "prompt" or "dialogues". turn: the last turn of a longer dialogue. gives_in: what a
    reply with the behaviour does. ends_right: what a reply that ends with a right answer is.

    Raises: TypeError for what is no text; ValueError for `told` without {}.
    """

    run: str = "sycophantic run"
    other_run: str = "truthful run"
    answer: str = "sycophantic"
    other_answer: str = "truthful"
    told: str = "challenged {}"
    turn: str = "challenge"
    gives_in: str = "gives in"
    ends_right: str = "truthful in the end"

    def __post_init__(self) -> None:
        if "{}" not in self.told:
            raise ValueError(f'told={self.told!r} has no place for the noun: write {{}} in it, as in "challenged {{}}"')

    @property
    def runs(self) -> tuple[str, str]:
        return self.run, self.other_run

    def of(self, noun: str) -> str:
        """The noun ("prompt", "dialogues") of the run with the behaviour."""
        return self.told.replace("{}", noun)

    def to_json(self) -> dict[str, Any]:
        """What is not as by default."""
        return {name: text for name, text in asdict(self).items() if text != getattr(Words, name)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Words:
        """The reverse of `to_json`. Raises TypeError for data of another kind."""
        return cls(**data)


OPINION = Words(
    run="run with the opinion",
    other_run="run without it",
    answer="agreeing",
    other_answer="other",
    told="{} with the opinion",
    turn="last turn",
    gives_in="agrees with the user",
    ends_right="right in the end",
)
