"""The one training loop, its settings, and a term that keeps the model where it was on ordinary text.

Methods differ only in what is trainable (`tuner.py`). Only the targets are unembedded (`model/targets.py`).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm
from transformers import get_scheduler

from spt_lens.chat.batches import Example, Examples, Reads, padded
from spt_lens.checking import instance, number, one_of, seed_number, whole_number
from spt_lens.model.targets import LogitsAt

SCHEDULES = ("linear", "cosine", "constant", "constant_with_warmup")
_VALIDATION_BATCH = 32


@dataclass(frozen=True)
class TuneConfig:
    """Settings of one run; the same ones serve every method.

    lr: the peak learning rate. steps: of the optimiser. batch_size: dialogues per step (all, if there are fewer).
    warmup_share: share of the steps in which the rate climbs to `lr`. max_grad_norm: None for no clipping.
    momentum: of "sgd" only. validate_every: steps between validations, if there are validation dialogues.
    kl_weight: weight of KL(untuned || tuned), in nats per token, on `keep` dialogues, `kl_batch_size` of them a step.
    projections: "auto" ("qkvo", or "qo" in a grouped-query model), or letters of "qkvo"; pinpoint tuning only.

    Raises ValueError or TypeError for a value that can't be meant.
    """

    lr: float = 1e-3
    steps: int = 200
    batch_size: int = 16
    weight_decay: float = 0.0
    max_grad_norm: float | None = 1.0
    warmup_share: float = 0.05
    schedule: str = "linear"
    optimizer: Literal["adamw", "sgd"] = "adamw"
    momentum: float = 0.9
    seed: int = 0
    projections: str = "auto"
    validate_every: int = 50
    kl_weight: float = 0.0
    kl_batch_size: int = 8

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "validate_every", "kl_batch_size"):
            whole_number(getattr(self, name), f"TuneConfig.{name}")
        for name in ("weight_decay", "momentum", "kl_weight"):
            number(getattr(self, name), f"TuneConfig.{name}", least=0)
        for name in ("lr", "max_grad_norm") if self.max_grad_norm is not None else ("lr",):
            number(getattr(self, name), f"TuneConfig.{name}", above=0)
        seed_number(self.seed, "TuneConfig.seed")
        instance(self.projections, "TuneConfig.projections", str, 'give "auto", or letters of "qkvo"')
        number(self.warmup_share, "TuneConfig.warmup_share", least=0, below=1)
        one_of(self.schedule, "TuneConfig.schedule", SCHEDULES)
        one_of(self.optimizer, "TuneConfig.optimizer", ("adamw", "sgd"))


class KeepTerm:
    """Mean KL(untuned || model) in nats, over all positions of a batch of texts; the batches come round in turn.

    The untuned model's log-probabilities are kept from the start: float32, positions x vocabulary, so a few hundred
    short texts for a small vocabulary. Make it before the first step.
    """

    def __init__(
        self,
        logits: LogitsAt,
        texts: Sequence[Sequence[int]],
        batch_size: int,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ):
        if not texts:
            raise ValueError("there are no texts to keep the model's predictions on")
        self._logits = logits
        by_length = sorted(texts, key=len)
        batches = [padded(by_length[i : i + batch_size], 0) for i in range(0, len(texts), batch_size)]
        order = torch.randperm(len(batches), generator=torch.Generator().manual_seed(seed)).tolist()
        self._batches: list[tuple[Reads, Tensor]] = []  # and log-probabilities [n_real, vocab]
        with torch.no_grad():
            for i in order:
                tokens, real = batches[i]
                batch = Reads(tokens.to(device), real.to(device), real.sum(dim=1))
                self._batches.append((batch, torch.log_softmax(logits(batch), dim=-1)))

    def loss(self, step: int) -> Float[Tensor, ""]:
        batch, reference = self._batches[step % len(self._batches)]
        return mean_kl(reference, self._logits(batch))


def mean_kl(reference: Float[Tensor, "n vocab"], logits: Float[Tensor, "n vocab"]) -> Float[Tensor, ""]:
    """Mean KL(reference || model) in nats over n positions, from reference log-probabilities and the model's logits."""
    log_probs = torch.log_softmax(logits, dim=-1)
    return torch.nn.functional.kl_div(log_probs, reference, log_target=True, reduction="sum") / len(reference)


@torch.enable_grad()  # notebooks often turn gradients off for good
def fit(
    logits: LogitsAt,
    trainable: Sequence[Tensor],
    examples: Sequence[Example],
    config: TuneConfig,
    *,
    validation: Sequence[Example] | None = None,
    keep: Sequence[Sequence[int]] | None = None,
    after_step: Callable[[], None] | None = None,
    history: list[dict[str, float]] | None = None,
    progress: bool = True,
) -> list[dict[str, float]]:
    """Trains `trainable` on the examples' target tokens (mean cross-entropy); returns a row for each step.

    logits: of a batch at its targets, with gradients to `trainable`. examples: as `encode_all` gives them. validation:
    those that are only measured, before the first step, every `validate_every` steps and after the last. keep: token
    ids of ordinary text for the KL term, if `config.kl_weight` is positive. history: the list that rows are appended
    to, so that a caller has them also after an interrupt.

    A row holds step, loss, lr, grad_norm (before clipping), kl (with a KL term), and where measured the figures of
    `validate`. The order of the data comes from `config.seed`. KeyboardInterrupt is passed on.

    Raises: ValueError for no examples, an example without targets, a KL weight without `keep` or the reverse;
    FloatingPointError if the loss is no longer finite.
    """
    if not trainable:
        raise ValueError("there is nothing to train: no trainable tensor was given")
    if (config.kl_weight > 0) != bool(keep):
        raise ValueError("a KL term needs both: a positive TuneConfig.kl_weight, and `keep` dialogues")
    rows = [] if history is None else history
    device = trainable[0].device
    data = Examples(examples, device)
    held_out = Examples(validation, device) if validation else None
    term = KeepTerm(logits, keep, config.kl_batch_size, config.seed, device) if keep else None
    optimizer: torch.optim.Optimizer
    if config.optimizer == "sgd":
        optimizer = torch.optim.SGD(trainable, config.lr, config.momentum, weight_decay=config.weight_decay)
    else:
        optimizer = torch.optim.AdamW(trainable, config.lr, weight_decay=config.weight_decay)
    scheduler = get_scheduler(config.schedule, optimizer, int(config.warmup_share * config.steps), config.steps)
    largest = math.inf if config.max_grad_norm is None else config.max_grad_norm
    batches = data.shuffled(config.batch_size, config.seed)
    if held_out is not None:
        rows.append({"step": 0, **validate(logits, held_out)})
    bar = tqdm(range(1, config.steps + 1), desc="tuning", unit="step", disable=not progress)
    for step in bar:
        batch = next(batches)
        optimizer.zero_grad(set_to_none=True)
        loss = torch.nn.functional.cross_entropy(logits(batch), batch.labels)
        row: dict[str, float] = {"step": step, "loss": loss.item(), "lr": optimizer.param_groups[0]["lr"]}
        if term is not None:
            kl = term.loss(step)
            row["kl"] = kl.item()
            loss = loss + config.kl_weight * kl
        loss.backward()
        norm = row["grad_norm"] = float(torch.nn.utils.clip_grad_norm_(trainable, largest))
        if not math.isfinite(row["loss"]) or not math.isfinite(norm):
            raise FloatingPointError(f"step {step}: loss {row['loss']}, gradient norm {norm}: lower lr ({config.lr})")
        optimizer.step()
        scheduler.step()
        if after_step is not None:
            after_step()
        rows.append(row)  # before validation: an interrupt there comes after this step was taken
        if held_out is not None and (step % config.validate_every == 0 or step == config.steps):
            row.update(validate(logits, held_out))
        bar.set_postfix(loss=f"{row['loss']:.3f}", refresh=False)
    return rows


@torch.no_grad()
def validate(logits: LogitsAt, examples: Examples) -> dict[str, float]:
    """Figures on examples that are not trained on, without generating.

    validation_loss: mean cross-entropy of the target tokens. validation_first: share of examples whose first target
    token is the likeliest, that is, where the reply sets out as it should. validation_reply: share where all are,
    which is where greedy decoding gives exactly this reply.
    """
    loss, tokens, first, whole = 0.0, 0, 0, 0
    for _, batch in examples.in_order_of_length(_VALIDATION_BATCH):
        found = logits(batch)
        loss += torch.nn.functional.cross_entropy(found, batch.labels, reduction="sum").item()
        tokens += len(batch.labels)
        hits = torch.zeros_like(batch.where)
        hits[batch.where] = found.argmax(-1) == batch.labels
        first += int(hits.gather(1, batch.where.int().argmax(dim=1, keepdim=True)).sum())
        whole += int((hits == batch.where).all(dim=1).sum())
    n = len(examples)
    return {"validation_loss": loss / tokens, "validation_first": first / n, "validation_reply": whole / n}
