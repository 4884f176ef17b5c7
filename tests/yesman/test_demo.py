"""The demo: its table fits a terminal, and the whole story runs on a tiny model with a few steps."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from spt_lens.evaluate.evaluate import Evaluation
from spt_lens.heads import HeadSet
from spt_lens.model.loading import load_model
from spt_lens.model.view import ModelView
from spt_lens.statistics import Estimate
from spt_lens.tune.adapter import Adapter
from spt_lens.tune.pinpoint import Pinpoint
from spt_lens.tune.tuner import Tuner
from spt_lens.yesman import Yesman
from spt_lens.yesman import demo as demo_module
from spt_lens.yesman.demo import DemoSettings, run_demo, writable_folder
from spt_lens.yesman.demo_report import METRICS, PINPOINT, RANDOM, Outcome, summary


def outcome(value: float) -> Outcome:
    estimates = dict.fromkeys(METRICS, Estimate(value, value - 0.1, value + 0.1, 10))
    return Outcome(RANDOM, 1, Evaluation("model", "suite", estimates))


def test_one_run_shows_its_interval_and_several_their_median_and_range() -> None:
    assert summary([outcome(0.5)], "confidence") == ("0.50", "0.40-0.60")
    assert summary([outcome(0.9), outcome(0.2), outcome(0.3)], "confidence") == ("0.30", "0.20-0.90")
    assert summary([outcome(0.5)], "kl")[0] == "0.5000"


def test_a_folder_that_is_a_file_is_refused(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(OSError):
        writable_folder(blocked)
    assert writable_folder(tmp_path / "new" / "folder").is_dir()


def test_the_whole_story_runs_and_leaves_a_report_and_an_adapter(tiny_folder: Path, tmp_path: Path) -> None:
    settings = DemoSettings(pairs=4, share=0.1, steps=2, random_draws=2, n_cases=4, n_ability=2, n_knockout=2)
    console = Console(width=80, record=True, quiet=True)
    tmp_path = tmp_path / "out[bold]"  # a folder's name is no markup
    demo = run_demo(tmp_path, str(tiny_folder), settings, console)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert str(demo.heads[0]) in page and "Two dialogues, before and after" in page
    assert not re.search(r"<(script|link|img)[^>]*(src|href)=", page)

    fresh = load_model(tiny_folder, device="cpu")
    adapter = Adapter.load(tmp_path / "adapter")
    adapter.apply(fresh)
    assert isinstance(demo.heads, HeadSet) and adapter.heads == demo.heads
    assert [each.method for each in demo.outcomes][1] == PINPOINT


def test_an_interrupt_while_tuning_ends_the_demo(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load_model(tiny_folder, device="cpu")
    whole = Tuner.tune
    monkeypatch.setattr(demo_module, "evaluate", lambda *_, **__: None)
    monkeypatch.setattr(Tuner, "tune", lambda *a: replace(whole(*a, progress=False), interrupted=True))
    settings = DemoSettings(steps=1)
    suite = Yesman().suite("test", n=1, n_ability=1, n_texts=1)
    with pytest.raises(KeyboardInterrupt):
        demo_module.compare_once(model, HeadSet.parse("L0.H1"), suite, settings, Console(quiet=True))


def test_a_model_that_cannot_be_tuned_is_refused_before_the_measuring(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: ModelView) -> None:
        raise NotImplementedError("no heads to slice")

    monkeypatch.setattr(ModelView, "check_tunable", refuse)
    monkeypatch.setattr(demo_module, "find", lambda *_: pytest.fail("the heads were measured first"))
    with pytest.raises(NotImplementedError):
        run_demo(tmp_path, str(tiny_folder), console=Console(quiet=True))


def test_chosen_and_random_heads_take_their_own_learning_rates(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_model(tiny_folder, device="cpu")
    whole = Pinpoint.tune
    used: list[tuple[HeadSet, float]] = []

    def noted(tuner, model, dialogues, config):
        used.append((tuner.heads, config.lr))
        return whole(tuner, model, dialogues, config, progress=False)

    monkeypatch.setattr(demo_module, "evaluate", lambda *_, **__: None)
    monkeypatch.setattr(Pinpoint, "tune", noted)
    settings = DemoSettings(steps=1, random_draws=2, lr=2e-3, random_lr=7e-4)
    chosen = HeadSet.parse("L0.H1")
    demo_module.compare_once(
        model, chosen, Yesman().suite("test", 1, n_ability=1, n_texts=1), settings, Console(quiet=True)
    )
    assert [lr for heads, lr in used if heads == chosen] == [2e-3]
    assert [lr for heads, lr in used if heads != chosen] == [7e-4, 7e-4]
