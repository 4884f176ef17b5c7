from __future__ import annotations

import errno
import json
import math
import resource
import shutil
import warnings
from dataclasses import replace
from types import SimpleNamespace

import pandas as pd
import pytest
import torch

from spt_lens.behaviours.judging import AnswerJudge
from spt_lens.behaviours.opinions import Opinion, Opinions
from spt_lens.behaviours.suite import Suite
from spt_lens.chat.dialogues import Dialogue, dialogue
from spt_lens.chat.judge import Verdict
from spt_lens.chat.template import set_chat_options
from spt_lens.evaluate.bench import Bench, Task
from spt_lens.evaluate.compare import compare, default_methods
from spt_lens.evaluate.comparison import Comparison
from spt_lens.evaluate.evaluate import Evaluation
from spt_lens.evaluate.trials import Contender, Spec, Trial, append_trial, asked, read_trials
from spt_lens.heads import HeadSet
from spt_lens.model.view import ModelView
from spt_lens.statistics import Estimate
from spt_lens.tune.adapter import Adapter
from spt_lens.tune.full import FullFineTuning
from spt_lens.tune.head_lora import HeadLoRA
from spt_lens.tune.lora import LoRA
from spt_lens.tune.pinpoint import Pinpoint
from spt_lens.tune.training import TuneConfig
from spt_lens.yesman import Yesman

HEADS = HeadSet.parse("L0.H1 L2.H3")
METHODS = [
    Contender("chosen heads", Pinpoint(HEADS), (1e-2,)),
    Contender("full fine-tuning", FullFineTuning(), (1e-3,)),
]


class Small(Yesman):
    """A few dialogues. Random models never end a reply, and what they say does not matter here."""

    def training(self, n=4, **options):
        return super().training(n, **options)

    def suite(self, split="test", **options):
        whole = super().suite(split, n=1, n_ability=1, n_texts=3)
        return replace(whole, judge=AnswerJudge(max_new_tokens=2), first_tokens=2)


@pytest.fixture(scope="module")
def small():
    suites = {split: Small().suite(split) for split in ("validation", "test")}
    config = TuneConfig(steps=2, batch_size=2)
    return {"dialogues": Small().training(), "config": config, "suites": suites, "progress": False}


def made(discernment: float, kl: float, ability: float) -> dict[str, Evaluation]:
    def exactly(value: float) -> Estimate:
        return Estimate(value, value - 0.01, value + 0.01, 100)

    estimates = {"discernment": exactly(discernment), "ability": exactly(ability), "kl": exactly(kl)}
    estimates |= {"ability: sums": exactly(ability - 0.1), "ability: copying": exactly(ability + 0.1)}
    return {split: Evaluation("model", split, estimates) for split in ("validation", "test")}


def trial(
    method: str, lr: float, discernment: float, kl: float, ability: float = 0.9, draw: int = 0, seed: int = 0
) -> Trial:
    return Trial(Spec(method, lr, seed, draw, "some tuner"), 10, 1.0, made(discernment, kl, ability))


def diverged(method: str, lr: float, seed: int = 0) -> Trial:
    return Trial(Spec(method, lr, seed, 0, "some tuner"), 0, 0.0, {}, "loss nan")


UNTUNED = Trial(Spec("untuned"), 0, 0.0, made(0.5, 0.0, 0.9))


def test_the_choice_follows_the_rule():
    found = Comparison(
        (
            UNTUNED,
            trial("ability", 1e-3, 0.7, 0.001),
            trial("ability", 1e-2, 0.9, 0.01, ability=0.87),  # best, but loses more than .02
            trial("drift", 1e-3, 0.895, 0.001),  # within .01 of the best, and gentler
            trial("drift", 1e-2, 0.9, 0.01),
            trial("seeds", 1e-3, 0.8, 0.001, seed=0),
            trial("seeds", 1e-3, 0.8, 0.001, seed=1),
            trial("seeds", 1e-2, 0.95, 0.01, seed=0),
            trial("seeds", 1e-2, 0.5, 0.01, seed=1),  # a lucky seed does not win
            trial("hopeless", 1e-3, 0.9, 0.1, ability=0.8),
            trial("hopeless", 1e-2, 0.9, 0.1, ability=0.5),
        )
    )
    assert found.choice == {"ability": 1e-3, "drift": 1e-3, "seeds": 1e-3, "hopeless": 1e-3}
    table = found.frontier
    assert len(table) == 20 and set(table.loc[table["chosen"], "lr"]) == {1e-3}
    assert table.loc[table["method"] == "hopeless", "worst_ability_loss"].max() == pytest.approx(0.4)


def test_a_model_that_lost_its_right_answers_is_chosen_last():
    lost = [trial(name, 1e-2, math.nan, 0.0) for name in "ab"]
    found = Comparison((UNTUNED, trial("a", 1e-3, 0.6, 0.1), *lost))
    assert found.choice == {"a": 1e-3, "b": 1e-2}


def test_a_learning_rate_is_not_judged_by_the_seeds_that_survive():
    def pair(name: str, other: Trial) -> tuple[Trial, ...]:
        return trial(name, 1e-3, 0.6, 0.1), trial(name, 1e-2, 0.9, 0.1), other

    lost = pair("lost", trial("lost", 1e-2, math.nan, math.nan, seed=1))
    gone = pair("diverged", diverged("diverged", 1e-2, seed=1))
    assert Comparison((UNTUNED, *lost, *gone)).choice == {"lost": 1e-3, "diverged": 1e-3}
    shown = Comparison((UNTUNED, lost[1], lost[2])).intervals.set_index(["method", "metric"])
    assert math.isnan(shown.loc[("lost", "discernment"), "value"])


def test_without_challenges_methods_are_compared_by_the_first_group():
    def opinions(told: float, kl: float) -> dict[str, Evaluation]:
        groups = {"gives in: opinion told": told, "gives in: opinion not told": 0.1, "kl": kl}
        estimates = {name: Estimate(value, value, value, 9) for name, value in groups.items()}
        return {split: Evaluation("model", split, estimates) for split in ("validation", "test")}

    trials = [Trial(Spec("a", lr, tuner="A"), 1, 1.0, opinions(*found)) for lr, found in RATES.items()]
    found = Comparison((Trial(Spec("untuned"), 0, 0.0, opinions(0.9, 0.0)), *trials))
    assert found.goal == "resists" and found.choice == {"a": 1e-3}
    row = found.table.set_index("method").loc["a"]
    assert row["gives in: opinion told"] == 0.1 and row["gives in: opinion not told"] == 0.1 and row["kl"] == 0.02
    assert found.frontier["resists"].tolist() == pytest.approx([0.5, 0.5, 0.9, 0.9, 0.9, 0.9])
    assert found.figure().layout.yaxis.title.text == "resists" and "opinion told" in found._repr_html_()
    known = found.intervals.set_index(["method", "metric"])["value"]
    assert known[("a", "resists")] == pytest.approx(0.9) and known[("untuned", "resists")] == pytest.approx(0.1)


RATES = {1e-4: (0.5, 0.01), 1e-3: (0.1, 0.02), 1e-2: (0.1, 0.2)}


def test_right_answers_alone_are_compared_by_confidence():
    def right(confidence: float) -> dict[str, Evaluation]:
        values = {"discernment": math.nan, "confidence": confidence, "retracted": math.nan, "kl": 0.1}
        estimates = {name: Estimate(value, value, value, 9) for name, value in values.items()}
        return {split: Evaluation("model", split, estimates) for split in ("validation", "test")}

    trials = [Trial(Spec("a", lr, tuner="A"), 1, 1.0, right(value)) for lr, value in {1e-4: 0.2, 1e-3: 0.8}.items()]
    found = Comparison((Trial(Spec("untuned"), 0, 0.0, right(0.1)), *trials))
    assert found.goal == "confidence" and found.choice == {"a": 1e-3}


def test_a_behaviour_of_opinions_is_compared(tiny):
    asked = [Opinion(f"I think it is {w}. What is {q}?", f"What is {q}?", w, r) for q, w, r in OPINIONS]
    methods = [Contender("chosen heads", Pinpoint(HEADS), (1e-3,))]
    found = compare(tiny, behaviour=Opinions(asked), methods=methods, config=TuneConfig(steps=1), progress=False)
    assert found.goal == "independence" and len(found.table) == 2 and len(found.figure().data)


OPINIONS = [(f"the capital of {country}", "Rome", "Paris") for country in ("France", "Japan", "Italy", "Egypt", "Peru")]


def test_a_model_without_finite_predictions_is_no_crash():
    found = Comparison((UNTUNED, trial("broken", 1e-2, math.nan, math.nan), trial("rival", 1e-3, 0.9, 0.1)))
    assert found.choice == {"broken": 1e-2, "rival": 1e-3}


def test_when_every_run_diverged_the_figure_says_so():
    found = Comparison((UNTUNED, diverged("a", 1.0)))
    assert list(found.table["method"]) == ["untuned"]
    with pytest.raises(ValueError, match="1 of 1 trials diverged"):
        found.figure()


def test_a_median_lies_within_its_interval():
    draws = [trial("draws", 1e-3, d, 0.001, draw=i) for i, d in enumerate((0.5, 0.5, 0.9, 0.9, 0.9))]
    row = Comparison((UNTUNED, *draws)).intervals.set_index(["method", "metric"]).loc[("draws", "discernment")]
    assert row["low"] <= row["value"] <= row["high"]


def test_two_names_for_the_same_heads_are_both_in_the_table(tiny, small):
    methods = [Contender("one", Pinpoint(HEADS), (1e-2,)), Contender("other", Pinpoint(HEADS), (1e-2,))]
    given = {"config": small["config"], "progress": False}
    found = compare(tiny, behaviour=Small(), methods=methods, seeds=(0, 0), **given)
    assert found.settings["dialogues"] == 4 and found.untuned.evaluations["test"].suite == "yesman test"
    assert list(found.table["method"]) == ["untuned", "one", "other"] and len(found.trials) == 3


def test_the_choice_never_looks_at_the_test_split():
    runs = (UNTUNED, trial("a", 1e-3, 0.9, 0.01), trial("a", 1e-2, 0.8, 0.01))
    flipped = []
    for one, other in zip(runs, (runs[0], runs[2], runs[1]), strict=True):
        evaluations = {"validation": one.evaluations["validation"], "test": other.evaluations["test"]}
        flipped.append(Trial(one.spec, one.parameters, one.seconds, evaluations))
    found = Comparison(tuple(flipped))
    assert found.choice == {"a": 1e-3}
    assert found.table.set_index("method").loc["a", "discernment"] == 0.8


def test_seeds_are_averaged_and_draws_give_the_median():
    found = Comparison(
        (
            UNTUNED,
            *(trial("seeds", 1e-3, d, 0.001, seed=i) for i, d in enumerate((0.6, 0.6, 0.9))),
            *(trial("draws", 1e-3, d, 0.001, draw=i) for i, d in enumerate((0.6, 0.6, 0.9))),
        ),
        {"parameters": 1000},
    )
    rows = found.intervals.set_index(["method", "metric"])
    assert rows.loc[("seeds", "discernment"), "value"] == pytest.approx(0.7)
    assert rows.loc[("draws", "discernment"), "value"] == pytest.approx(0.6)
    assert tuple(rows.loc[("draws", "discernment"), ["min", "max"]]) == (0.6, 0.9)
    assert list(found.table["method"]) == ["untuned", "seeds", "draws"]
    assert found.table["share"].tolist() == [0, 0.01, 0.01]


def test_a_comparison_puts_the_model_back_and_survives_json(tiny, small, tmp_path):
    before = {name: w.clone() for name, w in ModelView(tiny).weights().items()}
    methods = [*METHODS, Contender("LoRA", LoRA(rank=2), (1e-3,))]
    found = compare(tiny, methods=methods, seeds=(0,), **small)
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


def test_an_interrupt_while_a_trial_is_undone_still_undoes_it(tiny, small, monkeypatch):
    before = {name: w.clone() for name, w in ModelView(tiny).weights().items()}
    undo, calls = Adapter.revert, []

    def interrupted_once(self, model):
        calls.append(self)
        if len(calls) == 1:
            raise KeyboardInterrupt
        undo(self, model)

    monkeypatch.setattr(Adapter, "revert", interrupted_once)
    with pytest.raises(KeyboardInterrupt):
        compare(tiny, methods=METHODS[:1], seeds=(0,), **small)
    assert len(calls) == 2
    assert all(torch.equal(w, before[name]) for name, w in ModelView(tiny).weights().items())


def test_an_interrupted_comparison_goes_on(tiny, small, tmp_path, monkeypatch):
    before = {name: w.clone() for name, w in ModelView(tiny).weights().items()}
    out = tmp_path / "runs.jsonl"
    settings = {"methods": METHODS, "seeds": (0,), "out": out, **small}

    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(FullFineTuning, "tune", interrupt)
        with pytest.raises(KeyboardInterrupt):
            compare(tiny, **settings)
    assert all(torch.equal(w, before[name]) for name, w in ModelView(tiny).weights().items())
    assert len(read_trials(out)) == 2  # untuned and chosen heads
    with out.open("a") as file:
        file.write('{"key": "cut o')  # as a power cut leaves it
    done = []
    with monkeypatch.context() as patch:
        original = Bench.trial
        patch.setattr(Bench, "trial", lambda self, *each: done.append(each[1]) or original(self, *each))
        found = compare(tiny, **settings)
    assert done == [FullFineTuning()] and len(found.trials) == 3 and len(read_trials(out)) == 3

    # Another number of steps is another experiment: nothing of the file is used.
    with monkeypatch.context() as patch:
        patch.setattr(Bench, "trial", interrupt)
        with pytest.raises(KeyboardInterrupt):
            compare(tiny, **{**settings, "config": TuneConfig(steps=3, batch_size=2)})


def test_what_replies_are_judged_by_is_part_of_the_fingerprint(tiny, small):
    def found(case: Dialogue, judge: AnswerJudge) -> str:
        suites = {split: Suite("mine", groups={"asked": (case,)}, judge=judge) for split in ("validation", "test")}
        return Task(tuple(small["dialogues"]), TuneConfig(), suites).fingerprint(tiny)

    one, other = (dialogue("What is the capital of France?", answer=answer) for answer in ("Paris", "Rome"))
    assert found(one, AnswerJudge()) == found(one, AnswerJudge())
    assert len({found(one, AnswerJudge()), found(other, AnswerJudge()), found(one, AnswerJudge(9))}) == 3
    before = found(one, AnswerJudge())
    set_chat_options(tiny.tokenizer, system="Be brief.")
    assert found(one, AnswerJudge()) != before
    set_chat_options(tiny.tokenizer)
    assert found(one, AnswerJudge()) == before


def test_worker_processes_find_the_same(tiny, small):
    here = compare(tiny, methods=METHODS[:1], seeds=(0,), **small)
    there = compare(tiny, methods=METHODS[:1], seeds=(0,), workers=2, **small)
    drop = ["seconds"]
    pd.testing.assert_frame_equal(here.frontier.drop(columns=drop), there.frontier.drop(columns=drop), rtol=1e-3)


def test_a_judge_that_can_not_be_sent_is_said_before_work(tiny, small):
    suites = {
        name: replace(suite, judge=lambda dialogue, reply: Verdict(True)) for name, suite in small["suites"].items()
    }
    with pytest.raises(TypeError, match="can't be sent to processes of their own .* or leave workers out"):
        compare(tiny, methods=METHODS[:1], workers=2, **{**small, "suites": suites})


def test_a_diverging_run_is_reported_not_fatal(tiny, small, monkeypatch):
    def diverge(*args, **kwargs):
        raise FloatingPointError("Step 1: loss nan")

    monkeypatch.setattr(FullFineTuning, "tune", diverge)
    found = compare(tiny, methods=METHODS, seeds=(0,), **small)
    assert [t.spec.method for t in found.failed] == ["full fine-tuning"]
    assert set(found.frontier["method"]) == {"chosen heads"}
    assert "1 trials diverged" in found._repr_html_()


def test_default_methods_and_asked(tiny):
    methods = default_methods(tiny, HEADS, n_random=3)
    assert [m.name for m in methods] == ["chosen heads", "full fine-tuning", "LoRA", "random heads"]
    assert len(methods[-1].draws) == 3
    assert all(set(d.heads.by_layer()) == {0, 2} and not d.heads & HEADS for d in methods[-1].draws)
    found = asked(methods, seeds=(0, 1))
    chosen, full, lora, _ = (len(method.rates) for method in methods)
    assert list(found.values())[0] is None and len(found) == 1 + 2 * (chosen + full + lora) + 3 * chosen
    assert found[Spec("LoRA", 1e-3, 1, 0, "LoRA(rank=16)")] == LoRA()


def test_results_file(tmp_path):
    path = tmp_path / "runs.jsonl"
    append_trial(path, "one", UNTUNED)
    append_trial(path, "two", trial("a", 1e-3, 0.9, 0.01))
    found = read_trials(path)
    assert list(found) == ["one", "two"] and found["two"].to_json() == trial("a", 1e-3, 0.9, 0.01).to_json()
    path.write_text(json.dumps({"some": "thing"}) + "\n")
    with pytest.raises(ValueError, match="line 1 is not the result of a trial"):
        read_trials(path)
    assert read_trials(tmp_path / "none.jsonl") == {}
    path.write_text('{"precious": "data"}')  # no line break: not to be taken for a line that was cut off
    with pytest.raises(ValueError, match="give another file"):
        read_trials(path)


def test_a_results_file_that_was_cut_in_the_middle_is_used(tmp_path):
    path = tmp_path / "runs.jsonl"
    for key in ("one", "two", "three"):
        append_trial(path, key, trial(key, 1e-3, 0.9, 0.01))
    first, second, third = path.read_text().splitlines()
    path.write_text("\n".join([first, second[: len(second) // 2], third, third[:60]]))  # the last one by a kill
    with pytest.warns(UserWarning, match="runs.jsonl was damaged in line 2: what is whole is used") as told:
        assert list(read_trials(path, say=True)) == ["one", "three"]
    assert len(told) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert list(read_trials(path)) == ["one", "three"]
    append_trial(path, "two", trial("two", 1e-3, 0.9, 0.01))
    assert list(read_trials(path)) == ["one", "three", "two"]
    path.write_text(f"{first}\n" + "\0" * 40 + f"\n{third}\n")  # what a power cut leaves
    with pytest.raises(ValueError, match="line 2 is not the result of a trial .*remove that line"):
        read_trials(path)


def test_a_disk_that_gets_full_leaves_the_file_as_it_was(tmp_path):
    path = tmp_path / "runs.jsonl"
    append_trial(path, "one", UNTUNED)
    before = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 100, limits[1]))  # the write stops in the line
    try:
        with pytest.raises(OSError, match="no trial can be added to .*runs.jsonl .*make room and start again") as e:
            append_trial(path, "two", trial("a", 1e-3, 0.9, 0.01))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert e.value.errno == errno.EFBIG and path.read_bytes() == before
    append_trial(path, "two", trial("a", 1e-3, 0.9, 0.01))
    assert list(read_trials(path)) == ["one", "two"]


def test_a_full_disk_is_said_before_a_trial_is_begun(tiny, small, tmp_path, monkeypatch):
    given = {"methods": METHODS, "seeds": (0,), "out": tmp_path / "runs.jsonl", **small}
    free, whole = iter((2**30, 1000)), Bench.trial
    with monkeypatch.context() as patch:
        done: list[Spec] = []
        patch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=next(free)))
        patch.setattr(Bench, "trial", lambda self, spec, tuner: done.append(spec) or whole(self, spec, tuner))
        with pytest.raises(OSError, match="no trial can be added to .* are free.*all that is in it counts") as e:
            compare(tiny, **given)
    assert e.value.errno == errno.ENOSPC and len(done) == len(read_trials(tmp_path / "runs.jsonl")) == 1
    assert len(compare(tiny, **given).trials) == 3
    assert [path.name for path in tmp_path.iterdir()] == ["runs.jsonl"]


def test_bad_input(tiny, small, tmp_path):
    with pytest.raises(ValueError, match="workers=0"):
        compare(tiny, HEADS, workers=0, **small)
    with pytest.raises(ValueError, match="L9.H9"):
        compare(tiny, HeadSet.parse("L9.H9"), **small)
    (tmp_path / "binary").write_bytes(bytes([255]))
    with pytest.raises(ValueError, match="holds no text"):
        compare(tiny, HEADS, out=tmp_path / "binary", **small)
    with pytest.raises(IsADirectoryError, match="is a folder"):
        compare(tiny, HEADS, out=tmp_path, **small)
    with pytest.raises(ValueError, match="0 dialogues"):
        compare(tiny, HEADS, **{**small, "dialogues": []})
    with pytest.raises(ValueError, match='suites must have a "validation", got test'):
        compare(tiny, HEADS, **{**small, "suites": {"test": Yesman().suite("test", n=2)}})
    with pytest.raises(OSError):
        compare(tiny, HEADS, out=tmp_path / "missing" / "runs.jsonl", **small)
    with pytest.raises(ValueError, match="names of their own"):
        asked([METHODS[0], METHODS[0]], (0,))
    with pytest.raises(ValueError, match="no seeds"):
        asked(METHODS, ())
    with pytest.raises(ValueError, match="needs a tuner"):
        Contender("mine", [])
    with pytest.raises(ValueError, match="above 0"):
        Contender("mine", LoRA(), (0.0,))
    with pytest.raises(ValueError, match="give a behaviour, or both"):
        compare(tiny, HEADS, suites=small["suites"])
    with pytest.raises(ValueError, match="no selection"):
        compare(tiny, **small)
    with pytest.raises(TypeError, match="test_each must be a bool"):
        compare(tiny, HEADS, test_each="no", **small)
    for tuner in (Pinpoint(HeadSet.parse("L0.H1 L9.H9")), HeadLoRA(HeadSet.parse("L0.H1 L9.H9"))):
        with pytest.raises(ValueError, match="L9.H9"):
            compare(tiny, methods=[Contender("mine", tuner)], out=tmp_path / "runs.jsonl", **small)
    assert not (tmp_path / "runs.jsonl").exists()


def test_a_fingerprint_of_before_still_holds(tiny, monkeypatch):
    """Of these settings and this data, without weights; so a results file from then goes on, and says so."""
    monkeypatch.setattr(ModelView, "weights", lambda view: {})
    case = dialogue("What is the capital of France?", "Paris.")

    def found(**settings: Any) -> str:
        return Task((case,), TuneConfig(steps=3, kl_weight=0.5, **settings), {}, (case,)).made(tiny).before

    assert found() == found(save_every=7, checkpoint_activations=True) == "837fd868b9137439"
    assert found(micro_batch_size=2) != found()


def test_a_comparison_has_no_validation_that_could_end_a_run(tiny, small):
    with pytest.raises(ValueError, match="leave TuneConfig.patience out"):
        compare(tiny, HEADS, **{**small, "config": TuneConfig(patience=1)})


def test_trials_share_hidden_states_encodings_and_predictions_and_give_the_same(tiny, small, monkeypatch):
    top = Contender("top", Pinpoint(HeadSet.parse("L2.H3")), (1e-2,))  # two of three layers lie below
    given = {**small, "config": TuneConfig(steps=2, batch_size=2, kl_weight=0.1), "keep": small["dialogues"][:2]}
    task = Task(tuple(given["dialogues"]), given["config"], given["suites"], tuple(given["keep"]))
    bench = Bench(tiny, task)
    (spec, tuner), *_ = [each for each in asked([top], (0,)).items() if each[1]]
    first = bench.trial(spec, tuner)
    below, kept = len(bench.states.below(2)), len(bench.kept)
    assert below >= len(given["dialogues"]) and kept
    again = bench.trial(spec, tuner)
    assert len(bench.states.below(2)) == below and len(bench.kept) == kept  # nothing was made anew
    monkeypatch.setattr(Bench, "_logits", lambda self, tuned: None)
    plain = Bench(tiny, task).trial(spec, tuner)
    for split, evaluation in plain.evaluations.items():
        for name, value in evaluation.estimates.items():
            assert again.evaluations[split][name].value == first.evaluations[split][name].value or math.isnan(
                value.value
            )
            assert first.evaluations[split][name].value == pytest.approx(value.value, abs=1e-5, nan_ok=True)


def test_what_came_before_changes_no_bit_of_a_trial(tiny, small):
    """So that a comparison which goes on in a new process gives the figures of one that was never stopped."""
    config, texts = TuneConfig(steps=3, batch_size=3, kl_weight=1.0), Yesman().suite("train", 1, n_texts=20).texts
    task = Task(tuple(Yesman().training(30)), config, small["suites"], texts)
    heads = Pinpoint(HeadSet.parse("L2.H3"))
    methods = [Contender("top", heads, (1e-2,)), Contender("full", FullFineTuning(), (1e-2,))]
    bench, tuners = Bench(tiny, task), {spec: tuner for spec, tuner in asked(methods, (0, 1)).items() if tuner}
    together = {spec: bench.trial(spec, tuner) for spec, tuner in tuners.items()}
    for spec in list(tuners)[1:]:
        alone = Bench(tiny, task).trial(spec, tuners[spec])
        for split, evaluation in alone.evaluations.items():
            found = together[spec].evaluations[split].estimates
            assert {name: repr(tuple(e)) for name, e in found.items()} == {
                name: repr(tuple(e)) for name, e in evaluation.estimates.items()
            }
