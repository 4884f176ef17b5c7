"""What tuning the best heads of every ranking reaches, beside layer-matched random heads, its sham's heads, and heads
tuned on sham data.

One learning rate for each size, the same for every ranking and for random heads: nothing is chosen by what comes out.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from tqdm.auto import tqdm

from spt_lens.behaviours.suite import Suite
from spt_lens.chat.dialogues import Dialogue, as_dialogues
from spt_lens.checking import MANY, door, instance, number, seed_number, whole_number
from spt_lens.evaluate.bench import Task
from spt_lens.evaluate.comparison import METRICS
from spt_lens.evaluate.sharing import Results, trials
from spt_lens.evaluate.trials import Spec, Trial, read_trials
from spt_lens.heads import HeadSet
from spt_lens.model.ranks import shows
from spt_lens.model.view import ModelView
from spt_lens.study.ranked_measure import Plan
from spt_lens.tune.config import TuneConfig
from spt_lens.tune.pinpoint import Pinpoint
from spt_lens.tune.tuner import Tuner

RUNS = "runs.jsonl"
SPLIT = "suite"
SUPPORTED = "ends right: supported right"  # of suites with such a group: right answers kept when the user agrees
FIGURES = (*METRICS, SUPPORTED)


@door
@dataclass(frozen=True, eq=False)
class Tuning:
    """How rankings are compared by tuning their best heads.

    config: all settings but the learning rate and the seed. lrs: a learning rate for each share of heads that is
    compared; default: the config's for all. Smaller sets bear, and need, a higher one. suite: what tuned models are
    judged by; default, with a behaviour: that of its test split. Choose rates on another split. seeds: the first one
    for all trials, the others for the rankings' own heads at the main share. keep: ordinary dialogues for the KL term.

    Raises: TypeError or ValueError that names the field, for a value that can't be meant.
    """

    config: TuneConfig
    suite: Suite | None = None
    lrs: Mapping[float, float] = field(default_factory=dict)
    seeds: tuple[int, ...] = (0,)
    keep: tuple[Dialogue, ...] = ()

    def __post_init__(self) -> None:
        instance(self.config, "config", TuneConfig, "give spt.TuneConfig(steps=60), say")
        if self.config.patience is not None:
            raise ValueError("rankings are compared after all steps: leave TuneConfig.patience out")
        for share, lr in instance(
            self.lrs, "lrs", Mapping, "give learning rates by share, such as {0.05: 1e-3}"
        ).items():
            number(lr, f"lrs[{share!r}]", above=0)
        object.__setattr__(self, "seeds", tuple(seed_number(seed, "one of seeds") for seed in self.seeds))
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds={list(self.seeds)}: give at least one, and each one once")
        object.__setattr__(self, "keep", as_dialogues(self.keep, "keep"))
        if bool(self.keep) != bool(self.config.kl_weight):
            raise ValueError(
                f"there are {len(self.keep)} dialogues in keep and kl_weight is {self.config.kl_weight:g}: a KL term "
                "needs both, give both"
            )

    def lr(self, share: float) -> float:
        return self.lrs.get(share, self.config.lr)


class Wanted(NamedTuple):
    """A trial that is wanted: whose heads, how many, and on what data. kind: "own" heads of a ranking, its "random" or
    its "sham" ones; "untuned". data: "" for the dialogues, or the name of the sham ones."""

    ranking: str
    kind: str
    share: float
    draw: int
    seed: int
    lr: float
    data: str
    heads: HeadSet

    @property
    def spec(self) -> Spec:
        tuner = self.tuner
        return Spec(self.kind, self.lr, self.seed, self.draw, repr(tuner) if tuner else "", str(self.heads))

    @property
    def tuner(self) -> Tuner | None:
        return Pinpoint(self.heads) if len(self.heads) else None


def wanted(plan: Plan, tuning: Tuning, names: Sequence[str], shams: Sequence[str]) -> Iterator[list[Wanted]]:
    """All trials, in groups, what matters most first: a comparison that is broken off has the main share whole."""
    own = {name: plan.ordered(scores) for name in names if (scores := plan.scores(name))}
    seed, *more = tuning.seeds

    def one(
        name: str, kind: str, share: float, heads: HeadSet, draw: int = 0, seed: int = seed, data: str = ""
    ) -> Wanted:
        return Wanted(name, kind, share, draw, seed, tuning.lr(share), data, heads)

    def at(share: float) -> list[Wanted]:
        found = [one(name, "own", share, order[: plan.sizes[share]]) for name, order in own.items()]
        for name, order in own.items():
            drawn = enumerate(plan.random(order[: plan.sizes[share]], share))
            found += [one(name, "random", share, heads, draw) for draw, heads in drawn]
        return found

    k, main = plan.sizes[plan.main], plan.main
    first = [Wanted("", "untuned", 0.0, 0, 0, 0.0, "", HeadSet()), *at(main)]
    for name in names:
        sham = plan.scores(name, sham=True)
        first += [] if sham is None else [one(name, "sham", main, plan.ordered(sham)[:k])]
    yield first
    for data in shams:
        yield [one(name, "own", main, own[name][:k], data=data) for name in names[:1]]
    last = [one(name, "own", main, order[:k], seed=each) for each in more for name, order in own.items()]
    yield [*(each for share in sorted(plan.sizes, reverse=True) if share != main for each in at(share)), *last]


def tune_all(
    plan: Plan,
    tuning: Tuning,
    names: Sequence[str],
    shams: Mapping[str, Sequence[Dialogue]],
    workers: int = 1,
    until: float | None = None,
) -> list[dict[str, Any]]:
    """Every trial's rows, of those that are done by a time (of `time.monotonic`), or all. The model is put back."""
    assert tuning.suite is not None
    view, path = ModelView(plan.model), plan.folder / RUNS
    groups = list(wanted(plan, tuning, names, list(shams)))
    tasks: dict[str, Any] = {}
    rows: list[dict[str, Any]] = []
    total = sum(map(len, groups))
    with tqdm(total=total, desc="tuning", unit="trial", disable=not shows(plan.progress)) as bar, view.held():
        for group in groups:
            for data in dict.fromkeys(each.data for each in group):
                if data not in tasks:
                    dialogues = tuple(shams[data] if data else plan.dialogues)
                    task = Task(dialogues, tuning.config, {SPLIT: tuning.suite}, tuning.keep)
                    tasks[data] = task, task.made(view)
                task, made = tasks[data]
                asked = [(each.spec.key(made.fingerprint), each) for each in group if each.data == data]
                known = read_trials(path)
                left = {key: (each.spec, each.tuner) for key, each in asked if key not in known}
                if left and (until is None or time.monotonic() < until):
                    with closing(trials(view, task, left, Results(path), workers, made.parts, until)) as coming:
                        for _ in coming:
                            bar.update()
                    known = read_trials(path)
                rows += [row for key, each in asked if key in known for row in _rows(each, known[key])]
    return rows


def _rows(each: Wanted, trial: Trial) -> list[dict[str, Any]]:
    """A row for each figure of a trial; of one that diverged a single one that says so."""
    about: dict[str, Any] = each._asdict() | {"k": len(each.heads), "seconds": trial.seconds}
    about.pop("heads")
    if trial.error:
        return [about | {"metric": "", "value": None, "low": None, "high": None, "n": 0, "error": trial.error}]
    estimates = trial.evaluations[SPLIT].estimates
    rows = []
    for name in FIGURES:
        if name in estimates:
            value, low, high, n = estimates[name].to_json()
            rows.append(about | {"metric": name, "value": value, "low": low, "high": high, "n": n, "error": ""})
    return rows


def checked_by_share(given: Mapping[float, Any], name: str, shares: Sequence[float]) -> None:
    """Raises ValueError for a share that is not compared."""
    for share in given:
        if share not in shares:
            raise ValueError(f"{name}[{share!r}]: there is no such share, they are {list(shares)}")


def checked_draws(n_random: int | Mapping[float, int], shares: Sequence[float]) -> dict[float, int]:
    """How many random draws there are at each share. Raises TypeError or ValueError."""
    if isinstance(n_random, Mapping):
        checked_by_share(n_random, "n_random", shares)
        found = {share: n_random.get(share, 0) for share in shares}
    else:
        found = dict.fromkeys(shares, n_random)
    return {share: whole_number(n, f"n_random at {share:g}", 0, MANY) for share, n in found.items()}
