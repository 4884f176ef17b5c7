"""Dialogues to token ids, through the tokenizer's own chat template."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from spt_lens.data.dialogues import Dialogue


def prompt_ids(tokenizer: PreTrainedTokenizerBase, dialogue: Dialogue) -> list[int]:
    """Token ids of a dialogue up to where the assistant is to reply.

    Raises: ValueError if the dialogue does not end with a user turn, or the tokenizer has no chat template or one that
    refuses the dialogue.
    """
    if not dialogue.messages or dialogue.messages[-1].role != "user":
        last = dialogue.messages[-1].role if dialogue.messages else "nothing"
        raise ValueError(
            f"a prompt must end with a user turn, this dialogue ends with {last}: pass dialogue.prompt to leave "
            "out its reply"
        )
    return _tokens(tokenizer, _text(tokenizer, dialogue, generation_prompt=True))


def training_ids(tokenizer: PreTrainedTokenizerBase, dialogue: Dialogue) -> tuple[list[int], list[bool]]:
    """Token ids of a whole dialogue, and True where a token is a target: the last reply, with its end token.

    What a template adds after the end token (often a line break) is no target: no model is asked to say it.

    Raises: ValueError if the dialogue does not end with an assistant turn, or if the chat template renders the dialogue
    in a way that the prompt is not how it begins (then the tuned reply would not be the one that is generated).
    """
    if not dialogue.messages or dialogue.messages[-1].role != "assistant":
        last = dialogue.messages[-1].role if dialogue.messages else "nothing"
        raise ValueError(
            f"a training dialogue must end with an assistant turn, this one ends with {last}: add the reply"
        )
    prompt = prompt_ids(tokenizer, dialogue.prompt)
    ids = _tokens(tokenizer, _text(tokenizer, dialogue, generation_prompt=False))
    if ids[: len(prompt)] != prompt:
        raise ValueError(
            f"the chat template of {tokenizer.name_or_path or 'this tokenizer'} renders a dialogue so that its prompt "
            "is not how the whole begins: give the tokenizer a template that adds the same text before a reply as its "
            "generation prompt"
        )
    end = len(ids)
    while end > len(prompt) and not tokenizer.decode(ids[end - 1 : end]).strip():
        end -= 1
    if end == len(prompt):
        raise ValueError(f"the last reply of the dialogue is empty after encoding: {dialogue.reply!r}")
    return ids, [len(prompt) <= i < end for i in range(len(ids))]


def padded(rows: Sequence[Sequence[int]], pad: int) -> tuple[Int[Tensor, "batch pos"], Bool[Tensor, "batch pos"]]:
    """Rows of token ids padded on the right, and a mask that is True on the real tokens.

    Right padding is exact under causal attention: no real token sees what follows it.

    Raises: ValueError if there are no rows.
    """
    if not rows:
        raise ValueError("there is nothing to pad: rows is empty")
    width = max(len(row) for row in rows)
    ids = torch.full((len(rows), width), pad, dtype=torch.long)
    mask = torch.zeros((len(rows), width), dtype=torch.bool)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row, dtype=torch.long)
        mask[i, : len(row)] = True
    return ids, mask


def by_length(rows: Sequence[Sequence[int]], size: int) -> Iterator[list[int]]:
    """The numbers of at most `size` rows of one length at a time, so that a batch needs no padding.

    Raises: ValueError if size is below one.
    """
    if size < 1:
        raise ValueError(f"a batch of {size} rows is not possible: use one or more")
    groups: dict[int, list[int]] = {}
    for i, row in enumerate(rows):
        groups.setdefault(len(row), []).append(i)
    for group in groups.values():
        for start in range(0, len(group), size):
            yield group[start : start + size]


def _text(tokenizer: PreTrainedTokenizerBase, dialogue: Dialogue, generation_prompt: bool) -> str:
    if tokenizer is None:
        raise ValueError("the model has no tokenizer: load it with spt_lens.load_model, or set model.tokenizer")
    if not getattr(tokenizer, "chat_template", None):
        raise ValueError(
            f"the tokenizer {tokenizer.name_or_path or ''} has no chat template: use a chat model, or set "
            "tokenizer.chat_template"
        )
    try:
        text = tokenizer.apply_chat_template(dialogue.chat(), tokenize=False, add_generation_prompt=generation_prompt)
    except Exception as error:  # templates raise errors of jinja's own, a package that users need not know
        roles = ", ".join(message.role for message in dialogue.messages)
        raise ValueError(f"the chat template refused a dialogue with the roles {roles}: {error}") from error
    return str(text)


def _tokens(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    # The template has already written the special tokens.
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])
