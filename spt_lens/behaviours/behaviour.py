"""A behaviour: what you write to bring your own to measuring, tuning and evaluating.

One class in one file. It says how two prompts contrast (`pairs`), what is to be learnt (`training`), what a model is
judged by (`suite`) and how a reply is read (`judge`); nothing else in the library knows words of a behaviour.
`docs/own-model-and-behaviour.md` has a whole one in fifteen lines; `opinions.py` is one.
"""

from __future__ import annotations

import hashlib
import random
import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Literal, TypeVar, get_args

from spt_lens.behaviours.suite import Suite
from spt_lens.chat.dialogues import Dialogue
from spt_lens.chat.judge import Judge
from spt_lens.checking import door, one_of, seed_number, whole_number
from spt_lens.data.pairs import ContrastPairs
from spt_lens.model.view import Model

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)
Item = TypeVar("Item")


@door
class Behaviour(ABC):
    """What a model does or is to stop doing. Heads are found and tuned on the split "train", learning rates are chosen
    on "validation", and "test" is for what is reported: splits share nothing that could be learnt by heart.

    name: what reports call it. judge: reads replies to the dialogues of `pairs` and `suite`.
    """

    name: str
    judge: Judge

    @abstractmethod
    def pairs(self, model: Model, n: int = 64, *, split: Split | None = "train", seed: int = 0) -> ContrastPairs:
        """n contrast pairs for a model: the prompt that brings the behaviour out, beside one that does not."""

    @abstractmethod
    def training(self, n: int | None = None, *, split: Split | None = "train", seed: int = 0) -> list[Dialogue]:
        """n dialogues to tune on, each ending in the reply that is to be learnt; by default as many as there are."""

    @abstractmethod
    def suite(self, split: Split | None = "test") -> Suite:
        """What a model is evaluated on."""

    def choose(
        self,
        items: Sequence[Item],
        n: int | None,
        split: Split | None,
        seed: int = 0,
        splits: Sequence[Split] | None = None,
    ) -> list[Item]:
        """n of the items of one split, or of all (None), drawn by `seed` and in their order; n=None: every one.

        splits: of each item; default: those of `split_of`, by the items' text.

        Raises: ValueError for an unknown split, one without items, or an n out of range.
        """
        check_split(split)
        names = split_of([str(item) for item in items]) if splits is None else splits
        if len(names) != len(items):
            raise ValueError(f"there are {len(names)} splits for {len(items)} items: give one for each")
        pool = [item for item, name in zip(items, names, strict=True) if split in (None, name)]
        where = f"{self.name!r} in the split {split!r}" if split else repr(self.name)
        if not pool:
            raise ValueError(f"there is nothing of {where}: give more, or use another split or split=None for all")
        if n is None:
            return pool
        whole_number(n, f"of {where}, n", most=len(pool))
        return [pool[i] for i in sorted(random.Random(f"draw {seed_number(seed)}").sample(range(len(pool)), n))]


def check_split(split: str | None) -> None:
    """Raises ValueError for a split that there is not; None stands for all of them."""
    one_of(split, "split", (*SPLITS, None))


def plain(text: str) -> str:
    """A text but for case, spaces, how accents are written and the marks at its end: what makes two the same."""
    return " ".join(unicodedata.normalize("NFC", text).casefold().split()).rstrip(" .?!:")


def split_of(texts: Sequence[str]) -> list[Split]:
    """A split for each text: half of the distinct ones train, a fifth validation, the rest test.

    The same texts (`plain`) come into the same splits in whatever order they are given.
    """
    first: dict[str, str] = {}
    for text in texts:
        first[plain(text)] = min(text, first.get(plain(text), text))
    order = sorted(first, key=lambda each: hashlib.sha256(first[each].encode()).digest())
    shares = {each: (i + 0.5) / len(order) for i, each in enumerate(order)}
    found = [shares[plain(text)] for text in texts]
    return ["train" if share < 0.5 else "validation" if share < 0.7 else "test" for share in found]
