"""What came of comparing rankings, as one object: tables, the curve that says which one to use, JSON."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import pandas as pd

from spt_lens import saving
from spt_lens.checking import door, one_of

if TYPE_CHECKING:
    import plotly.graph_objects as go

KIND = "comparison of rankings"
_NUMBERS = ("spearman", "half_overlap", "passes", "seconds", "cpr", "cmd", "gives_in", "truthfulness", "replies")
COLUMNS: dict[str, dict[str, type]] = {
    "measured": {"ranking": str, "kind": str, "n": int, "rows": str, "k": int, **dict.fromkeys(_NUMBERS, float)},
    "sets": {
        **{"ranking": str, "kind": str, "share": float, "draw": int, "k": int, "heads": str},
        **dict.fromkeys(("recovery", "low", "high", "gives_in", "truthfulness"), float),
    },
    "curve": {
        **{"ranking": str, "kind": str, "draw": int, "order": str, "size": int},
        **dict.fromkeys(("share", "recovery", "faithfulness"), float),
    },
    "overlaps": {
        **{"one": str, "other": str, "k": int, "shared": int, "expected": float, "high": int, "p": float},
        **{"spearman": float},
    },
    "trials": {
        **{"ranking": str, "kind": str, "share": float, "draw": int, "seed": int, "lr": float, "data": str, "k": int},
        **{"seconds": float, "metric": str, "value": float, "low": float, "high": float, "n": int, "error": str},
    },
}
REACHED = (
    *("ranking", "share", "k", "lr", "value", "low", "high", "n", "seeds", "draws", "seeds_min", "seeds_max"),
    *("random_median", "random_min", "random_max", "sham"),
)
_MAY_BE_EMPTY = ("curve", "overlaps", "trials")


@door
@dataclass(frozen=True, eq=False, repr=False)
class Rankings:
    """Rankings of one model's heads side by side; made by `spt.rankings`. kind: "own", the ranking itself; "sham", the
    same measurement where nothing is to be found; "random", other heads of the same layers as the ranking's own; of a
    ranking without a name, a random order of all heads.

    measured: a row for each ranking, its sham, and each random order: n, rows (what it was measured on), k (heads of
        the main size), spearman and half_overlap (of two random halves: of all heads, and the share of the best k in
        common), passes (forward passes of its prompts), seconds; cpr and cmd (`measure/faithfulness.py`); gives_in and
        truthfulness of what the model as it is replies, and of how many replies.
    sets: a row for each selection: ranking, kind, share (of all heads), draw, k, heads; recovery, low, high (patched in
        together); gives_in and truthfulness of as many replies without them, where that was asked (of draws, of the
        first).
    curve: recovery and faithfulness over all sizes, heads in the order of their "signed" scores (for cpr), and of their
        "absolute" ones (for cmd); draw is that of a random order. overlaps: of each two rankings' best k: shared heads,
        what their layers alone would give (expected, high, p: `measure.controls.layer_overlap`), and spearman over all.
    trials: a row for each figure of each tuning: ranking, kind, share, draw, seed, lr, data ("" or the name of sham
        dialogues), k, seconds, metric, value, low, high, n, error. Empty, if nothing was tuned.
    settings: what all have in common, for the record: "main" is the share of the shams, "todo" the trials not done yet.
    """

    model_name: str
    measured: pd.DataFrame
    sets: pd.DataFrame
    curve: pd.DataFrame
    overlaps: pd.DataFrame
    trials: pd.DataFrame
    settings: dict[str, Any]

    @property
    def names(self) -> list[str]:
        """The rankings, in their order."""
        return list(dict.fromkeys(self._kind(self.measured, "own")["ranking"]))

    @property
    def main(self) -> float:
        """The share of heads at which shams and knockouts were measured."""
        return float(self.settings["main"])

    @property
    def seed(self) -> int:
        """The one that rankings, random heads and shams were all tuned with; others are the rankings' own alone."""
        return int((self.settings.get("seeds") or [0])[0])

    @property
    def metrics(self) -> list[str]:
        """The figures that tuned models have."""
        return [name for name in dict.fromkeys(self.trials["metric"]) if name]

    def reached(self, metric: str) -> pd.DataFrame:
        """The curve: ranking, share, k, lr, value, low, high (95 % interval over cases) and n of the first seed, which
        is the one of random heads and shams too; random_median, random_min, random_max and draws of its layer-matched
        random heads; sham, where there is one; seeds, and the least and the most of them, seeds_min and seeds_max; nan
        for what was not done. What has no trial of the first seed is left out.

        Raises: ValueError for a figure that there is not.
        """
        one_of(metric, "metric", self.metrics)
        table = self.trials[(self.trials["metric"] == metric) & (self.trials["data"] == "")]
        rows = []
        for name in self.names:
            its = table[table["ranking"] == name]
            for share in sorted(its["share"].unique()):
                at = its[its["share"] == share]
                seeds, random, sham = (self._kind(at, kind) for kind in ("own", "random", "sham"))
                own = seeds[seeds["seed"] == self.seed]
                if own.empty:
                    continue
                row: dict[str, Any] = {"ranking": name, "share": share}
                row |= {key: own[key].iloc[0] for key in ("k", "lr", "value", "low", "high", "n")}
                row |= {"seeds": len(seeds), "draws": len(random)}
                row |= {"seeds_min": seeds["value"].min(), "seeds_max": seeds["value"].max()}
                values = random["value"]
                row |= {"random_median": values.median(), "random_min": values.min(), "random_max": values.max()}
                rows.append(row | {"sham": sham["value"].mean()})
        return pd.DataFrame(rows, columns=list(REACHED))  # with no row where it was broken off before the first

    def untuned(self, metric: str) -> float:
        """The untuned model's figure; nan where nothing was tuned."""
        found = self.trials[(self.trials["kind"] == "untuned") & (self.trials["metric"] == metric)]["value"]
        return float(found.iloc[0]) if len(found) else math.nan

    @property
    def goal(self) -> str:
        """What rankings are compared by: discernment, where it was measured, else the first figure."""
        return "discernment" if "discernment" in self.metrics else (self.metrics or [""])[0]

    @property
    def table(self) -> pd.DataFrame:
        """A row a ranking, its sham's figures beside its own.

        ranking; rows; passes; seconds; spearman, half_overlap (stability); shared (heads of its best k that another
        ranking has too, the mean over the others) and shared_by_layer (what the layers alone would give); cpr, cmd,
        cpr_sham, and cpr_random, the most of a random order of all heads; recovery of the best k, recovery_random
        (median), recovery_sham; gives_in (replies of the model as it is), gives_in_without (without them),
        gives_in_random (of the first draw), gives_in_sham; and where heads were tuned, the `goal`'s name, that of
        "random" and "sham".
        """
        goal = self.reached(self.goal).set_index(["ranking", "share"]) if self.metrics else None
        rows = []
        for name in self.names:
            own, sham = (self._of(self.measured, name, kind) for kind in ("own", "sham"))
            row: dict[str, Any] = {key: own[key].iloc[0] for key in ("ranking", "rows", *_NUMBERS[:4])}
            both = self.overlaps[(self.overlaps["one"] == name) | (self.overlaps["other"] == name)]
            row |= {"shared": both["shared"].mean(), "shared_by_layer": both["expected"].mean()}
            row |= {"cpr": own["cpr"].iloc[0], "cmd": own["cmd"].iloc[0], "cpr_sham": sham["cpr"].mean()}
            row |= {"cpr_random": self.orders["cpr"].max(), "gives_in": own["gives_in"].iloc[0]}
            at = self.sets[self.sets["share"] == self.main]
            for key, label in (("recovery", "recovery"), ("gives_in", "gives_in_without")):
                ours, random, shams = (self._of(at, name, kind)[key] for kind in ("own", "random", "sham"))
                row |= {label: ours.mean(), f"{key}_random": random.median(), f"{key}_sham": shams.mean()}
            if goal is not None and (name, self.main) in goal.index:
                found = goal.loc[(name, self.main)]
                row |= {self.goal: found["value"], "random": found["random_median"], "sham": found["sham"]}
            rows.append(row)
        return pd.DataFrame(rows)

    @property
    def orders(self) -> pd.DataFrame:
        """`measured` of random orders of all heads."""
        return self._of(self.measured, "", "random")

    def _of(self, table: pd.DataFrame, name: str, kind: str) -> pd.DataFrame:
        return self._kind(table[table["ranking"] == name], kind)

    @staticmethod
    def _kind(table: pd.DataFrame, kind: str) -> pd.DataFrame:
        return table[table["kind"] == kind]

    def figure(self, metric: str | None = None) -> go.Figure:
        """What tuning the best heads reaches over their share, a line a ranking, random heads as a band; shams open.

        metric: one of `metrics`; default: the goal. Where nothing was tuned, faithfulness over the share of heads.
        """
        from spt_lens.view.rankings import faithfulness_figure, reached_figure

        if not self.metrics:
            curve = self._kind(self.curve[self.curve["order"] == "signed"], "own")
            return faithfulness_figure(curve, f"{self.model_name}: best heads patched in together, by ranking")
        metric = self.goal if metric is None else metric
        return reached_figure(self.reached(metric), metric, self.untuned(metric), f"{self.model_name}: tuned heads")

    def to_json(self) -> dict[str, Any]:
        """Everything in it, as JSON holds it; None for a missing number."""
        tables = {name: saving.rows(getattr(self, name)) for name in COLUMNS}
        return {"model_name": self.model_name, "settings": self.settings, **tables}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """The reverse of `to_json`. Raises KeyError or ValueError for data of another kind."""
        tables = {name: saving.table(data, its, name, name in _MAY_BE_EMPTY) for name, its in COLUMNS.items()}
        settings = saving.entry(data, "settings", dict)
        saving.entry(settings, "main", float)
        return cls(saving.entry(data, "model_name", str), **tables, settings=settings)

    def save(self, path: str | Path) -> Path:
        """Writes it as JSON. Raises OSError when the file can't be written."""
        return saving.save_json(path, KIND, self.to_json())

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """What `save` wrote. Raises FileNotFoundError, or ValueError for a damaged file or one of another kind."""
        return saving.load_json(path, KIND, cls.from_json)

    def summary(self) -> str:
        """One line: how many rankings and trials, and which reaches most at the main share."""
        n = len(self.trials[["ranking", "kind", "share", "draw", "seed", "data"]].drop_duplicates())
        text = f"{len(self.names)} rankings of the heads of {self.model_name}"
        if not self.metrics:
            return f"{text}; nothing was tuned"
        at = self.reached(self.goal)
        at = at[at["share"] == self.main].dropna(subset="value")
        if len(at):
            best = at.loc[at["value"].idxmax()]
            text += f"; at {self.main:.0%} of heads {best['ranking']} reaches most, {self.goal} {best['value']:.3f}"
            text += f" (its random heads {best['random_median']:.3f})"
        return f"{text}; {n} trials" + (f", {self.settings['todo']} to do" if self.settings.get("todo") else "")

    def __repr__(self) -> str:
        return f"Rankings({self.summary()})"

    def _repr_html_(self) -> str:
        table = self.table.to_html(index=False, escape=True, float_format="%.3f", na_rep="")
        return f"<p>{html.escape(self.summary())}</p>{table}"


def frame(name: str, rows: list[dict[str, Any]]) -> pd.DataFrame:
    """Rows as the table of that name has them."""
    return saving.table({name: [{key: row[key] for key in COLUMNS[name]} for row in rows]}, COLUMNS[name], name, True)
