"""Supervised pinpoint tuning (Chen et al. 2024, section 3.3): train the chosen heads' projections and nothing else."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from spt_lens.chat.dialogues import Dialogue
from spt_lens.heads import HeadSet
from spt_lens.model.targets import model_logits
from spt_lens.model.view import Model, ModelView
from spt_lens.tune.slices import SliceMask, head_slices
from spt_lens.tune.training import OnStep, TuneConfig
from spt_lens.tune.tuner import Trainable, Tuned, Tuner


@dataclass(frozen=True)
class Pinpoint(Tuner):
    """Trains the slices of the chosen heads, in float32 whatever the model's dtype. Random heads are a rival too."""

    heads: HeadSet
    method = "pinpoint tuning"
    lrs: ClassVar[tuple[float, ...]] = (1e-4, 3e-4, 5e-4, 1e-3, 3e-3)

    def check(self, model: Model) -> None:
        super().check(model)
        head_slices(model, self.heads)

    @contextmanager
    def setup(self, view: ModelView, config: TuneConfig) -> Iterator[Trainable]:
        letters = view.shape.letters(config.projections)
        slices = head_slices(view, self.heads, letters)
        with SliceMask(view, slices) as mask:
            logits, blocks = model_logits(view), list(view.model.blocks)
            yield Trainable(logits, mask.masters, mask.write_back, slices, True, self.heads, letters, blocks)


def pinpoint_tune(
    model: Model,
    heads: HeadSet,
    dialogues: Sequence[Dialogue],
    config: TuneConfig | None = None,
    validation: Sequence[Dialogue] | None = None,
    keep: Sequence[Dialogue] | None = None,
    progress: bool = True,
    resume: str | Path | None = None,
    on_step: OnStep | None = None,
) -> Tuned:
    """Tunes the chosen heads' slices of W_Q, W_K, W_V, W_O on the last replies. **Changes the model in place.**

    Every weight outside the slices stays as it is, bit for bit; `tuned.undo(model)` puts the slices back exactly.
    Arguments, interrupts and errors are those of `Tuner.tune`.

    Raises: ValueError also for an empty selection or a head that does not exist; TypeError if `heads` is no HeadSet.
    """
    more: Any = {"validation": validation, "keep": keep, "progress": progress, "resume": resume, "on_step": on_step}
    return Pinpoint(heads).tune(model, dialogues, config, **more)
