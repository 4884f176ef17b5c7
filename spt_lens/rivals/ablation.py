"""Directional ablation: a direction taken out of the residual stream (Arditi et al. 2024, "Refusal in Language Models
Is Mediated by a Single Direction", arXiv 2406.11717, sections 2.3 and 2.4).

As there: the direction r is the difference of means at one layer, of length one; what a block is given, and what its
attention and its MLP write, becomes x - r (r . x) in every layer and at every position; the layer that the direction
comes from is chosen on held-out data. Otherwise here: the two sides are rejected and right replies to one prompt, read
at the first token in which they differ, not two kinds of prompts read at the end; the layer has the lowest loss of
held-out right replies, among all (theirs are not of the last fifth, and are kept to little drift); and with
everywhere=False the direction is taken out after that one layer's block alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from spt_lens.checking import door, whole_number
from spt_lens.model.view import Model, ModelView
from spt_lens.rivals.fitted import Fit, Fitted, Material
from spt_lens.rivals.steering import layers_of, lowest, mean_difference
from spt_lens.tune.edits import edit_slices


@door
@dataclass(frozen=True)
class Ablation(Fitted):
    """Removes the direction between rejected and right replies from the residual stream.

    layer: where the direction comes from; None: chosen among all on held-out dialogues. `TuneConfig.lr` is the share of
    it that is removed: 1, all.
    """

    layer: int | None = None
    everywhere: bool = True
    method: ClassVar[str] = "ablation of the direction"
    lr: ClassVar[float] = 1.0
    lrs: ClassVar[tuple[float, ...]] = (1.0,)

    def __post_init__(self) -> None:
        if self.layer is not None:
            whole_number(self.layer, "layer", 0)

    def check(self, model: Model) -> None:
        super().check(model)
        view = ModelView(model)
        edit_slices(view, [name for layer in layers_of(view, self.layer) for name in self._names(view, layer)])

    def fit(self, data: Material) -> Fit:
        tried, found = [], mean_difference(data, layers_of(data.view, self.layer))
        for layer in data.bar(list(found), "trying layers") if len(found) > 1 else found:
            tried.append({"layer": layer, "validation_loss": data.held_out_loss(self._edits(data, layer, found))})
        best = lowest(tried)
        where = "everywhere" if self.everywhere else f"after layer {best}"
        says = f"the direction of {len(data.chosen)} pairs after layer {best}, taken out {where}"
        return Fit(self._edits(data, best, found), data.view.d_model, says, tried)

    def _edits(self, data: Material, layer: int, found: dict[int, Tensor]) -> dict[str, Tensor]:
        direction = data.strength**0.5 * found[layer] / found[layer].norm()
        return dict.fromkeys(self._names(data.view, layer), direction)

    def _names(self, view: ModelView, layer: int) -> list[str]:
        places = ("in", "attn", "mlp")
        every = [f"L{each}.{place}.off" for each in range(view.n_layers) for place in places]
        return every if self.everywhere else [f"L{layer}.out.off"]
