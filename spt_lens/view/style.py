"""What the figures share: colours, markers, axes, titles, and the check of a table's columns.

A figure is drawn on whatever is behind it, white or nearly black: it has no background of its own, its texts and lines
are of a middle grey, and no colour is too light for the one or too dark for the other (3:1 to both at least). Of one
ink for both, 4.3:1 is all that there is to be had; a report's page sets its own over it.
"""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from textwrap import wrap
from typing import Any

import pandas as pd
import plotly.graph_objects as go

# Near Okabe and Ito's, which stay apart for colour-blind readers, the light ones darker; each line also has its own
# marker or dash.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#C46A9B", "#B58200", "#3F93C9", "#7F7F7F")
MARKERS = ("circle", "square", "diamond", "triangle-up", "x", "cross", "star")
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot", "solid")
GREY = "#8A8A8A"
INK = "#797979"
CLEAR = "rgba(0,0,0,0)"
FAINT = "rgba(127,127,127,0.25)"
LINE = 17  # pixels of a line of a title
TOP = 60  # pixels above a plot with a title of one line: the buttons, then the title

_AXIS = {"gridcolor": FAINT, "zerolinecolor": "rgba(127,127,127,0.55)", "linecolor": FAINT, "automargin": True}
TEMPLATE: dict[str, Any] = {
    "layout": {
        "paper_bgcolor": CLEAR,
        "plot_bgcolor": CLEAR,
        "font": {"color": INK},
        "colorway": COLOURS,
        "xaxis": _AXIS,
        "yaxis": _AXIS,
        "legend": {"bgcolor": CLEAR},
        # Plotly's own buttons, which appear under the pointer: nothing behind them, and not those that need explaining.
        "modebar": {"bgcolor": CLEAR, "color": INK, "activecolor": COLOURS[0], "remove": ["lasso2d", "select2d"]},
    }
}


def readable(name: str) -> str:
    """A column's name as a reader sees it: "self_correction" becomes "self correction"."""
    return name.replace("_", " ")


def require(table: pd.DataFrame, columns: Iterable[str], what: str) -> None:
    """Raises ValueError if the table of a figure (`what`) has no rows, or lacks a column."""
    missing = [column for column in columns if column not in table.columns]
    if missing:
        present = ", ".join(map(str, table.columns))
        raise ValueError(f"{what}: the table has no column {', '.join(missing)}; it has {present}")
    if table.empty:
        raise ValueError(f"{what}: the table has no rows")


def styled(figure: go.Figure, title: str | dict[str, Any] | None, x: Any, y: Any, **more: Any) -> go.Figure:
    """The figure with the look of all: the legend below, the title (HTML) below Plotly's buttons. more: as it takes."""
    title = title["text"] if isinstance(title, dict) else title
    lines = LINE * title.count("<br>") if title else 0
    figure.update_layout(
        template=TEMPLATE,
        title=placed_title(title) if title else None,
        xaxis_title=x,
        yaxis_title=y,
        legend={"orientation": "h", "y": -0.22},
        margin={"l": 60, "r": 20, "t": TOP + 10 + lines if title else 20, "b": 60},
        height=400 + lines,
    )
    return figure.update_layout(**more)


def in_lines(text: str, width: int = 1000) -> str:
    """Text as HTML that plotly's titles take too: lines of at most so many letters, small after the first."""
    first, *more = text.split("\n")
    large = [escape(part) for part in wrap(first, width * 11 // 13)] or [""]
    small = [f'<span style="font-size:11px">{escape(part)}</span>' for line in more for part in wrap(line, width)]
    return "<br>".join(large + small)


def placed_title(text: str) -> dict[str, Any]:
    """A figure's title (HTML) below plotly's buttons, small enough that a line fits a notebook's width; its lines end
    above a top margin of TOP and LINE for each line after the first."""
    return {"text": text, "font": {"size": 13}, "y": 1, "yref": "container", "yanchor": "top", "pad": {"t": 40}}


def whiskers(up: Any, down: Any) -> dict[str, Any]:
    """Error bars that reach so far up and down."""
    return {"type": "data", "array": up, "arrayminus": down, "thickness": 1.2, "width": 3, "color": GREY}


def rgb(colour: str) -> tuple[int, ...]:
    """Red, green and blue, 0 to 255, of a colour such as "#0072B2"."""
    return tuple(int(colour[i : i + 2], 16) for i in (1, 3, 5))
