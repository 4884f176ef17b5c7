"""Ending on validation, being told each step, and a run that can be watched."""

from __future__ import annotations

import pytest
import torch

from spt_lens.heads import HeadSet
from spt_lens.model.targets import logits_of
from spt_lens.model.view import ModelView
from spt_lens.tune import training
from spt_lens.tune.config import TuneConfig
from spt_lens.tune.full import full_finetune
from spt_lens.tune.lora import lora_tune
from spt_lens.tune.pinpoint import pinpoint_tune
from spt_lens.tune.run import best_validation
from spt_lens.tune.training import fit
from spt_lens.yesman import Yesman

HEADS = HeadSet.parse("L0.H1 L2.H3")
CASES = Yesman().cases("train", n=12)
CONFIG = TuneConfig(lr=1e-2, steps=20, batch_size=4, validate_every=1, patience=3, save_every=2)
LOSSES = [9.0, 8.0, 7.0, 7.5, 6.0, 6.0, 6.5, 7.0, 1.0]  # of steps 0, 1, ...: the best is that of step 4


def copies(model) -> list[torch.Tensor]:
    return [p.detach().clone() for p in ModelView(model).weights().values()]


def validations(monkeypatch, losses=LOSSES) -> None:
    coming = iter(losses)
    monkeypatch.setattr(training, "validate", lambda *args: {"validation_loss": next(coming)})


def test_the_best_validation_is_the_first_of_the_lowest():
    rows = [{"step": i, "validation_loss": loss} for i, loss in enumerate(LOSSES[:8])]
    assert best_validation(rows) == (4, 3)
    assert best_validation([*rows, {"step": 8}, {"step": 9, "validation_loss": float("nan")}]) == (4, 3)
    assert best_validation(rows[:1]) == (0, 0)


@pytest.mark.parametrize("tune", [pinpoint_tune, full_finetune, lora_tune])
def test_patience_ends_a_run_and_leaves_the_best_weights(load, tiny_folder, monkeypatch, tune):
    heads = (HEADS,) if tune is pinpoint_tune else ()

    def run(config: TuneConfig, **options):
        model = load(tiny_folder)
        tuned = tune(model, *heads, CASES, config, validation=CASES[:4], progress=False, **options)
        return tuned, copies(model)

    validations(monkeypatch)
    tuned, found = run(CONFIG)
    assert tuned.history["step"].tolist() == list(range(8))
    assert tuned.stopped and tuned.best_step == 4 and not tuned.interrupted
    assert tuned.adapter.meta["config"] == CONFIG.deciding()
    said = "the weights of step 4, which had the lowest validation loss: the run was stopped early, at step 7"
    assert said in tuned.summary() and "7 of 20 steps" in tuned.summary()
    # The schedule is that of all steps, so a run that is interrupted there has the same weights.
    validations(monkeypatch, [1.0] * 9)
    there, expected = run(
        TuneConfig(lr=1e-2, steps=20, batch_size=4, validate_every=1), on_step=lambda r: r["step"] == 4
    )
    assert there.interrupted and all(map(torch.equal, found, expected))


def test_a_run_that_ends_by_itself_leaves_the_best_weights_too(tiny, monkeypatch):
    before = copies(tiny)
    validations(monkeypatch, [1.0, 2.0, 3.0])
    tuned = pinpoint_tune(
        tiny, HEADS, CASES, TuneConfig(lr=1e-2, steps=2, validate_every=1, patience=3), CASES[:4], progress=False
    )
    assert not tuned.stopped and tuned.best_step == 0 and "stopped" not in tuned.summary()
    assert all(map(torch.equal, before, copies(tiny)))


def test_patience_lasts_over_a_resume(load, tiny_folder, tmp_path, monkeypatch):
    def run(**options):
        model = load(tiny_folder)
        return pinpoint_tune(model, HEADS, CASES, CONFIG, CASES[:4], progress=False, **options), copies(model)

    validations(monkeypatch)
    whole, weights = run()
    for first in (2, 5, 6):  # before the best one, and after it
        folder = tmp_path / str(first)
        validations(monkeypatch)
        run(resume=folder, on_step=lambda row, first=first: row["step"] == first)
        validations(monkeypatch, LOSSES[first + 1 :])
        tuned, found = run(resume=folder)
        assert tuned.stopped and tuned.best_step == 4 and tuned.history.equals(whole.history)
        assert all(map(torch.equal, found, weights))
        validations(monkeypatch, [])
        tuned, found = run(resume=folder)
        assert tuned.stopped and tuned.best_step == 4 and all(map(torch.equal, found, weights))


def test_an_interrupted_run_has_the_last_weights(load, tiny_folder, monkeypatch):
    def run(patience: int | None) -> list[torch.Tensor]:
        validations(monkeypatch, [1.0, 2.0, 3.0])
        model = load(tiny_folder)
        config = TuneConfig(lr=1e-2, steps=9, validate_every=1, patience=patience)
        tuned = pinpoint_tune(
            model, HEADS, CASES, config, CASES[:4], progress=False, on_step=lambda row: row["step"] == 2
        )
        assert tuned.interrupted and tuned.best_step is None and not tuned.stopped
        return copies(model)

    assert all(map(torch.equal, run(9), run(None)))


def test_patience_needs_validation(tiny):
    with pytest.raises(ValueError, match="patience needs `validation`"):
        pinpoint_tune(tiny, HEADS, CASES, CONFIG, progress=False)


def table() -> torch.nn.Parameter:
    return torch.nn.Parameter(torch.zeros(12, 12))


EXAMPLES = [([a, a + 1, a + 2], [False, True, True]) for a in range(1, 9)]


def test_each_row_is_told_once_it_is_measured():
    weight, told = table(), []
    config = TuneConfig(lr=0.1, steps=4, validate_every=2)
    on_step = {"validation": EXAMPLES, "progress": False, "on_step": told.append}
    history = fit(logits_of(lambda t: weight[t]), [weight], EXAMPLES, config, **on_step)
    assert told == history and [row["step"] for row in told] == [0, 1, 2, 3, 4]
    assert "validation_loss" in told[2] and "validation_loss" not in told[1]
    told[1].clear()  # a callback's own copy
    assert history[1]["loss"] > 0


@pytest.mark.parametrize("answer, steps", [(True, 2), (1, 5), ("yes", 5), (None, 5)])
def test_true_and_nothing_else_ends_the_run(tiny, answer, steps):
    config = TuneConfig(steps=5, batch_size=2)
    on_step = {"on_step": lambda row: answer if row["step"] == 2 else None, "progress": False}
    tuned = pinpoint_tune(tiny, HEADS, CASES, config, **on_step)
    assert tuned.interrupted == (steps == 2) and tuned.history["step"].max() == steps


def test_an_error_of_the_callback_puts_the_model_back(tiny):
    before = copies(tiny)

    def fail(row) -> None:
        raise ConnectionError("no logger")

    with pytest.raises(ConnectionError, match="no logger"):
        pinpoint_tune(tiny, HEADS, CASES, CONFIG, CASES[:2], progress=False, on_step=fail)
    assert all(map(torch.equal, before, copies(tiny)))


def test_a_callback_that_cannot_be_called_is_refused_at_once(tiny):
    with pytest.raises(TypeError, match="on_step"):
        pinpoint_tune(tiny, HEADS, CASES, CONFIG, CASES[:2], progress=False, on_step=3)


def test_a_run_is_watched_from_its_first_step_to_its_last(monkeypatch):
    seen = []

    class Curve:
        def show(self, rows, at_once=False):
            seen.append((len(rows), at_once))

    monkeypatch.setattr("spt_lens.view.live.LiveCurve", Curve)
    weight = table()
    fit(logits_of(lambda t: weight[t]), [weight], EXAMPLES, TuneConfig(steps=25))
    assert seen == [*((i, False) for i in range(1, 26)), (25, True)]
    seen.clear()
    fit(logits_of(lambda t: weight[t]), [weight], EXAMPLES, TuneConfig(steps=5))
    fit(logits_of(lambda t: weight[t]), [weight], EXAMPLES, TuneConfig(steps=25), progress=False)
    assert not seen
