"""What a recovery rests on: its effects in logits, an interval of effects and gaps together, and marks."""

from __future__ import annotations

import math
import re
from dataclasses import replace

import pytest
import torch
from rests import CHECK

from spt_lens.scores.head_scores import HeadScores
from spt_lens.scores.mean import mean_scores
from spt_lens.scores.metrics import recovery
from spt_lens.statistics import bootstrap_means, interval


def of(patched: list[list[float]], base: list[float], target: list[float], direction: str = "denoising") -> HeadScores:
    """One layer; patched: by pair and head."""
    patched, base, target = (torch.tensor(each, dtype=torch.float64) for each in (patched, base, target))
    per_pair = recovery(patched.T, base, target).T[:, None].contiguous()
    made = dict(logit_differences=patched[:, None], base=base, target=target)
    return HeadScores(per_pair.mean(0), per_pair, "activation", direction, "last", "tiny", **made)


def test_the_score_is_the_mean_effect_over_the_mean_gap():
    scores = of([[-1.0, -2.0], [0.0, 1.0]], base=[-2.0, 0.0], target=[2.0, -2.0])  # gaps 4 and -2: mean 1
    assert scores.effects.tolist() == [[[1.0, 0.0]], [[0.0, 1.0]]]
    assert scores.values.tolist() == [[0.5, 0.5]] and scores.per_pair.tolist() == scores.effects.tolist()
    assert scores.gaps.tolist() == [4.0, -2.0]


def test_effects_of_noising_point_to_the_sycophantic_answer():
    scores = of([[1.0], [1.0]], base=[2.0, 2.0], target=[-2.0, -1.0], direction="noising")
    assert scores.effects.flatten().tolist() == [1.0, 1.0] and float(scores.values) == pytest.approx(1 / 3.5)
    assert scores.to_pandas()["logits"].tolist() == [1.0]


def test_the_interval_draws_effects_and_gaps_together():
    """Where each pair's effect is a tenth of its own gap, so is any draw's: the score is certain, though gaps vary."""
    gaps = [1.0, 8.0, 3.0, 5.0, 2.0]
    scores = of([[0.1 * gap, 0.5] for gap in gaps], base=[0.0] * 5, target=gaps)
    low, high = scores.interval()
    assert low[0, 0] == pytest.approx(0.1) and high[0, 0] == pytest.approx(0.1)
    # The other head's effect is the same in every pair, and its share is not: the mean gap is not known well.
    assert low[0, 1] < 0.5 / 3.8 < high[0, 1] and high[0, 1] - low[0, 1] > 0.05
    assert torch.equal(*interval(torch.full((5, 1), 0.5)))


def test_a_mean_gap_that_may_be_zero_makes_wide_intervals_that_hold_zero():
    scores = of([[0.4], [0.6], [0.5], [0.5]], base=[0.0] * 4, target=[3.0, -2.5, 2.0, -2.0])
    low, high = (float(end) for end in scores.interval())
    assert float(scores.values) == pytest.approx(4) and low < 0 and high > 10 and math.isfinite(low + high)
    assert not len(scores.above_noise())
    assert scores.to_pandas()["note"].tolist() == ["interval holds 0; above 1: more than the gap"]


def test_drawn_gaps_of_zero_give_no_infinity():
    shares, gaps = torch.ones(2, 1), torch.tensor([2.0, 0.0])
    drawn = torch.cat(list(bootstrap_means(shares, 200, 0, gaps))).flatten()
    assert set(drawn.tolist()) == {0.5, 1.0, 1000.0}


def test_older_scores_are_the_mean_of_shares_and_stay_so(tmp_path):
    new = of([[0.1, 1.0], [2.0, -1.0], [0.5, 0.0]], base=[0.0] * 3, target=[1.0, 4.0, 2.0])
    shares = new.logit_differences / new.target[:, None, None]
    old = replace(new, per_pair=shares, values=shares.mean(0), meta={"left_out": [3], "pairs_used": [0, 1, 2]})
    loaded = HeadScores.load(old.save(tmp_path / "old.safetensors"))
    assert loaded.gaps is None and loaded.check is None and torch.equal(loaded.values, old.values)
    expected = interval(shares)
    assert all(torch.equal(*ends) for ends in zip(loaded.interval(), expected, strict=True))
    assert loaded.effects.tolist() == new.effects.tolist()
    with pytest.raises(ValueError, match="mean of each pair's own share"):
        mean_scores(new, replace(loaded, meta={}))
    both = mean_scores(loaded, loaded)
    assert both.gaps is None and both.effects is None and "logits" not in both.to_pandas()


def test_another_metric_is_by_pair_and_comes_back():
    scores = of([[0.1, 1.0], [2.0, -1.0], [0.5, 0.0]], base=[0.0] * 3, target=[1.0, 4.0, 2.0])
    importance = scores.as_metric("importance")
    assert importance.gaps is None and importance.effects is not None
    before, after = torch.tensor(0.5), torch.sigmoid(-torch.tensor(0.1))
    assert float(importance.per_pair[0, 0, 0]) == pytest.approx(float((before - after) / before), rel=1e-5)
    torch.testing.assert_close(importance.as_metric("recovery").per_pair, scores.per_pair)


def test_the_check_is_in_the_title_of_the_map_and_of_the_table(tmp_path):
    plain = of([[0.1, 1.0], [2.0, -1.0]], base=[0.0] * 2, target=[1.0, 4.0])
    assert plain.check is None and "\n" not in plain.titled() and "font-size" not in plain.heatmap().layout.title.text
    scores = replace(plain, meta={"check": CHECK.to_json()})
    loaded = HeadScores.load(scores.save(tmp_path / "scores.safetensors"))
    assert loaded.check == CHECK
    line = (
        "the sycophantic run prefers the sycophantic answer in 6 of 16 pairs, the truthful run the truthful one in 15 "
        "of 16; mean gap 0.43 [0.20, 0.70] logits; the answers hold 2.4 % to 3.1 % of the probability"
    )
    assert CHECK.line() == line
    title = loaded.heatmap().layout.title.text
    first, *more = title.split("<br>")  # the figure is narrow
    small = [each for each in more if "font-size:11px" in each]
    assert " ".join([first, *more[: -len(small)]]) == plain.describe() and len(small) > 2
    said = re.sub("<[^>]*>", "", " ".join(small))
    assert said == f"{loaded.plainly()} {line} {CHECK.brief}" and line in loaded.html() and CHECK.brief in loaded.html()
    assert "<br>effect 1.0500 logits<br>95 % interval" in loaded.heatmap().data[0].customdata[0][0][2]
    assert mean_scores(loaded, loaded).check == CHECK


def test_a_gradient_above_one_is_no_more_than_any_gap():
    scores = of([[3.0, 0.5]] * 2, base=[0.0] * 2, target=[1.0, 2.0])
    assert scores.to_pandas()["note"].tolist() == ["above 1: more than the gap", ""]
    gradient = HeadScores(scores.values, scores.per_pair, "objective", "", "target", "tiny")
    assert gradient.to_pandas()["note"].tolist() == ["", ""] and "above 1" not in gradient.html()


def test_a_damaged_check_is_refused_when_it_is_read(tmp_path):
    plain = of([[0.1, 1.0]], base=[0.0], target=[1.0])
    path = replace(plain, meta={"check": {**CHECK.to_json(), "mass": [1]}}).save(tmp_path / "scores.safetensors")
    with pytest.raises(ValueError, match="damaged"):
        HeadScores.load(path)
