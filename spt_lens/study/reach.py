"""What tells methods apart where the goal no longer does, being full for all: the drift that each needs to reach it."""

from __future__ import annotations

import contextlib
import math
from typing import Any

import pandas as pd

from spt_lens.evaluate.comparison import Comparison
from spt_lens.evaluate.equal_reach import LEAST, saturated
from spt_lens.study.verdict import DRIFTS
from spt_lens.view.style import readable

RULE = (
    "Of each method the learning rate with the least drift that reaches so much on the validation split; figures are "
    "those of the {split} split, with 95 % intervals over cases and runs. Missed at: the drift of a cheaper rate that "
    "did not reach it on validation, so that the need lies between the two. –: no rate that was tried reaches it."
)


def drift_of(comparison: Comparison) -> str:
    """The figure for drift that methods are compared by; "" without one."""
    return next((kl for kl in DRIFTS if kl in comparison.frontier), "")


def needed_drift(comparison: Comparison) -> str:
    """The figure for drift of which the need can be told: some method has it on validation, where rates are chosen, and
    on the split that is told of; "" without one."""
    for kl in DRIFTS:
        if kl in comparison.frontier:
            with contextlib.suppress(ValueError):  # no method has it on both
                comparison.drift_needed(LEAST, split_of(comparison), kl)
                return kl
    return ""


def saturation(comparison: Comparison) -> str:
    """Sentences where every method reaches the top of the scale on the split that is told of; "" where not."""
    table, goal = comparison.intervals, comparison.goal
    if not saturated(table, goal):
        return ""
    values = table[table["metric"] == goal].set_index("method")["value"]
    tuned = values.drop("untuned")
    least, most = (f"{value:.3f}" for value in (tuned.min(), tuned.max()))
    reached = most if least == most else f"{least} to {most}"
    known = bool(needed_drift(comparison))
    apart = "What does is the drift that each needs for it." if known else "Their drift was not measured."
    return (
        f"Every method reaches {reached} of {readable(goal)} here (the untuned model {values['untuned']:.3f}): this "
        f"figure tells them apart no more. {apart}"
    )


def split_of(comparison: Comparison) -> str:
    """The split on which every learning rate was evaluated: test, or after `test_each=False` validation."""
    table = comparison.frontier
    tried = table.groupby("split")[["method", "lr"]].apply(lambda rows: len(rows.drop_duplicates()))
    return "test" if tried.get("test", 0) == tried.max() else "validation"


def reach_table(comparison: Comparison, least: float = LEAST, split: str | None = None) -> pd.DataFrame:
    """A row for each method as text: the drift it needs to reach `least` of the goal, and what that rests on.

    Raises: ValueError as `Comparison.drift_needed`, such as for a comparison without drift.
    """
    split, goal = split or split_of(comparison), readable(comparison.goal)
    found = comparison.drift_needed(least, split, needed_drift(comparison) or "kl")
    total, rows = comparison.settings.get("parameters", math.nan), []
    for row in found.to_dict("records"):
        reaches = row["runs"] > 0
        tuned = comparison.chosen[row["method"]][0].parameters / total
        cells: dict[str, Any] = {"method": row["method"], "tuned": "" if math.isnan(tuned) else f"{tuned:.1%}"}
        cells[f"drift needed for {goal} ≥ {least:g}"] = _span(row, "drift", 4) if reaches else "–"
        cells["missed at"] = "no cheaper rate tried" if math.isnan(row["missed"]) else f"{row['missed']:.4f}"
        cells[f"{goal} there"] = _span(row, "", 3) if reaches else ""
        cells["lr"] = f"{row['lr']:g}" if reaches else ""
        cells["runs"] = str(row["runs"]) if reaches else ""
        rows.append(cells)
    return pd.DataFrame(rows)


def _span(row: dict[str, Any], name: str, digits: int) -> str:
    ends = ("low", "high") if not name else (f"{name}_low", f"{name}_high")
    value, low, high = (f"{row[key]:.{digits}f}" for key in (name or "value", *ends))
    return f"{value} [{low}, {high}]"
