"""The tables and pictures of docs/patching-again.md, from notebooks/results/repatch-NAME.json."""

from __future__ import annotations

import html
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from spt_lens import saving, statistics
from spt_lens.evaluate.repatched import CHANGE, ENDS, RUNS, Repatched
from spt_lens.heads import HeadSet
from spt_lens.scores.head_scores import HeadScores
from tools.marks import markdown, put_between
from tools.pictures import check_pictures, write_picture
from tools.repatch.plans import Case

RESULTS, PAGE = Path("notebooks/results"), Path("docs/patching-again.md")
MODELS, KIND = ("smollm2", "yesman"), "patching again after tuning"
SETS = ("chosen", "tuned", "random", "others")


def result_path(name: str) -> Path:
    return RESULTS / f"repatch-{name}.json"


def marks(name: str) -> tuple[str, str]:
    what = f"patching again of {name}"
    return f"<!-- {what}: python -m tools.repatch --write -->", f"<!-- end of {what} -->"


def completed(found: Repatched, before: HeadScores, answers: Mapping[str, Any]) -> Repatched:
    """With what an older file lacks and other kept files hold: the interval of the untuned model's gap, and the tokens
    that were read. Without random heads that are of other layers than the chosen ones."""
    runs, sets, settings = found.runs.copy(), found.sets, {"answers": dict(answers), **found.settings}
    its = runs["figure"] == "gap"
    if runs.loc[its, "before_low"].isna().all() and before.base is not None and before.target is not None:
        gap = (before.target - before.base).double() * (-1 if before.direction == "noising" else 1)
        for name, end in zip(("before_low", "before_high"), statistics.interval(gap), strict=True):
            runs.loc[its, name] = float(end)
    layers = Counter(head.layer for head in found.heads)
    alike = sets["heads"].map(lambda text: Counter(head.layer for head in HeadSet.parse(text)) == layers)
    kept = replace(found, runs=runs, sets=sets[(sets["set"] != "random") | alike], settings=settings)
    return Repatched.from_json(kept.to_json())


def record(found: Repatched, case: Case, reading: str) -> dict[str, Any]:
    """The figures of one case: of all heads, those of the chosen ones alone."""
    sets: dict[str, dict[str, Any]] = {}
    for which in SETS:
        names = found.sets[found.sets["set"] == which]["figure"].unique()
        if len(names):
            sets[which] = {str(figure): _numbers(found.of(str(figure), which)) for figure in names}
    heads = found.table[found.table["set"] == "chosen"]
    columns = ["before", "after", "change", "low", "high", "importance_before", "importance_after", "rank_after"]
    return {
        "selection": case.selection,
        "tuned": case.tuned,
        "draw": case.draw,
        "reading": reading,
        "method": found.method,
        "direction": found.direction,
        "heads": str(found.heads),
        "moved": str(found.tuned),
        "preferred": found.preferred,
        "answers": found.settings.get("answers", {}),
        "runs": {figure: _numbers(found.of(figure)) for figure in RUNS},
        "gap_ends": [_rounded(found.of("gap")[end]) for end in ENDS],
        "sets": sets,
        "chosen": {row["name"]: {c: _rounded(row[c]) for c in columns} for _, row in heads.iterrows()},
        "spearman": _rounded(found.spearman),
        "k": found.k,
        "in_top": [each and [each.shared, _rounded(each.expected), _rounded(each.p)] for each in found.chosen_in_top],
        "gained": None if found.gained is None else str(found.gained),
    }


def _numbers(row: pd.Series) -> list[float | None]:
    return [_rounded(row[name]) for name in CHANGE]


def _rounded(value: float) -> float | None:
    return None if value != value else float(f"{value:.5g}")


def cell(value: float | None, digits: int = 2) -> str:
    return "–" if value is None else f"{round(value, digits) + 0.0:.{digits}f}"


def ends(low: float | None, high: float | None, digits: int = 2) -> str:
    """An interval; – for one that is not known."""
    if low is None or high is None:
        return "[–]"
    return "[" + ", ".join(f"{'+' if end >= 0 else ''}{cell(end, digits)}" for end in (low, high)) + "]"


def moved(numbers: list[float | None] | None, digits: int = 2, interval: bool = True) -> str:
    """Before, after, and the interval of the change."""
    if numbers is None:
        return ""
    before, after, _, low, high = numbers
    text = f"{cell(before, digits)} → {cell(after, digits)}"
    return f"{text} {ends(low, high, digits)}" if interval and low is not None else text


def gap(case: Mapping[str, Any]) -> str:
    """Before and after, each with its own interval."""
    own = case["gap_ends"]
    sides = zip(case["runs"]["gap"][:2], (own[:2], own[2:]), strict=True)
    return " → ".join(f"{cell(value)} {ends(*its)}" for value, its in sides)


def plain(text: str) -> str:
    """Text from data as a cell of a table says it, with no markup of its own."""
    return re.sub(r"([\\`*_|\[\]])", r"\\\1", html.escape(text, quote=False))


def tuned_of(case: Mapping[str, Any]) -> str:
    return "themselves" if case["tuned"] != "random" else f"random heads, draw {case['draw']}"


def _head(case: Mapping[str, Any]) -> dict[str, str]:
    return {"chosen by": case["selection"], "tuned": tuned_of(case)}


def runs_table(cases: list[Mapping[str, Any]], pairs: int) -> str:
    rows = []
    for case in cases:
        prefers = case["runs"]["prefers"]
        counts = " → ".join(str(round((value or 0) * pairs)) for value in prefers[:2])
        row = _head(case) | {"challenged run": moved(case["runs"]["ld_sycophantic"], interval=False)}
        row |= {"other run": moved(case["runs"]["ld_truthful"], interval=False), "gap": gap(case)}
        row |= {"change of the gap": ends(*case["runs"]["gap"][3:])}
        rows.append(row | {f"prefer {plain(case['preferred'])}, of {pairs}": counts})
    return markdown(rows)


def chosen_table(cases: list[Mapping[str, Any]]) -> str:
    rows = []
    for case in cases:
        its = case["sets"]["chosen"]
        name = case["heads"].split()[0]  # by the ranking: the strongest of these pairs would be chosen by them
        best = case["chosen"][name]
        row = _head(case) | {"effects, summed": moved(its["single"]), "patched together": moved(its["together"])}
        row |= {"knocked out together": moved(its["knocked_out"])}
        row |= {"first of the ranking": f"{name}: {moved([best[key] for key in CHANGE])}"}
        if case["direction"] == "denoising":  # of noising it has no bound, and says nothing where that share is small
            row["its importance"] = " → ".join("–" if best[key] is None else f"{best[key]:.1%}" for key in _IMPORTANCE)
        rows.append(row)
    return markdown(rows)


_IMPORTANCE = ("importance_before", "importance_after")


def where_table(cases: list[Mapping[str, Any]]) -> str:
    rows, random = [], any("random" in case["sets"] for case in cases)
    for case in cases:
        sets = case["sets"]
        row = _head(case) | {"all others, summed": moved(sets["others"]["single"])}
        row |= {"sizes of these, summed": moved(sets["others"]["sizes"])}
        if random:
            its = sets.get("random", {"single": [None] * len(CHANGE)})["single"]
            row |= {"random heads of these layers, summed (median)": moved(its, interval=False)}
        row |= {"Spearman": cell(case["spearman"])}
        before, after = ("–" if top is None else str(top[0]) for top in case["in_top"])
        by_layers = "" if case["in_top"][1] is None else f" ({cell(case['in_top'][1][1], 1)})"
        row |= {f"chosen among the best {case['k']}": f"{before} → {after}{by_layers}"}
        rows.append(row | {"new among these": "–" if case["gained"] is None else case["gained"] or "none"})
    return markdown(rows)


def text_of(result: Mapping[str, Any]) -> str:
    parts = []
    cases = result["cases"]
    for reading in dict.fromkeys(case["reading"] for case in cases):
        its = [case for case in cases if case["reading"] == reading]
        parts += [f"Read by {reading}. The two runs:", runs_table(its, result["pairs"])]
        parts += ["The chosen heads:", chosen_table(its)]
        parts += ["All others:", where_table(its)]
    said = "the best are by effect times the sign of the gap, and – where its interval holds zero"
    if any(None in case["gap_ends"][2:] for case in cases):
        said += " or, after tuning, is not known ([–]): what is kept of these runs does not hold it"
    if any("random" not in case["sets"] for case in cases):
        said += "; random heads: – where those of these layers run short"
    parts.append(
        f"{result['model']}: {result['pairs']} pairs of the test split, {result['dialogues']} training dialogues, "
        f"{result['steps']} steps of {result['batch_size']}, learning rate {result['lr']:g}, KL weight "
        f"{result['kl_weight']:g}, seed 0. Before → after, and the paired 95 % interval of the change, in logits; of "
        "the gap, each one's own. In brackets of counts, what the layers alone would give; "
        f"{said}. Importance: the relative change of the sycophantic answer's share, as the paper has it, sign turned; "
        "– where that share is nearly zero."
    )
    parts.append(f"![Effects before and after tuning](../{RESULTS}/repatch-{result['name']}.png)")
    return "\n\n".join(parts)


def write_all(page: Path = PAGE) -> list[Path]:
    """Tables and pictures of the results that are there. Raises: ImportError without kaleido."""
    check_pictures()
    written = []
    for name in MODELS:
        if result_path(name).exists():
            result = saving.load_json(result_path(name), KIND, dict)
            figure = Repatched.from_json(result["first"]).figure()
            picture = write_picture(RESULTS / f"repatch-{name}.png", figure, 640, 600)
            put_between(page, *marks(name), text_of(result))
            written += [picture, page]
    return list(dict.fromkeys(written))
