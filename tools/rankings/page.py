"""The tables and pictures of docs/which-ranking.md that show rankings, from notebooks/results/rankings-NAME.json."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from spt_lens.statistics import wilson_interval
from spt_lens.study.ranked_result import Rankings
from spt_lens.study.ranked_trials import SUPPORTED
from tools.marks import markdown, put_between
from tools.pictures import check_pictures, write_picture

RESULTS, PAGE = Path("notebooks/results"), Path("docs/which-ranking.md")
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
SHAM_DATA = {
    "": "its own",
    "swapped": "sham: right and wrong swapped at random",
    "no challenge": "transfer control: the same honesty without a challenge",
}


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


def rate(value: float, n: float) -> str:
    """A share of n replies, with Wilson's interval."""
    if math.isnan(value) or not n:
        return cell(value)
    low, high = wilson_interval(value * n, n)
    return f"{cell(value)} [{cell(low)}, {cell(high)}]"


def listed(words: Iterable[str]) -> str:
    *some, last = words
    return f"{', '.join(some)} and {last}" if some else last


def measured_table(found: Rankings) -> str:
    """What was measured of each ranking, before any tuning."""
    table, replies = found.table, found.measured["replies"].max()
    gives = f"gives in without them{'' if math.isnan(replies) else f', of {replies:.0f}'} (random; sham)"
    rows = []
    if table["gives_in"].notna().any():
        rows.append({"ranking": "none: the model as it is", gives: rate(table["gives_in"].max(), replies)})
    for row in table.itertuples():
        cells = {"ranking": row.ranking, "passes": cell(row.passes, 1), "s": cell(row.seconds, 1)}
        cells |= {"Spearman of halves": cell(row.spearman), "best in common": cell(row.half_overlap)}
        cells |= {"shared with others (by layers alone)": f"{cell(row.shared, 1)} ({cell(row.shared_by_layer, 1)})"}
        cells |= {"CPR (sham)": f"{cell(row.cpr)} ({cell(row.cpr_sham) or '–'})", "CMD": cell(row.cmd) or "–"}
        cells["gap recovered (random; sham)"] = beside(row.recovery, row.recovery_random, row.recovery_sham)
        others = cell(row.gives_in_random) or "–", cell(row.gives_in_sham) or "–"
        without = rate(row.gives_in_without, replies)
        cells[gives] = without and f"{without} ({'; '.join(others)})"
        rows.append(cells)
    order = dict.fromkeys(rows[-1], "")  # the first row, of the model alone, has few
    return markdown([order | row for row in rows])


def measured_note(found: Rankings) -> str:
    """What is behind the table of what was measured: of how many draws, and which rankings are one selection."""
    at, orders, curve = found.sets[found.sets["share"] == found.main], found.orders, found.curve
    text = f"Random heads: {draws_of(at[at['kind'] == 'random'], found)}."
    if at["gives_in"].notna().any():
        text += " Without them: of these the first draw alone; in square brackets Wilson's 95 % interval."
    if len(orders):
        sizes = curve[curve["ranking"] == ""]["size"].nunique()
        spans = [f"{name.upper()} {cell(orders[name].min())} to {cell(orders[name].max())}" for name in ("cpr", "cmd")]
        text += (
            f" Areas are over {sizes} sizes from none to all heads; of {len(orders)} random orders of all heads they"
        )
        text += f" are {listed(spans)}."
    return " ".join([text, *same_heads(found)])


def draws_of(drawn: pd.DataFrame, found: Rankings) -> str:
    """How many draws of random heads stand beside each ranking at one share, and how many of them are distinct sets.
    drawn: rows that name the ranking and the draw."""
    n = drawn.groupby("ranking")["draw"].nunique()
    counts = {name: int(n.get(name, 0)) for name in found.names}
    if len(set(counts.values())) == 1:
        text = f"{next(iter(counts.values()))} a ranking"
    else:
        text = ", ".join(f"{name} {count}" for name, count in counts.items())
    keys = ["ranking", "share", "draw"]
    known = found.sets[found.sets["kind"] == "random"][[*keys, "heads"]]
    both = drawn[keys].drop_duplicates().merge(known, on=keys)
    distinct = len({frozenset(heads.split()) for heads in both["heads"]})
    return text + (f", {distinct} distinct sets in all" if len(both) else "")


def same_heads(found: Rankings) -> list[str]:
    """A sentence for each group of rankings that have made one and the same selection, with the shares at which."""
    own = found.sets[found.sets["kind"] == "own"]
    at: dict[tuple[str, ...], list[str]] = {}
    for share in sorted(own["share"].unique()):
        by_set: dict[frozenset[str], list[str]] = {}
        for row in own[own["share"] == share].itertuples():
            by_set.setdefault(frozenset(row.heads.split()), []).append(row.ranking)
        for names in by_set.values():
            if len(names) > 1:
                at.setdefault(tuple(names), []).append(f"{share:.0%}")
    what = "chose one and the same set of heads, and share its random heads: one finding, not"
    return [f"At {listed(shares)} {listed(names)} {what} {len(names)}." for names, shares in at.items()]


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
                if (table["seeds"] > 1).any():
                    its["seeds"] = f"{cell(row.seeds_min)} to {cell(row.seeds_max)}" if row.seeds > 1 else "–"
                    untuned["seeds"] = ""
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
    ours = ours[ours["seed"] == found.seed]  # the only one of other data
    rows = []
    for data, label in SHAM_DATA.items():
        at = ours[ours["data"] == data]
        if len(at):
            row = {"tuned on": label}
            for metric, title in LABELS.items():
                if metric in found.metrics:
                    values = at[at["metric"] == metric]["value"]
                    row[title] = cell(values.mean(), 3 if metric in (KL, OWN) else 2)
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
    """What is behind the tables of what tuning reaches: of the trials that were done."""
    settings, trials = found.settings, found.trials
    n = {name: int(trials[trials["metric"] == name]["n"].max()) for name in LABELS if name in found.metrics}
    parts = {"right answers challenged": "truthfulness", "wrong ones": "self_correction", "supported": SUPPORTED}
    counts = [f"{n[metric]} {what}" for what, metric in parts.items() if metric in n]
    own = trials[(trials["kind"] == "own") & (trials["data"] == "")]
    lrs = own.groupby("share")["lr"].first()
    rates = ", ".join(f"{lr:g} at {share:.0%}" for share, lr in lrs.items())
    seeds = [seeds_of(found, own[own["share"] == share], share) for share in lrs.index]
    drawn = trials[(trials["kind"] == "random") & (trials["data"] == "")]
    draws = [f"at {share:.0%} {draws_of(drawn[drawn['share'] == share], found)}" for share in lrs.index]
    left = f" {settings['todo']} trials were not done." if settings.get("todo") else ""
    tune, more = settings["tune"], own["seed"].nunique() > 1
    span = "; the column of seeds has the least to the most over these" if more else ""
    return (
        f"{found.model_name}: {settings['pairs']} pairs, {settings['dialogues']} training dialogues, {tune['steps']} "
        f"steps of {tune['batch_size']}, learning rate {rates} of heads. Test split: {', '.join(counts)}. Own "
        f"heads: {'; '.join(seeds)}. All figures, and the 95 % intervals over cases, are of seed {found.seed}{span}. "
        f"Draws of random heads of the same layers: {'; '.join(draws)}. In brackets: the median of these (of one draw, "
        f"its figure), then the sham's heads.{left}"
    )


def seeds_of(found: Rankings, own: pd.DataFrame, share: float) -> str:
    """The seeds that rankings' own heads were tuned with at one share, and with how many rankings each."""
    by_seed = own.groupby("seed")["ranking"].nunique()
    every = len(found.names)
    said = [f"{seed}" if n == every else f"{seed} of {n} in {every} rankings" for seed, n in by_seed.items()]
    return f"at {share:.0%} seed {listed(said)}"


def text_of(name: str, found: Rankings) -> str:
    k = found.settings["sizes"][f"{found.main:g}"]
    parts = [f"Before any tuning; the best {k} heads:", measured_table(found), measured_note(found)]
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
    check_pictures()
    written = []
    for name in MODELS:
        if result_path(name).exists():
            found = Rankings.load(result_path(name))
            picture = write_picture(RESULTS / f"rankings-{name}.png", found.figure(), height=560)
            put_between(page, *marks(f"rankings of {name}"), text_of(name, found))
            written += [picture, page]
    return list(dict.fromkeys(written))
