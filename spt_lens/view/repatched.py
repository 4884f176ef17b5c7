"""The figure of heads' effects before and after tuning."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import pandas as pd
import plotly.graph_objects as go

from spt_lens.view.style import COLOURS, GREY, in_lines, require, styled


def repatched_figure(table: pd.DataFrame, named: Sequence[str], title: str) -> go.Figure:
    """A point for each head: its effect before tuning across, after it up, in logits. On the dotted line nothing has
    changed; towards the middle of the height the effect has shrunk.

    table: `Repatched.table`. named: heads whose names stand beside their points. title: its first line, then smaller
    ones. Raises: ValueError for a missing column or an empty table.
    """
    require(table, ("name", "set", "before", "after", "change", "low", "high"), "figure of effects before and after")
    every = [*table["before"], *table["after"]]
    ends = [min(every), max(every)]
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
            text=[escape(name) if name in named else "" for name in names],
            textposition="top center",
            textfont={"size": 10},
            marker={"color": colour, "symbol": marker, "size": size, "line": {"width": 0.5, "color": "white"}},
            name=label,
            customdata=heads[["name", "change", "low", "high"]].to_numpy().tolist(),
            hovertemplate="<b>%{customdata[0]}</b><br>before %{x:.4f}, after %{y:.4f}<br>change %{customdata[1]:+.4f} "
            "[%{customdata[2]:+.4f}, %{customdata[3]:+.4f}]<extra></extra>",
        )
    wide = {"width": 640, "height": 560, "margin_l": 70, "legend_y": -0.16}
    return styled(figure, in_lines(title, 90), "effect before (logits)", "effect after (logits)", **wide)
