"""Directional ablation: a direction taken out of the residual stream (Arditi et al. 2024, "Refusal in Language Models
Is Mediated by a Single Direction", arXiv 2406.11717, sections 2.3 and 2.4).

As there: the direction r is the difference of means at one layer, of length one; what a block is given, and what its
attention and its MLP write, becomes x - r (r . x) in every layer and at every position; the layer that the direction
comes from is chosen on held-out data. Otherwise here: the two sides are rejected and right replies to one prompt, read
at the first token in which they differ or at their last, not two kinds of prompts read at the end; layer and token have
the lowest loss of held-out right replies, among all (theirs are not of the last fifth, and are kept to little drift);
and with everywhere=False the direction is taken out after that one layer's block alone. Of "Are you sure?" dialogues
the two halves of the direction may cancel, as `steering.py` says; with pairs="right answers" it is of one of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from spt_lens.checking import door
from spt_lens.model.view import Model, ModelView
from spt_lens.rivals.direction import Direction, Read, check_direction, chosen, directions, layers_of
from spt_lens.rivals.fitted import Fit, Fitted, Material
from spt_lens.rivals.pairs import Pairs
from spt_lens.tune.edits import edit_slices


@door
@dataclass(frozen=True)
class Ablation(Fitted):
    """Removes the direction between rejected and right replies from the residual stream.

    layer: where the direction comes from; None: chosen among all on held-out dialogues. read, pairs: as `Steering` has
    them. `TuneConfig.lr` is the share of it that is removed: 1, all. Warns where the direction's halves cancel.
    """

    layer: int | None = None
    everywhere: bool = True
    read: Read | None = None
    pairs: Pairs = "all"
    lr: ClassVar[float] = 1.0
    lrs: ClassVar[tuple[float, ...]] = (1.0,)

    def __post_init__(self) -> None:
        check_direction(self.layer, self.read, self.pairs)

    @property
    def method(self) -> str:
        return "ablation of the direction" + ("" if self.pairs == "all" else f" by {self.pairs}")

    def check(self, model: Model) -> None:
        super().check(model)
        view = ModelView(model)
        edit_slices(view, [name for layer in layers_of(view, self.layer) for name in self._names(view, layer)])

    def fit(self, data: Material) -> Fit:
        def edits(each: Direction) -> Mapping[str, Tensor]:
            direction = data.strength**0.5 * each.vector / each.vector.norm()
            return dict.fromkeys(self._names(data.view, each.layer), direction)

        best, tried = chosen(data, directions(data, layers_of(data.view, self.layer), self.read), edits)
        best.warn(self.method)
        where = "everywhere" if self.everywhere else f"after layer {best.layer}"
        says = f"the direction of {len(data.chosen)} pairs {best}; taken out {where}"
        return Fit(edits(best), data.view.d_model, says, tried)

    def _names(self, view: ModelView, layer: int) -> list[str]:
        places = ("in", "attn", "mlp")
        every = [f"L{each}.{place}.off" for each in range(view.n_layers) for place in places]
        return every if self.everywhere else [f"L{layer}.out.off"]
