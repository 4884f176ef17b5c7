"""The drift that methods need to reach a figure, and whether it still tells them apart, on trials that are made up."""

from __future__ import annotations

import math

import pandas as pd
import pytest

from spt_lens.evaluate.comparison import Comparison
from spt_lens.evaluate.equal_reach import LEAST, TOP, saturated
from spt_lens.evaluate.evaluate import Evaluation
from spt_lens.evaluate.trials import Spec, Trial
from spt_lens.statistics import Estimate

NAN = math.nan


def on(discernment: float, kl: float | None) -> Evaluation:
    figures = {"discernment": Estimate(discernment, discernment - 0.03, min(1.0, discernment + 0.03), 100)}
    figures |= {} if kl is None else {"kl": Estimate(kl, kl - 0.001, kl + 0.001, 50)}
    return Evaluation("model", "made", figures)


def trial(method: str, lr: float, validation: float, kl: float | None, test: float = NAN, draw: int = 0) -> Trial:
    """kl: on validation; half as much on test. test: default: as on validation."""
    found = {"validation": on(validation, kl)}
    found["test"] = on(validation if math.isnan(test) else test, None if kl is None else kl / 2)
    return Trial(Spec(method, lr, 0, draw, "some tuner"), 10, 1.0, found)


def made(*trials: Trial, untuned: float = 0.5) -> Comparison:
    return Comparison((Trial(Spec("untuned"), 0, 0.0, {s: on(untuned, 0.0) for s in ("validation", "test")}), *trials))


HEADS = (trial("heads", 1e-3, 0.80, 0.01, 0.99), trial("heads", 2e-3, 0.96, 0.02, 0.94), trial("heads", 4e-3, 1, 0.06))
DRAWS = tuple(trial("random", 1e-3, 0.97 + i / 100, 0.04 + 0.1 * i, draw=i) for i in range(3))
WEAK = (trial("weak", 1e-3, 0.6, 0.02), trial("weak", 2e-3, 0.7, 0.08))


def needed(comparison: Comparison, *args: object, **more: object) -> pd.DataFrame:
    return comparison.drift_needed(*args, **more).set_index("method")  # type: ignore[arg-type]


def test_each_takes_the_cheapest_rate_that_reaches_it_on_validation():
    found = needed(made(*HEADS, *DRAWS, *WEAK))
    heads, random, weak = found.loc["heads"], found.loc["random"], found.loc["weak"]
    # 1e-3 reaches it on test alone, 2e-3 on validation alone: nothing is chosen on test, and what is there is told.
    assert (heads["lr"], heads["value"], heads["rates"], heads["runs"]) == (2e-3, 0.94, 3, 1)
    assert (heads["drift"], heads["missed"]) == (pytest.approx(0.01), pytest.approx(0.005))  # both on test
    assert (heads["drift_low"], heads["drift_high"]) == (pytest.approx(0.009), pytest.approx(0.011))
    # Of the draws the median, and their spread is in the interval; no cheaper rate was tried.
    assert (random["drift"], random["runs"]) == (pytest.approx(0.07), 3) and math.isnan(random["missed"])
    assert random["drift_low"] == pytest.approx(0.07 - math.hypot(0.05, 0.001))
    # None of its rates reaches it: what is known is that the most it spent does not do.
    assert math.isnan(weak["lr"]) and math.isnan(weak["drift"]) and weak["runs"] == 0
    assert (weak["rates"], weak["missed"]) == (2, pytest.approx(0.04))


def test_how_far_methods_are_to_come_and_where_is_asked():
    comparison = made(*HEADS, *WEAK)
    found = needed(comparison, 0.65)
    assert list(found["lr"]) == [1e-3, 2e-3] and math.isnan(found.loc["heads", "missed"])
    assert needed(comparison, 0.97).loc["heads", "lr"] == 4e-3
    assert needed(comparison, split="validation").loc["heads", "drift"] == pytest.approx(0.02)
    with pytest.raises(ValueError, match="least"):
        comparison.drift_needed(1.5)


def test_a_method_without_drift_has_an_empty_row_and_a_comparison_without_any_is_refused():
    found = needed(made(*HEADS, trial("other", 1e-3, 1.0, None)))
    assert found.loc["other", "rates"] == 0 and math.isnan(found.loc["other", "drift"])
    assert found.loc["heads", "lr"] == 2e-3
    with pytest.raises(ValueError, match="'kl: own replies' on validation"):
        made(*HEADS).drift_needed(drift="kl: own replies")
    both = HEADS[1].evaluations
    bare = Trial(Spec("heads", 1e-3, tuner="some"), 10, 1.0, {"validation": both["validation"], "test": on(0.9, None)})
    with pytest.raises(ValueError, match="no 'kl' on 'test'"):
        made(bare).drift_needed()


def table(untuned: float = 0.5, **methods: tuple[float, float, float]) -> pd.DataFrame:
    rows = [{"method": name, "value": v, "low": low, "high": high} for name, (v, low, high) in methods.items()]
    rows.append({"method": "untuned", "value": untuned, "low": untuned, "high": untuned})
    return pd.DataFrame([{"metric": "discernment", **row} for row in rows])


FULL = (1.0, 0.97, 1.0)


@pytest.mark.parametrize(
    ("rows", "is_full"),
    [
        (table(one=FULL, other=FULL), True),
        (table(one=FULL, other=(TOP, 0.94, 0.99)), True),
        (table(one=FULL, other=(TOP - 0.001, 0.94, 0.99)), False),  # it reaches less
        (table(one=(1.0, 0.995, 1.0), other=(0.985, 0.98, 0.99)), False),  # so many cases tell them apart
        (table(one=FULL, other=(NAN, NAN, NAN)), False),
        (table(one=FULL), False),  # nothing to tell apart
        (table(one=FULL, other=FULL, untuned=0.99), False),  # nothing to cure
    ],
)
def test_a_figure_is_full_where_all_reach_the_top_and_none_is_ahead(rows, is_full):
    assert saturated(rows, "discernment") is is_full
    assert not saturated(rows, "confidence")


def test_the_rule_is_asked_of_the_chosen_rates():
    full = made(trial("heads", 1e-3, 0.5, 0.01), trial("heads", 2e-3, 1.0, 0.02), trial("other", 1e-3, 1.0, 0.1))
    assert saturated(full.intervals, full.goal) and LEAST < TOP
    assert not saturated(made(*HEADS, *WEAK).intervals, "discernment")
