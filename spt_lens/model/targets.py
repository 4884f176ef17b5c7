"""Logits where they are wanted and only there: at a dialogue's target tokens, those of its last reply, as tuning asks,
and from a position of each row on.

A reply's targets are a quarter of a dialogue, and unembedding is a good part of a step where the vocabulary is large.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from spt_lens.chat.batches import Example, PromptBatch, Reads
from spt_lens.chat.dialogues import Dialogue
from spt_lens.chat.template import training_ids
from spt_lens.model.held import without_gradients
from spt_lens.model.view import Model, ModelView, input_hook

Forward = Callable[[Int[Tensor, "batch pos"]], Float[Tensor, "batch pos vocab"]]
LogitsAt = Callable[[Reads], Float[Tensor, "n_where vocab"]]  # at the marked positions, row by row


def logits_of(forward: Forward, unembed: nn.Module | None = None) -> LogitsAt:
    """The logits that a forward pass over tokens gives at the marked positions, in float32 or what is wider.

    With `unembed`, the module that makes logits of the last hidden states, it sees only these positions: the same
    numbers for less work. Without it the full logits are made and cut.
    """

    def logits(batch: Reads) -> Float[Tensor, "n_where vocab"]:
        if unembed is None:
            return _wide(forward(batch.tokens)[batch.where])

        def only_where(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            return (args[0][batch.where.to(args[0].device)].unsqueeze(0), *args[1:])

        with input_hook(unembed, only_where):
            return _wide(forward(batch.tokens)[0])

    return logits


def model_logits(model: Model) -> LogitsAt:
    """`logits_of` the model itself, with gradients as the caller set them."""
    view = ModelView(model)
    return logits_of(view.logits, view.model.unembed)


def log_probs_of(logits: LogitsAt, batch: Reads) -> Float[Tensor, "n_where vocab"]:
    """Log-probabilities of what follows the marked positions."""
    return torch.log_softmax(logits(batch), dim=-1)


def off_by(found: Tensor, expected: Tensor) -> float:
    """How far numbers are from others, as a share of these; nan where either is."""
    found, expected = found.double(), expected.double()
    return float((found - expected).norm() / expected.norm())


def most_off(dtype: torch.dtype) -> float:
    """By which share logits may be off that another way of running a model gives: rounding, in another order."""
    return {torch.float64: 1e-9, torch.float32: 1e-4}.get(dtype, 0.05)


@without_gradients
def logits_from(
    view: ModelView, rows: Sequence[Sequence[int]], first: Sequence[int]
) -> Float[Tensor, "batch reads vocab"]:
    """The logits of rows of token ids from a position of each on; beyond a row's end, those at its end again."""
    batch = PromptBatch.of(rows)
    starts = torch.tensor(first)
    reads = int((batch.last - starts).max()) + 1
    at = torch.minimum(starts[:, None] + torch.arange(reads), batch.last[:, None])
    with view.kept():
        return view.logits(batch.tokens, at=at)


def encode_all(model: Model, dialogues: Sequence[Dialogue]) -> list[Example]:
    """Token ids and target marks (the last reply) of each dialogue, as training and `Examples` take them.

    Raises: ValueError as `training_ids`, or for ids that the model does not have, as `ModelView.check_rows`.
    """
    view = ModelView(model)
    found = [training_ids(view.tokenizer, dialogue) for dialogue in dialogues]
    if found:
        view.check_rows([ids for ids, _ in found])
    return found


def _wide(logits: Float[Tensor, "n_where vocab"]) -> Float[Tensor, "n_where vocab"]:
    return logits if logits.dtype.itemsize > 4 else logits.float()
