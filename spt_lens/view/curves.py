"""Figures of curves and bars: knockout, training, the frontier of a comparison, before and after.

Every function takes a pandas table and returns a `go.Figure`. Nothing is shown and nothing is written.
Colours are Okabe and Ito's, which stay apart for colour-blind readers; each line also has its own marker or dash.

Figures of what heads carry together, and of where one head looks.

The figure of two scores of the same heads, one against the other.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape

import pandas as pd
import plotly.graph_objects as go

from spt_lens.scores.agreement import ScoreComparison

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("circle", "square", "diamond", "triangle-up", "x", "cross", "star")
GREY = "#8A8A8A"


def readable(name: str) -> str:
    """A column's name as a reader sees it: "apology_rate" becomes "apology rate"."""
    return name.replace("_", " ")


def _require(table: pd.DataFrame, columns: Iterable[str], what: str) -> None:
    missing = [column for column in columns if column not in table.columns]
    if missing:
        present = ", ".join(map(str, table.columns))
        raise ValueError(f"{what}: the table has no column {', '.join(missing)}; it has {present}")
    if table.empty:
        raise ValueError(f"{what}: the table has no rows")


def _styled(figure: go.Figure, title: str | None, x: str, y: str) -> go.Figure:
    figure.update_layout(
        template="plotly_white",
        title=title,
        xaxis_title=x,
        yaxis_title=y,
        legend={"orientation": "h", "y": -0.22},
        margin={"l": 60, "r": 20, "t": 50 if title else 20, "b": 60},
        height=400,
    )
    return figure


def _translucent(colour: str, opacity: float) -> str:
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{opacity})"


def knockout_figure(table: pd.DataFrame, metrics: Sequence[str] | None = None, title: str | None = None) -> go.Figure:
    """What happens as heads are removed, against random heads as a band.

    Args:
        table: one row for each number of heads and draw, with the columns `k` (heads removed), `order` ("ranked" or
            "random"), `draw` (which random draw) and one column for each metric, each a share from 0 to 1.
        metrics: the columns to draw; default: all but k, order, draw and any `*_low`, `*_high`.
        title: of the figure.

    Returns:
        One line for each metric (heads in rank order) and, where there are random draws, a band from the lowest to the
        highest draw with its median dashed.

    Raises:
        ValueError: a column is missing or the table is empty.
    """
    _require(table, ("k", "order"), "knockout figure")
    if metrics is None:
        known = ("k", "order", "draw", "n")
        metrics = [c for c in table.columns if c not in known and not str(c).endswith(("_low", "_high"))]
    _require(table, metrics, "knockout figure")
    figure = go.Figure()
    ranked = table[table["order"] == "ranked"].sort_values("k")
    random = table[table["order"] == "random"]
    for metric, colour, marker in zip(metrics, COLOURS, MARKERS, strict=False):
        name = readable(metric)
        if len(random):
            draws = random.groupby("k")[metric]
            k = list(draws.median().index)
            band = {"x": k, "mode": "lines", "legendgroup": metric, "hoverinfo": "skip", "showlegend": False}
            figure.add_scatter(y=draws.min(), line={"width": 0}, **band)
            shade = _translucent(colour, 0.15)
            figure.add_scatter(y=draws.max(), line={"width": 0}, fill="tonexty", fillcolor=shade, **band)
            figure.add_scatter(
                x=k,
                y=draws.median(),
                mode="lines",
                line={"dash": "dot", "color": colour, "width": 1.5},
                legendgroup=metric,
                name=f"{name}, random heads",
            )
        figure.add_scatter(
            x=ranked["k"],
            y=ranked[metric],
            mode="lines+markers",
            line={"color": colour},
            marker={"symbol": marker, "size": 8},
            legendgroup=metric,
            name=name,
        )
    figure.update_yaxes(range=[-0.03, 1.03])
    return _styled(figure, title, "heads removed", "share of the replies")


def training_figure(history: pd.DataFrame, title: str | None = None) -> go.Figure:
    """Losses (left axis) and the other validation figures of a training history (right axis), by step.

    Args:
        history: the columns `step` and `loss`, and any others, empty at steps that did not measure them. The step's own
            settings and costs (lr, grad_norm, seconds) are not drawn.
        title: of the figure.

    Raises:
        ValueError: a column is missing or the table is empty.
    """
    _require(history, ("step", "loss"), "training figure")
    figure = go.Figure()
    drawn = [c for c in history.select_dtypes("number").columns if c not in ("step", "lr", "grad_norm", "seconds")]
    losses = [c for c in drawn if str(c).endswith("loss") or c == "kl"]
    colours = iter((GREY, *COLOURS))
    for metric in [*losses, *(c for c in drawn if c not in losses)]:
        seen = history.dropna(subset=[metric])
        if not seen.empty:
            figure.add_scatter(
                x=seen["step"],
                y=seen[metric],
                yaxis="y" if metric in losses else "y2",
                mode="lines" if len(seen) > 40 else "lines+markers",
                line={"color": next(colours, GREY)},
                name=readable(str(metric)),
            )
    _styled(figure, title, "step", "nats per token")
    if any(trace.yaxis == "y2" for trace in figure.data):
        right = {"overlaying": "y", "side": "right", "showgrid": False, "title": "share", "tickformat": ".2f"}
        figure.update_layout(yaxis2=right, margin_r=60)
    return figure


def frontier_figure(
    table: pd.DataFrame, x: str = "kl", y: str = "discernment", log_x: bool = True, title: str | None = None
) -> go.Figure:
    """What each method reaches (y) at what cost (x), over its learning rates.

    Args:
        table: one row for each run: `method`, `lr`, the columns named by x and y, and optionally `chosen` (true on the
            rows of the learning rate that the validation split chose).
        x: the cost, for instance "kl" in nats; y: the gain, for instance "discernment".
        log_x: a logarithmic x axis; costs of zero or less are left out of it.
        title: of the figure.

    Returns:
        For each method: its runs as small points, a line through the median of each learning rate, and a black ring
        around the chosen one.

    Raises:
        ValueError: a column is missing or the table is empty.
    """
    _require(table, ("method", "lr", x, y), "frontier figure")
    if log_x:
        table = table[table[x] > 0]
    figure = go.Figure()
    for i, (method, runs) in enumerate(table.groupby("method", sort=False)):
        style = {"color": COLOURS[i % len(COLOURS)], "symbol": MARKERS[i % len(MARKERS)]}
        middle = runs.groupby("lr")[[x, y]].median().sort_values(x)
        hover = f"%{{customdata}}<br>{readable(x)} %{{x:.4g}}<br>{readable(y)} %{{y:.3f}}"
        shared = {"legendgroup": str(method), "hovertemplate": hover}
        figure.add_scatter(
            x=runs[x],
            y=runs[y],
            mode="markers",
            marker={**style, "size": 5, "opacity": 0.45},
            customdata=[f"{method}, lr {lr:g}" for lr in runs["lr"]],
            name=str(method),
            showlegend=False,
            **shared,
        )
        figure.add_scatter(
            x=middle[x],
            y=middle[y],
            mode="lines+markers",
            line={"color": style["color"]},
            marker={**style, "size": 9},
            customdata=[f"{method}, lr {lr:g}, median" for lr in middle.index],
            name=str(method),
            **shared,
        )
        if "chosen" in runs and runs["chosen"].any():
            chosen = runs[runs["chosen"].astype(bool)]
            figure.add_scatter(
                x=[chosen[x].median()],
                y=[chosen[y].median()],
                mode="markers",
                marker={"symbol": "circle-open", "size": 17, "color": "black", "line": {"width": 2}},
                name="chosen on the validation split",
                legendgroup="chosen",
                showlegend=not any(trace.legendgroup == "chosen" for trace in figure.data),
                hoverinfo="skip",
            )
    _styled(figure, title, _axis_name(x), readable(y))
    if log_x:
        figure.update_xaxes(type="log")
    return figure


def _axis_name(column: str) -> str:
    return "drift: next-token KL from the untuned model (nats)" if column in ("kl", "drift") else readable(column)


def before_after_figure(
    tables: Mapping[str, pd.DataFrame], metrics: Sequence[str] | None = None, title: str | None = None
) -> go.Figure:
    """Bars with intervals: the same metrics for several models.

    Args:
        tables: a name ("untuned", "SPT", ...) for each table, in the order of the bars. Each table has the columns
            `metric`, `value`, and, for the whiskers, `low` and `high`.
        metrics: which metrics, in order; default: those of the first table whose values lie between 0 and 1, without
            the drift "kl", which is no share.
        title: of the figure.

    Raises:
        ValueError: no tables, or a column or metric is missing.
    """
    if not tables:
        raise ValueError("before/after figure: there are no tables")
    for name, table in tables.items():
        _require(table, ("metric", "value"), f"before/after figure, {name}")
    if metrics is None:
        first = next(iter(tables.values()))
        metrics = list(first.loc[first["value"].between(0, 1) & (first["metric"] != "kl"), "metric"])
    figure = go.Figure()
    for i, (name, table) in enumerate(tables.items()):
        rows = table.set_index("metric")
        absent = [metric for metric in metrics if metric not in rows.index]
        if absent:
            raise ValueError(f"before/after figure: {name} has no metric {', '.join(absent)}")
        rows = rows.loc[list(metrics)]
        whiskers = None
        if {"low", "high"} <= set(rows.columns):
            up, down = rows["high"] - rows["value"], rows["value"] - rows["low"]
            whiskers = {"type": "data", "array": up, "arrayminus": down, "thickness": 1.2, "width": 3}
        figure.add_bar(
            x=[escape(readable(str(metric))) for metric in metrics],
            y=rows["value"],
            error_y=whiskers,
            marker_color=COLOURS[i % len(COLOURS)],
            name=escape(name),
        )
    figure.update_layout(barmode="group")
    figure.update_yaxes(range=[0, 1.05])
    return _styled(figure, title, "", "share (whiskers: 95 % intervals)")


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


def comparison_figure(comparison: ScoreComparison) -> go.Figure:
    """A scatter plot: the scores of one measurement across, those of the other up, a point for each head.

    The top heads of both, of either alone, and the rest differ in colour (Okabe and Ito's, which colour-blind readers
    can tell apart) and in marker. Where both have the same metric, the dotted line is where they are equal. Hover for
    the head, both scores and both ranks. Returned, not shown.
    """
    one, other, k = comparison.one, comparison.other, comparison.k
    ranks, other_ranks = one.ranks(), other.ranks()
    tops = set(one.top(k)), set(other.top(k))
    every = one.order()
    groups = [
        ("the rest", [h for h in every if h not in tops[0] | tops[1]], GREY, "circle", 5),
        (f"top {k} of both", [h for h in every if h in tops[0] & tops[1]], COLOURS[0], "circle", 10),
        (f"top {k} of one only", [h for h in every if h in tops[0] - tops[1]], COLOURS[1], "square", 10),
        (f"top {k} of the other only", [h for h in every if h in tops[1] - tops[0]], COLOURS[2], "diamond", 10),
    ]
    figure = go.Figure()
    if one.metric == other.metric:
        both = one.values.min(), other.values.min(), one.values.max(), other.values.max()
        ends = [float(min(both)), float(max(both))]
        figure.add_scatter(
            x=ends, y=ends, mode="lines", line={"dash": "dot", "color": GREY}, name="equal", hoverinfo="skip"
        )
    for name, heads, colour, marker, size in groups:
        if heads:
            figure.add_scatter(
                x=[one[head] for head in heads],
                y=[other[head] for head in heads],
                mode="markers",
                marker={"color": colour, "symbol": marker, "size": size, "line": {"width": 0.5, "color": "white"}},
                name=name,
                customdata=[[str(head), int(ranks[head]), int(other_ranks[head])] for head in heads],
                hovertemplate="<b>%{customdata[0]}</b><br>one %{x:.4f}, rank %{customdata[1]}"
                "<br>other %{y:.4f}, rank %{customdata[2]}<extra></extra>",
            )
    across, up = (escape(name) for name in comparison.names)
    figure.update_layout(
        title={"text": escape(f"Spearman {comparison.spearman:.3f}, overlap {comparison.overlap:.0%}")},
        title_font_size=13,
        template="plotly_white",
        width=620,
        height=560,
        margin={"l": 70, "r": 20, "t": 50, "b": 60},
        legend={"orientation": "h", "y": -0.16},
    )
    figure.update_xaxes(title={"text": f"one: {across}", "font": {"size": 11}})
    figure.update_yaxes(title={"text": f"other: {up}", "font": {"size": 11}})
    return figure
