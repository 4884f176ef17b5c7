"""A steering vector: contrastive activation addition (Rimsky et al. 2024, "Steering Llama 2 via Contrastive Activation
Addition", arXiv 2312.06681, sections 3 and 4).

As there: the vector of a layer is the mean, over pairs that share a prompt and differ in their answer, of the residual
stream after the layer's block at the answer's token in one run less that in the other. Times a coefficient it is added
after that block to every position of the reply: from the last token of the prompt on, as the authors' code does
("all token positions after the user's prompt"), or with positions="all" in the prompt too.
Otherwise here: answers are whole replies, told apart by the first token in which they differ (theirs are letters); the
vector is not scaled to another behaviour's length; the layer is the one with the lowest loss of held-out right replies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from jaxtyping import Float
from torch import Tensor

from spt_lens.checking import door, one_of, whole_number
from spt_lens.model.view import Model, ModelView
from spt_lens.rivals.fitted import Fit, Fitted, Material
from spt_lens.tune.edits import edit_slices

Positions = Literal["reply", "all"]


@door
@dataclass(frozen=True)
class Steering(Fitted):
    """Adds the mean difference between right and rejected replies to the residual stream after one block.

    layer: after whose block; None: chosen among all on held-out dialogues. `TuneConfig.lr` is the coefficient.
    """

    layer: int | None = None
    positions: Positions = "reply"
    method: ClassVar[str] = "steering"
    lr: ClassVar[float] = 1.0
    lrs: ClassVar[tuple[float, ...]] = (0.5, 1.0, 2.0, 4.0)

    def __post_init__(self) -> None:
        one_of(self.positions, "positions", get_args(Positions))
        if self.layer is not None:
            whole_number(self.layer, "layer", 0)

    def check(self, model: Model) -> None:
        super().check(model)
        edit_slices(model, [self._name(layer) for layer in layers_of(ModelView(model), self.layer)])

    def fit(self, data: Material) -> Fit:
        layers = layers_of(data.view, self.layer)
        vectors = mean_difference(data, layers)
        tried = []
        for layer in data.bar(list(vectors), "trying layers") if len(vectors) > 1 else vectors:
            edits = {self._name(layer): data.strength * vectors[layer]}
            tried.append({"layer": layer, "validation_loss": data.held_out_loss(edits)})
        best = lowest(tried)
        vector = data.strength * vectors[best]
        says = f"{data.strength:g} times the mean difference of {len(data.chosen)} pairs, after layer {best}"
        return Fit({self._name(best): vector}, vector.numel(), says, tried)

    def _name(self, layer: int) -> str:
        return f"L{layer}.out" + (".reply" if self.positions == "reply" else "")


def layers_of(view: ModelView, layer: int | None) -> list[int]:
    """That layer, or all. Raises ValueError for one that the model lacks."""
    if layer is not None and layer >= view.n_layers:
        raise ValueError(f"layer {layer} does not exist: {view.name} has layers 0 to {view.n_layers - 1}")
    return list(range(view.n_layers)) if layer is None else [layer]


def mean_difference(data: Material, layers: Sequence[int]) -> dict[int, Float[Tensor, " d_model"]]:
    """Of the residual stream after these layers' blocks at the answer, right less rejected, where there is any.

    Raises ValueError if there is none anywhere: a direction of length zero.
    """
    right, rejected = data.activations([f"blocks.{layer}.hook_resid_post" for layer in layers])
    found = dict(zip(layers, (right - rejected).mean(1), strict=True))
    found = {layer: vector for layer, vector in found.items() if vector.isfinite().all() and vector.norm() > 0}
    if not found:
        raise ValueError(
            f"the mean difference between right and rejected replies has the length zero in layers {list(layers)}, so "
            "that there is no direction: the model reads both alike, or their differences cancel out"
        )
    return found


def lowest(tried: Sequence[dict[str, float]]) -> int:
    """The layer of the lowest validation loss. Raises FloatingPointError if none is a number."""
    known = [row for row in tried if row["validation_loss"] == row["validation_loss"]]
    if not known:
        raise FloatingPointError("every layer gives a loss that is no number: lower the strength (lr)")
    return int(min(known, key=lambda row: row["validation_loss"])["layer"])
