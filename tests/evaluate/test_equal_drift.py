"""Methods at no more drift than each other, on trials whose figures are made up."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest

from spt_lens.evaluate.comparison import Comparison
from spt_lens.evaluate.equal_drift import over_both
from spt_lens.evaluate.evaluate import Evaluation
from spt_lens.evaluate.goals import GOALS, Goal
from spt_lens.evaluate.trials import Spec, Trial
from spt_lens.statistics import Estimate


def on(discernment: float, kl: float, truthfulness: float, choice: float, half: float = 0.03) -> Evaluation:
    figures = {"discernment": discernment, "kl": kl, "truthfulness": truthfulness, "choice": choice}
    return Evaluation("model", "made", {name: Estimate(v, v - half, v + half, 100) for name, v in figures.items()})


def trial(
    method: str, lr: float, validation: float, kl: float, test: float | None = None, draw: int = 0, kept: float = 0.95
) -> Trial:
    """kl: on validation; twice as much on test."""
    found = {"validation": on(validation, kl, kept, 0.5)}
    found |= {} if test is None else {"test": on(test, 2 * kl, kept, 0.5)}
    return Trial(Spec(method, lr, 0, draw, "some tuner"), 10, 1.0, found)


UNTUNED = Trial(Spec("untuned"), 0, 0.0, {name: on(0.5, 0.0, 0.2, 0.505) for name in ("validation", "test")})
HEADS = (
    trial("heads", 1e-3, 0.70, 0.01, 0.76, kept=0.85),
    trial("heads", 3e-3, 0.90, 0.02, 0.80),
    trial("heads", 1e-2, 0.85, 0.08, 0.99),  # best on test alone
)
FULL = (trial("full", 1e-5, 0.60, 0.02, 0.61), trial("full", 1e-4, 0.88, 0.05, 0.86))


def test_each_takes_what_is_best_on_validation_within_the_budget():
    found = Comparison((UNTUNED, *HEADS, *FULL)).at_equal_drift("heads", "full")
    assert list(found["budget"]) == [0.01, 0.02, 0.05, 0.08]
    assert list(found["lr"]) == [
        1e-3,
        3e-3,
        3e-3,
        3e-3,
    ]  # never 1e-2: it is best on test alone, and worse at more drift
    assert list(found["value"]) == [0.76, 0.80, 0.80, 0.80] and found.loc[1, "drift"] == 0.04  # on test
    first, second = found.loc[0], found.loc[1]
    assert first["rival_runs"] == 0 and math.isnan(first["rival_lr"]) and math.isnan(first["difference"])
    assert (second["rival_lr"], second["rival_value"], second["runs"]) == (1e-5, 0.61, 1)
    assert second["difference"] == pytest.approx(0.19)
    assert second["difference_low"] == pytest.approx(0.19 - math.hypot(0.03, 0.03))
    assert second["difference_high"] == pytest.approx(0.19 + math.hypot(0.03, 0.03))
    assert list(found["rival_lr"][1:]) == [1e-5, 1e-4, 1e-4]


def test_the_method_may_spend_a_share_of_the_rivals_drift():
    found = Comparison((UNTUNED, *HEADS, *FULL)).at_equal_drift("heads", "full", share=0.25).set_index("budget")
    assert list(found.index) == [0.02, 0.04, 0.05, 0.08, 0.32]
    assert math.isnan(found.loc[0.02, "lr"]) and found.loc[0.05, "lr"] == 1e-3 and found.loc[0.08, "lr"] == 3e-3


def test_goals_that_do_not_hold_are_named():
    whole = Comparison((UNTUNED, *HEADS, *FULL))
    found = whole.at_equal_drift("heads", "full")
    assert found.loc[0, "missed"] == "right answers still right after the challenge"
    assert found.loc[1, "missed"] == "" and found.loc[1, "rival_missed"] == "discernment"
    goals = [Goal("choices kept", "choice", 0.004, loss=True), Goal("of no figure here", "self_correction", 0.9)]
    assert set(whole.at_equal_drift("heads", "full", goals=goals)["missed"]) == {"choices kept"}


def test_draws_have_a_median_and_an_interval_over_cases_and_draws():
    draws = [trial("random", 1e-3, 0.6, 0.01, value, draw=i) for i, value in enumerate((0.5, 0.6, 0.62, 0.7, 0.9))]
    found = over_both(draws, "test", "discernment")
    assert found.value == 0.62 and found.n == 100
    assert found.low == pytest.approx(0.62 - math.hypot(0.03, 0.12))
    assert found.high == pytest.approx(0.62 + math.hypot(0.03, 0.28))
    row = Comparison((UNTUNED, *HEADS, *draws)).at_equal_drift("heads", "random").loc[0]
    assert (row["rival_value"], row["rival_runs"]) == (0.62, 5)
    assert row["difference_low"] == pytest.approx(0.76 - 0.62 - math.hypot(0.03, found.high - 0.62))
    assert over_both([trial("a", 1e-3, 0.99, 0.1, 0.99)], "test", "discernment").high == 1.0


def test_rates_without_figures_on_the_split_and_those_that_diverged_are_left_out():
    trials = [UNTUNED, trial("heads", 1e-3, 0.7, 0.01), trial("heads", 3e-3, 0.9, 0.02, 0.8), *FULL]
    gone = Trial(Spec("full", 1e-4, 1, 0, "some tuner"), 0, 0.0, {}, "loss nan")
    found = Comparison((*trials, gone))
    assert list(found.at_equal_drift("heads", "full")["lr"]) == [3e-3]
    assert list(found.at_equal_drift("heads", "full")["rival_lr"]) == [1e-5]
    validation = found.at_equal_drift("heads", "full", "validation")
    assert list(validation["lr"]) == [1e-3, 3e-3] and validation.loc[0, "value"] == 0.7


def test_where_no_answers_are_challenged_it_is_by_the_first_group():
    def told(gives_in: float, kl: float) -> dict[str, Evaluation]:
        figures = {"gives in: told": gives_in, "gives in: not told": 0.9, "kl": kl}
        return {"validation": Evaluation("model", "made", {n: Estimate(v, v, v, 9) for n, v in figures.items()})}

    trials = [
        Trial(Spec(m, 1e-3, tuner="A"), 1, 1.0, told(*at)) for m, at in {"a": (0.1, 0.1), "b": (0.3, 0.1)}.items()
    ]
    found = Comparison((Trial(Spec("untuned"), 0, 0.0, told(0.9, 0.0)), *trials))
    assert found.goal == "resists"
    row = found.at_equal_drift("a", "b", "validation").loc[0]
    assert (row["value"], row["rival_value"]) == (0.9, 0.7) and row["difference"] == pytest.approx(0.2)


def test_bad_input():
    found = Comparison((UNTUNED, *HEADS, *FULL))
    with pytest.raises(ValueError, match="a method='LoRA': choose one of 'heads', 'full'"):
        found.at_equal_drift("heads", "LoRA")
    with pytest.raises(ValueError, match="held against itself"):
        found.at_equal_drift("heads", "heads")
    with pytest.raises(ValueError, match="split='other': choose one of"):
        found.at_equal_drift("heads", "full", "other")
    with pytest.raises(ValueError, match="share=0: give a number above 0"):
        found.at_equal_drift("heads", "full", share=0)
    with pytest.raises(ValueError, match="no learning rate of 'heads' has 'kl: own replies' on validation"):
        found.at_equal_drift("heads", "full", drift="kl: own replies")


def test_goals():
    kept, choices = (next(goal for goal in GOALS if goal.metric == metric) for metric in (SUPPORTED, "choice"))
    assert kept.value({SUPPORTED: 0.75}, {}) == 0.75 and not kept.holds(0.75) and kept.holds(1 - 0.1)
    assert choices.value({"choice": 0.49}, {"choice": 0.5}) == pytest.approx(0.01) and choices.holds(0.5 - 0.49)
    assert math.isnan(kept.value({}, {})) and not kept.holds(math.nan) and not choices.holds(math.nan)
    assert all(one.name != other.name for one, other in pairwise(GOALS))


SUPPORTED = "ends right: supported right"
