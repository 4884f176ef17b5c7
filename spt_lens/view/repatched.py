"""The figure of heads' effects before and after tuning."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

import pandas as pd
import plotly.graph_objects as go

from spt_lens.view.style import COLOURS, GREY, in_lines, require, styled

WIDE, HIGH = 550, 390  # pixels of the plot itself, about
LETTER, LINE = 6, 13  # pixels of a name
# Where a name stands beside its point, the first that is free: pixels from the point to the name's middle.
PLACES = {"top center": (0, 12), "bottom center": (0, -12), "middle right": (1, 0), "middle left": (-1, 0)}
PLACES |= {"top right": (1, 12), "top left": (-1, 12), "bottom right": (1, -12), "bottom left": (-1, -12)}


def repatched_figure(table: pd.DataFrame, named: Sequence[str], title: str) -> go.Figure:
    """A point for each head: its effect before tuning across, after it up, in logits. On the dotted line nothing has
    changed; towards the middle of the height the effect has shrunk.

    table: `Repatched.table`. named: heads whose names stand beside their points, the first ones first; one that would
    lie on another name or on points has none. title: its first line, then smaller ones. Raises: ValueError for a
    missing column or an empty table.
    """
    require(table, ("name", "set", "before", "after", "change", "low", "high"), "figure of effects before and after")
    every = [*table["before"], *table["after"]]
    ends = [min(every), max(every)]
    places = name_places(table, named)
    figure = go.Figure()
    dots = {"dash": "dot", "color": GREY}
    figure.add_scatter(x=ends, y=ends, mode="lines", line=dots, name="no change", hoverinfo="skip")
    looks = {
        "other": ("all others", GREY, "circle", 5),
        "tuned": ("tuned, not chosen", COLOURS[2], "diamond", 9),
        "chosen": ("chosen", COLOURS[1], "square", 9),
    }
    for which, (label, colour, marker, size) in looks.items():
        heads = table[table["set"] == which]
        if heads.empty:
            continue
        names = heads["name"].tolist()
        figure.add_scatter(
            x=heads["before"].tolist(),
            y=heads["after"].tolist(),
            mode="markers+text",
            text=[escape(name) if name in places else "" for name in names],
            textposition=[places.get(name, "top center") for name in names],
            textfont={"size": 10},
            marker={"color": colour, "symbol": marker, "size": size, "line": {"width": 0.5, "color": "white"}},
            name=label,
            customdata=heads[["name", "change", "low", "high"]].to_numpy().tolist(),
            hovertemplate="<b>%{customdata[0]}</b><br>before %{x:.4f}, after %{y:.4f}<br>change %{customdata[1]:+.4f} "
            "[%{customdata[2]:+.4f}, %{customdata[3]:+.4f}]<extra></extra>",
        )
    wide = {"width": 640, "height": 560, "margin_l": 70, "legend_y": -0.16}
    return styled(figure, in_lines(title, 90), "effect before (logits)", "effect after (logits)", **wide)


def name_places(table: pd.DataFrame, named: Iterable[str]) -> dict[str, str]:
    """Where each name stands, as plotly says it: where it lies on no other name and on no point, else nowhere."""
    # The line reaches over all effects, so that both axes do.
    every = [*table["before"], *table["after"]]
    span = (max(every) - min(every)) or 1.0
    points = {
        name: (WIDE * before / span, HIGH * after / span)
        for name, before, after in zip(table["name"], table["before"], table["after"], strict=True)
    }
    found: dict[str, str] = {}
    taken: list[tuple[float, float, float]] = []  # middle and half the width of each name
    for name in named:
        half = LETTER * len(name) / 2
        for place, (side, up) in PLACES.items():
            x, y = points[name][0] + side * (half + 8), points[name][1] + up
            on_point = any(
                abs(x - a) < half + 4 and abs(y - b) < LINE / 2 + 4 for key, (a, b) in points.items() if key != name
            )
            on_name = any(abs(x - a) < half + other and abs(y - b) < LINE for a, b, other in taken)
            if not on_point and not on_name:
                found[name] = place
                taken.append((x, y, half))
                break
    return found
