"""Prompts and examples of different lengths in one batch, padded on the right: exact under causal attention."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from spt_lens.checking import plain_number, shown, whole_number


def token_ids(row: Any, name: str) -> tuple[int, ...]:
    """A row of token ids as whole numbers; in a tensor of them, 1.5 would become 1.

    Raises: TypeError for what is no row, or holds what is no whole number; ValueError for a negative id.
    """
    found = row.tolist() if isinstance(row, Tensor | np.ndarray) else row
    if not isinstance(found, Sequence) or isinstance(found, str):
        raise TypeError(f"{name} is {shown(row)}: give a list of token ids")
    ids = []
    for each in map(plain_number, found):
        if isinstance(each, bool) or not hasattr(each, "__index__") or hasattr(each, "shape"):
            raise TypeError(f"{name} holds {shown(each)}, which is no token id: give whole numbers")
        if each < 0:
            raise ValueError(f"{name} has the negative token id {each}: ids start at zero")
        ids.append(operator.index(each))
    return tuple(ids)


def padded(rows: Sequence[Sequence[int]], pad: int) -> tuple[Int[Tensor, "batch pos"], Bool[Tensor, "batch pos"]]:
    """Rows of token ids padded on the right, and a mask, True on the real tokens. Raises: ValueError for no rows."""
    if not rows:
        raise ValueError("there is nothing to pad: rows is empty")
    width = max(len(row) for row in rows)
    ids = torch.full((len(rows), width), pad, dtype=torch.long)
    mask = torch.zeros((len(rows), width), dtype=torch.bool)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row, dtype=torch.long)
        mask[i, : len(row)] = True
    return ids, mask


def by_length(rows: Sequence[Sequence[int]], size: int) -> Iterator[list[int]]:
    """The numbers of at most `size` rows of one length at a time, so that a batch needs no padding.

    Raises: ValueError if size is below one.
    """
    whole_number(size, "size")
    groups: dict[int, list[int]] = {}
    for i, row in enumerate(rows):
        groups.setdefault(len(row), []).append(i)
    for group in groups.values():
        for start in range(0, len(group), size):
            yield group[start : start + size]


PAD_ID = 0  # any id that a vocabulary has: no real token ever sees it


@dataclass(frozen=True, eq=False)  # tensors have no single truth to compare by
class PromptBatch:
    """Prompts as one tensor of token ids, padded on the right, so that no model needs a mask.

    `mask` is True on real tokens; `last` is where each row's last one is.
    """

    tokens: Int[Tensor, "batch pos"]
    mask: Bool[Tensor, "batch pos"]
    last: Int[Tensor, " batch"]

    @classmethod
    def of(cls, rows: Sequence[Sequence[int]]) -> PromptBatch:
        """Rows of token ids as one batch. Raises: ValueError for no rows, or an empty one."""
        if not all(rows):
            raise ValueError("an empty prompt has no last token: leave it out")
        tokens, mask = padded(rows, PAD_ID)
        return cls(tokens, mask, last=mask.sum(dim=1) - 1)


@dataclass(frozen=True, eq=False)  # tensors have no single truth to compare by
class PairBatch:
    """Pairs to run together: the numbers they have among all pairs, and their prompts, padded run by run."""

    index: list[int]
    sycophantic: PromptBatch
    truthful: PromptBatch
    answer_ids: Int[Tensor, "batch 2"]


Example = tuple[list[int], list[bool]]  # token ids, and True where a token is to be predicted
_WINDOW = 8  # batches that are sorted by length together: little padding, and still a near-random order


class Reads:
    """Token ids padded on the right, and where logits are read: `where` [batch pos]. lengths: real tokens of each row,
    on the CPU."""

    def __init__(
        self, tokens: Int[Tensor, "batch pos"], where: Bool[Tensor, "batch pos"], lengths: Int[Tensor, " batch"]
    ):
        self.tokens, self.where, self.lengths = tokens, where, lengths


class ExampleBatch(Reads):
    """Read at the positions BEFORE a target; `labels` [n_targets] are their ids. lengths: default: no padding."""

    def __init__(
        self,
        tokens: Int[Tensor, "batch pos"],
        targets: Bool[Tensor, "batch pos"],
        lengths: Int[Tensor, " batch"] | None = None,
    ):
        where = torch.zeros_like(targets)
        where[:, :-1] = targets[:, 1:]
        super().__init__(tokens, where, torch.full((len(tokens),), tokens.shape[1]) if lengths is None else lengths)
        self.labels: Int[Tensor, " n_targets"] = tokens[:, 1:][targets[:, 1:]]


class Examples:
    """A fixed set of examples on one device. Batches of it need no attention mask."""

    def __init__(self, examples: Sequence[Example], device: torch.device | str = "cpu"):
        """Raises ValueError if there are none, or one has no target that can be predicted."""
        if not examples:
            raise ValueError("there are no dialogues to train on: give one or more")
        for i, (ids, targets) in enumerate(examples):
            if len(ids) != len(targets):
                raise ValueError(
                    f"example {i} has {len(ids)} tokens but {len(targets)} target marks: give one for each"
                )
            if not any(targets[1:]):
                raise ValueError(f"example {i} has no target token, its last reply is empty: leave it out")
        self.tokens = padded([ids for ids, _ in examples], PAD_ID)[0].to(device)
        self.targets = padded([targets for _, targets in examples], False)[0].bool().to(device)
        self.lengths = torch.tensor([len(ids) for ids, _ in examples])

    def __len__(self) -> int:
        return len(self.lengths)

    def batch(self, rows: Int[Tensor, " batch"]) -> ExampleBatch:
        width = int(self.lengths[rows].max())
        index = rows.to(self.tokens.device)
        return ExampleBatch(self.tokens[index, :width], self.targets[index, :width], self.lengths[rows])

    def shuffled(self, size: int, seed: int) -> Iterator[ExampleBatch]:
        """Endless batches of `size`, as `order` gives them."""
        return map(self.batch, self.order(size, seed))

    def order(self, size: int, seed: int) -> Iterator[Int[Tensor, " batch"]]:
        """Numbers of `size` examples (of all, if there are fewer) at a time, without end, each epoch in a new order.

        What is left over at the end of an epoch is skipped; the next order is another one.
        """
        generator = torch.Generator().manual_seed(seed)
        size = min(size, len(self))
        count = len(self) // size
        while True:
            order = torch.randperm(len(self), generator=generator)[: count * size]
            parts = [part[self.lengths[part].argsort(stable=True)] for part in order.split(_WINDOW * size)]
            rows = torch.cat(parts).view(count, size)
            for i in torch.randperm(count, generator=generator).tolist():
                yield rows[i]

    def in_order_of_length(self, size: int) -> Iterator[tuple[Int[Tensor, " batch"], ExampleBatch]]:
        """Every example once, with its row numbers. Raises ValueError if size is below one."""
        size = min(whole_number(size, "size"), max(1, len(self.lengths)))
        for rows in self.lengths.argsort(stable=True).split(size):
            yield rows, self.batch(rows)
