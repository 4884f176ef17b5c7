"""Direct preference optimisation (Rafailov et al. 2023, arXiv 2305.18290, equation 7) in the one training loop.

    loss = -log sigmoid(beta * ((log p(chosen) - log p0(chosen)) - (log p(rejected) - log p0(rejected))))

p: of a whole reply with its end token, given its prompt; p0: of the untuned model, computed once before the first step.
The mean over a step's pairs. It is the loss that TRL's DPOTrainer has by default; written out here since that trainer
can train no slices of a weight, and has no KL term on ordinary text, no exact undo and no run that goes on bit for bit.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from spt_lens.chat.batches import Example, ExampleBatch, Examples
from spt_lens.chat.dialogues import Dialogue
from spt_lens.model import ranks
from spt_lens.model.targets import LogitsAt

_AT_ONCE = 32


class Preference:
    """The loss of batches of pairs. Make it before the first step: the model is then its own reference.

    at_once: replies that go through the model together for the reference.
    """

    def __init__(
        self,
        logits: LogitsAt,
        chosen: Sequence[Example],
        rejected: Sequence[Example],
        beta: float,
        device: torch.device | str = "cpu",
        at_once: int | None = None,
    ) -> None:
        self.beta, self.n = beta, len(chosen)
        self._both = Examples([*chosen, *rejected], device)
        reference = torch.zeros(len(self._both), dtype=torch.float64)
        same = {"chosen": list(chosen), "rejected": list(rejected)}
        with torch.no_grad(), ranks.shared(ranks.Share("replies to compare with", same, added=[reference])) as mine:
            for rows, batch in self._both.in_order_of_length(min(_AT_ONCE, at_once or _AT_ONCE)):
                if mine(rows.tolist()):
                    reference[rows] = reply_log_probs(logits(batch), batch).to("cpu", torch.float64)
        self._reference = reference

    def batch(self, rows: Int[Tensor, " pairs"]) -> PairedBatch:
        """The chosen replies of some pairs, and below them the rejected ones."""
        both = torch.cat([rows, rows + self.n])
        return PairedBatch(self._both.batch(both), self._reference[both])

    def loss(self, found: Float[Tensor, "n_targets vocab"], part: ExampleBatch) -> Float[Tensor, ""]:
        """Summed over the pairs of a `batch`."""
        assert isinstance(part, PairedBatch)
        moved = reply_log_probs(found, part) - part.reference.to(found.device, found.dtype)
        chosen, rejected = moved.chunk(2)
        return -torch.nn.functional.logsigmoid(self.beta * (chosen - rejected)).sum()


class PairedBatch(ExampleBatch):
    """A batch with the untuned model's log-probability of each reply."""

    def __init__(self, batch: ExampleBatch, reference: Float[Tensor, " batch"]) -> None:
        self.tokens, self.where, self.lengths, self.labels = batch.tokens, batch.where, batch.lengths, batch.labels
        self.reference = reference


def reply_log_probs(found: Float[Tensor, "n_targets vocab"], batch: ExampleBatch) -> Float[Tensor, " batch"]:
    """The log-probability of each row's reply, from the logits at its targets."""
    of_tokens = torch.log_softmax(found, dim=-1).gather(1, batch.labels.to(found.device)[:, None])[:, 0]
    row = batch.where.nonzero()[:, 0].to(found.device)
    return found.new_zeros(len(batch.where)).index_add(0, row, of_tokens)


def preferences(dialogues: Sequence[Dialogue], name: str) -> list[tuple[Dialogue, Dialogue]]:
    """The dialogues that have a rejected reply other than their own, each beside the same with that reply.

    name: of what needs them. Raises ValueError where there is none.
    """
    pairs = [(each, other) for each in dialogues if (other := each.rejected) is not None and other.reply != each.reply]
    if not pairs:
        raise ValueError(
            f"{name} needs pairs of replies, and none of the {len(dialogues)} dialogues has a rejected one: make them "
            "by dialogue.replied(reply, rejected=other), or take behaviour.training() of AreYouSure or Opinions"
        )
    return pairs
