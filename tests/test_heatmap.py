from __future__ import annotations

import json
import re

import pytest
import torch

from spt_lens.heads import HeadSet
from spt_lens.scores import HeadScores
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
    assert "L%{y}.H%{x}" in heat.hovertemplate and "rank" in heat.hovertemplate
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
