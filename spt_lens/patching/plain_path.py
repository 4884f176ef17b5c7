"""Path patching by plain hooks on whole prompts, one sender at a time: for models that the sweep does not fit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor

from spt_lens.chat.batches import Padding
from spt_lens.heads import Head
from spt_lens.model.view import Hook, ModelView
from spt_lens.patching.limits import Limits, Tick
from spt_lens.patching.path import Mlps, Receiver, mlp_hook
from spt_lens.patching.plain import both_runs
from spt_lens.patching.readings import Readings
from spt_lens.patching.rows import Batch, Rows, run_source


def plain_path_readings(
    view: ModelView,
    rows: Rows,
    heads: Sequence[Head],
    mlps: Mlps,
    receivers: Sequence[Receiver],
    limits: Limits,
    padding: Padding,
    tick: Tick,
) -> Readings:
    """As path_readings, by the three steps as they are told: one or two forward passes for each sender."""
    readings = Readings(view, rows)
    senders = [head for head in heads if not receivers or head.layer < max(receivers).layer]

    def run(part: list[int]) -> None:
        chosen, readout = [rows.rows[i] for i in part], rows.readout(part)
        z, _ = run_source(view, chosen, readout, padding)
        batch = Batch.of(chosen, "into", padding)
        own: dict[str, Tensor] = {}

        def passed(hooks: list[Hook]) -> Float[Tensor, " batch"]:
            tick(batch.prompts.tokens.numel() * view.n_layers)
            logits = view.logits(batch.prompts.tokens, batch.prompts.attention_mask, hooks, at=batch.reads)
            return readout.of(logits)

        names = [view.z_name(layer) for layer in range(view.n_layers)]
        names += [mlp_hook(layer) for layer in range(view.n_layers)] if mlps == "frozen" else []
        base = passed([(name, _keep(own, name)) for name in names])
        readings.patched(part, heads, base.expand(len(heads), -1))
        for sender in senders:
            frozen = dict(own)
            mixed = own[view.z_name(sender.layer)].clone()
            mixed[batch.row, batch.pos, sender.head] = z[sender.layer, :, sender.head].to(mixed)
            frozen[view.z_name(sender.layer)] = mixed
            got: dict[str, Tensor] = {}
            readers = [(name, _keep(got, name)) for name in dict.fromkeys(r.hook for r in receivers)]
            value = passed([*((name, _put(kept)) for name, kept in frozen.items()), *readers])
            if receivers:
                value = passed([(r.hook, _put_unit(got[r.hook], r.unit)) for r in receivers])
            readings.patched(part, [sender], value[None])

    both_runs(view, readings, limits, padding, tick)
    limits.each(rows.alike(padding), run)
    return readings


def _keep(into: dict[str, Tensor], name: str) -> Any:
    def keep(value: Tensor, hook: Any = None) -> None:
        into[name] = value.detach().clone()

    return keep


def _put(kept: Tensor) -> Any:
    def put(value: Tensor, hook: Any = None) -> Tensor:
        return kept

    return put


def _put_unit(kept: Float[Tensor, "batch pos units d_head"], unit: int) -> Any:
    def put(value: Tensor, hook: Any = None) -> Tensor:
        value = value.clone()
        value[:, :, unit] = kept[:, :, unit]
        return value

    return put
