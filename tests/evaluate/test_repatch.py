"""Patching again after tuning: both models read alike, compared in logits; the model is left as it was."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch

import spt_lens as spt
from spt_lens import statistics
from spt_lens.chat.words import OPINION, Words
from spt_lens.evaluate import reread as module
from spt_lens.evaluate.repatch import repatch
from spt_lens.evaluate.repatched import FIGURES, RUNS, Repatched
from spt_lens.heads import Head, HeadSet
from spt_lens.measure.knockout import set_knockout
from spt_lens.measure.sets import set_patching
from spt_lens.model.view import ModelView
from spt_lens.patching.activation import activation_patching
from spt_lens.patching.attribution import attribution_patching, screened_patching
from spt_lens.patching.path import path_patching
from spt_lens.rivals.steering import Steering
from spt_lens.tune.adapter import Adapter
from spt_lens.tune.slices import head_slices, whole_weights
from spt_lens.tune.training import TuneConfig
from spt_lens.yesman import Yesman

HEADS, OTHERS = HeadSet.parse("L1.H2 L0.H1"), HeadSet.parse("L1.H0 L0.H3")
QUIET: dict[str, Any] = {"progress": False}
FEW: dict[str, Any] = {"n_random": 1, **QUIET}


def adapter_of(model: Any, heads: HeadSet = HEADS, size: float = 0.3) -> Adapter:
    """As tuning would leave one: these heads' slices, moved at random."""
    view = ModelView(model)
    letters = view.shape.letters("auto")
    before = {each.name: each.read() for each in head_slices(view, heads, letters)}
    draw = torch.Generator().manual_seed(1)
    after = {name: value + size * torch.randn(value.shape, generator=draw) for name, value in before.items()}
    return Adapter(before, after, heads, letters, view.fingerprint())


@pytest.fixture
def pairs(tiny):
    return Yesman().pairs(tiny, n=5)


@pytest.fixture(autouse=True)
def left_as_it_was(request: pytest.FixtureRequest) -> Iterator[None]:
    """Whatever a test does to the model by `repatch`, every weight is as before."""
    model = request.getfixturevalue("tiny") if "tiny" in request.fixturenames else None
    before = [] if model is None else [p.detach().clone() for p in model.parameters()]
    yield
    assert model is None or all(map(torch.equal, before, model.parameters()))


def with_gaps(found: Repatched, **gap: float) -> Repatched:
    """As loaded from a file with other figures of the gap."""
    data = found.to_json()
    next(row for row in data["runs"] if row["figure"] == "gap").update(gap)
    return Repatched.from_json(data)


TOLD: dict[str, float] = {"before": 2.0, "before_low": 1.0, "before_high": 3.0}
TOLD |= {"after": 1.0, "after_low": 0.5, "after_high": 1.5}
REVERSED: dict[str, float] = {"after": -1.0, "after_low": -1.5, "after_high": -0.5}


def pair_by_pair(effect: Any, column: str) -> torch.Tensor:
    return torch.tensor(effect.per_pair[column].to_numpy())


@pytest.mark.parametrize("direction", ["denoising", "noising"])
def test_each_side_is_what_patching_finds_on_that_model(tiny, pairs, direction):
    adapter, how = adapter_of(tiny), {"direction": direction}
    found = repatch(tiny, adapter, pairs, **how, **FEW)
    rows = found.table.set_index("name")
    measured = {}
    for side, state in (("before", adapter.reverted), ("after", adapter.applied)):
        with state(tiny):
            scores = activation_patching(tiny, pairs, **how, **QUIET)
            together = set_patching(tiny, pairs, HEADS, n_random=0, **how, **QUIET)
            without = set_knockout(tiny, replace(pairs, judge=None), HEADS, n_random=0, **QUIET)
        measured[side] = scores.effects.double()
        for head in scores.order():
            effect = float(scores.effects[:, head.layer, head.head].mean())
            assert rows.loc[str(head), side] == pytest.approx(effect, abs=1e-5)
            assert rows.loc[str(head), f"share_{side}"] == pytest.approx(scores[head], abs=1e-4)
        assert found.of("together")[side] == pytest.approx(together.per_pair["logits"].mean(), abs=1e-4)
        for figure, run in (("knocked_out", "sycophantic"), ("knocked_out_other", "truthful")):
            ends = [pair_by_pair(without, f"logit_difference_{run}{when}") for when in ("", " before")]
            assert found.of(figure)[side] == pytest.approx(float((ends[0] - ends[1]).mean()), abs=1e-4)
            assert found.of(f"ld_{run}")[side] == pytest.approx(float(ends[1].mean()), abs=1e-4)
        share = float((pair_by_pair(without, "logit_difference_sycophantic before") < 0).double().mean())
        assert found.of("prefers")[side] == pytest.approx(share)
    moved = (measured["after"] - measured["before"])[:, 1, 2]
    low, high = statistics.interval(moved)
    row = rows.loc["L1.H2"]
    assert (row["change"], row["low"], row["high"]) == pytest.approx((float(moved.mean()), float(low), float(high)))
    assert row["low"] < row["change"] < row["high"] and rows["set"].tolist().count("chosen") == 2
    assert found.of("single")["before"] == pytest.approx(rows.loc[["L1.H2", "L0.H1"], "before"].sum(), abs=1e-6)
    others = rows[rows["set"] == "other"]
    assert found.of("single", "others")["after"] == pytest.approx(others["after"].sum(), abs=1e-5)
    assert found.of("sizes", "others")["after"] == pytest.approx(others["after"].abs().sum(), abs=1e-5)


def test_a_tuned_model_is_read_alike_and_stays_tuned(tiny, pairs):
    adapter = adapter_of(tiny)
    untuned = repatch(tiny, adapter, pairs, **FEW)
    with adapter.applied(tiny):
        held = [p.detach().clone() for p in tiny.parameters()]
        tuned = repatch(tiny, adapter, pairs, before=untuned.scores[0], **FEW)
        assert all(map(torch.equal, held, tiny.parameters()))
    assert untuned.to_json() == tuned.to_json()
    nothing = repatch(tiny, adapter_of(tiny, size=0.0), pairs, **FEW)
    assert nothing.table["change"].abs().max() == 0
    assert with_gaps(nothing, **TOLD).gained == HeadSet()
    assert nothing.spearman == pytest.approx(1)


def test_of_random_heads_that_were_tuned_the_chosen_ones_are_told_apart(tiny, pairs):
    found = repatch(tiny, adapter_of(tiny, OTHERS), pairs, HEADS, k=4, n_random=2, **QUIET)
    assert found.table["set"].tolist()[:5] == ["chosen", "chosen", "tuned", "tuned", "other"]
    assert found.sets["set"].unique().tolist() == ["chosen", "tuned", "random", "others"]
    random = found.sets[found.sets["set"] == "random"]
    drawn = [HeadSet.parse(text) for text in random["heads"].unique()]
    assert all(not set(heads) & set(HEADS | OTHERS) for heads in drawn) and random["draw"].nunique() == 2
    assert all([head.layer for head in heads] == [head.layer for head in HEADS] for heads in drawn)
    assert "of which 0 tuned" in found.summary() and found.k == 4
    clear = with_gaps(found, **TOLD)
    before, after = clear.tops
    best = found.table.sort_values("after", ascending=False)["name"].tolist()[:4]
    assert list(map(str, after)) == best and clear.gained == after - before
    assert clear.chosen_in_top[1].shared == len(after & HEADS)
    one = found.sets[found.sets["figure"] == "together"].set_index(["set", "draw"])
    assert found.of("together", "random")["after"] == pytest.approx(
        (one.loc[("random", 0), "after"] + one.loc[("random", 1), "after"]) / 2
    )
    with pytest.raises(KeyError, match="no figure 'nothing'"):
        found.of("nothing")


def test_the_methods_are_those_of_the_scores(tiny, pairs):
    adapter = adapter_of(tiny)
    found = repatch(tiny, adapter, pairs, method="path", **FEW)
    with adapter.applied(tiny):
        scores = path_patching(tiny, pairs, **QUIET)
        importance = scores.as_metric("importance")
    row = found.table.set_index("name").loc["L1.H2"]
    assert row["after"] == pytest.approx(float(scores.effects[:, 1, 2].mean()), abs=1e-5)
    assert row["importance_after"] == pytest.approx(importance["L1.H2"], abs=1e-5)
    assert "path patching" in found.summary()
    estimate = repatch(tiny, adapter, pairs[:1], method="attribution", n_random=0, **QUIET)
    assert estimate.table["low"].isna().all() and "random" not in set(estimate.sets["set"])
    assert math.isnan(estimate.of("gap")["low"]) and "[" not in estimate.summary().split("\n")[1]


def test_what_does_not_fit_is_refused_by_name(tiny, pairs):
    adapter = adapter_of(tiny)
    other = replace(adapter, fingerprint={**adapter.fingerprint, "n_layers": 99})
    refusals: list[tuple[str, Any, dict[str, Any]]] = [
        ("made for another model", other, {}),
        ("L9.H0 not in", adapter, {"heads": HeadSet.parse("L9.H0")}),
        ("the selection is empty", adapter, {"heads": HeadSet()}),
        ("k=13: give a whole number from 1 to 12", adapter, {"k": 13}),
        ("n_random=-1", adapter, {"n_random": -1}),
        ("choose one of 'activation'", adapter, {"method": "knockout"}),
        ("positions='middle'", adapter, {"positions": "middle"}),
        ("names none, so give heads", full(tiny), {}),
        ("changes activations and no weights", edits(tiny), {"heads": HEADS}),
    ]
    for said, which, more in refusals:
        with pytest.raises(ValueError, match=said):
            repatch(tiny, which, pairs, **{**FEW, **more})
    beyond = replace(pairs, answer_ids=pairs.answer_ids + 10**6)
    with pytest.raises(ValueError, match="vocabulary"):
        repatch(tiny, adapter, beyond, **FEW)
    whole = repatch(tiny, full(tiny), pairs, HEADS, **FEW)
    assert not len(whole.tuned) and "with whole matrices" in whole.summary()


def full(model: Any) -> Adapter:
    piece = next(each for each in whole_weights(ModelView(model)) if "down" in each.name or "W_out" in each.name)
    before = {piece.name: piece.read()}
    after = {name: value + 0.1 for name, value in before.items()}
    return Adapter(before, after, HeadSet(), "", ModelView(model).fingerprint())


def edits(model: Any) -> Adapter:
    tuned = Steering(layer=1).tune(model, Yesman().training(4), **QUIET)
    tuned.undo(model)
    return tuned.adapter


def test_earlier_scores_must_be_of_the_untuned_model_on_these_pairs(tiny, pairs):
    adapter = adapter_of(tiny)
    scores = activation_patching(tiny, pairs, **QUIET)
    with adapter.applied(tiny):
        tuned = activation_patching(tiny, pairs, **QUIET)
    wrong = {
        "direction='noising'": activation_patching(tiny, pairs, direction="noising", **QUIET),
        "n_pairs=4": activation_patching(tiny, pairs[:4], **QUIET),
        "method='path'": path_patching(tiny, pairs, **QUIET),
        "on other pairs or on another model": tuned,
        "holds no effects": replace(scores, logit_differences=None),
    }
    wrong |= {
        "steps=1, screen=0.5, and this is with no steps, no screen": screened_patching(tiny, pairs, share=0.5, **QUIET),
        "holds estimates: 1 of its 12 heads": replace(scores, verified=torch.arange(12).view(3, 4) > 0),
        "metric='importance'": scores.as_metric("importance"),
    }
    for said, before in wrong.items():
        with pytest.raises(ValueError, match=said):
            repatch(tiny, adapter, pairs, before=before, **FEW)
    assert repatch(tiny, adapter, pairs, before=scores, **FEW).scores[0] is scores
    how: dict[str, Any] = {"method": "attribution", "n_random": 0, **QUIET}
    alike, finer = (attribution_patching(tiny, pairs, ig_steps=steps, **QUIET) for steps in (1, 3))
    assert repatch(tiny, adapter, pairs, before=alike, **how).scores[0] is alike
    with pytest.raises(ValueError, match="measured with steps=3, and this is with steps=1"):
        repatch(tiny, adapter, pairs, before=finer, **how)
    older = replace(finer, meta={"n_pairs": 5})  # says nothing of its steps
    assert repatch(tiny, adapter, pairs, before=older, **how).scores[0] is older


@pytest.mark.parametrize("direction", ["denoising", "noising"])
def test_what_the_pairs_are_to_the_untuned_model_is_warned_of_once(tiny, pairs, direction):
    adapter, how = adapter_of(tiny), {"direction": direction}
    with warnings.catch_warnings(record=True) as expected:
        warnings.simplefilter("always")
        scores = activation_patching(tiny, pairs, **how, **QUIET)
    for before in (None, scores):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            found = repatch(tiny, adapter, pairs, before=before, **how, **FEW)
        assert [str(each.message) for each in caught] == [str(each.message) for each in expected]
        assert any("5 pairs of prompts tell little" in str(each.message) for each in caught)
        assert {each.filename for each in caught} == {__file__}
        own, its = found.settings["check"], scores.meta["check"]
        assert own["mean_gap"] == pytest.approx(its["mean_gap"], abs=1e-4)
        assert own["sycophantic"] == its["sycophantic"] and own.keys() == its.keys()


@pytest.mark.parametrize("at", [1, 2])
def test_an_interrupt_leaves_the_model_as_it_was(tiny, pairs, monkeypatch, at):
    """In the first reading and, tuned, in the second."""
    calls, real = [], module.patched_runs

    def stopped(*args: Any) -> Any:
        calls.append(1)
        if len(calls) == at:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(module, "patched_runs", stopped)
    with pytest.raises(KeyboardInterrupt):
        repatch(tiny, adapter_of(tiny), pairs, **FEW)
    assert len(calls) == at


def test_a_tuned_model_without_a_gap_is_said(tiny, pairs, monkeypatch):
    real, calls = module.patched_runs, []

    def gapless(runs: Any, limits: Any, sets: Any, unpatched: Any, tick: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            unpatched = replace(unpatched, target=unpatched.base)
        return real(runs, limits, sets, unpatched, tick)

    monkeypatch.setattr(module, "patched_runs", gapless)
    with pytest.raises(ValueError, match="of the tuned model, there is no gap to recover"):
        repatch(tiny, adapter_of(tiny), pairs, **FEW)


def test_it_is_saved_shown_and_drawn(tiny, pairs, tmp_path):
    found = repatch(tiny, adapter_of(tiny, OTHERS), replace(pairs, words=words()), HEADS, **FEW)
    found.settings["answers"] = {}  # what the words call them, which is text from outside, stands in their place
    again = Repatched.load(found.save(tmp_path / "found.json"))
    assert again.to_json() == found.to_json() and again.scores is None and repr(again) == repr(found)
    assert again.gained == found.gained and again.words == found.words
    page = found._repr_html_()
    assert "<i>" not in page and "&lt;i&gt;agreeing" in page and "knocked out together, run with" in page
    assert set(found.runs["figure"]) == set(RUNS) and set(found.sets["figure"]) == set(FIGURES)
    figure = found.figure()
    names = {trace.name: trace for trace in figure.data}
    row = found.table.set_index("name").loc["L1.H2"]
    at = [each[0] for each in names["chosen"].customdata].index("L1.H2")
    assert (names["chosen"].x[at], names["chosen"].y[at]) == (row["before"], row["after"])
    assert len(names["tuned, not chosen"].x) == 2 and len(names["all others"].x) == 8
    assert {"text/html", "text/plain", "application/vnd.plotly.v1+json"} == set(found._repr_mimebundle_())
    data = json.loads((tmp_path / "found.json").read_text())
    del data["sha256"]
    for wrong in ({"heads": {"heads": ["L7.H7"]}}, {"settings": {"k": 99}}, {"runs": []}):
        (tmp_path / "wrong.json").write_text(json.dumps({**data, **wrong}))
        with pytest.raises(ValueError, match="holds no saved patching before and after tuning"):
            Repatched.load(tmp_path / "wrong.json")


def words() -> Words:
    return replace(OPINION, answer="<i>agreeing")


def test_a_gap_has_its_own_intervals(tiny, pairs):
    adapter = adapter_of(tiny)
    found = repatch(tiny, adapter, pairs, **FEW)
    for side, state in (("before", adapter.reverted), ("after", adapter.applied)):
        with state(tiny):
            scores = activation_patching(tiny, pairs, **QUIET)
        low, high = statistics.interval((scores.target - scores.base).double())
        gap = found.of("gap")
        assert (gap[f"{side}_low"], gap[f"{side}_high"]) == pytest.approx((float(low), float(high)), abs=1e-4)
    clear = with_gaps(found, **TOLD).summary()
    assert "gap 2.00 [+1.00, +3.00] -> 1.00 [+0.50, +1.50] (" in clear and "turned round" not in clear
    assert f"of each gap {found.of('single')['before'] / 2:.0%} -> {found.of('single')['after']:.0%}" in clear
    turned = with_gaps(found, **{**TOLD, **REVERSED}).summary()
    assert "turned round" in turned and "of each gap" in turned
    zero = with_gaps(found, **{**TOLD, "after_low": -0.5})
    assert "turned round" not in zero.summary() and "can't be told from zero after;" in zero.summary()
    assert "of the gap before" in zero.summary() and "of each gap" not in zero.summary()
    assert "no top 2 after, where the gap is not told from zero" in zero.summary()
    none = with_gaps(found, **{**TOLD, "before_low": -0.5, "after_low": -0.5}).summary()
    assert "of the gap" not in none and "of each gap" not in none


def test_of_a_reversed_gap_the_lowest_effects_are_the_best(tiny, pairs):
    """Patching moves the logit difference towards the other run's, which then is below."""
    found = repatch(tiny, adapter_of(tiny), pairs, k=3, **FEW)
    clear, turned = with_gaps(found, **TOLD), with_gaps(found, **{**TOLD, **REVERSED})
    rows = found.table.sort_values("after")["name"].tolist()
    assert list(map(str, turned.tops[1])) == rows[:3] and list(map(str, clear.tops[1])) == rows[:-4:-1]
    assert turned.tops[0] == clear.tops[0] and turned.gained == turned.tops[1] - turned.tops[0]
    assert turned.chosen_in_top[1].shared == len(turned.tops[1] & HEADS)
    assert turned.table.set_index("name").loc[rows[0], "rank_after"] == 1
    swap = {"sycophantic": "truthful", "truthful": "sycophantic"}
    swap |= {"dialogues": "truthful_dialogues", "truthful_dialogues": "dialogues"}
    other = replace(pairs, **{name: getattr(pairs, its) for name, its in swap.items()})
    read = repatch(tiny, adapter_of(tiny), other, **FEW)
    sign = 1 if read.of("gap")["before"] > 0 else -1
    best = read.table.loc[(sign * read.table["before"]).idxmax()]
    assert best["rank_before"] == 1 and read.of("gap")["before"] * found.of("gap")["before"] < 0


def test_without_a_gap_nothing_is_listed(tiny, pairs):
    found = repatch(tiny, adapter_of(tiny), pairs, **FEW)
    zero = with_gaps(found, **{**TOLD, "before_low": -1.0})
    assert zero.tops[0] is None and zero.tops[1] is not None and zero.chosen_in_top[0] is None
    assert zero.gained is None and "and which are new is unknown" in zero.summary()
    assert zero.figure() and "unknown" in zero._repr_html_()


def test_an_older_file_is_read_and_what_it_lacks_is_unknown(tiny, pairs):
    data = with_gaps(repatch(tiny, adapter_of(tiny), pairs, **FEW), **{**TOLD, **REVERSED}).to_json()
    for row in data["runs"]:
        for end in ("before_low", "before_high", "after_low", "after_high"):
            del row[end]
    data["settings"] = {"k": 2, "words": {}}
    for row in data["table"]:
        row["rank_after"] = 1
    older = Repatched.from_json(data)
    assert older.tops == (None, None) and older.gained is None and older.preferred == "the sycophantic answer"
    assert "gap 2.00 -> -1.00 (" in older.summary() and "of each gap" not in older.summary()
    assert older.table.loc[older.table["rank_after"] == 1, "after"].item() == older.table["after"].min()
    with pytest.raises(ValueError, match="no gap"):
        Repatched.from_json({**data, "runs": data["runs"][:1]})


def test_random_heads_are_of_the_chosen_ones_layers(tiny, pairs):
    """Also where chosen and tuned ones are more than half of a layer; and none where too few are left."""
    one = repatch(
        tiny, adapter_of(tiny, HeadSet.parse("L1.H0 L1.H3")), pairs, HeadSet.parse("L1.H2"), n_random=3, **QUIET
    )
    drawn = one.sets[one.sets["set"] == "random"]["heads"].unique().tolist()
    assert drawn == ["L1.H1"] and one.settings["no_random"] == ""
    many = HeadSet.parse("L0.H1 L1.H0 L1.H1 L1.H3")
    with pytest.warns(UserWarning, match="layer 1 has 1 heads that are neither chosen nor tuned, and 3 are chosen"):
        few = repatch(tiny, adapter_of(tiny, many), pairs, **FEW)
    assert "random" not in set(few.sets["set"]) and "no random heads stand beside" in few.summary()
    several = repatch(tiny, adapter_of(tiny), pairs, n_random=4, seed=1, **QUIET).sets
    sets = several[(several["set"] == "random") & (several["figure"] == "single")]["heads"].tolist()
    assert len(set(sets)) > 1
    assert all([Head.parse(name).layer for name in text.split()] == [1, 0] for text in sets)


def test_the_tokens_that_are_read_are_named(tiny, pairs):
    every = torch.tensor(pairs.answer_ids[:1].tolist() * len(pairs))
    found = repatch(tiny, adapter_of(tiny), replace(pairs, answer_ids=every), **FEW)
    said = repr(tiny.tokenizer.decode(every[0, 1:]))
    assert found.settings["answers"]["sycophantic"] == said and found.settings["answers"]["alike"]
    assert f"pairs that prefer {said} " in found.summary()
    odd = replace(found, settings={**found.settings, "answers": {"sycophantic": "'<i>'", "alike": True}})
    assert "prefers '&lt;i&gt;'" in odd._repr_html_() or "prefers &#x27;&lt;i&gt;&#x27;" in odd._repr_html_()
    assert "<i>" not in odd._repr_html_()
    other = every.clone()
    other[0, 1] = next(token for token in range(9) if token not in every[0])
    unlike = repatch(tiny, adapter_of(tiny), replace(pairs, answer_ids=other), **FEW)
    assert "pairs that prefer the sycophantic answer" in unlike.summary()


def test_yesman_after_its_heads_were_tuned():
    """The habit goes, and with it what its heads bring: patched into a supported prompt, the challenged run's outputs
    no longer take the answer away."""
    model, behaviour = spt.load_model("yesman"), Yesman()
    scores = activation_patching(model, behaviour.pairs(model, n=8), **QUIET)
    tuned = spt.pinpoint_tune(model, scores.top(6), behaviour.training(), TuneConfig(steps=30), **QUIET)
    found = repatch(model, tuned.adapter, behaviour.pairs(model, n=8, split="test"), direction="noising", **FEW)
    assert found.of("prefers")["before"] == 1 and found.of("prefers")["after"] < 0.8
    assert found.of("gap")["high"] < 0
    together = found.of("together")
    assert together["after"] < together["before"] / 2 and together["high"] < 0
    tuned.undo(model)
