"""Path patching by its three steps, with plain hooks on whole prompts: for models that the sweep does not fit."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from jaxtyping import Float
from torch import Tensor

from spt_lens.heads import Head
from spt_lens.model.view import Hook, ModelView
from spt_lens.patching.plain import both_runs
from spt_lens.patching.readings import Readings
from spt_lens.patching.rows import Batch, run_source

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
        unit = head.head if copies else view.shape.unit(which, head.head)
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


def plain_paths(readings: Readings, senders: Sequence[Head], mlps: Mlps, receivers: Sequence[Receiver]) -> None:
    """Reads every row with each sender's value on its way alone: one or two forward passes for each."""
    view = readings.view
    names = [view.z_name(layer) for layer in range(view.n_layers)]
    names += [mlp_hook(layer) for layer in range(view.n_layers)] if mlps == "frozen" else []

    def run(part: list[int]) -> None:
        chosen, readout = readings.rows.some(part)
        z, _ = run_source(view, chosen, readout)
        batch = Batch.of(chosen, "into")

        def passed(hooks: list[Hook]) -> Float[Tensor, " batch"]:
            readings.tick(batch.prompts.tokens.numel() * view.n_layers)
            return readout.of(batch.logits(view, hooks))

        own: dict[str, Tensor] = {}
        base = passed([_keep(own, name) for name in names])
        readings.patched(part, readings.heads, base.expand(len(readings.heads), -1))
        for sender in senders:
            name = view.z_name(sender.layer)
            mixed = own[name].clone()
            mixed[batch.row, batch.pos, sender.head] = z[sender.layer, :, sender.head].to(mixed)
            frozen = own | {name: mixed}
            got: dict[str, Tensor] = {}
            readers = [_keep(got, name) for name in dict.fromkeys(r.hook for r in receivers)]
            value = passed([*(_put(name, kept) for name, kept in frozen.items()), *readers])
            if receivers:
                value = passed([_put(r.hook, got[r.hook], r.unit) for r in receivers])
            readings.patched(part, [sender], value[None])

    both_runs(readings)
    readings.each(run)


def _keep(into: dict[str, Tensor], name: str) -> Hook:
    def keep(value: Tensor, hook: Any = None) -> None:
        into[name] = value.detach().clone()

    return name, keep


def _put(name: str, kept: Float[Tensor, "batch pos *unit_width"], unit: int | None = None) -> Hook:
    def put(value: Tensor, hook: Any = None) -> Tensor:
        if unit is None:
            return kept
        value = value.clone()
        value[:, :, unit] = kept[:, :, unit]
        return value

    return name, put
