"""Figures of what sets of heads do: curves over how many there are, and bars beside random sets."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
import plotly.graph_objects as go

from spt_lens.view.style import COLOURS, GREY, MARKERS, require, rgb, styled, whiskers


def curve_figure(table: pd.DataFrame, metrics: Mapping[str, str], x: str, title: str | None = None) -> go.Figure:
    """A line for each metric over the size of the chosen sets, and a band of the random sets, their median dashed.

    table: the columns `size`, `set` ("chosen" or "random") and the metrics, as `SetEffect` has them. metrics: what
    these columns are called. title: HTML. Raises: ValueError for a missing column or an empty table.
    """
    require(table, ("size", "set", *metrics), "curve of sets")
    figure = go.Figure()
    chosen, random = (table[table["set"] == which] for which in ("chosen", "random"))
    for (metric, name), colour, marker in zip(metrics.items(), COLOURS, MARKERS, strict=False):
        if len(random):
            draws = random.groupby("size")[metric]
            sizes = list(draws.median().index)
            band = {"x": sizes, "mode": "lines", "legendgroup": metric, "hoverinfo": "skip", "showlegend": False}
            shade = f"rgba({','.join(map(str, rgb(colour)))},0.15)"
            figure.add_scatter(y=draws.min(), line={"width": 0}, **band)
            figure.add_scatter(y=draws.max(), line={"width": 0}, fill="tonexty", fillcolor=shade, **band)
            dots = {"mode": "lines", "line": {"dash": "dot", "color": colour, "width": 1.5}, "legendgroup": metric}
            figure.add_scatter(x=sizes, y=draws.median(), name=f"{name}, random heads", **dots)
        look = {"mode": "lines+markers", "line": {"color": colour}, "marker": {"symbol": marker, "size": 8}}
        figure.add_scatter(x=chosen["size"], y=chosen[metric], name=name, legendgroup=metric, **look)
    return _shares(figure, table, metrics, title, x)


def bars_figure(table: pd.DataFrame, metrics: Mapping[str, str], x: str, title: str | None = None) -> go.Figure:
    """Bars of each metric for the model as it is and for the chosen set, with a dot for each random set.

    With the columns `low` and `high` the recovery has its interval. The rest is as in curve_figure.
    """
    require(table, ("size", "set", *metrics), "bars of a set")
    figure = go.Figure()
    names = list(metrics.values())
    before, chosen = table[table["size"] == 0].iloc[0], table[(table["set"] == "chosen") & (table["size"] > 0)].iloc[0]
    figure.add_bar(x=names, y=[before[metric] for metric in metrics], marker_color=GREY, name="as it is")
    figure.add_bar(x=names, y=[chosen[metric] for metric in metrics], marker_color=COLOURS[0], name="chosen")
    if {"low", "high", "recovery"} <= set(table):
        ends = (chosen["high"] - chosen["recovery"], chosen["recovery"] - chosen["low"])
        each = ([end if metric == "recovery" else None for metric in metrics] for end in ends)
        figure.data[-1].error_y = whiskers(*each)
    random = table[table["set"] == "random"]
    if len(random):
        figure.add_scatter(
            x=[name for name in names for _ in range(len(random))],
            y=[value for metric in metrics for value in random[metric]],
            mode="markers",
            marker={"color": COLOURS[1], "symbol": MARKERS[4], "size": 8},
            name="random sets",
        )
    figure.update_layout(barmode="group")
    return _shares(figure, table, metrics, title, x)


def _shares(figure: go.Figure, table: pd.DataFrame, metrics: Mapping[str, str], title: str | None, x: str) -> go.Figure:
    # A recovery is no share of cases: it may be above 1 or below 0.
    drawn = [*metrics, *(end for end in ("low", "high") if "recovery" in metrics and end in table)]
    values = table[drawn].to_numpy(dtype=float)
    low, high = (values[values == values].min(), values[values == values].max()) if len(metrics) else (0, 1)
    ends = [min(-0.03, float(low) - 0.03), max(1.03, float(high) + 0.03)]
    return styled(figure, title, x, "share", yaxis_range=ends)
