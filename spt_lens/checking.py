"""Checks of what callers hand in: numbers, choices, types, paths. Each says what it got and what to give instead."""

import errno
import math
import operator
from collections.abc import Collection
from numbers import Real
from pathlib import Path
from typing import Any, TypeVar, overload

Kind = TypeVar("Kind")
Other = TypeVar("Other")
Bound = float | None


def whole_number(value: Any, name: str, least: int = 1, most: int | None = None) -> int:
    """The value as an int. Raises TypeError for what is no whole number by type, ValueError for one out of range."""
    wanted = f"a whole number from {least} {'up' if most is None else f'to {most}'}"
    if isinstance(value, float | bool):
        raise ValueError(f"{name}={value!r}: give {wanted}")
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} is {shown(value)}: give {wanted}") from None
    if number < least or (most is not None and number > most):
        raise ValueError(f"{name}={number}: give {wanted}")
    return number


def number(
    value: Any, name: str, *, above: Bound = None, least: Bound = None, below: Bound = None, most: Bound = None
) -> float:
    """The value as a finite float within the bounds: `above` and `below` are left out, `least` and `most` are not.

    Raises: TypeError for what is no number; ValueError for nan, infinity and what is out of bounds.
    """
    bounds = {"above": above, "of at least": least, "below": below, "of at most": most}
    given = " and ".join(f"{word} {bound:g}" for word, bound in bounds.items() if bound is not None)
    wanted = f"a number {given}" if given else "a finite number"
    if not isinstance(value, Real) or isinstance(value, bool):
        raise TypeError(f"{name} is {shown(value)}: give {wanted}")
    try:
        found = float(value)
    except OverflowError:
        found = math.inf
    if not math.isfinite(found) or not (
        (above is None or found > above)
        and (least is None or found >= least)
        and (below is None or found < below)
        and (most is None or found <= most)
    ):
        raise ValueError(f"{name}={found:g}: give {wanted}")
    return found


def share(value: Any, name: str) -> float:
    """The value as a float above 0, up to 1. Raises as `number` does."""
    return number(value, name, above=0, most=1)


def one_of(value: Any, name: str, allowed: Collection[Kind]) -> Kind:
    """The value, if it is one of a few. Raises ValueError that lists them."""
    kinds: Any = tuple({type(each) for each in allowed})
    for each in allowed if isinstance(value, kinds) else ():
        if each == value:
            return each
    raise ValueError(f"{name}={shown(value)}: choose one of {', '.join(map(repr, allowed))}")


@overload
def instance(value: Any, name: str, kind: type[Kind], way_out: str) -> Kind: ...
@overload
def instance(value: Any, name: str, kind: tuple[type[Kind], type[Other]], way_out: str) -> Kind | Other: ...
@overload  # abstract classes, which are no type[Kind] to mypy
def instance(value: Any, name: str, kind: Any, way_out: str) -> Any: ...
def instance(value: Any, name: str, kind: Any, way_out: str) -> Any:
    """The value, if it is of the type. Raises TypeError that ends in the way out."""
    if isinstance(value, kind):
        return value
    wanted = " or ".join(each.__name__ for each in (kind if isinstance(kind, tuple) else (kind,)))
    raise TypeError(f"{name} must be a {wanted}, and is {shown(value)}: {way_out}")


def a_path(value: Any, name: str = "path") -> Path:
    """The value as a Path. Raises TypeError for what is neither text nor a path, ValueError for empty text."""
    path = Path(instance(value, name, (str, Path), "name a file or a folder"))
    if not str(value).strip() or "\0" in str(value):
        raise ValueError(f"{name}={shown(value)} names nothing: name a file or a folder")
    return path


def existing_file(path: Any) -> Path:
    """The path, if a file is there. Raises FileNotFoundError, IsADirectoryError, OSError, or as `a_path` does."""
    path = a_path(path)
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder: name the file in it")
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist: name the file that was saved")
    if not path.is_file():  # reading a pipe would wait, and a device may have no end
        raise OSError(errno.EINVAL, f"{path} is no ordinary file: name the file that was saved")
    return path


def beside(file: Path, names: Any) -> None:
    """Raises ValueError if a file names, in a list, another one that is not in its own folder."""
    for name in names if isinstance(names, list) else ():
        if Path(str(name)).name != str(name):
            raise ValueError(f"{file} names {name}, which is not in the same folder: download or save it again")


def seed_number(value: Any, name: str = "seed") -> int:
    """A seed as torch and random take it. Raises as `whole_number` does."""
    return whole_number(value, name, least=0, most=2**63 - 1)


def shown(value: Any) -> str:
    """What an error calls a value: itself, or its type where it is long."""
    text = repr(value)
    return text if len(text) <= 60 else f"a {type(value).__name__}"
