"""One of the processes that tune and evaluate in one folder; a new process finds it by this module's name.

A method's suites are files of the folder as soon as each is there, and its own file comes last: what is missing is done
again by whoever comes, what is there is not.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from filelock import FileLock

import spt_lens as spt
from spt_lens import saving
from spt_lens.behaviours.behaviour import SPLITS
from spt_lens.behaviours.beyond import other_kinds
from spt_lens.behaviours.pressure import INSISTING
from spt_lens.behaviours.suite import Suite
from spt_lens.chat.dialogues import Dialogue
from spt_lens.evaluate.change import Reference
from spt_lens.evaluate.evaluate import Evaluation
from spt_lens.evaluate.methods import named
from spt_lens.model.held import to_the_end
from spt_lens.model.unhooked import unhooked
from spt_lens.model.view import ModelView
from spt_lens.study import data
from spt_lens.study.ranked_measure import shared_out
from spt_lens.study.work import Work
from spt_lens.tune.tuner import Tuner
from tools.beyond.plans import PLANS, RANDOM, UNTUNED, Plan, quick
from tools.beyond.result import KIND, begun, method_path, topic_path, tuned_path

Found = tuple[Evaluation, pd.DataFrame]  # figures, and the replies behind them
Measure = Callable[[Any], Found]


def run(given: argparse.Namespace, turn: int, end: float) -> None:
    """One process's part. Each begins with another method."""
    warnings.simplefilter("ignore")
    torch.set_float32_matmul_precision("medium" if given.device == "cpu" else "highest")
    if given.processes > 1:
        torch.set_num_threads(1)
    plan = quick(PLANS[given.plan]) if given.quick else PLANS[given.plan]
    names = [name for name in plan.methods if not given.only or name in (UNTUNED, *given.only)]
    bench = Bench.opened(plan, spt.load_model(given.model, device=given.device), given.out, end)
    bench.say(turn, "ready")
    turned = names[turn % len(names) :] + names[: turn % len(names)]
    shared_out(turned, lambda name: method_path(given.out, name), lambda name: bench.do(turn, name))


@dataclass(eq=False)
class Bench:
    """What the methods share. topics: what each is measured by, in the order in which that is done."""

    view: ModelView
    plan: Plan
    out: Path
    end: float
    tuners: Mapping[str, tuple[Tuner, float]]
    dialogues: list[Dialogue]
    keep: list[Dialogue]
    topics: Mapping[str, Measure]
    reads: Any

    @classmethod
    def opened(cls, plan: Plan, model: Any, out: Path, end: float) -> Bench:
        """Asks the model, unless the folder has its answers."""
        work = Work(model, plan.behaviour(), out, plan.settings)
        with FileLock(out / "asking.lock"):
            work.asked = data.own_answers(work.behaviour, work, out / "answers.json", SPLITS, progress=False)
        work.heads, rates = plan.chosen()
        view = ModelView(model)
        reads = unhooked(view)
        tuners = {}
        for name, rate in rates.items():
            contender = named(name, view, work.heads, (rate,), range(1), plan.settings.seeds[:1])
            tuners[name] = (contender.draws[0], rate)
        about: dict[str, Any] = {
            "model": view.name,
            "heads": str(work.heads),
            "random": str(getattr(tuners[RANDOM][0], "heads", "")),
        }
        about |= {"steps": plan.settings.tune.steps, "batch_size": plan.settings.tune.batch_size, "turns": plan.turns}
        about |= {"methods": list(plan.methods), "seed": plan.settings.seeds[0]}
        dialogues, keep = data.training_of(work.asked, plan.settings), data.kept_texts(work)
        about |= {"dialogues": len(dialogues), "keep": len(keep), "rates": dict(rates)}
        about |= {"pressed": list(plan.pressed), "kinds": plan.kinds, "settings": plan.settings.to_json()}
        about["weights"] = saving.weights_digest(sorted(view.weights().items())).hexdigest()[:16]
        with FileLock(out / "asking.lock"):
            begun(out, about)
        return cls(view, plan, out, end, tuners, dialogues, keep, _topics(work, plan, reads), reads)

    def do(self, turn: int, name: str) -> None:
        """Tunes a method, and measures what is not there yet. Leaves the model as it was."""
        todo = [topic for topic in self.topics if not topic_path(self.out, name, topic).exists()]
        if self.over:
            return
        tuner, rate = self.tuners.get(name, (None, 0.0))
        began, tuned = time.perf_counter(), None
        try:
            if tuner is not None and todo:
                config = replace(self.plan.settings.tune, lr=rate, seed=self.plan.settings.seeds[0])
                how: Any = {"keep": self.keep or None, "progress": False}
                tuned = tuner.tune(self.view.model, self.dialogues, config, **how)
                # At once: whoever goes on may find nothing left to tune for.
                its = {"lr": rate, "weights": tuned.weights, "seconds": time.perf_counter() - began}
                saving.save_json(tuned_path(self.out, name), KIND, its)
            # Edits are hooks on the model itself, of which what reads its weights alone knows nothing.
            reads = self.view.model if tuned and tuned.adapter.edits else self.reads
            for topic in todo:
                if self.over:
                    return
                began = time.perf_counter()
                path = topic_path(self.out, name, topic)
                found, replies = self.topics[topic](reads)
                saving.write_text(path.with_suffix(".csv"), replies.to_csv(index=False))
                found.save(path)
                self.say(turn, f"{name}: {topic}, {time.perf_counter() - began:.0f} s")
            about = {"lr": 0.0, "weights": 0, "seconds": 0.0}
            if tuner is not None:
                its = saving.load_json(tuned_path(self.out, name), KIND, dict)
                about = {key: its[key] for key in about}
            saving.save_json(method_path(self.out, name), KIND, {"name": name, **about})
        finally:
            if tuned:
                to_the_end(tuned.undo, self.view.model)

    @property
    def over(self) -> bool:
        return time.time() > self.end

    def say(self, turn: int, what: str) -> None:
        print(f"process {turn}, {self.end - time.time():.0f} s left: {what}", flush=True)


def _topics(work: Work, plan: Plan, reads: Any) -> dict[str, Measure]:
    """What is measured, by its name. Drift is from the model as it is now."""
    behaviour: Any = work.asked
    suite = behaviour.suite("test", **plan.settings.test)
    suite = data.with_more(suite, work, "test") if plan.settings.ask else suite
    reference = Reference.of(reads, suite.texts, suite.prompts)
    n, conversations = plan.pressed
    made: dict[str, Measure] = {"asked": lambda model: _evaluated(model, suite, reference)}
    if hasattr(spt, "pressed"):
        turns: dict[str, Any] = {"split": "test", "n": conversations, "turns": plan.turns, "progress": False}
        pressure = spt.pressure_suite(behaviour, "test", n=n)
        made["turns"] = lambda model: _pressed(spt.pressed(model, behaviour, **turns))
        says = list((behaviour.insists or INSISTING)[: plan.turns])
        made["turns, other words"] = lambda model: _in_other_words(model, behaviour, says, turns)
        made["pressure"] = lambda model: _evaluated(model, pressure)
    if plan.kinds:
        for name, each in other_kinds(n=plan.kinds).items():
            made[name] = lambda model, each=each: _evaluated(model, each)  # type: ignore[misc]
    if hasattr(spt, "pressed"):
        made["turns, wrong answers"] = lambda model: _pressed(spt.pressed(model, behaviour, which="wrong", **turns))
    return made


def _evaluated(model: Any, suite: Suite, reference: Reference | None = None) -> Found:
    found = spt.evaluate(model, suite, reference=reference, progress=False)
    return found, found.replies


def _pressed(found: Any) -> Found:
    """What conversations over turns tell, as figures with their cases."""
    figures = Evaluation(found.model_name, f"{found.name}: {found.which}", found.estimates, units=found.units)
    return figures, found.replies


def _in_other_words(model: Any, behaviour: Any, says: list[str], how: Mapping[str, Any]) -> Found:
    """The turns in reverse order, and each of them said again and again: whether it is the words or their number."""
    orders = {"in reverse order": says[::-1], **{f'"{each}"': [each] for each in says}}
    estimates, units, replies = {}, {}, []
    for name, each in orders.items():
        found = spt.pressed(model, behaviour, says=each, **how)
        last = found.turns
        for figure in ("standing: 1", f"standing: {last}", f"no answer: {last}"):
            estimates[f"{figure}: {name}"], units[f"{figure}: {name}"] = found[figure], found.units[figure]
        replies.append(found.replies.assign(words=name))
    return Evaluation(found.model_name, f"{found.name}: other words", estimates, units=units), pd.concat(replies)
