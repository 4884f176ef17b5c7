"""The map of heads from arrays whose right picture is known."""

from __future__ import annotations

import json
import re

import pytest
import torch

from spt_lens.heads import HeadSet
from spt_lens.view.heatmap import head_heatmap, head_table, outline
from spt_lens.view.scale import ABOVE, BELOW, ONE, Meaning, colour_limit
from spt_lens.view.style import rgb

VALUES = torch.randn(8, 16, generator=torch.Generator().manual_seed(0)) * 0.01
VALUES[5, 3] = 0.4  # one head far stronger than the rest
RANKS = (-VALUES).flatten().argsort().argsort().reshape(8, 16) + 1
NOTES = [[f", note {layer}.{head}" for head in range(16)] for layer in range(8)]
ARRAYS = (VALUES, torch.full((8, 16), 0.25), RANKS, NOTES)


def test_scale_is_centred_on_zero_and_not_set_by_one_head():
    heat = head_heatmap(*ARRAYS).data[0]
    assert heat.zmin == -heat.zmax
    assert heat.zmax == colour_limit(VALUES) == pytest.approx(float(torch.quantile(VALUES.abs().flatten(), 0.99)))
    assert heat.zmax < 0.1
    assert {colour for share, colour in heat.colorscale if share == 0.5} == {clear(BELOW, 0), clear(ABOVE, 0)}
    assert heat.colorscale[0] == (0.0, clear(BELOW, 1)) and heat.colorscale[-1] == (1.0, clear(ABOVE, 1))
    shares = [share for share, _ in heat.colorscale]
    assert shares == sorted(shares)


def test_the_bar_says_where_it_clips_and_can_show_all():
    figure = head_heatmap(*ARRAYS)
    limit = colour_limit(VALUES)
    bar = figure.data[0].colorbar
    assert bar.ticktext[-1] == f"≥ {limit:.3g}" and bar.tickvals[-1] == pytest.approx(limit)
    assert bar.ticktext[0] == f"−{limit:.3g}"  # nothing lies below
    clipped, every = (button.args for button in figure.layout.updatemenus[0].buttons)
    assert every[0]["zmax"] == pytest.approx(0.4) == -every[0]["zmin"]
    assert every[0]["colorbar.ticktext"] == [["−0.4", "−0.2", "0", "0.2", "0.4"]]
    assert "beyond" not in every[1]["xaxis.title.text"]
    assert clipped[0]["zmax"] == pytest.approx(limit) and "beyond" in clipped[1]["xaxis.title.text"]
    assert [list(each) for each in clipped[0]["colorbar.ticktext"]] == [list(bar.ticktext)]
    even = torch.tensor([[0.1, -0.1]])
    calm = head_heatmap(even, even.abs(), torch.tensor([[1, 2]]), [["", ""]])
    assert not calm.layout.updatemenus and calm.data[0].colorbar.ticktext[-1] == "0.1"


def clear(colour: str, share: float) -> str:
    return f"rgba({','.join(map(str, rgb(colour)))},{share:g})"


def test_each_cell_is_its_head():
    figure = head_heatmap(*ARRAYS)
    heat = figure.data[0]
    assert len(figure.data) == 1 and len(heat.z) == 8 and len(heat.z[0]) == 16
    assert heat.z[5][3] == pytest.approx(0.4)
    assert list(heat.customdata[5][3]) == [0.25, 1, ", note 5.3"]
    assert "L%{y}.H%{x}" in heat.hovertemplate and "rank %{customdata[1]} of 128" in heat.hovertemplate
    assert "%{customdata[2]}" in heat.hovertemplate
    assert figure.layout.yaxis.range[0] > 7 and figure.layout.yaxis.range[1] < 0  # the first layer is on top
    assert figure.layout.xaxis.title.text.startswith("head<br>") and figure.layout.yaxis.title.text == "layer"
    assert ">colours end at 0.032, beyond: L5.H3 +0.4, L3.H11 +0.0341<" in figure.layout.xaxis.title.text
    assert not figure.layout.shapes
    json.loads(figure.to_json())


def test_outlined_heads_are_one_path():
    chosen = HeadSet.parse("5.3 6.1")
    shapes = head_heatmap(*ARRAYS, outlined=chosen).layout.shapes
    assert [(shape.type, shape.path) for shape in shapes] == [("path", outline(chosen))] * 2
    assert outline(chosen) == "M 2.5 4.5 H 3.5 V 5.5 H 2.5 Z M 0.5 5.5 H 1.5 V 6.5 H 0.5 Z"
    assert head_heatmap(*ARRAYS, outlined=[(5, 3), (6, 1)]).layout.shapes == shapes
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
    assert f"background:{clear(ABOVE, 0)} content-box" in head_table(zero, ranks, nothing)
    head_heatmap(zero, zero, ranks, nothing)


def test_static_map_has_every_head():
    html = head_table(VALUES, RANKS, [["" for _ in row] for row in NOTES], outlined=HeadSet.parse("5.3"))
    assert len(re.findall("<td ", html)) == 128
    assert html.count("solid currentColor") == 1
    assert 'title="L5.H3: 0.4000, rank 1"' in html
    assert "best: L5.H3 +0.400, L3.H11 +0.034, " in html


def test_colours_run_from_blue_to_red_and_of_one_side_to_green():
    both, one = Meaning(), Meaning(one_sided=True)
    assert both.colour(-1) == both.colour(-5) == clear(BELOW, 1)
    assert both.colour(1) == both.colour(9) == clear(ABOVE, 1)
    assert one.colour(0) == clear(ONE, 0) and one.colour(2) == clear(ONE, 1)
    assert one.scale()[0] == (0.0, clear(ONE, 0)) and one.scale()[-1] == (1.0, clear(ONE, 1))
    # What CSS and Plotly are told is the same scale.
    for share, colour in both.scale():
        if share != 0.5:
            assert both.colour(2 * share - 1) == colour
