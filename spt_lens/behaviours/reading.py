"""Questions from files and tables: JSON Lines, CSV, a DataFrame, a `datasets.Dataset`, or a list."""

from __future__ import annotations

import csv
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import pandas as pd

from spt_lens.behaviours.jsonl import OnError, Record, bounded, local_file, made_rows, read_rows
from spt_lens.behaviours.question import Question
from spt_lens.chat.dialogues import Message

_WAY_OUT = (
    'give Question("What is ...?", "right", "wrong"), such a tuple, {"text": ..., "answers": ...}, a table with the '
    "columns question, answer and wrong, or the path of one (.jsonl, .csv)"
)
_NEEDED = (("question", "text"), ("answer", "answers"))


def read_questions(source: Any, on_error: OnError = "raise") -> tuple[tuple[Question, ...], tuple[str, ...]]:
    """Questions, and the messages of rows that were skipped.

    source: a list of `Question`s, of dicts, or of (text, answers, wrong answers); a DataFrame; a `datasets.Dataset` or
        DatasetDict (its keys are the splits); or the path of a .jsonl, .csv or .tsv file, also on the hub
        ("hf://datasets/owner/name/path.jsonl"). A row has `question` (or `text`), `answer` or `answers` and, if it
        likes, `wrong`: each a text or a list of texts, in CSV several by "|"; also `split`, `category`, `fact`,
        `source` and `before`, a list of {"role": ..., "content": ...}. Other columns are left alone.
    on_error: "skip" leaves out rows that can't be read, and those that ask what an earlier one asks.

    Raises: TypeError for something else; FileNotFoundError; ValueError for a row that can't be read (the message names
    file, row and field), no question at all, or one that is there twice.
    """
    if isinstance(source, str | Path):
        name = Path(source).name
        if Path(source).suffix.lower() in (".csv", ".tsv"):
            made, skipped = made_rows(
                csv_rows(source, _NEEDED, _WAY_OUT), _table_row(str(source), name, "|"), on_error, str(source)
            )
        else:
            made, skipped = read_rows(source, lambda row, n: _question(row, f"{name}, row {n}"), on_error)
    elif isinstance(source, pd.DataFrame):
        rows = source.to_dict("records")
        made, skipped = made_rows(enumerate(rows), _table_row("the DataFrame", "DataFrame"), on_error, "the DataFrame")
    elif type(source).__module__.partition(".")[0] == "datasets":
        parts = source.items() if isinstance(source, Mapping) else [(None, source)]
        rows = [{**row, **({} if split is None else {"split": split})} for split, part in parts for row in part]
        made, skipped = made_rows(enumerate(rows), _table_row("the Dataset", "Dataset"), on_error, "the Dataset")
    elif isinstance(source, Mapping) or not isinstance(source, Sequence):
        raise TypeError(f"questions must be a list, not a {type(source).__name__}: {_WAY_OUT}")
    else:
        made, skipped = made_rows(enumerate(source), _listed, on_error, "questions")
    if not made:
        raise ValueError(f"there are no questions: {_WAY_OUT}")
    return _once(made, skipped, on_error)


def _once(
    made: Sequence[Question], skipped: Sequence[str], on_error: OnError
) -> tuple[tuple[Question, ...], tuple[str, ...]]:
    """The questions, each one once, and the messages about the others."""
    seen: dict[Any, Question] = {}
    said = list(skipped)
    for i, question in enumerate(made):
        first = seen.setdefault((question.before, question.plain), question)
        if first is not question:
            where = f", in the splits {first.split!r} and {question.split!r}" if first.split != question.split else ""
            said.append(f"{question.source or f'questions[{i}]'}, {question.text!r}, is there twice{where}")
            if on_error == "raise":
                raise ValueError(f"{said[-1]}: leave one out, or all but the first by on_error='skip'")
    return tuple(seen.values()), tuple(said)


def _listed(each: Any, i: int) -> Question:
    """A question of a list."""
    if isinstance(each, Question):
        return each
    if isinstance(each, Mapping):
        if not ({"text", "question"} & each.keys() and {"answers", "answer"} & each.keys()):
            raise ValueError(f"questions[{i}] has the fields {', '.join(map(str, each))}: {_WAY_OUT}")
        return _question(Record(dict(each), f"questions[{i}]"), "")
    if isinstance(each, str) or not isinstance(each, list | tuple) or not 2 <= len(each) <= len(fields(Question)):
        raise TypeError(f"questions[{i}] is {each!r}: {_WAY_OUT}")
    try:
        return Question(*each)
    except (TypeError, ValueError) as error:
        raise type(error)(f"questions[{i}]: {error}") from error


def _table_row(place: str, name: str, cut: str | None = None) -> Any:
    """What makes a question of a table's row and its number. cut: what stands between several texts in one cell."""

    def make(row: Mapping[Any, Any], number: int) -> Question:
        record = whole_row(row, f"{place}, row {number}")
        for field in ("answer", "answers", "wrong") if cut else ():
            if isinstance(text := record.values.get(field), str):
                record.values[field] = [part.strip() for part in text.split(cut) if part.strip()] or ""
        return _question(record, f"{name}, row {number}")

    return make


def whole_row(row: Mapping[Any, Any], place: str) -> Record:
    """A table's row. Raises ValueError for one with more values than columns, which csv puts under None."""
    if None in row:
        more = f"{len(row) - 1 + len(row[None])} values for {len(row) - 1} columns"
        raise ValueError(f'{place}: {more}; put texts that hold commas into "..."')
    return Record({str(key): value for key, value in row.items()}, place)


def _question(row: Record, source: str) -> Question:
    row = Record({name: cell(value) for name, value in row.values.items()}, row.place)
    text = row.text("text" if row.has("text") else "question")
    right = [name for name in ("answer", "answers") if row.has(name)] or ["answer"]
    answers = dict.fromkeys(each for name in right for each in row.texts(name))
    wrong = tuple(row.texts("wrong")) if row.has("wrong") else ()
    about: dict[str, Any] = {name: row.text(name) for name in ("split", "category", "fact", "source") if row.has(name)}
    try:
        before = tuple(
            each if isinstance(each, Message) else Message(**each) for each in row.values.get("before") or ()
        )
    except (TypeError, ValueError):
        found = row.values["before"]
        raise row.error("before", f"found {found!r:.60}", 'it must be [{"role": "user", "content": "..."}]') from None
    try:
        return Question(text, tuple(answers), wrong, before=before, **{"source": source, **about})
    except (TypeError, ValueError) as error:
        raise ValueError(f"{row.place}: {error}") from error


def cell(value: Any) -> Any:
    """A cell as JSON would have it, but for numbers, which are texts: tables hold years and counts. Missing: None."""
    value = value.tolist() if hasattr(value, "tolist") else value
    if isinstance(value, list | tuple):
        return [cell(each) for each in value]
    if pd.api.types.is_scalar(value) and pd.isna(value):
        return None
    if isinstance(value, float) and value.is_integer():  # a column of whole numbers with a gap in it
        value = int(value)
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


def csv_rows(path: str | Path, needed: Sequence[Collection[str]], way_out: str) -> Iterator[tuple[int, dict[Any, Any]]]:
    """The rows of a CSV file with a header, and the lines that they begin in. needed: columns, one of each is there.

    Raises: as `local_file`; ValueError for what is no such file, with the way out.
    """
    file = local_file(path)
    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            reader = csv.DictReader(
                bounded(lines, path), delimiter="\t" if file.suffix.lower() == ".tsv" else ",", strict=True
            )
            known = list(reader.fieldnames or ())
            if not all({*known} & {*names} for names in needed):
                raise ValueError(f"{path} has the columns {', '.join(known) or 'none'}: {way_out}")
            if len({*known}) < len(known):
                raise ValueError(f"{path} has two columns of one name, of {', '.join(known)}: rename one")
            begins = reader.line_num + 1
            for row in reader:
                yield begins, row
                begins = reader.line_num + 1
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text ({error.reason}): save it as UTF-8") from error
    except csv.Error as error:
        raise ValueError(f"{path} is no CSV file: {error}") from error
