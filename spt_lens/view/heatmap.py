"""The map of heads: layers down, heads across, colour for the score (`scale.py`).

A head whose interval holds 0 fills only the middle of its cell: the eye passes over what may be nothing, on any page
and without any colour of its own. A recovery above 1, more than there was to recover, has a triangle.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any

import plotly.graph_objects as go
from jaxtyping import Float, Int
from torch import Tensor

from spt_lens.heads import Head
from spt_lens.view.scale import TILE, Meaning, limits, number, ticks
from spt_lens.view.style import LINE, TEMPLATE, TOP, in_lines, placed_title

MIDDLE = 0.5  # of a cell's width and height, where its head is uncertain
_PLAIN = Meaning()


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
    meaning: Meaning = _PLAIN,
) -> go.Figure:
    """The interactive heatmap; hovering tells a head's score, std over pairs, rank and note (HTML, by layer and head).

    title: its first line, then smaller ones. Where colours clip, buttons let them reach the largest score instead.

    Raises: ValueError if an outlined head has no score.
    """
    n_layers, n_heads = values.shape
    if odd := [str(Head(*head)) for head in outlined if head[0] >= n_layers or head[1] >= n_heads]:
        raise ValueError(f"{', '.join(odd)} cannot be outlined: the scores are {n_layers} layers x {n_heads} heads")
    wide, high = max(9, min(30, 960 // n_heads)), max(8, min(30, 960 // n_layers))
    width = max(420, 190 + wide * n_heads)
    title = in_lines(title, width // 6)
    said = meaning.lines(values)
    below = in_lines("\n".join(["head", *said]), width // 8)
    limit, most = limits(values)
    top = TOP + LINE * title.count("<br>") + (36 if most > limit else 0)
    bottom = 50 + LINE * below.count("<br>")
    height = max(200, 40 + high * n_layers) + top + bottom
    cells = (width - 190) / n_heads, (height - top - bottom) / n_layers
    figure = go.Figure(_heat(values, std, ranks, notes, meaning, cells))
    if meaning.more is not None and bool(meaning.more.any()):
        layers, heads = meaning.more.nonzero(as_tuple=True)
        look = {"symbol": "triangle-up", "size": 9, "color": "white", "line": {"color": "black", "width": 1}}
        marks = {"mode": "markers", "marker": look, "hoverinfo": "skip", "showlegend": False, "name": "above 1"}
        figure.add_scatter(x=heads.tolist(), y=layers.tolist(), **marks)
    figure.update_layout(
        title=placed_title(title),
        template=TEMPLATE,
        plot_bgcolor=f"rgba(127,127,127,{TILE})",
        modebar_remove=["zoom", "pan", "zoomin", "zoomout", "autoscale", "resetscale", "lasso2d", "select2d"],
        width=width,
        height=height,
        margin={"l": 60, "r": 20, "t": top, "b": bottom},
    )
    # Each cell can be seen as it is: a zoom would leave the marks' sizes behind.
    axis = {"showgrid": False, "zeroline": False, "fixedrange": True}
    # Room for the outline of a head at the edge.
    x, y = 0.5 + min(0.3, 3 / wide), 0.5 + min(0.3, 3 / high)
    figure.update_xaxes(title=below, range=[-x, n_heads - 1 + x], dtick=_step(wide, 20), **axis)
    figure.update_yaxes(title="layer", range=[n_layers - 1 + y, -y], dtick=_step(high, 14), **axis)
    if most > limit:
        # What is first said below then is what lies beyond the colours.
        texts = [below, in_lines("\n".join(["head", *said[1:]]), width // 8)]
        figure.update_layout(updatemenus=[_reach(values, meaning, (limit, most), texts)])
    for colour, thick in (("white", 4.5), ("black", 2.5)) if outlined else ():
        line = {"color": colour, "width": thick}
        figure.add_shape(type="path", path=outline(outlined), xref="x", yref="y", line=line, name="chosen")
    return figure


def _heat(
    values: Float[Tensor, "n_layers n_heads"],
    std: Float[Tensor, "n_layers n_heads"],
    ranks: Int[Tensor, "n_layers n_heads"],
    notes: Sequence[Sequence[str]],
    meaning: Meaning,
    cells: tuple[float, float],
) -> list[go.Heatmap]:
    """All heads, with what hovering tells; where some are uncertain, unseen, and drawn in two parts above: the small
    and the whole ones, of which none lies on another. cells: width and height in pixels."""
    limit = limits(values)[0]
    rows = zip(std.tolist(), ranks.tolist(), notes, strict=True)
    shared: dict[str, Any] = {"x": list(range(values.shape[1])), "y": list(range(values.shape[0]))}
    shared |= {"colorscale": meaning.scale(), "zmin": 0 if meaning.one_sided else -limit, "zmax": limit}
    uncertain = meaning.uncertain if meaning.uncertain is not None and bool(meaning.uncertain.any()) else None
    every = go.Heatmap(
        z=values.tolist(),
        customdata=[[list(cell) for cell in zip(*row, strict=True)] for row in rows],
        xgap=1,
        ygap=1,
        opacity=1 if uncertain is None else 0,
        colorbar={
            "title": {"text": meaning.quantity, "side": "right"},
            "thickness": 14,
            "outlinewidth": 0,
            **ticks(values, limit, meaning.one_sided),
        },
        hovertemplate=f"<b>L%{{y}}.H%{{x}}</b><br>{meaning.quantity} %{{z:.4f}} (std %{{customdata[0]:.4f}})"
        f"%{{customdata[2]}}<br>rank %{{customdata[1]}} of {values.numel()}<extra></extra>",
        **shared,
    )
    if uncertain is None:
        return [every]
    parts = []
    for small in (True, False):
        both = zip(values.tolist(), uncertain.tolist(), strict=True)
        z = [[value if which == small else None for value, which in zip(*row, strict=True)] for row in both]
        gaps = [size * (1 - MIDDLE) if small else 1 for size in cells]
        name = "interval holds 0" if small else "others"
        look = {"hoverinfo": "skip", "showscale": False, "name": name}
        parts.append(go.Heatmap(z=z, xgap=gaps[0], ygap=gaps[1], **look, **shared))
    return [every, *parts]


def _reach(
    values: Float[Tensor, "n_layers n_heads"], meaning: Meaning, ends: tuple[float, float], texts: Sequence[str]
) -> dict[str, Any]:
    """The buttons that say where colours end: at the first of these or at the second, with what is said below then."""
    buttons = []
    names = "colours to the 99th percentile", f"to the largest ({number(ends[1])})"
    for end, name, text in zip(ends, names, texts, strict=True):
        numbers = ticks(values, end, meaning.one_sided)
        bar = {f"colorbar.{key}": [each] for key, each in numbers.items()}
        change = {"zmin": 0 if meaning.one_sided else -end, "zmax": end, **bar}
        buttons.append({"label": name, "method": "update", "args": [change, {"xaxis.title.text": text}]})
    look = {"bgcolor": "rgba(127,127,127,0.15)", "bordercolor": "rgba(127,127,127,0.4)", "font": {"size": 11}}
    place = {"x": 0, "xanchor": "left", "y": 1, "yanchor": "bottom", "pad": {"b": 4, "t": 0, "l": 0, "r": 0}}
    return {"type": "buttons", "direction": "right", "buttons": buttons, "showactive": False, **look, **place}


def _step(space: float, least: float) -> int:
    """Every how many heads or layers an axis has a number."""
    return next((step for step in (1, 2, 4, 5, 8, 10, 16, 20, 32) if step * space >= least), 64)


def head_table(
    values: Float[Tensor, "n_layers n_heads"],
    ranks: Int[Tensor, "n_layers n_heads"],
    notes: Sequence[Sequence[str]],
    text: str = "",
    outlined: Collection[tuple[int, int]] = (),
    meaning: Meaning = _PLAIN,
) -> str:
    """The same map as a plain HTML table: no script, so that it shows in any viewer. Hover for score, rank and note.

    Its colours are seen through, and lines are those of the page's text: it fits a light page and a dark one.
    """
    n_layers, n_heads = values.shape
    limit = limits(values)[0]
    rows = []
    for layer in range(n_layers):
        cells = []
        for head in range(n_heads):
            value = float(values[layer, head])
            edge = "currentColor" if (layer, head) in outlined else "transparent"
            room = 5 if meaning.is_uncertain(layer, head) else 1  # between the colour and the line around the cell
            mark = '<b style="color:#fff;text-shadow:0 0 2px #000">▲</b>' if meaning.is_more(layer, head) else ""
            cells.append(
                f'<td title="{Head(layer, head)}: {value:.4f}, rank {int(ranks[layer, head])}{notes[layer][head]}" '
                f'style="{_square(18 - 2 * room, room)};border:2px solid {edge};'
                f'background:{meaning.colour(value / limit)} content-box">{mark}</td>'
            )
        rows.append(f'<tr><th style="font-weight:normal">{layer}</th>{"".join(cells)}</tr>')
    heads = "".join(f'<th style="font-weight:normal;text-align:center">{head}</th>' for head in range(n_heads))
    first = [Head(*divmod(i, n_heads)) for i in ranks.flatten().argsort()[:5].tolist()]
    best = ", ".join(f"{head} {float(values[head]):+.3f}" for head in first)
    ends = [number(end) for end in ((0.0, limit) if meaning.one_sided else (-limit, limit))]
    sides = zip((0.0 if meaning.one_sided else -1.0, 1.0), ends, strict=True)
    bar = " to ".join(f'{end} <span style="background:{meaning.colour(side)}">&emsp;</span>' for side, end in sides)
    said = "".join(f"; {each}" for each in meaning.lines(values))
    return (
        f"<div><p>{in_lines(text)}<br>best: {best}</p>"
        '<table style="border-collapse:separate;border-spacing:1px;background:rgba(127,127,127,0.12)">'
        f"<tr><th></th>{heads}</tr>{''.join(rows)}</table><p>layers down, heads across; {meaning.quantity} "
        f"{bar}{said}</p></div>"
    )


def _square(size: int, room: int) -> str:
    return f"width:{size}px;height:{size}px;padding:{room}px;font-size:9px;line-height:1"
