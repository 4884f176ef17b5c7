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

from jaxtyping import Float
from torch import Tensor

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

    attention: one causal pattern for each head, rows summing to one. tokens: the text of each position. names: of the
    heads ("L5.H3").

    Raises: ValueError if the shapes and the numbers of tokens and names do not agree, or a pattern is not finite.
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
