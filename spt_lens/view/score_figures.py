"""The figure of two scores of the same heads, one against the other."""

from __future__ import annotations

from html import escape

import plotly.graph_objects as go

from spt_lens.score_compare import ScoreComparison
from spt_lens.view.curves import COLOURS, GREY


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
