"""Multiple choice without letters: a question, and options of which the model's likelihood picks one."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from spt_lens.behaviours.jsonl import OnError, Record, read_rows
from spt_lens.chat.dialogues import Dialogue, check_ends, dialogue
from spt_lens.checking import door, instance, seed_number, whole_number


@door
@dataclass(frozen=True)
class Choice:
    """A dialogue that ends in the user's turn, two or more replies to it, and the number of the right one.

    Raises: TypeError for what is no dialogue or no text; ValueError for fewer than two options, an empty one, two that
    are the same, or a number that none of them has.
    """

    dialogue: Dialogue
    options: tuple[str, ...]
    right: int

    def __post_init__(self) -> None:
        check_ends(self.dialogue, "user")
        instance(self.options, "options", (list, tuple), "give a list of texts")
        object.__setattr__(self, "options", tuple(instance(o, "an option", str, "give a text") for o in self.options))
        bare = [option.strip() for option in self.options]
        if len(bare) < 2 or not all(bare) or len(set(bare)) < len(bare):
            raise ValueError(f"a choice needs two or more options that differ, none of them empty, got {self.options}")
        whole_number(self.right, "right", 0, len(bare) - 1)

    @property
    def chance(self) -> float:
        return 1 / len(self.options)


@door
def choices_from(
    path: str | Path, n: int | None = None, seed: int = 0, on_error: OnError = "raise"
) -> tuple[Choice, ...]:
    """Questions of a JSON Lines file as choices: `question`, `answer`, and the wrong ones in `wrong`.

    Args:
        path: The file, or "hf://datasets/owner/name/path/in/repo.jsonl".
        n: how many, drawn by `seed`, in the order of the file; default: all.
        on_error: what to do with a row that can't be read, such as one whose right answer is among the wrong ones:
            "raise", or "skip" it.

    Raises: FileNotFoundError; ValueError for a row that can't be read, or fewer than n rows.
    """

    def make(row: Record, number: int) -> Choice:
        answer, wrong = row.text("answer").strip(), [text.strip() for text in row.texts("wrong")]
        options = sorted([answer, *wrong])  # where the right one stands is never told to the model
        try:
            return Choice(dialogue(row.text("question").strip()), tuple(options), options.index(answer))
        except ValueError as error:
            raise row.error(
                "wrong", str(error), "give wrong answers that differ from one another and the right one"
            ) from error

    made, _ = read_rows(path, make, on_error)
    if n is None:
        return tuple(made)
    whole_number(n, f"of {path}, n", most=len(made))
    return tuple(made[i] for i in sorted(random.Random(seed_number(seed)).sample(range(len(made)), n)))


def check_choices(choices: Sequence[Choice], name: str = "choices") -> None:
    """Raises TypeError unless all are Choices."""
    instance(choices, name, (list, tuple), "give a list of Choices, such as choices_from(path) makes")
    for i, choice in enumerate(choices):
        instance(choice, f"{name}[{i}]", Choice, "make one by Choice(dialogue, options, right)")
