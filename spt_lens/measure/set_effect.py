"""What a set of heads does together: patched in, knocked out, or both; alone, as a curve, and beside random sets."""

from __future__ import annotations

import html
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from spt_lens import saving
from spt_lens.chat.words import Words
from spt_lens.data.check import PairsCheck
from spt_lens.heads import HeadSet
from spt_lens.view.tables import table_html

if TYPE_CHECKING:
    import plotly.graph_objects as go

PLACES: dict[str, type] = {"size": int, "set": str, "draw": int, "heads": str}
# What each figure is called, with the behaviour's own `Words`; those of logits are no shares, and no figure draws them.
SHARES = {
    "recovery": "gap recovered",
    "begins": "begins with the {answer} answer",
    "gives_in": "{gives_in}",
    "truthfulness": "{ends_right}",
    "accuracy": "accuracy on the cases",
}
LOGITS = {
    "logit_difference_sycophantic": "logit difference of the {run}",
    "logit_difference_truthful": "logit difference of the {other_run}",
}
FIGURES = ("recovery", "low", "high", "sum_of_single", *list(SHARES)[1:], *LOGITS)
REPLIES = {"asked": str, "before": str, "gives_in_before": bool, "without": str, "gives_in_without": bool}
MEANS = {"both": "both runs' prompts", "sycophantic": "prompts of the {run}", "truthful": "prompts of the {other_run}"}


@dataclass(frozen=True, eq=False, repr=False)
class SetEffect:
    """What heads do together, beside the model as it is and matched random sets.

    table: a row for the model as it is (size 0), one for the best heads of each size ("chosen", in rank order) and one
    for each draw of as many random heads ("random"). Columns: size, set, draw, heads, and what was measured of:
        recovery, low, high: the share of the gap that comes back (noising: is lost) with these heads alone patched in,
            the mean effect over the mean gap, and its 95 % bootstrap interval; nan for a single pair.
        sum_of_single: of its heads' own scores. Above recovery: they do the same work twice; below: they need each
            other.
        begins: share of pairs whose reply to the challenge would begin with the sycophantic answer.
        gives_in, truthfulness: of the replies to the challenged dialogues without these heads, the share that gives in,
            and that ends with a right answer (naming none is none). accuracy: the latter of the cases.
        logit_difference_sycophantic, logit_difference_truthful: of both runs without these heads, as scores read them.

    heads: of the largest size, in rank order. direction and positions: of the patching; "" where nothing was patched
    in. ablation and mean_over: of the knockout; "" where nothing was knocked out. n_pairs: those that were read.
    n_dialogues, n_cases: whose replies were judged. settings: what else it was made with, and "check", what the pairs'
    check found. per_pair: a row for each pair that was read, by its number, with what `heads` do to it: recovery (its
    effect over the mean gap) and logits (the effect), or the logit differences, and whether the reply begins
    sycophantically (1 or 0); "before" in a column's name: of the model as it is.
    """

    heads: HeadSet
    table: pd.DataFrame
    n_pairs: int
    direction: str = ""
    positions: str = ""
    ablation: str = ""
    mean_over: str = ""
    n_dialogues: int = 0
    n_cases: int = 0
    settings: dict[str, Any] = field(default_factory=dict)
    per_pair: pd.DataFrame | None = None

    @property
    def before(self) -> pd.Series:
        """The row of the model as it is."""
        return self.table[self.table["size"] == 0].iloc[0]

    @property
    def chosen(self) -> pd.Series:
        """The row of all `heads`."""
        whole = (self.table["size"] == len(self.heads)) & (self.table["set"] == "chosen")
        return self.table[whole].iloc[0]

    @property
    def random(self) -> pd.DataFrame:
        """The rows of the random sets of as many heads."""
        return self.table[(self.table["size"] == len(self.heads)) & (self.table["set"] == "random")]

    @property
    def sizes(self) -> list[int]:
        """How many heads were measured together, apart from none."""
        return self.table.loc[(self.table["set"] == "chosen") & (self.table["size"] > 0), "size"].tolist()

    @property
    def replies(self) -> pd.DataFrame:
        """What was said to each dialogue, as the model is and without `heads`, and whether that gives in; a picker's
        check keeps it (`picker.check(replies=True)`), else there are no rows."""
        return pd.DataFrame(self.settings.get("replies", []), columns=list(REPLIES))

    @property
    def check(self) -> PairsCheck | None:
        """What the figures rest on, as `pairs.check` finds it; None in older files."""
        found = self.settings.get("check")
        return None if found is None else PairsCheck.from_json(found)

    @property
    def words(self) -> Words:
        """What the behaviour's runs, answers and replies are called; the default ones in files that don't say."""
        return Words.from_json((self.settings.get("check") or {}).get("words", {}))

    def rows(self) -> list[list[str]]:
        """A line of text for each figure: its name, as it is, with the chosen heads, and the range of random sets."""
        found = []
        for name in (*SHARES, *LOGITS):
            before, own, random = self._texts(name)
            if own:
                patched = name == "recovery" or not self.ablation
                how = "only these patched" if patched else "these knocked out"
                found.append([f"{self._title(name)}, {how}", before, own, random])
        return found

    def summary(self) -> str:
        """A line for what was patched in and one for what was knocked out: the figures of all heads of the set; then
        what that rests on, where it is known."""
        heads = f"{len(self.heads)} head{'s' * (len(self.heads) != 1)}"
        pairs, left_out = f"{self.n_pairs} pair{'s' * (self.n_pairs != 1)}", len(self.settings.get("left_out", []))
        lines = []
        if self.direction:
            said = self._said(["recovery"] if self.ablation else ["recovery", "sum_of_single", "begins"])
            at = f"{self.direction}, {self.positions} position{'s' * (self.positions != 'last')}"
            pairs += f" ({left_out} left out: no gap)" if left_out else ""
            lines.append(f"{heads} alone: {'; '.join([*said, f'{at}, {pairs}'])}")
        if self.ablation:
            whose = "its" if len(self.heads) == 1 else "their"
            over = MEANS[self.mean_over].format(**vars(self.words))
            means = f"{whose} mean over {over}" if self.ablation == "mean" else "zero"
            said = self._said([*list(SHARES)[1:], *([] if self.n_dialogues else LOGITS)])
            of = (
                f"{self.n_dialogues} {self.words.of('dialogues')}"
                if self.n_dialogues
                else f"{pairs}, replies not judged"
            )
            of += f", {self.n_cases} cases" if self.n_cases else ""
            lines.append(f"{heads} set to {means}: {'; '.join([*said, of])}")
        if self.check is not None:
            lines += filter(None, [self.check.line(), self.check.brief])
        return "\n".join(lines)

    def _said(self, names: Sequence[str]) -> list[str]:
        found = []
        for name in names:
            before, own, random = self._texts(name)
            change = f"{before} -> {own}" if before and name not in ("recovery", "sum_of_single") else own
            found += [f"{self._title(name)} {change}" + (f" (random sets {random})" if random else "")] if own else []
        return found

    def _title(self, name: str) -> str:
        title = {**SHARES, **LOGITS, "sum_of_single": "sum of its heads' own scores"}[name]
        title = title.format(**vars(self.words))
        return title.replace("recovered", "lost") if self.direction == "noising" else title

    def _texts(self, name: str) -> tuple[str, str, str]:
        """A figure as it is, with the chosen heads, and of the random sets; "" for what is not measured."""
        if name not in self.table:
            return "", "", ""
        own, random = _text(self.chosen[name]), self.random[name].dropna()
        if name == "recovery" and own and pd.notna(self.chosen["low"]):
            low, high = self.chosen["low"], self.chosen["high"]
            holds = ", holds 0" if low <= 0 <= high and self.chosen[name] != 0 else ""
            own += f" [{_text(low)}, {_text(high)}{holds}]"
        own += " (more than the gap)" if name == "recovery" and own and self.chosen[name] > 1.005 else ""
        ends = dict.fromkeys(map(_text, (random.min(), random.max()))) if len(random) else []
        return _text(self.before[name]), own, " to ".join(ends)

    def figure(self) -> go.Figure:
        """The shares as curves over the number of heads, random sets as a band; of one size: bars, random sets as dots.

        Differences of logits are not drawn.
        """
        from spt_lens.view.sets import bars_figure, curve_figure
        from spt_lens.view.style import in_lines

        done = "patched in" if self.direction else "knocked out"
        shares = {name: self._title(name) for name in SHARES if name in self.table}
        draw = curve_figure if len(self.sizes) > 1 else bars_figure
        return draw(self.table, shares, f"heads {done} together", in_lines(self.summary(), 120))

    def to_json(self) -> dict[str, Any]:
        """Everything in it, as JSON holds it; None for a missing number."""
        about = {name: getattr(self, name) for name in (*_ABOUT, "settings")}
        per_pair = None if self.per_pair is None else saving.rows(self.per_pair.reset_index())
        return {**self.heads.to_json(), **about, "per_pair": per_pair, "table": saving.rows(self.table)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> SetEffect:
        """The reverse of `to_json`. Raises KeyError, TypeError or ValueError for data of another kind."""
        heads = HeadSet.from_json(data)
        about: dict[str, Any] = {name: saving.entry(data, name, kind) for name, kind in _ABOUT.items()}
        for name, allowed in _CHOICES.items():
            saving.choice(data, name, ("", *allowed))
        done = [(bool(about[one]), bool(about[other])) for one, other in (("direction", "positions"), _KNOCKOUT)]
        if any(one != other for one, other in done) or not any(one for one, _ in done):
            raise ValueError("it does not say how heads were patched in or knocked out")
        per_pair = None
        if data["per_pair"] is not None:
            first = data["per_pair"][0] if isinstance(data["per_pair"], list) and data["per_pair"] else {}
            named = [name for name in (first if isinstance(first, dict) else {}) if name != "pair"]
            columns: dict[str, type] = {"pair": int, **dict.fromkeys(named, float)}
            per_pair = saving.table(data, columns, "per_pair").set_index("pair")
            if len(per_pair) != about["n_pairs"] or bool(per_pair.isna().any(axis=None)):
                raise ValueError(f"per_pair is not of {about['n_pairs']} pairs")
        about["settings"] = saving.entry(data, "settings", dict)
        if not isinstance(about["settings"].get("left_out", []), list):  # older files have some
            raise ValueError("left_out in its settings is no list of pairs")
        if "replies" in about["settings"]:
            saving.table(about["settings"], REPLIES, "replies")
        if "check" in about["settings"]:
            PairsCheck.from_json(saving.entry(about["settings"], "check", dict))
        return cls(heads, _table(data, heads), **about, per_pair=per_pair)

    def save(self, path: str | Path) -> Path:
        """Writes the effect and its settings as JSON. Raises OSError when the file can't be written."""
        return saving.save_json(path, "set effect", self.to_json())

    @classmethod
    def load(cls, path: str | Path) -> SetEffect:
        """Reads what `save` wrote. Raises FileNotFoundError, or ValueError for a damaged or a different file."""
        return saving.load_json(path, "set effect", cls.from_json)

    def __repr__(self) -> str:
        return f"SetEffect({self.summary()})"

    def _repr_html_(self) -> str:
        """The table, of a curve the means over draws: any viewer shows it, with no script and no network."""
        shown = self.table.dropna(axis=1, how="all")
        if len(self.sizes) > 1:
            shown = shown.drop(columns=["draw", "heads"]).groupby(["set", "size"], sort=False).mean().reset_index()
        return f"<p>{html.escape(self.summary()).replace(chr(10), '<br>')}</p>{table_html(shown, '.2f')}"

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        """Jupyter takes the interactive figure where it can, else the table."""
        return {
            "application/vnd.plotly.v1+json": json.loads(self.figure().to_json()),
            "text/html": self._repr_html_(),
            "text/plain": repr(self),
        }


_ABOUT: dict[str, type] = {"n_pairs": int, **dict.fromkeys(("direction", "positions", "ablation", "mean_over"), str)}
_ABOUT |= {"n_dialogues": int, "n_cases": int}
_KNOCKOUT = ("ablation", "mean_over")
_CHOICES = {"direction": ("denoising", "noising"), "ablation": ("mean", "zero"), "mean_over": tuple(MEANS)}


def table_of(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """A table of what was measured, its columns in order: places, then figures; nan for what is not measured yet."""
    return pd.DataFrame(rows, columns=[name for name in (*PLACES, *FIGURES) if any(name in row for row in rows)])


def _table(data: Mapping[str, Any], heads: HeadSet) -> pd.DataFrame:
    """The table of a saved effect of `heads`. Raises KeyError or ValueError for one that no effect has."""
    first = data["table"][0] if isinstance(data["table"], list) and data["table"] else {}
    named = first.keys() if isinstance(first, dict) else ()
    table = saving.table(data, PLACES | {name: float for name in FIGURES if name in named})
    for i, (size, which, text) in enumerate(zip(table["size"], table["set"], table["heads"], strict=True)):
        if which not in ("chosen", "random") or len(HeadSet.parse(text)) != size or not 0 <= size <= len(heads):
            raise ValueError(f"row {i} of its table is of {size} heads, {which!r}: {text[:40]!r}")
    chosen = table.loc[table["set"] == "chosen", "size"].tolist()
    if chosen != sorted(set(chosen)) or chosen[:1] != [0] or chosen[-1] != len(heads) or len(chosen) < 2:
        raise ValueError(f"its table is of chosen sets of {chosen} heads, not of none and then up to {len(heads)}")
    return table


def _text(value: float) -> str:
    return "" if math.isnan(value) else f"{round(value, 2) + 0.0:.2f}"  # no "-0.00"
