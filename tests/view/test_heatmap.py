from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest
import torch

from spt_lens.heads import HeadSet
from spt_lens.scores.described import describe
from spt_lens.scores.head_scores import HeadScores
from spt_lens.view.heatmap import SCALE, colour, colour_limit, head_heatmap, head_table, outline


@pytest.fixture
def scores() -> HeadScores:
    per_pair = torch.randn(4, 8, 16, generator=torch.Generator().manual_seed(0)) * 0.01
    per_pair[:, 5, 3] = 0.4  # one head far stronger than the rest
    return HeadScores(per_pair.mean(0), per_pair, "activation", "denoising", "last", "<b>model</b>")


def test_scale_is_centred_on_zero_and_not_set_by_one_head(scores):
    heat = head_heatmap(scores).data[0]
    assert heat.zmid == 0 and heat.zmin == -heat.zmax
    assert heat.zmax == pytest.approx(float(torch.quantile(scores.values.abs().flatten(), 0.99)))
    assert heat.zmax < 0.1
    assert heat.colorscale[2] == (0.5, SCALE[2][1])


def test_each_cell_is_its_head(scores):
    figure = head_heatmap(scores)
    heat = figure.data[0]
    assert len(figure.data) == 1 and len(heat.z) == 8 and len(heat.z[0]) == 16
    assert heat.z[5][3] == pytest.approx(0.4)
    assert heat.customdata[5][3][1] == 1  # the rank
    assert "L%{y}.H%{x}" in heat.hovertemplate and "rank %{customdata[1]} of 128" in heat.hovertemplate
    assert figure.layout.yaxis.autorange == "reversed"
    assert figure.layout.xaxis.title.text == "head" and figure.layout.yaxis.title.text == "layer"
    assert not figure.layout.shapes
    json.loads(figure.to_json())


def test_chosen_heads_are_one_path(scores):
    chosen = HeadSet.parse("5.3 6.1")
    figure = head_heatmap(scores, chosen)
    (shape,) = figure.layout.shapes
    assert shape.type == "path" and shape.path == outline(chosen)
    assert outline(chosen) == "M 2.5 4.5 H 3.5 V 5.5 H 2.5 Z M 0.5 5.5 H 1.5 V 6.5 H 0.5 Z"
    assert scores.heatmap(chosen).layout.shapes == figure.layout.shapes
    with pytest.raises(ValueError, match=r"L8\.H0 cannot be outlined"):
        head_heatmap(scores, HeadSet.parse("8.0 1.1"))


def test_text_is_escaped(scores):
    assert "&lt;b&gt;model" in head_heatmap(scores).layout.title.text
    assert head_heatmap(scores, title="<i>x").layout.title.text == "&lt;i&gt;x"
    assert "<b>model" not in head_table(scores)


def test_other_methods_are_named_in_words(scores):
    knockout = replace(scores, method="knockout", direction="", positions="all", model_name="m")
    assert describe(knockout) == "m: score of each head (knockout, one head at a time, all positions, 4 pairs)"
    for settings, said in (
        ({"ablation": "mean", "mean_over": "both"}, "positions, 4 pairs"),
        ({"ablation": "mean", "mean_over": "truthful"}, "positions, mean of the truthful prompts, 4 pairs"),
        ({"ablation": "zero", "mean_over": "truthful"}, "positions, set to zero, 4 pairs"),
    ):
        assert said in describe(replace(knockout, meta={"settings": settings}))
    attention = replace(scores, method="attention", direction="", meta={"span": "<u>"}, model_name="m")
    assert describe(attention) == "m: score of each head (share of attention, on the &lt;u&gt;, last position, 4 pairs)"


def test_all_zero_scores_can_be_drawn():
    zero = torch.zeros(1, 2, 2)
    scores = HeadScores(zero[0], zero, "activation", "denoising", "last", "m")
    assert colour_limit(scores) == 1.0
    assert "rgb(247,247,247)" in head_table(scores)
    head_heatmap(scores)


def test_static_map_has_every_head(scores):
    html = head_table(scores, HeadSet.parse("5.3"))
    assert len(re.findall("<td ", html)) == 128
    assert html.count("solid black") == 1
    assert 'title="L5.H3: 0.4000, rank 1"' in html
    assert "best: L5.H3 +0.400" in html


def test_colours_run_from_blue_to_red():
    assert colour(-1) == colour(-5) == "rgb(33,102,172)"
    assert colour(0) == "rgb(247,247,247)"
    assert colour(1) == colour(9) == "rgb(178,24,43)"


def test_hovering_tells_the_interval(scores):
    heat = head_heatmap(scores).data[0]
    low, high = scores.interval()
    assert "%{customdata[2]}" in heat.hovertemplate
    for layer, head in ((0, 0), (5, 3), (7, 15)):
        std, _, note = heat.customdata[layer][head]
        assert std == pytest.approx(float(scores.std[layer, head]))
        assert note == f"<br>95 % interval {low[layer, head]:.4f} to {high[layer, head]:.4f}"
    one = replace(scores, per_pair=scores.per_pair[:1], values=scores.per_pair[0])
    assert {cell[2] for row in head_heatmap(one).data[0].customdata for cell in row} == {""}


def test_estimates_are_told_from_measured_scores(scores):
    verified = torch.ones(8, 16, dtype=torch.bool)
    verified[2, 4] = False
    shown = replace(scores, verified=verified)
    notes = {
        (layer, head): cell[2]
        for layer, row in enumerate(head_heatmap(shown).data[0].customdata)
        for head, cell in enumerate(row)
    }
    assert [head for head, note in notes.items() if "estimate" in note] == [(2, 4)] and "95 %" in notes[2, 4]
    assert re.findall(r'title="(L\d+\.H\d+): [^"]*estimate"', head_table(shown)) == ["L2.H4"]
    assert "127 heads measured, 1 estimated" in describe(shown) and "estimate" not in head_table(scores)


def test_the_title_says_what_was_measured(scores):
    named = replace(scores, model_name="m")
    assert describe(named) == "m: recovery of each head (activation patching, denoising, last position, 4 pairs)"
    noising = replace(named, method="path", direction="noising", positions="all")
    assert describe(noising) == "m: loss of each head (path patching, noising, all positions, 4 pairs)"
    estimated = replace(named, method="attribution", metric="importance")
    assert "importance of each head (attribution patching, estimates, denoising" in describe(estimated)
    assert "<i>" not in describe(replace(named, method="<i>mine"))
