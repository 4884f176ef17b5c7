"""What the figures share: colours, markers, axes, and the check of a table's columns.

The colours are Okabe and Ito's, which stay apart for colour-blind readers; each line also has its own marker or dash.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pandas as pd
import plotly.graph_objects as go

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("circle", "square", "diamond", "triangle-up", "x", "cross", "star")
GREY = "#8A8A8A"


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


def styled(figure: go.Figure, title: Any, x: Any, y: Any, **more: Any) -> go.Figure:
    """The figure with the look of all: white, the legend below. Titles and more are as Plotly takes them."""
    figure.update_layout(
        template="plotly_white",
        title=title,
        xaxis_title=x,
        yaxis_title=y,
        legend={"orientation": "h", "y": -0.22},
        margin={"l": 60, "r": 20, "t": 50 if title else 20, "b": 60},
        height=400,
    )
    return figure.update_layout(**more)


def whiskers(up: Any, down: Any) -> dict[str, Any]:
    """Error bars that reach so far up and down."""
    return {"type": "data", "array": up, "arrayminus": down, "thickness": 1.2, "width": 3}


def rgb(colour: str) -> tuple[int, ...]:
    """Red, green and blue, 0 to 255, of a colour such as "#0072B2"."""
    return tuple(int(colour[i : i + 2], 16) for i in (1, 3, 5))
