"""Figures from small tables whose right picture is known."""

from __future__ import annotations

import pandas as pd
import pytest

from spt_lens.view.curves import before_after_figure, frontier_figure, training_figure


def test_training_puts_losses_left_and_shares_right_and_skips_gaps() -> None:
    history = pd.DataFrame(
        {"step": [1, 2, 3], "loss": [3.0, 2.0, 1.0], "lr": [1.0] * 3, "validation_first": [None, 0.5, 0.9]}
    )
    loss, share = training_figure(history).data
    assert (loss.yaxis, share.yaxis) == ("y", "y2")
    assert list(share.x) == [2, 3]


def test_frontier_joins_medians_and_rings_the_choice() -> None:
    table = pd.DataFrame(
        [
            {"method": "SPT", "lr": lr, "kl": lr + seed * lr / 10, "discernment": 0.5 + lr, "chosen": lr == 0.1}
            for lr in (0.01, 0.1)
            for seed in range(3)
        ]
    )
    runs, line, ring = frontier_figure(table).data
    assert len(runs.x) == 6
    assert list(line.x) == pytest.approx([0.011, 0.11])
    assert (ring.x[0], ring.y[0]) == pytest.approx((0.11, 0.6))


def test_a_frontier_on_a_logarithmic_axis_leaves_out_zero_cost() -> None:
    table = pd.DataFrame({"method": ["a", "a"], "lr": [1.0, 2.0], "kl": [0.0, 0.1], "discernment": [0.5, 0.6]})
    assert len(frontier_figure(table).data[0].x) == 1
    assert len(frontier_figure(table, log_x=False).data[0].x) == 2


def test_before_after_whiskers_are_distances_from_the_value() -> None:
    table = pd.DataFrame({"metric": ["confidence", "kl"], "value": [0.5, 3.0], "low": [0.4, 2], "high": [0.7, 4]})
    (bar,) = before_after_figure({"untuned": table}).data
    small = table.assign(value=[0.5, 0.0])  # the untuned model has no drift, and that is still no share
    assert list(before_after_figure({"untuned": small}).data[0].x) == ["confidence"]
    assert list(bar.x) == ["confidence"]  # a figure beyond one is no share
    assert list(bar.error_y.array) == pytest.approx([0.2])
    assert list(bar.error_y.arrayminus) == pytest.approx([0.1])
    with pytest.raises(ValueError, match="drift"):
        before_after_figure({"untuned": table}, metrics=["drift"])
