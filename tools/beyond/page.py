"""The tables of docs/what-changes.md that show what tuning changes beyond the behaviour, from beyond-NAME.json."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

from spt_lens.statistics import Estimate
from tools.beyond.plans import UNTUNED
from tools.beyond.result import Beyond, result_path
from tools.marks import markdown, put_between

PAGE = Path("docs/what-changes.md")
MODELS = ("smollm2", "yesman")
THOUSANDTHS = ("kl", "kl: own replies")
ASKED = {
    "discernment": "discernment",
    "truthfulness": "right kept",
    "self_correction": "wrong put right",
    "ends right: supported right": "supported right, kept",
    "gives in: supported wrong": "supported wrong, taken back",
    "ends right: neutral right": "neutral turn, right kept",
    "gives in: neutral wrong": "neutral turn, wrong taken back",
    "accuracy_before": "right when asked again",
    "choice": "four-way choice",
    "ability": "abilities",
    "kl: own replies": "drift, own replies",
    "kl": "drift, texts",
}
TURNS = {"turn": "turn at which it stands no more", "flips": "changes of mind"}
KEPT = {"right": "right kept", "wrong": "wrong put right"}
LEFT_OUT = ("cut", "choice: by chance")
# Of each topic: its title, and what is said below it.
TITLES = {
    "asked": ("The tuned behaviour, its controls, ability and drift", ""),
    "turns": ("Right answers, doubted turn after turn", "An answer that stands to the end counts as a turn more."),
    "turns, wrong answers": ("Wrong answers, doubted turn after turn", "Here it is good not to stand."),
    "pressure": ("Other pressure, in one turn", ""),
    "hints": ("Answer hints", ""),
    "feedback": ("Feedback", "Without an opinion: the share that is positive."),
    "mimicry": ("Mimicry", ""),
    "opinions": ("Opinions", "The effect: how much more often it says what the user thinks, where the user tells it."),
    "refusals": ("Refusals", ""),
}


def marks(name: str) -> tuple[str, str]:
    return f"<!-- beyond, {name}: python -m tools.beyond --table -->", f"<!-- end of beyond, {name} -->"


def labels(topic: str, estimates: Mapping[str, Estimate]) -> dict[str, str]:
    """The figures of a topic's table, and what it calls them."""
    if topic == "asked":
        return {name: label for name, label in ASKED.items() if name in estimates}
    if topic.startswith("turns"):
        steps = {name: name.replace("standing: ", "stood up to turn ") for name in estimates if "standing: " in name}
        return {name: label for name, label in {**TURNS, **steps}.items() if name in estimates}
    if topic == "pressure":  # of "KIND: right" and "KIND: wrong" what stands in the end
        kinds = {name: name.split(": ")[1:] for name in estimates if name.startswith("ends right: ")}
        return {name: f"{kind}: {KEPT[which]}" for name, (kind, which) in kinds.items()}
    return {name: name for name in estimates if name not in LEFT_OUT}


def table(found: Beyond, topic: str) -> str:
    """A row a figure: the untuned model's with its interval, and of each method the change from it, paired; bold where
    its interval leaves out zero."""
    its, changes = found.evaluations[topic], found.changes(topic)
    rows = []
    for metric, label in labels(topic, its[UNTUNED].estimates).items():
        digits, before = 3 if metric in THOUSANDTHS else 2, its[UNTUNED][metric]
        row = {"figure": label, "n": str(before.n), UNTUNED: _value(before, digits)}
        for name, its_changes in changes.items():
            at = its_changes[its_changes["metric"] == metric]
            row[name] = ""
            for change, low, high in at[["change", "low", "high"]].to_numpy().tolist():
                row[name] = _change(change, low, high, digits)
        rows.append(row)
    return markdown(rows)


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
        "zero, no interval where no case changed, or all did alike. Nothing is corrected for how many figures "
        "there are: of twenty that do not change, one is bold."
    )


def text_of(found: Beyond) -> str:
    parts = [caption(found)]
    for topic, (title, note) in TITLES.items():
        if UNTUNED in found.evaluations.get(topic, {}):
            parts += [f"**{title}.** {note}".strip(), table(found, topic)]
    return "\n\n".join(parts)


def write_all(page: Path = PAGE) -> list[Path]:
    """Tables of the results that are there."""
    written = []
    for name in MODELS:
        if result_path(name).exists():
            put_between(page, *marks(name), text_of(Beyond.load(result_path(name))))
            written.append(page)
    return list(dict.fromkeys(written))
