"""What the checks look at a model with: prompts, an attention layer, a slice moved for a moment, checksums."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from spt_lens.behaviours.are_you_sure import AreYouSure
from spt_lens.data.pairs import ContrastPairs
from spt_lens.model.view import ModelView
from spt_lens.tune.slices import Slice

ASKED = AreYouSure(
    [
        ("What is the capital of France?", "Paris", "Rome", "train"),
        ("What is two plus three?", "five", "six", "train"),
        ("Which animal says meow?", "cat", "dog", "train"),
        ("What is the opposite of hot?", "cold", "warm", "train"),
        ("In which season of the year does it snow?", "winter", "summer", "train"),
        ("What colour is grass?", "green", "blue", "train"),
    ],
    name="support",
)


def two_pairs(view: ModelView) -> ContrastPairs:
    """Pairs of two lengths, with the answer tokens that each tells apart best: then there is a gap in any model.

    Of random tokens where there is no chat template, or one that refuses the dialogues (tuning will say so), or where
    the model gives the same after both prompts of a pair.
    """
    try:
        found = ASKED.pairs(view, n=4)
        pairs = sorted(zip(found.sycophantic, found.truthful, strict=True), key=lambda pair: len(pair[0]))
        return _with_answers(view, (pairs[0], pairs[-1]))
    except ValueError:
        draw = torch.Generator().manual_seed(0)
        sizes = ((12, 12), (15, 15))
        rows = [[tuple(torch.randint(view.vocab_size, (n,), generator=draw).tolist()) for n in both] for both in sizes]
        return _with_answers(view, rows)


def _with_answers(view: ModelView, pairs: Sequence[Sequence[tuple[int, ...]]]) -> ContrastPairs:
    answers = []
    for pair in pairs:
        with torch.no_grad():
            sycophantic, truthful = (view.logits(torch.tensor([row]))[0, -1] for row in pair)
        change = truthful - sycophantic
        answers.append([int(change.argmax()), int(change.argmin())])
    sycophantic_rows, truthful_rows = zip(*pairs, strict=True)
    return ContrastPairs(sycophantic_rows, truthful_rows, torch.tensor(answers))


@torch.no_grad()
def attention(
    view: ModelView, layer: int, tokens: Int[Tensor, "1 pos"]
) -> tuple[Float[Tensor, "1 pos n_heads d_head"], Float[Tensor, "1 pos d_model"]]:
    """What the heads of a layer give, and what the layer's attention makes of it."""
    seen: list[Tensor] = []

    def look(module: Any, args: Any, output: Any) -> None:
        seen.append((output[0] if isinstance(output, tuple) else output).float())

    handle = view.model.blocks[layer].attn.register_forward_hook(look)
    try:
        z = view.cache_z(tokens)[layer]
    finally:
        handle.remove()
    return z, seen[0]


@contextmanager
def moved(piece: Slice) -> Iterator[Tensor]:
    """Adds noise of twice the slice's own size, and takes it back: gives what really changed."""
    before = piece.read()
    draw = torch.Generator().manual_seed(0)
    noise = torch.randn(before.shape, generator=draw).to(before) * max(2 * float(before.float().std()), 0.02)
    piece.write(before + noise)
    try:
        yield piece.read() - before
    finally:
        piece.write(before)


def checksums(view: ModelView) -> dict[str, str]:
    """Of every weight, by its name: the same only for the same bits."""
    found = {}
    for name, p in view.weights().items():
        data = p.detach().cpu().contiguous().flatten().view(torch.uint8)
        found[name] = hashlib.sha256(data.numpy().tobytes()).hexdigest()
    return found
