"""Rankings side by side: each beside its sham and random heads of its layers, kept in a folder, shared, and resumed."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from conftest import condition

import spt_lens as spt
from spt_lens.behaviours.judging import AnswerJudge
from spt_lens.behaviours.opinions import Opinion, Opinions
from spt_lens.behaviours.sham import sham_training
from spt_lens.chat.dialogues import Message
from spt_lens.evaluate.bench import Bench
from spt_lens.evaluate.trials import read_trials
from spt_lens.heads import HeadSet
from spt_lens.measure.controls import same_layers
from spt_lens.measure.faithfulness import faithfulness
from spt_lens.measure.sets import set_patching
from spt_lens.model.view import ModelView
from spt_lens.rivals.steering import Steering
from spt_lens.scores.head_scores import HeadScores
from spt_lens.study import ranked, ranked_measure, rankings
from spt_lens.study.ranked_result import COLUMNS, Rankings
from spt_lens.study.ranked_trials import RUNS, Tuning
from spt_lens.tune.config import TuneConfig
from spt_lens.yesman import Yesman

NAMES = ["activation patching", "probe"]
SHARES = {0.1: 1e-2, 0.2: 5e-3}  # one and two of twelve heads
TRAINING = Yesman().training(8)
SHAMS = {kind: sham_training(Yesman(), kind, n=8) for kind in ("swapped", "no challenge")}
pytestmark = pytest.mark.filterwarnings("ignore")  # of a random model


def tuning(**more: Any) -> Tuning:
    suite = Yesman().suite("test", n=1, n_ability=1, n_texts=3)
    suite = replace(suite, judge=AnswerJudge(max_new_tokens=2), first_tokens=2, abilities={})
    return Tuning(TuneConfig(steps=1, batch_size=2), suite, SHARES, **more)


def asked(model: Any, **more: Any) -> dict[str, Any]:
    found = {"names": NAMES, "pairs": Yesman().pairs(model, 6), "dialogues": TRAINING, "shares": tuple(SHARES)}
    return found | {"main": 0.2, "n_random": {0.2: 1}, "progress": False} | more


def state(model: Any) -> list[object]:
    """`condition`, but for what TransformerLens and transformers note of their own at a first masked pass or a save."""
    notes = {"_derived_position_ids_ok", "_is_hf_initialized"}
    return [each for each in condition(model) if not (isinstance(each, tuple) and each[0] in notes)]


@pytest.fixture(scope="module")
def whole(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, dict[str, Any], Rankings]:
    """Everything, once, and what it was asked for."""
    model, out = spt.load_model(tiny_folder, device="cpu"), tmp_path_factory.mktemp("rankings")
    how = asked(model, tuning=tuning(seeds=(0, 1)), shams=SHAMS, n_verify=2, out=out)
    before = state(model), {name: weight.clone() for name, weight in ModelView(model).weights().items()}
    found = spt.rankings(model, **how)
    assert state(model) == before[0]
    assert all(torch.equal(weight, before[1][name]) for name, weight in ModelView(model).weights().items())
    return model, how, found


def test_every_ranking_stands_beside_its_sham_and_random_heads_of_its_layers(whole):
    model, how, found = whole
    assert found.names == NAMES
    for name in NAMES:
        kinds = found.measured[found.measured["ranking"] == name]["kind"].tolist()
        assert kinds == ["own", "sham"]
        scores = HeadScores.load(how["out"] / f"{name.replace(' ', '-')}.safetensors")
        sham = HeadScores.load(how["out"] / f"{name.replace(' ', '-')}-sham.safetensors")
        its = found.sets[found.sets["ranking"] == name]
        own = its[its["kind"] == "own"].set_index("share")["heads"]
        assert own[0.1] == str(scores.top(1)) and own[0.2] == str(scores.top(2))
        assert its[its["kind"] == "sham"]["heads"].tolist() == [str(sham.top(2))]
        random = its[its["kind"] == "random"]
        assert random["heads"].tolist() == [str(same_layers(model, scores.top(2), draw)) for draw in (0,)]
        assert not torch.equal(scores.values, sham.values)


def test_sets_are_what_set_patching_and_knockout_find(whole):
    model, how, found = whole
    own = found.sets[(found.sets["ranking"] == "probe") & (found.sets["kind"] == "own")].set_index("share")
    heads = HeadSet.parse(own.loc[0.2, "heads"])
    effect = set_patching(model, how["pairs"], heads, n_random=0, progress=False)
    assert own.loc[0.2, "recovery"] == pytest.approx(effect.chosen["recovery"], abs=1e-6)
    knocked = spt.set_knockout(model, how["pairs"][:2], heads, n_random=0, progress=False)
    assert own.loc[0.2, "gives_in"] == knocked.chosen["gives_in"] and pd.isna(own.loc[0.1, "gives_in"])
    measured = found.measured[found.measured["kind"] == "own"].set_index("ranking")
    assert measured.loc["probe", "gives_in"] == knocked.before["gives_in"]
    curve = found.curve[(found.curve["ranking"] == "probe") & (found.curve["kind"] == "own")]
    assert curve["faithfulness"].iloc[-1] == 1 and curve["size"].iloc[-1] == 12
    assert set(found.curve[found.curve["kind"] == "own"]["order"]) == {"signed", "absolute"}
    assert (measured["replies"] == 2).all() and pd.isna(own.loc[0.1, "gives_in"])
    assert {"cpr", "cmd"} <= set(measured) and measured["cpr"].notna().all() and measured["seconds"].gt(0).all()


def test_areas_stand_beside_those_of_random_orders_and_are_those_of_faithfulness(whole):
    model, how, found = whole
    assert len(found.orders) == 5 and found.orders["cpr"].nunique() == 5 and "" not in found.names
    curve = found.curve[found.curve["ranking"] == ""]
    assert set(curve["kind"]) == {"random"} and set(curve["draw"]) == set(range(5))
    scores = HeadScores.load(how["out"] / "activation-patching.safetensors")
    expected = faithfulness(model, how["pairs"], scores, progress=False)
    its = found.measured[(found.measured["ranking"] == "activation patching") & (found.measured["kind"] == "own")].iloc[
        0
    ]
    assert (its["cpr"], its["cmd"]) == pytest.approx((expected.cpr, expected.cmd), abs=1e-6)
    assert (found.table["cpr_random"] == found.orders["cpr"].max()).all()


def test_a_folder_is_of_one_model_as_it_is(whole, monkeypatch):
    """Its weights are not all: what it is asked by, and how it computes, decide what is found as well."""
    model, how, _ = whole
    tuned = Steering(layer=1, positions="all").tune(model, TRAINING, TuneConfig(lr=1.0), progress=False)
    try:
        for out in (how["out"], None):
            with pytest.raises(ValueError, match="the model carries what steering, ablation"):
                spt.rankings(model, **{**how, "out": out})
    finally:
        tuned.undo(model)
    template = model.tokenizer.chat_template
    try:
        model.tokenizer.chat_template = template + "{# another #}"
        with pytest.raises(ValueError, match="holds rankings with other chat template: give"):
            spt.rankings(model, **how)
    finally:
        model.tokenizer.chat_template = template
    other = [spt.Dialogue((Message("system", "x"), *d.messages), d.meta) for d in TRAINING]
    with pytest.raises(ValueError, match="holds rankings with other dialogues: give"):
        spt.rankings(model, **{**how, "dialogues": other})
    monkeypatch.setattr(ranked, "IG_STEPS", 7)
    with pytest.raises(ValueError, match="holds rankings with other settings: give"):
        spt.rankings(model, **how)


def test_trials_are_tuned_at_the_rate_of_their_size(whole):
    _, how, found = whole
    table = found.trials.drop_duplicates(["ranking", "kind", "share", "draw", "seed", "data"])
    counts = table.groupby(["kind", "data", "share", "seed"]).size().to_dict()
    assert counts == {
        ("untuned", "", 0.0, 0): 1,
        ("own", "", 0.1, 0): 2,
        ("own", "", 0.2, 0): 2,
        ("own", "", 0.2, 1): 2,
        ("random", "", 0.2, 0): 2,
        ("sham", "", 0.2, 0): 2,
        ("own", "swapped", 0.2, 0): 1,
        ("own", "no challenge", 0.2, 0): 1,
    }
    assert found.settings["todo"] == 0
    tuned = table[table["kind"] != "untuned"]
    assert all(SHARES[share] == lr for share, lr in zip(tuned["share"], tuned["lr"], strict=True))
    # What is read of a trial is what was evaluated.
    known = [trial for trial in read_trials(how["out"] / RUNS).values() if not trial.spec.tuner]
    assert found.untuned("kl") == known[0].evaluations["suite"]["kl"].value == pytest.approx(0, abs=1e-6)
    reached = found.reached("kl")
    at = reached[(reached["ranking"] == "probe") & (reached["share"] == 0.2)].iloc[0]
    its = found.trials[(found.trials["ranking"] == "probe") & (found.trials["metric"] == "kl")]
    its = its[(its["share"] == 0.2) & (its["data"] == "")].set_index("kind")["value"]
    seeds = found.trials[(found.trials["ranking"] == "probe") & (found.trials["metric"] == "kl")]
    seeds = seeds[(seeds["share"] == 0.2) & (seeds["data"] == "") & (seeds["kind"] == "own")].set_index("seed")["value"]
    # Of the seed that random heads and shams have; what the other does stands beside it.
    assert found.seed == 0 and at["value"] == seeds[0] != seeds[1] and at["seeds"] == 2 and at["draws"] == 1
    assert (at["seeds_min"], at["seeds_max"]) == (seeds.min(), seeds.max())
    assert at["random_max"] == its["random"] and at["sham"] == its["sham"]
    assert set(its) == {seeds[0], seeds[1], its["random"], its["sham"]}
    with pytest.raises(ValueError, match="metric='nothing': choose one of"):
        found.reached("nothing")


def test_the_same_call_measures_and_tunes_nothing_twice(whole, monkeypatch):
    model, how, found = whole
    monkeypatch.setattr(ranked_measure, "_measure", lambda *_: pytest.fail("measured twice"))
    monkeypatch.setattr(Bench, "trial", lambda *_: pytest.fail("tuned twice"))
    again = spt.rankings(model, **how)
    for name in COLUMNS:
        pd.testing.assert_frame_equal(getattr(again, name), getattr(found, name))
    # Fewer of the same are there too, and nothing of the others is.
    some = spt.rankings(model, **{**how, "names": ["probe"], "tuning": None})
    assert some.names == ["probe"] and some.trials.empty and some.overlaps.empty
    assert "nothing was tuned" in some.summary() and some.figure().data
    with pytest.raises(ValueError, match="holds rankings with other dialogues and settings: give another folder"):
        spt.rankings(model, **{**how, "dialogues": TRAINING[:6], "seed": 1})


def test_it_is_saved_and_shown(whole, tmp_path):
    _, _, found = whole
    again = Rankings.load(found.save(tmp_path / "rankings.json"))
    for name in COLUMNS:
        pd.testing.assert_frame_equal(getattr(again, name), getattr(found, name))
    assert again.settings == found.settings and again.summary() == found.summary()
    table = found.table
    assert table["ranking"].tolist() == NAMES and {"recovery_sham", "gives_in_random", "shared_by_layer"} <= set(table)
    assert {found.goal, "random", "sham"} <= set(table)
    assert "probe" in found._repr_html_() and "2 rankings" in repr(found)
    names = [trace.name for trace in found.figure("kl").data if trace.name]
    assert names == ["random heads of the same layers", *NAMES]
    damaged = found.to_json()
    damaged["sets"][0]["recovery"] = "all"
    with pytest.raises(ValueError, match="recovery in row 0 of its table sets"):
        Rankings.from_json(damaged)


def test_no_trial_is_begun_when_the_time_is_over(tiny, tmp_path, monkeypatch):
    how = asked(tiny, names=["objective gradient"], tuning=tuning(), out=tmp_path, n_random=0)
    done, trial = [], Bench.trial

    def counted(self, spec, tuner):
        done.append(spec)
        return trial(self, spec, tuner)

    monkeypatch.setattr(Bench, "trial", counted)
    found = spt.rankings(tiny, minutes=1e-9, **how)
    assert not done and not found.metrics and found.settings["todo"] == 3
    assert spt.rankings(tiny, **how).settings["todo"] == 0 and len(done) == 3  # no sham without sham dialogues


def test_processes_share_the_rankings(tmp_path):
    """Two that work on one folder: each piece is done once, and both wait for all of them."""
    done: list[str] = []
    lock, together = threading.Lock(), threading.Barrier(2, timeout=10)

    def work(names):
        def do(name):
            with lock:
                done.append(name)
            if name in ("a", "b"):
                together.wait()  # at the same time, in either thread
            (tmp_path / name).write_text("done")

        ranked_measure.shared_out(names, lambda name: tmp_path / name, do)
        assert all((tmp_path / name).exists() for name in names)

    others = [threading.Thread(target=work, args=(names,)) for names in ("abc", "bca")]
    for other in others:
        other.start()
    for other in others:
        other.join(20)
    assert sorted(done) == ["a", "b", "c"]


def test_what_can_not_be_compared_is_refused_before_anything_runs(tiny, monkeypatch, tmp_path):
    monkeypatch.setattr(ranked, "measure_all", lambda *_: pytest.fail("it ran"))
    pairs = Yesman().pairs(tiny, 6)
    turns = Opinions([Opinion("a?", "b", "c", "d")])
    bare = replace(pairs, dialogues=turns_of(pairs, turns), truthful_dialogues=())
    for wrong, message in (
        ({"names": ["magic"]}, "a ranking='magic': choose one of 'activation patching', 'path patching'"),
        ({"names": []}, "at least one ranking"),
        ({"names": ["probe", "probe"]}, "each one once"),
        ({"pairs": None}, "'activation patching' is measured on pairs, and there are none: give pairs="),
        ({"pairs": pairs[:4]}, "4 pairs are too few"),
        (
            {"dialogues": None, "names": ["objective gradient"]},
            "there are 0 dialogues to be measured on, by 'objective",
        ),
        ({"dialogues": None, "names": ["probe"], "tuning": tuning()}, "there are 0 dialogues to be tuned on"),
        ({"shares": (0.2, 0.9)}, "a share of 0.9 is 10 of 12 heads, and layers 0 to 2 have 12"),
        (
            {"layers": (1, 1), "shares": (0.2, 0.3)},
            "layers 1 to 1",
        ),
        ({"layers": (1, 3)}, "give the first and the last, of 0 to 2"),
        ({"main": 0.05}, "main=0.05 is none of the shares"),
        ({"n_random": {0.3: 1}}, "n_random.0.3.: there is no such share"),
        (
            {"tuning": Tuning(TuneConfig(), tuning().suite, {0.3: 1e-2})},
            r"lrs\[0.3\]: there is no such share, they are",
        ),
        ({"shams": {"swapped": []}}, "there are 0 shams"),
        ({"tuning": Tuning(TuneConfig(steps=1))}, "nothing to judge tuned models by"),
        ({"pairs": bare, "names": ["attention to the challenge"]}, "one turn, and no challenge|can't be told"),
    ):
        with pytest.raises((ValueError, TypeError), match=message):
            spt.rankings(tiny, **{**asked(tiny), **wrong})
    for wrong, message in (
        ({"seeds": ()}, "at least one"),
        ({"lrs": {0.1: 0.0}}, "lrs"),
        ({"keep": TRAINING}, "needs both"),
        ({"config": TuneConfig(patience=1)}, "patience"),
    ):
        with pytest.raises((ValueError, TypeError), match=message):
            Tuning(**{"config": TuneConfig(steps=1), **wrong})


def turns_of(pairs: Any, opinions: Opinions) -> tuple[Any, ...]:
    """As many dialogues of one turn."""
    return tuple(spt.Dialogue(d.messages[:1], d.meta) for d in pairs.dialogues)


def test_every_ranking_of_the_table_ranks_the_heads_and_has_a_sham(tiny):
    pairs = Yesman().pairs(tiny, 6, contrast="neutral")
    for name, ranking in rankings.RANKINGS.items():
        scores = ranking.scores(tiny, pairs, TRAINING, False)
        sham = ranking.sham_scores(tiny, pairs, SHAMS["swapped"], 0, False)
        assert scores.values.shape == (3, 4) and sham is not None and sham.values.shape == (3, 4), name
        assert ranking.forward_passes(tiny, pairs) > 0
    gradients = rankings.RANKINGS["integrated gradients"].scores(tiny, pairs, (), False)
    assert gradients.meta["settings"]["steps"] == rankings.IG_STEPS
    assert rankings.RANKINGS["objective gradient"].sham_scores(tiny, pairs, [], 0, False) is None
    attention = rankings.RANKINGS["attention to the challenge"].scores(tiny, pairs, (), False)
    assert attention.meta["span"] == "challenge"
