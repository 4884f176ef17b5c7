"""Figures of rankings side by side: what their best heads reach, or bring back, over how many there are."""

from __future__ import annotations

import math
from collections.abc import Iterator
from html import escape
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from spt_lens.view.style import COLOURS, GREY, INK, MARKERS, readable, require, styled, whiskers

_DASHES = ("solid", "dash")  # of the second round through the colours
_BAND = "rgba(138,138,138,0.2)"


def reached_figure(table: pd.DataFrame, metric: str, untuned: float, title: str | None = None) -> go.Figure:
    """A line for each ranking over the share of heads that were tuned; grey: the least to the most that layer-matched
    random heads reach, of all rankings together, and the median; open: the sham's heads; dotted: the untuned model.

    table: `Rankings.reached(metric)`. Raises: ValueError for a missing column or an empty table.
    """
    columns = ("ranking", "share", "value", "random_median", "random_min", "random_max", "sham")
    require(table, columns, "figure of rankings")
    figure = go.Figure()
    drawn = table.dropna(subset="random_median").groupby("share")
    if len(drawn):
        shares = list(drawn["random_median"].median().index)
        band: dict[str, Any] = {"x": shares, "mode": "lines", "line": {"width": 0}, "hoverinfo": "skip"}
        band |= {"showlegend": False, "legendgroup": "random"}
        figure.add_scatter(y=drawn["random_min"].min(), **band)
        figure.add_scatter(y=drawn["random_max"].max(), fill="tonexty", fillcolor=_BAND, **band)
        middle = drawn["random_median"].median()
        look: dict[str, Any] = {"mode": "lines", "line": {"color": GREY, "dash": "dot", "width": 2}}
        if len(shares) == 1:  # no band
            ends = drawn["random_max"].max() - middle, middle - drawn["random_min"].min()
            look = {"mode": "markers", "marker": {"color": GREY, "size": 9}, "error_y": whiskers(*ends)}
        name = "random heads of the same layers"
        figure.add_scatter(x=shares, y=middle, name=name, legendgroup="random", **look)
    for name, rows, colour, marker, dash in _each(table):
        hover = f"{escape(name)}<br>%{{x:.1%}} of heads<br>{readable(metric)} %{{y:.3f}}"
        look = {"line": {"color": colour, "dash": dash}, "marker": {"symbol": marker, "size": 8}}
        look |= {"legendgroup": name, "hovertemplate": f"{hover}<extra></extra>"}
        figure.add_scatter(x=rows["share"], y=rows["value"], mode="lines+markers", name=escape(name), **look)
        sham = rows.dropna(subset="sham")
        if len(sham):
            ring = {"symbol": f"{marker}-open", "size": 10, "color": colour, "line": {"width": 2}}
            if marker in ("x", "cross"):  # which are filled by nothing
                ring["symbol"] = f"{marker}-thin-open"
            more = {"showlegend": False, "legendgroup": name, "hovertemplate": f"sham of {hover}<extra></extra>"}
            figure.add_scatter(x=sham["share"], y=sham["sham"], mode="markers", marker=ring, **more)
    if math.isfinite(untuned):
        figure.add_hline(y=untuned, line={"color": INK, "dash": "dot", "width": 1}, annotation_text="untuned")
    styled(figure, title and escape(title), "share of heads that are tuned (open: the sham's heads)", readable(metric))
    return _over_shares(figure, sorted(table["share"].unique()))


def faithfulness_figure(table: pd.DataFrame, title: str | None = None) -> go.Figure:
    """A line for each ranking: the faithfulness of its best heads over their share of all heads.

    table: `Rankings.curve`. Raises: ValueError for a missing column or an empty table.
    """
    require(table, ("ranking", "share", "faithfulness"), "figure of faithfulness")
    figure = go.Figure()
    for name, rows, colour, marker, dash in _each(table[table["share"] > 0]):
        look: dict[str, Any] = {"line": {"color": colour, "dash": dash}, "marker": {"symbol": marker, "size": 7}}
        figure.add_scatter(x=rows["share"], y=rows["faithfulness"], mode="lines+markers", name=escape(name), **look)
    across = "share of heads that are patched in, best first"
    styled(figure, title and escape(title), across, "faithfulness: the part of what all heads bring back")
    return _over_shares(figure, [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0])


def _each(table: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame, str, str, str]]:
    """Each ranking with a colour, a marker and a dash, no two alike."""
    for i, (name, rows) in enumerate(table.groupby("ranking", sort=False)):
        n = len(COLOURS)
        yield str(name), rows.sort_values("share"), COLOURS[i % n], MARKERS[i % n], _DASHES[i // n % 2]


def _over_shares(figure: go.Figure, ticks: list[float]) -> go.Figure:
    figure.update_layout(height=520, legend_y=-0.18)
    return figure.update_xaxes(type="log", tickvals=ticks, ticktext=[f"{share:.3g}" for share in ticks])
