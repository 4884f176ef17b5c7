"""The attention of chosen heads before and after a tuning."""

from __future__ import annotations

import torch

from spt_lens.chat.dialogues import Dialogue
from spt_lens.chat.template import prompt_ids
from spt_lens.checking import instance
from spt_lens.heads import HeadSet
from spt_lens.measure.attention_view import head_attention
from spt_lens.model.view import Model, ModelView
from spt_lens.tune.adapter import Adapter
from spt_lens.view.attention import AttentionView


def attention_before_after(model: Model, adapter: Adapter, heads: HeadSet, dialogue: Dialogue) -> AttentionView:
    """The attention of the chosen heads on one dialogue's prompt, before and after a tuning, next to each other.

    The patterns are named "L5.H3 before" and "L5.H3 after". The model may be tuned or untuned, and is left as it was.
    What changes need not come from a head's own weights: tuned heads below it change what it reads.

    Raises: ValueError as attention_view does, for a model that the adapter does not fit, or one whose weights at the
    adapter's heads are neither those before nor those after the tuning; TypeError for what is no adapter.
    """
    instance(adapter, "adapter", Adapter, "give run.adapter")
    view = ModelView(model)
    heads.check(view)
    ids = prompt_ids(view.tokenizer, dialogue)
    tokens = torch.tensor([ids])
    with adapter.reverted(view):  # whatever is written in the block, it puts back what it found
        before = head_attention(view, heads, tokens)
        adapter.apply(view)
        after = head_attention(view, heads, tokens)
    patterns = torch.stack([before, after], dim=1).flatten(0, 1)
    names = [f"{head} {when}" for head in heads for when in ("before", "after")]
    return AttentionView.of(patterns, [view.tokenizer.decode([i]) for i in ids], names)
