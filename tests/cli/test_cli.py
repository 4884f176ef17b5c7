"""The command line: what it offers, and that the user's mistakes are told in one line before any long work."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from spt_lens import cli


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """Calls the console script with arguments, and returns its exit status."""
    monkeypatch.setattr(sys, "argv", ["spt-lens", *arguments])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    return int(stopped.value.code or 0)


COMMANDS = ("find", "pick", "tune", "evaluate", "export", "study", "demo", "compare", "support")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str) -> None:
    result = CliRunner().invoke(cli.app, [command, "--help"])
    assert result.exit_code == 0
    assert "Usage" in result.output


def test_an_unknown_model_is_told_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    status = run(monkeypatch, "demo", "--model", str(tmp_path / "nowhere"), "--out", str(tmp_path / "out"))
    message = capsys.readouterr().err
    assert status == 1
    assert message.startswith("spt-lens: ") and "nowhere" in message
    assert "Traceback" not in message


def test_an_unwritable_folder_is_told_before_the_model_is_loaded(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")

    def must_not_load(name: str) -> None:
        raise AssertionError("the model was loaded first")

    monkeypatch.setattr("spt_lens.model.loading.load_model", must_not_load)
    status = run(monkeypatch, "demo", "--out", str(blocked / "out"))
    assert status == 1
    assert str(blocked) in capsys.readouterr().err


def test_traceback_shows_where(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "argv", ["spt-lens", "--traceback", "demo", "--model", str(tmp_path / "nowhere")])
    monkeypatch.chdir(tmp_path)
    with pytest.raises((OSError, ValueError)):
        cli.main()


def test_a_model_of_another_kind_is_told_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def refuse(*arguments: object) -> None:
        raise NotImplementedError("can't be tuned so far")

    monkeypatch.setattr("spt_lens.model.loading.load_model", refuse)
    assert run(monkeypatch, "demo", "--out", str(tmp_path)) == 1
    assert capsys.readouterr().err == "spt-lens: can't be tuned so far\n"


@pytest.mark.parametrize("quick", [True, False])
def test_a_demo_of_another_model_says_beforehand_what_it_is_in_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, tiny_folder: Path, quick: bool
) -> None:
    def stop(*_: object) -> None:
        raise RuntimeError("it has begun")

    monkeypatch.setattr("spt_lens.cli.embedded.told", stop)
    monkeypatch.setattr("spt_lens.study.study.Study.cost", lambda _: "about 3 h")
    flag = ["--quick"] if quick else []
    assert run(monkeypatch, "demo", *flag, "--model", str(tiny_folder), "--out", str(tmp_path / "out")) == 1
    said = capsys.readouterr()
    assert "spt-lens study --questions bank" in said.out.replace("\n", " ")
    assert ("a minute or two" if quick else "It takes about 3 h") in said.out and "it has begun" in said.err


QUESTION = '{"question": "What is it?", "answer": "Paris", "wrong": ["Lyon"]}\n'
STUDY = ("study", "--model", "yesman", "--questions", "questions.jsonl")
FIND = ("find", "--model", "yesman", "--questions", "questions.jsonl")
TUNE = ("tune", "--model", "yesman", "--questions", "questions.jsonl")
EVALUATE = ("evaluate", "--model", "yesman", "--questions", "questions.jsonl")
WRONG_OPTIONS = [
    *[(*STUDY, "--workers", value) for value in ("0", "-1", "1.5", "two", "nan", "")],
    *[(*STUDY, "--budget", value) for value in ("", "5 apples", "-3h", "nan", "0", "1e9", "9" * 400, "h", "0.0h")],
    *[(*STUDY, "--dtype", value) for value in ("int8", "", "torch.float32", "float64")],
    *[(*STUDY, "--matmul", value) for value in ("low", "", "3")],
    *[(*STUDY, "--device", value) for value in ("", "bogus", "cuda:99", "cpu:x", "-1")],
    *[(*STUDY, "--settings", value) for value in ("", "nowhere.json", "folder", "binary", "list.json", "deep.json")],
    *[(*STUDY, "--settings", value) for value in ("text.json", "wrong.json")],
    *[(*STUDY, "--heads", value) for value in ("", "nowhere.json", "folder", "binary", "list.json", "L0.", " ")],
    *[(*STUDY, "--check", value) for value in ("", "=", "a", "a=", "=questions.jsonl", "a=nowhere", "a=folder")],
    (*STUDY, "--check", "a=questions.jsonl", "--check", "a=questions.jsonl"),
    *[("study", "--model", "yesman", "--questions", value) for value in ("", "nowhere.jsonl", "folder", "binary")],
    *[("study", "--model", "yesman", "--questions", value) for value in ("list.json", "empty.jsonl", "deep.json")],
    ("study", "--model", "yesman"),
    ("study", "--questions", "bank"),
    (*STUDY, "--out", "binary"),
    (*STUDY, "--nonsense"),
    (*STUDY, "more"),
    *[(*FIND, "--method", value) for value in ("", "knockout", "activation patching")],
    *[(*FIND, "--n", value) for value in ("0", "-1", "x", "1.5", "1000001")],
    *[(*FIND, "--share", value) for value in ("0", "-1", "nan", "x", "2")],
    *[(*FIND, "--contrast", value) for value in ("", "opposed")],
    *[(*FIND, "--positions", value) for value in ("", "0")],
    *[(*FIND, "--words", value) for value in ("", "found words")],
    (*FIND, "--method", "objective", "--words", "found"),
    *[(*FIND, "--answers", value) for value in ("folder", "binary", "list.json", "questions.jsonl", "no/where.json")],
    (*FIND, "--no-ask", "--answers", "answers.json"),
    (*FIND, "--out", "binary"),
    (*FIND, "--device", "cuda:99"),
    ("find", "--model", "yesman", "--questions", "yesman", "--answers", "answers.json"),
    ("find", "--model", "yesman", "--questions", "test_only.jsonl"),
    *[("pick", value) for value in ("", "nowhere", "folder", "binary", "list.json", "questions.jsonl")],
    ("pick",),
    *[
        (*TUNE, "--heads", value)
        for value in ("", " ", "nowhere.json", "folder", "binary", "list.json", "5", "none.json")
    ],
    *[(*TUNE, "--heads", "0.0", "--lr", value) for value in ("0", "-1", "nan", "x", "inf")],
    *[(*TUNE, "--heads", "0.0", "--steps", value) for value in ("0", "1.5", "x")],
    *[(*TUNE, "--heads", "0.0", "--schedule", value) for value in ("", "steep")],
    *[(*TUNE, "--heads", "0.0", "--optimizer", value) for value in ("", "adam")],
    *[(*TUNE, "--heads", "0.0", "--max-grad-norm", value) for value in ("-1", "nan")],
    (*TUNE, "--heads", "0.0", "--n", "1"),
    (*TUNE, "--heads", "0.0", "--out", "binary"),
    (*TUNE, "--heads", "0.0", "--out", "tuned"),
    (*TUNE, "--heads", "0.0", "--patience", "0"),
    TUNE,
    *[(*EVALUATE, "--adapter", value) for value in ("", "nowhere", "folder", "binary", "tuned")],
    *[(*EVALUATE, "--split", value) for value in ("", "all")],
    (*EVALUATE, "--out", "binary"),
    ("export", "--model", "yesman"),
    *[("export", "--model", "yesman", "--out", "new", "--adapter", value) for value in ("", "nowhere", "tuned")],
    ("export", "--model", "yesman", "--adapter", "nowhere", "--out", ""),
    *[("demo", "--seed", value) for value in ("x", "1.5", "-1", "nan", "9" * 30)],
    *[("compare", "--seeds", value) for value in ("0", "1.5", "many", "-2", "1000000000000")],
    *[("compare", "--kl-weight", value) for value in ("-1", "nan", "inf", "x", "")],
    *[("compare", "--workers", value) for value in ("0", "x", "-1", "1000000")],
    ("support",),
    *[("support", value) for value in ("", "nowhere/at/all", "binary", "folder")],
    *[("support", "folder", "--dtype", value) for value in ("int8", "")],
    *[("support", "folder", "--model-class", value) for value in ("other", "")],
    *[("support", "folder", "--device", value) for value in ("bogus", "cuda:99")],
    ("no-such-command",),
]


@pytest.mark.parametrize("arguments", WRONG_OPTIONS, ids=lambda arguments: " ".join(arguments)[-40:])
def test_a_wrong_option_is_told_before_anything_is_loaded(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "tuned").mkdir()
    (tmp_path / "tuned" / "adapter.safetensors").write_bytes(b"damaged")
    (tmp_path / "binary").write_bytes(bytes(range(128, 256)))
    texts = {"list.json": "[1]", "text.json": '"a"', "wrong.json": '{"share": "a"}', "deep.json": "[" * 100_000}
    texts |= {"none.json": '{"heads": []}', "test_only.jsonl": QUESTION.replace("}", ', "split": "test"}')}
    for name, text in {**texts, "questions.jsonl": QUESTION, "empty.jsonl": ""}.items():
        (tmp_path / name).write_text(text)

    def must_not_read(*_: object, **__: object) -> None:
        raise AssertionError("weights were read")

    monkeypatch.setattr("spt_lens.model.loading.read_model", must_not_read)
    start = time.process_time()
    assert run(monkeypatch, *arguments) in (1, 2)
    said = capsys.readouterr().err
    assert said.startswith(("spt-lens: ", "Usage: ")) and "Traceback" not in said
    assert said.startswith("Usage: ") or said.count("\n") == 1, said
    assert time.process_time() - start < 5
