"""Logit difference and recovery."""

from __future__ import annotations

import pytest
import torch

from spt_lens.scores.metrics import recovery


def test_recovery_ends_and_middle():
    base, target = torch.tensor([-2.0, 1.0]), torch.tensor([2.0, -1.0])
    assert recovery(base, base, target).tolist() == [0.0, 0.0]
    assert recovery(target, base, target).tolist() == [1.0, 1.0]
    assert recovery(torch.zeros(3, 2), base, target).tolist() == [[0.5, 0.5]] * 3


@pytest.mark.parametrize("gap", [0.0, 1e-6, float("nan")])
def test_no_gap_is_an_error(gap):
    base = torch.tensor([0.0, 1.0])
    with pytest.raises(ValueError, match="1 of 2 pairs .*pair 1.* no gap"):
        recovery(base, base, base + torch.tensor([1.0, gap]))
