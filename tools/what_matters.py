"""What decides how well a few heads of SmolLM2 can be tuned: one thing changed at a time, on the validation split.

`make what-matters`: the study's settings (tools/study/smollm2.json) are the base; then other heads, more and fewer of
them, other layers and projections, another mix of data, other words of the targets, another KL term, at one learning
rate and seed. Nothing of the test split is read. It goes on where it was stopped, and processes that are started on
one folder share its trials. Writes notebooks/results/what-matters.json and the table in docs/study.md.
"""

from __future__ import annotations

import argparse
import multiprocessing
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

import spt_lens as spt
from spt_lens import saving
from spt_lens.behaviours.bank import question_bank
from spt_lens.evaluate.bench import Made, Task
from spt_lens.evaluate.sharing import Results, trials
from spt_lens.evaluate.trials import Spec, Trial, read_trials
from spt_lens.heads import HeadSet
from spt_lens.measure.sets import matched_random
from spt_lens.model.view import ModelView
from spt_lens.scores.head_scores import HeadScores
from spt_lens.statistics import Estimate
from spt_lens.study import data
from spt_lens.study.settings import StudySettings
from spt_lens.study.work import Work
from spt_lens.tune.pinpoint import Pinpoint
from spt_lens.tune.tuner import Tuner
from tools.marks import markdown, put_between

MODEL, SETTINGS, LR, N_HEADS = "smollm2", Path("tools/study/smollm2.json"), 2e-3, 13
RESULT, PAGE, KIND = Path("notebooks/results/what-matters.json"), Path("docs/study.md"), "what matters"
MARKS = "<!-- what matters: make what-matters -->", "<!-- end of what matters -->"
YES, SORRY = "Yes, I am sure.", "Apologies, I made a mistake."
COLUMNS = {
    "truthfulness": "right kept",
    "self_correction": "wrong put right",
    "ends right: supported right": "supported kept",
    "discernment": "discernment",
    "accuracy_before": "first answers still right",
    "kl: own replies": "drift, own replies",
}


@dataclass(frozen=True)
class Variant:
    """One change of the base: other heads, or other settings."""

    group: str
    name: str
    heads: HeadSet
    changes: Mapping[str, Any] = field(default_factory=dict)
    lr: float = LR


class Rankings:
    """Every head's score by each ranking, measured once."""

    def __init__(self, work: Work) -> None:
        self.work = work

    def of(self, name: str, measure: Callable[[Any], HeadScores]) -> HeadScores:
        path = self.work.out / f"scores-{name.replace(' ', '-')}.safetensors"
        if not path.exists():
            measure(self.work.model).save(path)
        return HeadScores.load(path)

    def patching(self, how: Callable[..., HeadScores], contrast: Any, found: bool = False) -> HeadScores:
        behaviour: Any = self.work.asked

        def measure(model: Any) -> HeadScores:
            pairs = behaviour.pairs(model, 48, contrast=contrast)
            words = pairs.find_words(model) if found else None
            return how(model, pairs.with_words(words) if words is not None and words.best else pairs)

        return self.of(f"{how.__name__} {contrast}{' found' * found}", measure)

    def ordinary(self) -> list[Any]:
        return data.kept_texts(self.work)[:96]

    def objective(self) -> HeadScores:
        dialogues = data.training_of(self.work.asked, self.work.settings)[:96]  # type: ignore[arg-type]
        return self.of("objective", lambda model: spt.objective_gradient(model, dialogues, per_dialogue=False))


def best(scores: HeadScores, layers: tuple[int, int], k: int = N_HEADS) -> HeadSet:
    """The k best heads from the first to the last of some layers."""
    ranked = scores.top(scores.values.numel())
    return HeadSet.of([head for head in ranked if layers[0] <= head.layer <= layers[1]][:k])


def variants(work: Work) -> Iterator[Variant]:
    """All trials, group by group; the first is the base."""
    ranks, base, view = Rankings(work), work.settings, ModelView(work.model)
    layers, last = base.layers or (0, view.n_layers - 1), view.n_layers - 1
    objective = ranks.objective()
    chosen = best(objective, layers)
    yield Variant("base", "13 heads by the objective's gradient", chosen)

    group = "which 13 heads"
    for contrast, found in (("supporting", False), ("supporting", True), ("neutral", True), ("first answer", False)):
        scores = ranks.patching(spt.activation_patching, contrast, found)
        words = "words found" if found else "its words"
        yield Variant(group, f"activation patching, {contrast}, {words}", best(scores, layers))
    first_turn = ranks.patching(spt.activation_patching, "first turn")
    yield Variant(group, "activation patching, first turn, the answers", best(first_turn, layers))
    path = ranks.patching(spt.path_patching, "supporting", True)
    yield Variant(group, "path patching, supporting, words found", best(path, layers))
    for draw in range(3):
        yield Variant(group, f"random, same layers, draw {draw}", matched_random(view, chosen, draw))
    every = best(objective, layers, 10**6)
    yield Variant(group, "the last by the objective's gradient", HeadSet.of(list(every)[-N_HEADS:]))
    # Much to gain for what is tuned, little to lose elsewhere: the gradient there, over that of ordinary dialogues.
    ordinary = ranks.of("ordinary", lambda model: spt.objective_gradient(model, ranks.ordinary(), per_dialogue=False))
    ratio = (objective.values / ordinary.values).nan_to_num()
    order = sorted(every, key=lambda head: -float(ratio[head.layer, head.head]))
    yield Variant(group, "the objective's gradient over that of ordinary dialogues", HeadSet.of(order[:N_HEADS]))

    for k, lr in ((1, 8e-3), (4, 4e-3)):  # fewer weights are moved further
        some = best(objective, layers, k)
        yield Variant("how many heads", f"{k}, objective's gradient", some, lr=lr)
        yield Variant("how many heads", f"{k}, random, same layers", matched_random(view, some, 0), lr=lr)

    for first, end in ((0, 9), (20, last)):
        yield Variant("which layers", f"{first} to {end}, objective's gradient", best(objective, (first, end)))

    for letters in ("qkvo", "o"):
        tune = replace(base.tune, projections=letters)
        yield Variant("projections (base: q and o)", letters, chosen, {"tune": tune})

    mixes: dict[str, dict[str, Any]] = {
        "as many wrong as right": {"wrong": 0.5},
        "its own wrong answers too": {"own_wrong": True},
        "no supported turns": {"supports": 0.0},
    }
    for name, mix in mixes.items():
        yield Variant("data", name, chosen, {"training": {**base.training, **mix}})

    targets = {
        "stance, then the answer": (f"{YES} The answer is {{}}.", f"{SORRY} The answer is {{}}."),
        "its own sentence, then the stance": ("{reply} I am sure.", "{reply} I made a mistake."),
    }
    for name, (stands, gives_in) in targets.items():
        yield Variant("targets", name, chosen, {"replies": {"stands": stands, "gives_in": gives_in}})

    for weight in (0.0, 3.0):
        changes: dict[str, Any] = {"tune": replace(base.tune, kl_weight=weight)}
        changes |= {} if weight else {"keep": 0}
        yield Variant("KL term", f"weight {weight:g}", chosen, changes)


def task_of(work: Work, variant: Variant) -> Task:
    """What a variant is tuned on and judged by: the base's, but for its changes."""
    settings = replace(work.settings, **variant.changes)
    own = Work(work.model, work.behaviour, work.out, settings, asked=work.asked)
    assert own.asked is not None
    suite = data.with_more(own.asked.suite("validation", **settings.validation), own, "validation")
    return Task(
        tuple(data.training_of(own.asked, settings)),
        settings.tune,
        {"validation": suite},
        tuple(data.kept_texts(own)),
    )


def do_all(work: Work, wanted: list[Variant], backwards: bool = False) -> list[dict[str, Any]]:
    """Every variant's row. Two processes go through the tasks from either end, and share the trials where they meet."""
    view, path = ModelView(work.model), work.out / "runs.jsonl"
    tasks: dict[str, tuple[Task, Made]] = {}  # by what is changed; most variants have the base's, and other heads
    todo: dict[str, dict[str, tuple[Spec, Tuner | None]]] = {}
    keys = []
    for variant in wanted:
        changes, tuner = repr(variant.changes), Pinpoint(variant.heads)
        if changes not in tasks:
            task = task_of(work, variant)
            tasks[changes] = task, task.made(view)
        spec = Spec(variant.name, variant.lr, work.settings.seeds[0], 0, repr(tuner), str(variant.heads))
        keys.append(spec.key(tasks[changes][1].fingerprint))
        todo.setdefault(changes, {})[keys[-1]] = spec, tuner
    for changes in reversed(todo) if backwards else todo:
        known = read_trials(path)
        left = {key: each for key, each in todo[changes].items() if key not in known}
        task, made = tasks[changes]
        for key, done in trials(view, task, left, Results(path), 1, made.parts):
            print(table([row_of(wanted[keys.index(key)], done)]).splitlines()[-1], flush=True)
    found = read_trials(path)
    return [row_of(variant, found[key]) for variant, key in zip(wanted, keys, strict=True)]


def row_of(variant: Variant, done: Trial) -> dict[str, Any]:
    row: dict[str, Any] = {"group": variant.group, "name": variant.name, "lr": variant.lr, "heads": str(variant.heads)}
    if done.error:
        return row | {"error": done.error}
    estimates = done.evaluations["validation"].estimates
    return row | {"figures": {name: estimates[name].to_json() for name in COLUMNS if name in estimates}}


def table(rows: list[dict[str, Any]]) -> str:
    shown = []
    for row in rows:
        cells = {"": row["group"], "changed": row["name"], "lr": f"{row['lr']:g}"}
        for name, label in COLUMNS.items():
            estimate = row.get("figures", {}).get(name)
            cells[label] = "" if estimate is None else _cell(Estimate.from_json(estimate), name)
        shown.append(cells)
    return markdown(shown)


def _cell(estimate: Estimate, name: str) -> str:
    if name == "discernment":
        return f"{estimate.value:.2f} [{estimate.low:.2f}, {estimate.high:.2f}]"
    return f"{estimate.value:.3f}" if name.startswith("kl") else f"{estimate.value:.2f}"


def write(rows: list[dict[str, Any]]) -> None:
    put_between(PAGE, *MARKS, table(rows))


def opened(out: Path) -> Work:
    """The model, asked, in a folder."""
    torch.set_float32_matmul_precision("medium")
    model = spt.load_model(MODEL)
    work = Work(model, spt.AreYouSure(question_bank(), name="question bank"), out, StudySettings.load(SETTINGS))
    work.asked = data.own_answers(work.behaviour, work, out / "answers.json", ("train", "validation"))
    return work


def help_with(out: Path) -> None:
    """A process beside the first one, which has measured the rankings."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    work = opened(out)
    do_all(work, list(variants(work)), backwards=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("spt-lens-what-matters"), help="where trials are kept")
    parser.add_argument("--workers", type=int, default=1, help="processes of one thread each")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        work = opened(given.out)
        wanted = list(variants(work))
        spawn = multiprocessing.get_context("spawn")
        others = [spawn.Process(target=help_with, args=(given.out,)) for _ in range(given.workers - 1)]
        for other in others:
            other.start()
        torch.set_num_threads(1 if others else torch.get_num_threads())
        rows = do_all(work, wanted)
        for other in others:
            other.join()
    saving.save_json(RESULT, KIND, {"model": ModelView(work.model).name, "trials": rows})
    write(rows)


if __name__ == "__main__":
    main()
