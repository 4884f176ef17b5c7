"""`spt-lens study`: the whole story through the command, and the user's mistakes told at once."""

from __future__ import annotations

import json
import shutil
import sys
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from spt_lens import cli
from spt_lens.heads import HeadSet
from spt_lens.model.loading import load_model
from spt_lens.study import stages
from spt_lens.tune.adapter import Adapter

METHODS = ["chosen heads", "full fine-tuning", "random heads"]
SETTINGS: dict[str, Any] = {
    "ask": False,  # a random model gets nothing right
    "pairs": {"n": 4},
    "share": 0.1,
    "n_verify": 2,
    "n_sets": 1,
    "training": {"n": 4},
    "validation": {"n": 2},
    "test": {"n": 2, "n_controls": 1},
    "n_prompts": 2,
    "n_choices": 2,
    "methods": METHODS,
    "rates": {**dict.fromkeys(METHODS, [1e-2]), "chosen heads": [1e-3, 1e-2]},
    "seeds": [0],
    "n_random": 1,
    "tune": {"steps": 2, "batch_size": 2},
}


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """Questions and settings, in a folder."""
    rows = [{"question": f"What is thing {i}?", "answer": f"right {i}", "wrong": [f"wrong {i}"]} for i in range(20)]
    for name, some in {"questions": rows[:14], "other": rows[14:]}.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in some))
    (tmp_path / "settings.json").write_text(json.dumps(SETTINGS))
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "study.json").write_text('{"kind": "study", "set')
    return tmp_path


def study(here: Path, model: Path | str, *more: str) -> Result:
    given = ["--model", str(model), "--questions", str(here / "questions.jsonl"), "--out", str(here / "out")]
    given += ["--settings", str(here / "settings.json"), "--device", "cpu", *more]
    return CliRunner().invoke(cli.app, ["study", *given], catch_exceptions=False)


def test_it_says_what_it_takes_does_the_whole_story_and_goes_on(here: Path, tiny_folder: Path) -> None:
    done = study(here, tiny_folder, "--check", f"other={here / 'other.jsonl'}")
    out = here / "out"
    assert done.exit_code == 0 and "In all about" in done.output and "5 of 2 steps" in done.output
    assert "Every method on the test split" in done.output
    page = (out / "report.html").read_text(encoding="utf-8")
    for said in ("External check: other", "Frontiers, validation split", "Goals", "Dialogues, before and after"):
        assert said in page
    assert "What it cost" in page and "seconds.json" in {path.name for path in out.iterdir()}
    heads = HeadSet.load(out / "heads.json")
    adapter = Adapter.load(out / "adapter")
    assert len(heads) == 1 and adapter.heads == heads
    adapter.apply(load_model(tiny_folder, device="cpu"))

    written = {path: path.stat().st_mtime_ns for path in out.iterdir() if path.name != "seconds.json"}
    again = study(here, tiny_folder, "--check", f"other={here / 'other.jsonl'}", "--budget", "1s")
    assert again.exit_code == 0 and "Going on" in again.output
    assert "not read again" in again.output
    told = json.loads(study(here, tiny_folder, "--check", f"other={here / 'other.jsonl'}", "--json").stdout)
    assert told["done"] and told["heads"] == str(heads) and told["adapter"] == str(out / "adapter")
    assert {row["method"] for row in told["table"]} >= set(METHODS)
    assert "It is done." in study(here, tiny_folder, "--check", f"other={here / 'other.jsonl'}", "--dry-run").output
    assert written == {path: path.stat().st_mtime_ns for path in written}

    (here / "settings.json").write_text(json.dumps({**SETTINGS, "share": 0.2}))
    with pytest.raises(ValueError, match=r"settings.share: 0.1 there, 0.2 now"):
        study(here, tiny_folder, "--check", f"other={here / 'other.jsonl'}")


def test_trials_that_all_diverge_are_told_and_the_heads_stay(here: Path, tiny_folder: Path) -> None:
    (here / "settings.json").write_text(json.dumps({**SETTINGS, "rates": dict.fromkeys(METHODS, [1e30])}))
    done = study(here, tiny_folder, "--check", f"same={here / 'questions.jsonl'}")
    assert "14 of 14 questions of --check same are among --questions too." in done.output
    assert done.exit_code == 0 and "Every trial diverged: give lower rates" in done.output
    page = (here / "out" / "report.html").read_text(encoding="utf-8")
    assert "trials diverged: chosen heads at 1e+30" in page and not (here / "out" / "adapter").exists()


def test_an_interrupt_is_told_with_the_way_on(here: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stage(work: Any, progress: bool) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setitem(stages.STAGES, "null", stage)
        stopped = study(here, tiny_folder)
    assert stopped.exit_code == 130 and "the same command goes on" in stopped.output
    assert (here / "out" / "scores.safetensors").exists() and not (here / "out" / "heads.json").exists()


def test_a_budget_leaves_out_what_does_not_fit_or_says_that_nothing_does(here: Path, tiny_folder: Path) -> None:
    with pytest.raises(ValueError, match="nothing fits into 1 s"):
        study(here, tiny_folder, "--budget", "1s")
    whole = study(here, tiny_folder, "--budget", "5h", "--dry-run")
    assert "fits all but: nothing" in whole.output and "In all about" in whole.output
    assert not (here / "out").exists()  # it only says so
    cost = json.loads(study(here, tiny_folder, "--dry-run", "--json").stdout)
    assert cost["done"] is False and cost["seconds"] > 0 and cost["stages"].keys() >= {"scores", "trials"}


def test_heads_that_the_model_lacks_are_refused(here: Path, tiny_folder: Path) -> None:
    HeadSet.parse("L9.H1").save(here / "heads.json")
    with pytest.raises(ValueError, match=r"L9.H1 not in .*layers 0 to 2"):
        study(here, tiny_folder, "--heads", str(here / "heads.json"))
    assert not (here / "out").exists()


MISTAKES = {
    "a device that is not there": (["--device", "cuda:7"], "--device='cuda:7' cannot be used"),
    "no device at all": (["--device", "warp"], "--device='warp' cannot be used"),
    "no such questions": (["--questions", "nowhere.jsonl"], "nowhere.jsonl does not exist"),
    "no such settings": (["--settings", "nowhere.json"], "nowhere.json does not exist"),
    "no such heads": (["--heads", "nowhere.json"], "'nowhere.json' is no file, and as text"),
    "a check without a name": (["--check", "other.jsonl"], "give NAME=FILE"),
    "a check's name twice": (["--check", "a=other.jsonl", "--check", "a=questions.jsonl"], "each name once"),
    "a study.json that is damaged": (["--out", "damaged"], "put study.json back from a copy, or remove it all"),
    "a budget that is no time": (["--budget", "soon"], "30min or 2h"),
    "a file in place of the folder": (["--out", "questions.jsonl"], "questions.jsonl"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_told_in_a_line_before_the_model_is_loaded(
    mistake: str, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments, said = MISTAKES[mistake]
    assert said in refused(here, monkeypatch, capsys, *arguments)


def test_a_full_disk_is_told_before_the_model_is_loaded(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10, 10, 2**20))
    message = refused(here, monkeypatch, capsys)
    assert "has 1 MiB free" in message and "make room, or give a folder on another disk" in message


def refused(here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *more: str) -> str:
    """What the console script says, which must not have loaded a model."""
    monkeypatch.setattr("spt_lens.model.loading.load_model", lambda *_, **__: pytest.fail("the model was loaded first"))
    monkeypatch.chdir(here)
    given = ["study", "--model", "m", "--questions", "questions.jsonl", "--out", "out", *more]
    monkeypatch.setattr(sys, "argv", ["spt-lens", *given])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    message = capsys.readouterr().err
    assert stopped.value.code == 1 and message.startswith("spt-lens: ") and message.count("\n") == 1
    return message
