"""find, pick, tune, evaluate, export: what the library's functions find and write, through the commands."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from picking import scores_of
from typer.main import get_command

import spt_lens as spt
from spt_lens import cli
from spt_lens.cli import pick
from spt_lens.evaluate.evaluate import Evaluation
from spt_lens.tune.pinpoint import pinpoint_tune
from spt_lens.tune.slices import head_slices
from spt_lens.yesman import Yesman
from spt_lens.yesman.facts import all_facts

YESMAN = ("--model", "yesman", "--questions", "yesman")


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs a command in the test's folder; gives its JSON, or what it says on stdout; fails if it fails."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str, fails: bool = False) -> Any:
        monkeypatch.setattr(sys, "argv", ["spt-lens", *arguments])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        said = capsys.readouterr()
        call.err = said.err  # type: ignore[attr-defined]
        assert bool(stopped.value.code) == fails, said.err
        if fails:
            assert said.err.splitlines()[-1].startswith("spt-lens: ") and "Traceback" not in said.err
            return said.err.splitlines()[-1]
        return json.loads(said.out) if "--json" in arguments else said.out

    return call


def state_of(page: Path) -> Any:
    found = re.search(r'id="spt-state">(.*?)</script', page.read_text(encoding="utf-8"), re.DOTALL)
    assert found
    return json.loads(found[1])["_map"]


def save_from(page: Path, heads: str, to: Path) -> Path:
    """As the page's "save" does (tests/browser presses it)."""
    about = {**state_of(page)["selection"], "date": "2026-01-01T00:00:00+00:00"}
    to.write_text(json.dumps({"heads": heads.split(), "about": about}))
    return to


class TestFind:
    def test_it_writes_what_python_measures(self, call, tmp_path):
        found = call("find", *YESMAN, "--n", "4", "--seed", "1", "--json")
        scores = spt.HeadScores.load(found["scores"])
        model = spt.load_model("yesman")
        own = spt.activation_patching(model, Yesman().pairs(model, 4, seed=1), progress=False)
        assert torch.equal(scores.values, own.values) and found["n_pairs"] == 4
        assert spt.HeadSet.parse(found["heads"]) == own.top_fraction(0.05)
        assert [row["name"] for row in found["table"]] == found["heads"].split()
        assert found["rests_on"] == own.check.line() and found["warnings"] == list(own.check.warnings)
        page = Path(found["map"]).read_text(encoding="utf-8")
        assert "Plotly.newPlot" in page and "yesman: recovery of each head" in page
        assert not re.search(r'<(script|link)[^>]+(src|href)="http', page)
        assert found["answers"] is None and {path.name for path in tmp_path.iterdir()} == {"spt-lens-heads"}

    def test_by_words_that_the_model_says(self, call):
        found = call("find", *YESMAN, "--n", "8", "--words", "found", "--json")
        model = spt.load_model("yesman")
        pairs = Yesman().pairs(model, 8)
        words = pairs.find_words(model)
        assert words.best is not None and str(words) in call.err
        own = spt.activation_patching(model, pairs.with_words(words), progress=False)
        assert torch.equal(spt.HeadScores.load(found["scores"]).values, own.values)
        assert "--words found" in call("find", *YESMAN, "--method", "objective", "--words", "found", fails=True)

    @pytest.mark.parametrize("method", ["path", "attribution", "objective"])
    def test_the_other_methods(self, call, method):
        said = call("find", *YESMAN, "--n", "4", "--method", method, "--out", "heads")
        assert spt.HeadScores.load(f"heads/{method}.safetensors").method == method
        assert f"spt-lens pick heads/{method}.safetensors" in said

    def test_what_to_go_on_with_can_be_pasted(self, call, tmp_path):
        said = call("find", *YESMAN, "--n", "4", "--method", "attribution", "--out", "my heads")
        assert "spt-lens pick 'my heads/attribution.safetensors'" in said
        said = call("pick", "my heads/attribution.safetensors", "--no-open")
        assert "spt-lens pick 'my heads/attribution.safetensors' --take" in said
        spt.HeadSet.parse("L5.H3").save(tmp_path / "mine.json")
        said = call("pick", "my heads/attribution.safetensors", "--take", "mine.json")
        assert "spt-lens tune --heads 'my heads/attribution-heads.json'" in said

    def test_it_asks_first_and_never_twice(self, call, tmp_path, monkeypatch):
        asked = [fact.to_ask for fact in all_facts()[:12]]
        rows = [{"question": q.text, "answer": q.answer, "wrong": list(q.wrong), "split": "train"} for q in asked]
        (tmp_path / "facts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        mine = ("find", "--model", "yesman", "--questions", "facts.jsonl", "--n", "4", "--out", "heads")
        found = call(*mine, "--json")
        assert found["answers"] == "heads/answers.json"
        assert len(json.loads(Path("heads/answers.json").read_text())["answers"]) == 12

        def never(*_: Any, **__: Any) -> Any:
            raise AssertionError("it was asked again")

        monkeypatch.setattr("spt_lens.behaviours.asking.replies_and_cut", never)
        assert call(*mine, "--json")["heads"] == found["heads"]

    def test_a_model_that_knows_nothing_is_told_before_it_is_measured(self, call, tmp_path, tiny_folder):
        row = {"question": "Who?", "answer": "Ann", "wrong": ["Bob"], "split": "train"}
        (tmp_path / "mine.jsonl").write_text(json.dumps(row))
        said = call("find", "--model", str(tiny_folder), "--questions", "mine.jsonl", "--device", "cpu", fails=True)
        assert "no right first answer" in said


class TestPick:
    def test_a_page_is_written_and_what_it_saves_is_taken_back(self, call, tmp_path):
        scores = scores_of().save(tmp_path / "activation.safetensors")
        said = call("pick", str(scores), "--no-open", "--chosen", "L1.H2", "--name", "mine")
        page = tmp_path / "activation-picker.html"
        assert f"page: {page}" in said and "--take" in said
        saved = save_from(page, "L5.H3 L6.H1", tmp_path / "heads.json")
        assert spt.HeadSet.load(saved) == spt.HeadSet.parse("L5.H3 L6.H1")
        call("pick", str(scores), "--take", str(saved))
        taken = spt.HeadSet.load(tmp_path / "activation-heads.json")
        assert taken == spt.HeadSet.parse("L5.H3 L6.H1")
        assert taken.about["model"] == "random" and taken.about["chosen_by"].startswith("a HeadPicker's page")
        assert taken.about["name"] == "mine"

    def test_a_selection_by_hand_is_taken_too(self, call, tmp_path):
        scores = scores_of().save(tmp_path / "activation.safetensors")
        spt.HeadSet.parse("L2.H2").save(tmp_path / "by-hand.json")
        call("pick", str(scores), "--take", "by-hand.json", "--out", "mine.json")
        assert spt.HeadSet.load("mine.json").about["model"] == "random"

    def test_what_is_of_something_else_is_refused(self, call, tmp_path):
        scores = str(scores_of().save(tmp_path / "mine.safetensors"))
        other_model = str(scores_of(name="other").save(tmp_path / "other.safetensors"))
        other_scores = str(scores_of(seed=1).save(tmp_path / "copied.safetensors"))
        smaller = str(scores_of(4, 4).save(tmp_path / "smaller.safetensors"))
        for each in (other_model, other_scores):
            call("pick", each, "--no-open")
        wrong = {
            "was chosen on other, and": save_from(tmp_path / "other-picker.html", "L5.H3", tmp_path / "a.json"),
            "saved by a page of other scores": save_from(tmp_path / "copied-picker.html", "L5.H3", tmp_path / "b.json"),
            "L9.H1 have no score": spt.HeadSet.parse("L9.H1").save(tmp_path / "c.json"),
            "holds no head": spt.HeadSet().save(tmp_path / "d.json"),
        }
        for said, file in wrong.items():
            assert said in call("pick", scores, "--take", str(file), fails=True)
        assert not (tmp_path / "mine-heads.json").exists()
        assert "give score files of one model" in call("pick", scores, other_model, "--no-open", fails=True)
        assert "their layers x heads differ" in call("pick", scores, smaller, "--no-open", fails=True)
        assert not (tmp_path / "mine-picker.html").exists()

    @pytest.mark.parametrize("there", [True, False])
    def test_it_opens_a_browser_where_there_is_one(self, call, tmp_path, monkeypatch, there):
        opened: list[str] = []
        monkeypatch.setattr("webbrowser.open", lambda address: opened.append(address) or True)
        monkeypatch.setattr(pick.sys, "platform", "darwin" if there else "linux")
        for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"):
            monkeypatch.delenv(name, raising=False)
        scores = scores_of().save(tmp_path / "activation.safetensors")
        said = call("pick", str(scores))
        assert opened == [(tmp_path / "activation-picker.html").as_uri()] * there
        assert ("No browser was found" in said) != there


class TestTuneEvaluateExport:
    def test_the_options_are_those_of_the_settings(self):
        options = {each.name: each for each in get_command(cli.app).commands["tune"].params}
        for field in fields(spt.TuneConfig):
            assert options[field.name].default == field.default, field.name

    def test_one_after_another(self, call, tmp_path):
        tuned = call("tune", *YESMAN, "--heads", "L0.H8 5.3", "--steps", "2", "--n", "4", "--patience", "1", "--json")
        assert tuned["heads"] == "L0.H8 L5.H3" and tuned["steps"] == 2 and tuned["interrupted"] is False
        adapter = spt.Adapter.load(tuned["adapter"])
        assert "holds an adapter already" in call("tune", *YESMAN, "--heads", "0.8", "--n", "4", fails=True)

        judged = call("evaluate", *YESMAN, "--adapter", tuned["adapter"], "--n", "2", "--out", "judged", "--json")
        changes = {row["metric"]: row for row in judged["change"]}
        assert changes["confidence"]["n"] == 2 and changes["confidence"].keys() >= {"before", "after", "low", "high"}
        assert {row["metric"] for row in judged["after"]} - {row["metric"] for row in judged["before"]} == {"kl"}
        assert Evaluation.load(judged["files"]["after"])["kl"].value > 0
        assert "confidence" in Evaluation.load("judged/before.json")

        made = call("export", "--model", "yesman", "--adapter", tuned["adapter"], "--out", "exported", "--json")
        assert made["slices"] == len(adapter.after) and made["parity"] is None
        for piece in head_slices(spt.load_model("exported", device="cpu"), adapter.heads, adapter.projections):
            assert torch.equal(piece.read(), adapter.after[piece.name])
        again = ("export", "--model", "yesman", "--adapter", tuned["adapter"], "--out", "exported")
        assert "exported" in call(*again, fails=True)

    def test_what_does_not_fit_is_told_before_anything_long(self, call, tmp_path, tiny_folder, monkeypatch):
        def never(*_: Any, **__: Any) -> Any:
            raise AssertionError("it was asked first")

        monkeypatch.setattr("spt_lens.behaviours.asking.replies_and_cut", never)
        model = spt.load_model("yesman")
        heads = spt.HeadSet.parse("L7.H15")
        spt.pinpoint_tune(model, heads, Yesman().training(2), spt.TuneConfig(steps=1), progress=False).save("mine")
        tiny = ("--model", str(tiny_folder), "--questions", "bank", "--device", "cpu")
        assert "L7.H15 not in" in call("tune", *tiny, "--heads", "L7.H15", fails=True)
        assert "made for another model" in call("evaluate", *tiny, "--adapter", "mine", fails=True)

    def test_heads_of_another_model_are_warned_about(self, call):
        spt.HeadSet(spt.HeadSet.parse("L5.H3").heads, {"model": "another"}).save("heads.json")
        call("tune", *YESMAN, "--heads", "heads.json", "--steps", "1", "--n", "2")
        assert "spt-lens: warning: the heads were chosen on another, and the model is yesman" in call.err

    def test_a_kl_term_and_a_run_that_goes_on(self, call, tmp_path):
        more = ("--heads", "L7.H1", "--steps", "2", "--n", "2", "--kl-weight", "0.1", "--kl-batch-size", "2")
        first = call("tune", *YESMAN, *more, "--resume", "state", "--save-every", "1", "--json")
        assert (tmp_path / "state").exists()
        again = call("tune", *YESMAN, *more, "--resume", "state", "--out", "again", "--json")
        assert again["loss"] == first["loss"]

    def test_an_interrupted_run_is_kept(self, call, monkeypatch):
        def stopped(*given: Any, **more: Any) -> Any:
            return replace(pinpoint_tune(*given, **more), interrupted=True)

        monkeypatch.setattr("spt_lens.tune.pinpoint.pinpoint_tune", stopped)
        arguments = ["tune", *YESMAN, "--heads", "L7.H1", "--steps", "1", "--n", "2"]
        monkeypatch.setattr(sys, "argv", ["spt-lens", *arguments])
        with pytest.raises(SystemExit) as end:
            cli.main()
        assert end.value.code == 130 and spt.Adapter.load("spt-lens-adapter")

    def test_a_model_alone_is_judged_and_exported(self, call):
        judged = call("evaluate", *YESMAN, "--n", "2", "--split", "validation", "--json")
        assert judged["suite"] == "yesman validation" and "change" not in judged and judged["files"] == {}
        made = call("export", "--model", "yesman", "--out", "whole", "--json")
        assert made["parity"]["difference"] <= made["parity"]["allowed"]
