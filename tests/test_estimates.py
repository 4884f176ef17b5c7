from __future__ import annotations

import math

import pytest

from spt_lens.statistics import Estimate, effective_cases, mean_of_shares, share, weighted_mean, wilson_interval


def test_wilson_interval_solves_its_defining_equation():
    # Its bounds are the shares p0 from which the observed one is exactly z standard errors away.
    for successes, n in ((3, 20), (10, 20), (19, 20)):
        p = successes / n
        for bound in wilson_interval(successes, n):
            assert abs(p - bound) == pytest.approx(1.959964 * math.sqrt(bound * (1 - bound) / n), rel=1e-5)


def test_wilson_interval_at_the_ends():
    low, high = wilson_interval(0, 100)
    assert low == 0 and high == pytest.approx(1.959964**2 / (100 + 1.959964**2), rel=1e-5)
    assert wilson_interval(0, 0) == (0, 1)


def test_share_counts_hits_and_cases():
    found = share([True, True, False, True])
    assert found.value == 0.75 and found.n == 4
    assert (found.low, found.high) == wilson_interval(3, 4)
    assert math.isnan(share([]).value) and share([]).n == 0


def test_pairs_of_copies_count_once_and_independent_cases_fully():
    once = [i % 3 == 0 for i in range(60)]
    twice = [hit for hit in once for _ in range(2)]
    groups = [i // 2 for i in range(120)]
    assert effective_cases(twice, groups) == pytest.approx(60, rel=0.02)
    assert effective_cases(twice, range(120)) == pytest.approx(120, rel=0.02)
    assert effective_cases([True] * 120, groups) == 60
    assert share(twice, groups).n == 120


def test_groups_must_match():
    with pytest.raises(ValueError, match="2 hits but 1 groups"):
        share([True, False], ["a"])


def test_mean_of_shares_adds_half_widths_in_squares():
    a, b = Estimate(0.5, 0.2, 0.9, 10), Estimate(0.7, 0.3, 0.8, 20)
    found = mean_of_shares([a, b])
    assert found == pytest.approx((0.6, 0.6 - 0.25, 0.6 + math.hypot(0.4, 0.1) / 2, 30))
    assert mean_of_shares([a]) == pytest.approx(a)
    with pytest.raises(ValueError, match="no estimates"):
        mean_of_shares([])


def test_weighted_mean_of_constant_units_has_no_width():
    assert weighted_mean([2.0, 4.0, 6.0], [1, 2, 3]) == pytest.approx((2.0, 2.0, 2.0, 3))


def test_weighted_mean_interval_is_near_the_normal_one():
    values = [float(i % 7) for i in range(210)]  # mean 3, variance 4
    found = weighted_mean(values, [1] * 210)
    half = 1.96 * math.sqrt(4 / 210)
    # 1000 draws: the bootstrap's own error is about a tenth of the width.
    assert found.value == pytest.approx(3) and found.high - found.low == pytest.approx(2 * half, rel=0.2)
    assert found == weighted_mean(values, [1] * 210)


def test_estimates_survive_json():
    for estimate in (Estimate(0.5, 0.1, 0.9, 7), share([True])):
        assert Estimate.from_json(estimate.to_json()) == estimate
    empty = Estimate.from_json(share([]).to_json())
    assert math.isnan(empty.value) and empty[1:] == (0.0, 1.0, 0)
