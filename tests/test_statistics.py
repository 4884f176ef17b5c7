from __future__ import annotations

import math

import pandas as pd
import pytest
import torch

from spt_lens import statistics
from spt_lens.statistics import (
    bootstrap_means,
    interval,
    overlap,
    pearson,
    spearman,
    split_half,
    strength,
    top_probability,
)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_intervals_hold_the_true_mean_about_as_often_as_they_say():
    scores = normal(60, 40, 50) * 0.3 + 0.1  # 2,000 heads whose true mean is .1
    for confidence, low_rate, high_rate in ((0.95, 0.925, 0.965), (0.8, 0.765, 0.82)):
        low, high = interval(scores, confidence)
        rate = float(((low <= 0.1) & (0.1 <= high)).double().mean())
        assert low_rate < rate < high_rate


def test_the_interval_is_that_of_a_plain_loop():
    scores = torch.tensor([[1.0, -3.0], [2.0, 0.0], [4.0, 5.0], [8.0, 0.5]])
    generator = torch.Generator().manual_seed(3)
    means = torch.stack([scores[torch.randint(4, (4,), generator=generator)].mean(0) for _ in range(200)]).double()
    low, high = interval(scores, 0.9, draws=200, seed=3)
    for head in range(2):
        column = pd.Series(means[:, head].tolist())
        assert float(low[head]) == pytest.approx(column.quantile(0.05))
        assert float(high[head]) == pytest.approx(column.quantile(0.95))


def test_intervals_widen_with_confidence_and_narrow_with_pairs():
    few, many = normal(10, 200), normal(160, 200)
    widths = [
        float((high - low).mean()) for low, high in (interval(few, 0.99), interval(few, 0.9), interval(many, 0.9))
    ]
    assert widths[0] > widths[1] > widths[2]
    assert widths[1] / widths[2] == pytest.approx(4, rel=0.15)  # sixteen times the pairs, a quarter of the width


def test_the_seed_decides_and_chunks_do_not(monkeypatch):
    scores = normal(7, 3, 5)
    found = interval(scores, seed=1), top_probability(scores, 4, seed=1)
    assert not torch.equal(interval(scores, seed=2)[0], found[0][0])
    pieces = list(bootstrap_means(scores, 50, seed=1))
    assert len(pieces) == 1 and pieces[0].shape == (50, 15) and pieces[0].dtype == torch.float64
    monkeypatch.setattr(statistics, "CHUNK", 100)
    assert [len(piece) for piece in bootstrap_means(scores, 50, seed=1)] == [6] * 8 + [2]
    assert torch.allclose(torch.cat(list(bootstrap_means(scores, 50, seed=1))), pieces[0], rtol=0, atol=1e-14)
    again = interval(scores, seed=1), top_probability(scores, 4, seed=1)
    assert torch.allclose(torch.stack(again[0]), torch.stack(found[0]), rtol=0, atol=1e-14)
    assert torch.equal(again[1], found[1])


def test_no_chunk_of_a_large_model_is_large():
    scores = torch.zeros(64, 64, 80)
    assert max(piece.numel() for piece in bootstrap_means(scores, 400)) <= statistics.CHUNK


def test_halves_are_averaged_in_double_precision():
    scores = torch.tensor([1000.0, 1000.25, 999.5]).bfloat16()[:, None]
    (means,) = bootstrap_means(scores, 100)
    assert means.dtype == torch.float64
    assert set((means * 3).flatten().tolist()) <= {sum(c) for c in _triples(scores.flatten().tolist())}


def _triples(values: list[float]) -> list[tuple[float, float, float]]:
    return [(a, b, c) for a in values for b in values for c in values]


@pytest.mark.parametrize("call", [interval, lambda scores: top_probability(scores, 1), lambda s: split_half(s, 1)])
def test_one_pair_shows_no_spread(call):
    with pytest.raises(ValueError, match="pair"):
        call(torch.ones(1, 2, 3))


def test_what_an_interval_refuses():
    scores = normal(5, 2)
    for confidence in (0, 1, 95, -0.5, math.nan):
        with pytest.raises(ValueError, match="confidence=.*above 0 and below 1"):
            interval(scores, confidence)
    with pytest.raises(ValueError, match="take draws=2000 or more"):
        interval(scores, 0.999)
    interval(scores, 0.999, draws=2000)
    for draws in (0, -1, 1.5, math.nan):
        with pytest.raises(ValueError, match="draws=.*whole number from 1"):
            interval(scores, draws=draws)
    for wrong in (None, "many"):
        with pytest.raises(TypeError):
            interval(scores, draws=wrong)
        with pytest.raises(TypeError):
            interval(scores, wrong)


def test_top_probabilities_sum_to_k():
    scores = normal(20, 4, 8)
    for k in (1, 5, 32):
        for by in ("signed", "size"):
            found = top_probability(scores, k, by)
            assert found.shape == (4, 8) and float(found.sum()) == pytest.approx(k)
            assert bool(((found >= 0) & (found <= 1)).all())


def test_top_probability_of_known_cases():
    # One head is always best; the other two take the second place in turn, by which pairs are drawn.
    scores = torch.tensor([[9.0, 1.0, 0.0, -50.0], [9.0, 0.0, 1.0, -50.0]])
    found = top_probability(scores, 2, draws=4000)
    assert float(found[0]) == 1 and float(found[3]) == 0
    # Equal in half of the draws of two pairs, then the earlier head is taken: 1/4 + 1/2.
    assert float(found[1]) == pytest.approx(0.75, abs=0.03) and float(found[2]) == pytest.approx(0.25, abs=0.03)
    assert float(top_probability(scores, 1, "size")[3]) == 1


def test_of_equal_heads_the_earlier_are_taken():
    flat = torch.zeros(3, 300)
    assert top_probability(flat, 7).nonzero().flatten().tolist() == list(range(7))
    other = torch.zeros(300)
    other[:7] = 1
    assert overlap(flat[0], other, 7) == 1


@pytest.mark.parametrize("k", [0, 7, 1.5, math.nan])
def test_k_is_checked(k):
    scores = normal(6, 2, 3)
    for call in (lambda: top_probability(scores, k), lambda: split_half(scores, k)):
        with pytest.raises(ValueError, match="1 to 6"):
            call()
    with pytest.raises(ValueError, match="1 to 6"):
        overlap(scores[0], scores[1], k)


def test_unknown_ways_to_rank_are_refused():
    scores = normal(6, 2, 3)
    calls = (strength, lambda s, by: top_probability(s, 1, by), lambda s, by: split_half(s, 1, by))
    for call in (*calls, lambda s, by: overlap(s[0], s[1], 1, by)):
        with pytest.raises(ValueError, match="'signed'"):
            call(scores, "x")


def test_spearman_by_hand_with_ties():
    # Ranks 1, 2.5, 2.5, 4 and 2, 1, 3.5, 3.5: deviations -1.5, 0, 0, 1.5 and -.5, -1.5, 1, 1.
    a, b = torch.tensor([1.0, 5.0, 5.0, 9.0]), torch.tensor([2.0, 1.0, 7.0, 7.0])
    assert spearman(a, b) == pytest.approx(2.25 / math.sqrt(4.5 * 4.5))


@pytest.mark.parametrize("seed", range(5))
def test_correlations_are_those_of_pandas(seed):
    a, b = normal(6, 9, seed=seed), normal(6, 9, seed=seed + 100)
    b = b + a
    if seed % 2:
        a, b = (a * 2).round(), (b * 2).round()  # many ties
    one, other = pd.Series(a.flatten().tolist()), pd.Series(b.flatten().tolist())
    assert spearman(a, b) == pytest.approx(one.rank().corr(other.rank()), abs=1e-12)
    assert pearson(a, b) == pytest.approx(one.corr(other), abs=1e-12)


def test_correlations_at_the_ends():
    values = normal(50)
    assert spearman(values, values.exp()) == pytest.approx(1) and spearman(values, -values) == pytest.approx(-1)
    assert -1 <= pearson(values, -3 * values) <= pearson(values, 2 * values + 1) <= 1
    for flat in (torch.full((50,), 0.1), torch.zeros(50)):
        assert math.isnan(spearman(values, flat)) and math.isnan(pearson(flat, values))
    with pytest.raises(ValueError, match="head by head"):
        spearman(values, values[:-1])
    with pytest.raises(ValueError, match="nan"):
        spearman(values, torch.full((50,), torch.nan))


def test_overlap_of_the_best():
    a, b = torch.tensor([[5.0, 4.0, -9.0], [1.0, 0.0, 0.0]]), torch.tensor([[5.0, 0.0, -9.0], [4.0, 0.0, 0.0]])
    assert overlap(a, b, 2) == 0.5  # L0.H0 and L0.H1; L0.H0 and L1.H0
    assert overlap(a, b, 2, "size") == 1  # L0.H0 and L0.H2 in both
    assert overlap(a, b, 6) == 1


def test_halves_agree_where_there_is_an_order_and_not_where_there_is_none():
    noise = normal(40, 10, 20)
    none = split_half(noise, 10)
    assert abs(none.spearman) < 0.15 and none.overlap < 0.15
    order = split_half(noise * 0.1 + torch.arange(200.0).view(10, 20), 10)
    assert order.spearman > 0.999 and order.overlap > 0.95
    some = split_half(noise + normal(10, 20, seed=1) / 5, 10)
    assert none.spearman < some.spearman < order.spearman and none.overlap < some.overlap < order.overlap


def test_split_half_is_that_of_a_plain_loop():
    scores = normal(5, 12)  # an odd number: halves of two and three
    generator = torch.Generator().manual_seed(4)
    correlations, shared = [], []
    for _ in range(7):
        order = torch.randperm(5, generator=generator).tolist()
        one, other = scores[order[:2]].mean(0).abs(), scores[order[2:]].mean(0).abs()
        correlations.append(pd.Series(one.tolist()).rank().corr(pd.Series(other.tolist()).rank()))
        shared.append(len({*one.topk(3).indices.tolist()} & {*other.topk(3).indices.tolist()}) / 3)
    found = split_half(scores, 3, "size", splits=7, seed=4)
    assert found.spearman == pytest.approx(sum(correlations) / 7) and found.overlap == pytest.approx(sum(shared) / 7)
    assert (found.k, found.n_heads, found.n_pairs, found.splits) == (3, 12, 5, 7)


def test_split_half_needs_four_pairs_and_says_what_it_found():
    with pytest.raises(ValueError, match="at least 4"):
        split_half(normal(3, 4), 1)
    with pytest.raises(ValueError, match="splits"):
        split_half(normal(4, 4), 1, splits=0)
    text = str(split_half(normal(4, 2, 10), 5))
    assert "two halves of 4 pairs" in text and "over 20 heads" in text and "top 5" in text
    assert "by chance 25%" in text and "\n" not in text
