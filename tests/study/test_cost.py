"""What a study takes: measured lines, counts that fit the settings, and the largest study within a budget."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from spt_lens.behaviours.are_you_sure import AreYouSure
from spt_lens.behaviours.opinions import Opinion, Opinions
from spt_lens.measure.timed import Line, in_words
from spt_lens.model.loading import load_model
from spt_lens.model.view import ModelView
from spt_lens.saving import weights_digest
from spt_lens.study import budget
from spt_lens.study.budget import fit, seconds_of
from spt_lens.study.cost import Speeds, StudyCost
from spt_lens.study.data import suites_of
from spt_lens.study.settings import StudySettings
from spt_lens.study.work import Work
from spt_lens.tune.config import TuneConfig

QUESTIONS = [(f"What is number {i}?", f"answer {i}", f"wrong {i}") for i in range(40)]
SMALL = StudySettings(
    ask=False,
    pairs={"n": 6},
    methods=("chosen heads", "full fine-tuning", "random heads"),
    rates={"chosen heads": [1e-3, 3e-3], "full fine-tuning": [1e-4], "random heads": [1e-3]},
    seeds=(0, 1),
    n_random=3,
    n_verify=4,
    n_sets=2,
    n_prompts=2,
    n_choices=4,
    validation={"n": 8},
    test={"n": 8},
    tune=TuneConfig(steps=4, batch_size=2),
)


@pytest.fixture
def work(tiny_folder: Path, tmp_path: Path) -> Work:
    return Work(load_model(tiny_folder, device="cpu"), AreYouSure(QUESTIONS), tmp_path / "study", SMALL)


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("45s", 45), ("30min", 1800), ("30m", 1800), ("2h", 7200), ("1.5 h", 5400)]
)
def test_a_budget_is_read(text: str, seconds: float) -> None:
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["", "soon", "-2h", "0h", "2 hours or so"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="30min or 2h"):
        seconds_of(text)


def test_times_are_told_in_words() -> None:
    assert [in_words(each) for each in (0, 0.123, 45, 720, 8280)] == ["0 s", "0.1 s", "45 s", "12 min", "2.3 h"]


def test_a_line_is_found_from_two_measurements(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])

    def run(n: int) -> None:
        clock[0] += 2.0 + 0.5 * n

    line = Line.of(run, 4, 20)
    assert (line.start, line.each) == pytest.approx((2.0, 0.5))
    assert line(100, 40) == pytest.approx(3 * 2.0 + 50)  # three starts
    assert line(0) == 0.0


def test_the_cost_counts_what_the_settings_ask_for_and_leaves_the_model_alone(work: Work) -> None:
    def digest() -> str:
        return str(weights_digest(sorted(ModelView(work.model).weights().items())).hexdigest())

    before = digest()
    speeds = Speeds(work, progress=False)
    assert digest() == before and not work.out.exists()
    cost = speeds.cost(SMALL)
    assert list(cost.seconds) == ["pairs", "scores", "null", "patching", "knockout", "trials", "adapter", "report"]
    assert cost.total == pytest.approx(sum(cost.seconds.values())) and cost.seconds["trials"] > 0
    # Untuned; two rates x two seeds; two seeds; three draws with one seed. Chosen: two, two and three.
    assert cost.notes["trials"] == "10 of 4 steps, 7 of them at chosen rates on test"
    assert cost.notes["knockout"] == "4 sets of heads, 4 pairs"
    assert speeds.cost(replace(SMALL, tune=replace(SMALL.tune, steps=400))).seconds["trials"] > cost.seconds["trials"]
    work.out.mkdir()
    (work.out / "scores.safetensors").write_bytes(b"")
    assert "scores" not in speeds.cost(SMALL).seconds  # what is there is not done again
    assert "about" in str(cost) and "<table" in cost._repr_html_()


def test_a_rate_at_which_all_diverges_and_few_pairs_do_not_keep_it_from_measuring(work: Work) -> None:
    work.settings = replace(SMALL, rates=dict.fromkeys(SMALL.methods, [1e30]), pairs={"n": 2})
    assert Speeds(work, progress=False).cost(work.settings).seconds["trials"] > 0
    told = [Opinion(f"I like {a}. Is {a} good?", f"Is {a} good?", "Yes.", "No.") for a in "abcdef"]  # three to train on
    work.behaviour, work.settings = Opinions(told), replace(work.settings, pairs={}, validation={}, test={})
    assert Speeds(work, progress=False).cost(work.settings).seconds["trials"] > 0


def test_all_that_there_is_may_be_asked_for_by_null(work: Work) -> None:
    work.settings = replace(SMALL, validation={"n": None}, test={"n": None})
    assert Speeds(work, progress=False).cost(work.settings).seconds["trials"] > 0
    fewer = budget._at_most(work.settings, {"validation": 50, "test": 9}, work.behaviour, {})
    assert (fewer.validation, fewer.test) == ({"n": 50}, {"n": 9})
    work.asked = work.behaviour
    work.asked_checks["other"] = AreYouSure(QUESTIONS)
    assert len(suites_of(work)["other"].right) == 2 * len(AreYouSure(QUESTIONS).of_split("test"))


def test_a_budget_asks_no_behaviour_for_more_than_it_has(work: Work) -> None:
    told = [Opinion(f"I like {a}. Is {a} good?", f"Is {a} good?", "Yes.", "No.") for a in "abcdefghijklmnop"]
    fewer = budget._at_most(work.settings, {"validation": 50, "test": 3}, Opinions(told), {})
    assert (fewer.validation, fewer.test) == (work.settings.validation, {"n": 3})


class Counted:
    """Speeds that take a second a step and a tenth a case."""

    def __init__(self, work: Work, progress: bool = True) -> None:
        self.few = work

    def cost(self, settings: StudySettings) -> StudyCost:
        draws = settings.n_random if "random heads" in settings.methods else 0
        runs = len(settings.seeds) * sum(map(len, settings.rates.values())) + draws
        cases = settings.validation["n"] + settings.test["n"] * (2 if settings.test_each else 1)
        return StudyCost({"trials": runs * settings.tune.steps + cases / 10}, {})


@pytest.fixture
def counted(work: Work, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Any]]:
    monkeypatch.setattr(budget, "Speeds", Counted)
    rates = {"chosen heads": (1.0, 2.0), "LoRA": (1.0,), "random heads": (1.0,)}
    methods = [SimpleNamespace(name=name, rates=each) for name, each in rates.items()]
    monkeypatch.setattr(budget.data, "contenders", lambda _: methods)
    work.settings = replace(
        SMALL,
        methods=("chosen heads", "LoRA", "random heads"),
        rates=rates,
        n_random=5,
        test_each=True,
        validation={"n": 300},
        test={"n": 300},
        tune=TuneConfig(steps=60),
    )
    yield lambda seconds: fit(work, seconds, progress=False)


def test_all_that_fits_is_left_as_it_is(counted: Callable[..., Any], work: Work) -> None:
    found = counted(1e6)
    assert found.settings == work.settings and found.left_out == ()


def test_the_first_rung_that_fits_is_taken_with_all_above_it(counted: Callable[..., Any]) -> None:
    whole = 60 * (2 * 4 + 5) + 90  # 870 s
    found = counted(whole - 1)
    assert found.left_out == ("trials on test other than those of the chosen rates",)
    assert not found.settings.test_each and found.settings.n_random == 5
    found = counted(500)
    assert found.cost.total <= 500
    assert found.left_out[-1] == "tuning seeds beyond the first"
    assert found.settings.seeds == (0,) and found.settings.n_random == 3 and "LoRA" in found.settings.methods
    found = counted(200)
    assert found.settings.methods == ("chosen heads", "random heads") and "LoRA" not in found.settings.rates


def test_a_budget_in_which_nothing_fits_names_the_least(counted: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match=r"nothing fits into 5 s: the least study .* takes about 2 min") as told:
        counted(5)
    assert "smaller model" in str(told.value)


def test_seeds_that_confirm_go_with_those_beyond_the_first(work: Work) -> None:
    settings = replace(work.settings, seeds=(0, 1), confirm=(2,))
    fewer = budget._at_most(settings, budget.LADDER["tuning seeds beyond the first"], work.behaviour, {})
    assert (fewer.seeds, fewer.confirm) == ((0,), ())
