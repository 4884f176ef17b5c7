"""Methods by name: every one runs in a comparison, and the model is as before."""

from __future__ import annotations

from dataclasses import replace

import pytest
from conftest import condition
from interrupting import same_weights, weights

from spt_lens.behaviours.judging import AnswerJudge
from spt_lens.chat.dialogues import Dialogue, dialogue
from spt_lens.evaluate.bench import Bench, Task
from spt_lens.evaluate.compare import compare
from spt_lens.evaluate.methods import NAMED, RANDOM, check_data, named
from spt_lens.evaluate.trials import Contender, Spec
from spt_lens.heads import HeadSet
from spt_lens.model.view import ModelView
from spt_lens.rivals.dpo import DPO
from spt_lens.rivals.iti import ITI
from spt_lens.rivals.lofit import LoFiT
from spt_lens.study.settings import StudySettings
from spt_lens.study.study import Study
from spt_lens.tune.pinpoint import Pinpoint
from spt_lens.tune.training import TuneConfig
from spt_lens.yesman import Yesman

HEADS = HeadSet.parse("L1.H1 L2.H3")
SUITE = Yesman().suite("validation", n=1, n_ability=1, n_texts=3)
SUITE = replace(SUITE, judge=AnswerJudge(max_new_tokens=2), first_tokens=2)
GIVEN = {
    "dialogues": Yesman().training(n=10),
    "config": TuneConfig(steps=2, batch_size=2, kl_weight=0.1),
    "keep": Yesman().training(n=2),
    "suites": {"validation": SUITE, "test": SUITE},
    "test_each": False,
    "progress": False,
    "seeds": (0,),
}


def test_every_name_runs_and_leaves_the_model_as_it_was(tiny, tmp_path):
    Pinpoint(HEADS).tune(tiny, GIVEN["keep"], TuneConfig(steps=1), progress=False).undo(tiny)  # what is tried once
    before, values = condition(tiny), weights(tiny)
    methods = [named(name, ModelView(tiny), HEADS, (1e-2,), range(1)) for name in NAMED]
    found = compare(tiny, methods=methods, out=tmp_path / "runs.jsonl", **GIVEN)
    assert set(found.chosen) == {"untuned", *NAMED} and not any(trial.error for trial in found.trials)
    for trial in found.trials:
        drift = trial.evaluations["validation"]["kl"].value
        assert (drift > 1e-9) == (trial.spec.method != "untuned"), trial.spec.method
        assert trial.parameters > 0 or trial.spec.method == "untuned"
        assert set(trial.evaluations) == {"validation", "test"}
        assert trial.evaluations["test"]["kl"].value == pytest.approx(drift, rel=1e-3)  # the same, trained once more
    assert condition(tiny) == before and same_weights(tiny, values)


def test_names_and_contenders_stand_side_by_side(tiny):
    mine = Contender("mine", named("ITI", ModelView(tiny), HEADS).draws[0], (1.0,))
    found = compare(tiny, HEADS, methods=["ablation", mine], **GIVEN)
    assert list(found.chosen) == ["untuned", "ablation", "mine"]


def test_what_does_not_fit_is_said_before_anything_is_tuned(tiny, monkeypatch):
    monkeypatch.setattr(ModelView, "logits", lambda *args, **how: pytest.fail("the model was run"))
    plain = {**GIVEN, "dialogues": [dialogue("What is it?", "Paris.", "Sure?", "Yes.") for _ in range(5)]}
    for given, says in (
        ({"methods": ["LoFiT"], **GIVEN}, "is about chosen heads, and there are none"),
        ({"methods": ["stearing"], **GIVEN}, "steering"),
        ({"methods": ["ITI"], "heads": {"one": HEADS, "other": HEADS}, **GIVEN}, "about one selection of heads"),
        ({"methods": ["full fine-tuning", "steering"], **plain}, "steering needs pairs of replies"),
        ({"methods": ["DPO with LoRA"], **plain}, "needs pairs of replies, and none of the 5 dialogues"),
        ({"methods": ["chosen heads"], "heads": HeadSet.parse("L9.H1"), **GIVEN}, "L9.H1"),
    ):
        with pytest.raises((ValueError, IndexError), match=says):
            compare(tiny, **given)


def test_a_study_takes_the_names_too():
    assert StudySettings(methods=("chosen heads", "LoFiT", "steering")).methods[1] == "LoFiT"
    with pytest.raises(ValueError, match="steering"):
        StudySettings(methods=("stearing",))
    with pytest.raises(ValueError, match="above"):
        StudySettings(methods=("ITI",), rates={"ITI": [0.0]})


def test_a_study_says_before_anything_is_measured_that_its_data_have_no_pairs(tiny, tmp_path, monkeypatch):
    behaviour = Yesman()
    monkeypatch.setattr(ModelView, "logits", lambda *args, **how: pytest.fail("the model was run"))
    whole = type(behaviour).training

    def without(self, *args, **how):
        return [Dialogue(each.messages) for each in whole(self, *args, **how)]

    monkeypatch.setattr(type(behaviour), "training", without)
    for name in ("steering", "ITI", "DPO on the chosen heads", "ablation by right answers, random direction"):
        settings = StudySettings(methods=("chosen heads", name), share=0.2, ask=False, words="behaviour")
        with pytest.raises(ValueError, match="needs pairs of replies, and none of the"):
            Study(tiny, behaviour, tmp_path / "study", settings)
    assert not (tmp_path / "study").exists()
    check_data((*NAMED,), GIVEN["dialogues"])


def test_trials_share_only_what_was_computed_in_one_way(tiny):
    bench = Bench(tiny, Task(tuple(GIVEN["dialogues"]), GIVEN["config"], {"validation": SUITE}, tuple(GIVEN["keep"])))
    ways = []
    for tuner in (Pinpoint(HEADS), DPO(Pinpoint(HEADS)), LoFiT(HEADS), ITI(2)):
        bench.trial(Spec("it", 1e-3, 0, 0, repr(tuner)), tuner)
        ways.append(bench._way)
    assert ways[0] == ways[1] and len(set(ways)) == 3


def test_the_random_heads_are_drawn_by_their_seeds(tiny):
    draws = named(RANDOM, ModelView(tiny), HEADS, draws=range(3)).draws
    assert len({repr(draw) for draw in draws}) == 3 and all(draw.heads.heads[0] not in HEADS for draw in draws)
