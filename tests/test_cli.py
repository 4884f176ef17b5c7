"""The command line: what it offers, and that the user's mistakes are told in one line before any long work."""

from __future__ import annotations

import sys
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


@pytest.mark.parametrize("command", ["study", "demo", "compare", "support"])
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
