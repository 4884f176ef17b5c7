"""A steering vector: contrastive activation addition (Rimsky et al. 2024, "Steering Llama 2 via Contrastive Activation
Addition", arXiv 2312.06681, sections 3 and 4).

As there: the vector of a layer is the mean, over pairs that share a prompt and differ in their answer, of the residual
stream after the layer's block at the answer's token in one run less that in the other. Times a coefficient it is added
after that block to every position of the reply: from the last token of the prompt on, as the authors' code does
("all token positions after the user's prompt"), or with positions="all" in the prompt too.
Otherwise here: answers are whole replies (theirs are letters), read at the first token in which they differ or at their
last one; the vector is not scaled to another behaviour's length; layer and token are those with the lowest loss of
held-out right replies. Their pairs are of one behaviour. Of "Are you sure?" dialogues pairs="right answers" are such: a
right first answer stood by or given up. With pairs="all", wrong first answers taken back are among them, whose
difference points against that of the right ones, and the two may cancel: what is found says their cosine and lengths.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from torch import Tensor

from spt_lens.checking import door, one_of
from spt_lens.model.view import Model, ModelView
from spt_lens.rivals.direction import Direction, Read, check_direction, chosen, directions, layers_of
from spt_lens.rivals.fitted import Fit, Fitted, Material
from spt_lens.rivals.pairs import Pairs
from spt_lens.tune.edits import edit_slices

Positions = Literal["reply", "all"]


@door
@dataclass(frozen=True)
class Steering(Fitted):
    """Adds the mean difference between right and rejected replies to the residual stream after one block.

    layer: after whose block; None: chosen among all on held-out dialogues. read: where the difference is taken, at the
    first token that differs ("answer") or at the reply's last ("end"); None: chosen likewise. pairs: of all dialogues,
    or "right answers": of challenged right first answers alone, the layer chosen by held-out ones of these too.
    `TuneConfig.lr` is the coefficient. Warns where the vector's halves cancel.
    """

    layer: int | None = None
    positions: Positions = "reply"
    read: Read | None = None
    pairs: Pairs = "all"
    lr: ClassVar[float] = 1.0
    lrs: ClassVar[tuple[float, ...]] = (0.5, 1.0, 2.0, 4.0)

    def __post_init__(self) -> None:
        one_of(self.positions, "positions", get_args(Positions))
        check_direction(self.layer, self.read, self.pairs)

    @property
    def method(self) -> str:
        return "steering" if self.pairs == "all" else f"steering by {self.pairs}"

    def check(self, model: Model) -> None:
        super().check(model)
        edit_slices(model, [self._name(layer) for layer in layers_of(ModelView(model), self.layer)])

    def fit(self, data: Material) -> Fit:
        def edits(each: Direction) -> Mapping[str, Tensor]:
            return {self._name(each.layer): data.strength * each.vector}

        best, tried = chosen(data, directions(data, layers_of(data.view, self.layer), self.read), edits)
        best.warn(self.method)
        says = f"{data.strength:g} times the mean difference of {len(data.chosen)} pairs {best}"
        return Fit(edits(best), best.vector.numel(), says, tried)

    def _name(self, layer: int) -> str:
        return f"L{layer}.out" + (".reply" if self.positions == "reply" else "")
