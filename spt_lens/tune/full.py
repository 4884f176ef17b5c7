"""Full fine-tuning: every parameter, through the same training loop on the same data."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

from spt_lens.chat.dialogues import Dialogue
from spt_lens.model.devices import check_whole
from spt_lens.model.view import Model, ModelView
from spt_lens.tune.training import TuneConfig
from spt_lens.tune.tuner import Trainable, Tuned, Tuner


@dataclass(frozen=True)
class FullFineTuning(Tuner):
    """Trains a copy of the model, in float32 whatever its dtype, and writes it into the model when it is done."""

    method = "full fine-tuning"
    lr: ClassVar[float] = 3e-4
    lrs: ClassVar[tuple[float, ...]] = (1e-5, 2e-5, 3e-5, 1e-4, 3e-4)

    def check(self, model: Model) -> None:
        super().check(model)
        check_whole(ModelView(model).backend.root, "full fine-tuning")

    @contextmanager
    def setup(self, view: ModelView, config: TuneConfig) -> Iterator[Trainable]:
        # Training rounds away most small steps in bfloat16.
        plain = view.hf_copy().float()
        yield Trainable.of_copy(plain, view, lambda: view.load_plain(plain))


def full_finetune(
    model: Model,
    dialogues: Sequence[Dialogue],
    config: TuneConfig | None = None,
    validation: Sequence[Dialogue] | None = None,
    keep: Sequence[Dialogue] | None = None,
    progress: bool = True,
) -> Tuned:
    """Tunes every parameter on the last replies. **Changes the model**; `tuned.undo(model)` puts it back exactly.

    `config` defaults to TuneConfig(lr=3e-4). Arguments, interrupts and errors are those of `Tuner.tune`.
    """
    return FullFineTuning().tune(model, dialogues, config, validation=validation, keep=keep, progress=progress)
