"""Random work for models of any sizes: prompts, dialogues and heads that cost what real ones cost, and mean nothing."""

from __future__ import annotations

import random
from typing import Any

import torch

import spt_lens as spt
from spt_lens.chat.dialogues import Dialogue, dialogue
from spt_lens.model.view import Model, ModelView

_WORDS = "the word capital city of France what is answer I think that right are you sure a".split()


def made_up_pairs(model: Model, n: int, tokens: int, suffix: int) -> spt.ContrastPairs:
    """Random prompts that differ in the first half of the suffix, read by the tokens that tell the two apart best: two
    forward passes. So every gap is above zero, which it need not be for two given tokens."""
    view, draw = ModelView(model), torch.Generator().manual_seed(0)
    last = min(800, len(view.tokenizer))
    one = torch.randint(20, last, (n, tokens), generator=draw)
    other = one.clone()
    other[:, tokens - suffix : tokens - suffix // 2] = torch.randint(20, last, (n, suffix // 2), generator=draw)
    at = torch.full((n,), tokens - 1)
    with torch.no_grad():
        change = view.logits(other, at=at).float() - view.logits(one, at=at).float()
    answers = torch.stack([change.argmax(-1), change.argmin(-1)], dim=1).cpu()
    # The truthful run is the other one: it raises the first answer.
    return spt.ContrastPairs(tuple(map(tuple, one.tolist())), tuple(map(tuple, other.tolist())), answers)


def _said(tokenizer: Any, draw: random.Random, count: int) -> str:
    """So many words that are one token each, so that dialogues of as many words have one length."""
    how = {"add_special_tokens": False}
    alike = [[len(tokenizer(text, **how)["input_ids"]) for text in (w, f"the {w} is")] == [1, 3] for w in _WORDS]
    fit = [word for word, fits in zip(_WORDS, alike, strict=True) if fits]
    return " ".join(draw.choices(fit, k=count))


def made_up_dialogues(tokenizer: Any, n: int, words: int, reply: int) -> list[Dialogue]:
    """A question, an answer and a challenge of so many words together, and a last reply."""
    draw, parts = random.Random(0), (words - 2 * (words // 4), words // 4, words // 4, reply)
    return [dialogue(*(_said(tokenizer, draw, count) for count in parts)) for _ in range(n)]


def made_up_prompts(tokenizer: Any, n: int, words: int, mixed: bool = False) -> list[Dialogue]:
    """Questions of so many words; mixed: of half as many to twice as many."""
    draw = random.Random(1)
    counts = [words * (1 + i % 4) // 2 if mixed else words for i in range(n)]
    return [dialogue(_said(tokenizer, draw, count)) for count in counts]


def spread_heads(n_layers: int, n_heads: int, lowest: int, share: float = 0.05) -> spt.HeadSet:
    """A share of all heads, evenly over the layers from the lowest on, which has one."""
    count = max(1, round(share * n_layers * n_heads))
    every = [(layer, head) for layer in range(lowest, n_layers) for head in range(n_heads)]
    count = min(count, len(every))
    return spt.HeadSet.of(*(every[i * len(every) // count] for i in range(count)))
