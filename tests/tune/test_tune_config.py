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
        {"micro_batch_size": 0},
        {"save_every": 0},
        {"patience": 0},
        {"patience": 1.5},
    ],
)
def test_values_that_cannot_be_meant_are_refused_by_name(wrong):
    with pytest.raises(ValueError, match=f"TuneConfig.{next(iter(wrong))}"):
        TuneConfig(**wrong)


@pytest.mark.parametrize("wrong", [{"checkpoint_activations": 1}, {"micro_batch_size": "2"}, {"patience": [1]}])
def test_values_of_another_type_are_refused_by_name(wrong):
    with pytest.raises(TypeError, match=f"TuneConfig.{next(iter(wrong))}"):
        TuneConfig(**wrong)


def test_what_files_hold_of_it_is_as_before_the_later_settings_came():
    first = [
        *("lr", "steps", "batch_size", "weight_decay", "max_grad_norm", "warmup_share", "schedule", "optimizer"),
        *("momentum", "seed", "projections", "validate_every", "kl_weight", "kl_batch_size"),
    ]
    assert list(TuneConfig().deciding()) == first
    assert TuneConfig(save_every=3, checkpoint_activations=True).deciding() == TuneConfig().deciding()
    changed = TuneConfig(micro_batch_size=2, patience=3).deciding()
    assert changed == {**TuneConfig().deciding(), "micro_batch_size": 2, "patience": 3}
