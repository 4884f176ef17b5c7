"""The map of heads: layers down, heads across, colour for the score.

The scale runs from blue (below zero) over white to red (above), which colour-blind readers can tell apart, and is
centred on zero. It ends at the 99th percentile of the scores' size, so that one strong head does not pale the others.
"""

from __future__ import annotations

from html import escape

import plotly.graph_objects as go
import torch

from spt_lens.heads import HeadSet
from spt_lens.scores.described import describe, notes
from spt_lens.scores.head_scores import HeadScores

# Blue, white, red: the ends and middles of ColorBrewer's RdBu.
SCALE = [(0.0, "#2166ac"), (0.25, "#92c5de"), (0.5, "#f7f7f7"), (0.75, "#f4a582"), (1.0, "#b2182b")]


def colour_limit(scores: HeadScores) -> float:
    """Where the colour scale ends: the 99th percentile of the absolute scores, or 1 when all are zero."""
    size = scores.values.abs().flatten()
    return float(torch.quantile(size, 0.99)) or float(size.max()) or 1.0


def outline(chosen: HeadSet) -> str:
    """An SVG path around each chosen cell, in the heatmap's coordinates (x is the head, y the layer)."""
    return " ".join(
        f"M {head - 0.5} {layer - 0.5} H {head + 0.5} V {layer + 0.5} H {head - 0.5} Z" for layer, head in chosen
    )


def head_heatmap(scores: HeadScores, chosen: HeadSet | None = None, title: str | None = None) -> go.Figure:
    """The interactive heatmap of head scores.

    Args:
        scores: What to show.
        chosen: Heads to outline.
        title: Default: what was measured, on which model.

    Returns:
        A figure with one `go.Heatmap` (hover: head, score with its standard deviation over pairs and 95 % interval,
        rank, and whether it is only an estimate) and, with chosen heads, one path shape around their cells.

    Raises:
        ValueError: A chosen head has no score.
    """
    chosen = chosen or HeadSet()
    odd = [str(h) for h in chosen if h.layer >= scores.n_layers or h.head >= scores.n_heads]
    if odd:
        raise ValueError(
            f"{', '.join(odd)} cannot be outlined: the scores are {scores.n_layers} layers x {scores.n_heads} heads"
        )
    limit = colour_limit(scores)
    columns = scores.std.tolist(), scores.ranks().tolist(), notes(scores)
    about = [[list(cell) for cell in zip(*layer, strict=True)] for layer in zip(*columns, strict=True)]
    figure = go.Figure(
        go.Heatmap(
            z=scores.values.tolist(),
            x=list(range(scores.n_heads)),
            y=list(range(scores.n_layers)),
            customdata=about,
            colorscale=SCALE,
            zmid=0,
            zmin=-limit,
            zmax=limit,
            xgap=1,
            ygap=1,
            colorbar={"title": {"text": "score"}},
            hovertemplate="<b>L%{y}.H%{x}</b><br>score %{z:.4f} (std %{customdata[0]:.4f})"
            f"%{{customdata[2]}}<br>rank %{{customdata[1]}} of {scores.values.numel()}<extra></extra>",
        )
    )
    figure.update_layout(
        # Small enough that the default title fits a notebook's width.
        title={"text": describe(scores) if title is None else escape(title), "font": {"size": 13}},
        template="plotly_white",
        width=max(420, 190 + 30 * scores.n_heads),
        height=max(260, 150 + 30 * scores.n_layers),
        margin={"l": 60, "r": 20, "t": 60, "b": 50},
    )
    figure.update_xaxes(title="head", dtick=1, showgrid=False, zeroline=False, constrain="domain")
    figure.update_yaxes(title="layer", dtick=1, autorange="reversed", showgrid=False, zeroline=False)
    if chosen:
        figure.add_shape(
            type="path", path=outline(chosen), xref="x", yref="y", line={"color": "black", "width": 2.5}, name="chosen"
        )
    return figure


def head_table(scores: HeadScores, chosen: HeadSet | None = None) -> str:
    """The same map as a plain HTML table: no script, so that it shows in any viewer. Hover for score and rank."""
    chosen = chosen or HeadSet()
    limit = colour_limit(scores)
    ranks = scores.ranks()
    rows = []
    for layer in range(scores.n_layers):
        cells = []
        for head in range(scores.n_heads):
            value = float(scores.values[layer, head])
            estimate = "" if scores.measured[layer, head] else ", estimate"
            edge = "2px solid black" if (layer, head) in chosen else "2px solid transparent"
            cells.append(
                f'<td title="L{layer}.H{head}: {value:.4f}, rank {int(ranks[layer, head])}{estimate}" '
                f'style="width:18px;height:18px;padding:0;border:{edge};background:{colour(value / limit)}"></td>'
            )
        rows.append(f'<tr><th style="font-weight:normal">{layer}</th>{"".join(cells)}</tr>')
    heads = "".join(f'<th style="font-weight:normal;text-align:center">{head}</th>' for head in range(scores.n_heads))
    best = ", ".join(f"{h} {scores[h]:+.3f}" for h in scores.top(min(5, scores.values.numel())))
    return (
        f'<div><p>{describe(scores)}<br>best: {best}</p><table style="border-collapse:separate;border-spacing:1px">'
        f"<tr><th></th>{heads}</tr>{''.join(rows)}</table><p>layers down, heads across; "
        f'<span style="color:{SCALE[0][1]}">-{limit:.3g}</span> to '
        f'<span style="color:{SCALE[-1][1]}">+{limit:.3g}</span></p></div>'
    )


def colour(share: float) -> str:
    """The scale's colour at a share of the limit, -1 to 1 (beyond: the end colour), as `rgb(r,g,b)`."""
    at = (max(-1.0, min(1.0, share)) + 1) / 2
    for (low, from_), (high, to) in zip(SCALE, SCALE[1:], strict=False):
        if at <= high:
            part = (at - low) / (high - low)
            mixed = (round(a + (b - a) * part) for a, b in zip(_rgb(from_), _rgb(to), strict=True))
            return f"rgb({','.join(map(str, mixed))})"
    raise AssertionError("the scale ends at 1")


def _rgb(code: str) -> tuple[int, ...]:
    return tuple(int(code[i : i + 2], 16) for i in (1, 3, 5))
