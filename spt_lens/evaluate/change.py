"""Drift: how far a tuned model's predictions on ordinary text have moved from the untuned model's.

General ability: the share of dialogues whose one right reply the model gives.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from spt_lens.chat.batches import Examples
from spt_lens.chat.dialogues import Dialogue
from spt_lens.chat.template import training_ids
from spt_lens.model.targets import logits_at, unembedding
from spt_lens.model.view import Model, ModelView
from spt_lens.statistics import Estimate, mean_of_shares, share, weighted_mean
from spt_lens.tune.adapter import Adapter

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
    """Token ids of whole texts, replies included. Raises: ValueError for no texts, or one that can't be encoded."""
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

    Raises: ValueError for no texts, a reference made on other texts, or an adapter that does not fit the model.
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


@torch.no_grad()
def gives_reply(model: Model, dialogues: Sequence[Dialogue], batch_size: int = 64) -> list[bool]:
    """Whether greedy decoding gives exactly the last reply of each dialogue, end token included.

    Without generating: greedy decoding gives a reply just when each of its tokens is the likeliest after the ones
    before it, and one forward pass over the whole dialogue shows that.

    Raises: ValueError for no dialogues, or one that does not end in the assistant's reply.
    """
    view = ModelView(model)
    examples = Examples([training_ids(view.tokenizer, dialogue) for dialogue in dialogues], view.device)
    unembed = unembedding(view)
    given = [False] * len(examples)
    for rows, batch in examples.in_order_of_length(batch_size):
        hit = torch.ones_like(batch.where)
        hit[batch.where] = logits_at(view.logits, unembed, batch.tokens, batch.where).argmax(-1) == batch.labels
        for row, whole in zip(rows.tolist(), hit.all(dim=1).tolist(), strict=True):
            given[row] = whole
    return given


def ability(model: Model, abilities: Mapping[str, Sequence[Dialogue]]) -> dict[str, Estimate]:
    """Each ability's share of right replies, as "ability: NAME", and "ability", the mean over the abilities."""
    if not abilities:
        return {}
    # All in one go: batches of equal length are fuller that way.
    hits = iter(gives_reply(model, [d for dialogues in abilities.values() for d in dialogues]))
    found = {name: share([next(hits) for _ in dialogues]) for name, dialogues in abilities.items()}
    return {"ability": mean_of_shares(list(found.values())), **{f"ability: {k}": v for k, v in found.items()}}
