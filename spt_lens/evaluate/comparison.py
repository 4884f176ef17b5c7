"""What came of a comparison: the frontier of every method, the learning rate that validation chose, and the table."""

import html
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import pandas as pd
import plotly.graph_objects as go

from spt_lens.evaluate.evaluate import Evaluation
from spt_lens.evaluate.sycophancy import FIGURES
from spt_lens.evaluate.trials import Trial
from spt_lens.saving import entry, read_json, reading, save_json

METRICS = (*FIGURES, "ability", "choice", "perplexity", "kl", "kl: own replies")


@dataclass(frozen=True, eq=False)
class Comparison:
    """Trials of every method over learning rates and seeds, on a validation and a test split.

    The choice, one rule for every method: of the learning rates whose mean ability on validation is at most
    `max_ability_loss` below the untuned model's, those within `tie` of the best `goal` on validation; of these, the one
    with the least drift there. (If none keeps its ability: the one that loses least.) Figures are means over a method's
    trials; a learning rate at which one diverged is taken only if there is no other. The test split has no part in it.

    settings: what the trials had in common, for the record.
    """

    trials: tuple[Trial, ...]
    settings: dict[str, Any] = field(default_factory=dict)
    max_ability_loss: float = 0.02
    tie: float = 0.01

    def __post_init__(self) -> None:
        if all(trial.spec.tuner for trial in self.trials):
            raise ValueError("a comparison needs the trial of the untuned model")

    @property
    def untuned(self) -> Trial:
        return next(trial for trial in self.trials if not trial.spec.tuner)

    @property
    def goal(self) -> str:
        """What methods are compared by: discernment; of suites that challenge right answers alone, confidence.

        Of suites that challenge none: "resists", the share of replies to the suite's first group that don't give in.
        """
        found = [evaluation for trial in self.trials for evaluation in trial.evaluations.values()]
        known = (name for name in ("discernment", "confidence") if any(_has(each, name) for each in found))
        challenged = any("discernment" in each for each in found)
        return next(known, "discernment" if challenged or not found else "resists")

    @property
    def failed(self) -> tuple[Trial, ...]:
        """Those whose training diverged: no figures, and not in the frontier."""
        return tuple(trial for trial in self.trials if trial.error)

    @property
    def frontier(self) -> pd.DataFrame:
        """One row for each trial and split.

        method, lr, seed, draw, split, chosen (the learning rate is the one chosen on validation), heads, parameters,
        share (of the model's parameters), seconds; then the metrics; ability_loss (untuned minus tuned, mean over the
        abilities); worst_ability and worst_ability_loss (the ability that lost most, on the same dialogues).
        """
        table = self._rows()
        if not table.empty:
            chosen = zip(table["method"], table["lr"], strict=True)
            table.insert(5, "chosen", [self.choice.get(method) == lr for method, lr in chosen])
        return table

    def _rows(self) -> pd.DataFrame:
        rows, goal = [], self.goal
        for trial in self.trials:
            for split, evaluation in trial.evaluations.items() if trial.spec.tuner else ():
                before = self.untuned.evaluations[split]
                row: dict[str, Any] = {name: getattr(trial.spec, name) for name in ("method", "lr", "seed", "draw")}
                row |= {"split": split, "heads": trial.spec.heads, "parameters": trial.parameters}
                row |= {"share": trial.parameters / self.settings.get("parameters", math.nan), "seconds": trial.seconds}
                row |= {name: evaluation[name].value for name in METRICS if name in evaluation}
                if goal == "resists":
                    row[goal] = 1 - next((evaluation[name].value for name in _groups(evaluation)), math.nan)
                names = [name for name in evaluation.estimates if name.startswith("ability: ")]
                losses = {name[9:]: before[name].value - evaluation[name].value for name in names}
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
        goal = self.goal
        wanted = [name for name in (goal, "ability_loss", "kl") if name in table]
        # A model without a right first answer, or without finite predictions, has no such figure. It counts as the
        # worst: left out of the mean, the other seeds would speak for it.
        table = table.fillna({goal: 0.0, "kl": math.inf})
        diverged = {(trial.spec.method, trial.spec.lr) for trial in self.failed}
        means = table[table["split"] == "validation"].groupby(["method", "lr"], sort=False)[wanted].mean()
        chosen = {}
        for method, by_lr in means.groupby(level="method", sort=False):
            by_lr = by_lr.droplevel("method")
            whole = by_lr[[(method, lr) not in diverged for lr in by_lr.index]]
            by_lr = by_lr if whole.empty else whole
            loss = by_lr["ability_loss"] if "ability_loss" in by_lr else pd.Series(0.0, by_lr.index)
            kept = by_lr[loss <= max(self.max_ability_loss, loss.min())]
            near = kept[kept[goal] >= kept[goal].max() - self.tie]
            # Without figures for drift the smallest learning rate is the gentlest guess.
            chosen[str(method)] = float(near["kl"].idxmin() if "kl" in near else min(near.index))
        return chosen

    @property
    def intervals(self) -> pd.DataFrame:
        """method, metric, value, low, high, n, runs, min, max: test figures at the chosen learning rates, and untuned.

        value: the mean over a method's trials (tuning seeds); the MEDIAN over the draws of a method with several
        selections, such as random heads. low, high: the mean, or median, of the trials' 95 % intervals, which speak of
        the cases; min, max: the spread over them, which speaks of the training. nan if one lacks the figure.
        """
        rows = []
        for method, trials in self._chosen().items():
            middle = pd.Series.median if len({trial.spec.draw for trial in trials}) > 1 else pd.Series.mean
            for metric in trials[0].evaluations["test"].estimates:
                found = pd.DataFrame([trial.evaluations["test"][metric] for trial in trials])
                row: dict[str, Any] = {"method": method, "metric": metric}
                # One rule for all three: a median can lie outside of the mean of the intervals.
                row |= {name: middle(found[name], skipna=False) for name in ("value", "low", "high")}
                row |= {"n": int(found["n"].iloc[0]), "runs": len(trials)}
                rows.append(row | {"min": found["value"].min(), "max": found["value"].max()})
        return pd.DataFrame(rows)

    def _chosen(self) -> dict[str, list[Trial]]:
        """Untuned first, then each method's trials at its chosen learning rate."""
        found = {"untuned": [self.untuned]}
        for method, lr in self.choice.items():
            found[method] = [t for t in self.trials if (t.spec.method, t.spec.lr) == (method, lr) and not t.error]
        return found

    @property
    def table(self) -> pd.DataFrame:
        """One row for each method at its chosen learning rate, on the test split: the values of `intervals`.

        Also lr, runs, share of the parameters, and worst_ability_loss: the largest loss of one ability, by the values
        of `intervals`. Where the goal is "resists", "gives in: GROUP" of every group.
        """
        values = self.intervals.pivot(index="method", columns="metric", values="value")
        abilities = [name for name in values.columns if str(name).startswith("ability: ")]
        groups = _groups(self.untuned.evaluations["test"]) if self.goal == "resists" else []
        rows = []
        for method, trials in self._chosen().items():
            row = {"method": method, "lr": trials[0].spec.lr or math.nan, "runs": len(trials)}
            row |= {"share": trials[0].parameters / self.settings.get("parameters", math.nan)}
            row |= {name: values.loc[method, name] for name in (*groups, *METRICS) if name in values.columns}
            losses = values.loc["untuned", abilities] - values.loc[method, abilities]
            rows.append(row | ({"worst_ability_loss": losses.max()} if abilities else {}))
        return pd.DataFrame(rows)

    def within_drift(self, method: str, rival: str, share: float = 0.25, split: str = "test") -> pd.DataFrame:
        """What `method` reaches within a share of the drift that `rival` spends, at each of the rival's learning rates.

        lr, kl and `goal` of the rival (means over its trials); budget (share x kl); ours: the best goal
        among the method's learning rates whose mean drift is within the budget (nan if none is), with our_lr and
        our_kl; difference. Nothing is interpolated. Raises ValueError for an unknown method, or trials without drift.
        """
        table, goal = self._rows(), self.goal
        for name in (method, rival):
            if table.empty or name not in set(table["method"]):
                raise ValueError(f"no trials of a method {name!r}; there are {', '.join(self.choice) or 'none'}")
        if "kl" not in table:
            raise ValueError("these trials measured no drift: give the suites some texts")
        means = table[table["split"] == split].groupby(["method", "lr"])[["kl", goal]].mean()
        ours = means.loc[method].dropna(subset=goal)
        rows = []
        for lr, theirs in means.loc[rival].iterrows():
            row: dict[str, Any] = {"lr": lr, **theirs, "budget": share * theirs["kl"]}
            row |= dict.fromkeys(("ours", "our_lr", "our_kl"), math.nan)
            within = ours[ours["kl"] <= row["budget"]]
            if len(within):
                best = within[goal].idxmax()
                row |= {"ours": within[goal][best], "our_lr": best, "our_kl": within["kl"][best]}
            rows.append(row | {"difference": row["ours"] - row[goal]})
        return pd.DataFrame(rows)

    def figure(self, x: str = "kl", y: str | None = None, split: str = "test") -> go.Figure:
        """The frontier: y (default: the goal) against x over learning rates; x is "kl" or "ability_loss"."""
        from spt_lens.view.curves import frontier_figure

        table = self.frontier
        if table.empty:
            n = len(self.trials) - 1
            raise ValueError(f"there is no frontier to draw: {len(self.failed)} of {n} trials diverged")
        return frontier_figure(
            table[table["split"] == split], x=x, y=y or self.goal, log_x=x == "kl", title=f"{split} split"
        )

    def save(self, path: str | Path) -> Path:
        """Writes it as JSON."""
        chosen_by = {"max_ability_loss": self.max_ability_loss, "tie": self.tie}
        runs = [trial.to_json() for trial in self.trials]
        return save_json(path, "comparison", {"settings": self.settings, **chosen_by, "runs": runs})

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """What `save` wrote. Raises FileNotFoundError, or ValueError for a damaged file or one of another kind."""
        data = read_json(path, "comparison")
        with reading(path, "comparison"):
            if data.get("kind", "comparison") != "comparison":  # early files don't say what they are
                raise ValueError(f"it holds a {data['kind']}")
            trials = tuple(map(Trial.from_json, entry(data, "runs", list)))
            max_ability_loss, tie = entry(data, "max_ability_loss", float), entry(data, "tie", float)
            settings = entry(data, "settings", dict)
            if "parameters" in settings:
                entry(settings, "parameters", int)
            return cls(trials, settings, max_ability_loss, tie)

    def _repr_html_(self) -> str:
        failed = f"<p>{len(self.failed)} trials diverged.</p>" if self.failed else ""
        title = html.escape(f"Test split, at the learning rates chosen on validation. {self.settings or ''}")
        return f"<p>{title}</p>{self.table.to_html(index=False, escape=True, float_format='%.4g', na_rep='')}{failed}"


def _has(evaluation: Evaluation, name: str) -> bool:
    return name in evaluation and not math.isnan(evaluation[name].value)


def _groups(evaluation: Evaluation) -> list[str]:
    return [name for name in evaluation.estimates if name.startswith("gives in: ")]
