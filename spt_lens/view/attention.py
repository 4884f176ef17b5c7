"""The attention of the chosen heads on one dialogue, drawn by circuitsvis with no network at all.

circuitsvis ships its JavaScript inside its Python package, but its own figures ask the internet first whether to load
that script from a content-delivery network instead. Here the script comes from the package, always, and apart from the
values: so that it can be sent once and values many times.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any
from uuid import uuid4

import torch
from jaxtyping import Float, Int
from torch import Tensor

from spt_lens.data.dialogues import Dialogue
from spt_lens.data.encode import prompt_ids
from spt_lens.heads import HeadSet
from spt_lens.models import Model, ModelView
from spt_lens.tune.adapter import Adapter

_GLOBAL = "var CircuitsVis="


@dataclass(frozen=True)
class AttentionView:
    """A figure as a piece of HTML with its own script (about 1.3 MB); Jupyter shows it."""

    html: str = field(repr=False)  # a notebook keeps the repr beside the figure

    def _repr_html_(self) -> str:
        return self.html


def attention_script() -> str:
    """circuitsvis's JavaScript (about 1.3 MB), which declares `CircuitsVis`. It may stand inside a <script> element.

    `CircuitsVis.render(id, CircuitsVis.AttentionHeads, values)` draws what `attention_values` gives into the element
    of that id. In a module, `new Function(script + "; return CircuitsVis")()` gives `CircuitsVis`.

    Raises: RuntimeError if this version of circuitsvis has no such script.
    """
    # Imported late, as a package: circuitsvis is only needed to draw, and measuring should start quickly.
    path = files("circuitsvis") / "dist" / "cdn" / "iife.js"
    script = path.read_text(encoding="utf-8") if path.is_file() else ""
    if _GLOBAL not in script[:200]:
        raise RuntimeError("circuitsvis has changed where it keeps its script: install circuitsvis 1.43")
    # A pointer to a file that is not there, for a debugger.
    script = script.replace("//# sourceMappingURL=iife.js.map", "")
    # Inside a string of it, this must not end the element that it stands in.
    return script.replace("</script", "<\\/script")


def attention_values(
    attention: Float[Tensor, "head dest src"], tokens: Sequence[str], names: Sequence[str] | None = None
) -> dict[str, Any]:
    """What `CircuitsVis.AttentionHeads` draws, as JSON holds it: patterns (rounded), texts of the tokens, names.

    Args:
        attention: one causal pattern for each head, rows summing to one.
        tokens: the text of each position.
        names: the name of each head ("L5.H3").

    Raises:
        ValueError: the shapes and the numbers of tokens and names do not agree, or a pattern is not finite.
    """
    if attention.ndim != 3 or attention.shape[1] != attention.shape[2] or attention.shape[1] != len(tokens):
        raise ValueError(
            f"attention must be [head, dest, src] over {len(tokens)} tokens, but its shape is {tuple(attention.shape)}"
        )
    if names is not None and len(names) != len(attention):
        raise ValueError(f"{len(attention)} patterns but {len(names)} names: give one name for each head")
    if not attention.isfinite().all():
        raise ValueError("some attention is not finite: look for overflow or broken weights in the model")
    values: dict[str, Any] = {
        # Short numbers: a page of kilobytes, not megabytes.
        "attention": attention.detach().double().cpu().numpy().round(4).tolist(),
        "tokens": list(tokens),
        "minValue": 0.0,
        "maxValue": 1.0,
        "maskUpperTri": True,
    }
    return values if names is None else {**values, "attentionHeadNames": list(names)}


def attention_html(
    attention: Float[Tensor, "head dest src"], tokens: Sequence[str], names: Sequence[str] | None = None
) -> str:
    """Attention patterns as a self-contained piece of HTML: `attention_values` with the script beside them.

    Raises: ValueError as attention_values does; RuntimeError as attention_script does.
    """
    # A token such as "</script>" must not end the script.
    values = json.dumps(attention_values(attention, tokens, names)).replace("<", "\\u003c")
    place = f"circuits-vis-{uuid4()}"  # a page may hold several
    return (
        f'<div id="{place}" style="margin: 15px 0;"></div>\n<script type="module">\n{attention_script()}\n'
        f'CircuitsVis.render("{place}", CircuitsVis.AttentionHeads, {values})\n</script>'
    )


def head_attention(model: Model, heads: HeadSet, tokens: Int[Tensor, "1 pos"]) -> Float[Tensor, "head pos pos"]:
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


def attention_view(model: Model, heads: HeadSet, dialogue: Dialogue) -> AttentionView:
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


def attention_before_after(model: Model, adapter: Adapter, heads: HeadSet, dialogue: Dialogue) -> AttentionView:
    """The attention of the chosen heads on one dialogue's prompt, before and after a tuning, next to each other.

    The patterns are named "L5.H3 before" and "L5.H3 after". The model may be tuned or untuned, and is left as it was.
    What changes need not come from a head's own weights: tuned heads below it change what it reads.

    adapter: of the tuning (`run.adapter`).

    Raises: ValueError as attention_view does, for a model that the adapter does not fit, or one whose weights at the
    adapter's heads are neither those before nor those after the tuning; TypeError for what is no adapter.
    """
    if not isinstance(adapter, Adapter):
        raise TypeError(f"expected an Adapter, got {type(adapter).__name__}: give run.adapter")
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
    return AttentionView(attention_html(patterns, [view.tokenizer.decode([i]) for i in ids], names))
