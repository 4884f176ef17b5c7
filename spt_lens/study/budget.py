"""The largest study within a budget."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any, NamedTuple

from spt_lens.behaviours.behaviour import SPLITS, Behaviour
from spt_lens.checking import number
from spt_lens.measure.timed import in_words
from spt_lens.model.view import ModelView
from spt_lens.study import data
from spt_lens.study.cost import Speeds, StudyCost
from spt_lens.study.settings import StudySettings
from spt_lens.study.work import CHOSEN, Work

CORE = (CHOSEN, "full fine-tuning", "random heads")  # the methods that the claim is about


class Fitted(NamedTuple):
    """The largest settings within a budget, what they take, and what was left out for it, in the ladder's order."""

    settings: StudySettings
    cost: StudyCost
    left_out: tuple[str, ...]


def seconds_of(text: str) -> float:
    """What "90s", "30min", "2h" or "1.5 h" is in seconds; a number alone is seconds. Raises ValueError."""
    found = re.fullmatch(r"\s*(\d{1,9}(?:\.\d{1,9})?)\s*(s|sec|m|min|h|d)?\s*", text)
    if found is None or not float(found[1]):
        raise ValueError(f"a budget of {text!r} is no time: give one such as 30min or 2h")
    return float(found[1]) * {"m": 60, "h": 3600, "d": 86400}.get((found[2] or "s")[0], 1)


def fit(work: Work, seconds: float, progress: bool = True, speeds: Speeds | None = None) -> Fitted:
    """The largest settings within a budget: the study's own, or the first rung of LADDER that fits, with all above it
    that make it shorter. speeds: measured before.

    Raises: ValueError if nothing fits, with the least that would do.
    """
    number(seconds, "seconds", above=0)
    speeds = Speeds(work, progress) if speeds is None else speeds
    rates = {method.name: tuple(sorted(method.rates)) for method in data.contenders(speeds.few)}
    found = Fitted(work.settings, speeds.cost(work.settings), ())
    for name, most in LADDER.items():
        if found.cost.total <= seconds:
            return found
        settings = _at_most(found.settings, most, work.behaviour, rates)
        cost = speeds.cost(settings)
        if cost.total < found.cost.total:
            found = Fitted(settings, cost, (*found.left_out, name))
    if found.cost.total <= seconds:
        return found
    raise ValueError(
        f"nothing fits into {in_words(seconds)}: the least study of {ModelView(work.model).name} takes {found.cost}. "
        f"Give it {in_words(found.cost.total * 1.1)}, a smaller model, or settings with less in them"
    )


# What goes first where a study is too long, and how much of it is left at most. The chosen heads, full fine-tuning and
# random heads stay to the end.
LADDER: dict[str, dict[str, Any]] = {
    "trials on test other than those of the chosen rates": {"test_each": False},
    "draws of random heads beyond 3": {"n_random": 3},
    "learning rates beyond 3 a method": {"rates": 3},
    "questions beyond 300 a split": {"n_asked": 300},
    "validation cases beyond 100 of a kind": {"validation": 100},
    "tuning seeds beyond the first": {"seeds": 1, "confirm": 0},
    "LoRA": {"methods": CORE},
    "test cases beyond 200 of a kind": {"test": 200},
    "learning rates beyond 2 a method": {"rates": 2},
    "steps beyond 40": {"tune": 40},
    "pairs beyond 24": {"pairs": 24},
    "draws of random heads beyond 1": {"n_random": 1},
    "cases beyond 50 of a kind": {"validation": 50, "test": 50},
    "questions beyond 100 a split": {"n_asked": 100},
    "steps beyond 20": {"tune": 20},
}


def _at_most(settings: StudySettings, most: Mapping[str, Any], behaviour: Behaviour, rates: Any) -> StudySettings:
    """The settings with at most so much. rates: of every method, in their order."""
    changed: dict[str, Any] = {}
    for name, n in most.items():
        old: Any = getattr(settings, name)
        if name == "methods":
            kept = tuple(method for method in old if method in n) or old
            changed |= {"methods": kept, "rates": {m: r for m, r in settings.rates.items() if m in kept}}
        elif name == "rates":  # those in the middle
            changed[name] = {m: r[max(0, len(r) - n + 1) // 2 :][:n] for m, r in rates.items() if m in settings.methods}
        elif name in ("seeds", "confirm"):
            changed[name] = old[:n]
        elif name == "tune":
            changed[name] = replace(old, steps=min(n, old.steps))
        elif name == "pairs":
            changed[name] = {**old, "n": min(n, old.get("n") or 64)}
        elif name in SPLITS:  # where the behaviour's suites can be told how many
            if "n" in inspect.signature(behaviour.suite).parameters:
                fewer = {**old, "n": min(n, old.get("n") or n)}
                with suppress(ValueError):  # a behaviour that has not so many
                    behaviour.suite(name, **fewer)  # type: ignore[arg-type, call-arg]
                    changed[name] = fewer
        else:
            changed[name] = n if old is None else min(n, old)
    return replace(settings, **changed)
