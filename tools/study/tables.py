"""A study's comparison as Markdown tables: test split, goals, other splits, and every learning rate on validation."""

from __future__ import annotations

import math
from collections.abc import Iterable

import pandas as pd

from spt_lens.evaluate.comparison import Comparison
from spt_lens.statistics import Estimate
from spt_lens.study.verdict import goals
from spt_lens.study.work import CHOSEN
from tools.marks import markdown

OWN_DRIFT, DRIFT = "kl: own replies", "kl"
SUPPORTED = "ends right: supported right"
LABELS = {
    "truthfulness": "right kept",
    "self_correction": "wrong put right",
    SUPPORTED: "supported kept",
    "discernment": "discernment",
    "choice": "four-way choice",
    OWN_DRIFT: "drift, own replies",
}
# What the longer table has beside these. The first: a method that forgets answers is challenged on those that are left.
MORE = {
    "accuracy_before": "right when asked again",
    "confidence": "stood by",
    "retracted": "wrong retracted",
    "ends right: own wrong": "own wrong put right",
    "ability": "abilities",
    DRIFT: "drift, texts",
}
ORDER = (
    *("accuracy_before", "truthfulness", "confidence", SUPPORTED),
    *("self_correction", "retracted", "ends right: own wrong"),
    *("discernment", "choice", "ability", OWN_DRIFT, DRIFT),
)
NAMES = LABELS | MORE


def figures(comparison: Comparison, split: str = "test") -> dict[str, dict[str, Estimate]]:
    """Every method's figures on a split at its chosen learning rate, and the untuned model's, as `intervals` does."""
    found: dict[str, dict[str, Estimate]] = {}
    for row in comparison.intervals_on(split).itertuples():
        found.setdefault(row.method, {})[row.metric] = Estimate(row.value, row.low, row.high, row.n)
    return found


def methods_table(
    comparison: Comparison, split: str = "test", metrics: Iterable[str] = tuple(LABELS), digits: int = 2
) -> str:
    """A row a method at its chosen learning rate: figures on a split with their intervals."""
    found = figures(comparison, split)
    shown = [metric for metric in metrics if any(metric in its for its in found.values())]
    rows = []
    for method, its in found.items():
        row = {"method": method, "tuned": "", "lr": ""}
        if method in comparison.choice:
            row |= {"tuned": f"{_share(comparison, method):.1%}", "lr": f"{comparison.choice[method]:g}"}
        for metric in shown:
            places = digits + 1 if metric in (DRIFT, OWN_DRIFT) else digits
            row[NAMES[metric]] = _cell(its[metric], places) if metric in its else ""
        rows.append(row)
    return markdown(rows)


def goals_table(comparison: Comparison) -> str:
    """The goals of `study/verdict.py`'s `goals`, and which each method reaches on the test split."""
    rows: dict[str, dict[str, str]] = {}
    for method in ("untuned", *comparison.choice):
        for row in goals(comparison, method).itertuples():
            shown = rows.setdefault(row.goal, {"goal": row.goal, "wanted": f"{row.wanted:.3g}"})
            shown[method] = f"{row.found:.3f}, {row.reached}"
    return markdown(list(rows.values()))


def rates_table(comparison: Comparison, split: str = "validation", edges: bool = False) -> str:
    """Every method at every learning rate: the mean over its trials (of several draws the median), without intervals.

    The rate that the validation split chose is bold. edges: and is said to be the highest or the lowest, if it is that
    of those tried.
    """
    rows = []
    for trial in comparison.trials:
        if trial.spec.tuner and split in trial.evaluations and not trial.error:
            its = {name: each.value for name, each in trial.evaluations[split].estimates.items()}
            row = {"method": trial.spec.method, "lr": trial.spec.lr, "draw": trial.spec.draw}
            rows.append(row | {name: its[name] for name in LABELS if name in its})
    shown = []
    for (method, lr), runs in pd.DataFrame(rows).groupby(["method", "lr"], sort=False):
        values = runs.drop(columns=["method", "lr", "draw"])
        middle = values.median(skipna=False) if runs["draw"].nunique() > 1 else values.mean(skipna=False)
        bold = "**" if comparison.choice.get(method) == lr else ""
        edge = _edge(comparison, method) if edges and bold else ""
        cells = {"method": method, "lr": f"{bold}{lr:g}{bold}{edge}", "runs": str(len(runs))}
        for name in values.columns:
            digits = 3 if name in (DRIFT, OWN_DRIFT) else 2
            cells[NAMES[name]] = "" if math.isnan(middle[name]) else f"{middle[name]:.{digits}f}"
        shown.append(cells)
    return markdown(shown)


def _edge(comparison: Comparison, method: str) -> str:
    """Where the chosen rate lies among those tried: nothing, if it is between others or the only one."""
    rates = {trial.spec.lr for trial in comparison.trials if trial.spec.method == method}
    ends = {max(rates): ", highest tried", min(rates): ", lowest tried"} if len(rates) > 1 else {}
    return ends.get(comparison.choice[method], "")


def cost_table(comparison: Comparison) -> str:
    """What tuning took in the trials of each method, without what evaluating took."""
    rows = []
    for method in ("untuned", *comparison.choice):
        seconds = [trial.seconds for trial in comparison.trials if trial.spec.method == method]
        each = f"{sum(seconds) / len(seconds):.0f}"
        rows.append({"method": method, "trials": f"{len(seconds)}", "s of tuning a trial": each})
        rows[-1]["minutes in all"] = f"{sum(seconds) / 60:.0f}"
    return markdown(rows)


def caption(comparison: Comparison, split: str = "test") -> str:
    """How many cases and runs are behind a table of this split."""
    untuned, settings = figures(comparison, split)["untuned"], comparison.settings
    counts = {
        "right first answers challenged": "truthfulness",
        "wrong ones": "self_correction",
        "supported": SUPPORTED,
        "four-way choices": "choice",
        "prompts for drift": OWN_DRIFT,
    }
    parts = [f"{untuned[metric].n} {what}" for what, metric in counts.items() if metric in untuned]
    runs = {row.method: row.runs for row in comparison.table.itertuples() if row.method in comparison.choice}
    behind = ", ".join(f"{name} {n}" for name, n in runs.items())
    return (
        f"Split {split!r}: {', '.join(parts)}. {settings['steps']} steps of {settings['batch_size']} dialogues for "
        f"every method. Runs behind a row: {behind}; means over seeds, for random heads the median over draws. "
        "In brackets: 95 % intervals over the cases."
    )


def other_splits(comparison: Comparison) -> list[str]:
    """What it was evaluated on beside "validation" and "test"."""
    return [name for name in comparison.splits if name not in ("validation", "test")]


def drift_of(comparison: Comparison) -> str:
    """What drift is shown by: that on own replies, where it was measured."""
    return OWN_DRIFT if OWN_DRIFT in comparison.untuned.evaluations["validation"] else DRIFT


def equal_table(comparison: Comparison, split: str, share: float, rival: str) -> str:
    """`Comparison.at_equal_drift` of the chosen heads, within a share of the rival's drift. "" without such a rival."""
    if not {CHOSEN, rival} <= comparison.choice.keys():
        return ""
    rows = []
    for row in comparison.at_equal_drift(CHOSEN, rival, split, drift_of(comparison), share).itertuples():
        if min(row.runs, row.rival_runs) == 0:
            continue
        ours = Estimate(row.value, row.low, row.high, row.runs)
        theirs = Estimate(row.rival_value, row.rival_low, row.rival_high, row.rival_runs)
        gap = Estimate(row.difference, row.difference_low, row.difference_high, row.runs)
        rows.append(
            {
                f"{rival}, drift at most": f"{row.budget:.3f}",
                f"{CHOSEN}, lr": f"{row.lr:g}",
                f"{CHOSEN}, {comparison.goal}": _cell(ours, 3),
                f"{rival}, lr": f"{row.rival_lr:g}",
                f"{rival}, {comparison.goal}": _cell(theirs, 3),
                "difference": _cell(gap, 3),
            }
        )
    return markdown(rows) if rows else "The two have no drift in common."


def _share(comparison: Comparison, method: str) -> float:
    weights = next(trial.parameters for trial in comparison.trials if trial.spec.method == method)
    return float(weights / comparison.settings["parameters"])


def _cell(estimate: Estimate, digits: int) -> str:
    if math.isnan(estimate.value):
        return ""
    return f"{estimate.value:.{digits}f} [{estimate.low:.{digits}f}, {estimate.high:.{digits}f}]"
