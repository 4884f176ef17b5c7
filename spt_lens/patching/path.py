"""Path patching: what a head writes straight to the logits, or to later heads' queries, keys and values.

Chen et al. 2024, section 3.1, after Wang et al. 2022: (1) both runs are cached; (2) the prompt runs again with the
sender head at its value from the other run and every other head frozen at its own, MLPs recomputed (or frozen too);
the receivers' values are kept. Where the receiver is the logits, these are read already. (3) Otherwise the prompt runs
once more, with the receivers at those values and everything else recomputed.

With all heads frozen, positions do not see each other: a sender is one variant of the positions alone, and attention
needs no keys (`SuffixRun.alone`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from spt_lens.chat.batches import by_length
from spt_lens.data.pairs import ContrastPairs
from spt_lens.heads import Head
from spt_lens.model.view import Hook, Model, ModelView
from spt_lens.patching.engine import METHODS, Engine, Method, joined_blocks, scores_by, sweep_problem
from spt_lens.patching.limits import Limits, Tick
from spt_lens.patching.plain_path import Mlps, Receiver, check_mlps, mlp_hook, parse_receivers, plain_paths
from spt_lens.patching.readings import Readings
from spt_lens.patching.rows import Direction, Positions, Readout, Rows, make_rows
from spt_lens.patching.suffix import SuffixRun, suffix_run
from spt_lens.patching.sweep import Source, each_suffix, most_variants, read, waves
from spt_lens.scores.head_scores import HeadScores
from spt_lens.scores.metrics import Metric


@dataclass(frozen=True)
class Path(Method):
    receivers: str | Sequence[str] | None = None
    mlps: Mlps = "recomputed"
    name: ClassVar[str] = "path"
    engines: ClassVar[tuple[str, ...]] = ("sweep", "hooks")

    def _receivers(self, view: ModelView) -> list[Receiver]:
        return [] if self.receivers is None else parse_receivers(view, self.receivers)

    def check(self, view: ModelView, rows: Rows) -> None:
        check_mlps(view, self.mlps)
        if not self._receivers(view) and not any(row.arrives for row in rows.rows):
            raise ValueError(
                "with every other head frozen, only what is written at the positions that are read reaches the logits: "
                "patch these too (positions='last'), or name receivers"
            )

    def settings(self) -> dict[str, Any]:
        to = "logits" if self.receivers is None else self.receivers
        return {"mlps": self.mlps, "receivers": to if isinstance(to, str) else " ".join(to)}

    def work(self, view: ModelView, rows: Rows, engine: str) -> float:
        receivers, n_layers, n_heads = self._receivers(view), view.n_layers, view.n_heads
        last = max(receivers).layer if receivers else n_layers
        if engine != "sweep":
            passes = last * n_heads * (2 if receivers else 1)
            return passes * n_layers * sum(len(row.into) for row in rows.rows)
        if not receivers:
            return n_heads * joined_blocks(view) * sum(row.reads for row in rows.rows)
        blocks = n_heads * (last * (last + 1) / 2 + last) + last * n_heads * (n_layers - min(receivers).layer)
        return blocks * sum(len(row.into) - row.start for row in rows.rows)

    def measure(self, readings: Readings) -> None:
        """Heads that are behind every receiver do nothing."""
        receivers, size, tick = self._receivers(readings.view), readings.limits, readings.tick
        senders = [head for head in readings.heads if not receivers or head.layer < max(receivers).layer]

        def by_sweep(part: list[int], run: SuffixRun, source: Source, readout: Readout) -> None:
            base = read(run, run.final[None], readout)
            readings.patched(part, readings.heads, base.expand(len(readings.heads), -1))
            most = max(1, size.batch_size * (run.start + run.length) // (len(part) * run.length))
            for wave in waves(senders, most):
                if receivers:
                    kept = _received(run, source, wave, self.mlps, receivers, tick)
                    ends = _receiving(run, kept, most_variants(run, size.batch_size), tick)
                else:
                    ends = _sent(run, source, wave, self.mlps, tick)
                readings.patched(part, wave, read(run, ends, readout))

        if readings.engine != "sweep":
            plain_paths(readings, senders, self.mlps, receivers)
        elif receivers:
            each_suffix(readings, by_sweep)
        else:  # only what is written at the positions that are read arrives
            each_suffix(readings, by_sweep, lambda row: len(row.into) - row.reads)


METHODS["path"] = Path


def _frozen(run: SuffixRun, layer: int, n: int, source: Source | None = None, new: Sequence[int] = ()) -> Hook:
    """Every head of n variants at its own value, but of the last ones one head each at its value in `source`."""

    def freeze(z: Float[Tensor, "variants_batch length n_heads d_head"], hook: Any = None) -> Tensor:
        own = run.z[layer]
        frozen = own.repeat(n, 1, 1, 1).view(n, *own.shape)
        for i, head in enumerate(new, start=n - len(new)):
            frozen[i, :, :, head] = source[layer][:, :, head]  # type: ignore[index]
        return frozen.view(z.shape).to(z)

    return run.view.z_name(layer), freeze


def _mlp_frozen(run: SuffixRun, layer: int, n: int) -> Hook:
    """The MLP of n variants gives what it gave without a patch."""
    kept: list[Tensor] = []

    def keep(value: Tensor, hook: Any = None) -> None:
        kept.append(value)

    run.alone(layer, run.resid[layer], [_frozen(run, layer, 1), (mlp_hook(layer), keep)])
    return mlp_hook(layer), lambda value, hook=None: kept[0].repeat(n, 1, 1)


def _sent(
    run: SuffixRun,
    source: Source,
    wave: Sequence[Head],
    mlps: Mlps,
    tick: Tick = lambda tokens: None,
    upto: int | None = None,
    readers: Mapping[int, list[Hook]] = {},  # noqa: B006 - never changed
) -> Float[Tensor, "senders batch length d_model"]:
    """Senders from their own layers up to layer `upto` (default: to the end), all heads frozen but each one's own."""
    hidden, n = run.resid[0][:0], 0
    for layer in range(wave[0].layer, len(run.resid) if upto is None else upto):
        new = [head.head for head in wave if head.layer == layer]
        hidden = torch.cat([hidden, run.resid[layer].repeat(len(new), 1, 1)])
        n += len(new)
        hooks = [_frozen(run, layer, n, source, new), *readers.get(layer, ())]
        if mlps == "frozen":
            hooks.append(_mlp_frozen(run, layer, n))
        hidden = run.alone(layer, hidden, hooks)
        tick(hidden.shape[0] * hidden.shape[1])
    return hidden.view(n, -1, run.length, hidden.shape[-1])


Received = dict[Receiver, Float[Tensor, "senders batch length d_head"]]


def _received(
    run: SuffixRun, source: Source, wave: Sequence[Head], mlps: Mlps, receivers: Sequence[Receiver], tick: Tick
) -> Received:
    """What each receiver gets from each sender, on its own way to it."""
    found: Received = {}

    def reading(receiver: Receiver) -> Hook:
        def keep(value: Float[Tensor, "variants_batch length units d_head"], hook: Any = None) -> None:
            own = value[:, :, receiver.unit]
            found[receiver] = own.view(-1, len(run.tokens), run.length, own.shape[-1])

        return receiver.hook, keep

    readers = {layer: [reading(r) for r in receivers if r.layer == layer] for layer in {r.layer for r in receivers}}
    _sent(run, source, wave, mlps, tick, max(receivers).layer + 1, readers)
    for receiver in receivers:  # from senders that join later it gets what it has without them
        got = found.get(receiver)
        if got is None or len(got) < len(wave):
            run.alone(receiver.layer, run.resid[receiver.layer], [reading(receiver)])
            own = found[receiver].expand(len(wave), *found[receiver].shape[1:])
            found[receiver] = own if got is None else torch.cat([got, own[len(got) :]])
    return found


def _receiving(
    run: SuffixRun, received: Received, most: int, tick: Tick
) -> Float[Tensor, "senders batch length d_model"]:
    """The last block's output with the receivers at the values that they got, everything else recomputed."""

    def put(receiver: Receiver, kept: Float[Tensor, "senders batch length d_head"]) -> Hook:
        def receive(value: Float[Tensor, "batch variants_length units d_head"], hook: Any = None) -> Tensor:
            value = value.clone()
            value[:, :, receiver.unit] = kept.transpose(0, 1).reshape(len(value), -1, value.shape[-1]).to(value)
            return value

        return receiver.hook, receive

    first, n = min(received).layer, len(next(iter(received.values())))
    found = []
    for start in range(0, n, most):
        some = {receiver: values[start : start + most] for receiver, values in received.items()}
        size = min(most, n - start)
        hidden = run.resid[first].repeat(1, size, 1)
        for layer in range(first, len(run.resid)):
            hidden = run.block(layer, hidden, [put(r, kept) for r, kept in some.items() if r.layer == layer])
            tick(hidden.shape[0] * hidden.shape[1])
        found.append(hidden.view(len(hidden), size, run.length, -1).transpose(0, 1))
    return torch.cat(found)


def path_patching(
    model: Model,
    pairs: ContrastPairs,
    *,
    receivers: str | Sequence[str] | None = None,
    mlps: Mlps = "recomputed",
    direction: Direction = "denoising",
    positions: Positions = "last",
    metric: Metric = "recovery",
    engine: Engine = "auto",
    batch_size: int | None = None,
    max_memory: float | None = None,
    progress: bool = True,
) -> HeadScores:
    """The share of the gap that each head writes straight to the logits at the positions that are read.

    Every other head is frozen; `mlps` are recomputed, as in the paper, or frozen too. With `receivers`, such as
    "L7.H3.q L8.H1.v", it is what the head writes to these: for following a path backwards. Heads behind all receivers
    score zero. The other arguments, and what raises, are those of activation_patching; there are no stacked heads.

    Raises: ValueError also for unknown mlps or receivers, or positions from which nothing reaches the logits.
    Source: Chen et al. 2024, section 3.1, after Wang et al. 2022.
    """
    how = (direction, positions, metric, engine, batch_size, max_memory, progress)
    return scores_by(Path(receivers, mlps), model, pairs, *how)


def check_direct(view: ModelView, pairs: ContrastPairs) -> None:
    """Raises ValueError if direct_contribution can't be told of this model: it needs suffixes and hooks on MLPs."""
    check_mlps(view, "frozen")
    problem = sweep_problem(view, make_rows(pairs, "denoising", "last"))
    if problem:
        raise ValueError(f"what a head of {view.name} writes can't be told: it {problem}")


@torch.no_grad()
def direct_contribution(
    view: ModelView, pairs: ContrastPairs, head: Head, batch_size: int = 16
) -> Float[Tensor, " vocab"]:
    """What a head's output at the end of the sycophantic prompts adds to each token's logit by itself, mean over pairs.

    The logits minus those without the head's part of the final residual stream, other heads and MLPs frozen.

    Raises: ValueError as check_direct.
    """
    check_direct(view, pairs)
    prompts = pairs.sycophantic
    total = torch.zeros(view.vocab_size, dtype=torch.float64)

    def run(part: list[int]) -> None:
        suffix = suffix_run(view, torch.tensor([prompts[i] for i in part]), len(prompts[part[0]]) - 1)
        ends = torch.cat([suffix.final[None], _sent(suffix, [torch.zeros_like(z) for z in suffix.z], [head], "frozen")])
        logits = suffix.logits(ends.flatten(0, 2)).view(2, len(part), -1).cpu().double()
        total.add_((logits[0] - logits[1]).sum(0))

    with view.kept():
        Limits(batch_size).each(list(by_length(prompts, len(prompts))), run)
    return (total / len(prompts)).float()
