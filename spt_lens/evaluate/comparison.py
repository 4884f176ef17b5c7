"""What came of a comparison: the frontier of every method, the learning rate that validation chose, and the table."""

from __future__ import annotations

import html
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from spt_lens import saving
from spt_lens.evaluate.runs import Run
from spt_lens.evaluate.sycophancy import FIGURES

METRICS = (*FIGURES, "ability", "kl")


@dataclass(frozen=True, eq=False)
class Comparison:
    """Runs of every method over learning rates and seeds, on a validation and a test split.

    The choice, one rule for every method: of the learning rates whose mean ability on validation is at most
    `max_ability_loss` below the untuned model's, those within `tie` of the best discernment on validation; of these,
    the one with the least drift there. (If none keeps its ability: the one that loses least.) Figures are means over a
    method's runs; a learning rate at which a run diverged is taken only if there is no other. The test split has no
    part in it.

    settings: what the runs had in common, for the record.
    """

    runs: tuple[Run, ...]
    settings: dict[str, Any] = field(default_factory=dict)
    max_ability_loss: float = 0.02
    tie: float = 0.01

    def __post_init__(self) -> None:
        if not any(run.spec.kind == "untuned" for run in self.runs):
            raise ValueError("a comparison needs the run of the untuned model")

    @property
    def untuned(self) -> Run:
        return next(run for run in self.runs if run.spec.kind == "untuned")

    @property
    def failed(self) -> tuple[Run, ...]:
        """Runs whose training diverged: no figures, and not in the frontier."""
        return tuple(run for run in self.runs if run.error)

    @property
    def frontier(self) -> pd.DataFrame:
        """One row for each tuning run and split.

        method, lr, seed, draw, split, chosen (the learning rate is the one chosen on validation), heads, parameters,
        share (of the model's parameters), seconds; then the metrics; ability_loss (untuned minus tuned, mean over the
        abilities); worst_ability and worst_ability_loss (the ability that lost most, on the same dialogues).
        """
        table = self._rows()
        if table.empty:
            return table
        chosen = self.choice
        table.insert(5, "chosen", [chosen.get(m) == lr for m, lr in zip(table["method"], table["lr"], strict=True)])
        return table

    def _rows(self) -> pd.DataFrame:
        total = self.settings.get("parameters")
        rows = []
        for run in self.runs:
            if run.error or run.spec.kind == "untuned":
                continue
            for split, evaluation in run.evaluations.items():
                before = self.untuned.evaluations[split]
                losses = {
                    name.removeprefix("ability: "): before[name].value - evaluation[name].value
                    for name in evaluation.estimates
                    if name.startswith("ability: ")
                }
                row: dict[str, Any] = {
                    "method": run.spec.method,
                    "lr": run.spec.lr,
                    "seed": run.spec.seed,
                    "draw": run.spec.draw,
                    "split": split,
                    "heads": run.spec.heads,
                    "parameters": run.parameters,
                    "share": run.parameters / total if total else float("nan"),
                    "seconds": run.seconds,
                    **{name: evaluation[name].value for name in METRICS if name in evaluation},
                }
                if losses:
                    row["ability_loss"] = before["ability"].value - evaluation["ability"].value
                    row["worst_ability"] = max(losses, key=losses.__getitem__)
                    row["worst_ability_loss"] = max(losses.values())
                rows.append(row)
        return pd.DataFrame(rows)

    @property
    def choice(self) -> dict[str, float]:
        """The learning rate of each method that the rule above chooses on the validation split."""
        table = self._rows()
        if table.empty:
            return {}
        wanted = [name for name in ("discernment", "ability_loss", "kl") if name in table]
        # A model without a right first answer, or without finite predictions, has no such figure. It counts as the
        # worst: left out of the mean, the other seeds would speak for it.
        table = table.fillna({"discernment": 0.0, "kl": math.inf})
        diverged = {(run.spec.method, run.spec.lr) for run in self.failed}
        means = table[table["split"] == "validation"].groupby(["method", "lr"], sort=False)[wanted].mean()
        chosen = {}
        for method, by_lr in means.groupby(level="method", sort=False):
            by_lr = by_lr.droplevel("method")
            whole = by_lr[[(method, lr) not in diverged for lr in by_lr.index]]
            by_lr = by_lr if whole.empty else whole
            loss = by_lr["ability_loss"] if "ability_loss" in by_lr else pd.Series(0.0, by_lr.index)
            kept = by_lr[loss <= self.max_ability_loss]
            if kept.empty:
                kept = by_lr[loss == loss.min()]
            near = kept[kept["discernment"] >= kept["discernment"].max() - self.tie]
            # Without figures for drift the smallest learning rate is the gentlest guess.
            chosen[str(method)] = float(near["kl"].idxmin() if "kl" in near else min(near.index))
        return chosen

    @property
    def intervals(self) -> pd.DataFrame:
        """method, metric, value, low, high, n, runs, min, max: test figures at the chosen learning rates, and untuned.

        value: the mean over a method's runs (tuning seeds); the MEDIAN over the draws of a method with several
        selections, such as random heads. low, high: the mean, or median, of the runs' 95 % intervals, which speak of
        the cases; min, max: the spread over the runs, which speaks of the training. nan if a run lacks the figure.
        """
        rows = []
        for method, runs in self._chosen_runs().items():
            middle = pd.Series.median if len({run.spec.draw for run in runs}) > 1 else pd.Series.mean
            for metric in runs[0].evaluations["test"].estimates:
                found = pd.DataFrame([run.evaluations["test"][metric] for run in runs])
                rows.append(
                    {
                        "method": method,
                        "metric": metric,
                        # One rule for all three: a median can lie outside of the mean of the intervals.
                        **{name: middle(found[name], skipna=False) for name in ("value", "low", "high")},
                        "n": int(found["n"].iloc[0]),
                        "runs": len(runs),
                        "min": found["value"].min(),
                        "max": found["value"].max(),
                    }
                )
        return pd.DataFrame(rows)

    def _chosen_runs(self) -> dict[str, list[Run]]:
        """Untuned first, then each method's runs at its chosen learning rate."""
        found = {"untuned": [self.untuned]}
        for method, lr in self.choice.items():
            found[method] = [r for r in self.runs if r.spec.method == method and r.spec.lr == lr and not r.error]
        return found

    @property
    def table(self) -> pd.DataFrame:
        """One row for each method at its chosen learning rate, on the test split: the values of `intervals`.

        Also lr, runs, share of the parameters, and worst_ability_loss: the largest loss of one ability, by the values
        of `intervals`.
        """
        values = self.intervals.pivot(index="method", columns="metric", values="value")
        total = self.settings.get("parameters")
        rows = []
        for method, runs in self._chosen_runs().items():
            abilities = [name for name in values.columns if str(name).startswith("ability: ")]
            losses = values.loc["untuned", abilities] - values.loc[method, abilities]
            row = {
                "method": method,
                "lr": self.choice.get(method, float("nan")),
                "runs": len(runs),
                "share": runs[0].parameters / total if total else float("nan"),
                **{name: values.loc[method, name] for name in METRICS if name in values.columns},
            }
            rows.append(row | ({"worst_ability_loss": losses.max()} if abilities else {}))
        return pd.DataFrame(rows)

    def within_drift(self, method: str, rival: str, share: float = 0.25, split: str = "test") -> pd.DataFrame:
        """What `method` reaches within a share of the drift that `rival` spends, at each of the rival's learning rates.

        Returns: lr, kl and discernment of the rival (means over its runs); budget (share x kl); ours: the best
            discernment among the method's learning rates whose mean drift is within the budget (nan if none is), with
            our_lr and our_kl; difference. Nothing is interpolated.

        Raises:
            ValueError: an unknown method, or runs without drift.
        """
        table = self._rows()
        for name in (method, rival):
            if table.empty or name not in set(table["method"]):
                raise ValueError(f"no runs of a method {name!r}; there are {', '.join(self.choice) or 'none'}")
        if "kl" not in table:
            raise ValueError("these runs measured no drift: give the suites some texts")
        means = table[table["split"] == split].groupby(["method", "lr"])[["kl", "discernment"]].mean()
        ours = means.loc[method]
        rows = []
        for lr, theirs in means.loc[rival].iterrows():
            budget = share * theirs["kl"]
            within = ours[ours["kl"] <= budget].dropna(subset="discernment")
            row: dict[str, Any] = {"lr": lr, "kl": theirs["kl"], "discernment": theirs["discernment"], "budget": budget}
            if len(within):
                best = within["discernment"].idxmax()
                row |= {"ours": within["discernment"][best], "our_lr": best, "our_kl": within["kl"][best]}
            else:
                row |= dict.fromkeys(("ours", "our_lr", "our_kl"), float("nan"))
            rows.append(row | {"difference": row["ours"] - row["discernment"]})
        return pd.DataFrame(rows)

    def figure(self, x: str = "kl", y: str = "discernment", split: str = "test") -> go.Figure:
        """The frontier: y against x over learning rates, for every method; x is "kl" or "ability_loss"."""
        from spt_lens.view.curves import frontier_figure

        table = self.frontier
        if table.empty:
            raise ValueError(f"there is no frontier to draw: {len(self.failed)} of {len(self.runs) - 1} runs diverged")
        return frontier_figure(table[table["split"] == split], x=x, y=y, log_x=x == "kl", title=f"{split} split")

    def to_json(self) -> dict[str, Any]:
        return {
            "settings": self.settings,
            "max_ability_loss": self.max_ability_loss,
            "tie": self.tie,
            "runs": [run.to_json() for run in self.runs],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Comparison:
        runs = tuple(Run.from_json(run) for run in data["runs"])
        return cls(runs, data["settings"], data["max_ability_loss"], data["tie"])

    def save(self, path: str | Path) -> Path:
        """Writes it as JSON."""
        return saving.write_text(path, json.dumps(self.to_json(), indent=1, allow_nan=False))

    @classmethod
    def load(cls, path: str | Path) -> Comparison:
        """Reads what `save` wrote. Raises ValueError for a file that is something else."""
        data = saving.read_json(path, "comparison")
        with saving.reading(path, "comparison"):
            return cls.from_json(data)

    def _repr_html_(self) -> str:
        failed = f"<p>{len(self.failed)} runs diverged.</p>" if self.failed else ""
        title = html.escape(f"Test split, at the learning rates chosen on validation. {self.settings or ''}")
        return f"<p>{title}</p>{self.table.to_html(index=False, escape=True, float_format='%.4g', na_rep='')}{failed}"
