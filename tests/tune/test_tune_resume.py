"""A run that was ended by whatever goes on from its folder to the same bits."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import killed
import pytest
import torch

from spt_lens import saving
from spt_lens.heads import HeadSet
from spt_lens.model.view import ModelView
from spt_lens.tune import training
from spt_lens.tune.config import TuneConfig
from spt_lens.tune.full import full_finetune
from spt_lens.tune.head_lora import HeadLoRA
from spt_lens.tune.lora import lora_tune
from spt_lens.tune.pinpoint import pinpoint_tune
from spt_lens.tune.resume import FILE
from spt_lens.yesman import Yesman

HEADS = HeadSet.parse("L0.H1 L2.H3")
CASES = Yesman().cases("train", n=16)
KEEP = Yesman().cases("train", "supporting", n=5)
MORE = {"validation": CASES[:4], "keep": KEEP, "progress": False}
CONFIG = TuneConfig(lr=1e-2, steps=7, batch_size=3, weight_decay=0.1, kl_weight=0.4, validate_every=2, save_every=2)
SGD = replace(CONFIG, optimizer="sgd", schedule="cosine", kl_weight=0.0, lr=0.1)


def copies(model) -> list[torch.Tensor]:
    return [p.detach().clone() for p in ModelView(model).weights().values()]


def same(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    return all(map(saving.same_bits, one, other))


class Crash(Exception):
    pass


def crash_at(step: int):
    """A callback that ends the run as an error does, and so without a save."""

    def fail(row) -> None:
        if row["step"] == step:
            raise Crash

    return fail


def test_a_run_that_is_killed_again_and_again_ends_as_one_that_never_was(tiny_folder, tmp_path):
    command = [sys.executable, killed.__file__, str(tiny_folder), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert list(told["ended"].values()) == [signal.SIGKILL] * 5 + [0]
    assert told["moved"]
    assert told["same"] == told["history"] == {"whole": True, "killed": True, "again": True}
    # It is told of steps 0 to 12; the last part of the killed one began at a save; the finished one is given back.
    assert told["steps"] == {"whole": 13, "killed": 4, "again": 0}
    assert [path.name for path in (tmp_path / "killed").iterdir()] == [FILE]


def head_lora_tune(model, heads, *args, **options):
    return HeadLoRA(heads, rank=2).tune(model, *args, **options)


@pytest.mark.parametrize("config", [CONFIG, SGD], ids=["adamw", "sgd"])
@pytest.mark.parametrize("tune", [pinpoint_tune, head_lora_tune, full_finetune, lora_tune])
def test_every_method_goes_on_to_the_same_bits(load, tiny_folder, tmp_path, tune, config):
    heads = (HEADS,) if tune in (pinpoint_tune, head_lora_tune) else ()
    more = MORE if config.kl_weight else {**MORE, "keep": None}

    def run(**options):
        model = load(tiny_folder)
        before = copies(model)
        try:
            tuned = tune(model, *heads, CASES, config, **more, **options)
        except Crash:
            assert same(copies(model), before)
            return None
        after = copies(model)
        tuned.undo(model)
        assert same(copies(model), before) and not same(after, before)
        return tuned.history, after

    history, weights = run()
    assert run(resume=tmp_path, on_step=crash_at(5)) is None  # the state is that of step 4
    told: list[float] = []
    again, found = run(resume=tmp_path, on_step=lambda row: told.append(row["step"]))
    assert told == [5, 6, 7] and again.equals(history) and same(found, weights)
    again, found = run(resume=tmp_path, on_step=crash_at(7))  # it is done: nothing is left to crash in
    assert again.equals(history) and same(found, weights)


@pytest.mark.parametrize("where", ["step", "validate", "last", "take", "backward"])
def test_an_interrupt_loses_nothing(load, tiny_folder, tmp_path, monkeypatch, where):
    def run(**options):
        model = load(tiny_folder)
        tuned = pinpoint_tune(model, HeadSet.parse("L1.H1 L2.H3"), CASES, CONFIG, **MORE, **options)
        assert tuned.way.startswith("steps from layer 1 on") or tuned.way == ""
        return tuned, copies(model)

    whole, weights = run()
    with monkeypatch.context() as patch:
        calls: list[int] = []

        def stop(function, after=False):
            def stopped(*args):
                calls.append(1)
                last = len(calls) == (5 if where == "last" else 3)
                found = function(*args) if not last or after else None
                if last:
                    raise KeyboardInterrupt
                return found

            return stopped

        if where in ("validate", "last"):  # of step 4, after the ones of 0 and 2, and of step 7, the end
            patch.setattr(training, "validate", stop(training.validate))
        elif where == "backward":
            patch.setattr(training, "step_gradients", stop(training.step_gradients))
        elif where == "take":
            patch.setattr(torch.optim.AdamW, "step", stop(torch.optim.AdamW.step, after=True))
        on_step = (lambda row: row["step"] == 3) if where == "step" else None
        begun, _ = run(resume=tmp_path, on_step=on_step)
    assert begun.interrupted
    _, about = saving.load_tensors(tmp_path / FILE, "tuning run")
    # Between the weights of two steps there is no state: what was saved before stays.
    assert about["rows"][-1]["step"] == {"step": 3, "validate": 4, "last": 7, "take": 2, "backward": 2}[where]
    assert about["over"] is False
    tuned, found = run(resume=tmp_path)
    assert not tuned.interrupted and tuned.history.equals(whole.history) and same(found, weights)


def test_the_time_of_all_parts_counts(tiny, load, tiny_folder, tmp_path):
    pinpoint_tune(
        load(tiny_folder), HEADS, CASES, CONFIG, **MORE, resume=tmp_path, on_step=lambda row: row["step"] == 3
    )
    tensors, about = saving.load_tensors(tmp_path / FILE, "tuning run")
    saving.save_tensors(tmp_path / FILE, "tuning run", tensors, {**about, "seconds": 1000.0})
    assert 1000 < pinpoint_tune(tiny, HEADS, CASES, CONFIG, **MORE, resume=tmp_path).seconds < 1500


@pytest.fixture
def begun(load, tiny_folder, tmp_path):
    """A folder with the state of a run, and a model that it fits."""
    pinpoint_tune(
        load(tiny_folder), HEADS, CASES, CONFIG, **MORE, resume=tmp_path, on_step=lambda row: row["step"] == 3
    )
    return load(tiny_folder), tmp_path


@pytest.mark.parametrize(
    "other, said",
    [
        ({"config": replace(CONFIG, lr=2e-2)}, r"lr \(0.01 there, 0.02 here\)"),
        ({"config": replace(CONFIG, micro_batch_size=1)}, r"micro_batch_size \(None there, 1 here\)"),
        ({"dialogues": CASES[1:]}, "the dialogues"),
        ({"validation": None}, "the validation dialogues"),
        ({"keep": KEEP[1:]}, "the dialogues to keep"),
        ({"heads": HeadSet.parse("L0.H0")}, r"the method \(.*L0.H1 L2.H3.* there, .*L0.H0.* here\)"),
    ],
)
def test_another_run_is_refused_by_what_differs(begun, other, said):
    model, folder = begun
    before, file = copies(model), (folder / FILE).read_bytes()
    given = {"heads": HEADS, "dialogues": CASES, "config": CONFIG, **MORE, **other}
    with pytest.raises(ValueError, match=f"holds another run, by {said}: give another folder"):
        pinpoint_tune(model, resume=folder, **given)
    assert same(copies(model), before) and (folder / FILE).read_bytes() == file


def test_other_weights_are_refused(begun):
    model, folder = begun
    tuned = full_finetune(model, CASES, TuneConfig(steps=1, batch_size=2, warmup_share=0), progress=False)
    with pytest.raises(ValueError, match=r"the model's weights: .*tuned\.undo"):
        pinpoint_tune(model, HEADS, CASES, CONFIG, **MORE, resume=folder)
    tuned.undo(model)
    assert pinpoint_tune(model, HEADS, CASES, CONFIG, **MORE, resume=folder).history["step"].max() == 7


def test_how_a_run_is_done_may_change_on_the_way(begun):
    model, folder = begun
    config = replace(CONFIG, save_every=1, checkpoint_activations=True)
    assert pinpoint_tune(model, HEADS, CASES, config, **MORE, resume=folder).history["step"].max() == 7


def test_another_run_that_has_begun_in_the_folder_meanwhile_is_not_overwritten(load, tiny_folder, tmp_path):
    def begin(row) -> None:
        if not (tmp_path / FILE).exists():
            other = replace(CONFIG, lr=2e-2, steps=2)
            pinpoint_tune(load(tiny_folder), HEADS, CASES, other, **MORE, resume=tmp_path)

    model = load(tiny_folder)
    before = copies(model)
    with pytest.raises(ValueError, match=r"holds another run, by lr \(0.02 there, 0.01 here\), steps"):
        pinpoint_tune(model, HEADS, CASES, CONFIG, **MORE, resume=tmp_path, on_step=begin)
    assert same(copies(model), before)
    assert saving.load_tensors(tmp_path / FILE, "tuning run")[1]["rows"][-1]["step"] == 2


def test_what_is_no_run_is_refused_and_left_alone(tiny, tmp_path):
    def refused(folder: Path, said: str) -> None:
        with pytest.raises(ValueError, match=said):
            pinpoint_tune(tiny, HEADS, CASES, CONFIG, **MORE, resume=folder)

    mine = tmp_path / "thesis.txt"
    mine.write_text("mine")
    refused(mine, "is a file: name a folder")
    refused(tmp_path, "holds no tuning run, but thesis.txt")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"] and mine.read_text() == "mine"
    other = tmp_path / "other"
    other.mkdir()
    saving.save_tensors(other / FILE, "adapter", {"a": torch.zeros(2)}, {})
    refused(other, "no saved tuning run")
    (other / FILE).write_bytes(b"half of a fi")
    refused(other, "no saved tuning run, or is damaged")
    assert (other / FILE).read_bytes() == b"half of a fi"
    with pytest.raises(TypeError, match="resume"):
        pinpoint_tune(tiny, HEADS, CASES, CONFIG, **MORE, resume=3)


def test_a_state_of_other_tensors_moves_nothing(begun):
    model, folder = begun
    tensors, about = saving.load_tensors(folder / FILE, "tuning run")
    before = copies(model)
    for odd in ({"trained.0": torch.zeros(3)}, None):
        wrong = {**tensors, **odd} if odd else {name: t for name, t in tensors.items() if name != "trained.0"}
        saving.save_tensors(folder / FILE, "tuning run", wrong, about)
        with pytest.raises(ValueError, match="damaged"):
            pinpoint_tune(model, HEADS, CASES, CONFIG, **MORE, resume=folder)
        assert same(copies(model), before)


def test_a_state_holds_no_more_than_it_must(begun):
    _, folder = begun
    tensors, _ = saving.load_tensors(folder / FILE, "tuning run")
    weights = sum(value.numel() for name, value in tensors.items() if name.startswith("trained."))
    steps = 8  # AdamW counts them for each slice
    assert sum(value.numel() for value in tensors.values()) == 3 * weights + steps
