"""LoRA on every attention projection (peft), through the same training loop on the same data."""

import importlib.util
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from spt_lens.chat.dialogues import Dialogue
from spt_lens.checking import whole_number
from spt_lens.model.devices import check_whole
from spt_lens.model.layout import layout_of
from spt_lens.model.view import Model, ModelView
from spt_lens.tune.training import TuneConfig
from spt_lens.tune.tuner import Trainable, Tuned, Tuner


@dataclass(frozen=True)
class LoRA(Tuner):
    """Trains low-rank updates on a copy of the model, in float32 whatever its dtype, and merges them into the model.

    The update is B A with alpha = rank, that is, a scale of one; no dropout; `config.seed` also draws the start of A.
    """

    rank: int = 16
    lr: ClassVar[float] = 2e-3
    lrs: ClassVar[tuple[float, ...]] = (1e-4, 2e-4, 3e-4, 1e-3, 3e-3)

    def __post_init__(self) -> None:
        whole_number(self.rank, "rank")

    @property
    def method(self) -> str:
        return f"LoRA, rank {self.rank}"

    def check(self, model: Model) -> None:
        super().check(model)
        check_whole(ModelView(model).backend.root, "LoRA")
        if importlib.util.find_spec("peft") is None:
            raise ImportError('LoRA needs the package peft: pip install "spt-lens[lora]"')

    @contextmanager
    def setup(self, view: ModelView, config: TuneConfig) -> Iterator[Trainable]:
        from peft import LoraConfig, get_peft_model  # an extra

        layout = layout_of(view.architecture)
        where = {"target_modules": layout.modules(), "fan_in_fan_out": layout.transposed, "task_type": "CAUSAL_LM"}
        settings = LoraConfig(r=self.rank, lora_alpha=self.rank, lora_dropout=0.0, bias="none", **where)
        plain = view.hf_copy().float()
        with torch.random.fork_rng():
            torch.manual_seed(config.seed)
            wrapped: Any = get_peft_model(plain, settings)
        wrapped.eval()  # no dropout, as in pinpoint tuning
        yield Trainable.of_copy(wrapped, view, lambda: view.load_plain(wrapped.merge_and_unload()))


def lora_tune(
    model: Model,
    dialogues: Sequence[Dialogue],
    config: TuneConfig | None = None,
    rank: int = 16,
    validation: Sequence[Dialogue] | None = None,
    keep: Sequence[Dialogue] | None = None,
    progress: bool = True,
) -> Tuned:
    """Tunes low-rank updates of the attention, then merges them. **Changes the model**; `tuned.undo(model)` undoes it.

    `config` defaults to TuneConfig(lr=2e-3). Arguments, interrupts and errors are those of `Tuner.tune`. Raises:
    ImportError without peft; ValueError also for a rank below one.
    """
    return LoRA(rank).tune(model, dialogues, config, validation=validation, keep=keep, progress=progress)
