"""The map of heads: layers down, heads across, colour for the score.

The scale runs from blue (below zero) over white to red (above), which colour-blind readers can tell apart. It ends at
the 99th percentile of the scores' size, so that one strong head does not pale the others.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from html import escape
from textwrap import wrap

import plotly.graph_objects as go
import torch
from jaxtyping import Float, Int
from torch import Tensor

from spt_lens.heads import Head
from spt_lens.view.style import rgb

# Blue, white, red: the ends and middles of ColorBrewer's RdBu.
SCALE = [(0.0, "#2166ac"), (0.25, "#92c5de"), (0.5, "#f7f7f7"), (0.75, "#f4a582"), (1.0, "#b2182b")]


def colour_limit(values: Float[Tensor, "n_layers n_heads"]) -> float:
    """Where the colour scale ends: the 99th percentile of the absolute scores, or 1 when all are zero."""
    size = values.abs().flatten()
    return float(torch.quantile(size, 0.99)) or float(size.max()) or 1.0


def outline(heads: Iterable[tuple[int, int]]) -> str:
    """An SVG path around the cell of each (layer, head), in the heatmap's coordinates (x is the head, y the layer)."""
    return " ".join(
        f"M {head - 0.5} {layer - 0.5} H {head + 0.5} V {layer + 0.5} H {head - 0.5} Z" for layer, head in heads
    )


def head_heatmap(
    values: Float[Tensor, "n_layers n_heads"],
    std: Float[Tensor, "n_layers n_heads"],
    ranks: Int[Tensor, "n_layers n_heads"],
    notes: Sequence[Sequence[str]],
    title: str = "",
    outlined: Collection[tuple[int, int]] = (),
) -> go.Figure:
    """The interactive heatmap; hovering tells a head's score, std over pairs, rank and note (HTML, by layer and head).

    title: its first line, then smaller ones.

    Raises: ValueError if an outlined head has no score.
    """
    n_layers, n_heads = values.shape
    if odd := [str(Head(*head)) for head in outlined if head[0] >= n_layers or head[1] >= n_heads]:
        raise ValueError(f"{', '.join(odd)} cannot be outlined: the scores are {n_layers} layers x {n_heads} heads")
    limit = colour_limit(values)
    rows = zip(std.tolist(), ranks.tolist(), notes, strict=True)
    figure = go.Figure(
        go.Heatmap(
            z=values.tolist(),
            x=list(range(n_heads)),
            y=list(range(n_layers)),
            customdata=[[list(cell) for cell in zip(*row, strict=True)] for row in rows],
            colorscale=SCALE,
            zmid=0,
            zmin=-limit,
            zmax=limit,
            xgap=1,
            ygap=1,
            colorbar={"title": {"text": "score"}},
            hovertemplate="<b>L%{y}.H%{x}</b><br>score %{z:.4f} (std %{customdata[0]:.4f})"
            f"%{{customdata[2]}}<br>rank %{{customdata[1]}} of {values.numel()}<extra></extra>",
        )
    )
    width = max(420, 190 + 30 * n_heads)
    title = in_lines(title, width // 6)
    figure.update_layout(
        # Small enough that a line fits a notebook's width; from the top down, since plotly centres only the first line.
        title={"text": title, "font": {"size": 13}, "y": 1, "yanchor": "top", "pad": {"t": 16}},
        template="plotly_white",
        width=width,
        height=max(260, 150 + 30 * n_layers) + (more := 17 * title.count("<br>")),
        margin={"l": 60, "r": 20, "t": 60 + more, "b": 50},
    )
    figure.update_xaxes(title="head", dtick=1, showgrid=False, zeroline=False, constrain="domain")
    figure.update_yaxes(title="layer", dtick=1, autorange="reversed", showgrid=False, zeroline=False)
    if outlined:
        line = {"color": "black", "width": 2.5}
        figure.add_shape(type="path", path=outline(outlined), xref="x", yref="y", line=line, name="chosen")
    return figure


def head_table(
    values: Float[Tensor, "n_layers n_heads"],
    ranks: Int[Tensor, "n_layers n_heads"],
    notes: Sequence[Sequence[str]],
    text: str = "",
    outlined: Collection[tuple[int, int]] = (),
) -> str:
    """The same map as a plain HTML table: no script, so that it shows in any viewer. Hover for score, rank and note."""
    n_layers, n_heads = values.shape
    limit = colour_limit(values)
    rows = []
    for layer in range(n_layers):
        cells = []
        for head in range(n_heads):
            value = float(values[layer, head])
            edge = "2px solid black" if (layer, head) in outlined else "2px solid transparent"
            cells.append(
                f'<td title="{Head(layer, head)}: {value:.4f}, rank {int(ranks[layer, head])}{notes[layer][head]}" '
                f'style="width:18px;height:18px;padding:0;border:{edge};background:{colour(value / limit)}"></td>'
            )
        rows.append(f'<tr><th style="font-weight:normal">{layer}</th>{"".join(cells)}</tr>')
    heads = "".join(f'<th style="font-weight:normal;text-align:center">{head}</th>' for head in range(n_heads))
    first = [Head(*divmod(i, n_heads)) for i in ranks.flatten().argsort()[:5].tolist()]
    best = ", ".join(f"{head} {float(values[head]):+.3f}" for head in first)
    return (
        f'<div><p>{in_lines(text)}<br>best: {best}</p><table style="border-collapse:separate;border-spacing:1px">'
        f"<tr><th></th>{heads}</tr>{''.join(rows)}</table><p>layers down, heads across; "
        f'<span style="color:{SCALE[0][1]}">-{limit:.3g}</span> to '
        f'<span style="color:{SCALE[-1][1]}">+{limit:.3g}</span></p></div>'
    )


def in_lines(text: str, width: int = 1000) -> str:
    """Text as HTML that plotly's titles take too: lines after the first are smaller, and have at most so many letters.
    The first, in 13 pixels beside 11, has fewer."""
    first, *more = text.split("\n")
    large = [escape(part) for part in wrap(first, width * 11 // 13)]
    lines = [escape(part) for line in more for part in wrap(line, width)]
    return "<br>".join([*large, *(f'<span style="font-size:11px">{line}</span>' for line in lines)])


def colour(share: float) -> str:
    """The scale's colour at a share of the limit, -1 to 1 (beyond: the end colour), as `rgb(r,g,b)`."""
    at = (max(-1.0, min(1.0, share)) + 1) / 2
    for (low, from_), (high, to) in zip(SCALE, SCALE[1:], strict=False):
        if at <= high:
            part = (at - low) / (high - low)
            mixed = (round(a + (b - a) * part) for a, b in zip(rgb(from_), rgb(to), strict=True))
            return f"rgb({','.join(map(str, mixed))})"
    raise AssertionError("the scale ends at 1")
