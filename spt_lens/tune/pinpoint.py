"""Supervised pinpoint tuning (Chen et al. 2024, section 3.3): train the chosen heads' projections and nothing else."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor

from spt_lens.chat.batches import Reads
from spt_lens.chat.dialogues import Dialogue
from spt_lens.checking import door
from spt_lens.heads import HeadSet
from spt_lens.model.attention_kind import without_patterns
from spt_lens.model.states import States
from spt_lens.model.targets import model_logits
from spt_lens.model.view import Model, ModelView
from spt_lens.tune.slices import SliceMask, head_slices
from spt_lens.tune.training import OnStep, TuneConfig
from spt_lens.tune.tuner import Trainable, Tuned, Tuner


@door
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
        with without_patterns(view):
            with SliceMask(view, slices) as mask:
                reached = mask.reached()
            way, blocks = _Way(view, min(head.layer for head in self.heads)), list(view.model.blocks)
            with SliceMask(view, slices, whole=not reached) as mask:
                parameters, write = self.trained(mask, config)
                about = (slices, True, self.heads, letters, way.prepare, blocks)
                yield Trainable(way, parameters, write, *about)

    def trained(self, mask: SliceMask, config: TuneConfig) -> tuple[Sequence[Tensor], Callable[[], None]]:
        """What of the slices the optimiser gets, and what writes it into the model."""
        return mask.masters, mask.write_back


class _Way:
    """Logits from the kept states below the lowest chosen layer on, or by whole forward passes."""

    def __init__(self, view: ModelView, layer: int) -> None:
        self.view, self.layer = view, layer
        self._logits = model_logits(view)

    def __call__(self, batch: Reads) -> Float[Tensor, "n_where vocab"]:
        return self._logits(batch)

    def prepare(self, rows: Sequence[Sequence[int]], states: States, progress: bool) -> str:
        below = states.below(self.layer)
        if problem := below.problem(rows):
            return f"whole forward passes at every step, since {self.view.name} {problem}"
        self._logits = below.logits
        if self.layer == 0:
            return "whole forward passes at every step, since a head of layer 0 is among the chosen"
        kept, of = below.fill(rows, progress), len(set(map(tuple, rows)))
        said = f"steps from layer {self.layer} on, from hidden states kept of {kept} of {of} dialogues"
        if kept < of:
            need = sum(map(len, set(map(tuple, rows)))) * self.view.d_model * self.view.dtype.itemsize
            said += f" (all would take {need / 2**30:.2g} GiB: give more by states=States(model, max_memory=...))"
        return said


@door
def pinpoint_tune(
    model: Model,
    heads: HeadSet,
    dialogues: Sequence[Dialogue],
    config: TuneConfig | None = None,
    validation: Sequence[Dialogue] | None = None,
    keep: Sequence[Dialogue] | None = None,
    progress: bool = True,
    states: States | str | Path | bool = True,
    resume: str | Path | None = None,
    on_step: OnStep | None = None,
) -> Tuned:
    """Tunes the chosen heads' slices of W_Q, W_K, W_V, W_O on the last replies. **Changes the model in place.**

    Every weight outside the slices stays as it is, bit for bit; `tuned.undo(model)` puts the slices back exactly.
    A step costs a pass forward and one backward through the layers from the lowest chosen one on: what lies below is
    computed once for each dialogue and kept (`states`), where the model allows it; `tuned.way` says what was done.
    Arguments, interrupts and errors are those of `Tuner.tune`.

    Raises: ValueError also for an empty selection or a head that does not exist; TypeError if `heads` is no HeadSet.
    """
    more: Any = {"validation": validation, "keep": keep, "progress": progress, "resume": resume, "on_step": on_step}
    return Pinpoint(heads).tune(model, dialogues, config, states=states, **more)
