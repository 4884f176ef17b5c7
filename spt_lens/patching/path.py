"""Path patching: what a head writes straight to the logits, or to later heads' queries, keys and values.

Chen et al. 2024, section 3.1, after Wang et al. 2022: (1) both runs are cached; (2) the prompt runs again with the
sender head at its value from the other run and every other head frozen at its own, MLPs recomputed (or frozen too);
the receivers' values are kept. Where the receiver is the logits, these are read already. (3) Otherwise the prompt runs
once more, with the receivers at those values and everything else recomputed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from spt_lens.checking import door, one_of, shown
from spt_lens.data.pairs import ContrastPairs
from spt_lens.heads import Head, HeadSet
from spt_lens.model.view import Hook, Model, ModelView
from spt_lens.patching.engine import METHODS, Engine, Method, joined_blocks, scores_by
from spt_lens.patching.readings import Readings
from spt_lens.patching.rows import Direction, Positions, Rows
from spt_lens.patching.sweep import HooksAt, Variants, each_part, put_heads, waves
from spt_lens.scores.head_scores import HeadScores
from spt_lens.scores.metrics import Metric

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
        raise ValueError(f'{shown(receivers)} is no receiver: write "L7.H3.q", or a list of such texts')
    found = []
    for text in receivers:
        match = _RECEIVER.fullmatch(text) if isinstance(text, str) else None
        if match is None:
            raise ValueError(f'{text!r} is no receiver: write "L7.H3.q", with q, k or v for what receives')
        head, which = Head.parse(match[1]), match[2].lower()
        HeadSet.of(head).check(view)
        copies = getattr(view.model.cfg, "ungroup_grouped_query_attention", False)  # of k and v, one for each head
        unit = head.head if copies else view.shape.unit(which, head.head)
        found.append(Receiver(head.layer, which, unit))
    if not found:
        raise ValueError('no receivers: name at least one, such as "L7.H3.q", or leave receivers out for the logits')
    if max(found).layer == 0:
        raise ValueError("no head comes before the receivers: choose receivers in layer 1 or later")
    return list(dict.fromkeys(found))


def mlp_hook(layer: int) -> str:
    """The hook point of a layer's MLP output."""
    return f"blocks.{layer}.hook_mlp_out"


def check_mlps(view: ModelView, mlps: str) -> None:
    """Raises ValueError unless `mlps` is one of Mlps, and where the model's MLPs have no hook to freeze them by."""
    one_of(mlps, "mlps", get_args(Mlps))
    if mlps == "frozen" and any(mlp_hook(layer) not in view.model.hook_dict for layer in range(view.n_layers)):
        raise ValueError(f"{view.name} has no hook_mlp_out in every block, so its MLPs can't be frozen: recompute them")


@dataclass(frozen=True)
class Path(Method):
    """What each head sends straight to the logits, or to later heads' queries, keys and values; see path_patching."""

    receivers: str | Sequence[str] | None = None
    mlps: Mlps = "recomputed"
    name: ClassVar[str] = "path"
    engines: ClassVar[tuple[str, ...]] = ("sweep", "hooks")

    def _receivers(self, view: ModelView) -> list[Receiver]:
        return [] if self.receivers is None else parse_receivers(view, self.receivers)

    def check(self, view: ModelView, rows: Rows) -> None:
        check_mlps(view, self.mlps)
        if not self._receivers(view) and all(max(row.into_at) < len(row.into) - row.reads for row in rows.rows):
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
        view, receivers = readings.view, self._receivers(readings.view)
        senders = [head for head in readings.heads if not receivers or head.layer < max(receivers).layer]

        def work(part: list[int], variants: Variants) -> None:
            for wave in waves(senders, variants.most):
                if receivers:
                    got = _received(variants, wave, self.mlps, receivers)
                    again = [(min(receivers).layer, i) for i in range(len(wave))]
                    found = variants.run(again, _receiving(got))
                else:
                    found = variants.run(wave, _sending(variants, self.mlps), alone=True)
                readings.patched(part, wave, found)

        also = [mlp_hook(layer) for layer in range(view.n_layers)] if self.mlps == "frozen" else []
        also += dict.fromkeys(receiver.hook for receiver in receivers)
        # To the logits, only what is written at the positions that are read arrives.
        read_from = (lambda row: row.start) if receivers else (lambda row: len(row.into) - row.reads)
        each_part(readings, work, also, read_from)


METHODS["path"] = Path
Got = dict[Receiver, Float[Tensor, "batch variants_length d_head"]]


def _sending(variants: Variants, mlps: Mlps, receivers: Sequence[Receiver] = (), got: Got | None = None) -> HooksAt:
    """Each sender (layer, head) at its values, all other heads frozen at their own; keeps what receivers get."""

    def own(name: str, value: Tensor) -> Tensor:
        return variants.own[name].repeat(1, value.shape[1] // variants.length, *[1] * (value.ndim - 2)).to(value)

    def keep(receiver: Receiver) -> Hook:
        return receiver.hook, lambda value, hook=None: got.update({receiver: value[:, :, receiver.unit]})  # type: ignore[union-attr]

    def hooks_at(layer: int, new: list[int], first: int) -> list[Hook]:
        z_name, mlp_name = ModelView.z_name(layer), mlp_hook(layer)

        def freeze(z: Float[Tensor, "batch variants_length n_heads d_head"], hook: Any = None) -> Tensor:
            z = own(z_name, z)
            put_heads(z, variants, layer, new, first)
            return z

        hooks: list[Hook] = [(z_name, freeze), *(keep(r) for r in receivers if r.layer == layer)]
        return [*hooks, (mlp_name, lambda value, hook=None: own(mlp_name, value))] if mlps == "frozen" else hooks

    return hooks_at


def _received(variants: Variants, wave: Sequence[Head], mlps: Mlps, receivers: Sequence[Receiver]) -> Got:
    """What each receiver gets from each sender, on its own way to it."""
    got: Got = {}
    variants.run(wave, _sending(variants, mlps, receivers, got), max(receivers).layer + 1, alone=True)
    for receiver in receivers:  # from senders that join later it gets what it has without them
        own = variants.own[receiver.hook][:, :, receiver.unit]
        some = got.get(receiver, own[:, :0])
        got[receiver] = torch.cat([some, own.repeat(1, len(wave) - some.shape[1] // variants.length, 1)], dim=1)
    return got


def _receiving(got: Got) -> HooksAt:
    """The receivers at the values that they got, everything else recomputed."""

    def put(receiver: Receiver, kept: Tensor) -> Hook:
        def receive(value: Float[Tensor, "batch variants_length units d_head"], hook: Any = None) -> Tensor:
            value = value.clone()
            value[:, :, receiver.unit] = kept.to(value)
            return value

        return receiver.hook, receive

    return lambda layer, new, first: [put(receiver, kept) for receiver, kept in got.items() if receiver.layer == layer]


@door
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
