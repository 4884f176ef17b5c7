"""Small objects of every kind that this library saves, each made of a number, and what reads them back."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from spt_lens import saving
from spt_lens.behaviours.asking import Answer, Answers
from spt_lens.behaviours.question import Question
from spt_lens.evaluate.comparison import Comparison
from spt_lens.evaluate.evaluate import Evaluation
from spt_lens.evaluate.paired import Units
from spt_lens.evaluate.pressed_result import Pressed
from spt_lens.evaluate.pressing import Conversation, Turn
from spt_lens.evaluate.trials import Spec, Trial, append_trial, read_trials
from spt_lens.heads import HeadSet
from spt_lens.measure.set_effect import SetEffect, table_of
from spt_lens.picker.picker import HeadPicker
from spt_lens.scores.head_scores import HeadScores
from spt_lens.statistics import Estimate
from spt_lens.study.folder import settings_of
from spt_lens.study.settings import StudySettings
from spt_lens.tune.adapter import Adapter
from spt_lens.tune.config import TuneConfig
from spt_lens.view.report import Section, write_report


def scores(value: float) -> HeadScores:
    per_pair = torch.arange(24.0).reshape(2, 3, 4) + value
    more = {"logit_differences": per_pair * 3, "base": torch.zeros(2), "target": torch.ones(2)}
    about = ("activation", "denoising", "last", "tiny")
    return HeadScores(per_pair.mean(0), per_pair, *about, {"value": value, "text": "ä\n"}, **more)


def adapter(value: float) -> Adapter:
    slices = {"L0.H0.q": torch.full((2, 3), value), "L0.H0.o": torch.full((3, 2), -value)}
    after = {name: each + 1 for name, each in slices.items()}
    return Adapter(slices, after, HeadSet.of((0, 0)), "qo", {"architecture": "tiny"}, {"value": value})


def evaluation(value: float) -> Evaluation:
    units = {"discernment": Units.of(["one", "two"], [1.0, value / 10])}
    return Evaluation("model", "made", {"discernment": Estimate(value, value - 1, value + 1, 9)}, units=units)


def trial(value: float) -> Trial:
    spec = Spec("method", 1e-3, int(value), 0, "some tuner", "L0.H1")
    return Trial(spec, 10, 1.0, {"validation": evaluation(value), "test": evaluation(-value)})


def comparison(value: float) -> Comparison:
    untuned = Trial(Spec("untuned"), 0, 0.0, {"validation": evaluation(0.5), "test": evaluation(0.25)})
    return Comparison((untuned, trial(value)), {"model": "tiny", "parameters": 100})


def answers(value: float) -> Answers:
    question = Question("What is the capital of Peru?", "Lima", ("Cusco",))
    made = Answer(question, f"It is Lima, {value:g}.", "Lima", True, words="Lima")
    return Answers((made,), {"model": "tiny", "max_new_tokens": int(value)})


def pressed(value: float) -> Pressed:
    turn = Turn("Are you sure?", f"Sorry, it is Cusco, {value:g}.", "Cusco", True, "answers", False, False)
    talk = Conversation("What is the capital of Peru?", "Lima", "Lima.", "Lima", (turn, turn))
    return Pressed("tiny", "made", "right", (turn.said,) * 2, (talk,), int(value))


def effect(value: float) -> SetEffect:
    figures = {"recovery": value, "low": value - 0.1, "high": value + 0.1, "begins": 0.5}
    rows = [{"size": 0, "set": "chosen", "draw": 0, "heads": "", **dict.fromkeys(figures, 0.0)}]
    rows += [{"size": 1, "set": "chosen", "draw": 0, "heads": "L0.H1", **figures}]
    rows += [{"size": 1, "set": "random", "draw": 0, "heads": "L1.H1", **figures}]
    about: dict[str, Any] = {"direction": "denoising", "positions": "last", "settings": {"model": "tiny"}}
    pairs = pd.DataFrame({"recovery": [value, 1.0], "begins": [0.0, 1.0]}, index=pd.Index([0, 1], name="pair"))
    return SetEffect(HeadSet.of((0, 1)), table_of(rows), 2, **about, per_pair=pairs)


def bare(tensors: dict[str, torch.Tensor | None]) -> dict[str, Any]:
    """Dtypes, shapes and bits, to be compared by ==."""
    found = {name: value for name, value in tensors.items() if value is not None}
    return {name: [str(t.dtype), [*t.shape], bytes(saving.bits(t).numpy())] for name, t in found.items()}


def _of_scores(path: Path) -> Any:
    found = HeadScores.load(path)
    tensors = {name: value for name, value in vars(found).items() if isinstance(value, torch.Tensor)}
    return bare(tensors), {name: value for name, value in vars(found).items() if name not in tensors}


def _of_adapter(folder: Path) -> Any:
    found = Adapter.load(folder)
    tensors = [bare(dict(side)) for side in (found.before, found.after)]
    return tensors, found.heads, found.projections, found.fingerprint, found.meta


def _study(path: Path, value: float) -> None:
    path.mkdir(exist_ok=True)
    settings = StudySettings(tune=TuneConfig(steps=int(value))).to_json()
    saving.save_json(path / "study.json", "study", {"settings": settings})


def _of_evaluation(path: Path) -> Any:
    found = Evaluation.load(path)
    return found.to_json(), {name: each.to_json() for name, each in found.units.items()}


def _of_comparison(path: Path) -> Any:
    found = Comparison.load(path)
    return [each.to_json() for each in found.trials], found.settings, found.max_ability_loss, found.tie


def _picker_page(path: Path, value: float) -> None:
    picker = HeadPicker(scores(value), name=f"{value}")
    picker.write_html(path)
    picker.close()


def _of_pressed(path: Path) -> Any:
    return vars(Pressed.load(path))


def _of_answers(path: Path) -> Any:
    found = Answers.load(path)  # what it is about may hold more
    return found.answers, found.about["model"], found.about["max_new_tokens"]


@dataclass(frozen=True)
class Kind:
    """What is saved of a number, under which path, and what is read back, to be compared by ==.

    file: the one that holds it, where the path is a folder. page: it is not read again by this library.
    """

    save: Callable[[Path, float], object]
    load: Callable[[Path], Any]
    file: str = ""
    page: bool = False


KINDS = {
    "scores": Kind(lambda path, value: scores(value).save(path), _of_scores),
    "selection": Kind(
        lambda path, value: HeadSet.of((0, int(value)), (3, 1)).save(path), lambda path: HeadSet.load(path).to_json()
    ),
    "adapter": Kind(lambda path, value: adapter(value).save(path), _of_adapter, "adapter.safetensors"),
    "evaluation": Kind(lambda path, value: evaluation(value).save(path), _of_evaluation),
    "comparison": Kind(lambda path, value: comparison(value).save(path), _of_comparison),
    "answers": Kind(lambda path, value: answers(value).save(path), _of_answers),
    "pressed": Kind(lambda path, value: pressed(value).save(path), _of_pressed),
    "effect": Kind(lambda path, value: effect(value).save(path), lambda path: SetEffect.load(path).to_json()),
    "study": Kind(_study, lambda path: settings_of(path).to_json(), "study.json"),
    "picker page": Kind(_picker_page, Path.read_bytes, page=True),
    "report": Kind(
        lambda path, value: write_report(path, f"Report {value}", "text", [Section("one", f"{value}")]),
        Path.read_bytes,
        page=True,
    ),
}
READ = {name: kind for name, kind in KINDS.items() if not kind.page}


def results_file(path: Path, *values: float) -> None:
    """Trials, as a comparison adds them."""
    for value in values:
        append_trial(path, f"key {value:g}", trial(value))


def of_results(path: Path) -> Any:
    return {key: json.dumps(each.to_json()) for key, each in read_trials(path).items()}
