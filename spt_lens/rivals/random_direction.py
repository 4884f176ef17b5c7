"""The control of steering, ablation and ITI: the same change along directions that mean nothing.

Everything is as the rival itself chose it on the same data (layer, heads, positions, strength, length), but for where
the directions point: they are drawn from all alike (`measure.controls.random_direction`). What it reaches is due to
disturbing the model there by so much, and not to the direction.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from spt_lens.checking import door, instance
from spt_lens.measure.controls import random_direction
from spt_lens.model.view import Model
from spt_lens.rivals.fitted import Fit, Fitted, Material
from spt_lens.rivals.pairs import Pairs


@door
@dataclass(frozen=True)
class RandomDirection(Fitted):
    """What a fitted rival does, along random directions of the same length: RandomDirection(Steering()).

    of: Steering, Ablation or ITI. Strengths are its own. Directions are drawn by `TuneConfig.seed`: one for each that
    it found, so that one taken out in all layers is one here too.
    """

    of: Fitted

    def __post_init__(self) -> None:
        instance(self.of, "of", Fitted, "give Steering(), Ablation() or ITI()")
        if isinstance(self.of, RandomDirection):
            raise ValueError("of is a control already: give what it is the control of")

    @property
    def method(self) -> str:
        return f"{self.of.method}, random direction"

    @property
    def lr(self) -> float:  # type: ignore[override]
        return self.of.lr

    @property
    def lrs(self) -> tuple[float, ...]:  # type: ignore[override]
        return self.of.lrs

    @property
    def pairs(self) -> Pairs:  # type: ignore[override]
        return self.of.pairs

    @property
    def on_all(self) -> bool:  # type: ignore[override]
        return self.of.on_all

    def check(self, model: Model) -> None:
        self.of.check(model)

    def fit(self, data: Material) -> Fit:
        found = self.of.fit(data)
        draw = random.Random(f"random direction {data.seed}")
        drawn: dict[int, Tensor] = {}
        for value in found.edits.values():
            if id(value) not in drawn:
                drawn[id(value)] = _turned(value, draw.randrange(2**31))
        edits = {name: drawn[id(value)] for name, value in found.edits.items()}
        return replace(found, edits=edits, says=f"a random direction in place of {found.says}")


def _turned(value: Tensor, seed: int) -> Tensor:
    """An edit's direction drawn anew; of a head's scale and shift, those rows that are not zero."""
    rows = value if value.ndim > 1 else value[None]
    turned = [random_direction(row, seed) if bool(row.any()) else row for row in rows]
    return torch.stack(turned).reshape(value.shape)
