from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
import torch
from rests import CHECK

from spt_lens.heads import Head, HeadSet
from spt_lens.scores.agreement import SHOWN_ROWS, ScoreComparison
from spt_lens.scores.head_scores import HeadScores


def made(values: list[list[float]] | torch.Tensor, **changes) -> HeadScores:
    values = torch.as_tensor(values)
    about = {"method": "activation", "direction": "denoising", "positions": "last", "model_name": "tiny"}
    return HeadScores(**{"values": values, "per_pair": values[None], **about} | changes)


@pytest.fixture
def both() -> tuple[HeadScores, HeadScores]:
    one = made([[0.9, 0.5, -0.8], [0.1, 0.0, 0.2]])
    return one, made([[0.7, -0.1, -0.9], [0.6, 0.0, 0.3]], method="<b>path", engine="sweep")


@pytest.fixture
def comparison(both) -> ScoreComparison:
    return both[0].compare(both[1], k=2)


def test_what_two_scores_have_in_common(both, comparison):
    # Ranks ascending 6 5 1 3 2 4 and 6 2 1 5 3 4: squares of the differences 0 9 0 4 1 0.
    assert comparison.spearman == pytest.approx(1 - 6 * 14 / (6 * 35))
    assert comparison.overlap == 0.5  # L0.H0 and L0.H1; L0.H0 and L1.H0
    assert comparison.overlap_by_size == 1  # L0.H0 and L0.H2
    assert comparison.same_sign == 1
    assert comparison.largest_difference == pytest.approx(-0.6) and comparison.largest_at == Head(0, 1)
    assert comparison.top_heads == HeadSet.parse("0.0 0.1 1.0")
    one, other = (scores.values.flatten() for scores in both)
    assert comparison.pearson == pytest.approx(float(torch.corrcoef(torch.stack([one, other]))[0, 1]), rel=1e-5)


def test_signs_are_those_of_the_largest_of_either():
    one = made([[0.9, 0.5, -0.8], [0.1, 0.0, 0.2]])
    turned = made([[0.9, -0.5, 0.0], [0.1, 0.0, 0.2]])
    # Largest by size: L0.H0 and L0.H2; L0.H0 and L0.H1. L0.H2 became zero and L0.H1 turned.
    assert one.compare(turned, k=2).same_sign == pytest.approx(1 / 3)


def test_scores_agree_with_themselves_and_disagree_with_their_negative():
    scores = made(torch.randn(10, 20, generator=torch.Generator().manual_seed(0)))
    same = scores.compare(scores)
    assert same.k == 10  # 5 % of 200
    assert same.spearman == pytest.approx(1) and same.pearson == pytest.approx(1)
    assert same.overlap == same.overlap_by_size == same.same_sign == 1 and same.largest_difference == 0
    turned = scores.compare(replace(scores, values=-scores.values, per_pair=-scores.per_pair))
    assert turned.spearman == pytest.approx(-1) and turned.overlap == 0
    assert turned.overlap_by_size == 1 and turned.same_sign == 0


def test_equal_scores_have_no_correlation():
    flat = made(torch.full((2, 3), 0.1))
    assert math.isnan(flat.compare(made(torch.randn(2, 3))).spearman)
    assert "nan" in flat.compare(flat).summary()
    flat.compare(flat).figure()


def test_the_table_has_a_row_for_each_head(both, comparison):
    one, other = both
    table = comparison.table
    assert list(table.columns) == [
        *("layer", "head", "name", "score_one", "score_other", "difference", "rank_one", "rank_other")
    ]
    assert HeadSet.of(list(table["name"])) == one.order()
    for row in table.itertuples():
        assert row.score_one == one[row.name] and row.score_other == other[row.name]
        assert row.difference == pytest.approx(row.score_other - row.score_one)
        assert row.rank_one == one.ranks()[row.layer, row.head]
        assert row.rank_other == other.ranks()[row.layer, row.head]


def test_other_shapes_are_refused_and_other_pairs_are_not(both):
    one, other = both
    with pytest.raises(ValueError, match="2 layers x 3 heads and of 3 x 2"):
        one.compare(made(torch.ones(3, 2)))
    with pytest.raises(ValueError, match="1 to 6"):
        one.compare(other, k=7)
    more = replace(one, per_pair=one.per_pair.repeat(3, 1, 1))
    assert "3 pairs" in one.compare(more).names[1]


def test_estimated_heads_come_last_in_a_top():
    one = made([[0.9, 0.5, 0.3]], verified=torch.tensor([[False, True, True]]))
    found = one.compare(made([[0.9, 0.5, 0.3]]), k=2)
    assert found.overlap == 0.5 and found.spearman == pytest.approx(1)
    assert list(found.table["rank_one"]) == [1, 2, 3] and list(found.table["rank_other"]) == [2, 3, 1]


def test_differences_of_different_metrics_are_not_told(both, comparison):
    found = both[0].compare(replace(both[1], metric="importance"))
    assert "largest difference" not in found.summary() and "importance" in found.summary()
    assert "largest difference -0.600 at L0.H1" in comparison.summary()
    assert "equal" in [trace.name for trace in comparison.figure().data]
    assert "equal" not in [trace.name for trace in found.figure().data]


def test_text_is_one_line_and_escaped(comparison):
    assert "\n" not in comparison.summary() and "Spearman 0.600" in comparison.summary()
    assert comparison.names == (
        "activation, denoising, last, tiny, 1 pair",
        "<b>path, denoising, last, sweep, tiny, 1 pair",
    )
    assert "one: activation" in repr(comparison) and "50% of the top 2" in repr(comparison)
    shown = comparison._repr_html_()
    assert "&lt;b&gt;path" in shown and "<b>path" not in shown and "<script" not in shown
    assert shown.count("<tr") == 1 + 3 and "more in" not in shown


def test_the_notebook_shows_only_the_first_rows():
    draw = torch.Generator().manual_seed(0)
    found = made(torch.randn(10, 20, generator=draw)).compare(made(torch.randn(10, 20, generator=draw)), k=20)
    shown = found._repr_html_()
    assert shown.count("<tr") == 1 + SHOWN_ROWS
    assert f"{len(found.top_heads) - SHOWN_ROWS} more in .table" in shown


def test_the_figure_has_each_head_once(both, comparison):
    one, other = both
    figure = comparison.figure()
    points = {trace.name: trace for trace in figure.data if trace.mode == "markers"}
    assert {name: [cell[0] for cell in trace.customdata] for name, trace in points.items()} == {
        "the rest": ["L1.H2", "L1.H1", "L0.H2"],
        "top 2 of both": ["L0.H0"],
        "top 2 of one only": ["L0.H1"],
        "top 2 of the other only": ["L1.H0"],
    }
    for trace in points.values():
        for x, y, (name, rank, other_rank) in zip(trace.x, trace.y, trace.customdata, strict=True):
            head = Head.parse(name)
            assert (x, y) == (one[head], other[head])
            assert (rank, other_rank) == (one.ranks()[head], other.ranks()[head])
    assert len({(trace.marker.color, trace.marker.symbol) for trace in points.values()}) == 4
    assert (
        "&lt;b&gt;path" in figure.layout.yaxis.title.text
        and "activation" in figure.layout.xaxis.title.text
        and "both: denoising, last, tiny, 1 pair" in figure.layout.title.text
    )
    json.loads(figure.to_json())


def test_two_that_were_measured_alike_are_told_apart():
    one, other = made([[0.9, 0.5]]), made([[0.7, 0.1]])
    comparison = one.compare(other)
    assert comparison.names[0] != comparison.names[1] and comparison.names[0].endswith("1 pair, the first")
    axes = comparison.figure().layout
    assert (axes.xaxis.title.text, axes.yaxis.title.text) == ("one: the first", "other: the second")
    assert "both: activation, denoising, last, tiny, 1 pair" in axes.title.text
    read = [replace(one, meta={"check": replace(CHECK, answers=text).to_json()}) for text in ("Yes / No", "whole")]
    assert read[0].compare(read[1]).names[1].endswith("1 pair, read by whole")
    named = one.compare(other, names=("<b>here", "there"))
    assert named.names == ("<b>here", "there") and named.figure().layout.xaxis.title.text == "one: &lt;b&gt;here"
    for wrong in (("one",), ("a", "b", "c"), "ab"):
        with pytest.raises((ValueError, TypeError), match="names"):
            one.compare(other, names=wrong)
