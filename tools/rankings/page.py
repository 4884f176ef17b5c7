"""The tables and pictures of docs/findings.md that show rankings, from notebooks/results/rankings-NAME.json."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path

from spt_lens import saving
from spt_lens.study.ranked_result import Rankings
from spt_lens.study.ranked_trials import SUPPORTED
from tools.marks import markdown, put_between

RESULTS, PAGE = Path("notebooks/results"), Path("docs/findings.md")
MODELS = ("smollm2", "yesman")
KL, OWN = "kl", "kl: own replies"
LABELS = {
    "discernment": "discernment",
    "truthfulness": "right kept",
    "self_correction": "wrong put right",
    SUPPORTED: "supported kept",
    "accuracy_before": "right when asked again",
    "choice": "four-way choice",
    "ability": "abilities",
    OWN: "drift, own replies",
    KL: "drift, texts",
}
SHAM_DATA = {"": "its own", "swapped": "right and wrong swapped at random", "no challenge": "the challenge removed"}


def result_path(name: str) -> Path:
    return RESULTS / f"rankings-{name}.json"


def marks(what: str) -> tuple[str, str]:
    return f"<!-- {what}: python -m tools.rankings --write -->", f"<!-- end of {what} -->"


def cell(value: float, digits: int = 2) -> str:
    return "" if value is None or math.isnan(value) else f"{round(value, digits) + 0.0:.{digits}f}"  # no -0.00


def beside(own: float, random: float, sham: float, digits: int = 2) -> str:
    """A figure; in brackets that of random heads of the same layers, and of the sham's heads."""
    others = [cell(random, digits) or "–", cell(sham, digits) or "–"]
    return f"{cell(own, digits)} ({'; '.join(others)})" if cell(own, digits) else ""


def measured_table(found: Rankings) -> str:
    """What was measured of each ranking, before any tuning."""
    rows = []
    for row in found.table.itertuples():
        cells = {"ranking": row.ranking, "passes": cell(row.passes, 1), "s": cell(row.seconds, 1)}
        cells |= {"Spearman of halves": cell(row.spearman), "best in common": cell(row.half_overlap)}
        cells |= {"shared with others (by layers alone)": f"{cell(row.shared, 1)} ({cell(row.shared_by_layer, 1)})"}
        cells |= {"CPR (sham)": f"{cell(row.cpr)} ({cell(row.cpr_sham) or '–'})", "CMD": cell(row.cmd)}
        cells["gap recovered (random; sham)"] = beside(row.recovery, row.recovery_random, row.recovery_sham)
        cells["gives in without them (random; sham)"] = beside(
            row.gives_in_without, row.gives_in_random, row.gives_in_sham
        )
        rows.append(cells)
    return markdown(rows)


def reached_table(found: Rankings) -> str:
    """What tuning the best heads of the main size reaches, beside random and sham heads."""
    rows: dict[str, dict[str, str]] = {}
    untuned = {"ranking": "untuned"}
    for metric, label in LABELS.items():
        if metric not in found.metrics:
            continue
        digits = 3 if metric in (KL, OWN) else 2
        untuned[label] = cell(found.untuned(metric), digits)
        table = found.reached(metric)
        for row in table[table["share"] == found.main].itertuples():
            its = rows.setdefault(row.ranking, {"ranking": row.ranking})
            its[label] = beside(row.value, row.random_median, row.sham, digits)
            if metric == found.goal:
                its["95 %"] = f"[{cell(row.low)}, {cell(row.high)}]"
                untuned["95 %"] = ""
    return markdown([untuned, *rows.values()])


def sizes_table(found: Rankings, metric: str) -> str:
    """The figure over the share of heads: each ranking's, and the median of its random heads."""
    table, rows = found.reached(metric), []
    for name in found.names:
        row = {"ranking": name}
        for share in sorted(table["share"].unique()):
            at = table[(table["ranking"] == name) & (table["share"] == share)]
            k = found.settings["sizes"][f"{share:g}"]
            both = "" if at.empty else f"{cell(at['value'].iloc[0])} ({cell(at['random_median'].iloc[0]) or '–'})"
            row[f"{share:.0%}, {k} heads"] = both
        rows.append(row)
    return markdown(rows)


def sham_table(found: Rankings) -> str:
    """The first ranking's heads tuned on the dialogues, and on sham ones."""
    trials = found.trials
    name = next(iter(trials[trials["data"] != ""]["ranking"]), None)
    if name is None:
        return ""
    ours = trials[(trials["ranking"] == name) & (trials["kind"] == "own") & (trials["share"] == found.main)]
    rows = []
    for data, label in SHAM_DATA.items():
        at = ours[ours["data"] == data]
        if len(at):
            row = {"tuned on": label}
            for metric, title in LABELS.items():
                if metric in found.metrics:
                    row[title] = cell(at[at["metric"] == metric]["value"].mean(), 3 if metric in (KL, OWN) else 2)
            rows.append(row)
    return f"The heads by {name}:\n\n{markdown(rows)}"


def overlaps_table(found: Rankings) -> str:
    """Shared heads of each two rankings; bold where random heads of the same layers share as many in 5 % of cases, or
    fewer."""
    names = found.names
    known = {(row.one, row.other): row for row in found.overlaps.itertuples()}
    rows = []
    for i, one in enumerate(names):
        row = {"": one}
        for j, other in enumerate(names):
            each = known.get((one, other)) or known.get((other, one))
            bold = "**" if each is not None and each.p <= 0.05 else ""
            row[other] = "" if each is None or j <= i else f"{bold}{each.shared}{bold} ({each.expected:.1f})"
        rows.append(row)
    return markdown(rows)


def caption(found: Rankings) -> str:
    """What is behind the tables."""
    settings, trials = found.settings, found.trials
    n = {name: int(trials[trials["metric"] == name]["n"].max()) for name in LABELS if name in found.metrics}
    parts = {"right answers challenged": "truthfulness", "wrong ones": "self_correction", "supported": SUPPORTED}
    counts = [f"{n[metric]} {what}" for what, metric in parts.items() if metric in n]
    pooled = trials[(trials["kind"] == "random") & (trials["share"] == found.main)]
    draws = len(pooled[["ranking", "draw"]].drop_duplicates())
    left = f" {settings['todo']} trials were not done." if settings.get("todo") else ""
    tune, rates = settings["tune"], ", ".join(f"{lr:g} at {float(s):.0%}" for s, lr in settings["lrs"].items())
    return (
        f"{found.model_name}: {settings['pairs']} pairs, {settings['dialogues']} training dialogues, {tune['steps']} "
        f"steps of {tune['batch_size']}, learning rate {rates} of heads. Test split: {', '.join(counts)}. Seeds "
        f"{', '.join(map(str, settings['seeds']))} at {found.main:.0%}, the first at other sizes; {draws} draws of "
        f"random heads at {found.main:.0%}. In brackets: the median of random heads of the same layers, then the "
        f"sham's heads.{left}"
    )


def text_of(name: str, found: Rankings) -> str:
    k = found.settings["sizes"][f"{found.main:g}"]
    parts = [f"Before any tuning; the best {k} heads:", measured_table(found)]
    if found.metrics:
        parts += [f"After tuning the best {k} heads:", reached_table(found), caption(found)]
        parts += [f"{LABELS.get(found.goal, found.goal).capitalize()} by how many heads:"]
        parts += [sizes_table(found, found.goal)]
        parts += [f"![What tuning reaches, by ranking and share of heads](../{RESULTS}/rankings-{name}.png)"]
        parts += [sham_table(found)]
    parts += ["Heads that two rankings have in common (by their layers alone):", overlaps_table(found)]
    return "\n\n".join(part for part in parts if part)


def write_all(page: Path = PAGE) -> list[Path]:
    """Tables and pictures of the results that are there. Raises: ImportError without kaleido."""
    if importlib.util.find_spec("kaleido") is None:
        raise ImportError("pictures need kaleido: pip install 'spt-lens[images]', and a Chrome or Chromium")
    written = []
    for name in MODELS:
        if result_path(name).exists():
            found = Rankings.load(result_path(name))
            picture = RESULTS / f"rankings-{name}.png"
            image = found.figure().to_image(format="png", width=900, height=560, scale=1.5)
            saving.write_bytes(picture, image)
            put_between(page, *marks(f"rankings of {name}"), text_of(name, found))
            written += [picture, page]
    return list(dict.fromkeys(written))
