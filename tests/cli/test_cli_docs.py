"""The page on the command line: it names every command, and what it shows runs, one block after another."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import pytest
from typer.main import get_command

from spt_lens import cli

PAGE = (Path(__file__).parents[2] / "docs" / "command-line.md").read_text(encoding="utf-8")
README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"(?P<note><!-- not run: [^\n]+ -->\n)?```(?P<kind>bash|python)\n(?P<code>.*?)```", re.DOTALL)
# What takes long is done in small.
SMALL = {"--n": 2, "--steps": 2}
COMMANDS = get_command(cli.app).commands  # type: ignore[attr-defined]


def words(line: str) -> tuple[list[str], str | None]:
    """A line's arguments after `spt-lens`, and the file that its output goes to."""
    line, _, file = line.partition(" > ")
    found = shlex.split(line)
    assert found[0] == "spt-lens", line
    return found[1:], file or None


def parsed(arguments: list[str]) -> None:
    """Raises for a command or an option that there is not."""
    COMMANDS[arguments[0]].make_context("spt-lens", arguments[1:])


def test_every_command_is_named():
    for name in COMMANDS:
        assert f"`spt-lens {name}`" in PAGE, name


def test_what_is_not_run_is_meant_by_the_commands():
    lines = [
        line
        for block in BLOCK.finditer(PAGE)
        if block["note"] and block["kind"] == "bash"
        for line in block["code"].splitlines()
    ]
    assert len(lines) > 4
    for line in lines + [line for line in README.splitlines() if line.startswith("spt-lens ")]:
        parsed(words(line.partition("  #")[0])[0])


def test_what_is_shown_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for block in BLOCK.finditer(PAGE):
        if block["kind"] == "python":
            exec(compile(block["code"], "command-line.md", "exec"), {})
        for line in block["code"].splitlines() if block["kind"] == "bash" and not block["note"] else ():
            arguments, file = words(line)
            for option, value in SMALL.items():
                if option in arguments:
                    arguments[arguments.index(option) + 1] = str(value)
            monkeypatch.setattr(sys, "argv", ["spt-lens", *arguments])
            with pytest.raises(SystemExit) as stopped:
                cli.main()
            said = capsys.readouterr()
            assert not stopped.value.code, said.err
            if file:
                Path(file).write_text(said.out)
    assert {path.name for path in tmp_path.iterdir()} == {"heads", "adapter", "tuned", "judged.json"}
