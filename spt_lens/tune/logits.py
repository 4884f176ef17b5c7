"""Logits only where they are needed.

A reply's targets are a quarter of a dialogue, and unembedding is a good part of a step where the vocabulary is
large. The two functions below run the forward pass as it is and hand the unembedding only the positions asked for.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

Forward = Callable[[Int[Tensor, "batch pos"]], Float[Tensor, "batch pos vocab"]]


def logits_at(
    forward: Forward, unembed: nn.Module | None, tokens: Int[Tensor, "batch pos"], where: Bool[Tensor, "batch pos"]
) -> Float[Tensor, "n_where vocab"]:
    """The logits at the marked positions, row by row, in float32.

    With `unembed`, the module that makes logits of the last hidden states, it sees only these positions: the same
    numbers for less work. Without it the full logits are made and cut.
    """
    if unembed is None:
        return forward(tokens)[where].float()

    def only_where(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (args[0][where].unsqueeze(0), *args[1:])

    handle = unembed.register_forward_pre_hook(only_where)
    try:
        return forward(tokens)[0].float()
    finally:
        handle.remove()


def mean_kl(reference: Float[Tensor, "n vocab"], logits: Float[Tensor, "n vocab"]) -> Float[Tensor, ""]:
    """Mean KL(reference || model) in nats over n positions, from reference log-probabilities and the model's logits."""
    log_probs = torch.log_softmax(logits, dim=-1)
    return torch.nn.functional.kl_div(log_probs, reference, log_target=True, reduction="sum") / len(reference)
