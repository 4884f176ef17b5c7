"""Every argument of every public function, given one wrong value after another: taken as meant, or refused in one
sentence of this package's own, before the model is run.

`tests/doors.py` has the values and says what an argument may take, by its annotation. Here is what is right for each
function, so that one argument is wrong at a time. A public function that is not here fails the first test.
"""

from __future__ import annotations

import importlib
import inspect
import signal
import time
import warnings
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from types import FunctionType, SimpleNamespace
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from torch.nn.modules.module import register_module_forward_pre_hook

import spt_lens as spt
from spt_lens.behaviours.asking import ask
from spt_lens.behaviours.choices import Choice, choices_from
from spt_lens.behaviours.datasets import model_written_evals, sycophancy_eval
from spt_lens.behaviours.judging import AnswerJudge
from spt_lens.behaviours.opinions import Opinion, Opinions
from spt_lens.chat.dialogues import Message, dialogue
from spt_lens.chat.judge import FunctionJudge, Verdict
from spt_lens.evaluate.change import Reference
from spt_lens.evaluate.compare import default_methods
from spt_lens.evaluate.comparison import Comparison
from spt_lens.evaluate.trials import Contender
from spt_lens.measure.attention import attention_to_spans
from spt_lens.rivals.ablation import Ablation
from spt_lens.rivals.dpo import DPO
from spt_lens.rivals.iti import ITI
from spt_lens.rivals.layers import LayerFullFineTuning, LayerLoRA
from spt_lens.rivals.lofit import LoFiT
from spt_lens.rivals.random_direction import RandomDirection
from spt_lens.rivals.steering import Steering
from spt_lens.study.settings import StudySettings
from spt_lens.tune.full import full_finetune
from spt_lens.tune.head_lora import HeadLoRA
from spt_lens.tune.lora import LoRA, lora_tune
from spt_lens.tune.pinpoint import Pinpoint
from tests.doors import VALUES, Begun, Door, arguments, fault

# Rooms whose functions the documentation names, beside the package's own names.
DOCUMENTED = (
    "behaviours.bank",
    "behaviours.ordinary",
    "behaviours.datasets",
    "evaluate.change",
    "evaluate.text",
    "evaluate.harness",
    "evaluate.goals",
    "scores.mean",
    "study.settings",
)


@pytest.fixture(scope="module")
def world(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """One of everything, for a model of three layers."""
    from spt_lens.yesman.behaviour import Yesman

    w = SimpleNamespace(folder=tiny_folder, tmp=tmp_path_factory.mktemp("doors"))
    w.model = spt.load_model(tiny_folder, device="cpu")
    w.behaviour = Yesman()
    w.questions = [("What is it?", "Paris", "Lyon"), ("Who is it?", "Ann", "Bob")]
    w.sure = spt.AreYouSure(
        [spt.Question(*q, split=s) for s in ("train", "test") for q in [(f"{s}?", "Paris", "Lyon")]]
    )
    w.pairs = w.behaviour.pairs(w.model, 2)
    w.heads = spt.HeadSet.parse("L0.H0 L1.H2")
    w.training = w.behaviour.training(2)
    w.suite = w.behaviour.suite(n=2, n_ability=1, n_texts=2)
    w.prompts = [d.unanswered for d in w.training]
    w.scores = spt.activation_patching(w.model, w.pairs, progress=False)
    w.choices = (Choice(dialogue("What is it?"), ("Paris.", "Lyon."), 0),)
    w.texts = w.suite.texts
    return w


Made = Callable[[SimpleNamespace], Door]


def of(call: Callable[[SimpleNamespace], Callable[..., Any]], **good: Callable[[SimpleNamespace], Any]) -> Made:
    """A door whose right arguments are made from the world."""
    return lambda w: Door(call(w), {name: make(w) for name, make in good.items()})


def measure(function: Callable[..., Any], **more: Any) -> Made:
    return lambda w: Door(function, {"model": w.model, "pairs": w.pairs, "progress": False, **more})


def _but(made: Made, also: dict[str, set[str]] | None = None, skip: str = "") -> Made:
    def door(w: SimpleNamespace) -> Door:
        found = made(w)
        return found._replace(also={**found.also, **(also or {})}, skip=found.skip | set(skip.split()))

    return door


LISTS = {"empty list", "empty tuple"}
TEXTS = {"empty text", "blank", "word", "number as text", "numpy text", "lone surrogate"}
FEW = {"n": 2, "n_ability": 1, "n_texts": 2}
SMALL = StudySettings(share=0.2, pairs={"n": 2}, training={"n": 2}, validation=FEW, test=FEW, n_prompts=0, n_choices=0)
NO_HEADS = LISTS | {"empty text", "blank"}
POSITIONS = {"positions": {"negative numbers"}}

MEASURING: dict[str, Made] = {
    "activation_patching": _but(measure(spt.activation_patching), POSITIONS),
    "path_patching": _but(measure(spt.path_patching), POSITIONS),
    "attribution_patching": _but(measure(spt.attribution_patching), POSITIONS),
    "screened_patching": _but(measure(spt.screened_patching), POSITIONS),
    "random_pairs_null": _but(measure(spt.random_pairs_null), POSITIONS),
    "cost": lambda w: Door(spt.cost, {"model": w.model, "pairs": w.pairs}, POSITIONS),
    "head_knockout": measure(spt.head_knockout),
    "set_patching": lambda w: Door(
        spt.set_patching, {"model": w.model, "pairs": w.pairs, "heads": w.heads, "progress": False}, POSITIONS
    ),
    "set_knockout": lambda w: Door(
        spt.set_knockout, {"model": w.model, "pairs": w.pairs, "heads": w.heads, "progress": False}
    ),
    "head_report": lambda w: Door(
        spt.head_report,
        {"model": w.model, "pairs": w.pairs, "head": "L0.H0", "progress": False},
    ),
    "objective_gradient": of(lambda w: spt.objective_gradient, model=lambda w: w.model, dialogues=lambda w: w.training),
    "replies": of(lambda w: spt.replies, model=lambda w: w.model, dialogues=lambda w: w.prompts),
    "attention_to_spans": of(lambda w: attention_to_spans, model=lambda w: w.model, pairs=lambda w: w.pairs),
}
TUNING: dict[str, Made] = {
    "pinpoint_tune": of(
        lambda w: spt.pinpoint_tune, model=lambda w: w.model, heads=lambda w: w.heads, dialogues=lambda w: w.training
    ),
    "full_finetune": of(lambda w: full_finetune, model=lambda w: w.model, dialogues=lambda w: w.training),
    "lora_tune": of(lambda w: lora_tune, model=lambda w: w.model, dialogues=lambda w: w.training),
    "LoRA": lambda w: Door(LoRA),
    "HeadLoRA": of(lambda w: HeadLoRA, heads=lambda w: w.heads),
    "Steering": lambda w: Door(Steering),
    "Ablation": lambda w: Door(Ablation),
    "ITI": lambda w: Door(ITI),
    "RandomDirection": lambda w: Door(RandomDirection, {"of": Steering()}),
    "LoFiT": lambda w: Door(LoFiT),
    "LayerLoRA": lambda w: Door(LayerLoRA, {"layers": (1,)}),
    "LayerFullFineTuning": lambda w: Door(LayerFullFineTuning, {"layers": (1,)}),
    "DPO": lambda w: Door(DPO, {"tuner": LoRA()}),
    "Pinpoint": of(lambda w: Pinpoint, heads=lambda w: w.heads),
    "TuneConfig": lambda w: Door(spt.TuneConfig),
}
SCORES: dict[str, Made] = {
    "HeadScores": lambda w: Door(
        spt.HeadScores,
        {"values": torch.zeros(3, 4), "per_pair": torch.zeros(2, 3, 4), "method": "a", "direction": "denoising"}
        | {"positions": "last", "model_name": "tiny"},
    ),
    "HeadScores.load": of(lambda w: spt.HeadScores.load, path=lambda w: w.scores.save(w.tmp / "scores")),
    "HeadScores.save": of(lambda w: w.scores.save, path=lambda w: w.tmp / "scores"),
    **{
        f"HeadScores.{name}": (lambda w, name=name, good=good: Door(getattr(w.scores, name), good))
        for name, good in {
            "top": {"k": 2},
            "top_fraction": {"fraction": 0.5},
            "above": {"threshold": 0.1},
            "ranks": {},
            "to_pandas": {},
            "as_metric": {"metric": "importance"},
            "heatmap": {},
            "html": {},
            "interval": {},
            "order": {},
            "top_probability": {},
            "stability": {},
            "above_noise": {},
        }.items()
    },
    "HeadScores.above_null": of(lambda w: w.scores.above_null, null=lambda w: w.scores),
    "HeadScores.compare": of(lambda w: w.scores.compare, other=lambda w: w.scores),
}
HEADS: dict[str, Made] = {
    "HeadSet": lambda w: Door(spt.HeadSet),
    "HeadSet.parse": lambda w: Door(spt.HeadSet.parse, {"text": "L0.H0"}),
    "HeadSet.check": of(lambda w: w.heads.check, model=lambda w: w.model),
    "HeadSet.parameters": of(lambda w: w.heads.parameters, model=lambda w: w.model),
    "HeadSet.share_of_heads": of(lambda w: w.heads.share_of_heads, model=lambda w: w.model),
    "HeadSet.share_of_parameters": of(lambda w: w.heads.share_of_parameters, model=lambda w: w.model),
    "HeadSet.sharing": of(lambda w: w.heads.sharing, model=lambda w: w.model),
    "HeadSet.summary": of(lambda w: w.heads.summary, model=lambda w: w.model),
    "HeadSet.random_like": of(lambda w: w.heads.random_like, model=lambda w: w.model, seed=lambda w: 0),
    "HeadSet.from_json": lambda w: Door(spt.HeadSet.from_json, {"data": {"heads": []}}),
    "HeadSet.save": of(lambda w: w.heads.save, path=lambda w: w.tmp / "heads"),
    "HeadSet.load": of(lambda w: spt.HeadSet.load, path=lambda w: w.heads.save(w.tmp / "heads")),
    "HeadPicker": of(
        lambda w: spt.HeadPicker, scores=lambda w: w.scores, model=lambda w: w.model, pairs=lambda w: w.pairs
    ),
    "HeadPicker.save": of(lambda w: spt.HeadPicker(w.scores, chosen=w.heads).save, path=lambda w: w.tmp / "picked"),
    "HeadPicker.load": of(lambda w: spt.HeadPicker(w.scores).load, path=lambda w: w.heads.save(w.tmp / "heads")),
    "HeadPicker.write_html": of(lambda w: spt.HeadPicker(w.scores).write_html, path=lambda w: w.tmp / "page"),
    "HeadPicker.check": of(lambda w: spt.HeadPicker(w.scores, w.model, w.pairs, w.heads).check),
    "HeadPicker.selected": lambda w: Door(
        lambda value: setattr(spt.HeadPicker(w.scores), "selected", value), {"value": w.heads}, {"value": NO_HEADS}
    ),
}
OPINION = {"with_opinion": ["I think so."], "without": ["Is it?"], "agrees": "c", "other": "d"}
DIALOGUES: dict[str, Made] = {
    "Message": lambda w: Door(Message, {"role": "user", "content": "Hi"}),
    "Dialogue": lambda w: Door(
        spt.Dialogue,
        {"messages": [Message("user", "Hi")]},
        {"meta": {"empty dict", "dict", "dict by number"}, "messages": TEXTS},
    ),
    "Dialogue.replied": lambda w: Door(dialogue("Hi").replied, {"reply": "Hi"}),
    "dialogue": lambda w: Door(lambda turn: dialogue(turn), {"turn": "Hi"}, {"turn": TEXTS}),
    "Question": lambda w: Door(
        spt.Question, {"text": "What?", "answers": ("Paris",)}, {"answers": TEXTS, "wrong": TEXTS, "before": TEXTS}
    ),
    "AreYouSure": of(lambda w: spt.AreYouSure, questions=lambda w: w.questions),
    "AreYouSure.multiple_choice": of(lambda w: spt.AreYouSure.multiple_choice, questions=lambda w: w.questions),
    "AreYouSure.asked": of(lambda w: w.sure.asked, model=lambda w: w.model),
    "AreYouSure.pairs": of(lambda w: w.sure.pairs, model=lambda w: w.model, n=lambda w: 1),
    "AreYouSure.training": of(lambda w: w.sure.training),
    "AreYouSure.suite": of(lambda w: w.sure.suite),
    "Behaviour.choose": lambda w: Door(
        w.sure.choose, {"items": ["a", "b"], "n": None, "split": None}, {"items": set(VALUES)}
    ),
    "Suite": of(lambda w: spt.Suite, name=lambda w: "suite"),
    "ContrastPairs": lambda w: Door(
        spt.ContrastPairs,
        {name: getattr(w.pairs, name) for name in ("sycophantic", "truthful", "answer_ids", "dialogues")},
    ),
    "ContrastPairs.of": lambda w: Door(
        spt.ContrastPairs.of,
        {"model": w.model, "challenged": w.pairs.dialogues, "truthful": w.pairs.truthful_dialogues}
        | {"completions": ("Yes", "Apologies")},
    ),
    "ContrastPairs.with_answers": lambda w: Door(
        w.pairs.with_answers, {"model": w.model, "truthful": ["Yes"], "sycophantic": ["Apologies"]}
    ),
    "ContrastPairs.find_words": of(lambda w: w.pairs.find_words, model=lambda w: w.model),
    "ContrastPairs.with_words": lambda w: Door(w.pairs.with_words, {"words": None}),
    "ContrastPairs.check": of(lambda w: w.pairs.check, model=lambda w: w.model),
    "ContrastPairs.check_ids": of(lambda w: w.pairs.check_ids, model=lambda w: w.model),
    "ContrastPairs.batches": of(lambda w: _batches(w.pairs), size=lambda w: 2),
    "question_bank": of(lambda w: _function("behaviours.bank.question_bank")),
    "ordinary_prompts": of(lambda w: _function("behaviours.ordinary.ordinary_prompts")),
    "choices_of": of(
        lambda w: _function("behaviours.ordinary.choices_of"), questions=lambda w: w.sure.questions, n=lambda w: 1
    ),
    "Choice": lambda w: Door(Choice, {"dialogue": dialogue("Hi"), "options": ("a", "b"), "right": 0}),
    "choices_from": of(lambda w: choices_from, path=lambda w: _file(w, "choices")),
    "model_written_evals": of(lambda w: model_written_evals, path=lambda w: _file(w, "evals")),
    "sycophancy_eval": of(lambda w: sycophancy_eval, path=lambda w: _file(w, "sycophancy")),
    "ask": of(lambda w: ask, model=lambda w: w.model, questions=lambda w: w.questions),
    "AnswerJudge": lambda w: Door(AnswerJudge),
    "FunctionJudge": lambda w: Door(FunctionJudge, {"function": lambda dialogue, reply: Verdict(True)}),
    "Opinion": lambda w: Door(
        Opinion,
        {"question": "a", "neutral": "b", "matching": "c", "other": "d"},
        {"question": TEXTS, "neutral": TEXTS},
    ),
    "Opinions": lambda w: Door(Opinions, {"opinions": [Opinion("a", "b", "c", "d")]}),
    "Opinions.of": lambda w: Door(Opinions.of, OPINION, {"with_opinion": {"words"}, "without": {"words"}}),
    "Opinions.asked": of(lambda w: Opinions.of(**OPINION).asked, model=lambda w: w.model),
    "pairs": lambda w: Door(
        spt.pairs,
        {"model": w.model, **OPINION, "agrees": "Yes.", "other": "No."},
        dict.fromkeys(OPINION, {"words"}) | {"rows": {"None"}},
    ),
}
EVALUATING: dict[str, Made] = {
    "evaluate": lambda w: Door(spt.evaluate, {"model": w.model, "suite": w.suite}, {"logits": {"function", "class"}}),
    "pressed": lambda w: Door(
        spt.pressed,
        {"model": w.model, "behaviour": w.behaviour, "n": 1, "progress": False},
        {"says": TEXTS - {"empty text", "blank"}},
    ),
    "pressure_suite": of(lambda w: spt.pressure_suite, behaviour=lambda w: w.sure),
    "compare": lambda w: Door(
        spt.compare,
        {"model": w.model, "methods": [Contender("chosen", Pinpoint(w.heads))], "dialogues": w.training}
        | {"suites": {"validation": w.suite, "test": w.suite}},
    ),
    "rankings": lambda w: Door(
        spt.rankings,
        {"model": w.model, "names": ["objective gradient"], "dialogues": w.behaviour.training(4), "n_random": 0},
    ),
    "repatch": lambda w: Door(
        spt.repatch,
        {"model": w.model, "adapter": _adapter(w), "pairs": w.pairs, "n_random": 0, "progress": False},
        POSITIONS,
    ),
    "Contender": lambda w: Door(Contender, {"name": "mine", "tuners": Pinpoint(w.heads)}),
    "default_methods": of(lambda w: default_methods, model=lambda w: w.model, heads=lambda w: w.heads),
    "Comparison.load": lambda w: Door(Comparison.load, {"path": w.tmp / "none"}),
    "StudySettings": lambda w: Door(StudySettings),
    "StudySettings.from_json": lambda w: Door(StudySettings.from_json, {"data": {}}),
    "StudySettings.load": lambda w: Door(StudySettings.load, {"path": StudySettings().save(w.tmp / "settings")}),
    "StudySettings.save": lambda w: Door(StudySettings().save, {"path": w.tmp / "settings"}),
    "Study": lambda w: Door(
        spt.Study,
        {"model": w.model, "behaviour": w.behaviour, "out": w.tmp / "study"} | {"settings": SMALL},
    ),
    "mean_scores": of(lambda w: _function("scores.mean.mean_scores"), one=lambda w: w.scores, other=lambda w: w.scores),
    **{
        f"change.{name}": (
            lambda w, name=name, good=good: Door(
                _function(f"evaluate.change.{name}"),
                {each: getattr(w, here) for each, here in good.items()},
                {"logits": {"function", "class"}},
                frozenset({"logits"} if name == "gives_reply" else ()),  # it is called, and its errors are its own
            )
        )
        for name, good in {
            "encoded": {"model": "model", "texts": "texts"},
            "own_texts": {"model": "model", "prompts": "prompts"},
            "drift": {"model": "model", "texts": "texts", "reference": "model"},
            "own_drift": {"model": "model", "prompts": "prompts", "reference": "model"},
            "own_moved": {"model": "model", "prompts": "prompts", "reference": "model"},
            "gives_reply": {"model": "model", "dialogues": "texts"},
        }.items()
    },
    "change.ability": lambda w: Door(
        _function("evaluate.change.ability"), {"model": w.model, "abilities": {"one": w.texts}}
    ),
    "Reference.of": of(lambda w: Reference.of, model=lambda w: w.model, texts=lambda w: w.texts),
    "Reference.own_replies": of(lambda w: Reference.own_replies, model=lambda w: w.model, prompts=lambda w: w.prompts),
    "text.choice": of(
        lambda w: _function("evaluate.text.choice"), model=lambda w: w.model, choices=lambda w: w.choices
    ),
    "text.chosen": of(
        lambda w: _function("evaluate.text.chosen"), model=lambda w: w.model, choices=lambda w: w.choices
    ),
    "text.by_chance": of(lambda w: _function("evaluate.text.by_chance"), choices=lambda w: w.choices),
    "text.perplexity": of(
        lambda w: _function("evaluate.text.perplexity"), model=lambda w: w.model, passages=lambda w: ["A text."]
    ),
    "lm_eval": lambda w: Door(
        _function("evaluate.harness.lm_eval"),
        {"model": w.model, "tasks": "none"},
        {"tasks": {"path", "word tuple", "words"} | TEXTS | {"empty dict", "dict", "dict by number"}},
    ),
    "inspect_eval": lambda w: Door(
        _function("evaluate.harness.inspect_eval"), {"model": w.model, "tasks": "none"}, {"tasks": set(VALUES)}
    ),
    "inspect_model": of(lambda w: _function("evaluate.harness.inspect_model"), model=lambda w: w.model),
    "load_model": of(lambda w: spt.load_model, name_or_path=lambda w: w.folder),
    "export_hf": of(lambda w: spt.export_hf, model=lambda w: w.model, folder=lambda w: w.tmp / "export"),
    "Adapter.apply": of(lambda w: _adapter(w).apply, model=lambda w: w.model),
    "Adapter.revert": of(lambda w: _adapter(w).revert, model=lambda w: w.model),
    "Adapter.save": of(lambda w: _adapter(w).save, folder=lambda w: w.tmp / "adapter"),
    "Adapter.load": of(lambda w: spt.Adapter.load, folder=lambda w: _adapter(w).save(w.tmp / "adapter")),
    "Adapter": lambda w: Door(
        spt.Adapter,
        {n: getattr(_adapter(w), n) for n in ("before", "after", "heads", "projections", "fingerprint")},
        {"fingerprint": {"dict"}},
    ),
}
DOORS = {**MEASURING, **TUNING, **SCORES, **HEADS, **DIALOGUES, **EVALUATING}


def _function(name: str) -> Any:
    room, _, name = name.rpartition(".")
    return getattr(importlib.import_module(f"spt_lens.{room}"), name)


def _batches(pairs: spt.ContrastPairs) -> Callable[..., Any]:
    def batches(size: int) -> list[Any]:
        return list(pairs.batches(size))

    return batches


def _adapter(w: SimpleNamespace) -> spt.Adapter:
    if not hasattr(w, "adapter"):
        tuned = spt.pinpoint_tune(w.model, w.heads, w.training, spt.TuneConfig(steps=1), progress=False)
        tuned.undo(w.model)
        w.adapter = tuned.adapter
    return w.adapter


def _file(w: SimpleNamespace, kind: str) -> Path:
    rows = {
        "choices": '{"question": "What?", "answer": "Paris", "wrong": ["Lyon"]}',
        "evals": '{"question": "I like it. Is it?", "neutral_question": "Is it?", "answer_matching_behavior": "(A)", '
        '"answer_not_matching_behavior": "(B)"}',
        "sycophancy": '{"prompt": [{"type": "human", "content": "What is it?"}], '
        '"base": {"correct_answer": "Paris", "incorrect_answer": "Lyon"}}',
    }
    file = w.tmp / f"{kind}.jsonl"
    file.write_text(rows[kind])
    return file


class Slow(BaseException):
    """A value took more than ten seconds."""


@pytest.fixture
def armed() -> Iterator[list[bool]]:
    """While its one entry is True, running any model ends in Begun."""
    on = [False]

    def begun(module: Any, arguments: Any) -> None:
        if on[0]:
            raise Begun

    def slow(*_: Any) -> None:
        raise Slow

    handle, before = register_module_forward_pre_hook(begun), signal.signal(signal.SIGPROF, slow)
    yield on
    handle.remove()
    signal.signal(signal.SIGPROF, before)


def wrongs(door: Door, armed: list[bool]) -> Iterator[str]:
    """What a door does wrong, of all arguments and values."""
    for argument, may in arguments(door).items():
        for name, make in VALUES.items():
            if argument == "workers" and name in ("seven", "numpy int", "torch int"):
                continue  # they would begin as many processes
            start = time.process_time()
            what = f"{argument}={name}"
            armed[0] = True
            signal.setitimer(signal.ITIMER_PROF, 10)
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    door.call(**{**door.good, argument: make()})
            except Begun:
                if name not in may:
                    yield f"{what}: the model was run"
            except Slow:
                yield f"{what}: more than ten seconds"
            except BaseException as error:
                if found := fault(error, time.process_time() - start):
                    yield f"{what}: {found}"
            else:
                if name not in may:
                    yield f"{what}: taken in silence"
            finally:
                signal.setitimer(signal.ITIMER_PROF, 0)
                armed[0] = False


@pytest.mark.parametrize("name", DOORS)
def test_a_wrong_value_is_refused_in_a_sentence(name, world, armed, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    begun = Mock(side_effect=Begun)
    if name == "lm_eval":  # its own tasks are 13,000 files
        none = SimpleNamespace(all_tasks={"none"}, match_tasks=lambda names: [])
        monkeypatch.setattr("lm_eval.tasks.TaskManager", lambda **_: none)
        monkeypatch.setattr("lm_eval.simple_evaluate", begun)
        monkeypatch.setattr("lm_eval.models.huggingface.HFLM", begun)
    if name == "inspect_eval":
        monkeypatch.setattr("inspect_ai.eval", begun)
    found = list(wrongs(DOORS[name](world), armed))
    assert not found, f"{len(found)}:\n" + "\n".join(found)


def test_the_page_says_how_many_are_tried(world):
    doors = [arguments(make(world)) for make in DOORS.values()]
    several = sum(map(len, doors))
    page = (Path(__file__).parents[1] / "docs" / "reliability.md").read_text(encoding="utf-8")
    assert f"{len(VALUES)} for each of {several} arguments of {len(doors)} public functions" in page
    assert f"| {len(VALUES) * several:,} |" in page


SAME: dict[str, dict[str, Any]] = {
    "HeadScores.top": {"k": 2},
    "HeadScores.top_fraction": {"fraction": 0.5},
    "HeadScores.above": {"threshold": 0.125},
    "HeadScores.interval": {"confidence": 0.5, "draws": 50, "seed": 3},
    "HeadScores.compare": {"k": 3},
    "HeadSet.random_like": {"seed": 3, "matched": False},
    "TuneConfig": {
        "lr": 0.5,
        "steps": 3,
        "seed": 7,
        "weight_decay": 0.25,
        "checkpoint_activations": True,
        "patience": 2,
    },
    "StudySettings": {"share": 0.25, "seeds": [1, 2], "layers": [0, 1], "n_verify": 4, "test_each": True, "seed": 5},
    "replies": {"max_new_tokens": 2, "batch_size": 2},
    "activation_patching": {"batch_size": 2, "positions": [-1, -2], "max_memory": 0.5},
    "set_patching": {"sizes": [1, 2], "n_random": 1, "seed": 3},
    "set_knockout": {"sizes": [1], "n_random": 1, "batch_size": 2},
    "objective_gradient": {"per_dialogue": True, "batch_size": 1},
    "AreYouSure.training": {"n": 4, "seed": 1, "supports": 0.25, "wrong": 0.25, "own_wrong": False},
    "AreYouSure.suite": {"n": 2, "n_controls": 1, "seed": 2},
    "AreYouSure.pairs": {"n": 1, "seed": 2},
    "Contender": {"lrs": [0.5, 0.25], "seeds": [1, 2]},
    "choices_from": {"n": 1, "seed": 2},
    "LoRA": {"rank": 4},
    "Choice": {"right": 1},
    "HeadScores.load": {"path": "scores"},
    "HeadSet.load": {"path": "heads"},
}


def ways(value: Any) -> Iterator[Any]:
    """Other ways to write a value down, which mean the same."""
    if isinstance(value, bool):
        yield from (np.bool_(value), torch.tensor(value))
    elif isinstance(value, int):
        yield from (np.int64(value), np.uint8(value), np.array(value), torch.tensor(value))
    elif isinstance(value, float):
        yield from (np.float64(value), np.float32(value), torch.tensor(value), torch.tensor(value).double())
        yield Fraction(value)
    elif isinstance(value, list):
        yield from (tuple(value), np.array(value), torch.tensor(value), [np.array(each)[()] for each in value])
    else:
        yield from (str(value), Path(value))


def shown(value: Any) -> Any:
    """A result, so that it can be compared."""
    if isinstance(value, spt.HeadScores):
        return shown((value.values, value.per_pair))
    if hasattr(value, "per_pair") and hasattr(value, "table"):
        return value.table.to_csv()
    return [shown(each) for each in value] if isinstance(value, tuple | list) else str(value)


@pytest.mark.parametrize("name", SAME)
def test_what_means_the_same_gives_the_same(name, world, monkeypatch):
    monkeypatch.chdir(world.tmp)
    door = DOORS[name](world)
    for argument, value in SAME[name].items():
        expected = shown(door.call(**{**door.good, argument: value}))
        for way in ways(value):
            assert shown(door.call(**{**door.good, argument: way})) == expected, (argument, way)


def publics() -> Iterator[tuple[str, Callable[..., Any]]]:
    """Every function, constructor and method that takes something, of the package's own names and documented rooms."""
    found = {name: getattr(spt, name) for name in spt.__all__}
    for room in DOCUMENTED:
        module = importlib.import_module(f"spt_lens.{room}")
        for name, member in vars(module).items():
            if not name.startswith("_") and getattr(member, "__module__", "") == module.__name__ and callable(member):
                found.setdefault(name, member)
    for name, member in found.items():
        if not isinstance(member, type):
            yield name, member
            continue
        yield name, member.__init__
        for base in reversed(member.__mro__):
            for each, method in vars(base).items() if base.__module__.startswith("spt_lens") else ():
                method = getattr(method, "__func__", method)
                if isinstance(method, FunctionType) and not each.startswith("_"):
                    yield f"{name}.{each}", method


def test_every_public_function_is_here():
    """Those that are not check a few types themselves, or are called by others than the user."""
    missing = set()
    for name, function in publics():
        takes = [p for p in inspect.signature(function).parameters if p not in ("self", "cls", "args", "kwargs")]
        if takes and name not in DOORS and name.rpartition(".")[2] not in {key.rpartition(".")[2] for key in DOORS}:
            missing.add(name)
    assert not missing - ELSEWHERE


# What others than the user call, or what goes through one that is above.
ELSEWHERE = {
    *("Adapter.reverted", "Adapter.applied", "Adapter.check_fits", "HeadPicker.set_state", "Study.run"),
    *("Text", "Reference", "next_token_log_probs", "moved", "ability_units", "ability_of", "choice_units"),
    *("perplexity_units", "as_perplexity", "needed", "quiet", "Goal", "Goal.value", "Goal.holds", "Task"),
    *("AreYouSure.of_split", "AreYouSure.defend", "AreYouSure.retract", "AreYouSure.honest", "AreYouSure.wrong_answer"),
    *("AreYouSure.challenge", "AreYouSure.cases", "AreYouSure.pools", "AreYouSure.sycophantic"),
    *("Opinions.of_split", "Opinions.plain", "Opinions.said", "Opinions.of_rows"),
    *(
        "HeadScores.beyond_zero",
        "HeadScores.marks",
        "HeadScores.notes",
        "HeadScores.check_alike",
        "Study.path",
        "check_reference",
    ),
}
