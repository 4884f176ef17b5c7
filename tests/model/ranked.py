"""What a launcher starts several of: all that ranks share, on a tiny model. Each writes what it got as JSON.

torchrun --nproc-per-node 2 -m tests.model.ranked MODEL FOLDER
"""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from spt_lens.behaviours.are_you_sure import AreYouSure
from spt_lens.behaviours.asking import Answers, ask
from spt_lens.behaviours.choices import Choice
from spt_lens.chat.dialogues import dialogue
from spt_lens.data.mass import answer_mass
from spt_lens.evaluate.change import drift, gives_reply
from spt_lens.evaluate.evaluate import evaluate
from spt_lens.heads import HeadSet
from spt_lens.measure.attention import attention_to_spans
from spt_lens.measure.head_knockout import head_knockout
from spt_lens.measure.knockout import set_knockout
from spt_lens.measure.null import random_pairs_null
from spt_lens.measure.objective import objective_gradient
from spt_lens.measure.set_effect import SetEffect
from spt_lens.measure.sets import set_patching
from spt_lens.model import ranks
from spt_lens.model.loading import load_model
from spt_lens.model.replies import replies
from spt_lens.model.view import ModelView
from spt_lens.patching.activation import activation_patching
from spt_lens.patching.attribution import attribution_patching, screened_patching
from spt_lens.patching.path import path_patching
from spt_lens.scores.head_scores import HeadScores
from spt_lens.tune import training
from spt_lens.tune.adapter import Adapter
from spt_lens.tune.full import full_finetune
from spt_lens.tune.pinpoint import pinpoint_tune
from spt_lens.tune.slices import head_slices
from spt_lens.tune.training import TuneConfig
from spt_lens.yesman import Yesman

HEADS = HeadSet.parse("L0.H1 L2.H3 L1.H0")
QUIET: dict[str, Any] = {"progress": False}
ROUNDED = ("objective", "tune")  # what is a sum over ranks: the same as one process to rounding


def of_scores(scores: HeadScores) -> list[Any]:
    read = [] if scores.base is None or scores.target is None else [scores.base.tolist(), scores.target.tolist()]
    check = scores.meta.get("check", {})
    return [scores.per_pair.flatten().tolist(), *read, scores.engine, str(check), str(scores.meta.get("settings"))]


def of_effect(effect: SetEffect) -> list[Any]:
    return [effect.table.to_csv(), effect.per_pair.to_csv(), str(effect.settings)]


def everything(model: Any, folder: Path) -> dict[str, Any]:
    """By name, what each function that ranks share gives; `folder` for what they keep."""
    view, yesman = ModelView(model), Yesman()
    pairs = yesman.pairs(model, n=9)
    whole = yesman.pairs(model, n=5, read="whole")
    small: dict[str, Any] = {"batch_size": 2, **QUIET}
    found: dict[str, Any] = {
        "last": of_scores(activation_patching(model, pairs, **small)),
        "all": of_scores(activation_patching(model, pairs.aligned(), positions="all", **small)),
        "whole": of_scores(activation_patching(model, whole, direction="noising", **small)),
        "hooks": of_scores(activation_patching(model, pairs[:5], engine="stacked", **small)),
        "path": of_scores(path_patching(model, pairs, **small)),
        "receivers": of_scores(path_patching(model, pairs[:5], receivers="L2.H1.v", mlps="frozen", **small)),
        "attribution": of_scores(attribution_patching(model, pairs, ig_steps=2, **small)),
        "screened": of_scores(screened_patching(model, pairs, share=0.3, **small)),
        "null": of_scores(random_pairs_null(model, pairs, **small)),
        "head knockout": of_scores(head_knockout(model, pairs[:5], **small)),
        "default batch": of_scores(activation_patching(model, pairs, **QUIET)),
        "objective": objective_gradient(model, yesman.training(7), **small).per_pair.flatten().tolist(),
        "sets": of_effect(set_patching(model, pairs, HEADS, n_random=1, **small)),
        "whole sets": of_effect(set_patching(model, whole, HEADS, n_random=1, **small)),
        "knockout": of_effect(set_knockout(model, pairs, HEADS, n_random=1, **small)),
        "attention": attention_to_spans(model, pairs, **small).per_pair.flatten().tolist(),
        "check": [str(pairs.check(model).to_json()), answer_mass(model, whole).tolist()],
        "words": [str(w) for w in pairs.find_words(model, **QUIET).words.to_dict("records")],
        "replies": replies(model, pairs.dialogues, 6, batch_size=2),
    }
    prompts = [d.prompt for d in yesman.training(9)]
    lands = {
        "France": "Paris",
        "Spain": "Madrid",
        "Norway": "Oslo",
        "Italy": "Rome",
        "Japan": "Tokyo",
        "Cuba": "Havana",
    }
    of = "What is the capital of {}?".format
    asks = AreYouSure([{"question": of(land), "answer": a, "wrong": ["Lima"]} for land, a in lands.items()])
    kept = folder / "answers.json"
    ask(model, asks.questions[:4], path=kept, max_new_tokens=6, batch_size=2, every=2, **QUIET)
    answers = ask(model, asks, path=kept, max_new_tokens=6, batch_size=2, every=2, **QUIET)
    found["ask"] = [[answer.reply for answer in each] for each in (answers, Answers.load(kept))]
    found["likelihood"] = [answer.reply for answer in ask(model, asks, how="likelihood", batch_size=2, **QUIET)]

    slices = head_slices(view, HEADS)
    before = {each.name: each.read() for each in slices}
    adapter = Adapter(before, {name: 1.5 * w for name, w in before.items()}, HEADS, "qkvo", view.fingerprint())
    suite = replace(
        yesman.suite("test", n=5, n_controls=3, n_ability=5, n_texts=40),
        choices=tuple(Choice(d, ("Paris", "Madrid", "Rome"), 1) for d in prompts),
        passages=("Hello! Who are you?", "The answer is Paris.", "Are you sure? Yes, the answer is Madrid."),
        prompts=(dialogue("Hello!"), dialogue("Who are you?"), dialogue("What is the capital of France?")),
    )
    adapter.apply(model)
    found["evaluate"] = [str(evaluate(model, suite, adapter, progress=False, max_new_tokens=5).to_json())]
    found["drift"] = [str(drift(model, suite.texts, adapter)), gives_reply(model, suite.texts, batch_size=3)]
    adapter.revert(model)
    return found | tunings(model, folder)


def tunings(model: Any, folder: Path) -> dict[str, Any]:
    """Histories and weights, of a batch that two ranks don't share out evenly, and of one smaller than four ranks."""
    yesman = Yesman()
    dialogues, more = yesman.training(12), {"validation": yesman.training(17)[12:], "progress": False}
    config = TuneConfig(lr=0.05, steps=4, batch_size=7, optimizer="sgd", kl_weight=0.5, kl_batch_size=5)
    seen: list[float] = []
    options: dict[str, Any] = {
        "resume": folder / "run",
        "on_step": lambda row: seen.append(row["step"]) or row["step"] == 2,
    }
    keep = yesman.training(25)[17:]
    stopped = pinpoint_tune(model, HEADS, dialogues, config, keep=keep, **more, **options)
    stopped.undo(model)
    options["on_step"] = None
    tuned = pinpoint_tune(model, HEADS, dialogues, config, keep=keep, **more, **options)
    weights = [w.flatten()[:50].tolist() for w in tuned.adapter.after.values()]
    tuned.undo(model)
    small = TuneConfig(lr=1e-3, steps=3, batch_size=3, micro_batch_size=1, patience=1, validate_every=1)
    full = full_finetune(model, dialogues, small, **more)
    full.undo(model)
    histories = [tuned.history.fillna(0).to_numpy().tolist(), full.history.fillna(0).to_numpy().tolist()]
    ends = [len(stopped.history), stopped.interrupted, seen if ranks.first() else [0.0, 1.0, 2.0]]
    return {"tune": [*weights, *sum(histories, [])], "stopped": ends}


def raised(run: Callable[[], Any]) -> str:
    """The type and text of what it raises."""
    try:
        run()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


def broken(model: Any) -> dict[str, Any]:
    """By name, what ranks get where one of them is not like the others, and what they share after that."""
    pairs, me = Yesman().pairs(model, n=9), ranks.rank()
    mine = pairs[:8] if me == 1 else pairs[1:]
    found = {"pairs": raised(lambda: activation_patching(model, mine, **QUIET))}
    found["order"] = raised(lambda: (pairs.check if me == 1 else pairs.find_words)(model))
    weight = next(iter(ModelView(model).weights().values())).data
    before = weight.clone()
    weight += me
    found["model"] = raised(lambda: replies(model, pairs.dialogues, 2))
    weight.copy_(before)

    def fails(z: torch.Tensor, hook: Any = None) -> None:
        if me == 1:
            raise ValueError("no more")

    hooks = [(ModelView.z_name(0), fails)]
    found["one stops"] = raised(lambda: replies(model, pairs.dialogues, 2, hooks, batch_size=2))
    with ranks.alone():
        found["alone"] = str([ranks.size(), *replies(model, [pairs.dialogues[me]], 4)])
    found["after"] = str(replies(model, pairs.dialogues, 4, batch_size=2))
    found["first"] = raised(lambda: ranks.from_first(lambda: open(Path(sys.argv[0]).parent)))
    found["interrupted"] = interrupted(model, me)
    found["left"] = raised(lambda: left_alone(model, pairs.dialogues, me))
    return found


def interrupted(model: Any, me: int) -> list[Any]:
    """Steps of a run whose second one is interrupted on rank 1; whether it says so; what a shared call raises then."""
    real, calls = training.step_gradients, iter(range(9))

    def interrupts(*args: Any, **kwargs: Any) -> Any:
        if next(calls) == me == 1:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    dialogues = Yesman().training(4)
    with mock.patch.object(training, "step_gradients", interrupts):
        tuned = pinpoint_tune(model, HEADS, dialogues, TuneConfig(lr=1e-3, steps=4, batch_size=2), **QUIET)
    tuned.undo(model)
    return [len(tuned.history), tuned.interrupted, raised(lambda: replies(model, [d.prompt for d in dialogues], 2))]


def left_alone(model: Any, dialogues: Any, me: int) -> None:
    """Rank 1 leaves shared work before its end, and begins it again."""
    if me == 1:
        with suppress(GeneratorExit), ranks.shared(ranks.Share("replies", {"model": 1})):
            raise GeneratorExit
    else:
        with ranks.shared(ranks.Share("replies", {"model": 1})):
            pass
    replies(model, dialogues, 2)


def main(model: str, folder: str, quick: str = "") -> None:
    warnings.simplefilter("ignore")
    loaded = load_model(model, device="cpu")
    found = everything(loaded, Path(folder))
    each = {"size": ranks.size(), "found": found, "broken": {} if quick else broken(loaded)}
    (Path(folder) / f"{ranks.rank()}.json").write_text(json.dumps(each), encoding="utf-8")
    if quick:
        return
    if ranks.rank() == 1:
        raise SystemExit(3)  # the others wait for it, and must not for ever
    replies(loaded, Yesman().pairs(loaded, n=3).dialogues)


if __name__ == "__main__":
    main(*sys.argv[1:])
