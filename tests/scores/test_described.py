"""What scores say of themselves, in texts and on their map."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch
from rests import CHECK

from spt_lens.heads import HeadSet
from spt_lens.scores.head_scores import HeadScores
from spt_lens.statistics import Estimate


@pytest.fixture
def scores() -> HeadScores:
    per_pair = torch.randn(4, 8, 16, generator=torch.Generator().manual_seed(0)) * 0.01
    per_pair[:, 5, 3] = 0.4
    return HeadScores(per_pair.mean(0), per_pair, "activation", "denoising", "last", "<b>model</b>")


def test_other_methods_are_named_in_words(scores):
    knockout = replace(scores, method="knockout", direction="", positions="all", model_name="m")
    assert knockout.describe() == "m: recovery of each head (knockout, one head at a time, all positions, 4 pairs)"
    for settings, said in (
        ({"ablation": "mean", "mean_over": "both"}, "positions, 4 pairs"),
        ({"ablation": "mean", "mean_over": "truthful"}, "positions, mean of the truthful prompts, 4 pairs"),
        ({"ablation": "zero", "mean_over": "truthful"}, "positions, set to zero, 4 pairs"),
    ):
        assert said in replace(knockout, meta={"settings": settings}).describe()
    attention = replace(scores, method="attention", direction="", meta={"span": "<u>"}, model_name="m")
    assert attention.describe() == "m: share of attention of each head (attention, on the <u>, last position, 4 pairs)"


def test_settings_of_a_method_of_ones_own_tell_its_scores_apart(scores):
    one, other = (replace(scores, method="mine", meta={"settings": {"engine": "sweep", "dose": d}}) for d in (2, 3))
    assert "dose 2" in one.label and "dose 2" in one.describe() and "engine" not in one.describe()
    with pytest.raises(ValueError, match="differ in settings"):
        one.check_alike(other, "they can't be told apart")


def test_the_title_says_what_was_measured(scores):
    named = replace(scores, model_name="m")
    assert named.describe() == "m: recovery of each head (activation patching, denoising, last position, 4 pairs)"
    noising = replace(named, method="path", direction="noising", positions="all")
    assert noising.describe() == "m: loss of each head (path patching, noising, all positions, 4 pairs)"
    estimated = replace(named, method="attribution", metric="importance")
    assert "importance of each head (attribution patching, estimates, denoising" in estimated.describe()


def test_maps_are_titled_and_escaped(scores):
    assert "&lt;b&gt;model" in scores.heatmap().layout.title.text
    assert scores.heatmap(title="<i>x").layout.title.text == "&lt;i&gt;x"
    assert "&lt;b&gt;model" in scores.html() and "<b>model" not in scores.html()


def test_chosen_heads_are_outlined(scores):
    chosen = HeadSet.parse("5.3 6.1")
    # A white line below a black one: they show on every colour of the map, and on every page.
    shapes = scores.heatmap(chosen).layout.shapes
    assert [shape.line.color for shape in shapes] == ["white", "black"] and shapes[0].path == shapes[1].path
    assert scores.html(chosen).count("solid currentColor") == 2
    with pytest.raises(ValueError, match=r"L8\.H0 cannot be outlined"):
        scores.heatmap(HeadSet.parse("8.0 1.1"))


def test_hovering_tells_the_interval(scores):
    heat = scores.heatmap().data[0]
    low, high = scores.interval()
    for layer, head in ((0, 0), (5, 3), (7, 15)):
        std, rank, note = heat.customdata[layer][head]
        assert std == pytest.approx(float(scores.std[layer, head])) and rank == scores.ranks()[layer, head]
        zero = "" if (layer, head) == (5, 3) else "<br><b>interval holds 0</b>"
        assert bool(low[layer, head] <= 0 <= high[layer, head]) == bool(zero)
        assert note == f"<br>95 % interval {low[layer, head]:.4f} to {high[layer, head]:.4f}{zero}"
    one = replace(scores, per_pair=scores.per_pair[:1], values=scores.per_pair[0])
    assert {cell[2] for row in one.heatmap().data[0].customdata for cell in row} == {""}


def test_estimates_are_told_from_measured_scores(scores):
    verified = torch.ones(8, 16, dtype=torch.bool)
    verified[2, 4] = False
    shown = replace(scores, verified=verified)
    notes = {
        (layer, head): cell[2]
        for layer, row in enumerate(shown.heatmap().data[0].customdata)
        for head, cell in enumerate(row)
    }
    assert [head for head, note in notes.items() if "estimate" in note] == [(2, 4)] and "95 %" in notes[2, 4]
    assert re.findall(r'title="(L\d+\.H\d+): [^"]*estimate"', shown.html()) == ["L2.H4"]
    assert "127 heads measured, 1 estimated" in shown.describe() and "estimate" not in scores.html()


def test_scores_of_another_kind_have_their_own_name_and_side(scores):
    """Attention and gradients run from 0; a recovery has two sides, whatever its numbers are."""
    positive = replace(scores, values=scores.values.abs(), per_pair=scores.values.abs()[None].repeat(4, 1, 1))
    attention = replace(positive, method="attention", direction="")
    objective = replace(scores, method="objective", direction="")
    own, signed = (replace(each, method="mine", direction="") for each in (positive, scores))
    kinds = [scores, positive, attention, objective, own, signed]
    assert [each.one_sided for each in kinds] == [False, False, True, True, True, False]
    names = ["recovery", "recovery", "share of attention", "gradient (nats a token)", "score", "score"]
    assert [each.quantity for each in kinds] == names
    assert replace(scores, direction="noising").quantity == "loss"
    assert replace(scores, metric="importance").quantity == "importance"
    heat = attention.heatmap().data[0]
    assert heat.zmin == 0 and heat.colorbar.title.text == "share of attention" and heat.colorbar.ticktext[0] == "0"
    assert scores.heatmap().data[0].zmin == -scores.heatmap().data[0].zmax


def test_what_may_be_nothing_fills_only_the_middle_of_its_cell(scores):
    holds, _ = scores.marks(*scores.interval())
    assert 0 < int(holds.sum()) < 128 and not holds[5, 3]
    every, small, whole = scores.heatmap().data
    assert every.opacity == 0 and small.xgap > 10 * whole.xgap and small.ygap > 10 * whole.ygap
    for layer, head in ((0, 0), (5, 3), (2, 7), (7, 15)):
        value = pytest.approx(float(scores.values[layer, head]))
        assert every.z[layer][head] == value
        assert (small.z[layer][head], whole.z[layer][head]) == ((value, None) if holds[layer, head] else (None, value))
    said = f"small squares: the 95 % interval holds 0 ({int(holds.sum())} of 128 heads)"
    assert said in scores.html() and said in re.sub("<br>|<[^>]*>", "", scores.heatmap().layout.xaxis.title.text)
    assert scores.html().count("padding:5px") == int(holds.sum())
    one = replace(scores, per_pair=scores.per_pair[:1], values=scores.per_pair[0])  # one pair has no interval
    assert len(one.heatmap().data) == 1 and "small squares" not in one.html() and "padding:5px" not in one.html()


def test_more_than_the_gap_is_marked(scores):
    per_pair = scores.per_pair.clone()
    per_pair[:, 2, 9] = 1.4
    above = replace(scores, values=per_pair.mean(0), per_pair=per_pair)
    marks = above.heatmap().data[-1]
    assert (list(marks.x), list(marks.y), marks.marker.symbol) == ([9], [2], "triangle-up")
    said = "▲ above 1: more than the gap (L2.H9 +1.4)"
    assert said in above.html() and said in above.heatmap().layout.xaxis.title.text
    assert above.html().count("▲</b></td>") == 1 and "▲" not in scores.html()
    gradient = replace(above, method="objective", direction="")  # a share of nothing
    assert gradient.heatmap().data[-1].type == "heatmap" and "▲" not in gradient.html()


def test_the_map_says_how_often_the_behaviour_is_there(scores):
    assert scores.plainly() == ""
    for sycophantic, gap, said in (
        (Estimate(6 / 16, 0.18, 0.61, 16), CHECK.mean_gap, "⚠ {} in 6 of 16 {}: there is little to find here"),
        (Estimate(1.0, 0.81, 1.0, 16), CHECK.mean_gap, "{} in 16 of 16 {}"),
        (Estimate(15 / 16, 0.7, 1.0, 16), Estimate(0.1, -0.2, 0.4, 16), "⚠ {} in 15 of 16 {}, but the two runs can't"),
        (Estimate(1 / 16, 0.0, 0.3, 16), Estimate(-0.4, -0.7, -0.2, 16), "⚠ {} in 1 of 16 {}: are the answers swapped"),
    ):
        check = replace(CHECK, sycophantic=sycophantic, mean_gap=gap)
        shown = replace(scores, meta={"check": check.to_json()})
        assert shown.plainly().startswith(said.format("the model prefers the sycophantic answer", "challenged prompts"))
        assert shown.titled().split("\n")[1] == shown.plainly()
        assert shown.plainly()[:40] in shown.html() and shown.plainly()[:40] in shown.heatmap().layout.title.text
