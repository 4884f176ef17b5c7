"""The tables of docs/rivals.md are what the kept results say: methods beside their shams, and what was not done."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_study_results import evaluation, rows

from spt_lens.evaluate.comparison import Comparison
from spt_lens.evaluate.trials import Spec, Trial
from spt_lens.heads import HeadSet
from spt_lens.model.view import ModelView
from spt_lens.rivals.random_direction import RandomDirection
from spt_lens.rivals.steering import Steering
from spt_lens.study.settings import StudySettings
from tools import rival_shams, rivals
from tools.rival_shams import ALONG, Shams

ROOT = Path(__file__).parent.parent
SPLITS = ("validation", "test")


def made_up(methods: tuple[str, ...] = ("chosen heads", "random heads", "steering")) -> Comparison:
    trials = [Trial(Spec("untuned"), 0, 0.0, {split: evaluation(split, 0.2, 0.2) for split in SPLITS})]
    for name in methods:
        found = {split: evaluation(split, 0.9, 0.7, drift=0.05) for split in SPLITS}
        trials.append(Trial(Spec(name, 1e-3, 0, 0, "made up", "L1.H1 L2.H3"), 10, 1.0, found))
    return Comparison(tuple(trials), {"parameters": 1000, "steps": 4, "batch_size": 8})


def shams() -> Shams:
    figures = {
        ("chosen heads", "swapped"): evaluation("test", 0.4, 0.2).estimates,
        ("steering", ALONG): evaluation("test", 0.3, 0.3).estimates,
    }
    left = (("random heads", "swapped"), ("chosen heads", "no challenge"))
    return Shams(figures, {("steering", "swapped"): "step 3: nan"}, left, {"model": "tiny"})


def test_each_method_stands_beside_its_shams():
    table, _, caption = rival_shams.table(made_up(), shams()).partition("\n\n")
    found = rows(table)
    assert list(found) == ["chosen heads", "random heads", "steering"]
    chosen, steering = found["chosen heads"], found["steering"]
    assert chosen["discernment, own"] == "0.80 [0.75, 0.84]"
    assert chosen["discernment, swapped"] == "0.30 [0.25, 0.34]"
    assert chosen["discernment, no challenge"] == chosen["discernment, random direction"] == "–"
    assert chosen["right kept"] == "0.90 / 0.40 / – / –" and chosen["drift, own replies"].startswith("0.050 / 0.100 /")
    assert steering["discernment, swapped"] == "–" and steering["wrong put right"] == "0.70 / – / – / 0.30"
    assert "2 of 5 trials were not done" in caption and "Diverged, and –: steering, swapped." in caption


def test_results_come_back_as_they_were(tmp_path):
    read = Shams.load(shams().save(tmp_path / "shams.json"))
    assert vars(read) == vars(shams())
    (tmp_path / "shams.json").write_text("{}")
    with pytest.raises(ValueError, match="shams.json"):
        Shams.load(tmp_path / "shams.json")


def test_swapped_comes_first_and_directions_before_the_rest(tiny):
    groups = list(rival_shams.asked(ModelView(tiny), made_up(("ablation", "steering", "random heads", "chosen heads"))))
    assert [group[0].data for group in groups] == ["swapped", ALONG, "no challenge"]
    assert [each.method for each in groups[0]] == ["chosen heads", "steering", "ablation", "random heads"]
    assert [each.method for each in groups[1]] == ["steering", "ablation"]
    assert groups[1][0].tuner == RandomDirection(Steering()) and groups[1][0].lr == 1e-3
    assert groups[0][3].tuner.heads == HeadSet.parse("L1.H1 L2.H3")  # those that were drawn then
    specs = [each.spec for group in groups for each in group]
    assert len({(spec.method, spec.tuner) for spec in specs}) == 6


def test_what_the_page_says_is_what_is_kept(monkeypatch):
    monkeypatch.chdir(ROOT)
    page = Path("docs/rivals.md").read_text(encoding="utf-8")
    for name, text in rivals.kept_texts().items():
        begin, end = rivals.marks(name)
        assert f"{begin}\n{text}\n{end}" in page, f"{name}: run python -m tools.rivals --table"


def test_the_settings_of_half_precision_are_the_studys_with_more_data(monkeypatch):
    monkeypatch.chdir(ROOT)
    small, large = StudySettings.load(rivals.SETTINGS), StudySettings.load(rivals.BF16_SETTINGS)
    assert large.training["n"] == 2 * small.training["n"] and large.tune.steps == 2 * small.tune.steps
    assert len({*large.seeds, *large.confirm}) == 2 and set(large.methods) < set(small.methods)
    chosen = Comparison.load(rivals.RESULT).choice
    for method, (low, high) in large.rates.items():  # around what validation chose in float32
        assert low < chosen[method] < high
