"""A loss term that keeps the model where it was on ordinary text: next-token KL from the untuned model."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from spt_lens.data.encode import padded
from spt_lens.tune.logits import Forward, logits_at, mean_kl


class KeepTerm:
    """Mean KL(untuned || model) in nats, over all positions of a batch of texts; the batches come round in turn.

    The untuned model's log-probabilities are kept from the start: float32, positions x vocabulary, so a few hundred
    short texts for a small vocabulary. Make it before the first step.
    """

    def __init__(
        self,
        forward: Forward,
        texts: Sequence[Sequence[int]],
        batch_size: int,
        seed: int = 0,
        device: torch.device | str = "cpu",
        unembed: nn.Module | None = None,
    ):
        if not texts:
            raise ValueError("There are no texts to keep the model's predictions on.")
        self._forward, self._unembed = forward, unembed
        by_length = sorted(texts, key=len)
        batches = [padded(by_length[i : i + batch_size], 0) for i in range(0, len(texts), batch_size)]
        order = torch.randperm(len(batches), generator=torch.Generator().manual_seed(seed)).tolist()
        self._batches: list[
            tuple[Int[Tensor, "batch pos"], Bool[Tensor, "batch pos"], Float[Tensor, "n_where vocab"]]
        ] = []
        with torch.no_grad():
            for i in order:
                tokens, real = (t.to(device) for t in batches[i])
                reference = torch.log_softmax(logits_at(forward, unembed, tokens, real), dim=-1)
                self._batches.append((tokens, real, reference))

    def loss(self, step: int) -> Float[Tensor, ""]:
        tokens, real, reference = self._batches[step % len(self._batches)]
        return mean_kl(reference, logits_at(self._forward, self._unembed, tokens, real))
