"""LoRA on every attention projection (peft), through the same training loop on the same data."""

import importlib.util
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch

from spt_lens.chat.dialogues import Dialogue
from spt_lens.checking import MANY, door, whole_number
from spt_lens.model.devices import check_whole
from spt_lens.model.layout import layout_of
from spt_lens.model.view import Model, ModelView
from spt_lens.tune.plain import WIDE, attention_weights, plain_model
from spt_lens.tune.training import OnStep, TuneConfig
from spt_lens.tune.tuner import Trainable, Tuned, Tuner


@door
@dataclass(frozen=True)
class LoRA(Tuner):
    """Trains low-rank updates, in float32 or what is wider, on the model's own weights, and merges them in place.

    A float16 model is copied into float32 for it, since without scaling its gradients would vanish; a HookedTransformer
    is copied too. The update is B A with alpha = rank, that is, a scale of one; no dropout; `config.seed` also draws
    the start of A.
    """

    rank: int = 16
    lr: ClassVar[float] = 2e-3
    lrs: ClassVar[tuple[float, ...]] = (1e-4, 2e-4, 3e-4, 1e-3, 3e-3)

    def __post_init__(self) -> None:
        whole_number(self.rank, "rank", 1, MANY)

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

        settings = LoraConfig(r=self.rank, lora_alpha=self.rank, lora_dropout=0.0, bias="none", **self.where(view))
        plain = plain_model(view, in_place=(*WIDE, torch.bfloat16))
        with torch.random.fork_rng():
            torch.manual_seed(config.seed)
            wrapped: Any = get_peft_model(plain, settings)
        wrapped.eval()  # no dropout, as in pinpoint tuning
        pieces = attention_weights(view)
        yield Trainable.of_plain(wrapped, view, lambda: view.load_plain(wrapped.merge_and_unload()), pieces)

    def where(self, view: ModelView) -> dict[str, Any]:
        """What peft is told of the modules that get updates."""
        layout = layout_of(view.architecture)
        return {"target_modules": layout.modules(), "fan_in_fan_out": layout.transposed, "task_type": "CAUSAL_LM"}


@door
def lora_tune(
    model: Model,
    dialogues: Sequence[Dialogue],
    config: TuneConfig | None = None,
    rank: int = 16,
    validation: Sequence[Dialogue] | None = None,
    keep: Sequence[Dialogue] | None = None,
    progress: bool = True,
    resume: str | Path | None = None,
    on_step: OnStep | None = None,
) -> Tuned:
    """Tunes low-rank updates of the attention, then merges them. **Changes the model**; `tuned.undo(model)` undoes it.

    `config` defaults to TuneConfig(lr=2e-3). Arguments, interrupts and errors are those of `Tuner.tune`. Raises:
    ImportError without peft; ValueError also for a rank below one.
    """
    more: Any = {"validation": validation, "keep": keep, "progress": progress, "resume": resume, "on_step": on_step}
    return LoRA(rank).tune(model, dialogues, config, **more)
