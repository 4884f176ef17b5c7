"""Wrong values for every argument of the public functions, and what is right there: see test_doors.py."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

# Made anew for each call: a generator can be read once.
VALUES: dict[str, Callable[[], Any]] = {
    "None": lambda: None,
    "True": lambda: True,
    "empty text": lambda: "",
    "blank": lambda: "  ",
    "word": lambda: "nope",
    "number as text": lambda: "3",
    "lone surrogate": lambda: "\ud800",
    "seven": lambda: 7,
    "minus one": lambda: -1,
    "huge": lambda: 10**30,
    "half": lambda: 1.5,
    "nan": lambda: float("nan"),
    "inf": lambda: float("inf"),
    "complex": lambda: 1j,
    "decimal": lambda: Decimal("0.5"),
    "fraction": lambda: Fraction(1, 2),
    "numpy int": lambda: np.int64(2),
    "numpy float": lambda: np.float32(0.5),
    "numpy nan": lambda: np.float64("nan"),
    "numpy bool": lambda: np.bool_(True),
    "numpy text": lambda: np.str_("nope"),
    "numpy array": lambda: np.ones((2, 2)),
    "torch int": lambda: torch.tensor(2),
    "torch float": lambda: torch.tensor(0.5),
    "torch nan": lambda: torch.tensor(float("nan")),
    "torch bool": lambda: torch.tensor(True),
    "tensor": lambda: torch.ones(2, 2),
    "path": lambda: Path("nowhere/at/all"),
    "bytes": lambda: b"nope",
    "empty list": list,
    "empty tuple": tuple,
    "words": lambda: ["a"],
    "word tuple": lambda: ("a", "b"),
    "list of None": lambda: [None],
    "numbers": lambda: [0.5, 1.5],
    "negative numbers": lambda: [-1],
    "list of lists": lambda: [["a", 1]],
    "empty dict": dict,
    "dict": lambda: {"a": 1},
    "dict by number": lambda: {1: None},
    "set": lambda: {"a"},
    "generator": lambda: (each for each in ["a"]),
    "object": object,
    "class": lambda: int,
    "function": lambda: lambda: None,
    "device": lambda: torch.device("cpu"),
}
WHOLE = {"seven", "minus one", "huge", "numpy int", "torch int"}
MAY: dict[str, set[str]] = {
    "None": {"None"},
    "bool": {"True", "numpy bool", "torch bool"},
    "int": WHOLE,
    "float": WHOLE | {"half", "fraction", "decimal", "numpy float", "torch float"},
    "str": {"empty text", "blank", "word", "number as text", "numpy text", "lone surrogate"},
    "Path": {"path"},
    "Mapping": {"empty dict"},
    "Sequence": {"empty list", "empty tuple"},
    "Sequence[str]": {"empty list", "empty tuple", "words", "word tuple"},
    "Sequence[Dialogue]": {"empty list", "empty tuple", "words", "word tuple"},  # a text is one user turn
    "Sequence[float]": {"empty list", "empty tuple", "numbers", "negative numbers"},
    "Mapping[str, Any]": {"empty dict", "dict", "dict by number"},
    "Callable": {"function", "class"},
    "torch.device": {"device"},
}
PACKAGE = str(Path(__file__).parent.parent / "spt_lens")


class Begun(BaseException):
    """The model was run: whatever was handed in had been taken by then."""


class Door(NamedTuple):
    """A function, the arguments that are right, and by argument what else may be taken (names of VALUES)."""

    call: Callable[..., Any]
    good: Mapping[str, Any] = {}
    also: Mapping[str, set[str]] = {}
    skip: frozenset[str] = frozenset()


def may_take(annotation: str) -> set[str]:
    """The names of the values that an argument of this annotation may take; all others are to be refused."""
    found: set[str] = set()
    text = re.sub(r"\b(?:spt_lens|collections\.abc|pathlib|typing|torch(?=\.dtype))\.?", "", annotation)
    text = re.sub(r"\b(?:\w+\.)+(?=[A-Z])", "", text)
    for part in _alternatives(text):
        part = part.replace("tuple[", "Sequence[").replace("list[", "Sequence[").replace(", ...]", "]")
        part = part.replace("Collection[", "Sequence[").replace("dict[", "Mapping[").replace("int]", "float]")
        base = part.partition("[")[0]
        found |= MAY.get(part, MAY.get(base, set()))
    return found


def _alternatives(text: str) -> Iterator[str]:
    depth, start = 0, 0
    for i, letter in enumerate(text):
        depth += (letter == "[") - (letter == "]")
        if letter == "|" and not depth:
            yield text[start:i].strip()
            start = i + 1
    yield text[start:].strip()


def arguments(door: Door) -> dict[str, set[str]]:
    """Each argument of a door with what it may take."""
    found = {}
    for name, parameter in inspect.signature(door.call).parameters.items():
        if name in door.skip or parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
            continue
        hint = parameter.annotation
        hint = hint.__name__ if isinstance(hint, type) else str(hint)
        found[name] = may_take(hint) | door.also.get(name, set())
    return found


def fault(error: BaseException, seconds: float) -> str:
    """What is wrong with a refusal; empty: nothing."""
    said = str(error)
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    assert frame is not None
    code = frame.tb_frame.f_code
    raw = f"{type(error).__name__}: {said[:150]!r} at {code.co_filename}:{frame.tb_lineno}"
    if not isinstance(error, TypeError | ValueError | OSError | NotImplementedError | MemoryError):
        return f"raw {raw}"
    if not code.co_filename.startswith(PACKAGE):
        return f"not ours, {raw}"
    if not _raises(code.co_filename, frame.tb_lineno):
        return f"no raise, {raw}"
    if not said or "\n" in said or len(said) > 600:
        return f"no sentence, {raw}"
    return f"took {seconds:.1f} s, {raw}" if seconds > 5 else ""


_raising: dict[str, set[int]] = {}


def _raises(file: str, line: int) -> bool:
    import ast

    if file not in _raising:
        nodes = (node for node in ast.walk(ast.parse(Path(file).read_text())) if isinstance(node, ast.Raise))
        _raising[file] = {n for node in nodes for n in range(node.lineno, (node.end_lineno or node.lineno) + 1)}
    return line in _raising[file]
