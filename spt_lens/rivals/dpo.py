"""Direct preference optimisation of whatever another tuner trains (Rafailov et al. 2023, arXiv 2305.18290).

The loss and its source are in `spt_lens/tune/preference.py`.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from spt_lens.checking import door, instance, number
from spt_lens.heads import HeadSet
from spt_lens.model.view import Model, ModelView
from spt_lens.rivals.fitted import Fitted
from spt_lens.tune.config import TuneConfig
from spt_lens.tune.tuner import Trainable, Tuner


@door
@dataclass(frozen=True)
class DPO(Tuner):
    """Trains what `tuner` trains, but on preferring the dialogues' replies to the rejected ones: DPO(Pinpoint(heads)).

    beta: how much the log-probabilities may move for it: less, further; 0.1 as in the paper. Learning rates are the
    tuner's. Dialogues without a rejected reply are left out.
    """

    tuner: Tuner
    beta: float = 0.1

    def __post_init__(self) -> None:
        instance(self.tuner, "tuner", Tuner, "give one that is trained, such as LoRA() or Pinpoint(heads)")
        if isinstance(self.tuner, Fitted | DPO):
            raise ValueError(f"DPO trains what a tuner trains, and {self.tuner!r:.80} has no objective to be replaced")
        if getattr(self.tuner, "heads", True) is None:
            raise ValueError("LoFiT chooses its heads by another objective: give them, DPO(LoFiT(heads=...))")
        number(self.beta, "beta", above=0)

    @property
    def method(self) -> str:
        return f"DPO, beta {self.beta:g}, of {self.tuner.method}"

    @property
    def lr(self) -> float:  # type: ignore[override]
        return self.tuner.lr

    @property
    def lrs(self) -> tuple[float, ...]:  # type: ignore[override]
        return self.tuner.lrs

    @property
    def heads(self) -> HeadSet:
        """Those that the tuner trains; none if it has none."""
        found: Any = getattr(self.tuner, "heads", HeadSet())
        return found if isinstance(found, HeadSet) else HeadSet()

    def check(self, model: Model) -> None:
        self.tuner.check(model)

    def setup(self, view: ModelView, config: TuneConfig) -> AbstractContextManager[Trainable]:
        return self.tuner.setup(view, config)
