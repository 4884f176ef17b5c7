"""What is run, prompt by prompt: which positions of a prompt are patched, from where, and what is read at its end.

A pair is one row; with whole completions it is two, one for each completion, which stands behind the prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from spt_lens.chat.batches import Padding, PromptBatch, check_padding
from spt_lens.data.pairs import ContrastPairs
from spt_lens.model.view import ModelView
from spt_lens.patching.readout import Readout, pair_readout

Direction = Literal["denoising", "noising"]
Positions = Literal["last", "all"] | Sequence[int]


@dataclass(frozen=True)
class Row:
    """A prompt that is patched, and the one that the values come from (with the completion's tokens behind both).

    into_at[i] of `into` gets the values of source_at[i] of `source`. The last `reads` positions are read.
    """

    pair: int
    into: tuple[int, ...]
    source: tuple[int, ...]
    into_at: tuple[int, ...]
    source_at: tuple[int, ...]
    reads: int
    side: int  # 0; with whole completions 0 for the truthful one and 1 for the sycophantic one

    @property
    def arrives(self) -> bool:
        """Whether a position that is read is patched."""
        return max(self.into_at) >= len(self.into) - self.reads

    @property
    def start(self) -> int:
        """The first position that is patched or read: nothing before it changes."""
        return min(*self.into_at, len(self.into) - self.reads)


@dataclass(frozen=True, eq=False)
class Rows:
    """All rows of a measurement. `readouts[side]` is over all pairs.

    targets: what is read at the other end of the gap, where that is not the run that the values come from.
    """

    rows: tuple[Row, ...]
    readouts: tuple[Readout, ...]
    n_pairs: int
    targets: Float[Tensor, " n_rows"] | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def readout(self, index: Sequence[int]) -> Readout:
        """Of some rows, which must have one side and as many reads."""
        rows = [self.rows[i] for i in index]
        found = self.readouts[rows[0].side][[row.pair for row in rows]]
        return replace(found, ids=found.ids[:, : rows[0].reads]) if found.whole else found

    def by_pair(self, values: Float[Tensor, "n_rows ..."]) -> Float[Tensor, "n_pairs ..."]:
        """The logit difference of each pair: of whole completions, the truthful one's minus the sycophantic one's."""
        total = values.new_zeros(self.n_pairs, *values.shape[1:])
        for row, value in zip(self.rows, values, strict=True):
            total[row.pair] += value if row.side == 0 else -value
        return total

    def alike(self, padding: Padding, key: Callable[[Row], Any] = lambda row: 0) -> list[list[int]]:
        """Rows that can share a batch: of one side, with as many reads and the same key; the shortest first."""
        none = padding == "none"
        groups: dict[Any, list[int]] = {}
        for i in sorted(range(len(self)), key=lambda i: len(self.rows[i].into)):
            row = self.rows[i]
            lengths = (len(row.into), len(row.source)) if none else ()
            groups.setdefault((row.side, row.reads, lengths, key(row)), []).append(i)
        return list(groups.values())


def named(positions: Positions) -> str:
    """Positions as scores name them."""
    return positions if isinstance(positions, str) else ",".join(map(str, positions))


def make_rows(pairs: ContrastPairs, direction: Direction, positions: Positions) -> Rows:
    """The rows of a measurement. Raises ValueError as check_patching does."""
    sides = (0, 1) if pairs.completion_ids else (0,)
    rows = []
    for i in range(len(pairs)):
        into_at, source_at = _places(pairs, i, direction, positions)
        for side in sides:
            behind = pairs.completion_ids[i][side][:-1] if pairs.completion_ids else ()
            into, source = ((*prompt, *behind) for prompt in _prompts(pairs, i, direction))
            # What is said of a completion's tokens, and at which of its positions, is the same in both runs.
            more = range(len(behind)) if positions in ("last", "all") else ()
            rows.append(
                Row(
                    pair=i,
                    into=into,
                    source=source,
                    into_at=(*into_at, *(len(into) - len(behind) + j for j in more)),
                    source_at=(*source_at, *(len(source) - len(behind) + j for j in more)),
                    reads=1 + len(behind),
                    side=side,
                )
            )
    return Rows(tuple(rows), tuple(pair_readout(pairs, side) for side in sides), len(pairs))


def _prompts(pairs: ContrastPairs, i: int, direction: Direction) -> tuple[tuple[int, ...], tuple[int, ...]]:
    both = (pairs.sycophantic[i], pairs.truthful[i])
    return both if direction == "denoising" else both[::-1]


def _places(pairs: ContrastPairs, i: int, direction: Direction, positions: Positions) -> tuple[list[int], list[int]]:
    """Which positions of a pair's prompt are patched, and from which ones of the other prompt."""
    into, source = _prompts(pairs, i, direction)
    if positions == "last":
        return [len(into) - 1], [len(source) - 1]
    if pairs.alignment:
        aligned = [both if direction == "denoising" else both[::-1] for both in pairs.alignment[i]]
    else:
        aligned = [(at, at) for at in range(min(len(into), len(source)))]
    if positions == "all":
        same = next((at for at, (one, other) in enumerate(zip(into, source, strict=False)) if one != other), None)
        first = len(into) - 1 if same is None else same  # what comes before is alike in both runs, also inside
        # Before that, only what is aligned to another place can differ.
        chosen = [both for both in aligned if both[0] >= first or both[0] != both[1]] or [aligned[-1]]
        return [a for a, _ in chosen], [b for _, b in chosen]
    if len(into) == len(source) or pairs.alignment:
        other = dict(aligned)
        found = [_inside(at, len(into), i) for at in positions]
        missing = [at for at in found if at not in other]
        if missing:
            raise ValueError(f"position {missing[0]} of pair {i} is aligned to none in the other prompt: leave it out")
        chosen = sorted({at: other[at] for at in found}.items())
    else:  # counted from the start, or from the end, of each prompt
        chosen = sorted({_inside(at, len(into), i): _inside(at, len(source), i) for at in positions}.items())
    return [a for a, _ in chosen], [b for _, b in chosen]


def _inside(at: int, length: int, pair: int) -> int:
    if not -length <= at < length:
        raise ValueError(
            f"position {at} is outside of a prompt of pair {pair}, which has {length} tokens: give positions from 0 to "
            f"{length - 1}, or from -1 (the last) to {-length}"
        )
    return at % length


def check_patching(view: ModelView, pairs: ContrastPairs, direction: str, positions: Positions, padding: str) -> None:
    """What can be known to be wrong before any forward pass. Raises: as head_recovery."""
    if direction not in get_args(Direction):
        raise ValueError(f"unknown direction {direction!r}: use 'denoising' or 'noising'")
    if isinstance(positions, str):
        if positions not in ("last", "all"):
            raise ValueError(f"unknown positions {positions!r}: use 'last', 'all' or numbers such as [-2, -1]")
    elif (
        not isinstance(positions, Sequence)
        or not positions
        or not all(isinstance(at, int) and not isinstance(at, bool) for at in positions)
    ):
        raise ValueError(f"positions={positions!r}: use 'last', 'all' or whole numbers such as [-2, -1], at least one")
    check_padding(padding)
    if positions == "all" and not pairs.alignable:
        lengths = enumerate(zip(pairs.sycophantic, pairs.truthful, strict=True))
        i, one, other = next((i, len(a), len(b)) for i, (a, b) in lengths if len(a) != len(b))
        raise ValueError(
            f"positions='all' needs two prompts of equal length in every pair; those of pair {i} have {one} and "
            f"{other} tokens: use positions='last', pairs.aligned(), or pairs whose phrasings are equally long"
        )
    view.check_measurable()
    pairs.check(view)
    for i in range(len(pairs) if not isinstance(positions, str) else 0):
        _places(pairs, i, direction, positions)  # type: ignore[arg-type]


@dataclass(frozen=True, eq=False)
class Batch:
    """Prompts that run together, and the places in them, as flat indices: entry j is position pos[j] of row row[j]."""

    prompts: PromptBatch
    row: Int[Tensor, " places"]
    pos: Int[Tensor, " places"]
    reads: Int[Tensor, "batch reads"]

    @classmethod
    def of(cls, rows: Sequence[Row], which: Literal["into", "source"], padding: Padding) -> Batch:
        """Pads prompts of different lengths on one side, and moves the places along."""
        prompts = PromptBatch.of([getattr(row, which) for row in rows], padding)
        at = [row.into_at if which == "into" else row.source_at for row in rows]
        begin = prompts.mask.int().argmax(dim=1)  # where a row's own tokens begin
        row = torch.tensor([i for i, places in enumerate(at) for _ in places])
        pos = torch.tensor([place for places in at for place in places]) + begin[row]
        back = torch.arange(1 - rows[0].reads, 1)
        return cls(prompts, row, pos, prompts.last[:, None] + back)


def run_source(
    view: ModelView, rows: Sequence[Row], readout: Readout, padding: Padding
) -> tuple[Float[Tensor, "layer places n_heads d_head"], Float[Tensor, " batch"]]:
    """One pass of the prompts that values come from: the heads' outputs at the places, and what the run reads."""
    batch = Batch.of(rows, "source", padding)
    seen: list[Tensor] = []

    def keep(z: Tensor, hook: object) -> None:
        seen.append(z.detach()[batch.row.to(z.device), batch.pos.to(z.device)])

    hooks = [(view.z_name(layer), keep) for layer in range(view.n_layers)]
    logits = view.logits(batch.prompts.tokens, batch.prompts.attention_mask, hooks, at=batch.reads)
    return torch.stack(seen), readout.of(logits)
