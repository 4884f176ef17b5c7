"""`rankings`: which ranking of heads to use, by what its best heads do together and what tuning them reaches."""

from __future__ import annotations

import contextlib
import hashlib
import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, is_dataclass, replace
from pathlib import Path
from typing import Any

from spt_lens import saving
from spt_lens.behaviours.behaviour import Behaviour
from spt_lens.chat.dialogues import Dialogue, as_dialogues
from spt_lens.checking import a_path, door, instance, number, one_of, seed_number, share, whole_number
from spt_lens.data.pairs import ContrastPairs
from spt_lens.evaluate.bench import Task
from spt_lens.heads import HeadSet
from spt_lens.measure.controls import layer_overlap
from spt_lens.model.held import unbroken
from spt_lens.model.own_hooks import check_unedited
from spt_lens.model.ranks import alone
from spt_lens.model.view import Model, ModelView
from spt_lens.patching.rows import make_rows
from spt_lens.statistics import heads_within, spearman
from spt_lens.study.ranked_measure import ORDERS, Plan, measure_all, read_all
from spt_lens.study.ranked_result import Rankings, frame
from spt_lens.study.ranked_trials import Tuning, checked_by_share, checked_draws, tune_all, wanted
from spt_lens.study.rankings import IG_STEPS, RANKINGS, SWAPS
from spt_lens.tune.config import TuneConfig
from spt_lens.tune.pinpoint import Pinpoint

ABOUT, ABOUT_KIND = "rankings.json", "rankings' folder"
MADE = 2  # what the files of a folder are made by: another number when that changes
SHARES = (0.01, 0.02, 0.05, 0.1)


@door
@unbroken()
def rankings(
    model: Model,
    behaviour: Behaviour | None = None,
    names: Sequence[str] | None = None,
    *,
    pairs: ContrastPairs | None = None,
    dialogues: Sequence[Dialogue] | None = None,
    tuning: Tuning | None = None,
    shares: Sequence[float] = SHARES,
    main: float = 0.05,
    layers: Sequence[int] | None = None,
    n_random: int | Mapping[float, int] = 2,
    n_verify: int = 0,
    shams: Mapping[str, Sequence[Dialogue]] | None = None,
    out: str | Path | None = None,
    workers: int = 1,
    minutes: float | None = None,
    seed: int = 0,
    progress: bool = True,
) -> Rankings:
    """Which ranking of heads to use: each one's stability, cost, overlap, faithfulness, and what tuning its heads does.

    Beside every ranking stands its sham, the same measurement where nothing is to be found (`study/rankings.py`), and
    beside its best heads stand random ones of the same layers (`measure.controls.same_layers`).

    Args:
        behaviour: where pairs, training dialogues and the suite come from, unless they are given.
        names: of `study.rankings.RANKINGS`; default: all. They are measured in this order, and shown in the table's.
        pairs: what all but "objective gradient" are measured on, and what sets of heads are patched in. dialogues: what
            that one is measured on, and what is tuned on.
        tuning: how the best heads are tuned and judged (`study.ranked_trials.Tuning`). None: they are not.
        shares: of all heads, the sizes that are tuned and patched in. main: the one of these at which shams are tuned,
            stability and overlap are told, and sets are knocked out.
        layers: the first and last that heads are chosen from; default: all.
        n_random: draws of layer-matched heads beside each ranking at each share, or by share, such as {0.05: 10}.
        n_verify: pairs on which sets of the main share are knocked out and replies are read; 0: no knockout.
        shams: other dialogues to tune on, by name (`behaviours.sham.sham_training`). The first teach nothing: the sham
            of "objective gradient" is measured on them. On each of them the first ranking's heads are tuned.
        out: a folder. What is done is kept there; the same call goes on where it was ended, and processes that make it
            on one folder share the work. It is of this model, as it is: its weights, tokenizer, chat template and
            options, precision and device. workers: as in compare, for tuning.
        minutes: no trial is begun after so many; the result says how many are left ("todo").

    The model is left as it was.

    Raises: before long work, ValueError for a ranking that there is not (the names are listed), rankings without pairs
    or dialogues, fewer than five pairs, shares of more heads than the layers have, a main share that is not among them,
    a learning rate for a share that there is not, pairs that a ranking can't be measured on, a model that carries edits
    (of steering, say: undo them), or a folder of other rankings; and what the rankings and tuning raise.
    """
    began, view = time.monotonic(), ModelView(model)
    check_unedited(view.model)  # which are in no weights, so that a folder would not know it from another
    names = list(RANKINGS) if names is None else list(names)
    for name in names:
        one_of(name, "a ranking", RANKINGS)
    if not names or len(set(names)) < len(names):
        raise ValueError(f"names={names}: give at least one ranking, and each one once")
    sizes, ends = _sizes(view, shares, main, layers)
    draws = checked_draws(n_random, list(sizes))
    whole_number(n_verify, "n_verify", 0)
    whole_number(workers, "workers", 1, 1000)
    if minutes is not None:
        number(minutes, "minutes", above=0)
    shams = {kind: as_dialogues(each, f"shams[{kind!r}]", least=2) for kind, each in dict(shams or {}).items()}
    if behaviour is not None:
        pairs = behaviour.pairs(model) if pairs is None else pairs
        dialogues = behaviour.training() if dialogues is None else dialogues
        if tuning is not None and tuning.suite is None:
            tuning = replace(tuning, suite=behaviour.suite("test"))
    dialogues = [] if dialogues is None else list(dialogues)
    _check_data(view, names, pairs, dialogues, tuning)
    if tuning is not None:
        checked_by_share(tuning.lrs, "lrs", list(sizes))
    n_verify = min(n_verify, len(pairs) if pairs is not None else 0)
    with contextlib.ExitStack() as stack:
        stack.enter_context(alone())  # ranks share what is done by the folder, as any processes do
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory())) if out is None else a_path(out, "out")
        saving.writable(folder, "what is measured of rankings")
        first = next(iter(shams.values()), ())
        plan = Plan(
            view.model, pairs, dialogues, sizes, main, draws, ends, folder, n_verify, first, seed_number(seed), progress
        )
        _same_folder(view, plan)
        if tuning is not None:
            Pinpoint(HeadSet.of((ends[0], 0))).check(view)
        measure_all(plan, names)
        in_order = [name for name in RANKINGS if name in names]
        until = None if minutes is None else began + 60 * minutes
        rows = [] if tuning is None else tune_all(plan, tuning, in_order, shams, workers, until)
        return _result(view, plan, in_order, rows, tuning, shams)


def _sizes(
    view: ModelView, shares: Sequence[float], main: float, layers: Sequence[int] | None
) -> tuple[dict[float, int], tuple[int, int]]:
    """How many heads each share is, and the layers that they are from."""
    first, last = (0, view.n_layers - 1) if layers is None else (layers if len(layers) == 2 else (-1, -1))
    if not 0 <= first <= last < view.n_layers:
        raise ValueError(f"layers={list(layers or ())}: give the first and the last, of 0 to {view.n_layers - 1}")
    every, there = view.n_layers * view.n_heads, (last - first + 1) * view.n_heads
    sizes = {share(each, "one of shares"): heads_within(each, every) for each in shares}
    if main not in sizes:
        raise ValueError(f"main={main:g} is none of the shares {list(sizes)}: give one of them")
    for each, k in sizes.items():
        if 2 * k > there:
            raise ValueError(
                f"a share of {each:g} is {k} of {every} heads, and layers {first} to {last} have {there}: there would "
                "be too few others to compare them with. Give smaller shares, or more layers"
            )
    return sizes, (first, last)


def _check_data(
    view: ModelView, names: Sequence[str], pairs: Any, dialogues: Sequence[Dialogue], tuning: Tuning | None
) -> None:
    as_dialogues(dialogues)
    by_pairs = [name for name in names if not RANKINGS[name].by_dialogues]
    if by_pairs and pairs is None:
        raise ValueError(
            f"{by_pairs[0]!r} is measured on pairs, and there are none: give pairs=behaviour.pairs(model), a behaviour "
            "or names of rankings by dialogues alone"
        )
    if pairs is not None:
        if len(instance(pairs, "pairs", ContrastPairs, "make some by behaviour.pairs(model)")) < 5:
            raise ValueError(f"{len(pairs)} pairs are too few to rank heads by: give 5 or more, better 40")
        make_rows(view, pairs)
        for name in by_pairs:
            check = RANKINGS[name].check
            if check is not None:
                check(view.model, pairs)
    if len(dialogues) < 4 and (len(by_pairs) < len(names) or tuning is not None):
        what = "tuned on" if len(by_pairs) == len(names) else "measured on, by 'objective gradient',"
        raise ValueError(f"there are {len(dialogues)} dialogues to be {what}: give 4 or more, or a behaviour")
    if tuning is not None and tuning.suite is None:
        raise ValueError("there is nothing to judge tuned models by: give Tuning(..., suite=...), or a behaviour")
    view.check_measurable()


def _same_folder(view: ModelView, plan: Plan) -> None:
    """Notes in the folder what is measured there. Raises ValueError if that is something else."""

    def said(dialogues: Sequence[Dialogue]) -> list[Any]:
        return [[[message.role, message.content] for message in each.messages] for each in dialogues]

    pairs, mine = plan.pairs, Task((), TuneConfig(), {}).made(view).parts
    tokens: list[Any] = []
    if pairs is not None:
        judge = repr(pairs.judge) if is_dataclass(pairs.judge) else type(pairs.judge).__name__
        tokens = [pairs.sycophantic, pairs.truthful, pairs.answer_ids.tolist(), pairs.answer_sets, pairs.completion_ids]
        tokens += [pairs.alignment, judge, said(pairs.dialogues), said(pairs.truthful_dialogues)]
    settings = [plan.sizes, plan.main, plan.n_random, plan.layers, plan.n_verify, plan.seed]
    made = {
        "model": [view.name, type(view.model).__name__, view.device.type],
        **{name: mine[name] for name in ("weights", "config", "tokenizer", "chat template", "precision")},
        "pairs": tokens,
        "dialogues": [said(plan.dialogues), said(plan.sham_dialogues)],
        "settings": [*settings, ORDERS, IG_STEPS, SWAPS, MADE],
    }
    parts = {name: hashlib.sha256(json.dumps(part).encode()).hexdigest()[:16] for name, part in made.items()}
    path = plan.folder / ABOUT
    with contextlib.suppress(FileExistsError):
        saving.save_json(path, ABOUT_KIND, parts, new=True)
        return
    there = saving.load_json(path, ABOUT_KIND, dict)
    other = [name for name in parts if there.get(name) != parts[name]]
    if other:
        raise ValueError(
            f"{plan.folder} holds rankings with other {' and '.join(other)}: give another folder, or remove that one"
        )


def _result(
    view: ModelView,
    plan: Plan,
    names: Sequence[str],
    rows: list[dict[str, Any]],
    tuning: Tuning | None,
    shams: Mapping[str, Sequence[Dialogue]],
) -> Rankings:
    tables = read_all(plan, names)
    settings: dict[str, Any] = {"main": plan.main, "layers": list(plan.layers), "seed": plan.seed}
    settings |= {"sizes": {f"{each:g}": k for each, k in plan.sizes.items()}, "n_verify": plan.n_verify}
    settings |= {"pairs": 0 if plan.pairs is None else len(plan.pairs), "dialogues": len(plan.dialogues)}
    if tuning is not None:
        places = ["ranking", "kind", "share", "draw", "seed", "data"]
        done = {tuple(row[place] for place in places) for row in rows}
        todo = sum(len(group) for group in wanted(plan, tuning, names, list(shams))) - len(done)
        settings |= {"todo": todo, "seeds": list(tuning.seeds), "lrs": {f"{s:g}": tuning.lr(s) for s in plan.sizes}}
        settings |= {"tune": json.loads(json.dumps(asdict(tuning.config))), "keep": len(tuning.keep)}
    tables |= {"overlaps": _overlaps(view, plan, names), "trials": rows}
    made = {key: frame(key, its) for key, its in tables.items()}
    return Rankings(view.name, **made, settings=settings)


def _overlaps(view: ModelView, plan: Plan, names: Sequence[str]) -> list[dict[str, Any]]:
    """Of each two rankings' best heads of the main size."""
    k, scores = plan.sizes[plan.main], {name: plan.scores(name) for name in names}
    rows = []
    for i, one in enumerate(names):
        for other in names[i + 1 :]:
            a, b = scores[one], scores[other]
            assert a is not None and b is not None
            null = layer_overlap(plan.ordered(a)[:k], plan.ordered(b)[:k], view.n_heads)
            correlation = spearman(a.values, b.values)
            rows.append(
                {"one": one, "other": other, "k": k, **null._asdict()}
                | {"spearman": None if correlation != correlation else correlation}
            )
    return rows
