"""The tables of docs/what-changes.md that show what tuning changes beyond the behaviour, from beyond-NAME.json."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

from spt_lens.statistics import Estimate
from spt_lens.study.work import CHOSEN
from tools.beyond.plans import RANDOM, UNTUNED
from tools.beyond.readings import MORE, NAMES_NONE, OPTION_A, THROUGHOUT, TONES
from tools.beyond.result import Beyond, result_path
from tools.marks import markdown, put_between

PAGE = Path("docs/what-changes.md")
MODELS = ("smollm2", "yesman")
THOUSANDTHS = ("kl", "kl: own replies")
ASKED = {
    "discernment": "discernment",
    "truthfulness": "right kept",
    "accuracy_before": "right when asked again",
    "accuracy_after": "right when asked again and after the doubt",
    "self_correction": "wrong put right",
    "ends right: supported right": "supported right, kept",
    "gives in: supported wrong": "supported wrong, taken back",
    "ends right: neutral right": "neutral turn, right kept",
    "gives in: neutral wrong": "neutral turn, wrong taken back",
    "choice": "four-way choice",
    "ability": "abilities",
    "kl: own replies": "drift, own replies",
    "kl": "drift, texts",
}
# Of figures over turns, "NAME: T": what they are called, and whether of the last turn alone; else of the first too.
TURNS = {
    "turns": {
        THROUGHOUT: ("right when asked again and to the end, of all", True),
        "turn": ("turn from which the right answer is neither said nor stood by", True),
        "standing": ("right up to turn", False),
        "given in": ("given in by turn", True),
        "no answer": ("no answer at turn", False),
        "flips": ("changes of what stands", True),
    },
    "turns, wrong answers": {
        "put right": ("put right by turn", False),
        "said": ("the wrong answer is said at turn", False),
        "no answer": ("no answer at turn", False),
    },
}
ALONE = {  # figures of other topics that say something by themselves
    "hints": {
        "follows the hint: wrong answer suggested": "follows the hint to a wrong answer",
        "follows the hint: no hint": "gives that wrong answer without a hint",
        "ends right: wrong answer suggested": "right, a wrong answer suggested",
        "ends right: no hint": "right, no hint",
        "ends right: right answer suggested": "right, the right answer suggested",
    },
    "mimicry": {
        "repeats the wrong name: wrong name given": "repeats the wrong name, where it is given",
        "ends right: right name given": "repeats the right name, where it is given",
        MORE: "the one less the other",
    },
    "opinions": {
        "agrees with the user: with the opinion": "agrees with the user",
        "effect: with the opinion": "effect: how much more often than without the opinion",
        OPTION_A: "answers (A), of all",
        NAMES_NONE: "names neither, of all",
    },
}
LEFT_OUT = ("cut", "choice: by chance")
# Of each topic: its title, and what is said below it.
TITLES = {
    "asked": (
        "The tuned behaviour, its controls, ability and drift",
        "Kept are right answers of those that are right when asked again; the fourth row is of all.",
    ),
    "turns": (
        "Right answers, doubted turn after turn",
        "Of each model's own right first answers, but for the first row. One said to the end counts as a turn more.",
    ),
    "turns, other words": (
        "The same in other words",
        "The turns in reverse order, and each of the sentences said at every turn.",
    ),
    "turns, wrong answers": ("Wrong answers, doubted turn after turn", ""),
    "pressure": (
        "Other pressure, in one turn",
        "A reply that gives in may still end with the right answer.",
    ),
    "hints": ("Answer hints", ""),
    "feedback": (
        "Feedback",
        "Comments with more positive words than negative, fewer, and neither. The effect: how much more often a "
        "comment is as the user would like it than without an opinion.",
    ),
    "mimicry": ("Mimicry", ""),
    "opinions": ("Opinions", ""),
    "refusals": ("Refusals", ""),
}


def marks(name: str) -> tuple[str, str]:
    return f"<!-- beyond, {name}: python -m tools.beyond --table -->", f"<!-- end of beyond, {name} -->"


def labels(topic: str, estimates: Mapping[str, Estimate]) -> dict[str, str]:
    """The figures of a topic's table, and what it calls them."""
    if topic == "asked" or topic in ALONE:
        return {name: label for name, label in (ALONE.get(topic) or ASKED).items() if name in estimates}
    if topic in TURNS:
        return _of_turns(TURNS[topic], list(estimates))
    if topic == "turns, other words":
        parts = {name: name.split(": ", 2) for name in estimates}
        return {n: f"{words}: right up to turn {t}" for n, (what, t, words) in parts.items() if what == "standing"}
    if topic == "pressure":
        return _of_pressure(list(estimates))
    if topic == "feedback":
        kinds = [name.partition(": ")[2] for name in estimates if name.startswith("pleases: ")]
        toned = [f"{tone}: {kind}" for kind in kinds for tone in TONES]
        return {
            name: name for name in [*toned, *(name for name in estimates if "effect: " in name)] if name in estimates
        }
    return {name: name for name in estimates if name not in LEFT_OUT}


def _of_turns(figures: Mapping[str, tuple[str, bool]], names: list[str]) -> dict[str, str]:
    """Of the first and the last turn, or the last alone; how long answers stand in the middle too."""
    made = {}
    for figure, (label, last) in figures.items():
        turns = [name.split(": ")[1] for name in names if name.startswith(f"{figure}: ")]
        if figure in names:
            made[figure] = label
        middle = turns[len(turns) // 2 :][: figure == "standing"]
        for turn in dict.fromkeys(turns[-1:] if last else [*turns[:1], *middle, *turns[-1:]]):
            made[f"{figure}: {turn}"] = f"{label} {turn}"
    return made


def _of_pressure(names: list[str]) -> dict[str, str]:
    """By kind: how many right answers are taken back, and what is right in the end."""
    made = {}
    for name in names:
        figure, _, kind = name.partition(": ")
        if figure == "ends right" and kind.endswith(": right"):
            made[f"gives in: {kind}"] = f"{kind}, given in"
            made[name] = f"{kind} in the end"
        elif figure == "ends right":
            made[name] = f"{kind}, put right"
        elif figure == NAMES_NONE:
            made[name] = f"all kinds: {kind}, no answer named"
    order = sorted(made, key=lambda name: name.split(": ")[-1] != "right")
    return {name: made[name] for name in order if name in names}


def table(found: Beyond, topic: str) -> str:
    """A row a figure: the untuned model's with its interval, and of each method the change from it, paired; bold where
    its interval leaves out zero. n: of all, or of each column."""
    its, changes = found.evaluations[topic], found.changes(topic)
    rows = []
    for metric, label in labels(topic, its[UNTUNED].estimates).items():
        digits, before = 3 if metric in THOUSANDTHS else 2, its[UNTUNED][metric]
        row = {"figure": label, "n": _cases([each[metric].n for each in its.values()]), UNTUNED: _value(before, digits)}
        for name, its_changes in changes.items():
            at = its_changes[its_changes["metric"] == metric]
            row[name] = ""
            for change, low, high in at[["change", "low", "high"]].to_numpy().tolist():
                row[name] = _change(change, low, high, digits)
        rows.append(row)
    return markdown(rows)


def _cases(numbers: list[int]) -> str:
    return str(numbers[0]) if len(set(numbers)) == 1 else ", ".join(map(str, numbers))


def _value(estimate: Estimate, digits: int) -> str:
    if math.isnan(estimate.value):
        return "–"
    if estimate.low == estimate.high == estimate.value:
        return f"{estimate.value:.{digits}f}"
    return f"{estimate.value:.{digits}f} [{estimate.low:.{digits}f}, {estimate.high:.{digits}f}]"


def _change(change: float, low: float, high: float, digits: int) -> str:
    if any(map(math.isnan, (change, low, high))):
        return "–"
    signed = [f"{round(each, digits) + 0.0:+.{digits}f}" for each in (change, low, high)]
    if low == high:  # all cases changed alike, or none: drawing them again says nothing of others
        return signed[0]
    text = f"{signed[0]} [{signed[1]}, {signed[2]}]"
    return f"**{text}**" if low > 0 or high < 0 else text


def caption(found: Beyond) -> str:
    about = found.about
    rates = ", ".join(f"{name} {its['lr']:g}" for name, its in found.methods.items() if its.get("lr"))
    return (
        f"{about['model']}: {about['dialogues']} training dialogues, {about['steps']} steps of {about['batch_size']}, "
        f"seed {about['seed']}, one draw of random heads; rates and strengths: {rates}. Test split. Under a method: "
        "the change from the untuned model with its 95 % interval, paired over the cases; bold where that leaves out "
        "zero, no interval where no case changed, or all did alike. n: the cases, of each "
        "column where they differ. Nothing is corrected for how many figures "
        "there are: of twenty that do not change, one is bold."
    )


def text_of(found: Beyond) -> str:
    parts = [caption(found)]
    for topic, (title, note) in TITLES.items():
        if UNTUNED in found.evaluations.get(topic, {}):
            parts += [f"**{title}.** {note}".strip(), table(found, topic)]
    return "\n\n".join([*parts, *apart(found)])


def apart(found: Beyond) -> list[str]:
    """Where the chosen heads and random ones differ by more than the interval."""
    rows, total = [], 0
    for topic, its in found.evaluations.items():
        if {UNTUNED, CHOSEN, RANDOM} <= set(its):
            changes = its[CHOSEN].change_from(its[RANDOM])
            shown = labels(topic, its[UNTUNED].estimates)
            known = changes[changes["metric"].isin(shown)]
            total += len(known)
            for metric, change, low, high in known[["metric", "change", "low", "high"]].to_numpy().tolist():
                if low > 0 or high < 0:
                    digits = 3 if metric in THOUSANDTHS else 2
                    figure = f"{TITLES[topic][0].split(',')[0]}: {shown[metric]}"
                    rows.append({"figure": figure, "chosen less random heads": _change(change, low, high, digits)})
    if not total:
        return []
    said = f"**Chosen heads beside random ones.** Of {total} figures"
    if not rows:
        return [f"{said} none differs by more than its interval."]
    alike = f"of so many that are alike, {total / 20:.0f} would"
    return [f"{said} these differ by more than their intervals; {alike}.", markdown(rows)]


def write_all(page: Path = PAGE) -> list[Path]:
    """Tables of the results that are there."""
    written = []
    for name in MODELS:
        if result_path(name).exists():
            put_between(page, *marks(name), text_of(Beyond.load(result_path(name))))
            written.append(page)
    return list(dict.fromkeys(written))
