"""Greedy replies in batches of equal length."""

from __future__ import annotations

import pytest
import torch

from spt_lens.chat.dialogues import dialogue
from spt_lens.chat.template import prompt_ids
from spt_lens.model.replies import replies
from spt_lens.model.view import ModelView

ASKED = [
    dialogue("Hello!"),
    dialogue("What is the capital of France?"),
    dialogue("Who are you?"),
    dialogue("What is the capital of Spain?"),
    dialogue("Hello!", "Hello! How can I help you?", "Repeat apple river."),
]


def by_hand(model, asked, steps: int) -> str:
    """One dialogue, one whole forward pass for each token."""
    ids = prompt_ids(model.tokenizer, asked)
    new: list[int] = []
    for _ in range(steps):
        with torch.no_grad():
            new.append(int(model(torch.tensor([ids + new]))[0, -1].argmax()))
        if new[-1] == model.tokenizer.eos_token_id:
            break
    return model.tokenizer.decode(new, skip_special_tokens=True).strip()


@pytest.mark.parametrize("batch_size", [1, 64])
def test_order_is_kept_and_batches_change_nothing(tiny, batch_size):
    expected = [by_hand(tiny, asked, 6) for asked in ASKED]
    assert replies(tiny, ASKED, max_new_tokens=6, batch_size=batch_size) == expected
    assert len(set(expected)) > 1


def test_a_reply_ends_before_its_end_token(tiny, monkeypatch):
    word = tiny.tokenizer.convert_tokens_to_ids(["Yes", "sure", "<end>", "Paris", "<pad>"])
    monkeypatch.setattr(ModelView, "generate", lambda self, tokens, n, hooks: torch.tensor([word] * len(tokens)))
    assert replies(tiny, ASKED[:2]) == ["Yes sure", "Yes sure"]


def test_errors_and_nothing_to_do(model_class, tiny):
    assert replies(tiny, []) == []
    with pytest.raises(ValueError, match="user turn"):
        replies(tiny, [dialogue("Hello!", "Hello!")])
    with pytest.raises(ValueError, match="max_new_tokens=0"):
        replies(tiny, ASKED, max_new_tokens=0)
    if model_class == "hooked":
        return  # it has no dropout, and is measured in any mode
    tiny.train()
    with pytest.raises(ValueError, match="eval"):
        replies(tiny, ASKED)
