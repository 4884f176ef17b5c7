"""Both runs of every pair, kept so that sets of heads are patched in at the prompts' ends alone.

A patch at the last position leaves all before it as it is. So the prompts' keys and values are kept from one run, as
the sweep has them: a set then takes one token's way through the blocks where plain hooks take two whole prompts.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from spt_lens.heads import HeadSet
from spt_lens.measure.sets import Runs
from spt_lens.model.devices import free_bytes
from spt_lens.model.held import is_out_of_memory
from spt_lens.model.limits import Limits
from spt_lens.model.view import Hook, ModelView
from spt_lens.patching.engine import sweep_problem
from spt_lens.patching.readings import Resting
from spt_lens.patching.rows import Row, run_source
from spt_lens.patching.suffix import suffix_run
from spt_lens.patching.sweep import HooksAt, Variants, joined, most_variants
from spt_lens.scores.metrics import check_finite


class _Piece(NamedTuple):
    """Some rows of equal length, by their numbers, and what a patch in them needs."""

    rows: list[int]
    z: Float[Tensor, "layer places n_heads d_head"]
    variants: Variants


class KeptRuns:
    """Both runs of every pair, as far as they were read.

    base, target: what the rows read, of the prompts that are patched and of the others; nan where nothing was read yet.
    """

    def __init__(self, runs: Runs, resting: Resting) -> None:
        self.runs, self.resting = runs, resting
        dtype = torch.promote_types(runs.view.dtype, torch.float32)
        self.base, self.target = torch.full((2, len(runs.rows)), torch.nan, dtype=dtype)
        self._pieces: list[_Piece] = []

    def fits(self) -> Generator[int, None, bool]:
        """Whether there is room, and the model gives in the sweep what it gives with plain hooks; in one part."""
        view, tokens = self.runs.view, sum(len(row.into) for row in self.runs.rows.rows)
        size = torch.empty((), dtype=view.dtype).element_size() * view.d_head
        each = view.n_layers * (2 * view.n_kv_heads + view.n_heads) * size
        found = tokens * each <= min(map(free_bytes, view.devices)) / 4
        if found:
            try:
                with view.kept(), torch.no_grad():
                    found = not sweep_problem(view, self.runs.rows, each=1)
            except Exception as error:  # plain hooks say what to do
                if not is_out_of_memory(error):
                    raise
                found = False
        yield 0
        return found

    def patched(self, sets: Sequence[HeadSet], values: Float[Tensor, "sets n_rows"]) -> Generator[int, None, None]:
        """Writes what is read with each set patched in, of the rows that were read already; a part has some rows."""
        for piece in self._pieces:
            self._patch(piece, sets, values)
            yield len(piece.rows)

    def read(
        self, limits: Limits, sets: Sequence[HeadSet], values: Float[Tensor, "sets n_rows"]
    ) -> Generator[int, None, None]:
        """The same of all other rows, which it reads on the way. Raises: ValueError if logits are not finite."""
        rows = self.runs.rows
        missing = set(self.base.isnan().nonzero().flatten().tolist())
        groups = [[i for i in group if i in missing] for group in rows.alike(_length)]
        for done in limits.parts([group for group in groups if group], self._read):
            self._patch(self._pieces[-1], sets, values)
            yield done
        alike: dict[Any, list[_Piece]] = {}
        for piece in self._pieces:
            row = rows.rows[piece.rows[0]]
            alike.setdefault((row.side, row.reads, _length(row)), []).append(piece)
        self._pieces = [self._joined(pieces) if len(pieces) > 1 else pieces[0] for pieces in alike.values()]

    def _read(self, part: list[int]) -> None:
        view, rows = self.runs.view, self.runs.rows
        chosen, readout = rows.some(part)
        with view.kept(), torch.no_grad():
            z, target = run_source(view, chosen, readout, partial(self.resting.note, chosen, "source"))
            run = suffix_run(view, torch.tensor([row.into for row in chosen]), chosen[0].start)
            ends = run.final[:, -readout.reads :]
            logits = run.logits(ends.flatten(0, 1)).view(*ends.shape[:2], -1)
        self.resting.note(chosen, "into", logits)
        pairs, base = [row.pair for row in chosen], readout.of(logits)
        check_finite(base, pairs, "patched")
        check_finite(target, pairs, "source")
        self._pieces.append(self._piece(part, z, run))
        self.base[part], self.target[part] = base.to(self.base), target.to(self.target)

    def _piece(self, part: list[int], z: Tensor, run: Any) -> _Piece:
        chosen, readout = self.runs.rows.some(part)
        most = most_variants(run, len(part))
        return _Piece(part, z, Variants(self.runs.view, chosen, z, readout, most, suffix=run))

    def _joined(self, pieces: list[_Piece]) -> _Piece:
        runs = [piece.variants.suffix for piece in pieces if piece.variants.suffix]
        part = [i for piece in pieces for i in piece.rows]
        return self._piece(part, torch.cat([piece.z for piece in pieces], dim=1), joined(runs))

    def _patch(self, piece: _Piece, sets: Sequence[HeadSet], values: Float[Tensor, "sets n_rows"]) -> None:
        view, rows = self.runs.view, self.runs.rows
        first = [min(heads.by_layer()) for heads in sets]

        def patch(part: list[int]) -> None:
            with view.kept(), torch.no_grad():
                found = piece.variants.run([(first[i], i) for i in part], _together(piece.variants, sets))
            for i, read in zip(part, found, strict=True):
                check_finite(read, [rows.rows[row].pair for row in piece.rows], "patched")
                values[i, piece.rows] = read.to(values)

        Limits(piece.variants.most).each([sorted(range(len(sets)), key=lambda i: first[i])], patch)


def _length(row: Row) -> tuple[int, int]:
    return len(row.into), row.start


def _together(variants: Variants, sets: Sequence[HeadSet]) -> HooksAt:
    """Variants (lowest layer, number of a set) join with all heads of the set at their values, layer by layer."""
    there: list[int] = []

    def hooks_at(layer: int, new: list[int], first: int) -> list[Hook]:
        there.extend(new)
        here = [(place, heads) for place, i in enumerate(there) if (heads := sets[i].by_layer().get(layer))]

        def patch(z: Float[Tensor, "batch variants_length n_heads d_head"], hook: Any = None) -> Tensor:
            z = z.clone()
            each = z.view(len(z), -1, variants.length, *z.shape[2:])
            for place, heads in here:
                at = (variants.row[:, None], place, variants.pos[:, None], torch.tensor(heads))
                each[at] = variants.values[layer][:, heads].to(z)
            return z

        return [(ModelView.z_name(layer), patch)] if here else []

    return hooks_at
