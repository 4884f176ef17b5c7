"""How likely a model finds texts: log-likelihoods of continuations, with what they share run once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from spt_lens.chat.batches import PAD_ID, PromptBatch, padded
from spt_lens.model import ranks
from spt_lens.model.generation import NotKnown, Reading, rows_of
from spt_lens.model.held import without_gradients
from spt_lens.model.own_hooks import has_hooks
from spt_lens.model.view import ModelView

Ids = Sequence[int]


class Scored(NamedTuple):
    """A continuation's summed log-probability in nats, and whether each of its tokens is the likeliest there."""

    log_prob: float
    greedy: bool


@without_gradients
def log_likelihoods(
    view: ModelView, prompts: Sequence[Ids], continuations: Sequence[Sequence[Ids]], batch_size: int = 16
) -> list[list[Scored]]:
    """How likely the tokens of each of its continuations are after each prompt.

    A prompt is run once, and its continuations, side by side, on the keys and values kept of it; where the model does
    not allow that, or carries hooks, each whole text by itself. Raises ValueError for an empty prompt or continuation,
    or as `ModelView.check_rows`.
    """
    if not all(prompts) or not all(ids for each in continuations for ids in each):
        raise ValueError("a prompt or a continuation has no tokens: leave it out")
    if any(continuations):
        view.check_rows([[*prompt, *ids] for prompt, each in zip(prompts, continuations, strict=True) for ids in each])
    found: dict[int, list[Scored]] = {}
    joint = bool(prompts) and view.mixes(prompts) and not has_hooks(view.model, view.modules())
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    rows = [[list(prompt), *map(list, each)] for prompt, each in zip(prompts, continuations, strict=True)]
    with view.held(), ranks.shared(ranks.Share("likelihoods", {"model": view, "texts": tuple(rows)}, [found])) as mine:
        for start in range(0, len(order), batch_size):
            part = order[start : start + batch_size]
            owner = [i for i in part for _ in continuations[i]]
            new = [list(ids) for i in part for ids in continuations[i]]
            if not new or not mine(part):
                continue
            try:
                if not joint:
                    raise NotKnown
                scored = _shared(view, [prompts[i] for i in part], [part.index(i) for i in owner], new)
            except NotKnown:
                scored = _whole(view, [prompts[i] for i in owner], new)
            for i, each in zip(owner, scored, strict=True):
                found.setdefault(i, []).append(each)
    return [[Scored(*each) for each in found.get(i, [])] for i in range(len(prompts))]


def _shared(view: ModelView, prompts: list[Ids], owner: list[int], new: list[list[int]]) -> list[Scored]:
    reading = Reading.of(view.step, prompts, view.device)
    reading = rows_of(reading, torch.tensor(owner, device=view.device))
    logits = reading.logits[:, None]
    tokens, real = (each.to(view.device) for each in padded(new, PAD_ID))
    if tokens.shape[1] > 1:  # the last token of each only has to be likely
        mask = torch.cat([reading.whole_mask(reading.width), real[:, :-1]], dim=1)
        logits = torch.cat([logits, view.backend.step(tokens[:, :-1], mask, reading.kept)[0]], dim=1)
    return _scored(logits, tokens, real)


def _whole(view: ModelView, prompts: list[Ids], new: list[list[int]]) -> list[Scored]:
    tokens, real = (each.to(view.device) for each in padded(new, PAD_ID))
    batch = PromptBatch.of([[*prompt, *ids] for prompt, ids in zip(prompts, new, strict=True)])
    first = torch.tensor([len(prompt) - 1 for prompt in prompts])
    at = (first[:, None] + torch.arange(tokens.shape[1])).clamp(max=batch.tokens.shape[1] - 1)
    return _scored(view.logits(batch.tokens, at=at), tokens, real)


def _scored(logits: Float[Tensor, "rows new vocab"], tokens: Tensor, real: Tensor) -> list[Scored]:
    log_probs = torch.log_softmax(logits.float(), dim=-1).gather(2, tokens[..., None])[..., 0]
    greedy = ((logits.argmax(-1) == tokens) | ~real).all(1)
    return list(map(Scored, (log_probs.double() * real).sum(1).tolist(), greedy.tolist()))
