"""Attention patterns, drawn by circuitsvis with no network at all.

circuitsvis ships its JavaScript inside its Python package, but its own figures ask the internet first whether to load
it from a content-delivery network instead. Here it comes from the package, apart from the values: sent once for many.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any
from uuid import uuid4

from jaxtyping import Float
from torch import Tensor

_GLOBAL = "var CircuitsVis="


def attention_script() -> str:
    """circuitsvis's JavaScript (about 1.3 MB), which declares `CircuitsVis`. It may stand inside a <script> element.

    `CircuitsVis.render(id, CircuitsVis.AttentionHeads, values)` draws what `attention_values` gives into the element
    of that id. In a module, `new Function(script + "; return CircuitsVis")()` gives `CircuitsVis`.

    Raises: RuntimeError if this version of circuitsvis has no such script.
    """
    path = files("circuitsvis") / "dist" / "cdn" / "iife.js"
    script = path.read_text(encoding="utf-8") if path.is_file() else ""
    if _GLOBAL not in script[:200]:
        raise RuntimeError("circuitsvis has changed where it keeps its script: install circuitsvis 1.43")
    # Without a debugger's pointer to a file that is not there, and what would end the element that it stands in.
    return script.replace("//# sourceMappingURL=iife.js.map", "").replace("</script", "<\\/script")


def attention_values(
    attention: Float[Tensor, "head dest src"], tokens: Sequence[str], names: Sequence[str]
) -> dict[str, Any]:
    """What `CircuitsVis.AttentionHeads` draws, as JSON holds it: patterns (rounded), texts of the tokens, names.

    attention: one causal pattern for each head, rows summing to one. tokens: the text of each position. names: of the
    heads ("L5.H3").

    Raises: ValueError if the shapes and the numbers of tokens and names do not agree, or a pattern is not finite.
    """
    if attention.ndim != 3 or attention.shape[1] != attention.shape[2] or attention.shape[1] != len(tokens):
        raise ValueError(
            f"attention must be [head, dest, src] over {len(tokens)} tokens, but its shape is {tuple(attention.shape)}"
        )
    if len(names) != len(attention):
        raise ValueError(f"{len(attention)} patterns but {len(names)} names: give one name for each head")
    if not attention.isfinite().all():
        raise ValueError("some attention is not finite: look for overflow or broken weights in the model")
    return {
        # Short numbers: a page of kilobytes, not megabytes.
        "attention": attention.detach().double().cpu().numpy().round(4).tolist(),
        "tokens": list(tokens),
        "minValue": 0.0,
        "maxValue": 1.0,
        "maskUpperTri": True,
        "attentionHeadNames": list(names),
    }


@dataclass(frozen=True)
class AttentionView:
    """A figure as a piece of HTML with its own script (about 1.3 MB); Jupyter shows it."""

    html: str = field(repr=False)  # a notebook keeps the repr beside the figure

    @classmethod
    def of(
        cls, attention: Float[Tensor, "head dest src"], tokens: Sequence[str], names: Sequence[str]
    ) -> AttentionView:
        """`attention_values` with the script beside them. Raises as attention_values and attention_script do."""
        # A token such as "</script>" must not end the script.
        values = json.dumps(attention_values(attention, tokens, names)).replace("<", "\\u003c")
        place = f"circuits-vis-{uuid4()}"  # a page may hold several
        return cls(
            f'<div id="{place}" style="margin: 15px 0;"></div>\n<script type="module">\n{attention_script()}\n'
            f'CircuitsVis.render("{place}", CircuitsVis.AttentionHeads, {values})\n</script>'
        )

    def _repr_html_(self) -> str:
        return self.html
