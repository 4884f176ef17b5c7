"""What scores say of themselves, in texts and on their map."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch

from spt_lens.heads import HeadSet
from spt_lens.scores.head_scores import HeadScores


@pytest.fixture
def scores() -> HeadScores:
    per_pair = torch.randn(4, 8, 16, generator=torch.Generator().manual_seed(0)) * 0.01
    per_pair[:, 5, 3] = 0.4
    return HeadScores(per_pair.mean(0), per_pair, "activation", "denoising", "last", "<b>model</b>")


def test_other_methods_are_named_in_words(scores):
    knockout = replace(scores, method="knockout", direction="", positions="all", model_name="m")
    assert knockout.describe() == "m: score of each head (knockout, one head at a time, all positions, 4 pairs)"
    for settings, said in (
        ({"ablation": "mean", "mean_over": "both"}, "positions, 4 pairs"),
        ({"ablation": "mean", "mean_over": "truthful"}, "positions, mean of the truthful prompts, 4 pairs"),
        ({"ablation": "zero", "mean_over": "truthful"}, "positions, set to zero, 4 pairs"),
    ):
        assert said in replace(knockout, meta={"settings": settings}).describe()
    attention = replace(scores, method="attention", direction="", meta={"span": "<u>"}, model_name="m")
    assert attention.describe() == "m: score of each head (share of attention, on the <u>, last position, 4 pairs)"


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
    assert len(scores.heatmap(chosen).layout.shapes) == 1 and scores.html(chosen).count("solid black") == 2
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
