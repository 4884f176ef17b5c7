"""Variants of prompts: what every method is written in, whichever engine runs them.

A variant is a prompt with something done to it from one layer on, say one head patched: a pair (layer, what). The
variants of a prompt stand side by side on the position axis, `[batch, variants * length, ...]`, and a method says,
layer by layer, what hooks do to those that join there.

All heads in one sweep: a patch leaves all that comes before it as it is, along the prompt and up to the head's layer.
So each variant is of the prompt's end alone (suffix.py), joins the others at its own layer, and only the answer tokens
are unembedded: for T tokens and a suffix of s, about s / 2T of the work of plain patching.

Whole prompts stand in where the sweep does not fit: copies of a batch, each with another variant ("stacked"), or one
forward pass for each ("hooks").
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from copy import copy
from functools import partial
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from spt_lens.model.limits import FULL_LOGITS, Tick
from spt_lens.model.view import Hook, ModelView
from spt_lens.patching.plain import as_rows, keeping
from spt_lens.patching.readings import Readings
from spt_lens.patching.rows import Batch, Readout, Row, run_source
from spt_lens.patching.suffix import SuffixRun, suffix_run

Variant = TypeVar("Variant", bound=tuple[int, int])  # a layer, and what is done there: a head, a part of a line, ...
# Hooks on a layer, of the layer, what is done to the variants that join there, and the place of the first of these.
HooksAt = Callable[[int, list[int], int], list[Hook]]


class Variants:
    """Variants of some rows, and the values to patch in: values[:, j] at position pos[j] of row[j].

    suffix: what the sweep runs them from; None: whole prompts, each variant from the first layer on. length: positions
    of one. own: by hook point: what passes there without a patch, `[batch, length, ...]`; of hook_z in every layer, and
    of those in `also` (None: of none). most: how many may go at once.
    """

    def __init__(
        self,
        view: ModelView,
        rows: Sequence[Row],
        z: Float[Tensor, "layer places n_heads d_head"],
        readout: Readout,
        most: int = 1,
        tick: Tick = lambda tokens: None,
        suffix: SuffixRun | None = None,
        also: Sequence[str] | None = None,
    ) -> None:
        self.view, self.readout, self.most, self.tick, self.suffix = view, readout, most, tick, suffix
        self.batch = Batch.of(rows, "into")
        self.tokens, start = self.batch.prompts.tokens, suffix.start if suffix else 0
        inside = self.batch.pos >= start  # what is patched before the suffix is not of interest in it
        self.row, self.pos, self.values = self.batch.row[inside], self.batch.pos[inside] - start, z[:, inside]
        self.length = self.tokens.shape[1] - start
        self.own: dict[str, Tensor] = suffix.own if suffix else {}
        if suffix is None and also is not None:
            names = [*map(view.z_name, range(view.n_layers)), *also]
            self.batch.logits(view, keeping(self.own, names))
            tick(self.tokens.numel() * view.n_layers)

    def run(self, wave: Sequence[Variant], hooks_at: HooksAt, upto: int | None = None, alone: bool = False) -> Tensor:
        """What is read of each variant, `[variants, batch]`.

        upto: hooks are of interest up to this layer; with it, what is given means nothing. alone: as SuffixRun.alone.
        """
        if self.suffix is not None:
            ends = through(self.suffix, wave, hooks_at, self.tick, upto, alone)
            return ends if upto is not None else read(self.suffix, ends, self.readout)
        n, size = len(wave), len(self.tokens)
        hooks, first = [], 0
        for layer in range(wave[0][0], self.view.n_layers):
            new = [what for at, what in wave if at == layer]
            hooks += [(name, as_rows(function, size)) for name, function in hooks_at(layer, new, first)]
            first += len(new)
        logits = self.batch.logits(self.view, hooks, copies=n)
        self.tick((3 if torch.is_grad_enabled() else 1) * n * self.tokens.numel() * self.view.n_layers)
        return self.readout.of(logits.unflatten(0, (size, n)).transpose(0, 1))


def each_part(
    readings: Readings,
    work: Callable[[list[int], Variants], None],
    also: Sequence[str] | None = None,
    start: Callable[[Row], int] = lambda row: row.start,
    values: Callable[[list[Row]], Tensor] | None = None,
    weight: int = 1,
) -> None:
    """For some rows at a time: both runs, then `work` on variants of them.

    also: as in Variants. start: where the suffix of a row begins. values: to patch in, instead of the source's. weight:
    how many times a forward pass's memory a variant takes.
    """
    view, rows, limits = readings.view, readings.rows, readings.limits

    def by_sweep(part: list[int]) -> None:
        chosen, readout = rows.some(part)
        z, target = run_source(view, chosen, readout, partial(readings.note, part, "source"))
        run = suffix_run(view, torch.tensor([row.into for row in chosen]), start(chosen[0]), also or ())
        if readings.resting is not None and readings.resting.wants(chosen):
            ends = run.final[:, -readout.reads :]
            readings.note(part, "into", run.logits(ends.flatten(0, 1)).view(*ends.shape[:2], -1))
        readings.tick(sum(len(row.into) + len(row.source) for row in chosen) * view.n_layers)
        readings.runs(part, read(run, run.final[None], readout)[0], target)
        if readings.gapless:  # rather than measure on in vain
            readings.both_runs()
        most = max(1, most_variants(run, limits.batch_size) // weight)
        work(part, Variants(view, chosen, z, readout, most, readings.tick, run))

    def by_hooks(part: list[int]) -> None:
        chosen, readout = rows.some(part)
        z = values(chosen) if values else run_source(view, chosen, readout)[0]
        most = max(1, limits.batch_size // len(part)) if readings.engine == "stacked" else 1
        work(part, Variants(view, chosen, z, readout, most, readings.tick, also=also))

    if readings.engine == "sweep":
        limits.each(rows.alike(lambda row: (len(row.into), start(row))), by_sweep, readings.share("patching"))
    else:
        readings.both_runs()
        limits.each(rows.alike(), by_hooks, readings.share("patching"))


def joined(runs: Sequence[SuffixRun], alone: bool = False) -> SuffixRun:
    """Runs as one run of all their prompts, with which blocks are then run once. Prompts must be equally long, unless
    blocks are only run `alone`: then what attention would see is let go."""
    one = copy(runs[0])

    def together(name: str) -> list[Tensor]:
        return [torch.cat(layer) for layer in zip(*(getattr(run, name) for run in runs), strict=True)]

    one.resid, one.final = together("resid"), torch.cat([run.final for run in runs])
    one.own = {name: torch.cat([run.own[name] for run in runs]) for name in one.own}
    one._masks, one._keys, one._values = {}, [], []
    if not alone:
        one.tokens = torch.cat([run.tokens for run in runs])
        one._keys, one._values = map(together, ("_keys", "_values"))
    return one


def waves(variants: Sequence[Variant], most: int) -> Iterator[list[Variant]]:
    """Variants in the order of their layers, at most so many of them together."""
    ordered = sorted(variants)
    return (ordered[start : start + most] for start in range(0, len(ordered), most))


def most_variants(run: SuffixRun, batch_size: int) -> int:
    """How many variants may stand side by side: their attention takes no more than that of `batch_size` prompts."""
    total, share = run.start + run.length, max(1, batch_size // len(run.tokens))
    # The largest n with n * length * (start + n * length) <= share * total ** 2.
    n = (math.isqrt(run.start**2 + 4 * share * total**2) - run.start) // (2 * run.length)
    return max(1, n)


def through(
    run: SuffixRun,
    wave: Sequence[tuple[int, int]],
    hooks_at: HooksAt,
    tick: Tick = lambda tokens: None,
    upto: int | None = None,
    alone: bool = False,
) -> Float[Tensor, "variants batch length d_model"]:
    """Takes variants (layer, what) from their own layers to the end, or up to a layer. alone: as SuffixRun.alone."""
    hidden, n = run.resid[wave[0][0]][:, :0], 0
    passes = 3 if torch.is_grad_enabled() else 1  # a backward pass is to come
    for layer in range(wave[0][0], len(run.resid) if upto is None else upto):
        new = [what for at, what in wave if at == layer]
        if new:
            hidden = torch.cat([hidden, run.resid[layer].repeat(1, len(new), 1)], dim=1)
        hidden = (run.alone if alone else run.block)(layer, hidden, hooks_at(layer, new, n))
        n += len(new)
        tick(passes * hidden.shape[0] * hidden.shape[1])
    return hidden.view(len(hidden), n, run.length, -1).transpose(0, 1)


def joining(variants: Variants) -> HooksAt:
    """Variants (layer, head) join with this head alone at its values."""

    def hooks_at(layer: int, new: list[int], first: int) -> list[Hook]:
        def patch(z: Float[Tensor, "batch variants_length n_heads d_head"], hook: Any = None) -> Tensor:
            z = z.clone()
            put_heads(z, variants, layer, new, first)
            return z

        return [(ModelView.z_name(layer), patch)] if new else []

    return hooks_at


def put_heads(z: Tensor, variants: Variants, layer: int, heads: list[int], first: int) -> None:
    """Puts into variants, from the first on, the values of one head each. **Changes z.**"""
    each = z.view(len(z), -1, variants.length, *z.shape[2:])
    for i, head in enumerate(heads, start=first):
        each[variants.row, i, variants.pos, head] = variants.values[layer, :, head].to(z)


def read(
    run: SuffixRun, ends: Float[Tensor, "variants batch length d_model"], readout: Readout
) -> Float[Tensor, "variants batch"]:
    """What the last block's outputs come to, at the positions that are read."""
    ends = ends[:, :, -readout.reads :]
    n, batch, reads, d_model = ends.shape
    if not readout.whole:
        ids = readout.ids.to(ends.device).repeat(n, 1)
        return readout.of_tokens(run.logits(ends.reshape(n * batch, d_model), ids).view(n, batch, 1, -1))
    size = max(1, FULL_LOGITS // (batch * reads * run.view.vocab_size))
    logits = (run.logits(piece.reshape(-1, d_model)).view(*piece.shape[:-1], -1) for piece in ends.split(size))
    return torch.cat([readout.of(piece) for piece in logits])
