"""The embedded model's two studies: the comparison does the trials that the README's table is of."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from spt_lens.evaluate.comparison import Comparison
from spt_lens.evaluate.trials import asked
from spt_lens.model.loading import load_model
from spt_lens.scores.head_scores import HeadScores
from spt_lens.study.data import contenders, contrasts, kept_texts, suites_of
from spt_lens.study.stages import n_chosen
from spt_lens.study.work import Work
from spt_lens.yesman import Yesman
from spt_lens.yesman.studies import COMPARISON, DEMO, comparison_settings, demo_settings

RESULTS = Path(__file__).parents[2] / "notebooks" / "results"


@pytest.fixture
def work(tmp_path: Path) -> Work:
    made = Work(load_model("yesman", device="cpu"), Yesman(), tmp_path, COMPARISON)
    made.asked = made.behaviour
    scores = HeadScores.load(RESULTS / "scores.safetensors")
    made.heads = scores.top(n_chosen(COMPARISON, scores.values.numel()))
    return made


def test_the_comparison_does_the_trials_of_the_readmes_table(work: Work) -> None:
    saved = Comparison.load(RESULTS / "comparison.json")
    assert set(asked(contenders(work), COMPARISON.seeds)) == {trial.spec for trial in saved.trials}
    assert (COMPARISON.tune.steps, COMPARISON.tune.batch_size) == (
        saved.settings["steps"],
        saved.settings["batch_size"],
    )
    for split, suite in suites_of(work).items():
        plain = Yesman().suite(split)  # type: ignore[arg-type]
        assert (suite.right, suite.wrong, suite.texts, suite.abilities) == (
            plain.right, plain.wrong, plain.texts, plain.abilities,
        )  # fmt: skip
        assert not suite.prompts and not suite.choices
    pairs = contrasts(work.behaviour, work.model, COMPARISON)
    assert [each.dialogues[0].meta["stance"] for each in pairs] == ["opposed", "opposed"]
    assert [each.truthful_dialogues[0].meta["stance"] for each in pairs] == ["supporting", "neutral"]
    assert [len(each) for each in pairs] == [64, 64]


def test_a_kl_weight_brings_the_texts_that_it_holds_the_model_to(work: Work) -> None:
    assert comparison_settings(3) == COMPARISON
    work.settings = comparison_settings(2, kl_weight=0.5)
    assert work.settings.seeds == (0, 1) and tuple(kept_texts(work)) == Yesman().suite("train").texts
    work.settings = replace(work.settings, keep=5)
    assert len(kept_texts(work)) == 5 and set(kept_texts(work)) <= set(Yesman().suite("train").texts)


def test_the_demos_seed_is_that_of_all_it_draws() -> None:
    assert demo_settings().to_json() == {**DEMO.to_json(), "pairs": {**DEMO.pairs, "seed": 0}, "training": {"seed": 0}}
    elsewhere, quick = (demo_settings(0, quick=True, own=own) for own in (False, True))
    assert set(elsewhere.methods) < set(quick.methods) and elsewhere.tune.steps < quick.tune.steps
    other = demo_settings(3, quick=True)
    assert (other.seed, other.seeds, other.pairs["seed"], other.training["seed"]) == (3, (3,), 3, 3)
    assert other.tune.steps == 5
