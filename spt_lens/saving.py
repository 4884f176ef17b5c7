"""Results as JSON files that say what they are, and are read back with every part checked."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd

Result = TypeVar("Result")


def save_json(path: str | Path, kind: str, data: Mapping[str, Any]) -> Path:
    """Writes {"kind": kind, **data}, and returns the path.

    The text is made whole before the file is opened: what can't be written must not cost the file that is there.

    Raises: OSError if the file can't be written; TypeError or ValueError for what JSON can't hold.
    """
    text = json.dumps({"kind": kind, **data}, indent=1, allow_nan=False)
    path = Path(path)
    path.write_text(text + "\n", encoding="utf-8")
    return path


def load_json(path: str | Path, kind: str, make: Callable[[Mapping[str, Any]], Result]) -> Result:
    """What `make` makes of the data that `save_json` wrote.

    Raises: FileNotFoundError, or ValueError for a damaged file or one of another kind.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path} does not exist")
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
        if not isinstance(data, dict) or data.get("kind") != kind:
            other = data.get("kind") if isinstance(data, dict) else None
            raise ValueError(f"it holds a {other}" if isinstance(other, str) else "it is something else")
        return make(data)
    except KeyError as error:
        raise ValueError(f"{path} holds no saved {kind}, or is damaged: {error} is missing") from error
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} holds no saved {kind}, or is damaged: {error}") from error


def entry(data: Mapping[str, Any], name: str, kind: type[Result]) -> Result:
    """One entry, checked. Raises KeyError if there is none, ValueError if it is of another type."""
    value = data[name]
    if not _is(value, kind):
        raise ValueError(f"{name} must be {kind.__name__}, and is {str(value)[:40]!r}")
    return kind(value) if kind is float else value  # type: ignore[call-arg]


def choice(data: Mapping[str, Any], name: str, allowed: tuple[Any, ...]) -> Any:
    """One entry that must be one of a few. Raises KeyError if there is none, ValueError if it is another."""
    if data[name] not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, allowed))}, and is {str(data[name])[:40]!r}")
    return data[name]


def rows(table: pd.DataFrame) -> list[dict[str, Any]]:
    """A table's rows for JSON; None where a number is missing."""
    return [
        {str(name): None if isinstance(value, float) and math.isnan(value) else value for name, value in row.items()}
        for row in table.to_dict("records")
    ]


def table(
    data: Mapping[str, Any], columns: Mapping[str, type], name: str = "table", empty: bool = False
) -> pd.DataFrame:
    """The table of `data[name]`, with these columns: int, float (None is nan), str or bool.

    empty: whether it may have no rows.

    Raises: KeyError if there is none; ValueError if it has no rows, or any value is of another type or not finite.
    """
    found, its = data[name], "its table" if name == "table" else f"its table {name}"
    if not isinstance(found, list) or not (found or empty):
        raise ValueError(f"{its} has no rows")
    for i, row in enumerate(found):
        if not isinstance(row, dict) or row.keys() != columns.keys():
            raise ValueError(f"row {i} of {its} does not have the columns {', '.join(columns)}")
        for column, kind in columns.items():
            if not _is(row[column], kind) and not (kind is float and row[column] is None):
                raise ValueError(f"{column} in row {i} of {its} is {str(row[column])[:40]!r}, no {kind.__name__}")
    values = {column: [row[column] for row in found] for column in columns}
    return pd.DataFrame({column: pd.Series(values[column], dtype=kind) for column, kind in columns.items()})


def table_of_sets(data: Mapping[str, Any], columns: Mapping[str, type]) -> pd.DataFrame:
    """A table whose first row is of the chosen set and the others of random ones. Raises as `table` does."""
    found = table(data, columns)
    if found["set"].tolist() != ["chosen", *["random"] * (len(found) - 1)]:
        raise ValueError("its table is not of one chosen set and then random ones")
    return found


def _is(value: Any, kind: type) -> bool:
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return isinstance(value, kind) and not (kind is int and isinstance(value, bool))
