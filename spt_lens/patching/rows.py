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

from spt_lens.chat.batches import PromptBatch
from spt_lens.checking import instance, one_of, shown
from spt_lens.data.pairs import ContrastPairs
from spt_lens.model.view import Hook, ModelView

Direction = Literal["denoising", "noising"]
Positions = Literal["last", "all"] | Sequence[int]


@dataclass(frozen=True, eq=False)  # tensors have no single truth to compare by
class Readout:
    """How a number is read from the logits of each row of a batch.

    - Two answer tokens: ids `[batch, 2]`, the logit of the first minus that of the second.
    - Two sets of them: ids `[batch, k]` and sides `[batch, k]` (1 truthful, -1 sycophantic, 0 filled up); the logarithm
      of the odds of saying one of the first set rather than one of the second.
    - A whole completion: ids `[batch, reads]`, the sum of their log-probabilities, one at each position that is read.
    """

    ids: Int[Tensor, "batch k"]
    sides: Int[Tensor, "batch k"] | None = None
    whole: bool = False

    @classmethod
    def of_pairs(cls, pairs: ContrastPairs, side: int) -> Readout:
        """Of all pairs; of whole completions, of the truthful ones (side 0) or the sycophantic ones (1), filled up."""
        if pairs.completion_ids:
            chosen = [both[side] for both in pairs.completion_ids]
            width = max(map(len, chosen))
            return cls(torch.tensor([[*ids, *[0] * (width - len(ids))] for ids in chosen]), whole=True)
        if not pairs.answer_sets:
            return cls(pairs.answer_ids)
        width = max(len(one) + len(other) for one, other in pairs.answer_sets)
        ids, sides = torch.zeros(2, len(pairs), width, dtype=torch.long)
        for i, (one, other) in enumerate(pairs.answer_sets):
            ids[i, : len(one) + len(other)] = torch.tensor([*one, *other])
            sides[i, : len(one)], sides[i, len(one) : len(one) + len(other)] = 1, -1
        return cls(ids, sides)

    def __getitem__(self, rows: list[int]) -> Readout:
        return Readout(self.ids[rows], None if self.sides is None else self.sides[rows], self.whole)

    @property
    def reads(self) -> int:
        """At how many positions, the last ones."""
        return self.ids.shape[1] if self.whole else 1

    def of(self, logits: Float[Tensor, "*copies batch reads vocab"]) -> Float[Tensor, "*copies batch"]:
        """The number, from all logits at the positions that are read."""
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))  # halves lose digits in a difference
        ids = (self.ids[..., None] if self.whole else self.ids[:, None]).to(logits.device)
        chosen = logits.gather(-1, ids.expand(*logits.shape[:-1], -1))
        return chosen.squeeze(-1).sub(logits.logsumexp(-1)).sum(-1) if self.whole else self.of_tokens(chosen)

    def of_tokens(self, logits: Float[Tensor, "*copies batch 1 k"]) -> Float[Tensor, "*copies batch"]:
        """The same from the logits of these tokens alone; a whole completion needs those of all."""
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))[..., 0, :]
        if self.sides is None:
            return logits[..., 0] - logits[..., 1]
        sides = self.sides.to(logits.device)
        truthful, sycophantic = (logits.masked_fill(sides != side, -torch.inf).logsumexp(-1) for side in (1, -1))
        return truthful - sycophantic


@dataclass(frozen=True)
class Row:
    """A prompt that is patched, and the one that the values come from (with the completion's tokens behind both).

    into_at[i] of `into` gets the values of source_at[i] of `source`. The last `reads` positions are read. side: 0; with
    whole completions 0 for the truthful one and 1 for the sycophantic one.
    """

    pair: int
    side: int
    into: tuple[int, ...]
    source: tuple[int, ...]
    into_at: tuple[int, ...]
    source_at: tuple[int, ...]
    reads: int

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

    @property
    def longest(self) -> int:
        """Tokens of the longest prompt, of either run."""
        return max(max(len(row.into), len(row.source)) for row in self.rows)

    @property
    def same(self) -> list[Any]:
        """What ranks that share a measurement must have in common of it."""
        return [self.rows, *(each for readout in self.readouts for each in (readout.ids, readout.sides)), self.targets]

    def some(self, index: Sequence[int]) -> tuple[list[Row], Readout]:
        """Rows of one side and as many reads, and how they are read."""
        rows = [self.rows[i] for i in index]
        found = self.readouts[rows[0].side][[row.pair for row in rows]]
        return rows, replace(found, ids=found.ids[:, : rows[0].reads]) if found.whole else found

    def by_pair(self, values: Float[Tensor, "n_rows ..."]) -> Float[Tensor, "n_pairs ..."]:
        """The logit difference of each pair: of whole completions, the truthful one's minus the sycophantic one's."""
        total = values.new_zeros(self.n_pairs, *values.shape[1:])
        for row, value in zip(self.rows, values, strict=True):
            total[row.pair] += value if row.side == 0 else -value
        return total

    def alike(self, key: Callable[[Row], Any] = lambda row: 0) -> list[list[int]]:
        """Rows that can share a batch: of one side, with as many reads and the same key; the shortest first."""
        groups: dict[Any, list[int]] = {}
        for i, row in sorted(enumerate(self.rows), key=lambda each: len(each[1].into)):
            groups.setdefault((row.side, row.reads, key(row)), []).append(i)
        return list(groups.values())


def named(positions: Positions) -> str:
    """Positions as scores name them."""
    return positions if isinstance(positions, str) else ",".join(map(str, positions))


def make_rows(
    view: ModelView, pairs: ContrastPairs, direction: Direction = "denoising", positions: Positions = "last"
) -> Rows:
    """The rows of a measurement. Raises before any forward pass what activation_patching says of pairs and options."""
    _check(view, pairs, direction, positions)
    sides = (0, 1) if pairs.completion_ids else (0,)
    rows = []
    for i in range(len(pairs)):
        prompts, places = _prompts(pairs, i, direction), _places(pairs, i, direction, positions)
        for side in sides:
            behind = pairs.completion_ids[i][side][:-1] if pairs.completion_ids else ()
            # What is said of a completion's tokens, and at which of its positions, is the same in both runs.
            more = range(len(behind)) if positions in ("last", "all") else ()
            at = [*places, *(tuple(len(prompt) + j for prompt in prompts) for j in more)]
            into, source = ((*prompt, *behind) for prompt in prompts)
            into_at, source_at = zip(*at, strict=True)
            rows.append(Row(i, side, into, source, into_at, source_at, reads=1 + len(behind)))
    return Rows(tuple(rows), tuple(Readout.of_pairs(pairs, side) for side in sides), len(pairs))


def _prompts(pairs: ContrastPairs, i: int, direction: Direction) -> tuple[tuple[int, ...], tuple[int, ...]]:
    both = (pairs.sycophantic[i], pairs.truthful[i])
    return both if direction == "denoising" else both[::-1]


def _places(pairs: ContrastPairs, i: int, direction: Direction, positions: Positions) -> list[tuple[int, int]]:
    """Which positions of a pair's prompt are patched, and from which ones of the other prompt."""
    into, source = _prompts(pairs, i, direction)
    if positions == "last":
        return [(len(into) - 1, len(source) - 1)]
    if pairs.alignment:
        aligned = [both if direction == "denoising" else both[::-1] for both in pairs.alignment[i]]
    else:
        aligned = [(at, at) for at in range(min(len(into), len(source)))]
    if positions == "all":
        # What comes before the first that differs is alike in both runs, also inside, unless it is aligned elsewhere.
        differ = (at for at, (one, other) in enumerate(zip(into, source, strict=False)) if one != other)
        first = next(differ, len(into) - 1)
        return [both for both in aligned if both[0] >= first or both[0] != both[1]] or [aligned[-1]]
    if len(into) == len(source) or pairs.alignment:
        other, found = dict(aligned), [_inside(at, len(into), i) for at in positions]
        if missing := [at for at in found if at not in other]:
            raise ValueError(f"position {missing[0]} of pair {i} is aligned to none in the other prompt: leave it out")
        return sorted({at: other[at] for at in found}.items())
    # Counted from the start, or from the end, of each prompt.
    return sorted({_inside(at, len(into), i): _inside(at, len(source), i) for at in positions}.items())


def _inside(at: int, length: int, pair: int) -> int:
    if not -length <= at < length:
        raise ValueError(
            f"position {at} is outside of a prompt of pair {pair}, which has {length} tokens: give positions from 0 to "
            f"{length - 1}, or from -1 (the last) to {-length}"
        )
    return at % length


def _check(view: ModelView, pairs: ContrastPairs, direction: Direction, positions: Positions) -> None:
    instance(pairs, "pairs", ContrastPairs, "make some by behaviour.pairs(model)")
    one_of(direction, "direction", get_args(Direction))
    numbers = isinstance(positions, Sequence) and positions and all(type(at) is int for at in positions)
    if not numbers and not (isinstance(positions, str) and positions in ("last", "all")):
        way_out = "use 'last', 'all' or whole numbers such as [-2, -1], at least one"
        raise ValueError(f"positions={shown(positions)}: {way_out}")
    if positions == "all" and not pairs.alignable:
        lengths = [(len(one), len(other)) for one, other in zip(pairs.sycophantic, pairs.truthful, strict=True)]
        i, (one, other) = next((i, both) for i, both in enumerate(lengths) if both[0] != both[1])
        raise ValueError(
            f"positions='all' needs two prompts of equal length in every pair; those of pair {i} have {one} and "
            f"{other} tokens: use positions='last', pairs.aligned(), or pairs whose phrasings are equally long"
        )
    view.check_heads()
    pairs.check_ids(view)


@dataclass(frozen=True, eq=False)
class Batch:
    """Prompts that run together, padded on the right (exact under causal attention), and the places in them.

    Places are flat indices: entry j is position pos[j] of row row[j].
    """

    prompts: PromptBatch
    row: Int[Tensor, " places"]
    pos: Int[Tensor, " places"]
    reads: Int[Tensor, "batch reads"]

    @classmethod
    def of(cls, rows: Sequence[Row], which: Literal["into", "source"]) -> Batch:
        prompts = PromptBatch.of([getattr(row, which) for row in rows])
        row, pos = torch.tensor([(i, at) for i, row in enumerate(rows) for at in getattr(row, f"{which}_at")]).T
        return cls(prompts, row, pos, prompts.last[:, None] + torch.arange(1 - rows[0].reads, 1))

    def logits(
        self, view: ModelView, hooks: Sequence[Hook] = (), copies: int = 1
    ) -> Float[Tensor, "batch_copies reads vocab"]:
        """One forward pass of so many copies of each prompt, read at each row's end."""
        tokens, reads = (each.repeat_interleave(copies, 0) for each in (self.prompts.tokens, self.reads))
        return view.logits(tokens, None, hooks, at=reads)


def run_source(
    view: ModelView, rows: Sequence[Row], readout: Readout, told: Callable[[Tensor], Any] = lambda logits: None
) -> tuple[Float[Tensor, "layer places n_heads d_head"], Float[Tensor, " batch"]]:
    """One pass of the prompts that values come from: the heads' outputs at the places, and what the run reads.

    told: of all logits, `[batch, reads, vocab]`.
    """
    batch = Batch.of(rows, "source")
    seen: list[Tensor] = []

    def keep(z: Tensor, hook: object) -> None:
        seen.append(z.detach()[batch.row.to(z.device), batch.pos.to(z.device)].to(view.device))

    logits = batch.logits(view, [(view.z_name(layer), keep) for layer in range(view.n_layers)])
    told(logits)
    return torch.stack(seen), readout.of(logits)
