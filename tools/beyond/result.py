"""What came of it in one file: every evaluation with its cases, so that changes are paired."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import pandas as pd

from spt_lens import saving
from spt_lens.evaluate.evaluate import Evaluation
from spt_lens.evaluate.paired import Units
from tools.beyond.plans import UNTUNED
from tools.beyond.readings import more

RESULTS, KIND, ABOUT = Path("notebooks/results"), "beyond", "about.json"
TOPICS = (
    "asked",
    "turns",
    "turns, other words",
    "turns, wrong answers",
    "pressure",
    "hints",
    "feedback",
    "mimicry",
    "opinions",
    "refusals",
)


def result_path(name: str) -> Path:
    return RESULTS / f"beyond-{name}.json"


def method_path(out: Path, name: str) -> Path:
    """That a method is done."""
    return out / f"{name.replace(' ', '-')}.json"


def tuned_path(out: Path, name: str) -> Path:
    """With what it was tuned, from when it is."""
    return method_path(out, name).with_suffix(".tuned.json")


def begun(out: Path, about: Mapping[str, Any]) -> None:
    """Says in a folder what is measured there. Raises ValueError where that is something else: methods in one table
    must have had the same."""
    path = out / ABOUT
    if not path.exists():
        saving.save_json(path, KIND, about)
        return
    there = saving.load_json(path, KIND, dict)
    if other := [key for key in about if there.get(key) != about[key]]:
        raise ValueError(f"{out} holds what was measured with other {', '.join(other)}: give another --out")


def topic_path(out: Path, name: str, topic: str) -> Path:
    return out / f"{name.replace(' ', '-')}--{topic.replace(', ', '-').replace(' ', '-')}.json"


@dataclass(frozen=True, eq=False)
class Beyond:
    """about: model, heads, steps and so on. methods: of each that is done its lr, weights and seconds of tuning.
    evaluations: by topic, then by method; the untuned model is one."""

    about: Mapping[str, Any]
    methods: Mapping[str, Mapping[str, Any]]
    evaluations: Mapping[str, Mapping[str, Evaluation]]

    def changes(self, topic: str) -> dict[str, pd.DataFrame]:
        """What each method changed from the untuned model; none where that was not measured."""
        its = self.evaluations.get(topic, {})
        before = its.get(UNTUNED)
        return {} if before is None else {n: e.change_from(before) for n, e in its.items() if n != UNTUNED}

    def summary(self) -> str:
        done = {topic: len(its) for topic, its in self.evaluations.items()}
        return f"{self.about['model']}: methods measured by topic: {done}"

    def save(self, path: Path) -> Path:
        made = {topic: {name: _whole(each) for name, each in its.items()} for topic, its in self.evaluations.items()}
        data = {"about": dict(self.about), "methods": {n: dict(m) for n, m in self.methods.items()}}
        return saving.save_json(path, KIND, {**data, "evaluations": made})

    @classmethod
    def load(cls, path: Path) -> Self:
        return saving.load_json(path, KIND, cls._of)

    @classmethod
    def _of(cls, data: Mapping[str, Any]) -> Self:
        about, methods, topics = (saving.entry(data, key, dict) for key in ("about", "methods", "evaluations"))
        made = {t: {n: _again(each) for n, each in its.items()} for t, its in topics.items()}
        return cls(about, methods, made)


def _whole(evaluation: Evaluation) -> dict[str, Any]:
    """With its cases, each list as one text: there are tens of thousands of them."""
    units = {}
    for name, each in evaluation.units.items():
        known = each.to_json()
        units[name] = {
            key: " ".join("nan" if x is None else f"{x:.6g}" if key == "sums" else str(x) for x in known[key])
            for key in known
        }
        if set(known["sizes"]) == {1}:
            del units[name]["sizes"]
    return {**evaluation.to_json(), "units": units}


def _again(data: Mapping[str, Any]) -> Evaluation:
    units = {}
    for name, each in saving.entry(data, "units", dict).items():
        names, sums = each["names"].split(), [float(x) for x in each["sums"].split()]
        sizes = [int(x) for x in each["sizes"].split()] if "sizes" in each else [1] * len(names)
        units[name] = Units(names, sums, sizes).to_json()
    return Evaluation.from_json({**data, "units": units})


def collected(out: Path) -> Beyond:
    """What lies in a folder. Raises: FileNotFoundError where nothing was begun there."""
    about = saving.load_json(out / ABOUT, KIND, dict)
    names = saving.entry(about, "methods", list)
    done = {name: saving.load_json(path, KIND, dict) for name in names if (path := method_path(out, name)).exists()}
    found = {}
    for topic in TOPICS:
        paths = {name: topic_path(out, name, topic) for name in names}
        if its := {name: Evaluation.load(path) for name, path in paths.items() if path.exists()}:
            found[topic] = {name: more(topic, each, paths[name], its.get(UNTUNED)) for name, each in its.items()}
    drop = ("kind", "sha256", "name")
    methods = {name: {key: value for key, value in its.items() if key not in drop} for name, its in done.items()}
    return Beyond({key: value for key, value in about.items() if key not in drop}, methods, found)
