"""Patching sets of heads in together, in short steps, between which nothing of ours is on the model.

The steps are generators: each yields how many rows it has run, and the last returns what was measured.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from spt_lens.chat.batches import Padding
from spt_lens.data.pairs import ContrastPairs
from spt_lens.heads import HeadSet
from spt_lens.model.view import Hook, ModelView
from spt_lens.patching.limits import Limits
from spt_lens.patching.plain import patch_heads
from spt_lens.patching.rows import Batch, Rows, run_source
from spt_lens.scores.metrics import check_finite, recovery, usable_pairs


@dataclass(frozen=True, eq=False)
class Unpatched:
    """What the two runs of every pair read without a patch: all that does not depend on a set of heads.

    apologises: whether the run that is patched would begin its reply with the sycophantic answer. kept and left_out:
    the numbers of the pairs whose two runs differ enough, and of the others.
    """

    base: Float[Tensor, " n_rows"]
    target: Float[Tensor, " n_rows"]
    apologises: Bool[Tensor, " n_pairs"]
    kept: list[int]
    left_out: list[int]

    def rows_of(self, rows: Rows) -> list[int]:
        """The numbers of the rows whose pairs are kept."""
        used = set(self.kept)
        return [i for i, row in enumerate(rows.rows) if row.pair in used]


def unpatched_steps(runs: Runs, limits: Limits) -> Generator[int, None, Unpatched]:
    """Reads both runs of every pair. Raises: ValueError if no pair has a gap, or logits are not finite."""
    rows = runs.rows
    base, target = runs.empty(), runs.empty()
    apologises = torch.zeros(rows.n_pairs, dtype=torch.bool)

    def read(part: list[int]) -> None:
        with runs.view.kept(), torch.no_grad():
            runs.read(part, "into", base, apologises)
            runs.read(part, "source", target)

    yield from limits.parts(rows.alike(), read)
    kept, left_out = usable_pairs(rows.by_pair(base), rows.by_pair(target))
    return Unpatched(base, target, apologises, kept, left_out)


def patched_steps(
    runs: Runs,
    limits: Limits,
    sets: Sequence[HeadSet],
    before: Unpatched,
    tick: Callable[[int], None] = lambda rows: None,
) -> Generator[int, None, tuple[Float[Tensor, "sets n_kept"], Bool[Tensor, "sets n_kept"]]]:
    """The share of the gap that each set recovers, pair by pair, and whether the reply would begin sycophantically.

    A set without heads patches nothing. Pairs without a gap are left out. tick: told of the rows that a set was
    patched into, set by set; a step is of all sets.
    """
    view, rows = runs.view, runs.rows
    patched, after = before.base.repeat(len(sets), 1), before.apologises.repeat(len(sets), 1)

    def patch(part: list[int]) -> None:
        chosen = [rows.rows[i] for i in part]
        with view.kept(), torch.no_grad():
            z, _ = run_source(view, chosen, rows.readout(part))
            places = Batch.of(chosen, "into")
            for i, heads in enumerate(sets):
                hooks = [
                    (view.z_name(layer), patch_heads(places.row, places.pos, z[layer], own))
                    for layer, own in heads.by_layer().items()
                ]
                if hooks:
                    runs.read(part, "into", patched[i], after[i], hooks)
                tick(len(part))

    used = set(before.rows_of(rows))
    yield from limits.parts([[i for i in group if i in used] for group in rows.alike()], patch)
    base, target = (rows.by_pair(values)[before.kept] for values in (before.base, before.target))
    return recovery(rows.by_pair(patched.T)[before.kept].T, base, target), after[:, before.kept]


class Runs:
    """Whole forward passes of some rows, and what is read from them."""

    def __init__(self, view: ModelView, pairs: ContrastPairs, rows: Rows, padding: Padding) -> None:
        self.view, self.rows, self.padding = view, rows, padding
        self.sycophantic = [set(both[1]) for both in pairs.answer_sets] or [
            {i} for i in pairs.answer_ids[:, 1].tolist()
        ]

    def empty(self) -> Float[Tensor, " n_rows"]:
        """In float32, or float64 for a model that is."""
        return torch.zeros(len(self.rows), dtype=torch.promote_types(self.view.dtype, torch.float32))

    def read(
        self,
        part: list[int],
        which: Literal["into", "source"],
        values: Float[Tensor, " n_rows"],
        apologises: Bool[Tensor, " n_pairs"] | None = None,
        hooks: Sequence[Hook] = (),
    ) -> None:
        """Writes what some rows read into `values`, and whether their reply begins with the sycophantic answer."""
        chosen = [self.rows.rows[i] for i in part]
        batch = Batch.of(chosen, which)
        prompts = batch.prompts
        logits = self.view.logits(prompts.tokens, prompts.attention_mask, hooks, at=batch.reads)
        read = self.rows.readout(part).of(logits)
        check_finite(read, [row.pair for row in chosen], "patched" if which == "into" else "source")
        values[part] = read.to(values)
        if apologises is not None:
            # The first position that is read is the prompt's last, whatever completion stands behind it.
            for row, token in zip(chosen, logits[:, 0].argmax(dim=-1).tolist(), strict=True):
                apologises[row.pair] = token in self.sycophantic[row.pair]
