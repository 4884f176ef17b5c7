"""One function, one table: sycophancy, ability and drift of a model, each figure with its n and a 95 % interval."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pandas as pd
from tqdm.auto import tqdm

from spt_lens.behaviours.suite import Suite
from spt_lens.evaluate.change import Reference, ability, drift
from spt_lens.evaluate.sycophancy import Case, figures, sycophancy, to_pandas
from spt_lens.model.view import Model, ModelView
from spt_lens.statistics import Estimate, share
from spt_lens.tune.adapter import Adapter
from spt_lens.yesman.facts import Split
from spt_lens.yesman.suite import yesman_suite

if TYPE_CHECKING:
    import plotly.graph_objects as go


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What a model does on a suite.

    estimates: by name, in the order of the table. "discernment", "confidence", "retracted", "truthfulness",
    "self_correction", "stubbornness", "accuracy_before", "accuracy_after" (see `sycophancy.figures`); "stands by:
    CONTROL"; "ability" and "ability: NAME"; "kl", the drift in nats, if there was a reference. cases: the challenges
    and replies behind them; not kept by `to_json`.
    """

    model_name: str
    suite: str
    estimates: dict[str, Estimate]
    cases: tuple[Case, ...] = field(default=(), repr=False)

    def __getitem__(self, metric: str) -> Estimate:
        try:
            return self.estimates[metric]
        except KeyError:
            raise KeyError(f"no metric {metric!r} in this evaluation; it has {', '.join(self.estimates)}") from None

    def __contains__(self, metric: str) -> bool:
        return metric in self.estimates

    @property
    def table(self) -> pd.DataFrame:
        """metric, value, low, high, n."""
        return pd.DataFrame([{"metric": name, **e._asdict()} for name, e in self.estimates.items()])

    @property
    def replies(self) -> pd.DataFrame:
        """The challenges and the model's replies, one row each (see `sycophancy.to_pandas`)."""
        return to_pandas(self.cases)

    def figure(self, before: Evaluation | None = None, metrics: Sequence[str] | None = None) -> go.Figure:
        """Bars with 95 % intervals of this evaluation, or of an earlier one and this one ("before", "after").

        before: an evaluation on the same suite, of the untuned model, say. metrics: which, in order; default: all
        shares that both have cases for, without the drift, which is no share. Returned, not shown.

        Raises:
            ValueError: evaluations on different suites, a metric that one of them lacks, or none to draw.
            TypeError: `before` is no Evaluation, or `metrics` is one name instead of a list.
        """
        from spt_lens.view.curves import before_after_figure

        if before is not None and not isinstance(before, Evaluation):
            raise TypeError(f"before must be an Evaluation, got {type(before).__name__}: use evaluate(model)")
        if before is not None and before.suite != self.suite:
            raise ValueError(
                f"these are evaluations on {before.suite!r} and {self.suite!r}, whose figures can't be compared: "
                "evaluate both on one suite"
            )
        if isinstance(metrics, str):
            raise TypeError(f"metrics={metrics!r}: give a list of names, such as [{metrics!r}]")
        both = {self.model_name: self} if before is None else {"before": before, "after": self}
        metrics = None if metrics is None else list(metrics)
        if metrics is None:
            metrics = [
                name
                for name in self.estimates
                if name != "kl" and all(name in one and not math.isnan(one[name].value) for one in both.values())
            ]
        if not metrics:
            raise ValueError("there is no metric to draw: name at least one that the evaluation has")
        title = html.escape(f"{self.model_name} on {self.suite}")
        return before_after_figure({name: one.table for name, one in both.items()}, metrics, title)

    def to_json(self) -> dict[str, Any]:
        return {
            "model_name": self.model_name,
            "suite": self.suite,
            "estimates": {name: e.to_json() for name, e in self.estimates.items()},
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Evaluation:
        estimates = {name: Estimate.from_json(e) for name, e in data["estimates"].items()}
        return cls(data["model_name"], data["suite"], estimates)

    def __repr__(self) -> str:
        lines = [f"Evaluation of {self.model_name} on {self.suite}"]
        return "\n".join(lines + [f"  {name:28s} {e}" for name, e in self.estimates.items()])

    def _repr_html_(self) -> str:
        title = html.escape(f"{self.model_name} on {self.suite}")
        return f"<p>{title}</p>{self.table.to_html(index=False, escape=True, float_format='%.4g')}"


def evaluate(
    model: Model,
    suite: Suite | str = "yesman",
    reference: Model | Adapter | Reference | None = None,
    split: Split = "test",
    progress: bool = True,
) -> Evaluation:
    """Measures a model on a suite. The model is left as it was.

    Args:
        suite: a Suite, or "yesman" for `yesman_suite(split)`. split: of "yesman" only.
        reference: what drift is measured from: the untuned model, the adapter of the tuning, or a `Reference` on the
            suite's texts. None: no drift.

    Raises:
        ValueError: an unknown suite or split, a model in training mode, a tokenizer without a chat template, a
            reference on other texts.
        TypeError: a model of an unsupported class.
    """
    view = ModelView(model)
    view.check_measurable()
    if isinstance(suite, str):
        if suite != "yesman":
            raise ValueError(f'unknown suite {suite!r}: use "yesman", or make a Suite of your own dialogues')
        suite = yesman_suite(split)
    if not (suite.right or suite.wrong or suite.abilities):
        raise ValueError(
            f"suite {suite.name!r} holds no challenge cases and no abilities: there is nothing to evaluate"
        )
    estimates: dict[str, Estimate] = {}
    with tqdm(total=3, desc="evaluating", unit="part", disable=not progress) as bar:
        # Drift first: a reference that does not fit should be found out before the long part.
        moved = drift(view, suite.texts, reference) if reference is not None else None
        bar.update()
        able = ability(view, suite.abilities)
        bar.update()
        own, wrong, controls = sycophancy(view, suite)
        if own or wrong:
            estimates |= figures(own, wrong)
        for name, cases in controls.items():
            estimates[f"stands by: {name}"] = share([not c.admits for c in cases], [c.question for c in cases])
        bar.update()
    estimates |= able
    if moved is not None:
        estimates["kl"] = moved
    return Evaluation(view.name, suite.name, estimates, (*own, *wrong))
