"""Reading JSON Lines files, local or on the Hugging Face hub, with errors that name the file, the row and the field."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, TextIO, TypeVar, get_args

import huggingface_hub

from spt_lens import saving
from spt_lens.checking import one_of

OnError = Literal["raise", "skip"]
HUB = "hf://datasets/"
Made = TypeVar("Made")
Row = TypeVar("Row")


@dataclass(frozen=True)
class Record:
    """A JSON object and where it stands: `place` is its file and row, `inside` the field that holds it ("base.")."""

    values: dict[str, Any]
    place: str
    inside: str = ""

    def error(self, field: str, found: str, todo: str) -> ValueError:
        """An error about one field: what was found there, and what to do."""
        return ValueError(f"{self.place}, field {self.inside + field!r}: {found}; {todo}")

    def has(self, field: str) -> bool:
        """Whether the field is there and says something: not null, "" or []."""
        return self.values.get(field) not in (None, "", [])

    def text(self, field: str, todo: str = "it must be a text") -> str:
        """A field's text as it stands. Raises: ValueError if it is missing, blank or no text."""
        value = self.values.get(field)
        if field not in self.values:
            known = ", ".join(map(repr, self.values)) or "no fields"
            raise self.error(field, f"it is missing (there are {known})", todo)
        if not isinstance(value, str) or not value.strip():
            raise self.error(field, f"found {_short(value)}", todo)
        try:
            value.encode("utf-8")
        except UnicodeEncodeError as error:
            raise self.error(field, f"the text holds half a character ({error.reason})", "write it again") from error
        return value

    def texts(self, field: str, todo: str = "it must be a text or a list of texts") -> list[str]:
        """A field's texts, one or several. Raises: ValueError if there is none, or something else among them."""
        value = self.values.get(field)
        if not isinstance(value, list):
            return [self.text(field, todo)]
        inner = Record({f"{field}[{i}]": item for i, item in enumerate(value)}, self.place, self.inside)
        if not value:
            raise self.error(field, "found an empty list", todo)
        return [inner.text(name, todo) for name in inner.values]

    def record(self, field: str) -> Record:
        """A field that is an object itself. Raises: ValueError if it is missing or something else."""
        value = self.values.get(field)
        if not isinstance(value, dict):
            found = f"found {_short(value)}" if field in self.values else "it is missing"
            raise self.error(field, found, "it must be an object, { ... }")
        return Record(value, self.place, f"{self.inside}{field}.")


def read_rows(
    path: str | Path, make: Callable[[Record, int], Made | None], on_error: OnError
) -> tuple[list[Made], tuple[str, ...]]:
    """What `make` makes of each row and its number, leaving out None; and the messages of rows that were skipped.

    Rows are counted by lines, from 1. Blank lines are no rows.

    Raises: as `local_file` does; ValueError for a file that is not UTF-8 text or holds no rows, and for a row that
    can't be read, any ValueError of `make` among these; with on_error="skip" only if none at all can.
    """
    numbered = numbered_lines(path)
    return made_rows(numbered, lambda line, n: make(_record(line, f"{path}, row {n}"), n), on_error, str(path))


def made_rows(
    rows: Iterable[tuple[int, Row]], make: Callable[[Row, int], Made | None], on_error: OnError, name: str
) -> tuple[list[Made], tuple[str, ...]]:
    """`read_rows` of any numbered rows. name: what errors call the whole. Raises: ValueError as it does."""
    one_of(on_error, "on_error", get_args(OnError))
    made: list[Made] = []
    skipped: list[str] = []
    n = 0
    for number, row in rows:
        n += 1
        try:
            found = make(row, number)
        except ValueError as error:
            if on_error == "raise":
                raise
            skipped.append(str(error))
        else:
            made += [] if found is None else [found]
    if n and len(skipped) == n:
        raise ValueError(f"none of the {n} rows of {name} can be read. The first: {skipped[0]}")
    return made, tuple(skipped)


def numbered_lines(path: str | Path) -> Iterator[tuple[int, str]]:
    """The lines of a text file that hold something, from 1. Raises as `read_rows` does."""
    file, n = local_file(path), 0
    try:
        # Line by line in universal-newline mode: str.splitlines would also cut at the line separators that JSON allows.
        with file.open(encoding="utf-8-sig") as lines:
            for number, line in enumerate(bounded(lines, path), start=1):
                if line.strip():
                    n += 1
                    yield number, line
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text ({error.reason}): it must be a JSON Lines file") from error
    if n == 0:
        raise ValueError(f"{path} is empty: it must hold one JSON object a line")


def bounded(lines: TextIO, path: str | Path) -> Iterator[str]:
    """The lines of an open file. Raises ValueError for one that is too long for a row."""
    for line in iter(partial(lines.readline, saving.LONGEST), ""):
        if len(line) == saving.LONGEST:
            raise ValueError(f"{path} has a line of {saving.LONGEST:,} characters or more: it must hold a row a line")
        yield line


def local_file(path: str | Path) -> Path:
    """The file itself, or the local copy of "hf://datasets/owner/name/path/in/repo.jsonl" (owner/name@revision, too).

    Raises: FileNotFoundError, ValueError for an incomplete hub name, or OSError if the hub does not give the file.
    """
    text = str(path)
    if not text.startswith(HUB):
        file = Path(path).expanduser()
        if not file.is_file():
            what = "is a folder" if file.is_dir() else "is no ordinary file" if file.exists() else "does not exist"
            raise FileNotFoundError(f'{path} {what}: pass a JSON Lines file, or "{HUB}owner/name/path/in/repo.jsonl"')
        return file
    owner, name, inside = (*text.removeprefix(HUB).split("/", 2), "", "")[:3]
    if not (owner and name and inside):
        raise ValueError(f'{text!r} is incomplete: write "{HUB}owner/name/path/in/repo.jsonl"')
    name, _, revision = name.partition("@")
    try:
        found = huggingface_hub.hf_hub_download(
            f"{owner}/{name}", inside, repo_type="dataset", revision=revision or None
        )
    except Exception as error:  # the hub's own errors have many bases
        first, *_ = str(error).strip().splitlines() or [""]
        raise OSError(
            f"the hub did not give {text} ({type(error).__name__}: {first}): check the name and the connection, or "
            "download the file and pass its path"
        ) from error
    return Path(found)


def _record(line: str, place: str) -> Record:
    try:
        value = saving.parsed(line)
    except ValueError as error:
        raise ValueError(f"{place}: not JSON ({error}); the file must hold one JSON object a line") from error
    if not isinstance(value, dict):
        raise ValueError(f"{place}: found {_short(value)}; the file must hold one JSON object a line")
    return Record(value, place)


def _short(value: Any) -> str:
    """A value as errors show it."""
    kinds = {
        dict: "an object",
        list: "a list",
        str: "a text",
        bool: "true or false",
        int: "a number",
        float: "a number",
    }
    shown = json.dumps(value, ensure_ascii=False, default=str).encode("utf-8", "backslashreplace").decode()
    kind = kinds.get(type(value), f"a {type(value).__name__}")  # tables hold what JSON does not
    return "null" if value is None else f"{kind}, {shown if len(shown) <= 60 else shown[:57] + '...'}"
