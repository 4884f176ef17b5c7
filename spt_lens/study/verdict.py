"""What a study says of every method and of its goals, what that rests on little, and what to do next."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping
from typing import Any

import pandas as pd

from spt_lens.evaluate.comparison import Comparison
from spt_lens.evaluate.goals import GOALS
from spt_lens.heads import HeadSet
from spt_lens.study.work import CHOSEN, Work
from spt_lens.view.style import readable

FULL, RANDOM = "full fine-tuning", "random heads"
HEADS = "heads chosen, at most, as a share of all"
DRIFTS = {"kl: own replies": "the untuned model's own replies", "kl": "given text"}
FEW_CASES = 100  # a share of half has then a 95 % interval of a tenth to either side


def goals(comparison: Comparison, method: str = CHOSEN, share_of_heads: float = math.nan) -> pd.DataFrame:
    """A row for each goal that was measured: goal, wanted, found, low, high, n, reached.

    Figures of `method` on the test split, at its chosen learning rate; drift beside that of full fine-tuning. reached:
    "yes", "no" or "not known", by the figure itself; where its interval (low, high) holds the limit too, it may be
    chance. Of losses, drift and heads there is no interval.
    """
    known = {name: rows.set_index("metric") for name, rows in comparison.intervals.groupby("method", sort=False)}
    if method not in known:
        return pd.DataFrame()
    own, untuned = known[method], known["untuned"]["value"].to_dict()
    rows: list[dict[str, Any]] = []
    if not math.isnan(share_of_heads):
        rows.append({"goal": HEADS, "wanted": 0.05, "found": share_of_heads, "reached": share_of_heads <= 0.05})
    for goal in GOALS:
        if goal.metric in own.index and goal.metric in untuned:
            found, *ends = (goal.value(own[name].to_dict(), untuned) for name in ("value", "low", "high"))
            row = {"goal": goal.name, "wanted": goal.least, "found": found, "n": own.loc[goal.metric, "n"]}
            row |= {} if goal.loss else {"low": min(ends), "high": max(ends)}
            rows.append(row | {"reached": goal.holds(found)})
    for kl, where in DRIFTS.items():
        if kl in own.index and kl in known.get(FULL, own).index and FULL in known:
            most, found = known[FULL].loc[kl, "value"] / 2, own.loc[kl, "value"]
            name = f"drift on {where}, at most half of full fine-tuning's"
            rows.append({"goal": name, "wanted": most, "found": found, "reached": found <= most})
    made = pd.DataFrame(rows, columns=["goal", "wanted", "found", "low", "high", "n", "reached"])
    words = ["yes" if each else "no" for each in made["reached"]]
    return made.assign(reached=pd.Series(words, made.index, dtype=object).mask(made["found"].isna(), "not known"))


def ahead(comparison: Comparison, method: str = CHOSEN, rival: str = RANDOM) -> str:
    """One sentence: whether a method is ahead of a rival by the goal, by the intervals of both on the test split."""
    own, other = (_of(comparison, each) for each in (method, rival))
    if own is None or other is None:
        return ""
    is_to, where = "can't be told from", "within"
    if clear(comparison, method, rival) or clear(comparison, rival, method):
        is_to, where = f"are {'ahead of' if own[0] > other[0] else 'behind'}", "outside of"
    ends = " and ".join(f"[{low:.3f}, {high:.3f}]" for _, low, high in (own, other))
    return (
        f"By {readable(comparison.goal)} the {method} ({own[0]:.3f}) {is_to} {rival} ({other[0]:.3f}), {where} "
        f"their intervals ({ends}), each at its own drift."
    )


def clear(comparison: Comparison, method: str = CHOSEN, rival: str = RANDOM) -> bool:
    """Whether the method's interval of the goal lies wholly above the rival's."""
    own, other = (_of(comparison, each) for each in (method, rival))
    return own is not None and other is not None and own[1] > other[2]


def _of(comparison: Comparison, method: str) -> tuple[float, float, float] | None:
    """The goal of a method on test, with its interval; None if it has none, or it is not known."""
    known = comparison.intervals.set_index(["method", "metric"])
    if (method, comparison.goal) not in known.index:
        return None
    row = known.loc[(method, comparison.goal)]
    return None if math.isnan(row["value"]) else (float(row["value"]), float(row["low"]), float(row["high"]))


def cautions(work: Work) -> list[str]:
    """What the study rests on little: sentences, the readout's own warnings first."""
    found: list[str] = []
    scores, heads, patching = work.scores, work.heads, work.patching
    if scores is not None and heads:
        found += scores.check.warnings if scores.check is not None else ()
        if scores.n_pairs > 1:
            low, high = scores.interval()
            holding = [str(head) for head in heads if low[head] <= 0 <= high[head]]
            if holding:
                found.append(
                    f"the interval of {len(holding)} of {len(heads)} chosen heads holds 0: {' '.join(holding)}"
                )
        if scores.n_pairs > 3 and (stability := scores.stability()).overlap < 0.5:
            found.append(f"another draw of pairs would choose other heads: {stability}")
        if below := weak(work):
            found.append(f"{len(below)} of {len(heads)} chosen heads score no higher than heads do by chance: {below}")
    if patching is not None and len(patching.random):
        best = float(patching.random["recovery"].max())
        if best >= float(patching.chosen["recovery"]):
            found.append(f"a random set of as many heads recovers as much of the gap ({best:.2f})")
    return found + ([] if work.comparison is None else _of_trials(work.comparison))


def weak(work: Work) -> HeadSet:
    """The chosen heads that score no higher than heads do where nothing is to be recovered; none without a null."""
    if work.scores is None or work.null is None or not work.heads:
        return HeadSet()
    return work.heads - work.scores.above_null(work.null)


def next_steps(work: Work) -> list[str]:
    """What to do with it, and what would make it firmer: sentences."""
    found = []
    if work.adapter is not None:
        found.append(
            "use the tuned heads: Adapter.load('adapter').apply(model), and export_hf(model, folder) for an ordinary "
            "checkpoint (or the study again with --export)"
        )
    found.append("look at the map in picker.html, choose other heads, and give the saved file to a new study: --heads")
    if work.scores is not None and work.scores.check is not None and work.scores.check.warnings:
        found.append('mend the readout before more is made of the map: words "found", another contrast or more pairs')
    if weak(work) and work.settings.ranking != "objective gradient":
        found.append('rank by another method (ranking "objective gradient", "path patching"), or take fewer heads')
    comparison = work.comparison
    if comparison is not None and (ends := at_the_end(comparison)):
        found.append(f"try learning rates beyond those at the end of what was tried: {', '.join(ends)}")
    if comparison is not None and RANDOM in comparison.choice and not clear(comparison):
        found.append(
            "the choice of heads is not shown to matter here: more cases, draws and seeds, or find out on the "
            "validation split why random heads keep up"
        )
    return found


def next_commands(work: Work) -> str:
    """The same as commands and calls to copy, run from the study's folder, but for what a browser saves."""
    study = "spt-lens study --model MODEL --questions QUESTIONS --settings SETTINGS.json"
    out = shlex.quote(f"../{work.out.resolve().name}-2")
    found = [f"spt-lens pick scores.safetensors\n{study} --heads ~/Downloads/heads.json --out {out}"]
    if work.adapter is not None:
        found.append(
            "import spt_lens as spt\n\n"
            'model = spt.load_model("MODEL")\n'
            'spt.Adapter.load("adapter").apply(model)\n'
            'spt.export_hf(model, "exported")'
        )
    return "\n\n".join(found)


def at_the_end(comparison: Comparison) -> list[str]:
    """The methods whose chosen learning rate is the lowest or highest of several that were tried, and which it is."""
    rates: dict[str, set[float]] = {}
    for trial in comparison.trials:
        rates.setdefault(trial.spec.method, set()).add(trial.spec.lr)
    return [
        f"{method} at the {'lowest' if lr == min(rates[method]) else 'highest'}, {lr:g}"
        for method, lr in comparison.choice.items()
        if len(rates[method]) > 1 and lr in (min(rates[method]), max(rates[method]))
    ]


def _of_trials(comparison: Comparison) -> list[str]:
    found = []
    if comparison.failed:
        which = sorted({f"{t.spec.method} at {t.spec.lr:g}" for t in comparison.failed})
        found.append(f"{len(comparison.failed)} trials diverged: {', '.join(which)}")
    ends = at_the_end(comparison)
    found += [f"{each}: the chosen learning rate, so a better one may lie beyond" for each in ends]
    table = comparison.intervals
    own = table[table["method"] != "untuned"]
    few = own.groupby("method", sort=False)["runs"].first()
    if len(few) and few.min() < 3:
        said = ", ".join(f"{method} {runs}" for method, runs in few.items() if runs < 3)
        found.append(
            f"few runs at the chosen learning rate ({said}): intervals speak of the cases, not of the training"
        )
    n = table[(table["metric"] == comparison.goal) & (table["method"] == "untuned")]["n"]
    if len(n) and n.iloc[0] < FEW_CASES:
        found.append(f"{comparison.goal} is of {n.iloc[0]} cases: an interval of such a share is wide")
    cut = table[(table["metric"] == "cut") & (table["value"] > 0.1)]
    found += [
        f"{row.method}: {row.value:.0%} of the replies were cut, and judged by their start" for row in cut.itertuples()
    ]
    return found


def methods_table(comparison: Comparison, split: str | None = None) -> pd.DataFrame:
    """A row for each figure, a column for each method, as text: value [interval], and the spread over runs; then n.

    split: default: test. Raises ValueError for one that methods were not evaluated on.
    """
    known = comparison.intervals_on(split)
    columns: dict[str, dict[str, str]] = {}
    for method, rows in known.groupby("method", sort=False):
        first = comparison.chosen[method][0]
        share = first.parameters / comparison.settings.get("parameters", math.nan)
        column = {"learning rate": f"{first.spec.lr:g}" if first.spec.lr else "", "runs": f"{rows['runs'].iloc[0]}"}
        column |= {"weights tuned": f"{share:.2%}" if share else ""}
        for row in rows.to_dict("records"):
            if not str(row["metric"]).startswith(("ability: ", "choice: ")):
                column[readable(str(row["metric"]))] = _cell(row)
        columns[str(method)] = column
    frame = pd.DataFrame(columns).fillna("")
    n = {readable(name): str(n) for name, n in known.drop_duplicates("metric").set_index("metric")["n"].items()}
    frame["n"] = [n.get(name, "") for name in frame.index]
    return frame.rename_axis("").reset_index()


def _cell(row: Mapping[str, Any]) -> str:
    digits = 4 if str(row["metric"]).startswith("kl") else 2
    if row["method"] == "untuned" and digits == 4:
        return ""
    if math.isnan(row["value"]):
        return "not known"
    text = f"{row['value']:.{digits}f} [{row['low']:.{digits}f}, {row['high']:.{digits}f}]"
    return text + (f"\n{row['min']:.{digits}f} to {row['max']:.{digits}f}" if row["runs"] > 1 else "")


def as_text(table: pd.DataFrame) -> pd.DataFrame:
    """A table as it is read: drift to four places, learning rates and shares short, the rest to three places."""
    formats, text = {"share": "{:.1%}", "n": "{:.0f}"}, table.copy()
    formats |= (
        dict.fromkeys(("runs", "rival runs"), "{:.0f}")
        | dict.fromkeys(("lr", "rival lr"), "{:g}")
        | dict.fromkeys(("kl", "budget", "drift", "rival drift"), "{:.4f}")
    )
    for column in text.select_dtypes("number"):
        whole = pd.api.types.is_integer_dtype(text[column])
        form = formats.get(str(column), "{:.0f}" if whole else "{:.3f}")
        text[column] = ["" if pd.isna(value) else form.format(value) for value in text[column]]
    return text
