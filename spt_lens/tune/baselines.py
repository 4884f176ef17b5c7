"""What pinpoint tuning is compared with: full fine-tuning and LoRA, through the same training loop on the same data.

Both train an independent copy of the model, in float32, and write the result into the model only when it is done:
after an error or an interrupt the model is as before. Tuning random heads needs nothing of its own: it is
`pinpoint_tune` on `heads.random_like(model, seed)`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from spt_lens.chat.dialogues import Dialogue
from spt_lens.model.layout import layout_of
from spt_lens.model.view import Model, ModelView
from spt_lens.tune.training import TuneConfig, encode_all, fit


@dataclass(frozen=True, eq=False)
class Change:
    """What a baseline did to a model.

    parameters: how many were trainable. history: as of `pinpoint_tune`. before: all weights as they were.
    """

    method: str
    parameters: int
    history: pd.DataFrame
    seconds: float
    before: dict[str, Tensor]

    def restore(self, model: Model) -> None:
        """**Changes the model**: puts all weights back, bit for bit.

        Raises:
            ValueError: the weights do not fit the model.
        """
        ModelView(model).load_weights(self.before)


def full_finetune(
    model: Model,
    dialogues: Sequence[Dialogue],
    config: TuneConfig | None = None,
    validation: Sequence[Dialogue] | None = None,
    keep: Sequence[Dialogue] | None = None,
    progress: bool = True,
) -> Change:
    """Tunes every parameter on the dialogues' last replies. **Changes the model**; `change.restore(model)` undoes it.

    `config` defaults to TuneConfig(lr=3e-4).

    Raises:
        ValueError, FloatingPointError: as `pinpoint_tune`.
    """
    config = config or TuneConfig(lr=3e-4)
    return _train_copy(
        "full fine-tuning", lambda plain: (plain, plain), model, dialogues, config, validation, keep, progress
    )


def lora_tune(
    model: Model,
    dialogues: Sequence[Dialogue],
    config: TuneConfig | None = None,
    rank: int = 16,
    validation: Sequence[Dialogue] | None = None,
    keep: Sequence[Dialogue] | None = None,
    progress: bool = True,
) -> Change:
    """Tunes low-rank updates of every attention projection (peft), then merges them. **Changes the model in place.**

    The update is B A with alpha = rank, that is, a scale of one; no dropout; `config.seed` also draws the start of
    A. `config` defaults to TuneConfig(lr=2e-3).

    Raises:
        ImportError: peft is not installed.
        ValueError, FloatingPointError: as `pinpoint_tune`; also a rank below one.
    """
    if rank < 1:
        raise ValueError(f"rank={rank}: LoRA needs a rank of at least one")
    peft = import_peft()
    config = config or TuneConfig(lr=2e-3)
    seed = config.seed
    layout = layout_of(ModelView(model).architecture)
    targets, transposed = layout.modules(), layout.transposed

    def wrap(plain: Any) -> tuple[Any, Any]:
        settings = peft.LoraConfig(
            r=rank,
            lora_alpha=rank,
            lora_dropout=0.0,
            bias="none",
            target_modules=targets,
            fan_in_fan_out=transposed,
            task_type="CAUSAL_LM",
        )
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            wrapped = peft.get_peft_model(plain, settings)
        return wrapped, plain

    return _train_copy(f"LoRA, rank {rank}", wrap, model, dialogues, config, validation, keep, progress)


def import_peft() -> Any:
    """The peft package; it is an extra, and the error says which."""
    try:
        import peft
    except ImportError as error:
        raise ImportError('LoRA needs the package peft: pip install "spt-lens[lora]"') from error
    return peft


@torch.inference_mode(False)  # what is made in inference mode can't be trained
def _train_copy(
    method: str,
    wrap: Callable[[Any], tuple[Any, Any]],
    model: Model,
    dialogues: Sequence[Dialogue],
    config: TuneConfig,
    validation: Sequence[Dialogue] | None,
    keep: Sequence[Dialogue] | None,
    progress: bool,
) -> Change:
    """Trains a copy of the model and copies the weights back.

    `wrap` takes the copy and returns the module to run and train, and the plain model in it.
    """
    view = ModelView(model)
    view.check_tunable()
    examples = encode_all(view, dialogues)
    held_out = encode_all(view, validation) if validation else None
    texts = [ids for ids, _ in encode_all(view, keep)] if keep else None
    before = {name: weight.detach().clone() for name, weight in view.weights().items()}
    began = time.perf_counter()
    # Training rounds away most small steps in bfloat16; the copy is float32 whatever the model is.
    module, plain = wrap(view.hf_copy().float())
    module.eval()  # no dropout, as in pinpoint tuning
    trainable = [p for p in module.parameters() if p.requires_grad]
    history = fit(
        lambda tokens: module(input_ids=tokens, use_cache=False).logits,
        trainable,
        examples,
        config,
        validation=held_out,
        keep=texts,
        unembed=plain.get_output_embeddings(),
        progress=progress,
    )
    count = sum(p.numel() for p in trainable)
    if module is not plain:
        plain = module.merge_and_unload()
    try:
        view.load_plain(plain)
        return Change(method, count, pd.DataFrame(history), time.perf_counter() - began, before)
    except BaseException:  # an interrupt in the middle: the caller gets no Change to restore with
        view.load_weights(before)
        raise
