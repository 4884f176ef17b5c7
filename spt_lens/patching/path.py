"""Path patching: what a head writes straight to the logits, or to later heads' queries, keys and values.

Chen et al. 2024, section 3.1, after Wang et al. 2022: (1) both runs are cached; (2) the prompt runs again with the
sender head at its value from the other run and every other head frozen at its own, MLPs recomputed (or frozen too);
the receivers' values are kept. Where the receiver is the logits, these are read already. (3) Otherwise the prompt runs
once more, with the receivers at those values and everything else recomputed.

With all heads frozen, positions do not see each other: a sender is one variant of the positions alone, and attention
needs no keys (`SuffixRun.alone`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from spt_lens.chat.batches import Padding
from spt_lens.data.pairs import ContrastPairs
from spt_lens.heads import Head
from spt_lens.model.view import Hook, ModelView
from spt_lens.patching.engine import sweep_problem
from spt_lens.patching.limits import Limits, Tick
from spt_lens.patching.readings import Readings
from spt_lens.patching.readout import Readout
from spt_lens.patching.rows import Row, Rows, make_rows
from spt_lens.patching.suffix import SuffixRun, suffix_run
from spt_lens.patching.sweep import each_suffix, most_variants, read, waves

Mlps = Literal["recomputed", "frozen"]
_RECEIVER = re.compile(r"\s*(.+?)\.([qkv])\s*", re.IGNORECASE)


class Receiver(NamedTuple):
    """A head's query, key or value input; `unit` is the head, or for k and v its group of heads that share them."""

    layer: int
    which: str
    unit: int

    @property
    def hook(self) -> str:
        return f"blocks.{self.layer}.attn.hook_{self.which}"


def parse_receivers(view: ModelView, receivers: str | Sequence[str]) -> list[Receiver]:
    """Reads "L7.H3.q", several between spaces or in a list. In grouped-query models a head's k and v are its group's.

    Raises: ValueError for anything else, none, or a head that the model does not have.
    """
    if isinstance(receivers, str):
        receivers = receivers.replace(",", " ").split()
    elif not isinstance(receivers, Sequence):
        raise ValueError(f'{receivers!r} is no receiver: write "L7.H3.q", or a list of such texts')
    found = []
    for text in receivers:
        match = _RECEIVER.fullmatch(text) if isinstance(text, str) else None
        if match is None:
            raise ValueError(f'{text!r} is no receiver: write "L7.H3.q", with q, k or v for what receives')
        head, which = Head.parse(match[1]), match[2].lower()
        if head.layer >= view.n_layers or head.head >= view.n_heads:
            raise ValueError(
                f"the receiver {text} is not in {view.name}: it has layers 0 to {view.n_layers - 1} and heads 0 to "
                f"{view.n_heads - 1}"
            )
        copies = getattr(view.model.cfg, "ungroup_grouped_query_attention", False)  # of k and v, one for each head
        unit = head.head if which == "q" or copies else head.head * view.n_kv_heads // view.n_heads
        found.append(Receiver(head.layer, which, unit))
    if not found:
        raise ValueError('no receivers: name at least one, such as "L7.H3.q", or leave receivers out for the logits')
    if max(found).layer == 0:
        raise ValueError("no head comes before the receivers: choose receivers in layer 1 or later")
    return list(dict.fromkeys(found))


def mlp_hook(layer: int) -> str:
    return f"blocks.{layer}.hook_mlp_out"


def check_mlps(view: ModelView, mlps: str) -> None:
    """Raises ValueError unless `mlps` is one of Mlps, and where the model's MLPs have no hook to freeze them by."""
    if mlps not in ("recomputed", "frozen"):
        raise ValueError(f"unknown mlps {mlps!r}: use 'recomputed' or 'frozen'")
    if mlps == "frozen" and any(mlp_hook(layer) not in view.model.hook_dict for layer in range(view.n_layers)):
        raise ValueError(f"{view.name} has no hook_mlp_out in every block, so its MLPs can't be frozen: recompute them")


def path_readings(
    view: ModelView,
    rows: Rows,
    heads: Sequence[Head],
    mlps: Mlps,
    receivers: Sequence[Receiver],
    limits: Limits,
    padding: Padding,
    tick: Tick,
) -> Readings:
    """Every row with each head's value sent along the path alone. Heads that are behind every receiver do nothing."""
    readings = Readings(view, rows)
    senders = [head for head in heads if not receivers or head.layer < max(receivers).layer]

    def run(part: list[int], chosen: list[Row], suffix: SuffixRun, source: list[Tensor], readout: Readout) -> None:
        everyone = [Head(layer, head) for layer in range(view.n_layers) for head in range(view.n_heads)]
        base = read(suffix, suffix.final[None, :, -chosen[0].reads :], readout)
        readings.patched(part, everyone, base.expand(len(everyone), -1))
        most = max(1, limits.batch_size * (suffix.start + suffix.length) // (len(part) * suffix.length))
        for wave in waves(senders, most):
            if receivers:
                kept = received(suffix, source, wave, mlps, receivers, tick)
                ends = patched_receivers(suffix, kept, receivers, most_variants(suffix, limits.batch_size), tick)
            else:
                ends = direct(suffix, source, wave, mlps, tick)
            readings.patched(part, wave, read(suffix, ends[:, :, -chosen[0].reads :], readout))

    # To the logits, only what is written at the positions that are read arrives.
    each_suffix(
        view,
        rows,
        readings,
        limits,
        padding,
        tick,
        (lambda row: row.start) if receivers else (lambda row: len(row.into) - row.reads),
        run,
    )
    return readings


def _frozen(run: SuffixRun, layer: int, n: int, source: list[Tensor] | None = None, new: Sequence[int] = ()) -> Hook:
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

    def freeze(value: Tensor, hook: Any = None) -> Tensor:
        return kept[0].repeat(n, 1, 1)

    return mlp_hook(layer), freeze


def direct(
    run: SuffixRun, source: list[Tensor], wave: Sequence[Head], mlps: Mlps, tick: Tick = lambda tokens: None
) -> Float[Tensor, "senders batch length d_model"]:
    """The last block's output with each sender's value on its own way to it, every other head frozen."""
    return _sent(run, source, wave, mlps, tick, len(run.resid))


def received(
    run: SuffixRun, source: list[Tensor], wave: Sequence[Head], mlps: Mlps, receivers: Sequence[Receiver], tick: Tick
) -> dict[Receiver, Float[Tensor, "senders batch length d_head"]]:
    """What each receiver gets from each sender, on its own way to it."""
    found: dict[Receiver, Tensor] = {}

    def reading(receiver: Receiver) -> Hook:
        def keep(value: Float[Tensor, "variants_batch length units d_head"], hook: Any = None) -> None:
            own = value[:, :, receiver.unit]
            found[receiver] = own.view(-1, len(run.tokens), run.length, own.shape[-1])

        return receiver.hook, keep

    hooks = {layer: [reading(r) for r in receivers if r.layer == layer] for layer in {r.layer for r in receivers}}
    _sent(run, source, wave, mlps, tick, max(receivers).layer + 1, hooks)
    for receiver in receivers:  # from senders that join later it gets what it has without them
        if receiver not in found:
            run.alone(receiver.layer, run.resid[receiver.layer], [reading(receiver)])
        got = found[receiver]
        if len(got) < len(wave):
            run.alone(receiver.layer, run.resid[receiver.layer], [reading(receiver)])
            own = found[receiver].expand(len(wave), *got.shape[1:])
            found[receiver] = torch.cat([got, own[len(got) :]])
    return found


def _sent(
    run: SuffixRun,
    source: list[Tensor],
    wave: Sequence[Head],
    mlps: Mlps,
    tick: Tick,
    upto: int,
    readers: Mapping[int, list[Hook]] = {},  # noqa: B006 - never changed
) -> Float[Tensor, "senders batch length d_model"]:
    """Senders from their own layers up to layer `upto`, all heads frozen but each one's own."""
    hidden, n = run.resid[0][:0], 0
    for layer in range(wave[0].layer, upto):
        new = [head.head for head in wave if head.layer == layer]
        hidden = torch.cat([hidden, run.resid[layer].repeat(len(new), 1, 1)])
        n += len(new)
        hooks = [_frozen(run, layer, n, source, new), *readers.get(layer, ())]
        if mlps == "frozen":
            hooks.append(_mlp_frozen(run, layer, n))
        hidden = run.alone(layer, hidden, hooks)
        tick(hidden.shape[0] * hidden.shape[1])
    return hidden.view(n, -1, run.length, hidden.shape[-1])


def patched_receivers(
    run: SuffixRun, kept: dict[Receiver, Tensor], receivers: Sequence[Receiver], most: int, tick: Tick
) -> Float[Tensor, "senders batch length d_model"]:
    """The last block's output with the receivers at the values that they got, everything else recomputed."""
    first = min(receivers).layer
    n = len(kept[receivers[0]])
    found = []
    for start in range(0, n, most):
        some = {receiver: value[start : start + most] for receiver, value in kept.items()}
        size = len(some[receivers[0]])
        hidden = run.resid[first].repeat(1, size, 1)
        for layer in range(first, len(run.resid)):
            hooks = [_receiving(run, r, some[r]) for r in receivers if r.layer == layer]
            hidden = run.block(layer, hidden, hooks)
            tick(hidden.shape[0] * hidden.shape[1])
        found.append(hidden.view(len(hidden), size, run.length, -1).transpose(0, 1))
    return torch.cat(found)


def _receiving(run: SuffixRun, receiver: Receiver, kept: Float[Tensor, "senders batch length d_head"]) -> Hook:
    def receive(value: Float[Tensor, "batch variants_length units d_head"], hook: Any = None) -> Tensor:
        value = value.clone()
        value[:, :, receiver.unit] = kept.transpose(0, 1).reshape(len(value), -1, value.shape[-1]).to(value)
        return value

    return receiver.hook, receive


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
    rows = make_rows(pairs, "denoising", "last")
    total = torch.zeros(view.vocab_size, dtype=torch.float64)
    n = 0

    def run(part: list[int]) -> None:
        nonlocal n
        chosen = [rows.rows[i] for i in part if rows.rows[i].side == 0]
        if not chosen:
            return
        prompts = torch.tensor([row.into[: len(row.into) - row.reads + 1] for row in chosen])
        suffix = suffix_run(view, prompts, prompts.shape[1] - 1)
        without = [torch.zeros_like(z) for z in suffix.z]
        ends = torch.cat([suffix.final[None], direct(suffix, without, [head], "frozen")])
        logits = suffix.logits(ends.flatten(0, 2)).view(2, len(chosen), -1).cpu().double()
        total.add_((logits[0] - logits[1]).sum(0))
        n += len(chosen)

    with view.kept():
        Limits(batch_size).each(rows.alike("right", lambda row: len(row.into)), run)
    return (total / n).float()
