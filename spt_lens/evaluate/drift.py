"""Drift: how far a tuned model's predictions on ordinary text have moved from the untuned model's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from spt_lens.data.dialogues import Dialogue
from spt_lens.data.encode import training_ids
from spt_lens.evaluate.statistics import Estimate, weighted_mean
from spt_lens.models import Model, ModelView
from spt_lens.tune.adapter import Adapter
from spt_lens.tune.batches import Examples

BATCH = 32


@dataclass(frozen=True, eq=False)
class Reference:
    """A model's next-token log-probabilities on fixed texts, kept to measure drift from it again and again.

    Takes 4 bytes x positions x vocabulary: 160 texts of 25 tokens and 850 words are 14 MB, with 32,000 words 512 MB.

    rows: the texts' token ids. log_probs: for each text [pos - 1, vocab], float32, on the CPU, one row for each token
    that has a next one.
    """

    rows: tuple[tuple[int, ...], ...]
    log_probs: tuple[Float[Tensor, "next vocab"], ...] = field(repr=False)

    @classmethod
    def of(cls, model: Model, texts: Sequence[Dialogue]) -> Reference:
        """Keeps the predictions of a model as it is now."""
        rows = encoded(model, texts)
        return cls(rows, tuple(next_token_log_probs(model, rows)))


def encoded(model: Model, texts: Sequence[Dialogue]) -> tuple[tuple[int, ...], ...]:
    """Token ids of whole texts, replies included.

    Raises:
        ValueError: there are no texts, or one can't be encoded.
    """
    if not texts:
        raise ValueError("there are no texts to measure drift on: give the suite some")
    tokenizer = ModelView(model).tokenizer
    return tuple(tuple(training_ids(tokenizer, text)[0]) for text in texts)


@torch.no_grad()
def next_token_log_probs(model: Model, rows: Sequence[Sequence[int]]) -> list[Float[Tensor, "next vocab"]]:
    """For each row of token ids: the log-probabilities of what follows each token but the last, [pos - 1, vocab]."""
    view = ModelView(model)
    examples = Examples([(list(row), [True] * len(row)) for row in rows], view.device)
    found: list[Float[Tensor, "next vocab"]] = [torch.empty(0)] * len(examples)
    for index, batch in examples.in_order_of_length(BATCH):
        log_probs = torch.log_softmax(view.logits(batch.tokens).float(), dim=-1).cpu()
        for i, row in enumerate(index.tolist()):
            found[row] = log_probs[i, : len(rows[row]) - 1].clone()
    return found


def drift(model: Model, texts: Sequence[Dialogue], reference: Model | Adapter | Reference) -> Estimate:
    """Mean next-token KL(reference || model) in nats, over all positions of the texts that have a next token.

    Args:
        reference: the untuned model; or the adapter of a tuned one (it is taken off for a moment and put back); or what
            `Reference.of(untuned, texts)` kept.

    Returns: the mean with a bootstrap interval over the texts; n is the number of texts. Never below zero; nan for a
        model whose predictions are not finite.

    Raises:
        ValueError: no texts, a reference that was made on other texts, or an adapter that does not fit the model.
    """
    rows = encoded(model, texts)
    if isinstance(reference, Adapter):
        with reference.reverted(model):
            reference = Reference.of(model, texts)
    elif not isinstance(reference, Reference):
        reference = Reference.of(reference, texts)
    if reference.rows != rows:
        raise ValueError("the reference was made on other texts, or with another tokenizer: make it with Reference.of")
    sums = []
    for before, now in zip(reference.log_probs, next_token_log_probs(model, rows), strict=True):
        kl = (before.exp() * (before - now)).sum(-1)
        # Rounding can take a zero a hair below zero. max(0.0, nan) would be 0: a broken model has no small drift.
        sums.append(kl.double().sum().clamp(min=0).item())
    return weighted_mean(sums, [len(row) - 1 for row in rows])
