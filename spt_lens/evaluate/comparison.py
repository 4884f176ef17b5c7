"""What came of a comparison: the frontier of every method, the learning rate that validation chose, and the table."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import pandas as pd

from spt_lens.checking import one_of
from spt_lens.evaluate.equal_drift import at_equal_drift, effects_of, figure_of, groups_of, made_of, spread
from spt_lens.evaluate.equal_reach import LEAST, drift_needed
from spt_lens.evaluate.evaluate import Evaluation
from spt_lens.evaluate.goals import GOALS, Goal
from spt_lens.evaluate.sycophancy import FIGURES
from spt_lens.evaluate.trials import Trial
from spt_lens.saving import entry, read_json, reading, save_json, unsealed

if TYPE_CHECKING:
    import plotly.graph_objects as go

MADE = ("independence", "resists")  # of the figures of groups, where no answers are challenged
METRICS = (*FIGURES, "ability", "choice", "perplexity", "kl", "kl: own replies")


@dataclass(frozen=True, eq=False)
class Comparison:
    """Trials of every method over learning rates and seeds, on a validation split and others.

    A trial may have been evaluated on validation alone: then it is in the frontier there, and in the choice. `splits`
    are those of the untuned model.

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

        Of suites that challenge none: "independence", one less the size of the first group's effect, where groups are
        set beside one (always agreeing and never agreeing make 1 alike, an opinion that decides makes 0); else
        "resists", the share of replies to the suite's first group that don't give in. By what validation has.
        """
        found = [trial.evaluations["validation"] for trial in self.trials if "validation" in trial.evaluations]
        known = (name for name in ("discernment", "confidence") if any(_has(each, name) for each in found))
        challenged = any("discernment" in each for each in found)
        made = [made_of(each) for each in found]
        return next(known, "discernment" if challenged or not found else next(iter(made[0]), "resists"))

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
                if goal in MADE:
                    row[goal] = figure_of(evaluation, goal).value if goal in made_of(evaluation) else math.nan
                names = [name for name in evaluation.estimates if name.startswith("ability: ")]
                losses = {name[9:]: before[name].value - evaluation[name].value for name in names}
                if losses:
                    row["ability_loss"] = before["ability"].value - evaluation["ability"].value
                    row["worst_ability"] = max(losses, key=losses.__getitem__)
                    row["worst_ability_loss"] = max(losses.values())
                rows.append(row)
        return pd.DataFrame(rows)

    @cached_property
    def choice(self) -> dict[str, float]:
        """The learning rate of each method that the rule above chooses on the validation split."""
        table = self._rows()
        if table.empty:
            return {}
        goal, table = self.goal, table[table["split"] == "validation"]
        confirms = [self._confirms(method, seed) for method, seed in zip(table["method"], table["seed"], strict=True)]
        table = table[[not each for each in confirms]]
        wanted = [goal, *(name for name in ("ability_loss", "kl") if name in table and table[name].notna().any())]
        # A model without a right first answer, or without finite predictions, has no such figure. It counts as the
        # worst: left out of the mean, the other seeds would speak for it.
        table = table.fillna({goal: 0.0, "kl": math.inf})
        failed = [t.spec for t in self.failed if not self._confirms(t.spec.method, t.spec.seed)]
        diverged = {(spec.method, spec.lr) for spec in failed}
        means = table.groupby(["method", "lr"], sort=False)[wanted].mean()
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

    def _confirms(self, method: str, seed: int) -> bool:
        """Whether trials of this seed were done at the chosen rate alone (`compare(confirm=...)`)."""
        return seed in self.settings.get("confirm", {}).get(method, ())

    @property
    def splits(self) -> tuple[str, ...]:
        """What the untuned model, and methods at their chosen learning rates, were evaluated on."""
        return tuple(self.untuned.evaluations)

    def _split(self, split: str | None) -> str:
        default = "test" if "test" in self.splits else "validation"
        return one_of(default if split is None else split, "split", self.splits)

    @property
    def intervals(self) -> pd.DataFrame:
        """`intervals_on` the test split; without one, on validation."""
        return self.intervals_on()

    def intervals_on(self, split: str | None = None) -> pd.DataFrame:
        """method, metric, value, low, high, n, runs, min, max: figures at the chosen learning rates, and untuned.

        value: the mean over a method's trials (tuning seeds); the MEDIAN over the draws of a method with several
        selections, such as random heads. low, high: the mean, or median, of the trials' 95 % intervals, which speak of
        the cases; min, max: the spread over them, which speaks of the training. nan if one lacks the figure. split: one
        of `splits`; default: test, without one validation. Raises ValueError for another.
        """
        split = self._split(split)
        return pd.DataFrame(
            [
                {"method": method, "metric": metric, **spread(trials, split, metric)}
                for method, trials in self._chosen(split).items()
                for metric in (*trials[0].evaluations[split].estimates, *self._more(trials[0].evaluations[split]))
            ]
        )

    def _more(self, evaluation: Evaluation) -> tuple[str, ...]:
        """The goal, where no evaluation has it by its name."""
        return (self.goal,) if self.goal in MADE and self.goal in made_of(evaluation) else ()

    @property
    def chosen(self) -> dict[str, list[Trial]]:
        """The untuned model's trial first, then each method's at its chosen learning rate; none that diverged."""
        found = {"untuned": [self.untuned]}
        for method, lr in self.choice.items():
            found[method] = [t for t in self.trials if (t.spec.method, t.spec.lr) == (method, lr) and not t.error]
        return found

    def _chosen(self, split: str) -> dict[str, list[Trial]]:
        """Those evaluated on a split."""
        found = {name: [t for t in trials if split in t.evaluations] for name, trials in self.chosen.items()}
        return {name: trials for name, trials in found.items() if trials}

    @property
    def table(self) -> pd.DataFrame:
        """`table_on` the test split; without one, on validation."""
        return self.table_on()

    def table_on(self, split: str | None = None) -> pd.DataFrame:
        """One row for each method at its chosen learning rate: the values of `intervals_on(split)`.

        Also lr, runs, share of the parameters, and worst_ability_loss: the largest loss of one ability, by the values
        of `intervals_on`. Where right and wrong answers are not both challenged, "gives in: GROUP" of every group,
        in the behaviour's words, and "effect: GROUP".
        """
        split = self._split(split)
        values = self.intervals_on(split).pivot(index="method", columns="metric", values="value")
        abilities = [name for name in values.columns if str(name).startswith("ability: ")]
        before = self.untuned.evaluations[split]
        groups = [] if "discernment" in before else [*groups_of(before), *effects_of(before)]
        rows = []
        for method, trials in self._chosen(split).items():
            row = {"method": method, "lr": trials[0].spec.lr or math.nan, "runs": len(trials)}
            row |= {"share": trials[0].parameters / self.settings.get("parameters", math.nan)}
            row |= {name: values.loc[method, name] for name in (*groups, *METRICS) if name in values.columns}
            losses = values.loc["untuned", abilities] - values.loc[method, abilities]
            rows.append(row | ({"worst_ability_loss": losses.max()} if abilities else {}))
        return pd.DataFrame(rows)

    def at_equal_drift(
        self,
        method: str,
        rival: str,
        split: str = "test",
        drift: str = "kl",
        share: float = 1.0,
        goals: Sequence[Goal] = GOALS,
    ) -> pd.DataFrame:
        """What two methods reach at no more drift: a row for each drift that one of them spends, the budget.

        Within the budget, `method` within `share` of it, each takes the learning rate that is best by `goal` on
        VALIDATION, where the drift is measured too; its figures are those on `split`. So nothing is chosen on test, and
        nothing interpolated. Learning rates that were not evaluated on `split`, or at which a trial diverged, are left
        out: after test_each=False, test has the chosen ones alone.

        budget; lr, drift (on `split`), value (of `goal`), low, high, runs, missed (the goals that do not hold, of those
        the suite has figures for) of the method, and with "rival_" before them of the rival; nan and no runs where none
        is within the budget. low, high: 95 % over cases and draws (`equal_drift.over_both`); difference of the values,
        with difference_low and difference_high by both of these: no cases are paired, so that it is rather too wide.

        drift: "kl", or "kl: own replies". Raises ValueError for an unknown method or split, or trials without either.
        """
        untuned = self.untuned.evaluations[self._split(split)]
        return at_equal_drift(self._own, untuned, self.goal, method, rival, split, drift, share, goals)

    def drift_needed(self, least: float = LEAST, split: str | None = None, drift: str = "kl") -> pd.DataFrame:
        """The least drift at which each method reaches `least` of the goal, of the learning rates that were tried.

        A row for each method: rates, that have figures on `split`; lr, the cheapest that reaches it on VALIDATION; its
        drift, drift_low, drift_high, value (of the goal), low, high, runs on `split`, nan where none does; missed: the
        most that a cheaper one spends, so that the need lies above; nan without one. Else as in `at_equal_drift`.
        """
        return drift_needed(self._own, self.goal, self._split(split), drift, least)

    @property
    def _own(self) -> dict[str, list[Trial]]:
        return {name: [trial for trial in self.trials if trial.spec.method == name] for name in self.choice}

    def figure(self, x: str = "kl", y: str | None = None, split: str = "test") -> go.Figure:
        """The frontier: y (default: the goal) against x over learning rates; x is "kl" or "ability_loss"."""
        from spt_lens.view.curves import frontier_figure

        table = self.frontier
        if table.empty:
            n = len(self.trials) - 1
            raise ValueError(f"there is no frontier to draw: {len(self.failed)} of {n} trials diverged")
        return frontier_figure(
            table[table["split"] == self._split(split)], x=x, y=y or self.goal, log_x=x == "kl", title=f"{split} split"
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
            data = unsealed(data)
            trials = tuple(map(Trial.from_json, entry(data, "runs", list)))
            max_ability_loss, tie = entry(data, "max_ability_loss", float), entry(data, "tie", float)
            settings = entry(data, "settings", dict)
            if "parameters" in settings:
                entry(settings, "parameters", int)
            return cls(trials, settings, max_ability_loss, tie)

    def _repr_html_(self) -> str:
        failed = f"<p>{len(self.failed)} trials diverged.</p>" if self.failed else ""
        main, how = self._split(None), {"index": False, "escape": True, "float_format": "%.4g", "na_rep": ""}
        title = f"{main.capitalize()} split, at the learning rates chosen on validation. {self.settings or ''}"
        shown = {title: self.table}
        shown |= {f"On {split}": self.table_on(split) for split in self.splits if split not in ("validation", main)}
        return "".join(f"<p>{html.escape(name)}</p>{each.to_html(**how)}" for name, each in shown.items()) + failed


def _has(evaluation: Evaluation, name: str) -> bool:
    return name in evaluation and not math.isnan(evaluation[name].value)
