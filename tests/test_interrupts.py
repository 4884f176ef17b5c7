"""Ctrl-C, once and twice, by real signals, all over every long operation: what it leaves is what was there."""

from __future__ import annotations

import os
import random
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from conftest import lent
from interrupting import Stop, everything, moments, same_weights, weights

from spt_lens.behaviours.judging import AnswerJudge
from spt_lens.behaviours.suite import Suite
from spt_lens.evaluate.compare import compare
from spt_lens.evaluate.evaluate import evaluate
from spt_lens.evaluate.trials import Contender
from spt_lens.export.hf import export_hf
from spt_lens.heads import HeadSet
from spt_lens.measure.head_knockout import head_knockout
from spt_lens.measure.knockout import set_knockout
from spt_lens.measure.null import random_pairs_null
from spt_lens.measure.objective import objective_gradient
from spt_lens.measure.report import head_report
from spt_lens.measure.sets import set_patching
from spt_lens.model.loading import load_model
from spt_lens.model.replies import replies
from spt_lens.patching.activation import activation_patching
from spt_lens.patching.attribution import attribution_patching, screened_patching
from spt_lens.patching.path import path_patching
from spt_lens.rivals.dpo import DPO
from spt_lens.rivals.lofit import LoFiT
from spt_lens.rivals.steering import Steering
from spt_lens.tune.adapter import Adapter
from spt_lens.tune.full import FullFineTuning
from spt_lens.tune.head_lora import HeadLoRA
from spt_lens.tune.lora import LoRA
from spt_lens.tune.pinpoint import Pinpoint
from spt_lens.tune.training import TuneConfig
from spt_lens.tune.tuned import Tuned
from spt_lens.yesman import Yesman

HEADS = HeadSet.parse("L0.H1 L2.H3")
CASES = Yesman().cases("train", n=4)
PAIRED = Yesman().training(n=4)
CONFIG = TuneConfig(steps=2, batch_size=2)
IN_PARTS = TuneConfig(steps=2, batch_size=2, micro_batch_size=1, checkpoint_activations=True)
JUDGE = AnswerJudge()
MOMENTS = int(os.environ.get("MOMENTS", "8"))  # of each of the 24 operations below; of the others half as many more
pytestmark = pytest.mark.filterwarnings("ignore")
MORE = MOMENTS + MOMENTS // 2
QUIET: dict[str, Any] = {"progress": False}


@pytest.fixture(scope="module")
def tiny_model(tiny_folder, tmp_path_factory):
    with lent(tiny_folder, "bridge") as model:
        tuned = Pinpoint(HEADS).tune(model, CASES, CONFIG, **QUIET)
        tuned.undo(model)
        model.tuned_in = tuned.save(tmp_path_factory.mktemp("tuned"))
        yield model
        del model.tuned_in


@pytest.fixture(scope="module")
def pairs(tiny_model):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Yesman().pairs(tiny_model, n=2)


def operations(model: Any, pairs: Any) -> dict[str, Callable[[], Any]]:
    """By name; of each, another call on the same model gives the same."""
    case = CASES[0]
    few = Suite("few", groups={"cases": (case,)}, abilities={"cases": (case,)}, texts=(case,), judge=JUDGE)
    own = Adapter.load(folder) if (folder := getattr(model, "tuned_in", None)) else None
    data: dict[str, Any] = {"dialogues": CASES, "config": CONFIG, "suites": {"validation": few}, "seeds": (0,)}
    return {
        "activation": lambda: activation_patching(model, pairs, **QUIET),
        "activation by hooks": lambda: activation_patching(model, pairs, engine="hooks", **QUIET),
        "stacked": lambda: activation_patching(model, pairs, engine="stacked", **QUIET),
        "path": lambda: path_patching(model, pairs, **QUIET),
        "attribution": lambda: attribution_patching(model, pairs, **QUIET),
        "screened": lambda: screened_patching(model, pairs, **QUIET),
        "head knockout": lambda: head_knockout(model, pairs, **QUIET),
        "null": lambda: random_pairs_null(model, pairs, **QUIET),
        "set patching": lambda: set_patching(model, pairs, HEADS, n_random=1, **QUIET),
        "knockout": lambda: set_knockout(model, pairs[:1], HEADS, n_random=0, **QUIET),
        "objective": lambda: objective_gradient(model, CASES[:2], **QUIET),
        "report": lambda: head_report(model, pairs, "L1.H1", **QUIET),
        "replies": lambda: replies(model, [case.prompt for case in CASES[:2]], max_new_tokens=3),
        "evaluate": lambda: evaluate(model, few, reference=own, **QUIET),
        "pinpoint": lambda: Pinpoint(HEADS).tune(model, CASES, CONFIG, **QUIET),
        "in parts": lambda: Pinpoint(HEADS).tune(model, CASES, IN_PARTS, **QUIET),
        "full": lambda: FullFineTuning().tune(model, CASES, CONFIG, **QUIET),
        "lora": lambda: LoRA(2).tune(model, CASES, CONFIG, **QUIET),
        "head lora": lambda: HeadLoRA(HEADS, 2).tune(model, CASES, CONFIG, **QUIET),
        "adapter in a block": lambda: in_a_block(own, model),
        "steering": lambda: Steering().tune(model, PAIRED, validation=CASES[:1], **QUIET),
        "LoFiT": lambda: LoFiT(k=2).tune(model, CASES, CONFIG, **QUIET),
        "DPO": lambda: DPO(Pinpoint(HEADS)).tune(model, PAIRED, CONFIG, **QUIET),
        "compare": lambda: compare(model, methods=[Contender("chosen", Pinpoint(HEADS), lrs=(1e-3,))], **data, **QUIET),
    }


def in_a_block(adapter: Adapter, model: Any) -> None:
    with adapter.applied(model):
        replies(model, [CASES[0].prompt], max_new_tokens=2)


NAMES = list(operations(None, None))


def undone(found: Any, model: Any) -> None:
    if isinstance(found, Tuned):
        found.undo(model)


def stops(name: str, n: int, many: int = MOMENTS) -> Iterator[Stop]:
    """So many moments of n, one in each part of the operation: every other time with a second signal soon after."""
    draw = random.Random(name)
    for i in range(many):
        yield Stop(1 + (n * i + draw.randrange(n)) // many, draw.randrange(1, 60) if i % 2 else 0)


def ended(found: Any) -> bool:
    return isinstance(found, KeyboardInterrupt) or bool(getattr(found, "interrupted", False))


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_left(name, tiny_model, pairs):
    operation = operations(tiny_model, pairs)[name]
    undone(operation(), tiny_model)  # what is looked for once a model
    made: list[Any] = []
    n = moments(lambda: made.append(operation()))  # its own: below, none comes while it is undone
    undone(made.pop(), tiny_model)
    before, values, count = everything(tiny_model), weights(tiny_model), 0
    for stop in stops(name, n):
        found = stop(operation)
        undone(found, tiny_model)
        count += ended(found) or stop.late  # late: one that waited until all was in its place, and came then
        assert everything(tiny_model) == before, stop
        assert same_weights(tiny_model, values), stop
    assert count >= MOMENTS - 2


def test_an_adapter_is_in_the_model_whole_or_not_at_all(tiny_model):
    adapter, untuned = Adapter.load(tiny_model.tuned_in), weights(tiny_model)
    n = moments(lambda: adapter.apply(tiny_model))
    tuned, before = weights(tiny_model), everything(tiny_model)
    for i, stop in enumerate(stops("adapter", n, MORE)):
        there, to = (adapter.revert, adapter.apply)[i % 2], (adapter.apply, adapter.revert)[i % 2]
        there(tiny_model)
        stop(lambda to=to: to(tiny_model))
        assert same_weights(tiny_model, untuned) or same_weights(tiny_model, tuned)
        assert everything(tiny_model) == before
    adapter.revert(tiny_model)
    assert same_weights(tiny_model, untuned)


@pytest.mark.parametrize("device_map", [None, {"": "cpu"}])
def test_loading_leaves_no_mode_on(tiny_model, tiny_folder, device_map):
    def load() -> Any:
        return load_model(tiny_folder, device_map=device_map, **({} if device_map else {"device": "cpu"}))

    load()
    n, before = moments(load), everything(tiny_model)
    for stop in stops("loading", n, MORE):
        assert ended(stop(load))
        assert everything(tiny_model) == before
    assert same_weights(load(), weights(tiny_model))


def test_an_export_is_there_whole_or_not_at_all(tiny_model, tmp_path):
    def export() -> Any:
        return export_hf(tiny_model, tmp_path / "exported", overwrite=True, **QUIET)

    export()
    n, before, values = moments(export), everything(tiny_model), weights(tiny_model)
    for stop in stops("export", n, MORE):
        stop(export)
        assert everything(tiny_model) == before
        assert [file.name for file in tmp_path.iterdir()] == ["exported"]
        assert same_weights(tiny_model, values)
    assert same_weights(load_model(tmp_path / "exported", device="cpu"), values)
