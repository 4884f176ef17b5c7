"""What a live check of a selection of heads finds."""

from __future__ import annotations

import html
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from spt_lens import saving
from spt_lens.heads import HeadSet

COLUMNS = {"set": str, "draw": int, "heads": str, "recovery": float, "low": float, "high": float}
COLUMNS |= {"apology_rate": float, "truthfulness": float}
NOT_JUDGED = "replies were not judged: the pairs have no dialogues that say the right answer"


@dataclass(frozen=True, eq=False, repr=False)
class CheckResult:
    """What a selection of heads does, patched in and knocked out, and what matched random heads do.

    table: a row for the selection ("chosen", draw 0) and one for each draw of random heads ("random"), with the columns
    set, draw, heads, recovery (the mean over pairs of the share of the gap that comes back when the heads are patched
    in together), low and high (its 95 % bootstrap interval over pairs; nan for a single pair), apology_rate and
    truthfulness (of the replies to the challenged dialogues, with the heads set to their mean over both kinds of
    prompts). nan: not measured, or not yet.

    apology_rate_before and truthfulness_before: with all heads as they are; nan as in the table. n_pairs: whose gap is
    large enough for a share of it. settings: what else it was made with (model, n_random, seed, max_new_tokens), the
    numbers of the pairs that were left out, and n_dialogues, how many replies were judged: 0 for pairs without
    dialogues that say the right answer.
    """

    heads: HeadSet
    table: pd.DataFrame
    apology_rate_before: float
    truthfulness_before: float
    n_pairs: int
    settings: dict[str, Any] = field(default_factory=dict)

    def summary(self) -> str:
        """Two lines: what comes back with the heads patched in, and the replies without them."""
        chosen, random = self.table.iloc[0], self.table.iloc[1:]
        n, left_out = len(self.heads), len(self.settings.get("left_out", []))
        n_dialogues = self.settings.get("n_dialogues", 0)
        first = [f"{n} head{'s' * (n != 1)} alone: {_short(chosen['recovery'])} of the gap recovered"]
        if pd.notna(chosen["low"]):
            first[0] += f" [{chosen['low']:.2f}, {chosen['high']:.2f}]"
        first += _sets(random, recovery="")
        first.append(f"{self.n_pairs} pairs" + (f" ({left_out} left out: no gap)" if left_out else ""))
        second = [NOT_JUDGED]
        if n_dialogues:
            second = [
                f"without {'it' if n == 1 else 'them'}: apologies {_short(self.apology_rate_before)} -> "
                f"{_short(chosen['apology_rate'])}, truthfulness {_short(self.truthfulness_before)} -> "
                f"{_short(chosen['truthfulness'])}",
                *_sets(random, apology_rate="apologies ", truthfulness="truthfulness "),
                f"{n_dialogues} challenged dialogues",
            ]
        return "; ".join(first) + "\n" + "; ".join(second)

    def to_json(self) -> dict[str, Any]:
        """Everything in it, as JSON holds it; None for nan."""
        before = {name: getattr(self, name) for name in ("apology_rate_before", "truthfulness_before")}
        about = {name: None if pd.isna(value) else value for name, value in before.items()}
        about |= {"n_pairs": self.n_pairs, "settings": self.settings}
        return {**self.heads.to_json(), **about, "table": saving.rows(self.table)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> CheckResult:
        """The reverse of `to_json`. Raises KeyError or ValueError for data of another kind."""
        table = saving.table_of_sets(data, COLUMNS)
        return cls(
            HeadSet.from_json(data),
            table,
            _number(data, "apology_rate_before"),
            _number(data, "truthfulness_before"),
            saving.entry(data, "n_pairs", int),
            saving.entry(data, "settings", dict),
        )

    def save(self, path: str | Path) -> Path:
        """Writes the result and its settings as JSON. Raises OSError when the file can't be written."""
        return saving.save_json(path, "check result", self.to_json())

    @classmethod
    def load(cls, path: str | Path) -> CheckResult:
        """Reads what `save` wrote. Raises FileNotFoundError, or ValueError for a damaged or a different file."""
        return saving.load_json(path, "check result", cls.from_json)

    def __repr__(self) -> str:
        return f"CheckResult({self.summary()})"

    def _repr_html_(self) -> str:
        table = self.table.dropna(axis=1, how="all").to_html(index=False, escape=True, float_format="%.2f", na_rep="")
        return f"<p>{html.escape(self.summary()).replace(chr(10), '<br>')}</p>{table}"


def _short(value: float) -> str:
    return "(not measured yet)" if pd.isna(value) else f"{value:.2f}"


def _sets(random: pd.DataFrame, **columns: str) -> list[str]:
    """How many random sets were measured, and from where to where they go; nothing if there are none."""
    found = random.dropna(subset=list(columns))
    if not len(found):
        return []
    ranges = [f"{what}{found[column].min():.2f} to {found[column].max():.2f}" for column, what in columns.items()]
    return [f"{len(found)} random set{'s' * (len(found) != 1)} {', '.join(ranges)}"]


def _number(data: Mapping[str, Any], name: str) -> float:
    return float("nan") if data[name] is None else saving.entry(data, name, float)
