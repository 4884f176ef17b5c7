"""What a model gives the answers of contrast pairs, in either run: their log probabilities, and how much that is.

A readout tells little of a model that hardly says its words: two answers that hold 2 % of the probability can be told
apart by what the model would never say.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, Protocol, Self, get_args, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from spt_lens.chat.dialogues import Dialogue
from spt_lens.chat.words import Words
from spt_lens.checking import instance, one_of, whole_number
from spt_lens.model.limits import Limits, find_limits
from spt_lens.model.ranks import Share
from spt_lens.model.targets import logits_from
from spt_lens.model.view import Model, ModelView

Which = Literal["both", "truthful", "sycophantic"]


@runtime_checkable
class Pairs(Protocol):
    """ContrastPairs, as far as what they have their own methods for needs to know of them: see there."""

    @property
    def sycophantic(self) -> tuple[tuple[int, ...], ...]: ...
    @property
    def truthful(self) -> tuple[tuple[int, ...], ...]: ...
    @property
    def answer_ids(self) -> Int[Tensor, "n_pairs 2"]: ...
    @property
    def answer_sets(self) -> tuple[Any, ...]: ...
    @property
    def completion_ids(self) -> tuple[Any, ...]: ...
    @property
    def words(self) -> Words: ...
    @property
    def dialogues(self) -> tuple[Dialogue, ...]: ...
    @property
    def truthful_dialogues(self) -> tuple[Dialogue, ...]: ...
    def __len__(self) -> int: ...
    def __getitem__(self, which: slice) -> Self: ...
    def check_ids(self, model: Model) -> None: ...


class Answers(NamedTuple):
    """What the model gives the answers at the end of both prompts of each pair.

    log_probs: `[n_pairs, 2 runs, 2 answers]`, runs (sycophantic, truthful) as of the prompts, answers (truthful,
        sycophantic) as of `answer_ids`: natural logarithms of the probability of an answer token, of any token of an
        answer set, or of a whole completion, that of all its tokens together. The difference of the two answers is the
        logit difference that scores read. All in float64.
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
    view: ModelView | Model, pairs: Pairs, which: Which = "both", n: int | None = None
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
    instance(pairs, "pairs", Pairs, "make some by behaviour.pairs(model)")
    n = len(pairs) if n is None else whole_number(n, "n", 1, len(pairs))
    return read_answers(ModelView(view), pairs[:n]).mass(which)


class Reader:
    """Reads the answers of pairs from logits as they come by, so that a measurement needs no pass of its own for it."""

    def __init__(self, pairs: Pairs, n: int | None = None) -> None:
        self.pairs = pairs[:n]
        # By (pair, run, answer); no tensors, which could not be written in outside of the mode that they were made in.
        self._log_probs: dict[tuple[int, int, int], float] = {}
        self._sizes: dict[tuple[int, int, int], float] = {}

    @property
    def held(self) -> tuple[dict[tuple[int, int, int], float], dict[tuple[int, int, int], float]]:
        """What was read so far, to be shared among ranks."""
        return self._log_probs, self._sizes

    def note(self, pair: int, run: int, side: int, logits: Float[Tensor, "reads vocab"]) -> None:
        """Of one prompt: run 0 is the sycophantic one; side: whose completion stands behind it, else 0.

        Pairs beyond the first n are not looked at.
        """
        if pair >= len(self.pairs):
            return
        wide = logits.detach().to(torch.promote_types(logits.dtype, torch.float32)).cpu()
        total = wide.logsumexp(-1)
        for answer, ids in self.reads(pair)[side]:
            if self.pairs.completion_ids:
                chosen = wide[torch.arange(len(ids)), list(ids)]
                said = (chosen - total[: len(ids)]).double().sum()
            else:
                chosen = wide[0, list(ids)]
                said = chosen.logsumexp(0) - total[0]
            self._log_probs[pair, run, answer] = float(said)
            self._sizes[pair, run, answer] = float(chosen.abs().max())

    def reads(self, pair: int) -> list[list[tuple[int, tuple[int, ...]]]]:
        """What is read of a pair's prompt, as (answer, tokens): of completions one by one, of answers both at once."""
        if self.pairs.completion_ids:
            return [[(k, tuple(ids))] for k, ids in enumerate(self.pairs.completion_ids[pair])]
        both = self.pairs.answer_sets[pair] if self.pairs.answer_sets else self.pairs.answer_ids[pair, :, None].tolist()
        return [[(k, tuple(ids)) for k, ids in enumerate(both)]]

    @property
    def answers(self) -> Answers:
        """Of all of these pairs. Raises KeyError for what was not read."""
        places = [(i, run, answer) for i in range(len(self.pairs)) for run in (0, 1) for answer in (0, 1)]
        log_probs, sizes = (
            torch.tensor([read[place] for place in places], dtype=torch.float64).view(-1, 2, 2)
            for read in (self._log_probs, self._sizes)
        )
        lengths = torch.ones(len(self.pairs), 2, dtype=torch.float64)
        if self.pairs.completion_ids:
            lengths = torch.tensor([list(map(len, both)) for both in self.pairs.completion_ids]).double()
        return Answers(log_probs, lengths, sizes)


def read_answers(view: ModelView, pairs: Pairs, limits: Limits | None = None) -> Answers:
    """Reads the answers of all pairs in both runs. Raises ValueError as answer_mass does."""
    view.check_measurable()
    pairs.check_ids(view)
    reader = Reader(pairs)
    rows = [  # a pair, a run, a side, and the prompt with the completion's tokens but the last behind it
        (i, run, side, (*prompt, *(read[0][1][:-1] if pairs.completion_ids else ())), len(prompt) - 1)
        for i in range(len(pairs))
        for run, prompt in enumerate((pairs.sycophantic[i], pairs.truthful[i]))
        for side, read in enumerate(reader.reads(i))
    ]

    def run(part: list[int]) -> None:
        logits = logits_from(view, [rows[i][3] for i in part], [rows[i][4] for i in part])
        for i, row in zip(part, logits, strict=True):
            pair, which, side = rows[i][:3]
            if not bool(row.isfinite().all()):
                raise ValueError(
                    f"pair {pair}: the model's logits are not finite, so nothing can be read: look for overflow "
                    "(float16: use bfloat16 or float32) or broken weights"
                )
            reader.note(pair, which, side, row)

    limits = limits or find_limits(view, max(len(row[3]) for row in rows), None, None)
    share = Share(
        "reading answers", {"model": view, "pairs": [rows, list(map(reader.reads, range(len(pairs))))]}, reader.held
    )
    limits.each([sorted(range(len(rows)), key=lambda i: len(rows[i][3]))], run, share)
    return reader.answers
