"""The one training loop: pinpoint tuning, full fine-tuning and LoRA differ only in what is trainable."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm
from transformers import get_scheduler

from spt_lens.tune.batches import Example, Examples
from spt_lens.tune.config import TuneConfig
from spt_lens.tune.keep import KeepTerm
from spt_lens.tune.logits import Forward, logits_at

Row = dict[str, float]
_VALIDATION_BATCH = 32


def make_optimizer(trainable: Sequence[Tensor], config: TuneConfig) -> torch.optim.Optimizer:
    if config.optimizer == "sgd":
        return torch.optim.SGD(trainable, lr=config.lr, momentum=config.momentum, weight_decay=config.weight_decay)
    return torch.optim.AdamW(trainable, lr=config.lr, weight_decay=config.weight_decay)


@torch.enable_grad()  # notebooks often turn gradients off for good
def fit(
    forward: Forward,
    trainable: Sequence[Tensor],
    examples: Sequence[Example],
    config: TuneConfig,
    *,
    validation: Sequence[Example] | None = None,
    keep: Sequence[Sequence[int]] | None = None,
    unembed: nn.Module | None = None,
    before_step: Callable[[], None] | None = None,
    after_step: Callable[[], None] | None = None,
    history: list[Row] | None = None,
    progress: bool = True,
) -> list[Row]:
    """Trains `trainable` on the examples' target tokens (mean cross-entropy); returns a row for each step.

    Args:
        forward: tokens [batch pos] -> logits [batch pos vocab], with gradients to `trainable`.
        examples: token ids and target marks, as `data.encode.training_ids` gives them.
        validation: examples that are only measured: before the first step, every `validate_every` steps, after the
        last.
        keep: token ids of ordinary text for the KL term, if `config.kl_weight` is positive.
        unembed: the module that makes logits of hidden states; if given, it works only where there are targets.
        before_step, after_step: called before each forward pass and after each optimiser step.
        history: rows are appended to this list as they come, so that a caller has them also after an interrupt.

    A row holds step, loss, lr, grad_norm (before clipping), kl (with a KL term), and where measured the figures of
    `validate`. The order of the data comes from `config.seed`. KeyboardInterrupt is passed on.

    Raises:
        ValueError: no examples, an example without targets, a KL weight without `keep` or the reverse.
        FloatingPointError: the loss is no longer finite.
    """
    if not trainable:
        raise ValueError("There is nothing to train: no trainable tensor was given.")
    if (config.kl_weight > 0) != bool(keep):
        raise ValueError("A KL term needs both: a positive TuneConfig.kl_weight, and `keep` dialogues.")
    rows = [] if history is None else history
    device = trainable[0].device
    data = Examples(examples, device)
    held_out = Examples(validation, device) if validation else None
    term = KeepTerm(forward, keep, config.kl_batch_size, config.seed, device, unembed) if keep else None
    optimizer = make_optimizer(trainable, config)
    scheduler = get_scheduler(
        config.schedule,
        optimizer,
        num_warmup_steps=int(config.warmup_share * config.steps),
        num_training_steps=config.steps,
    )
    largest = math.inf if config.max_grad_norm is None else config.max_grad_norm
    batches = data.shuffled(config.batch_size, config.seed)
    if held_out is not None:
        rows.append({"step": 0, **validate(forward, held_out, unembed)})
    bar = tqdm(range(1, config.steps + 1), desc="tuning", unit="step", disable=not progress)
    for step in bar:
        if before_step is not None:
            before_step()
        batch = next(batches)
        optimizer.zero_grad(set_to_none=True)
        loss = torch.nn.functional.cross_entropy(logits_at(forward, unembed, batch.tokens, batch.where), batch.labels)
        row: Row = {"step": step, "loss": loss.item(), "lr": optimizer.param_groups[0]["lr"]}
        total = loss
        if term is not None:
            kl = term.loss(step)
            row["kl"] = kl.item()
            total = loss + config.kl_weight * kl
        total.backward()
        row["grad_norm"] = float(torch.nn.utils.clip_grad_norm_(trainable, largest))
        if not math.isfinite(row["loss"]) or not math.isfinite(row["grad_norm"]):
            raise FloatingPointError(
                f"Step {step}: loss {row['loss']}, gradient norm {row['grad_norm']}. Lower lr (now {config.lr})."
            )
        optimizer.step()
        scheduler.step()
        if after_step is not None:
            after_step()
        rows.append(row)  # before validation: an interrupt there comes after this step was taken
        if held_out is not None and (step % config.validate_every == 0 or step == config.steps):
            row.update(validate(forward, held_out, unembed))
        bar.set_postfix(loss=f"{row['loss']:.3f}", refresh=False)
    return rows


@torch.no_grad()
def validate(forward: Forward, examples: Examples, unembed: nn.Module | None = None) -> Row:
    """Figures on examples that are not trained on, without generating.

    validation_loss: mean cross-entropy of the target tokens. validation_first: share of examples whose first target
    token is the likeliest, that is, where the reply sets out as it should. validation_reply: share where all are,
    which is where greedy decoding gives exactly this reply.
    """
    loss, tokens, first, whole = 0.0, 0, 0, 0
    for _, batch in examples.in_order_of_length(_VALIDATION_BATCH):
        logits = logits_at(forward, unembed, batch.tokens, batch.where)
        loss += torch.nn.functional.cross_entropy(logits, batch.labels, reduction="sum").item()
        tokens += len(batch.labels)
        hits = torch.zeros_like(batch.where)
        hits[batch.where] = logits.argmax(-1) == batch.labels
        starts = batch.where.int().argmax(dim=1)
        first += int(hits[torch.arange(len(hits), device=hits.device), starts].sum())
        whole += int((hits == batch.where).all(dim=1).sum())
    n = len(examples)
    return {"validation_loss": loss / tokens, "validation_first": first / n, "validation_reply": whole / n}
