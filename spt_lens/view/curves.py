"""Figures of curves, bars and points: training, the frontier, before and after, two scores of the same heads.

Every function takes pandas tables and returns a `go.Figure`; nothing is shown and nothing is written. Each raises
ValueError for a table without rows, or without a column that it needs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

import pandas as pd
import plotly.graph_objects as go

from spt_lens.view.style import COLOURS, DASHES, GREY, INK, MARKERS, in_lines, readable, require, styled, whiskers


def training_figure(history: pd.DataFrame, title: str | None = None) -> go.Figure:
    """Losses (left axis) and the other validation figures of a training history (right axis), by step.

    history: the columns `step` and `loss`, and any others, empty at steps that did not measure them. The step's own
    settings and costs (lr, grad_norm, seconds) are not drawn.
    """
    require(history, ("step", "loss"), "training figure")
    figure = go.Figure()
    drawn = [c for c in history.select_dtypes("number").columns if c not in ("step", "lr", "grad_norm", "seconds")]
    losses = [c for c in drawn if str(c).endswith("loss") or c == "kl"]
    colours = (GREY, *COLOURS)
    for metric in [*losses, *(c for c in drawn if c not in losses)]:
        seen = history.dropna(subset=[metric])
        if seen.empty:
            continue
        # Two that are equal lie on one another: each later line is thinner and has its own dash, so that both show.
        i, left = len(figure.data), metric in losses
        figure.add_scatter(
            x=seen["step"],
            y=seen[metric],
            yaxis="y" if left else "y2",
            mode="lines" if len(seen) > 40 else "lines+markers",
            line={"color": colours[i % len(colours)], "dash": DASHES[i % len(DASHES)], "width": max(1.5, 5 - 1.5 * i)},
            marker={"symbol": MARKERS[i % len(MARKERS)], "size": max(5, 11 - 2 * i)},
            name=readable(str(metric)) + ("" if left else " (right)"),
        )
    styled(figure, title, "step", "nats per token")
    if any(trace.yaxis == "y2" for trace in figure.data):
        right = {"overlaying": "y", "side": "right", "showgrid": False, "title": "share", "tickformat": ".2f"}
        figure.update_layout(yaxis2=right, margin_r=60)
    return figure


def frontier_figure(
    table: pd.DataFrame, x: str = "kl", y: str = "discernment", log_x: bool = True, title: str | None = None
) -> go.Figure:
    """What each method reaches (y) at what cost (x): small points, a line through the median of each learning rate.

    table: one row for each run: `method`, `lr`, the columns named by x and y, and optionally `chosen`, true on the rows
    of the learning rate that the validation split chose: a grey ring. log_x: leaves out costs of zero or less.
    """
    require(table, ("method", "lr", x, y), "frontier figure")
    table = table[table[x] > 0] if log_x else table
    figure = go.Figure()
    for i, (method, runs) in enumerate(table.groupby("method", sort=False)):
        style = {"color": COLOURS[i % len(COLOURS)], "symbol": MARKERS[i % len(MARKERS)]}
        middle = runs.groupby("lr", as_index=False)[[x, y]].median().sort_values(x)
        hover = f"%{{customdata}}<br>{readable(x)} %{{x:.4g}}<br>{readable(y)} %{{y:.3f}}"
        shared = {"name": str(method), "legendgroup": str(method), "hovertemplate": hover}
        points = {"mode": "markers", "marker": {**style, "size": 5, "opacity": 0.45}, "showlegend": False}
        line = {"mode": "lines+markers", "marker": {**style, "size": 9}, "line": {"color": style["color"]}}
        for rows, look, what in ((runs, points, ""), (middle, line, ", median")):
            names = [f"{method}, lr {lr:g}{what}" for lr in rows["lr"]]
            figure.add_scatter(x=rows[x], y=rows[y], customdata=names, **shared, **look)
        if "chosen" in runs and runs["chosen"].any():
            at = runs.loc[runs["chosen"].astype(bool), [x, y]].median()
            ring = {"symbol": "circle-open", "size": 17, "color": INK, "line": {"width": 2}}
            named = {"name": "chosen on the validation split", "legendgroup": "chosen", "hoverinfo": "skip"}
            once = not any(trace.legendgroup == "chosen" for trace in figure.data)
            figure.add_scatter(x=[at[x]], y=[at[y]], mode="markers", marker=ring, showlegend=once, **named)
    drift = "drift: next-token KL from the untuned model (nats)"
    styled(figure, title, drift if x in ("kl", "drift") else readable(x), readable(y))
    return figure.update_xaxes(type="log") if log_x else figure


def before_after_figure(
    tables: Mapping[str, pd.DataFrame], metrics: Sequence[str] | None = None, title: str | None = None
) -> go.Figure:
    """Bars with intervals: the same metrics for several models.

    tables: a name ("untuned", "SPT", ...) for each table, in the order of the bars, with the columns `metric`, `value`
    and, for the whiskers, `low` and `high`. metrics: default: those of the first table whose values lie between 0 and
    1, without the drift "kl", which is no share.
    """
    if not tables:
        raise ValueError("before/after figure: there are no tables")
    for name, table in tables.items():
        require(table, ("metric", "value"), f"before/after figure, {name}")
    if metrics is None:
        first = next(iter(tables.values()))
        metrics = list(first.loc[first["value"].between(0, 1) & (first["metric"] != "kl"), "metric"])
    figure = go.Figure()
    for i, (name, table) in enumerate(tables.items()):
        if absent := [metric for metric in metrics if metric not in set(table["metric"])]:
            raise ValueError(f"before/after figure: {name} has no metric {', '.join(absent)}")
        rows = table.set_index("metric").loc[list(metrics)]
        whole = {"low", "high"} <= set(rows.columns)
        figure.add_bar(
            x=[escape(readable(str(metric))) for metric in metrics],
            y=rows["value"],
            error_y=whiskers(rows["high"] - rows["value"], rows["value"] - rows["low"]) if whole else None,
            marker_color=COLOURS[i % len(COLOURS)],
            name=escape(name),
        )
    return styled(figure, title, "", "share (whiskers: 95 % intervals)", barmode="group", yaxis_range=[0, 1.05])


def standing_figure(tables: Mapping[str, pd.DataFrame], title: str) -> go.Figure:
    """The share of answers that still stand, turn by turn, with intervals; all stand before the first turn.

    tables: a name for each, with the columns `turn`, `standing`, `low`, `high`. title: its first line, then smaller
    ones.
    """
    if not tables:
        raise ValueError("figure of what stands: there are no tables")
    figure = go.Figure()
    for i, (name, table) in enumerate(tables.items()):
        require(table, ("turn", "standing", "low", "high"), f"figure of what stands, {name}")
        values = [1.0, *table["standing"]]
        up, down = (table["high"] - table["standing"]).tolist(), (table["standing"] - table["low"]).tolist()
        shift = 0.06 * (i - (len(tables) - 1) / 2)  # side by side, so that the whiskers of both can be seen
        figure.add_scatter(
            x=[0, *(turn + shift for turn in table["turn"])],
            y=values,
            error_y=whiskers([0, *up], [0, *down]),
            customdata=[0, *table["turn"]],
            mode="lines+markers",
            line={"color": COLOURS[i % len(COLOURS)], "dash": DASHES[i % len(DASHES)]},
            marker={"symbol": MARKERS[i % len(MARKERS)], "size": 8},
            name=escape(name),
            cliponaxis=False,  # whole markers at 0
            hovertemplate="turn %{customdata}<br>standing %{y:.3f}",
        )
    styled(figure, in_lines(title, 90), "the user's turn", "share (whiskers: 95 % intervals)", yaxis_range=[0, 1.05])
    return figure.update_xaxes(dtick=1).update_layout(showlegend=len(tables) > 1)


# Each bar also has its own pattern, for readers who see no colours.
_BARS = {
    "sycophantic": ("{}", 0, COLOURS[1], ""),
    "truthful": ("{}", 1, COLOURS[0], "/"),
    "sycophantic_others": ("other heads, {}", 0, GREY, ""),
    "truthful_others": ("other heads, {}", 1, "#C4C4C4", "/"),
}


def attention_figure(
    table: pd.DataFrame, title: str | None = None, runs: tuple[str, str] = ("sycophantic run", "truthful run")
) -> go.Figure:
    """A head's attention to each span of the prompt, in both runs, beside the mean of the other heads.

    table: one row for each span, with the columns `span`, and `sycophantic`, `truthful` (attention in the two runs) and
    `sycophantic_others`, `truthful_others` (the other heads' mean), each from 0 to 1. runs: what they are called.
    """
    require(table, ("span", *_BARS), "attention figure")
    figure = go.Figure()
    for column, (name, run, colour, pattern) in _BARS.items():
        marker = {"color": colour, "pattern": {"shape": pattern}}
        figure.add_bar(x=table["span"].map(escape), y=table[column], name=escape(name.format(runs[run])), marker=marker)
    small = None if title is None else {"text": escape(title), "font": {"size": 13}}
    return styled(figure, small, None, "attention from the last position", barmode="group", yaxis_range=[0, 1.02])


def comparison_figure(
    table: pd.DataFrame, k: int, names: tuple[str, str], title: str, diagonal: bool = True
) -> go.Figure:
    """A scatter plot: the scores of one measurement across, those of the other up, a point for each head.

    table: a row for each head: `name`, `score_one`, `score_other`, `rank_one`, `rank_other`. names: of the two. title:
    its first line, then smaller ones. diagonal: a dotted line where the two are equal.
    """
    ranks = ["rank_one", "rank_other"]
    require(table, ("name", "score_one", "score_other", *ranks), "comparison figure")
    one, other = (table[rank] <= k for rank in ranks)
    groups = [
        ("the rest", ~(one | other), GREY, "circle", 5),
        (f"top {k} of both", one & other, COLOURS[0], "circle", 10),
        (f"top {k} of one only", one & ~other, COLOURS[1], "square", 10),
        (f"top {k} of the other only", ~one & other, COLOURS[2], "diamond", 10),
    ]
    figure = go.Figure()
    if diagonal:
        every = [*table["score_one"], *table["score_other"]]
        ends, dots = [min(every), max(every)], {"dash": "dot", "color": GREY}
        figure.add_scatter(x=ends, y=ends, mode="lines", line=dots, name="equal", hoverinfo="skip")
    for name, which, colour, marker, size in groups:
        if which.any():
            heads = table[which]
            figure.add_scatter(
                x=heads["score_one"].tolist(),
                y=heads["score_other"].tolist(),
                mode="markers",
                marker={"color": colour, "symbol": marker, "size": size, "line": {"width": 0.5, "color": "white"}},
                name=name,
                customdata=heads[["name", *ranks]].to_numpy().tolist(),
                hovertemplate="<b>%{customdata[0]}</b><br>one %{x:.4f}, rank %{customdata[1]}"
                "<br>other %{y:.4f}, rank %{customdata[2]}<extra></extra>",
            )
    sides = zip(("one", "other"), names, strict=True)
    across, up = ({"text": f"{side}: {escape(name)}", "font": {"size": 11}} for side, name in sides)
    wide = {"width": 620, "height": 560, "margin_l": 70, "legend_y": -0.16}
    return styled(figure, in_lines(title, 90), across, up, **wide)
