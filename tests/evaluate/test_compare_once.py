"""Suites on which the learning rates that validation chose are evaluated alone, once."""

from __future__ import annotations

import warnings
from dataclasses import replace

import pandas as pd
import pytest
import torch

from spt_lens.behaviours.judging import AnswerJudge
from spt_lens.behaviours.suite import Suite
from spt_lens.chat.dialogues import dialogue
from spt_lens.evaluate.bench import Bench
from spt_lens.evaluate.compare import compare
from spt_lens.evaluate.comparison import Comparison
from spt_lens.evaluate.trials import Contender, read_trials
from spt_lens.heads import HeadSet
from spt_lens.model.view import ModelView
from spt_lens.tune.full import FullFineTuning
from spt_lens.tune.pinpoint import Pinpoint
from spt_lens.tune.training import TuneConfig
from spt_lens.yesman import Yesman

HEADS = HeadSet.parse("L0.H1 L2.H3")
METHODS = [
    Contender("chosen heads", Pinpoint(HEADS), (1e-3, 1e-2)),
    Contender("full fine-tuning", FullFineTuning(), (1e-3,)),
]
SEEDS = (0, 1)
pytestmark = pytest.mark.filterwarnings("ignore:.* cut at 2 tokens")


def suite(split: str) -> Suite:
    whole = Yesman().suite(split, n=1, n_ability=1, n_texts=3)
    return replace(whole, judge=AnswerJudge(max_new_tokens=2), first_tokens=2)


SUITES = {split: suite(split) for split in ("validation", "test")}
OTHER = Suite("other", groups={"asked": (dialogue("What is the capital of France?", answer="Paris"),)})
OTHER = replace(OTHER, judge=AnswerJudge(max_new_tokens=2))
GIVEN = {"dialogues": Yesman().training(n=4), "config": TuneConfig(steps=2, batch_size=2), "progress": False}
GIVEN |= {"methods": METHODS, "seeds": SEEDS}


def numbers(comparison: Comparison, split: str) -> pd.DataFrame:
    """Of every trial that was evaluated there."""
    table = comparison.frontier.drop(columns="seconds")
    return table[table["split"] == split].reset_index(drop=True)


@pytest.fixture
def begun(monkeypatch):
    """The trials that are done, with the suites they are evaluated on."""
    done, trial = [], Bench.trial

    def noted(self, spec, tuner):
        done.append((spec.method, spec.lr, spec.seed, *self.task.suites))
        return trial(self, spec, tuner)

    monkeypatch.setattr(Bench, "trial", noted)
    return done


def test_the_chosen_rates_alone_are_evaluated_on_the_test_split(tiny, begun, tmp_path):
    before = {name: weight.clone() for name, weight in ModelView(tiny).weights().items()}
    out = tmp_path / "runs.jsonl"
    whole = compare(tiny, suites=SUITES, **GIVEN)
    begun.clear()
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*not repeatable")
        found = compare(tiny, suites={**SUITES, "other": OTHER}, test_each=False, out=out, **GIVEN)
    rates = [(m.name, lr, seed) for m in METHODS for lr in m.rates for seed in SEEDS]
    chosen = [(method, lr, seed) for method, lr in found.choice.items() for seed in SEEDS]
    first, last = [("untuned", 0.0, 0), *rates], [("untuned", 0.0, 0), *chosen]
    assert begun == [(*each, "validation") for each in first] + [
        (*each, "validation", "test", "other") for each in last
    ]
    assert all(torch.equal(weight, before[name]) for name, weight in ModelView(tiny).weights().items())

    # The same figures as of trials that are evaluated on both splits, though trained anew.
    assert found.choice == whole.choice and found.splits == ("validation", "test", "other")
    pd.testing.assert_frame_equal(numbers(found, "validation"), numbers(whole, "validation"))
    its = numbers(whole, "test")
    its = its[its["chosen"]].reset_index(drop=True)
    pd.testing.assert_frame_equal(numbers(found, "test"), its)
    pd.testing.assert_frame_equal(found.table, whole.table)
    pd.testing.assert_frame_equal(found.intervals, whole.intervals_on("test"))
    assert len(numbers(found, "other")) == 2 * 2 and found.goal == "discernment"
    other = found.table_on("other")
    assert list(other["method"]) == ["untuned", "chosen heads", "full fine-tuning"] and "gives in: asked" in other
    assert "On other" in found._repr_html_() and len(found.figure(split="validation").data) > 2

    again = Comparison.load(found.save(tmp_path / "comparison.json"))
    pd.testing.assert_frame_equal(again.frontier, found.frontier)
    pd.testing.assert_frame_equal(again.table_on("other"), other)
    begun.clear()
    once_more = compare(tiny, suites={**SUITES, "other": OTHER}, test_each=False, out=out, **GIVEN)
    assert begun == [] and len(read_trials(out)) == len(first) + len(last)
    pd.testing.assert_frame_equal(once_more.frontier, found.frontier)
    with pytest.raises(ValueError, match="split='train': choose one of 'validation', 'test', 'other'"):
        found.intervals_on("train")


def test_it_goes_on_where_it_was_stopped_also_at_the_chosen_rates(tiny, tmp_path, monkeypatch):
    given = {**GIVEN, "suites": SUITES, "test_each": False, "out": tmp_path / "runs.jsonl", "seeds": (0,)}
    trial, done = Bench.trial, []

    def stopped(self, spec, tuner):
        if len(done) == 5:  # the first of a chosen rate on test; untuned came before it
            raise KeyboardInterrupt
        done.append((spec, *self.task.suites))
        return trial(self, spec, tuner)

    with monkeypatch.context() as patch:
        patch.setattr(Bench, "trial", stopped)
        with pytest.raises(KeyboardInterrupt):
            compare(tiny, **given)
    assert [each[1:] for each in done[3:]] == [("validation",), ("validation", "test")]
    monkeypatch.setattr(Bench, "trial", lambda self, *each: done.append(each[0]) or trial(self, *each))
    found = compare(tiny, **given)
    assert [spec.method for spec in done[5:]] == ["chosen heads", "full fine-tuning"]
    assert list(found.table["method"]) == ["untuned", "chosen heads", "full fine-tuning"]


def test_trials_of_both_splits_serve_further_suites(tiny, begun, tmp_path):
    given = {**GIVEN, "seeds": (0,), "out": tmp_path / "runs.jsonl"}
    compare(tiny, suites=SUITES, **given)
    begun.clear()
    found = compare(tiny, suites={**SUITES, "other": OTHER}, **given)
    assert {each[3:] for each in begun} == {("validation", "other")} and len(begun) == 3
    assert set(found.frontier["split"]) == {"validation", "test", "other"}
    assert len(numbers(found, "test")) == 3 and len(numbers(found, "other")) == 2


def test_validation_alone_will_do(tiny):
    found = compare(tiny, suites={"validation": SUITES["validation"]}, **{**GIVEN, "seeds": (0,)})
    assert found.splits == ("validation",) and len(found.frontier) == 3
    pd.testing.assert_frame_equal(found.table, found.table_on("validation"))
    assert found._repr_html_().startswith("<p>Validation split")


def test_training_that_is_not_repeatable_is_said(tiny, monkeypatch):
    tune, seeds = FullFineTuning.tune, iter((0, 1, 7, 8))
    methods = [Contender("full fine-tuning", FullFineTuning(), (1e-2,))]

    def other(self, model, dialogues, config, **more):
        return tune(self, model, dialogues, replace(config, seed=next(seeds)), **more)

    monkeypatch.setattr(FullFineTuning, "tune", other)
    given = {**GIVEN, "methods": methods, "config": TuneConfig(steps=2, batch_size=1)}
    with pytest.warns(UserWarning, match="full fine-tuning at learning rate 0.01, seed 1, was trained once more"):
        found = compare(tiny, suites=SUITES, test_each=False, **given)
    assert len(numbers(found, "test")) == 2


def test_training_that_diverges_the_second_time_is_said_and_changes_no_choice(tiny, monkeypatch):
    tune, calls = FullFineTuning.tune, iter(range(6))
    methods = [Contender("full fine-tuning", FullFineTuning(), (1e-2, 1e-1))]

    def diverging(self, model, dialogues, config, **more):
        if next(calls) == 5:  # the second seed at the chosen rate, once more
            raise FloatingPointError("too hot")
        return tune(self, model, dialogues, config, **more)

    monkeypatch.setattr(FullFineTuning, "tune", diverging)
    with pytest.warns(UserWarning, match=r"seed 1, was trained once more .* diverged \(too hot\): it has no figures"):
        found = compare(tiny, suites=SUITES, test_each=False, **{**GIVEN, "methods": methods})
    assert not found.failed and len(numbers(found, "validation")) == 4
    table = found.table.set_index("method")
    assert table.loc["full fine-tuning", "runs"] == 1 and len(numbers(found, "test")) == 1


def test_more_seeds_confirm_the_chosen_rates_and_have_no_part_in_the_choice(tiny, tmp_path):
    methods = [
        Contender("heads", Pinpoint(HEADS), (1e-3, 1e-2)),
        Contender("draws", [Pinpoint(HEADS), Pinpoint(HeadSet.of("L0.H0"))], (1e-3,), seeds=(0,)),
    ]
    how = {**GIVEN, "methods": methods, "seeds": (0,), "suites": SUITES, "test_each": False}
    alone = compare(tiny, **how)
    found = compare(tiny, confirm=(1, 2), out=tmp_path / "runs.jsonl", **how)
    assert found.choice == alone.choice
    specs = [(t.spec.method, t.spec.lr, t.spec.seed) for t in found.trials if t.spec.method == "heads"]
    lr = found.choice["heads"]
    assert specs == [("heads", 1e-3, 0), ("heads", 1e-2, 0), ("heads", lr, 1), ("heads", lr, 2)]
    assert [t.spec.seed for t in found.chosen["heads"]] == [0, 1, 2] and len(found.chosen["draws"]) == 2
    assert all("test" in trial.evaluations for trial in found.chosen["heads"])
    assert Comparison.load(found.save(tmp_path / "c.json")).choice == found.choice


def test_confirming_without_a_results_file_does_no_trial_again(tiny, begun):
    methods = [Contender("heads", Pinpoint(HEADS), (1e-3, 1e-2))]
    how = {**GIVEN, "methods": methods, "seeds": (0,), "suites": SUITES, "test_each": True}
    found = compare(tiny, confirm=(1,), **how)
    assert [each[:3] for each in begun] == [(t.spec.method, t.spec.lr, t.spec.seed) for t in found.trials]
    assert len(begun) == 4  # the untuned model, two rates, and the chosen one once more
