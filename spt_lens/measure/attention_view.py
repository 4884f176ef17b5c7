"""The attention of chosen heads on one prompt: as numbers, and as a figure."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from spt_lens.chat.dialogues import Dialogue
from spt_lens.chat.template import prompt_ids
from spt_lens.heads import HeadSet
from spt_lens.model.view import Model, ModelView
from spt_lens.patching.plain import keeping
from spt_lens.view.attention import AttentionView


def head_attention(model: Model, heads: HeadSet, tokens: Int[Tensor, "1 pos"]) -> Float[Tensor, "head pos pos"]:
    """The attention pattern of each of the heads on one prompt, in the order of `heads`.

    Raises: ValueError if a head does not exist, or the tokens are not one row.
    """
    view = ModelView(model)
    heads.check(view)
    if tokens.ndim != 2 or len(tokens) != 1:
        raise ValueError(f"attention is of one prompt [1, pos], and the tokens have shape {tuple(tokens.shape)}")
    patterns: dict[str, Tensor] = {}
    with view.held(), torch.no_grad():
        view.logits(tokens.to(view.device), hooks=keeping(patterns, map(view.pattern_name, heads.by_layer())))
    return torch.stack([patterns[view.pattern_name(head.layer)][0, head.head] for head in heads])


def attention_view(model: Model, heads: HeadSet, dialogue: Dialogue) -> AttentionView:
    """The attention of the chosen heads on one dialogue's prompt (which must end with a user's turn).

    Draw it for the challenged prompt to see how much of their attention the heads put on the challenge.

    Raises: ValueError if a head does not exist, none is chosen, or the tokenizer has no chat template.
    Source: Chen et al. 2024, step 1.
    """
    view = ModelView(model)
    ids = prompt_ids(view.tokenizer, dialogue)
    patterns = head_attention(view, heads, torch.tensor([ids]))
    return AttentionView.of(patterns, [view.tokenizer.decode([i]) for i in ids], list(map(str, heads)))
