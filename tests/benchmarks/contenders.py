"""What the tuning benchmark compares: each loads a model from a folder, and tunes it on the same dialogues.

A contender is `load(job)`, which returns what runs `job.steps` steps of the optimiser. All are in float32 with AdamW
and no dropout. Ours go through the package's public calls. `peft` is a plain loop over its model, and `trl` its
SFTTrainer; both run the plain transformers model with its default attention (sdpa).
"""

from __future__ import annotations

import contextlib
import io
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

import spt_lens as spt
from spt_lens.chat.batches import Examples
from spt_lens.chat.dialogues import Dialogue
from spt_lens.chat.template import training_ids
from spt_lens.model.layout import layout_of
from spt_lens.tune.full import full_finetune
from spt_lens.tune.lora import lora_tune

RANK, RATE, IGNORED = 16, 1e-4, -100


@dataclass(frozen=True)
class Job:
    """One contender's part. heads: of pinpoint tuning."""

    folder: Path
    contender: str
    dialogues: Sequence[Dialogue]
    steps: int
    batch: int
    heads: str = ""
    threads: int = 1


Run = Callable[[], dict[str, Any]]  # returns what is to be said about it beyond time and memory


def pinpoint(job: Job) -> Run:
    heads = spt.HeadSet.parse(job.heads)
    return _ours(job, lambda model, *given: spt.pinpoint_tune(model, heads, *given, progress=False))


def full(job: Job) -> Run:
    return _ours(job, lambda model, *given: full_finetune(model, *given, progress=False))


def lora(job: Job) -> Run:
    return _ours(job, lambda model, *given: lora_tune(model, *given, rank=RANK, progress=False))


def _ours(job: Job, tune: Callable[..., spt.Tuned]) -> Run:
    model = spt.load_model(job.folder, device="cpu")
    config = spt.TuneConfig(lr=RATE, steps=job.steps, batch_size=job.batch)

    def run() -> dict[str, Any]:
        tuned = tune(model, job.dialogues, config)
        return {"weights": tuned.weights, "loss": float(tuned.history["loss"].iloc[-1])}

    return run


def peft(job: Job) -> Run:
    from peft import get_peft_model

    model, tokenizer = _plain(job)

    def run() -> dict[str, Any]:
        tuned: Any = get_peft_model(model, _lora_config(model)).train()
        trained = [p for p in tuned.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(trained, RATE)
        data = Examples([training_ids(tokenizer, dialogue) for dialogue in job.dialogues])
        batches = data.shuffled(job.batch, 0)
        for _ in range(job.steps):
            batch = next(batches)
            targets = torch.zeros_like(batch.where)
            targets[:, 1:] = batch.where[:, :-1]
            mask = torch.arange(batch.tokens.shape[1]) < batch.lengths[:, None]
            labels = batch.tokens.masked_fill(~targets, IGNORED)
            loss = tuned(input_ids=batch.tokens, attention_mask=mask.long(), labels=labels).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        return {"weights": sum(p.numel() for p in trained), "loss": loss.item()}

    return run


def trl(job: Job, checkpointing: bool = True) -> Run:
    """As TRL has it by itself: activations are made again in the backward pass."""
    import datasets
    from trl import SFTConfig, SFTTrainer

    model, tokenizer = _plain(job)
    ours = [training_ids(tokenizer, dialogue) for dialogue in job.dialogues]

    def run() -> dict[str, Any]:
        rows = [[{"role": m.role, "content": m.content} for m in each.messages] for each in job.dialogues]
        data = datasets.Dataset.from_list([{"prompt": row[:-1], "completion": row[-1:]} for row in rows])
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
            config = SFTConfig(
                folder,
                max_steps=job.steps,
                per_device_train_batch_size=job.batch,
                learning_rate=RATE,
                gradient_checkpointing=checkpointing,
                bf16=False,
                use_cpu=True,
                report_to="none",
                save_strategy="no",
                disable_tqdm=True,
                dataloader_pin_memory=False,
            )
            trainer: Any = SFTTrainer(
                model, config, train_dataset=data, processing_class=tokenizer, peft_config=_lora_config(model)
            )
            loss = trainer.train().training_loss
        wanted = [
            (ids, [token if target else IGNORED for token, target in zip(ids, targets, strict=True)])
            for ids, targets in ours
        ]
        have = [(row["input_ids"], row["labels"]) for row in trainer.train_dataset]
        same = {
            f"same_{name}": sum(one[i] == other[i] for one, other in zip(have, wanted, strict=True))
            for i, name in enumerate(("ids", "labels"))
        }
        weights = sum(p.numel() for p in trainer.model.parameters() if p.requires_grad)
        return {"weights": weights, "loss": float(loss), **same}

    return run


def _plain(job: Job) -> tuple[Any, Any]:
    return AutoModelForCausalLM.from_pretrained(job.folder), AutoTokenizer.from_pretrained(job.folder)


def _lora_config(model: transformers.PreTrainedModel) -> Any:
    from peft import LoraConfig

    layout = layout_of(model.config.architectures[0])
    return LoraConfig(
        r=RANK,
        lora_alpha=RANK,
        lora_dropout=0.0,
        target_modules=layout.modules(),
        fan_in_fan_out=layout.transposed,
        task_type="CAUSAL_LM",
    )


CONTENDERS: dict[str, Callable[[Job], Run]] = {
    "full": full,
    "lora": lora,
    "peft": peft,
    "trl": trl,
    "trl-plain": lambda job: trl(job, checkpointing=False),
    "pinpoint-middle": pinpoint,
    "pinpoint-top": pinpoint,
    "pinpoint-all": pinpoint,
}
