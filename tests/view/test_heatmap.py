"""The map of heads from arrays whose right picture is known."""

from __future__ import annotations

import json
import re

import pytest
import torch

from spt_lens.heads import HeadSet
from spt_lens.view.heatmap import SCALE, colour, colour_limit, head_heatmap, head_table, outline

VALUES = torch.randn(8, 16, generator=torch.Generator().manual_seed(0)) * 0.01
VALUES[5, 3] = 0.4  # one head far stronger than the rest
RANKS = (-VALUES).flatten().argsort().argsort().reshape(8, 16) + 1
NOTES = [[f", note {layer}.{head}" for head in range(16)] for layer in range(8)]
ARRAYS = (VALUES, torch.full((8, 16), 0.25), RANKS, NOTES)


def test_scale_is_centred_on_zero_and_not_set_by_one_head():
    heat = head_heatmap(*ARRAYS).data[0]
    assert heat.zmid == 0 and heat.zmin == -heat.zmax
    assert heat.zmax == colour_limit(VALUES) == pytest.approx(float(torch.quantile(VALUES.abs().flatten(), 0.99)))
    assert heat.zmax < 0.1
    assert heat.colorscale[2] == (0.5, SCALE[2][1])


def test_each_cell_is_its_head():
    figure = head_heatmap(*ARRAYS)
    heat = figure.data[0]
    assert len(figure.data) == 1 and len(heat.z) == 8 and len(heat.z[0]) == 16
    assert heat.z[5][3] == pytest.approx(0.4)
    assert list(heat.customdata[5][3]) == [0.25, 1, ", note 5.3"]
    assert "L%{y}.H%{x}" in heat.hovertemplate and "rank %{customdata[1]} of 128" in heat.hovertemplate
    assert "%{customdata[2]}" in heat.hovertemplate
    assert figure.layout.yaxis.autorange == "reversed"
    assert figure.layout.xaxis.title.text.startswith("head<br>") and figure.layout.yaxis.title.text == "layer"
    assert ">colours end at 0.032, beyond: L5.H3 +0.4, L3.H11 +0.0341<" in figure.layout.xaxis.title.text
    assert not figure.layout.shapes
    json.loads(figure.to_json())


def test_outlined_heads_are_one_path():
    chosen = HeadSet.parse("5.3 6.1")
    (shape,) = head_heatmap(*ARRAYS, outlined=chosen).layout.shapes
    assert shape.type == "path" and shape.path == outline(chosen)
    assert outline(chosen) == "M 2.5 4.5 H 3.5 V 5.5 H 2.5 Z M 0.5 5.5 H 1.5 V 6.5 H 0.5 Z"
    assert head_heatmap(*ARRAYS, outlined=[(5, 3), (6, 1)]).layout.shapes == (shape,)
    with pytest.raises(ValueError, match=r"L8\.H0 cannot be outlined"):
        head_heatmap(*ARRAYS, outlined=[(8, 0), (1, 1)])


def test_text_is_escaped():
    assert head_heatmap(*ARRAYS, title="<i>x").layout.title.text == "&lt;i&gt;x"
    table = head_table(VALUES, RANKS, NOTES, "<b>text")
    assert "&lt;b&gt;text" in table and "<b>" not in table


def test_all_zero_scores_can_be_drawn():
    zero, nothing = torch.zeros(2, 2), [["", ""], ["", ""]]
    ranks = torch.arange(1, 5).reshape(2, 2)
    assert colour_limit(zero) == 1.0
    assert "rgb(247,247,247)" in head_table(zero, ranks, nothing)
    head_heatmap(zero, zero, ranks, nothing)


def test_static_map_has_every_head():
    html = head_table(VALUES, RANKS, [["" for _ in row] for row in NOTES], outlined=HeadSet.parse("5.3"))
    assert len(re.findall("<td ", html)) == 128
    assert html.count("solid black") == 1
    assert 'title="L5.H3: 0.4000, rank 1"' in html
    assert "best: L5.H3 +0.400, L3.H11 +0.034, " in html


def test_colours_run_from_blue_to_red():
    assert colour(-1) == colour(-5) == "rgb(33,102,172)"
    assert colour(0) == "rgb(247,247,247)"
    assert colour(1) == colour(9) == "rgb(178,24,43)"
