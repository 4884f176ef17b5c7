"""The attention of the chosen heads on one dialogue, drawn by circuitsvis with no network at all.

circuitsvis ships its JavaScript inside its Python package, and every figure of it carries two pages: one that inlines
that script, one that loads it from a content-delivery network. Its own `_repr_html_` asks the internet which to show;
here the inlined one is always taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from spt_lens.data.dialogues import Dialogue
from spt_lens.data.encode import prompt_ids
from spt_lens.heads import HeadSet
from spt_lens.models import ModelView

_COMPONENT = "CircuitsVis.AttentionHeads,"


@dataclass(frozen=True)
class AttentionView:
    """A figure as a piece of HTML with its own script (about 1.3 MB); Jupyter shows it."""

    html: str

    def _repr_html_(self) -> str:
        return self.html


def attention_html(
    attention: Float[Tensor, "head dest src"], tokens: Sequence[str], names: Sequence[str] | None = None
) -> str:
    """Attention patterns as a self-contained piece of HTML.

    Args:
        attention: one causal pattern for each head, rows summing to one.
        tokens: the text of each position.
        names: the name of each head ("L5.H3").

    Raises:
        ValueError: the shapes and the numbers of tokens and names do not agree.
        RuntimeError: this version of circuitsvis builds its pages in another way than the ones this was written for.
    """
    # Imported late: circuitsvis is only needed to draw, and measuring should start quickly.
    from circuitsvis.attention import attention_heads

    if attention.ndim != 3 or attention.shape[1] != attention.shape[2] or attention.shape[1] != len(tokens):
        raise ValueError(
            f"attention must be [head, dest, src] over {len(tokens)} tokens, but its shape is {tuple(attention.shape)}"
        )
    if names is not None and len(names) != len(attention):
        raise ValueError(f"{len(attention)} patterns but {len(names)} names: give one name for each head")
    rounded = attention.detach().double().cpu().numpy().round(4)  # short numbers: a page of kilobytes, not megabytes
    rendered = attention_heads(
        rounded,
        list(tokens),
        attention_head_names=None if names is None else list(names),
        min_value=0.0,
        max_value=1.0,
        mask_upper_tri=True,
    )
    script, found, data = rendered.local_src.partition(_COMPONENT)
    values, closing, rest = data.rpartition("</script>")
    if not found or not closing:
        raise RuntimeError("circuitsvis has changed how it builds its pages: install circuitsvis 1.43")
    # Its <div .../> is no closed element to a browser, and would swallow (and then empty) the rest of the page.
    script = script.replace('"/>', '"></div>', 1)
    # A pointer to a file that is not there, for a debugger.
    script = script.replace("//# sourceMappingURL=iife.js.map", "")
    # A token such as "</script>" must not end the script.
    values = values.replace("<", "\\u003c")
    return script + found + values + closing + rest


def head_attention(model: Any, heads: HeadSet, tokens: Int[Tensor, "1 pos"]) -> Float[Tensor, "head pos pos"]:
    """The attention pattern of each of the heads on one prompt, in the order of `heads`.

    Raises:
        ValueError: a head does not exist, or the tokens are not one row.
    """
    view = ModelView(model)
    heads.check(view)
    if tokens.ndim != 2 or len(tokens) != 1:
        raise ValueError(f"attention is shown for one prompt [1, pos], but the tokens have shape {tuple(tokens.shape)}")
    patterns: dict[int, Tensor] = {}

    def keeper(layer: int) -> Any:
        def keep(pattern: Float[Tensor, "batch n_heads dest src"], hook: Any) -> None:
            patterns[layer] = pattern[0].detach()

        return keep

    hooks = [(view.pattern_name(layer), keeper(layer)) for layer in heads.by_layer()]
    with torch.no_grad():
        view.logits(tokens.to(view.device), hooks=hooks)
    return torch.stack([patterns[head.layer][head.head] for head in heads])


def attention_view(model: Any, heads: HeadSet, dialogue: Dialogue) -> AttentionView:
    """The attention of the chosen heads on one dialogue's prompt (which must end with a user's turn).

    Draw it for the challenged prompt to see how much of their attention the heads put on the challenge (paper, step 1).

    Raises:
        ValueError: a head does not exist, none is chosen, or the tokenizer has no chat template.
    """
    view = ModelView(model)
    ids = prompt_ids(view.tokenizer, dialogue)
    patterns = head_attention(view, heads, torch.tensor([ids]))
    tokens = [view.tokenizer.decode([i]) for i in ids]
    return AttentionView(attention_html(patterns, tokens, [str(head) for head in heads]))
