from __future__ import annotations

import pytest

from spt_lens.tune.training import TuneConfig


@pytest.mark.parametrize(
    "wrong",
    [
        {"lr": 0.0},
        {"lr": float("nan")},
        {"steps": 0},
        {"batch_size": 0},
        {"weight_decay": -0.1},
        {"max_grad_norm": 0.0},
        {"warmup_share": 1.0},
        {"schedule": "liner"},
        {"optimizer": "adam"},
        {"kl_weight": -1.0},
    ],
)
def test_values_that_cannot_be_meant_are_refused_by_name(wrong):
    with pytest.raises(ValueError, match=f"TuneConfig.{next(iter(wrong))}"):
        TuneConfig(**wrong)
