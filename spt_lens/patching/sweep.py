"""All heads in one sweep: exact patching at about the cost of a few forward passes.

Plain patching runs the whole model once for each head. But a patch leaves all that comes before it as it is, along
the prompt and up to the head's own layer: so each head is one variant of the prompt's end (suffix.py) that joins the
others at its own layer, and only the answer tokens are unembedded. For T tokens and a suffix of s this takes about
s / 2T of the work of plain patching.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from spt_lens.model.view import Hook
from spt_lens.patching.limits import FULL_LOGITS, Tick
from spt_lens.patching.plain import both_runs
from spt_lens.patching.readings import Readings
from spt_lens.patching.rows import Readout, Row, run_source
from spt_lens.patching.suffix import SuffixRun, suffix_run

Source = list[Float[Tensor, "batch length n_heads d_head"]]  # values to patch in, layer by layer, in the suffix
Variant = TypeVar("Variant", bound=tuple[int, int])  # a layer, and what is done there: a head, a part of a line, ...


def each_suffix(
    readings: Readings,
    work: Callable[[list[int], SuffixRun, Source, Readout], None],
    start: Callable[[Row], int] = lambda row: row.start,
) -> None:
    """For rows of one length and one start of their suffix at a time: both runs, then `work` with what they left."""
    view = readings.view

    def run(part: list[int]) -> None:
        chosen, readout = readings.rows.some(part)
        z, target = run_source(view, chosen, readout)
        suffix = suffix_run(view, torch.tensor([row.into for row in chosen]), start(chosen[0]))
        readings.tick(sum(len(row.into) + len(row.source) for row in chosen) * view.n_layers)
        readings.runs(part, read(suffix, suffix.final[None], readout)[0], target)
        if readings.gapless:  # rather than measure on in vain
            both_runs(readings)
        work(part, suffix, suffix_source(chosen, z, suffix), readout)

    readings.each(run, lambda row: (len(row.into), start(row)))


def suffix_source(rows: Sequence[Row], z: Float[Tensor, "layer places n_heads d_head"], run: SuffixRun) -> Source:
    """The values to patch in as they stand in the suffix, layer by layer; elsewhere the run's own."""
    places = torch.tensor([(i, at - run.start) for i, row in enumerate(rows) for at in row.into_at])
    place = (places[:, 1] >= 0).nonzero().flatten()  # what is patched before the suffix is not of interest in it
    row, pos = places[place].T
    found = []
    for own, values in zip(run.z, z, strict=True):
        full = own.clone()
        full[row, pos] = values[place].to(own)
        found.append(full)
    return found


def waves(variants: Sequence[Variant], most: int) -> Iterator[list[Variant]]:
    """Variants in the order of their layers, at most so many of them together."""
    ordered = sorted(variants)
    for start in range(0, len(ordered), most):
        yield ordered[start : start + most]


def most_variants(run: SuffixRun, batch_size: int) -> int:
    """How many variants may stand side by side: their attention takes no more than that of `batch_size` prompts."""
    total, share = run.start + run.length, max(1, batch_size // len(run.tokens))
    most = 1
    while (most + 1) * run.length * (run.start + (most + 1) * run.length) <= share * total * total:
        most += 1
    return most


def through(
    run: SuffixRun,
    wave: Sequence[tuple[int, int]],
    join: Callable[[int, list[int], int], Hook],
    tick: Tick = lambda tokens: None,
) -> Float[Tensor, "variants batch length d_model"]:
    """Takes variants (layer, what) from their own layers to the end.

    join: makes, of a layer, what is done to the variants that join there, and the place of the first of them, the
    hook that does it to `[batch, variants * length, ...]`.
    """
    hidden, n = run.resid[0][:, :0], 0
    for layer in range(wave[0][0], len(run.resid)):
        new = [what for at, what in wave if at == layer]
        hidden = torch.cat([hidden, run.resid[layer].repeat(1, len(new), 1)], dim=1)
        hidden = run.block(layer, hidden, [join(layer, new, n)] if new else [])
        n += len(new)
        tick(hidden.shape[0] * hidden.shape[1])
    return hidden.view(len(hidden), n, run.length, -1).transpose(0, 1)


def joining(run: SuffixRun, source: Source) -> Callable[[int, list[int], int], Hook]:
    """For `through`: variants (layer, head) join with this head alone at its value in `source`."""

    def joins(layer: int, new: list[int], first: int) -> Hook:
        def patch(z: Float[Tensor, "batch variants_length n_heads d_head"], hook: Any = None) -> Tensor:
            z = z.clone()
            each = z.view(len(z), -1, run.length, *z.shape[2:])
            for i, head in enumerate(new, start=first):
                each[:, i, :, head] = source[layer][:, :, head]
            return z

        return run.view.z_name(layer), patch

    return joins


def read(
    run: SuffixRun, ends: Float[Tensor, "variants batch length d_model"], readout: Readout
) -> Float[Tensor, "variants batch"]:
    """What the last block's outputs come to, at the positions that are read."""
    ends = ends[:, :, -readout.reads :]
    n, batch, reads, d_model = ends.shape
    if readout.tokens is not None:
        ids = readout.tokens.to(ends.device).repeat(n, 1)
        return readout.of_tokens(run.logits(ends.reshape(n * batch, d_model), ids).view(n, batch, 1, -1))
    size = max(1, FULL_LOGITS // (batch * reads * run.last_logits.shape[-1]))
    logits = (run.logits(piece.reshape(-1, d_model)).view(*piece.shape[:-1], -1) for piece in ends.split(size))
    return torch.cat([readout.of(piece) for piece in logits])
