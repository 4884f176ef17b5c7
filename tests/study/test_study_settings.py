"""A study's settings: JSON both ways, and every field checked by name."""

from __future__ import annotations

import json

import pytest

from spt_lens.study.rankings import RANKINGS
from spt_lens.study.settings import METHODS, StudySettings
from spt_lens.tune.config import TuneConfig

OTHERS = StudySettings(
    ask=False,
    n_asked=5,
    replies={"stands": "Yes: {}."},
    pairs={"n": 6, "contrast": ["supporting", "neutral"]},
    words="found",
    ranking="path patching",
    share=0.2,
    layers=(1, 2),
    keep=3,
    methods=("LoRA", "chosen heads"),
    rates={"LoRA": [1e-4, 2e-4]},
    seeds=(3, 1),
    tune=TuneConfig(steps=7, kl_weight=0.5, lr=5.0, seed=9),
    test_each=True,
)


@pytest.mark.parametrize("settings", [StudySettings(), OTHERS])
def test_what_is_written_is_read_back(settings, tmp_path):
    again = StudySettings.load(settings.save(tmp_path / "settings.json"))
    assert again == settings
    assert json.loads(json.dumps(settings.to_json())) == settings.to_json()
    # A rate and a seed are each trial's own, so that these say nothing.
    assert (again.tune.lr, again.tune.seed) == (TuneConfig().lr, 0)


def test_what_a_file_leaves_out_has_its_default(tmp_path):
    path = tmp_path / "mine.json"
    path.write_text('{"share": 0.1, "tune": {"steps": 5}, "layers": [2, 4]}')
    settings = StudySettings.load(path)
    assert settings == StudySettings(share=0.1, tune=TuneConfig(steps=5, batch_size=8), layers=(2, 4))
    assert settings.tune.batch_size == StudySettings().tune.batch_size


def test_every_method_and_ranking_can_be_named():
    assert StudySettings().methods == METHODS
    for ranking in RANKINGS:
        assert StudySettings(ranking=ranking).ranking == ranking


WRONG = {
    "share": [0, 0.51, "5%"],
    "seeds": [[], [0, 0], 3, [-1]],
    "methods": [[], ["LoRA", "LoRA"], ["magic"]],
    "rates": [{"magic": [1e-3]}, {"LoRA": []}, {"LoRA": [0]}, {"LoRA": 1e-3}],
    "ranking": ["magic"],
    "words": ["mine"],
    "layers": [[2], [3, 1], "all"],
    "pairs": [[1], {"split": "test"}, {"contrast": ["supporting"]}, {"contrast": 3}],
    "training": [{"split": "test"}, {"n": {1, 2}}],
    "replies": [{"magic": "{}"}, {"stands": 3}, {"max_new_tokens": 0}],
    "n_prompts": [-1, 2.5],
    "n_random": [0],
    "n_asked": [0],
    "keep": [4],
    "tune": [{"patience": 3}, {"magic": 3}, {"steps": 0}, {"kl_weight": 1.0}, 7],
    "ask": ["yes"],
    "magic": [1],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in WRONG.items() for value in values])
def test_what_cannot_be_meant_is_refused_by_its_name(name, value, tmp_path):
    with pytest.raises((TypeError, ValueError)) as caught:
        StudySettings.from_json({name: value})
    said = {"training": "training|JSON", "rates": "rate", "tune": "tune|TuneConfig|keep", "methods": "method"}
    said |= {"replies": "replies|stands|max_new_tokens", "seeds": "seed"}
    assert any(word in str(caught.value) for word in said.get(name, name).split("|"))


def test_a_file_that_cannot_be_meant_is_named(tmp_path):
    path = tmp_path / "mine.json"
    path.write_text('{"share": 2}')
    with pytest.raises(ValueError, match=r"mine\.json: share=2"):
        StudySettings.load(path)
    path.write_text("{")
    with pytest.raises(ValueError, match=r"mine\.json holds no saved study settings"):
        StudySettings.load(path)
