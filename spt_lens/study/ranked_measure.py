"""What is measured of every ranking: its scores and its sham's, how steady they are, what its best heads do together.

Everything is a file of a folder as soon as it is there. Processes that work on one folder share the rankings: each is
measured by one of them, which holds a lock that the operating system takes back from one that dies.
"""

from __future__ import annotations

import contextlib
import random
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from spt_lens import saving
from spt_lens.chat.dialogues import Dialogue
from spt_lens.data.pairs import ContrastPairs
from spt_lens.heads import Head, HeadSet
from spt_lens.measure.controls import same_layers
from spt_lens.measure.faithfulness import Faithfulness, of_recoveries, orders_of, recoveries, sizes_of
from spt_lens.measure.knockout import set_knockout
from spt_lens.model.view import Model, ModelView
from spt_lens.scores.head_scores import HeadScores
from spt_lens.study.rankings import RANKINGS

KIND = "ranking"
PAUSE = 0.2  # seconds between two looks at what other processes have done
KEPT_OUT = ("gives_in", "truthfulness")  # of the replies without some heads
ORDERS, ORDERS_FILE = 5, "random orders"  # of all heads: what areas over all set sizes are to beat, once for a model


@dataclass(frozen=True, eq=False)
class Plan:
    """What a comparison of rankings measures. sizes: heads by share of all; main: the share of the shams, of stability
    and overlap. n_random: draws of layer-matched heads by share. layers: the first and last to take heads from."""

    model: Model
    pairs: ContrastPairs | None
    dialogues: Sequence[Dialogue]
    sizes: Mapping[float, int]
    main: float
    n_random: Mapping[float, int]
    layers: tuple[int, int]
    folder: Path
    n_verify: int = 0
    sham_dialogues: Sequence[Dialogue] = ()
    seed: int = 0
    progress: bool = True
    found: dict[str, HeadScores] = field(default_factory=dict)  # that were read already

    def path(self, name: str, ending: str) -> Path:
        return self.folder / f"{name.replace(' ', '-')}{ending}"

    def scores(self, name: str, sham: bool = False) -> HeadScores | None:
        """Of a ranking that was measured; None for a sham that there is not."""
        path = self.path(name, "-sham.safetensors" if sham else ".safetensors")
        if str(path) not in self.found and path.exists():
            self.found[str(path)] = HeadScores.load(path)
        return self.found.get(str(path))

    def ordered(self, scores: HeadScores) -> HeadSet:
        """All heads of the layers to choose from, best first."""
        first, last = self.layers
        return HeadSet(tuple(head for head in scores.order() if first <= head.layer <= last))

    def random(self, heads: HeadSet, share: float) -> list[HeadSet]:
        """The draws beside a selection of this share; those of its sets and of its tuning are the same."""
        return [same_layers(self.model, heads, self.seed + draw) for draw in range(self.n_random.get(share, 0))]


def shared_out(names: Iterable[str], done: Callable[[str], Path], do: Callable[[str], None]) -> None:
    """Does each of some pieces of work, or waits until another process has; `done` is the file that it leaves."""
    left = list(names)
    while left:
        for name in list(left):
            lock = FileLock(f"{done(name)}.lock")
            if not done(name).exists():
                try:
                    with lock.acquire(blocking=False):
                        if not done(name).exists():
                            do(name)
                except Timeout:
                    continue
            left.remove(name)
        if left:
            time.sleep(PAUSE)


def measure_all(plan: Plan, names: Sequence[str]) -> None:
    """Every ranking's files, and that of random orders. Leaves the model as it was."""
    pieces = [*names, ORDERS_FILE] if plan.pairs is not None else names
    shared_out(pieces, lambda name: plan.path(name, ".json"), lambda name: _measure(plan, name))


def read_all(plan: Plan, names: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    """What was measured of rankings, and of random orders: "measured", "sets" and "curve", each a list of rows."""
    pieces = [*names, ORDERS_FILE] if plan.pairs is not None else names
    found = [saving.load_json(plan.path(name, ".json"), KIND, dict) for name in pieces]
    return {key: [row for each in found for row in each[key]] for key in ("measured", "sets", "curve")}


def _measure(plan: Plan, name: str) -> None:
    if name == ORDERS_FILE:
        saving.save_json(plan.path(name, ".json"), KIND, _random_orders(plan))
        return
    ranking = RANKINGS[name]
    began = time.perf_counter()
    scores = ranking.scores(plan.model, plan.pairs, plan.dialogues, plan.progress)
    seconds = time.perf_counter() - began
    scores.save(plan.path(name, ".safetensors"))
    with warnings.catch_warnings(action="ignore"):  # that nothing rests on sham data is what it is for
        sham = ranking.sham_scores(plan.model, plan.pairs, plan.sham_dialogues, plan.seed, plan.progress)
    if sham is not None:
        sham.save(plan.path(name, "-sham.safetensors"))
    passes = ranking.forward_passes(plan.model, plan.pairs)
    measured, sets, curve = [], [], []
    for kind, each in (("own", scores), ("sham", sham)):
        if each is not None:
            row, its_sets, its_curve = _of(plan, name, kind, each)
            measured.append(row | {"passes": passes, "seconds": seconds if kind == "own" else None})
            sets += its_sets
            curve += its_curve
    found = {"ranking": name, "measured": measured, "sets": sets, "curve": curve}
    saving.save_json(plan.path(name, ".json"), KIND, found)


Rows = list[dict[str, Any]]


def _of(plan: Plan, name: str, kind: str, scores: HeadScores) -> tuple[dict[str, Any], Rows, Rows]:
    """A ranking's own row, those of its sets, and its curve over sizes; of a sham, of its main size alone."""
    order, k = plan.ordered(scores), plan.sizes[plan.main]
    about: dict[str, Any] = {"ranking": name, "kind": kind}
    row = about | {"n": scores.n_pairs, "rows": scores.meta.get("rows", f"{scores.n_pairs} pairs"), "k": k}
    steady = _within(scores, plan.layers).stability(k, seed=plan.seed) if scores.n_pairs >= 4 else None
    row |= {"spearman": steady and steady.spearman, "half_overlap": steady and steady.overlap}
    row |= dict.fromkeys(("cpr", "cmd", *KEPT_OUT, "replies"))
    chosen = [(kind, share, 0, order[:n]) for share, n in plan.sizes.items() if kind == "own" or share == plan.main]
    drawn = [
        ("random", share, draw, heads)
        for _, share, _, own in (chosen if kind == "own" else [])
        for draw, heads in enumerate(plan.random(own, share))
    ]
    rows = [
        {"ranking": name, "kind": which, "share": share, "draw": draw, "k": len(heads), "heads": str(heads)}
        | dict.fromkeys(("recovery", "low", "high", *KEPT_OUT))
        for which, share, draw, heads in [*chosen, *drawn]
    ]
    curve: Rows = []
    if plan.pairs is not None:
        wholes = orders_of(scores)
        sizes = sizes_of(len(wholes[0]))
        sets = [heads for *_, heads in [*chosen, *drawn]]
        every = [*sets, *(whole[:n] for whole in wholes for n in sizes)]
        found = recoveries(ModelView(plan.model), plan.pairs, every, progress=plan.progress)
        for each, figures in zip(rows, found, strict=False):
            each |= {key: _number(value) for key, value in figures.items()}
        over = [figures["recovery"] for figures in found[len(sets) :]]
        with contextlib.suppress(ValueError):  # all heads together bring nothing back: there are no shares of that
            faithful = of_recoveries(sizes, over[: len(sizes)], over[len(sizes) :])
            row |= {"cpr": faithful.cpr, "cmd": faithful.cmd}
            curve = _curve(about, faithful)
        if plan.n_verify:
            _knock_out(plan, row, rows)
    return row, rows, curve


def _curve(about: dict[str, Any], faithful: Faithfulness, draw: int = 0) -> Rows:
    tables = {"signed": faithful.table, "absolute": faithful.absolute}
    return [about | {"draw": draw, "order": by} | each for by, table in tables.items() for each in saving.rows(table)]


def _random_orders(plan: Plan) -> dict[str, Any]:
    """Areas and curves of random orders of all heads: what those of a ranking are to beat."""
    view, pairs = ModelView(plan.model), plan.pairs
    assert pairs is not None
    every = [Head(layer, head) for layer in range(view.n_layers) for head in range(view.n_heads)]
    drawn = [random.Random(f"order {plan.seed + i}").sample(every, len(every)) for i in range(ORDERS)]
    sizes = sizes_of(len(every))
    sets = [HeadSet(tuple(order[:size])) for order in drawn for size in sizes]
    over = [figures["recovery"] for figures in recoveries(view, pairs, sets, progress=plan.progress)]
    about = {"ranking": "", "kind": "random"}
    row = about | {"n": len(pairs), "rows": f"{len(pairs)} pairs", "k": plan.sizes[plan.main]}
    row |= dict.fromkeys(("spearman", "half_overlap", "passes", "seconds", *KEPT_OUT, "replies"))
    measured, curve = [], []
    with contextlib.suppress(ValueError):  # as above
        for draw in range(ORDERS):
            faithful = of_recoveries(sizes, over[draw * len(sizes) : (draw + 1) * len(sizes)])
            measured.append(row | {"cpr": faithful.cpr, "cmd": faithful.cmd})
            curve += _curve(about, faithful, draw)
    return {"ranking": ORDERS_FILE, "measured": measured, "sets": [], "curve": curve}


def _within(scores: HeadScores, layers: tuple[int, int]) -> HeadScores:
    """The scores of the layers to choose from alone."""
    if layers == (0, scores.n_layers - 1):
        return scores
    part = slice(layers[0], layers[1] + 1)
    per_pair = scores.per_pair[:, part]
    verified = None if scores.verified is None else scores.verified[part]
    more: dict[str, Any] = {"logit_differences": None, "base": None, "target": None, "verified": verified}
    return replace(scores, values=per_pair.mean(0), per_pair=per_pair, meta={}, **more)


def _knock_out(plan: Plan, row: dict[str, Any], rows: Rows) -> None:
    """Puts what the model replies without the sets of the main size into their rows, and as it is into the ranking's:
    of the random draws the first alone."""
    assert plan.pairs is not None
    for each in rows:
        if each["share"] == plan.main and each["draw"] == 0:
            heads = HeadSet.parse(each["heads"])
            few = plan.pairs[: plan.n_verify]
            with warnings.catch_warnings(action="ignore"):  # what the pairs rest on is told by the scores
                effect = set_knockout(plan.model, few, heads, n_random=0, seed=plan.seed, progress=plan.progress)
            for name in KEPT_OUT:
                if name in effect.table:
                    each[name], row[name] = (_number(one[name]) for one in (effect.chosen, effect.before))
                    row["replies"] = float(effect.n_dialogues)


def _number(value: Any) -> float | None:
    return None if value != value else float(value)
