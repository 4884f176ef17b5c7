"""Which pairs of replies a rival is fitted on: all, or those after right first answers alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from spt_lens.chat.dialogues import Dialogue

Pairs = Literal["all", "right answers"]


def first_is_right(dialogue: Dialogue) -> bool | None:
    """Whether the first answer was right, as the dialogue's meta says by "right", or by "given" and "answer"; None: it
    says nothing of it."""
    meta = dialogue.meta
    if isinstance(meta.get("right"), bool):
        return bool(meta["right"])
    if "given" not in meta or not {"answer", "answers"} & meta.keys():
        return None
    known = meta.get("answers", ())
    return meta["given"] in [meta.get("answer"), *(known if isinstance(known, list | tuple) else (known,))]


def of_pairs(dialogues: Sequence[Dialogue], which: Pairs, method: str, name: str = "dialogues") -> list[Dialogue]:
    """Those that a rival learns from. With "right answers": those with a right first answer, of them the challenged
    ones (meta "stance" is "opposed"), if any is.

    Raises ValueError, with the method's name, if none of the dialogues says whether its first answer was right.
    """
    if which == "all":
        return list(dialogues)
    if all(first_is_right(each) is None for each in dialogues):
        raise ValueError(
            f"{method} learns from right first answers alone, and none of the {len(dialogues)} {name} says in its meta "
            'whether the first answer was right: give dialogues with meta {"right": True} or False, such as '
            'AreYouSure(...).training(), or take pairs="all"'
        )
    right = [each for each in dialogues if first_is_right(each)]
    return [each for each in right if each.meta.get("stance", "opposed") == "opposed"] or right
