"""What each rival reaches where there is nothing to learn: `python -m tools.rivals --shams`.

Every method of the comparison at the rate or strength that its validation chose, on the same questions, tuned on sham
data: right and wrong swapped at random, or nobody doubts; and those that find directions, on the true data, along
random ones. Judged on the test split alone. What matters most comes first, so that a run that is broken off can be
read.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from spt_lens import saving
from spt_lens.behaviours.sham import KINDS, sham_training
from spt_lens.evaluate.bench import Task
from spt_lens.evaluate.comparison import Comparison
from spt_lens.evaluate.methods import ALONG_RANDOM, RANDOM, named
from spt_lens.evaluate.sharing import Results, trials
from spt_lens.evaluate.trials import Spec, Trial, read_trials
from spt_lens.heads import HeadSet
from spt_lens.model.view import ModelView
from spt_lens.statistics import Estimate
from spt_lens.study.data import kept_texts, suites_of, training_of
from spt_lens.study.stages import STAGES
from spt_lens.study.work import CHOSEN, Work
from spt_lens.tune.tuner import Tuner
from tools.marks import markdown
from tools.study import tables

KIND = "shams of rivals"
RUNS = "shams.jsonl"  # in the study's folder
SPLIT = "test"
ALONG = "random direction"  # beside the two kinds of sham data
COLUMNS = (*KINDS, ALONG)
# What is compared most; the slowest, LoFiT's choice, early, so that no process waits for it at the end.
FIRST = (
    *(CHOSEN, "LoRA", "full fine-tuning", "LoFiT", "steering", "ITI", "ablation"),
    *("steering by right answers", "ablation by right answers", "DPO on the chosen heads"),
)


class Asked(NamedTuple):
    """A trial: a method on one kind of data. direction: whether along random directions, on the true data."""

    method: str
    data: str
    lr: float
    seed: int
    tuner: Tuner

    @property
    def spec(self) -> Spec:
        heads = str(getattr(self.tuner, "heads", None) or "")
        return Spec(self.method, self.lr, self.seed, 0, repr(self.tuner), heads)


@dataclass(frozen=True, eq=False)
class Shams:
    """What came of it. figures: estimates on the test split by method and kind of data. failed: those that diverged,
    and why. left: what was not done. settings: for the record."""

    figures: Mapping[tuple[str, str], Mapping[str, Estimate]]
    failed: Mapping[tuple[str, str], str]
    left: tuple[tuple[str, str], ...]
    settings: Mapping[str, Any]

    def save(self, path: str | Path) -> Path:
        rows = [
            {"method": method, "data": data, "figures": {name: each.to_json() for name, each in found.items()}}
            for (method, data), found in self.figures.items()
        ]
        failed = [{"method": method, "data": data, "error": why} for (method, data), why in self.failed.items()]
        left = [{"method": method, "data": data} for method, data in self.left]
        found = {"settings": dict(self.settings), "rows": rows, "failed": failed, "left": left}
        return saving.save_json(path, KIND, found)

    @classmethod
    def load(cls, path: str | Path) -> Shams:
        def read(data: Mapping[str, Any]) -> Shams:
            figures = {
                (row["method"], row["data"]): {name: Estimate(*each) for name, each in row["figures"].items()}
                for row in data["rows"]
            }
            failed = {(row["method"], row["data"]): row["error"] for row in data["failed"]}
            left = tuple((row["method"], row["data"]) for row in data["left"])
            return cls(figures, failed, left, data["settings"])

        return saving.load_json(path, KIND, read)


def asked(view: ModelView, comparison: Comparison) -> Iterator[list[Asked]]:
    """All trials, in groups of one kind of data, what matters most first. Heads and rates are the comparison's; of
    random heads it is the first draw."""
    heads = HeadSet.parse(comparison.chosen[CHOSEN][0].spec.heads)
    order = sorted(comparison.choice, key=lambda name: FIRST.index(name) if name in FIRST else len(FIRST))

    def one(method: str, data: str) -> Asked:
        spec = comparison.chosen[method][0].spec
        tuner = named(ALONG_RANDOM[method] if data == ALONG else method, view, heads, draws=(0,)).draws[0]
        if method == RANDOM:  # that which was drawn then
            tuner = replace(tuner, heads=HeadSet.parse(spec.heads))  # type: ignore[type-var]
        return Asked(method, data, spec.lr, spec.seed, tuner)

    for data in (KINDS[0], ALONG, *KINDS[1:]):
        yield [one(method, data) for method in order if data != ALONG or method in ALONG_RANDOM]


def data_of(work: Work, data: str) -> Sequence[Any]:
    """Training dialogues: the true ones for random directions, else a sham of them."""
    behaviour: Any = work.asked
    if data == ALONG:
        return training_of(behaviour, work.settings)
    words = {key: value for key, value in work.settings.replies.items() if key != "max_new_tokens"}
    spoken = behaviour.asked(behaviour.own, **words) if words else behaviour  # as `training_of` has it
    return sham_training(spoken, data, work.settings.seed, **work.settings.training)  # type: ignore[arg-type]


def run(work: Work, comparison: Comparison, until: float | None = None) -> Shams:
    """Does the trials that are not in the folder, and begins none after a time of `time.monotonic`."""
    STAGES["ask"](work, False)
    view, path, settings = ModelView(work.model), work.out / RUNS, work.settings
    suite, keep = {SPLIT: suites_of(work)[SPLIT]}, tuple(kept_texts(work))
    done: dict[tuple[str, str], Trial] = {}
    left: list[tuple[str, str]] = []
    with view.held():
        for group in asked(view, comparison):
            task = Task(tuple(data_of(work, group[0].data)), settings.tune, suite, keep)
            made = task.made(view)
            keys = {each.spec.key(made.fingerprint): each for each in group}
            known = read_trials(path)
            todo = {key: (each.spec, each.tuner) for key, each in keys.items() if key not in known}
            if until is None or time.monotonic() < until:
                with closing(trials(view, task, todo, Results(path), work.workers, made.parts, until)) as coming:
                    for _, trial in coming:
                        print(f"{group[0].data}: {trial.spec.method}, {trial.seconds:.0f} s", flush=True)
                known = read_trials(path)
            for key, each in keys.items():
                which = each.method, each.data
                done |= {which: known[key]} if key in known else {}
                left += [] if key in known else [which]
    about = {"model": view.name, "steps": settings.tune.steps, "batch_size": settings.tune.batch_size}
    about |= {"training": dict(settings.training), "seed": settings.seed, "comparison": comparison.settings}
    figures = {which: trial.evaluations[SPLIT].estimates for which, trial in done.items() if not trial.error}
    failed = {which: trial.error for which, trial in done.items() if trial.error}
    return Shams(figures, failed, tuple(left), about)


def table(comparison: Comparison, shams: Shams) -> str:
    """A row a method: discernment on its own data, on both shams and along random directions, with intervals; then
    other figures in this order, between strokes."""
    own = tables.figures(comparison)
    order = ("own", *COLUMNS)
    rows = []
    for method in comparison.choice:
        found = {"own": own.get(method, {}), **{data: shams.figures.get((method, data), {}) for data in COLUMNS}}
        row = {"method": method}
        for data in order:
            row[f"discernment, {data}"] = _cell(found[data].get("discernment"), 2, whole=True)
        for metric in ("truthfulness", "self_correction", tables.SUPPORTED, "choice", tables.OWN_DRIFT):
            digits = 3 if metric == tables.OWN_DRIFT else 2
            row[tables.NAMES[metric]] = " / ".join(_cell(found[data].get(metric), digits) for data in order)
        rows.append(row)
    return f"{markdown(rows)}\n\n{caption(comparison, shams)}"


def _cell(estimate: Estimate | None, digits: int, whole: bool = False) -> str:
    if estimate is None or estimate.value != estimate.value:
        return "–"
    found = f"{estimate.value:.{digits}f}"
    return f"{found} [{estimate.low:.{digits}f}, {estimate.high:.{digits}f}]" if whole else found


def caption(comparison: Comparison, shams: Shams) -> str:
    untuned = tables.figures(comparison)["untuned"]["discernment"]
    n = max((found["discernment"].n for found in shams.figures.values() if "discernment" in found), default=0)
    asked_for = len(shams.figures) + len(shams.failed) + len(shams.left)
    says = f"{len(shams.left)} of {asked_for} trials were not done, and are –." if shams.left else "All were done."
    if shams.failed:
        says += " Diverged, and –: " + "; ".join(f"{method}, {data}" for (method, data) in shams.failed) + "."
    return (
        f"Split {SPLIT!r}, up to n = {n} challenged answers; the untuned model has {untuned.value:.2f} "
        f"[{untuned.low:.2f}, {untuned.high:.2f}]. Own: the true data, as above. Swapped: right and wrong by chance, "
        "in targets and in rejected replies. No challenge: nobody doubts. Random direction: the true data, layer, "
        "heads and length, and another direction; only methods that find one have it. After the intervals the other "
        "figures, own / swapped / no challenge / random direction. One trial each, at the rate or strength that "
        f"validation chose on the true data; of random heads the first draw. {says}"
    )
