"""What a model gives the answers of contrast pairs, in either run: their log probabilities, and how much that is.

A readout tells little of a model that hardly says its words: two answers that hold 2 % of the probability can be told
apart by what the model would never say.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from spt_lens.chat.batches import PromptBatch
from spt_lens.checking import instance, one_of, whole_number
from spt_lens.data.pairs import ContrastPairs
from spt_lens.model.limits import Limits, find_limits
from spt_lens.model.view import Model, ModelView

Which = Literal["both", "truthful", "sycophantic"]


class Answers(NamedTuple):
    """What the model gives the answers at the end of both prompts of each pair.

    log_probs: `[n_pairs, 2 runs, 2 answers]`, runs (sycophantic, truthful) as of the prompts, answers (truthful,
        sycophantic) as of `answer_ids`: natural logarithms of the probability of an answer token, of any token of an
        answer set, or of a whole completion, that of all its tokens together. The difference of the two answers is the
        logit difference that scores read.
    lengths: `[n_pairs, 2 answers]`, tokens of each whole completion; 1 for answer tokens and sets.
    sizes: `[n_pairs, 2 runs, 2 answers]`, the largest size of a logit that the answer is read from.
    """

    log_probs: Float[Tensor, "n_pairs 2 2"]
    lengths: Float[Tensor, "n_pairs 2"]
    sizes: Float[Tensor, "n_pairs 2 2"]

    @property
    def differences(self) -> Float[Tensor, "n_pairs 2"]:
        """Truthful less sycophantic answer, in either run (sycophantic, truthful): logits; nats of completions."""
        return self.log_probs[..., 0] - self.log_probs[..., 1]

    def mass(self, which: Which = "both") -> Float[Tensor, "n_pairs 2"]:
        """As answer_mass says."""
        each = (self.log_probs / self.lengths[:, None]).exp()
        if which != "both":
            return each[..., 0 if which == "truthful" else 1]
        whole = (self.lengths > 1).any(dim=1)[:, None]
        return torch.where(whole, each.amax(dim=-1), each.sum(dim=-1).clamp(max=1))


def answer_mass(
    view: ModelView | Model, pairs: ContrastPairs, which: Which = "both", n: int | None = None
) -> Float[Tensor, "n_pairs 2"]:
    """How much of the probability the answers hold where the reply begins, 0 to 1; runs: (sycophantic, truthful).

    Of answer tokens, their share of all tokens; of answer sets, that of all tokens in them; of whole completions, the
    mean probability of a token (geometric, from the first that differs on), with "both" that of the likelier one.
    which: of both answers together, or of one kind. n: of the first n pairs alone. It takes a forward pass of each
    prompt, of whole completions two. The model is left as it was.

    Raises: ValueError for an unknown `which`, an n out of range, ids outside of the vocabulary, logits that are not
    finite, or a model in training mode.
    """
    one_of(which, "which", get_args(Which))
    instance(pairs, "pairs", ContrastPairs, "make some by behaviour.pairs(model)")
    n = len(pairs) if n is None else whole_number(n, "n", 1, len(pairs))
    return read_answers(ModelView(view), pairs[:n]).mass(which)


def read_answers(view: ModelView, pairs: ContrastPairs, limits: Limits | None = None) -> Answers:
    """Reads the answers of all pairs in both runs. Raises ValueError as answer_mass does."""
    view.check_measurable()
    pairs.check_ids(view)
    rows = [  # a prompt, its place in the result, and what is read behind it: (answer, tokens), together or in turn
        (prompt, (i, run), read)
        for i in range(len(pairs))
        for run, prompt in enumerate((pairs.sycophantic[i], pairs.truthful[i]))
        for read in _reads(pairs, i)
    ]
    log_probs, sizes = torch.zeros(2, len(pairs), 2, 2, dtype=torch.promote_types(view.dtype, torch.float32))
    longest = max(len(prompt) + len(read[0][1]) for prompt, _, read in rows)
    limits = limits or find_limits(view, longest, None, None)
    whole = bool(pairs.completion_ids)

    def run(part: list[int]) -> None:
        behind = [rows[i][2][0][1][:-1] if whole else () for i in part]
        batch = PromptBatch.of([(*rows[i][0], *more) for i, more in zip(part, behind, strict=True)])
        reads = 1 + max(map(len, behind))
        # Counted from the prompt's end; what is beyond a shorter completion is not looked at.
        first = batch.last - torch.tensor(list(map(len, behind)))
        at = torch.minimum(first[:, None] + torch.arange(reads), batch.last[:, None])
        with view.kept(), torch.no_grad():
            logits = view.logits(batch.tokens, None, at=at)
        wide = logits.to(log_probs)
        if not bool(wide.isfinite().all()):
            odd = next(rows[i][1][0] for i, row in zip(part, wide, strict=True) if not bool(row.isfinite().all()))
            raise ValueError(
                f"pair {odd}: the model's logits are not finite, so nothing can be read: look for overflow (float16: "
                "use bfloat16 or float32) or broken weights"
            )
        for row, i in zip(wide, part, strict=True):
            _, place, read = rows[i]
            for answer, ids in read:
                chosen = row[torch.arange(len(ids)), list(ids)] if whole else row[0, list(ids)]
                total = row[: len(ids)].logsumexp(-1) if whole else row[0].logsumexp(-1)
                log_probs[place][answer] = (chosen - total).sum() if whole else chosen.logsumexp(0) - total
                sizes[place][answer] = chosen.abs().max()

    order = sorted(range(len(rows)), key=lambda i: len(rows[i][0]))
    limits.each([order], run)
    lengths = torch.ones(len(pairs), 2)
    if whole:
        lengths = torch.tensor([list(map(len, both)) for both in pairs.completion_ids], dtype=torch.float32)
    return Answers(log_probs, lengths.to(log_probs), sizes)


def _reads(pairs: ContrastPairs, i: int) -> list[list[tuple[int, tuple[int, ...]]]]:
    """What stands behind a prompt of a pair: each completion by itself, or the answers' tokens, both at once."""
    if pairs.completion_ids:
        return [[(k, tuple(ids))] for k, ids in enumerate(pairs.completion_ids[i])]
    sets = pairs.answer_sets[i] if pairs.answer_sets else [(token,) for token in pairs.answer_ids[i].tolist()]
    return [[(k, tuple(ids)) for k, ids in enumerate(sets)]]
