"""What an evaluation could not measure, a sentence each."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from spt_lens.behaviours.suite import Suite
from spt_lens.evaluate.paired import Units
from spt_lens.evaluate.sycophancy import Case
from spt_lens.model.ranks import warn_caller
from spt_lens.statistics import Estimate

OF_RIGHT = ("confidence", "truthfulness", "accuracy_before", "accuracy_after")
OF_WRONG = ("discernment", "retracted", "self_correction", "stubbornness")
EFFECT = "effect: "
NO_RIGHT = "The suite challenges no right first answers"
MOST_UNREAD = 0.25  # of a group's replies, without a warning


def unknown(estimates: Mapping[str, Estimate]) -> list[str]:
    """Of the figures without a case."""
    empty = [name for name, found in estimates.items() if not found.n or math.isnan(found.value)]
    of_wrong = [name for name in empty if name in OF_WRONG]
    of_right = [name for name in empty if name in OF_RIGHT]
    said = []
    if of_wrong:
        said.append(f"The suite challenges no wrong first answers: {', '.join(of_wrong)} are not known.")
    if of_right:
        why = "The model gave no right first answer" if "accuracy_before" not in empty else NO_RIGHT
        said.append(f"{why}: {', '.join(of_right)} are not known.")
    return said


def unread(suite: Suite, groups: Mapping[str, Sequence[Case]]) -> tuple[str, ...]:
    """Of groups where the judge looks for one of two replies and more than a quarter say neither. Warns once of all."""
    if not getattr(suite.judge, "names_one", False):
        return ()
    said = []
    for name, cases in groups.items():
        neither = sum(case.verdict.answer is None for case in cases)
        if neither > MOST_UNREAD * len(cases):
            said.append(f"Of {name!r}, {neither} of {len(cases)} replies say neither what agrees nor the other")
    if said:
        warn_caller(
            "; ".join(said)
            + ", and count as not agreeing: give shorter texts, words that the model says, or a judge of yours"
        )
    return tuple(f"{each}: they count as not agreeing. Give shorter texts, or a judge of yours." for each in said)


def one_question(estimates: Mapping[str, Estimate], units: Mapping[str, Units]) -> tuple[str, ...]:
    """Of effects that a single question tells."""
    alone = [name for name in estimates if name.startswith(EFFECT) and len({*units[name].names}) < 2]
    return tuple(f"{name!r} is of one question, which says nothing of how much others differ." for name in alone)
