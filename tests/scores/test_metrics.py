"""Recovery: the mean effect over the mean gap."""

from __future__ import annotations

import pytest
import torch

from spt_lens.scores.metrics import least_gap, mean_gap, recovery


def test_recovery_ends_and_middle():
    base, target = torch.tensor([-2.0, -1.0]), torch.tensor([2.0, 1.0])
    assert recovery(base, base, target).tolist() == [0.0, 0.0]
    assert recovery(target, base, target).mean() == 1.0
    assert recovery(torch.zeros(3, 2), base, target).mean(-1).tolist() == [0.5] * 3


def test_averages_come_first_and_then_the_share():
    """Gaps of 4, .002 and -1: the mean gap is 1.000666..., whatever the ratios of single pairs are."""
    base = torch.zeros(3, dtype=torch.float64)
    target = torch.tensor([4.0, 0.002, -1.0], dtype=torch.float64)
    patched = torch.tensor([1.0, 0.5, 0.5], dtype=torch.float64)  # shares of each gap: .25, 250, -.5
    found = recovery(patched, base, target)
    assert found.tolist() == pytest.approx([1 / (3.002 / 3), 0.5 / (3.002 / 3), 0.5 / (3.002 / 3)])
    assert float(found.mean()) == pytest.approx(2 / 3.002)
    # Swapped completions: every logit difference changes its sign, and no share does.
    assert recovery(-patched, -base, -target).tolist() == pytest.approx(found.tolist())


@pytest.mark.parametrize("gap", [0.0, 1e-6, float("nan")])
def test_no_gap_is_an_error(gap):
    base = torch.tensor([0.0, 1.0])
    with pytest.raises(ValueError, match="there is no gap to recover: the two runs of all 2 pairs have logit diff"):
        recovery(base, base, base + gap)


def test_gaps_that_cancel_are_an_error():
    base = torch.zeros(4)
    with pytest.raises(ValueError, match="the gaps of the 4 pairs cancel: their mean is 0, below 0.0001"):
        mean_gap(base, torch.tensor([1.0, -1.0, 2.0, -2.0]))
    assert float(mean_gap(base, torch.tensor([1.0, -1.0, 2.0, -3.0]))) == -0.25


def test_half_precision_needs_a_larger_gap():
    assert least_gap(torch.float32) == least_gap(torch.float64) == 1e-4
    assert least_gap(torch.bfloat16) == 2**-7 and least_gap(torch.float16) == 2**-10
    base = torch.zeros(2)
    with pytest.raises(ValueError, match="less than 0.0078 apart"):
        recovery(base, base, base + 0.005, least_gap(torch.bfloat16))
