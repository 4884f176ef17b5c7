"""Greedy replies to many dialogues, in batches of equal length, so that nothing is padded."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile

import torch
from tqdm.auto import tqdm

from spt_lens.data.dialogues import Dialogue
from spt_lens.data.encode import by_length, prompt_ids
from spt_lens.models import Hook, Model, ModelView


def replies(
    model: Model,
    dialogues: Sequence[Dialogue],
    max_new_tokens: int = 24,
    hooks: Sequence[Hook] = (),
    batch_size: int = 64,
    progress: bool = False,
) -> list[str]:
    """The model's greedy reply to each dialogue, in the order given; every dialogue ends with a user turn.

    `hooks` are (name, function) pairs that stay on for the whole of every reply. A reply ends before its end token;
    special tokens are left out.

    Raises: ValueError for a dialogue that does not end with a user turn, max_new_tokens or batch_size below one, a
    model without chat template or in training mode.
    """
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens={max_new_tokens}: a reply needs at least one token")
    view = ModelView(model)
    view.check_measurable()
    rows = [prompt_ids(view.tokenizer, dialogue) for dialogue in dialogues]
    made = [""] * len(rows)
    ends = set(view.end_tokens)
    with torch.no_grad(), tqdm(total=len(rows), desc="replies", unit="reply", disable=not progress) as bar:
        for index in by_length(rows, batch_size):
            tokens = torch.tensor([rows[i] for i in index], device=view.device)
            for i, new in zip(index, view.generate(tokens, max_new_tokens, hooks=hooks).tolist(), strict=True):
                ids = list(takewhile(lambda token: token not in ends, new))
                made[i] = view.tokenizer.decode(ids, skip_special_tokens=True).strip()
            bar.update(len(index))
    return made
