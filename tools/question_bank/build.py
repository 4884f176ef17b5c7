"""The rows of the question bank, made of the tables in this folder, and checked.

A table is one family of facts: a line a fact, `subject TAB answers TAB wrong TAB also`, several apart by "|". The first
answer is the one that is given; `wrong` are three wrong ones, drawn from the table's other answers where there are
none, first from those between the same blank lines; `also` is what is true too, and neither accepted nor offered as
wrong. Lines on top: "#ask QUESTION", one or several wordings with {} for the subject; "#inverse NAME QUESTION" asks the
other way round; "#numbers": answers are numbers; "#surname": a last name will do; "#never A|B": no wrong answers here.
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from spt_lens.behaviours.behaviour import Split
from spt_lens.behaviours.judging import named_in, same_answer

TABLES = Path(__file__).parent
TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
ONES = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
).split()


@dataclass(frozen=True)
class Fact:
    """A line of a table: what is known of a subject. Lists as they stand, `group` by the blank lines above it."""

    subjects: list[str]
    answers: list[str]
    wrong: list[str]
    also: list[str]
    group: int


@dataclass
class Table:
    """A family of facts, and the words that ask for them."""

    name: str
    asks: list[str] = field(default_factory=list)
    inverse: tuple[str, str] | None = None
    marks: set[str] = field(default_factory=set)
    never: list[str] = field(default_factory=list)
    facts: list[Fact] = field(default_factory=list)


def read_table(path: Path) -> Table:
    """Raises: ValueError for a line that can't be read."""
    table, group = Table(path.stem), 0
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        kind, _, rest = line.partition(" ")
        if kind == "#ask":
            table.asks.append(rest)
        elif kind == "#inverse":
            name, _, ask = rest.partition(" ")
            table.inverse = name, ask
        elif kind == "#never":
            table.never = rest.split("|")
        elif kind in ("#numbers", "#surname"):
            table.marks.add(kind)
        elif not line:
            group += 1
        else:
            columns = [[each for each in column.split("|") if each] for column in line.split("\t")]
            if not 2 <= len(columns) <= 4 or not columns[1] or line != line.strip():
                raise ValueError(f"{path}, line {number}: {line!r} is no fact: write subject TAB answers")
            subjects, answers, wrong, also = columns + [[]] * (4 - len(columns))
            table.facts.append(Fact(subjects, answers, wrong, also, group))
    return table


def rows() -> list[dict[str, Any]]:
    """The bank's rows, in the order of the tables. Raises: ValueError that lists every fault found."""
    known = {fact.subjects[0]: [*fact.subjects, *fact.answers] for fact in read_table(TABLES / "aliases.tsv").facts}
    made: list[dict[str, Any]] = []
    for path in sorted(TABLES.glob("*.tsv")):
        if path.stem != "aliases":
            made += _asked(read_table(path), known)
    found = list(faults(made))
    if found:
        raise ValueError("the question bank has faults:\n" + "\n".join(found))
    return made


def faults(made: Sequence[dict[str, Any]]) -> Iterator[str]:
    """What is wrong with the rows, each in a sentence."""
    for question, n in Counter(_bare(row["question"]) for row in made).items():
        if n > 1:
            yield f"{question!r} is there {n} times"
    split: dict[str, Split] = {}
    for row in made:
        where, right, wrong = f"{row['relation']}, {row['question']!r}", row["answers"], row["wrong"]
        if not all(map(_bare, (row["question"], *right, *wrong))) or not right:
            yield f"{where}: something is empty"
        if len(wrong) != 3:
            yield f"{where}: {len(wrong)} wrong answers, {wrong}"
        if split.setdefault(row["fact"], row["split"]) != row["split"]:
            yield f"{where}: its fact is in two splits"
        for i, one in enumerate(wrong):
            for other in (*right, *wrong[:i]):
                if alike(one, other):
                    yield f"{where}: {one!r} and {other!r} are too much alike"
        if named_in(row["question"], right)[0] is not None:
            yield f"{where}: the question names its answer"


def alike(one: str, other: str) -> bool:
    """Whether two answers are the same, or one holds the other as whole words."""
    short, long = sorted((_bare(one), _bare(other)), key=len)
    return same_answer(one, other) or re.search(rf"(?<!\w){re.escape(short)}(?!\w)", long) is not None


def _asked(table: Table, known: dict[str, list[str]]) -> Iterator[dict[str, Any]]:
    """A table's questions, one way round and the other."""
    full = [_accepted(fact.answers, table, known) for fact in table.facts]
    for fact, answers in zip(table.facts, full, strict=True):
        if _is_letter(answers[0]):
            continue
        ask = min(table.asks, key=lambda ask: _order(ask, fact.subjects[0]))
        others = [(other.group != fact.group, known_as) for other, known_as in zip(table.facts, full, strict=True)]
        yield _row(table, table.name, ask.format(fact.subjects[0]), fact, answers, fact.wrong, others)
    if table.inverse is not None:
        named = [_accepted(_without_the(fact.subjects), None, known) for fact in table.facts]
        for fact, answers in zip(table.facts, named, strict=True):
            others = [(other.group != fact.group, known_as) for other, known_as in zip(table.facts, named, strict=True)]
            question = table.inverse[1].format(fact.answers[0])
            yield _row(table, table.inverse[0], question, fact, answers, [], others)


def _row(
    table: Table,
    relation: str,
    question: str,
    fact: Fact,
    answers: list[str],
    wrong: list[str],
    others: Iterable[tuple[bool, list[str]]],
) -> dict[str, Any]:
    key = f"{table.name}: " + " / ".join(sorted((_bare(fact.subjects[0]), _bare(fact.answers[0]))))
    if not wrong and "#numbers" in table.marks and relation == table.name:
        others = [(False, [str(n)]) for n in _near(int(answers[0]))]
    taken, true = list(wrong), [*answers, *fact.also, *table.never]
    for _, names in sorted(others, key=lambda other: (other[0], _order(question, other[1][0]))):
        # None of its names may be a right one: an answer that two facts share is right for both. Nor is a letter read.
        if (
            len(taken) < 3
            and not _is_letter(names[0])
            and not any(alike(name, each) for name in names for each in (*true, *taken))
        ):
            taken.append(names[0])
    part = int.from_bytes(hashlib.sha256(key.encode()).digest()[:4]) / 2**32
    return {
        "relation": relation,
        "question": question,
        "answers": answers,
        "wrong": taken,
        "split": "train" if part < 0.5 else "validation" if part < 0.7 else "test",
        "fact": key,
    }


def _accepted(answers: list[str], table: Table | None, known: dict[str, list[str]]) -> list[str]:
    """The answers with what else they are called: by the list of aliases, in words, by a surname, without accents."""
    found = [name for answer in answers for name in known.get(answer, [answer])]
    if table is not None and "#numbers" in table.marks:
        found += _words(int(answers[0]))
    if table is not None and "#surname" in table.marks and not answers[0].startswith("the "):
        last = answers[0].split()[-1]
        clash = {fact.answers[0] for fact in table.facts if fact.answers[0].split()[-1] == last} - {answers[0]}
        found += [last] if len(last) > 2 and not clash else []
    found += [_plain(name) for name in found]
    # Short answers are read by their own case: "Cub." begins a sentence.
    found += [name.capitalize() for name in found if len(name) < 4 and name.islower()]
    return list(dict.fromkeys(found))


def _is_letter(answer: str) -> bool:
    """A letter in a reply is read as a choice of a list."""
    return len(answer) == 1 and answer.isalpha()


def _words(n: int) -> list[str]:
    if n < 20:
        return [ONES[n]]
    if n < 100:
        return [TENS[n // 10 - 2] + (f"-{ONES[n % 10]}" if n % 10 else "")]
    return {100: ["one hundred", "hundred"], 1000: ["one thousand", "thousand"]}.get(n, [])


def _near(n: int) -> list[int]:
    """Numbers that one may take for n."""
    steps = [n // 10, n // 2, n * 2, n * 10] if n in (100, 1000) else [n + k for k in (-10, -3, -2, -1, 1, 2, 3, 10)]
    return [each for each in steps if each > 0]


def _without_the(names: list[str]) -> list[str]:
    return [name.removeprefix("the ") for name in names] + [name for name in names if name.startswith("the ")]


def _plain(text: str) -> str:
    special = text.translate(str.maketrans("łŁđø", "lLdo"))
    return "".join(c for c in unicodedata.normalize("NFKD", special) if not unicodedata.combining(c))


def _order(*texts: str) -> bytes:
    return hashlib.sha256("|".join(texts).encode()).digest()


def _bare(text: str) -> str:
    return re.sub(r"[\s.,;:!?\"'*]+", " ", _plain(text)).strip().casefold()


def text() -> str:
    """The bank as it is committed."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows())
