"""Figures of what heads carry together, and of where one head looks."""

from __future__ import annotations

from html import escape

import pandas as pd
import plotly.graph_objects as go

from spt_lens.view.curves import COLOURS, GREY, knockout_figure


def recovery_figure(table: pd.DataFrame, title: str | None = None) -> go.Figure:
    """What comes back as heads are patched in together in rank order, against random heads as a band.

    Args:
        table: the columns `k`, `order`, `draw`, `recovery` and `apology_rate`, as RecoveryCurve has them.
        title: of the figure.

    Raises:
        ValueError: a column is missing or the table is empty.
    """
    figure = knockout_figure(table, metrics=("recovery", "apology_rate"), title=title)
    figure.update_layout(xaxis_title="heads patched in together", yaxis_title="share of the gap, or of the pairs")
    # A recovery is no share of cases: it may be above 1 or below 0.
    values = table[["recovery", "apology_rate"]].to_numpy()
    figure.update_yaxes(range=[min(-0.03, float(values.min()) - 0.03), max(1.03, float(values.max()) + 0.03)])
    return figure


def attention_figure(table: pd.DataFrame, title: str | None = None) -> go.Figure:
    """A head's attention to each span of the prompt, in both runs, beside the mean of the other heads.

    Args:
        table: one row for each span, with the columns `span`, and `sycophantic`, `truthful` (attention in the two runs)
            and `sycophantic_others`, `truthful_others` (the other heads' mean), each from 0 to 1.
        title: of the figure; its text stays text, whatever marks it has.

    Raises:
        ValueError: a column is missing or the table is empty.
    """
    missing = [column for column in ("span", *_BARS) if column not in table]
    if missing or table.empty:
        what = f"the table has no column {', '.join(missing)}" if missing else "the table has no rows"
        raise ValueError(f"attention figure: {what}")
    figure = go.Figure()
    for column, (name, colour, pattern) in _BARS.items():
        marker = {"color": colour, "pattern": {"shape": pattern}}
        figure.add_bar(x=table["span"].map(escape), y=table[column], name=name, marker=marker)
    figure.update_layout(
        template="plotly_white",
        title=None if title is None else {"text": escape(title), "font": {"size": 13}},
        barmode="group",
        yaxis_title="attention from the last position",
        legend={"orientation": "h", "y": -0.22},
        margin={"l": 60, "r": 20, "t": 50 if title else 20, "b": 60},
        height=400,
    )
    figure.update_yaxes(range=[0, 1.02])
    return figure


# Each bar also has its own pattern, for readers who see no colours.
_BARS = {
    "sycophantic": ("sycophantic run", COLOURS[1], ""),
    "truthful": ("truthful run", COLOURS[0], "/"),
    "sycophantic_others": ("other heads, sycophantic run", GREY, ""),
    "truthful_others": ("other heads, truthful run", "#C4C4C4", "/"),
}
