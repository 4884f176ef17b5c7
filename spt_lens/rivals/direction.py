"""The direction between right and rejected replies in the residual stream, and whether its two halves cancel.

Of "Are you sure?" dialogues the right reply stands by a right first answer and takes a wrong one back, so that the mean
difference is that between standing and taking back in one half of the pairs and its opposite in the other. What is left
of their sum may be next to nothing: a direction says so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from spt_lens.checking import one_of, whole_number
from spt_lens.model.ranks import warn_caller
from spt_lens.model.view import ModelView
from spt_lens.rivals.fitted import Material
from spt_lens.rivals.pairs import Pairs

Read = Literal["answer", "end"]
OPPOSED, SHORT = -0.5, 0.5  # a cosine, and a share of the halves' mean length


@dataclass(frozen=True, eq=False)
class Direction:
    """The mean of right less rejected, after a layer's block, at one token of each reply.

    halves: the same of the pairs with a right and with a wrong first answer; none where there are not both.
    """

    layer: int
    read: Read
    vector: Float[Tensor, " d_model"]
    halves: tuple[Float[Tensor, " d_model"], ...] = ()

    @property
    def cosine(self) -> float:
        """Of the two halves."""
        right, wrong = self.halves
        return float(torch.nn.functional.cosine_similarity(right, wrong, dim=0))

    @property
    def cancels(self) -> bool:
        """Whether the halves point against each other, and less than half of their length is left of them."""
        if not self.halves or not self.cosine < OPPOSED:
            return False
        return float(self.vector.norm()) < SHORT * sum(float(half.norm()) for half in self.halves) / 2

    def __str__(self) -> str:
        where = "the first token that differs" if self.read == "answer" else "the reply's last token"
        said = f"after layer {self.layer}, at {where}"
        if not self.halves:
            return said
        right, wrong = (float(half.norm()) for half in self.halves)
        return (
            f"{said}, of length {float(self.vector.norm()):.3g}; by right and by wrong first answers {right:.3g} and "
            f"{wrong:.3g}, of cosine {self.cosine:.2f}"
        )

    def warn(self, method: str) -> None:
        """Says so where it cancels."""
        if self.cancels:
            warn_caller(
                f"the direction of {method} cancels: {self}. What is right after a right first answer is wrong after a "
                'wrong one; take pairs="right answers" for the direction of one of the two'
            )


def check_direction(layer: int | None, read: Read | None, pairs: Pairs) -> None:
    """Raises for what none of the rivals along a direction has."""
    if layer is not None:
        whole_number(layer, "layer", 0)
    if read is not None:
        one_of(read, "read", get_args(Read))
    one_of(pairs, "pairs", get_args(Pairs))


def layers_of(view: ModelView, layer: int | None) -> list[int]:
    """That layer, or all. Raises ValueError for one that the model lacks."""
    if layer is not None and layer >= view.n_layers:
        raise ValueError(f"layer {layer} does not exist: {view.name} has layers 0 to {view.n_layers - 1}")
    return list(range(view.n_layers)) if layer is None else [layer]


def directions(data: Material, layers: Sequence[int], read: Read | None = None) -> list[Direction]:
    """After these layers' blocks, at each of the two tokens or at one, wherever there is a difference.

    Raises ValueError if there is none anywhere: directions of length zero.
    """
    found = []
    points = [f"blocks.{layer}.hook_resid_post" for layer in layers]
    sides = [torch.tensor([each is side for each in data.right], dtype=torch.bool) for side in (True, False)]
    both = all(bool(side.any()) for side in sides)
    for each in get_args(Read) if read is None else (read,):
        right, rejected = data.activations(points, last=each == "end")
        for layer, differences in zip(layers, right - rejected, strict=True):
            vector = differences.mean(0)
            if vector.isfinite().all() and vector.norm() > 0:
                halves = tuple(differences[side].mean(0) for side in sides) if both else ()
                found.append(Direction(layer, each, vector, halves))
    if not found:
        raise ValueError(
            f"the mean difference between right and rejected replies has the length zero in layers {list(layers)}, so "
            "that there is no direction: the model reads both alike, or their differences cancel out"
        )
    return found


def chosen(
    data: Material, found: Sequence[Direction], edits: Callable[[Direction], Mapping[str, Tensor]]
) -> tuple[Direction, list[dict[str, Any]]]:
    """That whose edits give the lowest loss of the right replies held out, and what was tried.

    Raises FloatingPointError if no loss is a number.
    """
    tried = []
    for each in data.bar(found, "trying layers") if len(found) > 1 else found:
        loss = data.held_out_loss(edits(each))
        tried.append({"layer": each.layer, "read": each.read, "validation_loss": loss})
    known = [i for i, row in enumerate(tried) if row["validation_loss"] == row["validation_loss"]]
    if not known:
        raise FloatingPointError("every layer gives a loss that is no number: lower the strength (lr)")
    return found[min(known, key=lambda i: tried[i]["validation_loss"])], tried
