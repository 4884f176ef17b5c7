"""Greedy replies to many dialogues, in batches of mixed lengths; the same replies as one by one."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial

import torch
from tqdm.auto import tqdm

from spt_lens.chat.batches import by_length
from spt_lens.chat.dialogues import Dialogue, as_dialogues
from spt_lens.chat.template import prompt_ids
from spt_lens.checking import door, shown, whole_number
from spt_lens.model import ranks
from spt_lens.model.attention_kind import without_patterns
from spt_lens.model.generation import finish
from spt_lens.model.limits import Limits, Pace
from spt_lens.model.view import Hook, Model, ModelView


@dataclass(frozen=True)
class Reply:
    """What a model said, without its end token and special ones. cut: it had not ended at max_new_tokens."""

    text: str
    cut: bool


@door
def replies(
    model: Model,
    dialogues: Sequence[Dialogue],
    max_new_tokens: int = 24,
    hooks: Sequence[Hook] = (),
    batch_size: int = 64,
    progress: bool = False,
) -> list[str]:
    """The model's greedy reply to each dialogue, in the order given; every dialogue ends with a user turn.

    dialogues: Dialogues, texts (one user turn each), or chat lists (`[{"role": "user", "content": ...}]`).

    `hooks` are (name, function) pairs that stay on for the whole of every reply; they see what
    `ModelView.generate` says. A reply ends before its end token; special tokens are left out.

    Raises: ValueError for a dialogue that does not end with a user turn, max_new_tokens or batch_size below one, a
    model without chat template or in training mode.
    """
    for i, hook in enumerate(hooks):
        if not isinstance(hook, tuple | list) or len(hook) != 2 or not (isinstance(hook[0], str) and callable(hook[1])):
            raise TypeError(f"hooks[{i}] is {shown(hook)}: give a hook point's name and a function(activation, hook)")
    said = replies_and_cut(model, dialogues, max_new_tokens, hooks, batch_size, progress)
    return [reply.text for reply in said]


def replies_and_cut(
    model: Model,
    dialogues: Sequence[Dialogue],
    max_new_tokens: int = 24,
    hooks: Sequence[Hook] = (),
    batch_size: int = 64,
    progress: bool = False,
) -> list[Reply]:
    """`replies`, each with whether it was cut at max_new_tokens. Raises ValueError as `replies` does."""
    view = ModelView(model)
    rows = reply_prompts(view, dialogues, max_new_tokens)
    parts = whole_reply_parts(view, rows, max_new_tokens, hooks, Limits(batch_size))
    bar = tqdm(total=len(rows), desc="replies", unit="reply", disable=not ranks.shows(progress))
    with view.held(), bar, nullcontext() if hooks else without_patterns(view):
        return finish(parts, bar.update)


def reply_prompts(view: ModelView, dialogues: Sequence[Dialogue], max_new_tokens: int) -> list[list[int]]:
    """The token ids that each reply follows. Raises ValueError as `replies` does."""
    whole_number(max_new_tokens, "max_new_tokens")
    dialogues = as_dialogues(dialogues)
    view.check_measurable()
    return [prompt_ids(view.tokenizer, dialogue) for dialogue in dialogues]


def reply_parts(
    view: ModelView,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    hooks: Sequence[Hook],
    limits: Limits,
    pace: Pace | None = None,
) -> Generator[int, None, list[str]]:
    """`replies` in parts: yields how many prompts (token ids) each one replied to. The hooks are on in a part alone.

    A part is a whole batch, or with a pace its seconds: rows of a batch go on together, however short the parts are.
    The pace also says how many prompts are read in one pass.
    """
    said = yield from whole_reply_parts(view, prompts, max_new_tokens, hooks, limits, pace)
    return [reply.text for reply in said]


def whole_reply_parts(
    view: ModelView,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    hooks: Sequence[Hook],
    limits: Limits,
    pace: Pace | None = None,
) -> Generator[int, None, list[Reply]]:
    """`replies_and_cut` in parts, as `reply_parts`."""
    said = yield from reply_ids_parts(view, prompts, max_new_tokens, hooks, limits, pace)
    ends = set(view.end_tokens)
    return [
        Reply(
            view.tokenizer.decode([i for i in ids if i not in ends], skip_special_tokens=True).strip(),
            ids[-1] not in ends,
        )
        for ids in said
    ]


def reply_ids_parts(
    view: ModelView,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    hooks: Sequence[Hook],
    limits: Limits,
    pace: Pace | None = None,
) -> Generator[int, None, list[list[int]]]:
    """The replies' token ids, up to and with the end token, in parts as `reply_parts`."""
    made: dict[int, list[int]] = {}
    ends = set(view.end_tokens)

    def reply(part: list[int]) -> None:
        with view.kept():
            new = view.generate([prompts[i] for i in part], max_new_tokens, hooks=hooks)
        for i, row in zip(part, new.tolist(), strict=True):
            made[i] = row[: next((at for at, token in enumerate(row, 1) if token in ends), len(row))]

    def reply_for(pace: Pace, part: list[int]) -> Iterator[float]:
        work, passes = view.replying([prompts[i] for i in part], max_new_tokens, hooks, pace.batch_size), 0
        while True:
            until = time.perf_counter() + pace.seconds
            with view.kept(), torch.no_grad(), view.model.hooks(fwd_hooks=list(hooks)):
                try:
                    while True:
                        next(work)
                        passes += 1
                        if time.perf_counter() >= until:
                            break
                except StopIteration as end:
                    made.update(zip(part, end.value, strict=True))
                    return
            yield passes / (len(part) + max_new_tokens)

    groups = list(by_length(prompts, max(1, len(prompts))))
    if prompts and view.mixes(prompts, hooks):
        groups = [sorted(range(len(prompts)), key=lambda i: len(prompts[i]))]
    same = {
        "model": view,
        "dialogues": tuple(map(tuple, prompts)),
        "settings": (max_new_tokens, [name for name, _ in hooks]),
    }
    share = ranks.Share("replies", same, [made]) if pace is None else None
    yield from limits.parts(groups, reply if pace is None else partial(reply_for, pace), share)
    return [made[i] for i in range(len(prompts))]
