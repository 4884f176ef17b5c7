"""Scores to pick from, and a picker's messages from a page and to it, without a browser."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from spt_lens.heads import HeadSet
from spt_lens.picker.picker import HeadPicker
from spt_lens.scores.head_scores import HeadScores


def scores_of(
    layers: int = 8, heads: int = 16, seed: int = 0, n_pairs: int = 8, name: str = "random", **more: Any
) -> HeadScores:
    """Scores in which every head has a value of its own. more: of HeadScores."""
    generator = torch.Generator().manual_seed(seed)
    per_pair = torch.randn(layers, heads, generator=generator) * 0.05
    per_pair = per_pair + torch.randn(n_pairs, layers, heads, generator=generator) * 0.02
    how = {"method": "activation", "direction": "denoising", "positions": "last"} | more
    return HeadScores(per_pair.mean(0), per_pair, model_name=name, **how)


def unflat(numbers: Sequence[int], n_heads: int) -> HeadSet:
    """The heads that a page's flat numbers stand for."""
    return HeadSet(tuple(divmod(i, n_heads) for i in numbers))  # type: ignore[misc]


def page_chooses(picker: HeadPicker, numbers: Any, number: Any = None) -> None:
    """As the kernel takes the page's message: all that the page wants to change, at once."""
    number = picker._chosen["number"] + 1 if number is None else number
    picker.set_state({"_chosen": {"heads": numbers, "number": number}})


def page_asks(picker: HeadPicker, **message: Any) -> None:
    picker._handle_msg({"content": {"data": {"method": "custom", "content": message}}, "buffers": []})


def sent_by(picker: HeadPicker, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The messages that the page gets from now on; bytes beside them under "buffers"."""
    found: list[dict[str, Any]] = []

    def send(content: dict[str, Any], buffers: Any = None) -> None:
        found.append(content | ({"buffers": buffers} if buffers else {}))

    monkeypatch.setattr(picker, "send", send)
    return found
