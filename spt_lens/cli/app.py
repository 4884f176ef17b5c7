"""The console script: its commands, and how errors and warnings are told."""

from __future__ import annotations

import sys
import warnings
from typing import Annotated, Any

import typer

from spt_lens.cli.embedded import compare, demo
from spt_lens.cli.evaluate import evaluate
from spt_lens.cli.export import export
from spt_lens.cli.find import find
from spt_lens.cli.pick import pick
from spt_lens.cli.study import study
from spt_lens.cli.support import support
from spt_lens.cli.tune import tune

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
for command in (find, pick, tune, evaluate, export, study, demo, compare, support):
    app.command()(command)

# TypeError, NotImplementedError: a model of a kind that is not supported. FloatingPointError: a run that diverged.
# RuntimeError: an export that is not the model, memory of a GPU that ran out.
TOLD = (ValueError, OSError, ImportError, TypeError, RuntimeError, MemoryError, FloatingPointError)


def _version(wanted: bool) -> None:
    if not wanted:
        return
    from importlib.metadata import PackageNotFoundError, version

    try:
        typer.echo(f"spt-lens {version('spt-lens')}")
    except PackageNotFoundError:
        typer.echo("spt-lens, run from its source folder")
    raise typer.Exit


@app.callback()
def _spt_lens(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Say it, and stop.")] = (
        False
    ),
) -> None:
    """Supervised pinpoint tuning: find the few attention heads behind a behaviour, and tune only them."""


def _warned(message: Warning | str, *_: Any, **__: Any) -> None:
    print(f"spt-lens: warning: {message}", file=sys.stderr)


def main() -> None:
    """The console script. What the user can mend is told in a line; `--traceback` before the command shows where."""
    arguments = [a for a in sys.argv[1:] if a != "--traceback"]
    with warnings.catch_warnings():
        warnings.showwarning = _warned
        # peft and transformers warn of each other's deprecations; nothing a user could do about them.
        warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
        try:
            app(arguments, prog_name="spt-lens")
        except TOLD as error:
            if len(arguments) < len(sys.argv) - 1:
                raise
            gone = isinstance(error, ImportError) and (error.name or "").startswith("spt_lens.yesman")
            message = "this needs the embedded model, and spt_lens/yesman is not installed" if gone else str(error)
            print(f"spt-lens: {' '.join(message.split()) or type(error).__name__}", file=sys.stderr)
            sys.exit(1)
