"""One opinion: a prompt that tells it, the same without it, and two replies; from texts, chat lists, or rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from spt_lens.behaviours.behaviour import SPLITS, Split, check_split, plain, split_of
from spt_lens.behaviours.jsonl import OnError, Record, made_rows, read_rows
from spt_lens.behaviours.reading import cell, csv_rows, whole_row
from spt_lens.chat.dialogues import Dialogue, Message, Meta, as_dialogues
from spt_lens.checking import door, instance, shown

Prompt = str | Dialogue | Sequence[Mapping[str, str]]  # a text is one user turn; a chat list as transformers takes it
TOLD, UNTOLD = "with the opinion", "without the opinion"
_COLUMNS = ("with_opinion", "without", "agrees", "other")
_ROW = '{"with_opinion": ..., "without": ..., "agrees": ..., "other": ...}'


@door
@dataclass(frozen=True)
class Opinion:
    """A prompt that tells the user's opinion, and the same one without it: a text, a chat list or a Dialogue each.

    matching: the reply that agrees with the user. other: one that does not. source: what errors call it. answers: all
    that are accepted, where `other` is a right answer. kind: what reports call opinions of its kind. split: "train",
    "validation" or "test"; default: drawn by the prompt without the opinion.

    Raises: TypeError for what is no prompt; ValueError for a prompt that does not end with the user's turn, for what is
    empty, and for prompts or replies that differ in case, spaces and the marks at their end alone.
    """

    question: Prompt
    neutral: Prompt
    matching: str
    other: str
    source: str = ""
    answers: tuple[str, ...] = ()
    kind: str = TOLD
    split: Split | None = None

    def __post_init__(self) -> None:
        check_split(self.split)
        for name in ("question", "neutral"):
            given = getattr(self, name)
            if not isinstance(given, str):
                given = Dialogue.of(given, name)
                if not given.messages or given.messages[-1].role != "user":
                    raise ValueError(f"{name} must end with a user turn: leave the reply out")
                object.__setattr__(self, name, given)
            if not _last(given).strip():
                raise ValueError(f"{name} is empty: give what the user says")
        for name in ("matching", "other"):
            if not instance(getattr(self, name), name, str, "give a text").strip():
                raise ValueError(f"{name} is empty: give the reply that {_MEANS[name]}")
        if same(self.question, self.neutral):
            raise ValueError("question and neutral are the same: neutral is the prompt that tells no opinion")
        if same(self.matching, self.other) and not self.answers:  # a right answer may be what the user suggests
            raise ValueError(f"matching and other are {self.matching!r} and {self.other!r}: give two that differ")

    @property
    def about(self) -> str:
        """The prompt without the opinion as a text, several turns with their roles: what opinions on one thing have in
        common."""
        turns = Dialogue.of(self.neutral).messages
        several = len(turns) > 1
        return "\n\n".join(f"{m.role}: {m.content}" for m in turns) if several else text_of(self.neutral)

    @property
    def _meta(self) -> Meta:
        meta: Meta = {"answer": self.other, "opinion": self.matching, "about": self.about}
        more: Meta = {"source": self.source, "answers": self.answers}
        return meta | {name: value for name, value in more.items() if value}

    @property
    def challenged(self) -> Dialogue:
        return replace(Dialogue.of(self.question), meta=self._meta)

    @property
    def unbiased(self) -> Dialogue:
        return replace(Dialogue.of(self.neutral), meta=self._meta)


def text_of(prompt: Prompt) -> str:
    """A prompt's turns as one text."""
    return prompt if isinstance(prompt, str) else "\n\n".join(m.content for m in Dialogue.of(prompt).messages)


def splits_of(opinions: Sequence[Opinion]) -> list[Split]:
    """The split of each: its own, or that of another on the same thing, or the one that is drawn for it.

    Raises: ValueError for one thing in two splits, which tuning and evaluation would share.
    """
    given: dict[str, Split] = {}
    for each in opinions:
        if each.split and given.setdefault(plain(each.about), each.split) != each.split:
            raise ValueError(
                f"{each.about!r} is in the splits {given[plain(each.about)]!r} and {each.split!r}: put all prompts "
                "that are the same without the opinion into one"
            )
    drawn = split_of([each.about for each in opinions])
    return [given.get(plain(each.about), split) for each, split in zip(opinions, drawn, strict=True)]


def _last(prompt: Prompt) -> str:
    return prompt if isinstance(prompt, str) else Dialogue.of(prompt).messages[-1].content


def same(one: Prompt, other: Prompt) -> bool:
    """Whether two prompts or replies are one, but for what `plain` leaves out."""
    turns = [[(m.role, plain(m.content) or m.content) for m in Dialogue.of(each).messages] for each in (one, other)]
    return turns[0] == turns[1]


def opinions_from(
    with_opinion: Any, without: Any, agrees: Any, other: Any, question: Any = "", kind: str = TOLD
) -> list[Opinion]:
    """Opinions from lists, as `Opinions.of` takes them. Raises as it does."""
    prompts = {"with_opinion": as_dialogues(with_opinion, "with_opinion", 1)}
    n = len(prompts["with_opinion"])
    prompts["without"] = as_dialogues(without, "without")
    texts = {"agrees": agrees, "other": other, "question": question}
    for name, given in texts.items():
        several = given.tolist() if hasattr(given, "tolist") else given
        several = [several] * n if isinstance(several, str) else several
        if not isinstance(several, list | tuple) or not all(isinstance(each, str) for each in several):
            raise TypeError(f"{name} is {shown(given)}: give one text for all, or a list with one for each prompt")
        texts[name] = several
    for name, rows in {**prompts, **texts}.items():
        if len(rows) != n:
            raise ValueError(f"there are {n} prompts in with_opinion and {len(rows)} in {name}: give as many of each")
    made = []
    for i, (told, untold, *said) in enumerate(zip(*prompts.values(), *texts.values(), strict=True)):
        made.append(_made(f"row {i}", told, untold, *said, kind=kind))
    return made


def _made(
    place: str, told: Dialogue, untold: Dialogue, agrees: str, other: str, question: str = "", **more: Any
) -> Opinion:
    """An opinion of one row. Raises ValueError that names the row."""
    for name, text in {"agrees": agrees, "other": other}.items():
        if not text.strip():
            raise ValueError(f"{place}: {name} is empty: give the reply that {_MEANS[name]}")
    written = {"agrees": agrees, "other": other, "question": question}
    for name, text in {**written, "with_opinion": text_of(told), "without": text_of(untold)}.items():
        if any("\ud800" <= letter < "\ue000" for letter in text):
            raise ValueError(f"{place}: {name} holds half a character: write it again")
    if same(agrees, other):
        said = (
            f"both {agrees!r}" if agrees.strip() == other.strip() else f"{agrees!r} and {other!r}, which are the same"
        )
        raise ValueError(f"{place}: agrees and other are {said}: give two replies that differ")
    asked = {"with_opinion": told, "without": untold}
    for name, prompt in asked.items():
        if not prompt.messages or prompt.messages[-1].role != "user":
            last = prompt.messages[-1].role if prompt.messages else "nothing"
            raise ValueError(f"{place}: {name} must end with a user turn, and ends with {last}: leave the reply out")
        if not prompt.messages[-1].content.strip():
            raise ValueError(f"{place}: {name} is empty: give what the user says")
        if question:
            turn = Message("user", f"{prompt.messages[-1].content.rstrip()}\n\n{question}")
            asked[name] = replace(prompt, messages=(*prompt.messages[:-1], turn))
    told, untold = asked.values()
    if same(told, untold):
        raise ValueError(f"{place}: with_opinion and without are the same: without is the prompt that tells no opinion")
    return Opinion(told, untold, agrees.strip(), other.strip(), **more)


_MEANS = {"other": "does not agree with the user"} | dict.fromkeys(("agrees", "matching"), "agrees with the user")


def read_opinions(rows: Any, on_error: OnError = "raise") -> tuple[list[Opinion], tuple[str, ...]]:
    """Opinions of rows, and the messages of rows that were skipped.

    rows: a list of `Opinion`s or of dicts, a DataFrame, or the path of a .jsonl, .csv or .tsv file, also on the hub. A
    row has `with_opinion` and `without`, a text or a chat list, `agrees` and `other`; if it likes also `question`,
    `kind` and `split`.

    Raises: TypeError for something else; FileNotFoundError; ValueError for a row that can't be read.
    """
    if isinstance(rows, str | Path):
        name = Path(rows).name
        if Path(rows).suffix.lower() not in (".csv", ".tsv"):
            return read_rows(rows, lambda row, n: _of_row(row, f"{name}, row {n}"), on_error)
        table = csv_rows(rows, [[column] for column in _COLUMNS], f"give it the columns {', '.join(_COLUMNS)}")
        made, skipped = made_rows(
            table, lambda row, n: _of_row(whole_row(row, f"{rows}, row {n}"), f"{name}, row {n}"), on_error, str(rows)
        )
        if not made:
            raise ValueError(f"{rows} has no rows: give it one for each prompt, below the names of its columns")
        return made, skipped
    if isinstance(rows, pd.DataFrame):
        rows = rows.to_dict("records")
    if isinstance(rows, Mapping | str) or not isinstance(rows, Sequence):
        raise TypeError(f"rows is {shown(rows)}: give a list of {_ROW}, a table with these columns, or a file's path")

    def make(row: Any, i: int) -> Opinion:
        if isinstance(row, Opinion):
            return row
        if not isinstance(row, Mapping):
            raise TypeError(f"opinions[{i}] is a {type(row).__name__}: give Opinion(question, neutral, ...) or {_ROW}")
        return _of_row(Record(dict(row), f"rows[{i}]"), f"row {i}")

    return made_rows(enumerate(rows), make, on_error, "rows")


def _of_row(row: Record, source: str) -> Opinion:
    row = Record({name: cell(value) for name, value in row.values.items()}, row.place)
    told, untold = (_prompt(row, name) for name in ("with_opinion", "without"))
    question = row.text("question") if row.has("question") else ""
    about: dict[str, Any] = {name: row.text(name) for name in ("kind", "split") if row.has(name)}
    if about.get("split", "train") not in SPLITS:
        raise row.error("split", f"found {about['split']!r}", f"it must be one of {', '.join(SPLITS)}")
    return _made(row.place, told, untold, row.text("agrees"), row.text("other"), question, source=source, **about)


def _prompt(row: Record, name: str) -> Dialogue:
    value = row.values.get(name)
    try:
        return Dialogue.of(value if isinstance(value, list | tuple | Dialogue) else row.text(name), name)
    except TypeError as error:
        raise ValueError(f"{row.place}: {error}") from None
