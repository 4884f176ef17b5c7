from __future__ import annotations

import json
import math

import pandas as pd
import pytest
import torch

from spt_lens.evaluate import runs as runs_module
from spt_lens.evaluate import sycophancy as sycophancy_module
from spt_lens.evaluate.compare import default_methods, frontier
from spt_lens.evaluate.comparison import Comparison
from spt_lens.evaluate.evaluate import Evaluation
from spt_lens.evaluate.runs import Method, Run, Spec, read_runs, specs, write_run
from spt_lens.heads import HeadSet
from spt_lens.model.view import ModelView
from spt_lens.statistics import Estimate
from spt_lens.tune.training import TuneConfig
from spt_lens.yesman import Yesman

HEADS = HeadSet.parse("L0.H1 L2.H3")
METHODS = [Method("chosen heads", "heads", (1e-2,), (HEADS,)), Method("full fine-tuning", "full", (1e-3,))]


@pytest.fixture(scope="module")
def small():
    suites = {s: Yesman().suite(s, n=1, n_ability=1, n_texts=3) for s in ("validation", "test")}
    config = TuneConfig(steps=2, batch_size=2)
    return {"dialogues": Yesman().training(n=4), "config": config, "suites": suites, "progress": False}


@pytest.fixture
def short(monkeypatch):
    """Random models never end a reply, and what they say does not matter here."""
    monkeypatch.setattr(sycophancy_module, "MAX_FIRST", 2)
    monkeypatch.setattr(sycophancy_module, "MAX_SECOND", 2)


def made(discernment: float, kl: float, ability: float, seed: int = 0) -> dict[str, Evaluation]:
    def exactly(value: float) -> Estimate:
        return Estimate(value, value - 0.01, value + 0.01, 100)

    estimates = {"discernment": exactly(discernment), "ability": exactly(ability), "kl": exactly(kl)}
    estimates |= {"ability: sums": exactly(ability - 0.1), "ability: copying": exactly(ability + 0.1)}
    return {split: Evaluation("model", split, estimates) for split in ("validation", "test")}


def run(
    method: str, lr: float, discernment: float, kl: float, ability: float = 0.9, draw: int = 0, seed: int = 0
) -> Run:
    return Run(Spec(method, "heads", lr, seed, draw, "L0.H0"), 10, 1.0, made(discernment, kl, ability))


UNTUNED = Run(Spec("untuned", "untuned"), 0, 0.0, made(0.5, 0.0, 0.9))


def test_the_choice_follows_the_rule():
    found = Comparison(
        (
            UNTUNED,
            run("ability", 1e-3, 0.7, 0.001),
            run("ability", 1e-2, 0.9, 0.01, ability=0.87),  # best, but loses more than .02
            run("drift", 1e-3, 0.895, 0.001),  # within .01 of the best, and gentler
            run("drift", 1e-2, 0.9, 0.01),
            run("seeds", 1e-3, 0.8, 0.001, seed=0),
            run("seeds", 1e-3, 0.8, 0.001, seed=1),
            run("seeds", 1e-2, 0.95, 0.01, seed=0),
            run("seeds", 1e-2, 0.5, 0.01, seed=1),  # a lucky seed does not win
            run("hopeless", 1e-3, 0.9, 0.1, ability=0.8),
            run("hopeless", 1e-2, 0.9, 0.1, ability=0.5),
        )
    )
    assert found.choice == {"ability": 1e-3, "drift": 1e-3, "seeds": 1e-3, "hopeless": 1e-3}
    table = found.frontier
    assert len(table) == 20 and set(table.loc[table["chosen"], "lr"]) == {1e-3}
    assert table.loc[table["method"] == "hopeless", "worst_ability_loss"].max() == pytest.approx(0.4)


def test_a_model_that_lost_its_right_answers_is_chosen_last():
    lost = [run(name, 1e-2, math.nan, 0.0) for name in "ab"]
    found = Comparison((UNTUNED, run("a", 1e-3, 0.6, 0.1), *lost))
    assert found.choice == {"a": 1e-3, "b": 1e-2}


def test_a_learning_rate_is_not_judged_by_the_seeds_that_survive():
    def pair(name: str, other: Run) -> tuple[Run, ...]:
        return run(name, 1e-3, 0.6, 0.1), run(name, 1e-2, 0.9, 0.1), other

    lost = pair("lost", run("lost", 1e-2, math.nan, math.nan, seed=1))
    diverged = pair("diverged", Run(Spec("diverged", "heads", 1e-2, 1, 0, "L0.H0"), 0, 0.0, {}, "loss nan"))
    assert Comparison((UNTUNED, *lost, *diverged)).choice == {"lost": 1e-3, "diverged": 1e-3}
    shown = Comparison((UNTUNED, lost[1], lost[2])).intervals.set_index(["method", "metric"])
    assert math.isnan(shown.loc[("lost", "discernment"), "value"])


def test_a_model_without_finite_predictions_is_no_crash():
    found = Comparison((UNTUNED, run("broken", 1e-2, math.nan, math.nan), run("rival", 1e-3, 0.9, 0.1)))
    assert found.choice == {"broken": 1e-2, "rival": 1e-3}
    gone = Comparison((UNTUNED, run("a", 1e-2, math.nan, 0.001), run("rival", 1e-3, 0.9, 0.1)))
    assert math.isnan(gone.within_drift("a", "rival").loc[0, "ours"])


def test_when_every_run_diverged_the_figure_says_so():
    found = Comparison((UNTUNED, Run(Spec("a", "full", 1.0), 0, 0.0, {}, "loss nan")))
    assert list(found.table["method"]) == ["untuned"]
    with pytest.raises(ValueError, match="1 of 1 runs diverged"):
        found.figure()


def test_a_median_lies_within_its_interval():
    draws = [run("draws", 1e-3, d, 0.001, draw=i) for i, d in enumerate((0.5, 0.5, 0.9, 0.9, 0.9))]
    row = Comparison((UNTUNED, *draws)).intervals.set_index(["method", "metric"]).loc[("draws", "discernment")]
    assert row["low"] <= row["value"] <= row["high"]


def test_two_names_for_the_same_heads_are_both_in_the_table(tiny, small, short):
    methods = [Method("one", "heads", (1e-2,), (HEADS,)), Method("other", "heads", (1e-2,), (HEADS,))]
    found = frontier(tiny, HEADS, methods=methods, seeds=(0, 0), **small)
    assert list(found.table["method"]) == ["untuned", "one", "other"] and len(found.runs) == 3


def test_the_choice_never_looks_at_the_test_split():
    runs = (UNTUNED, run("a", 1e-3, 0.9, 0.01), run("a", 1e-2, 0.8, 0.01))
    flipped = []
    for one, other in zip(runs, (runs[0], runs[2], runs[1]), strict=True):
        evaluations = {"validation": one.evaluations["validation"], "test": other.evaluations["test"]}
        flipped.append(Run(one.spec, one.parameters, one.seconds, evaluations))
    found = Comparison(tuple(flipped))
    assert found.choice == {"a": 1e-3}
    assert found.table.set_index("method").loc["a", "discernment"] == 0.8


def test_seeds_are_averaged_and_draws_give_the_median():
    found = Comparison(
        (
            UNTUNED,
            *(run("seeds", 1e-3, d, 0.001, seed=i) for i, d in enumerate((0.6, 0.6, 0.9))),
            *(run("draws", 1e-3, d, 0.001, draw=i) for i, d in enumerate((0.6, 0.6, 0.9))),
        ),
        {"parameters": 1000},
    )
    rows = found.intervals.set_index(["method", "metric"])
    assert rows.loc[("seeds", "discernment"), "value"] == pytest.approx(0.7)
    assert rows.loc[("draws", "discernment"), "value"] == pytest.approx(0.6)
    assert tuple(rows.loc[("draws", "discernment"), ["min", "max"]]) == (0.6, 0.9)
    assert list(found.table["method"]) == ["untuned", "seeds", "draws"]
    assert found.table["share"].tolist() == [0, 0.01, 0.01]


def test_within_drift_takes_the_best_affordable_point():
    found = Comparison(
        (
            UNTUNED,
            run("heads", 1e-3, 0.7, 0.001),
            run("heads", 3e-3, 0.85, 0.002),
            run("heads", 1e-2, 0.95, 0.02),
            run("full", 1e-4, 0.6, 0.002),
            run("full", 1e-3, 0.9, 0.008),
        )
    )
    table = found.within_drift("heads", "full", share=0.25).set_index("lr")
    assert math.isnan(table.loc[1e-4, "ours"])  # nothing of ours is as gentle as .0005
    assert table.loc[1e-3, "ours"] == 0.85 and table.loc[1e-3, "difference"] == pytest.approx(-0.05)
    with pytest.raises(ValueError, match="no runs of a method 'LoRA'"):
        found.within_drift("heads", "LoRA")


def test_a_comparison_puts_the_model_back_and_survives_json(tiny, small, short, tmp_path):
    before = {name: w.clone() for name, w in ModelView(tiny).weights().items()}
    methods = [*METHODS, Method("LoRA", "lora", (1e-3,), rank=2)]
    found = frontier(tiny, HEADS, methods=methods, seeds=(0,), **small)
    assert all(torch.equal(w, before[name]) for name, w in ModelView(tiny).weights().items())
    assert list(found.table["method"]) == ["untuned", "chosen heads", "full fine-tuning", "LoRA"]
    table = found.frontier
    assert len(table) == 6 and (table["kl"] > 0).all()
    assert dict(zip(table["method"], table["parameters"], strict=True)) == {
        "chosen heads": 2 * 4 * 8 * 32,
        "full fine-tuning": ModelView(tiny).n_params,
        "LoRA": 12 * 2 * 64,
    }
    assert found.untuned.evaluations["test"]["kl"].value == pytest.approx(0, abs=1e-6)
    again = Comparison.load(found.save(tmp_path / "comparison.json"))
    pd.testing.assert_frame_equal(again.frontier, found.frontier)
    pd.testing.assert_frame_equal(again.table, found.table)
    assert "chosen heads" in again._repr_html_()
    assert len(found.figure().data) >= 3


def test_an_interrupted_comparison_goes_on(tiny, small, short, tmp_path, monkeypatch):
    before = {name: w.clone() for name, w in ModelView(tiny).weights().items()}
    out = tmp_path / "runs.jsonl"
    settings = {"methods": METHODS, "seeds": (0,), "out": out, **small}

    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(runs_module, "full_finetune", interrupt)
        with pytest.raises(KeyboardInterrupt):
            frontier(tiny, HEADS, **settings)
    assert all(torch.equal(w, before[name]) for name, w in ModelView(tiny).weights().items())
    assert len(read_runs(out)) == 2  # untuned and chosen heads
    with out.open("a") as file:
        file.write('{"key": "cut o')  # as a power cut leaves it
    done = []
    with monkeypatch.context() as patch:
        original = runs_module.Bench.run
        patch.setattr(runs_module.Bench, "run", lambda self, spec: done.append(spec.kind) or original(self, spec))
        found = frontier(tiny, HEADS, **settings)
    assert done == ["full"] and len(found.runs) == 3 and len(read_runs(out)) == 3

    # Another number of steps is another experiment: nothing of the file is used.
    with monkeypatch.context() as patch:
        patch.setattr(runs_module.Bench, "run", interrupt)
        with pytest.raises(KeyboardInterrupt):
            frontier(tiny, HEADS, **{**settings, "config": TuneConfig(steps=3, batch_size=2)})


def test_worker_processes_find_the_same(tiny, small):
    here = frontier(tiny, HEADS, methods=METHODS[:1], seeds=(0,), **small)
    there = frontier(tiny, HEADS, methods=METHODS[:1], seeds=(0,), workers=2, **small)
    drop = ["seconds"]
    pd.testing.assert_frame_equal(here.frontier.drop(columns=drop), there.frontier.drop(columns=drop), rtol=1e-3)


def test_a_diverging_run_is_reported_not_fatal(tiny, small, short, monkeypatch):
    def diverge(*args, **kwargs):
        raise FloatingPointError("Step 1: loss nan")

    monkeypatch.setattr(runs_module, "full_finetune", diverge)
    found = frontier(tiny, HEADS, methods=METHODS, seeds=(0,), **small)
    assert [r.spec.method for r in found.failed] == ["full fine-tuning"]
    assert set(found.frontier["method"]) == {"chosen heads"}
    assert "1 runs diverged" in found._repr_html_()


def test_default_methods_and_specs(tiny):
    methods = default_methods(tiny, HEADS, n_random=3)
    assert [m.name for m in methods] == ["chosen heads", "full fine-tuning", "LoRA", "random heads"]
    assert len(methods[-1].heads) == 3
    assert all(set(draw.by_layer()) == {0, 2} and not draw & HEADS for draw in methods[-1].heads)
    found = specs(methods, seeds=(0, 1))
    chosen, full, lora, _ = (len(method.lrs) for method in methods)
    assert found[0].kind == "untuned" and len(set(found)) == len(found) == 1 + 2 * (chosen + full + lora) + 3 * chosen


def test_results_file(tmp_path):
    path = tmp_path / "runs.jsonl"
    write_run(path, "one", UNTUNED)
    write_run(path, "two", run("a", 1e-3, 0.9, 0.01))
    found = read_runs(path)
    assert list(found) == ["one", "two"] and found["two"].to_json() == run("a", 1e-3, 0.9, 0.01).to_json()
    path.write_text(json.dumps({"some": "thing"}) + "\n")
    with pytest.raises(ValueError, match="line 1 is not the result of a run"):
        read_runs(path)
    assert read_runs(tmp_path / "none.jsonl") == {}
    path.write_text('{"precious": "data"}')  # no line break: not to be taken for a line that was cut off
    with pytest.raises(ValueError, match="give another file"):
        read_runs(path)


def test_bad_input(tiny, small, tmp_path):
    with pytest.raises(ValueError, match="workers=0"):
        frontier(tiny, HEADS, workers=0, **small)
    with pytest.raises(ValueError, match="L9.H9"):
        frontier(tiny, HeadSet.parse("L9.H9"), **small)
    with pytest.raises(ValueError, match="no dialogues"):
        frontier(tiny, HEADS, **{**small, "dialogues": []})
    with pytest.raises(ValueError, match="suites must be"):
        frontier(tiny, HEADS, **{**small, "suites": {"test": Yesman().suite("test", n=2)}})
    with pytest.raises(OSError):
        frontier(tiny, HEADS, out=tmp_path / "missing" / "runs.jsonl", **small)
    with pytest.raises(ValueError, match="names of their own"):
        specs([METHODS[0], METHODS[0]], (0,))
    with pytest.raises(ValueError, match="no seeds"):
        specs(METHODS, ())
    with pytest.raises(ValueError, match="has none"):
        Method("mine", "heads", (1e-3,))
