"""What a run is judged by: one number from its logits. For a pair of single answers, the logit difference."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from spt_lens.data.pairs import ContrastPairs


@dataclass(frozen=True, eq=False)  # tensors have no single truth to compare by
class Readout:
    """How a number is read from the logits of each row of a batch.

    - Two answer tokens: ids `[batch, 2]`, the logit of the first minus that of the second.
    - Two sets of them: ids `[batch, k]` and sides `[batch, k]` (1 truthful, -1 sycophantic, 0 filled up); the logarithm
      of the odds of saying one of the first set rather than one of the second.
    - A whole completion: ids `[batch, reads]`, the sum of their log-probabilities, one at each position that is read.
    """

    ids: Int[Tensor, "batch k"]
    sides: Int[Tensor, "batch k"] | None = None
    whole: bool = False

    def __getitem__(self, rows: list[int]) -> Readout:
        return Readout(self.ids[rows], None if self.sides is None else self.sides[rows], self.whole)

    @property
    def tokens(self) -> Int[Tensor, "batch k"] | None:
        """The only tokens whose logits count, or None: all of them (they share the probability)."""
        return None if self.whole else self.ids

    def of(self, logits: Float[Tensor, "*copies batch reads vocab"]) -> Float[Tensor, "*copies batch"]:
        """The number, from all logits at the positions that are read."""
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))  # halves lose digits in a difference
        shape = logits.shape[:-1]
        if self.whole:
            ids = self.ids.to(logits.device)[..., None].expand(*shape, 1)
            return logits.gather(-1, ids).squeeze(-1).sub(logits.logsumexp(-1)).sum(-1)
        ids = self.ids.to(logits.device)[:, None].expand(*shape, -1)
        return self.of_tokens(logits.gather(-1, ids))

    def of_tokens(self, logits: Float[Tensor, "*copies batch 1 k"]) -> Float[Tensor, "*copies batch"]:
        """The same from the logits of `tokens` alone."""
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))[..., 0, :]
        if self.sides is None:
            return logits[..., 0] - logits[..., 1]
        sides = self.sides.to(logits.device)
        truthful, sycophantic = (logits.masked_fill(sides != side, -torch.inf).logsumexp(-1) for side in (1, -1))
        return truthful - sycophantic


def pair_readout(pairs: ContrastPairs, side: int | None = None) -> Readout:
    """The readout of all pairs; of whole completions, that of the truthful ones (side 0) or the sycophantic ones (1).

    Completions of unequal length are filled up; `Row.reads` says how many tokens count.
    """
    if pairs.completion_ids:
        assert side is not None
        chosen = [both[side] for both in pairs.completion_ids]
        width = max(map(len, chosen))
        return Readout(torch.tensor([[*ids, *[0] * (width - len(ids))] for ids in chosen]), whole=True)
    if pairs.answer_sets:
        width = max(len(one) + len(other) for one, other in pairs.answer_sets)
        ids = torch.zeros(len(pairs), width, dtype=torch.long)
        sides = torch.zeros_like(ids)
        for i, (one, other) in enumerate(pairs.answer_sets):
            ids[i, : len(one) + len(other)] = torch.tensor([*one, *other])
            sides[i, : len(one)], sides[i, len(one) : len(one) + len(other)] = 1, -1
        return Readout(ids, sides)
    return Readout(pairs.answer_ids)
