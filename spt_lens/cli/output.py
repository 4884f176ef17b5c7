"""What a command prints: for people, tables on stdout; with --json, the result alone."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

Result = Callable[[Mapping[str, Any]], None]


@contextmanager
def result_of(as_json: bool) -> Iterator[Result]:
    """Gives what takes the result. as_json: in the block, all else goes to stderr, whoever prints it."""
    stdout = sys.stdout

    def result(data: Mapping[str, Any]) -> None:
        if as_json:
            print(json.dumps(plainly(data), indent=1, allow_nan=False), file=stdout, flush=True)

    if not as_json:
        yield result
    else:
        with redirect_stdout(sys.stderr):
            yield result


def plainly(value: Any) -> Any:
    """A value as JSON holds it: a table is a list of its rows; None for a number that is none, text for paths."""
    if hasattr(value, "to_dict"):
        value = value.to_dict("records")
    if isinstance(value, Mapping):
        return {str(name): plainly(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [plainly(each) for each in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, bool | int | str | None):
        return value
    return plainly(value.item()) if hasattr(value, "item") else str(value)


def tell(*lines: str) -> None:
    """Lines as they are; a path is not broken."""
    from rich.console import Console
    from rich.markup import escape

    Console().print(escape("\n".join(lines)), soft_wrap=True, highlight=False)


def tell_table(table: pd.DataFrame, columns: Sequence[str]) -> None:
    """Some columns of a table; numbers with three places, small ones with four; a note on the left."""
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    made = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for i, name in enumerate(columns):
        made.add_column(name, justify="left" if i == 0 or name == "note" else "right", no_wrap=i == 0)
    for row in table[list(columns)].itertuples(index=False):
        made.add_row(*(escape(_short(value)) for value in row))
    Console().print(made)


def _short(value: Any) -> str:
    if not isinstance(value, float):
        return str(value)
    if math.isnan(value):
        return ""
    return f"{value:.3f}" if value == 0 or abs(value) >= 0.1 else f"{value:.4f}"


def places(**paths: Path | None) -> None:
    """Where files are, a line each."""
    tell(*(f"{name.replace('_', ' ')}: {path}" for name, path in paths.items() if path is not None))
