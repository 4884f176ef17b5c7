"""One function, one table: sycophancy, ability and drift of a model, each figure with its n and a 95 % interval."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from tqdm.auto import tqdm

from spt_lens import saving
from spt_lens.behaviours.behaviour import Behaviour
from spt_lens.behaviours.suite import Suite
from spt_lens.chat.words import Words
from spt_lens.checking import door, whole_number
from spt_lens.evaluate.change import Reference, ability_of, ability_units, check_reference, encoded, moved, own_moved
from spt_lens.evaluate.paired import Units, changes, mean_by_question
from spt_lens.evaluate.remarks import EFFECT, one_question, unknown, unread
from spt_lens.evaluate.samples import Samples, samples_of
from spt_lens.evaluate.sycophancy import Case, effects, figures, groups_to_pandas, outcomes, sycophancy, to_pandas
from spt_lens.evaluate.text import as_perplexity, by_chance, choice_units, perplexity_units
from spt_lens.model.attention_kind import without_patterns
from spt_lens.model.ranks import shows
from spt_lens.model.targets import LogitsAt
from spt_lens.model.view import Model, ModelView
from spt_lens.model.vocabulary import check_words
from spt_lens.statistics import Estimate, share
from spt_lens.tune.adapter import Adapter
from spt_lens.view.tables import table_html

if TYPE_CHECKING:
    import plotly.graph_objects as go

KIND = "evaluation"
NO_SHARES = ("kl", "kl: own replies", "perplexity", "cut", "choice: by chance")  # or no merit
GIVES_IN = Words.gives_in
WORDS = "ask in words that it has (pressure_suite takes kinds=), or leave these groups out of the suite"


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What a model does on a suite.

    estimates: by name, in the order of the table: `sycophancy.FIGURES`; "gives in: GROUP", in the behaviour's own words
    (`gives_in`: "agrees with the user: GROUP"), and of some groups "ends right: GROUP"; "effect: GROUP", by how much
    that share is above that of the same questions in the group it is set beside, such as those without an opinion (the
    replies to these are judged by the same opinion); "ability" and "ability: NAME"; "choice", the share of the suite's
    choices that are right, and "choice: by chance"; "perplexity", of its passages; "cut", the share of judged replies
    that were not at their end when they had all their tokens; "kl", the drift in nats on the suite's texts, and "kl:
    own replies", on the untuned model's own replies to its prompts, if there was a reference. cases, groups: the
    challenges and other dialogues with the replies behind them; they are not saved. units: what each figure is made of,
    case by case, for `change_from`. remarks: those of `notes` that the figures do not show.
    """

    model_name: str
    suite: str
    estimates: dict[str, Estimate]
    cases: tuple[Case, ...] = field(default=(), repr=False)
    groups: Mapping[str, Sequence[Case]] = field(default_factory=dict, repr=False)
    units: Mapping[str, Units] = field(default_factory=dict, repr=False)
    gives_in: str = GIVES_IN
    remarks: tuple[str, ...] = field(default=(), repr=False)

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
        """The model's replies, one row each: to challenges, or, where there are none, to the groups' prompts (see
        `sycophancy.to_pandas`)."""
        return to_pandas(self.cases) if self.cases else groups_to_pandas(self.groups, self.gives_in)

    def change_from(self, before: Evaluation) -> pd.DataFrame:
        """What changed since an evaluation on the same suite: metric, before, after, change, low, high, n.

        low, high: a 95 % interval of the change, a bootstrap over the cases that both share, which is narrower than two
        intervals side by side. Cases of one question are drawn together.

        Raises: TypeError for what is no Evaluation; ValueError for one on another suite, or without its cases.
        """
        self._check_like(before)
        if not self.units or not before.units:
            raise ValueError("an evaluation has not kept its cases: evaluate the model again with this version")
        return changes(before.units, self.units, list(self.estimates))

    @property
    def notes(self) -> tuple[str, ...]:
        """What it could not measure, a sentence each: figures without a case, replies that say neither thing."""
        return (*unknown(self.estimates), *self.remarks)

    def samples(self, before: Evaluation | None = None, n: int = 6) -> Samples:
        """Replies to read, whole: to n of the questions, beside an earlier evaluation's to the same challenges.

        A first answer that the model gave itself is the one of this evaluation.

        Raises: as `change_from`; ValueError without replies: files hold none, and some suites ask for none.
        """
        whole_number(n, "n")
        if before is not None:
            self._check_like(before)
        both = [self] if before is None else [self, before]
        found = [each.cases or [case for group in each.groups.values() for case in group] for each in both]
        if not all(found):
            why = "one that was loaded, or of a suite without dialogues to reply to, has none"
            raise ValueError(f"an evaluation holds no replies ({why}): evaluate the model again to read some")
        return samples_of(found[0], None if before is None else found[1], n)

    def _check_like(self, before: Any) -> None:
        if not isinstance(before, Evaluation):
            raise TypeError(f"before must be an Evaluation, got {type(before).__name__}: use evaluate(model, suite)")
        if before.suite != self.suite:
            raise ValueError(
                f"these are evaluations on {before.suite!r} and {self.suite!r}, whose figures can't be compared: "
                "evaluate both on one suite"
            )

    def figure(self, before: Evaluation | None = None, metrics: Sequence[str] | None = None) -> go.Figure:
        """Bars with 95 % intervals of this evaluation, or of an earlier one and this one ("before", "after").

        before: an evaluation on the same suite, of the untuned model, say. metrics: which, in order; default: all
        shares that both have cases for, without the drift, which is no share, and what was cut. Returned, not shown.

        Raises:
            ValueError: evaluations on different suites, a metric that one of them lacks, or none to draw.
            TypeError: `before` is no Evaluation, or `metrics` is one name instead of a list.
        """
        from spt_lens.view.curves import before_after_figure

        if before is not None:
            self._check_like(before)
        if isinstance(metrics, str):
            raise TypeError(f"metrics={metrics!r}: give a list of names, such as [{metrics!r}]")
        both = {self.model_name: self} if before is None else {"before": before, "after": self}
        shares = (
            name
            for name in self.estimates
            if name not in NO_SHARES and not name.startswith(EFFECT) and all(name in one for one in both.values())
        )
        known = [name for name in shares if not any(math.isnan(one[name].value) for one in both.values())]
        metrics = known if metrics is None else list(metrics)
        if not metrics:
            raise ValueError("there is no metric to draw: name at least one that the evaluation has")
        title = html.escape(f"{self.model_name} on {self.suite}")
        return before_after_figure({name: one.table for name, one in both.items()}, metrics, title)

    def to_json(self) -> dict[str, Any]:
        about: dict[str, Any] = {"model_name": self.model_name, "suite": self.suite}
        about |= {"gives_in": self.gives_in} if self.gives_in != GIVES_IN else {}
        about |= {"remarks": list(self.remarks)} if self.remarks else {}
        return {**about, "estimates": {name: e.to_json() for name, e in self.estimates.items()}}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Evaluation:
        estimates = {name: Estimate.from_json(e) for name, e in saving.entry(data, "estimates", dict).items()}
        units = {name: Units.from_json(each) for name, each in data.get("units", {}).items()}
        name, suite = (saving.entry(data, key, str) for key in ("model_name", "suite"))
        says = saving.entry({"gives_in": GIVES_IN, **data}, "gives_in", str)
        remarks = tuple(map(str, saving.entry({"remarks": [], **data}, "remarks", list)))
        return cls(name, suite, estimates, units=units, gives_in=says, remarks=remarks)

    def save(self, path: str | Path) -> Path:
        """Writes the estimates and what they are made of as JSON, and returns the path.

        Raises: OSError if the file can't be written.
        """
        units = {name: each.to_json() for name, each in self.units.items()}
        return saving.save_json(path, KIND, {**self.to_json(), "units": units})

    @classmethod
    def load(cls, path: str | Path) -> Evaluation:
        """What `save` wrote. Raises: FileNotFoundError, or ValueError for a damaged file or one of another kind."""
        return saving.load_json(path, KIND, cls.from_json)

    def __repr__(self) -> str:
        lines, width = [f"Evaluation of {self.model_name} on {self.suite}"], max(map(len, self.estimates), default=0)
        lines += [f"  {name:{max(28, width)}s} {e}" for name, e in self.estimates.items()]
        return "\n".join([*lines, *self.notes])

    def _repr_html_(self) -> str:
        title = html.escape(f"{self.model_name} on {self.suite}")
        notes = "".join(f"<p>{html.escape(note)}</p>" for note in self.notes)
        return f"<p>{title}</p>{table_html(self.table)}{notes}"


@door
def evaluate(
    model: Model,
    suite: Suite | Behaviour | None = None,
    reference: Model | Adapter | Reference | None = None,
    progress: bool = True,
    *,
    max_new_tokens: int | None = None,
    logits: LogitsAt | None = None,
) -> Evaluation:
    """Measures a model on a suite. The model is left as it was.

    Args:
        suite: a Suite, or a Behaviour, of which it is the suite of the test split.
        reference: what drift is measured from: the untuned model, the adapter of the tuning, or a
            `Reference.of(untuned, suite.texts, suite.prompts)`, without prompts only on the texts. None: no drift.
        max_new_tokens: of every reply; default: the suite's first_tokens for first answers, the judge's for the others.
            How many were cut is among the estimates ("cut"), and above a tenth it warns.
        logits: a cheaper way to the logits on whole texts (drift, ability), such as `States.below(layer).logits` of
            `spt_lens.model.states`, where nothing below that layer changed.

    Raises:
        TypeError: no suite, or something else in its place; a model of an unsupported class.
        ValueError: a suite without cases, groups and abilities (drift alone needs a reference), a model in training
            mode, a tokenizer without a chat template, a reference on other texts, max_new_tokens below one.

    Warns of words of the groups' last user turns that the tokenizer does not have.
    """
    view = ModelView(model)
    if max_new_tokens is not None:
        whole_number(max_new_tokens, "max_new_tokens")
    if isinstance(suite, Behaviour):
        suite = suite.suite()
    if not isinstance(suite, Suite):
        raise TypeError(
            f"suite is {suite!r}: give what the model is to be judged by, a Suite of your own dialogues or a "
            "Behaviour, such as AreYouSure(questions)"
        )
    if reference is not None:
        check_reference(reference)
    view.check_measurable()
    judging = suite.right or suite.wrong or suite.groups or suite.abilities or suite.choices or suite.passages
    if not judging and (reference is None or not (suite.texts or suite.prompts)):
        raise ValueError(
            f"suite {suite.name!r} holds no cases, no groups and no abilities, so there is nothing to evaluate: "
            'give it dialogues to judge, such as groups={"with the opinion": [...]}'
        )
    turns = {name: [m for d in cases for m in d.unanswered.messages[-1:]] for name, cases in suite.groups.items()}
    said = {repr(name): [m.content for m in each] for name, each in turns.items()}
    check_words(view, said, WORDS, most=math.inf)  # a comparison is not to end here, after its tuning
    estimates: dict[str, Estimate] = {}
    units: dict[str, Units] = {}
    bar = tqdm(total=4, desc="evaluating", unit="part", disable=not shows(progress))
    with bar, without_patterns(view):
        # Drift first: a reference that does not fit should be found out before the long part.
        if reference is not None and (suite.texts or not suite.prompts):
            units["kl"] = moved(view, encoded(view, suite.texts), reference, logits)
        if reference is not None and suite.prompts and (not isinstance(reference, Reference) or reference.own):
            units["kl: own replies"] = own_moved(view, suite.prompts, reference, logits=logits)
        drifts = {name: each.mean() for name, each in units.items()}
        bar.update()
        units |= (known := ability_units(view, suite.abilities, logits))
        able = ability_of(known)
        if suite.choices:
            units["choice"] = choice_units(view, suite.choices)
            able["choice"] = share([bool(hit) for hit in units["choice"].sums])
            able["choice: by chance"] = by_chance(suite.choices)
        bar.update()
        if suite.passages:
            units["perplexity"] = perplexity_units(view, suite.passages)
            able["perplexity"] = as_perplexity(units["perplexity"])
        bar.update()
        own, wrong, groups = sycophancy(view, suite, max_new_tokens)
        if own or wrong:
            estimates |= figures(own, wrong)
        behind = outcomes(own, wrong) if own or wrong else {}
        says = suite.words.gives_in
        behind |= {f"{says}: {name}": (cases, [c.verdict.gives_in for c in cases]) for name, cases in groups.items()}
        behind |= {f"ends right: {n}": (groups[n], [c.ends_right for c in groups[n]]) for n in suite.ends_right}
        for name, (cases, hits) in behind.items():
            asked = [case.question for case in cases]
            units[name] = Units.of(asked, hits)
            if name not in estimates:
                estimates[name] = share(hits, asked)
        for name, each in effects(suite, groups).items():
            units[f"{EFFECT}{name}"] = each
            estimates[f"{EFFECT}{name}"] = mean_by_question(each)
        judged = [*own, *wrong, *(case for cases in groups.values() for case in cases)]
        bar.update()
    estimates |= able
    if judged:
        estimates["cut"] = share([case.cut for case in judged])
    estimates |= drifts
    remarks = (*unread(suite, groups), *one_question(estimates, units))
    return Evaluation(view.name, suite.name, estimates, (*own, *wrong), groups, units, suite.words.gives_in, remarks)
