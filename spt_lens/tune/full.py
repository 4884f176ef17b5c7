"""Full fine-tuning: every parameter, through the same training loop on the same data."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from spt_lens.chat.dialogues import Dialogue
from spt_lens.checking import door
from spt_lens.model.devices import check_whole
from spt_lens.model.view import Model, ModelView
from spt_lens.tune.plain import plain_model
from spt_lens.tune.slices import whole_weights
from spt_lens.tune.training import OnStep, TuneConfig
from spt_lens.tune.tuner import Trainable, Tuned, Tuner


@dataclass(frozen=True)
class FullFineTuning(Tuner):
    """Trains the model's own weights in place, beside them nothing but gradients, moments and what undoing needs.

    A model in half precision, and a HookedTransformer, lends no weights: a copy is trained, in float32 or what is
    wider, and written into the model when it is done; that of a bfloat16 model multiplies in bfloat16.
    """

    method = "full fine-tuning"
    lr: ClassVar[float] = 3e-4
    lrs: ClassVar[tuple[float, ...]] = (1e-5, 2e-5, 3e-5, 1e-4, 3e-4)

    def check(self, model: Model) -> None:
        super().check(model)
        check_whole(ModelView(model).backend.root, "full fine-tuning")

    @contextmanager
    def setup(self, view: ModelView, config: TuneConfig) -> Iterator[Trainable]:
        plain = plain_model(view)
        yield Trainable.of_plain(plain, view, lambda: view.load_plain(plain), whole_weights(view))


@door
def full_finetune(
    model: Model,
    dialogues: Sequence[Dialogue],
    config: TuneConfig | None = None,
    validation: Sequence[Dialogue] | None = None,
    keep: Sequence[Dialogue] | None = None,
    progress: bool = True,
    resume: str | Path | None = None,
    on_step: OnStep | None = None,
) -> Tuned:
    """Tunes every parameter on the last replies. **Changes the model**; `tuned.undo(model)` puts it back exactly.

    `config` defaults to TuneConfig(lr=3e-4). Arguments, interrupts and errors are those of `Tuner.tune`.
    """
    more: Any = {"validation": validation, "keep": keep, "progress": progress, "resume": resume, "on_step": on_step}
    return FullFineTuning().tune(model, dialogues, config, **more)
