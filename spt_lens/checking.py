"""Checks of what callers hand in: numbers, choices, types, paths. Each says what it got and what to give instead."""

import builtins
import errno
import functools
import inspect
import math
import operator
from collections import ChainMap
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from numbers import Real
from pathlib import Path
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, overload

Kind = TypeVar("Kind")
Other = TypeVar("Other")
Entrance = TypeVar("Entrance", bound=Callable[..., Any])
Bound = float | None
MANY = 1_000_000  # rounds of anything: whoever asks for more has not meant it
_UNFIT: Any = object()
_LIKE: dict[Any, Any] = {tuple: Sequence, list: Sequence, dict: Mapping}
_WORDS: dict[Any, str] = {bool: "True or False", int: "a whole number", float: "a finite number", str: "a text"}
_WORDS |= {Path: "a path", type(None): "None", Callable: "a function", Mapping: "a dict"}
_SEVERAL: dict[Any, str] = {int: "a list of whole numbers", float: "a list of numbers", str: "a list of texts"}


def whole_number(value: Any, name: str, least: int = 1, most: int | None = None) -> int:
    """The value as an int. Raises TypeError for what is no whole number by type, ValueError for one out of range."""
    wanted = f"a whole number from {least} {'up' if most is None else f'to {most}'}"
    value = plain_number(value)
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
    value = plain_number(value)
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
    path, text = Path(instance(value, name, (str, Path), "name a file or a folder")), str(value)
    if not text.strip() or "\0" in text or any("\ud800" <= letter < "\udc80" for letter in text):
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
    """Raises ValueError if what a file names, in a list, are not files in its own folder. None: it names none."""
    for name in names if isinstance(names, list) else [] if names is None else [names]:
        if not isinstance(name, str) or Path(name).name != name:
            raise ValueError(f"{file} names {shown(name)}, which is not in the same folder: download or save it again")


def seed_number(value: Any, name: str = "seed") -> int:
    """A seed as torch and random take it. Raises as `whole_number` does."""
    return whole_number(value, name, least=0, most=2**63 - 1)


def plain_number(value: Any) -> Any:
    """What a scalar of numpy or torch holds; anything else as it is."""
    return value.item() if getattr(value, "shape", None) == () and hasattr(value, "item") else value


def shown(value: Any) -> str:
    """What an error calls a value: itself, or its type where it is long."""
    text = repr(value)
    return text if len(text) <= 60 and "\n" not in text else f"a {type(value).__name__}"


def door(entrance: Entrance) -> Entrance:
    """Checks what callers hand to a function by its annotations, before it runs; of a class, to its constructor and
    public methods.

    What can be meant is taken: a scalar of numpy or torch is the number that it holds, one row of numbers a list.
    Flags, numbers, texts, choices, lists and dicts that are none are refused; so is nan, but where it is the default.
    Ranges, shapes and what objects hold are the function's own to check.

    Raises: TypeError or ValueError that names the argument and says what to give.
    """
    if isinstance(entrance, type):
        for name, member in list(vars(entrance).items()):
            if isinstance(member, classmethod):
                setattr(entrance, name, classmethod(door(member.__func__)))
            elif inspect.isfunction(member) and (name == "__init__" or not name.startswith("_")):
                setattr(entrance, name, door(member))
        return entrance
    signature, inner = inspect.signature(entrance), inspect.unwrap(entrance)
    of = f"{entrance.__qualname__.split('.')[-2]}." if entrance.__name__ == "__init__" else ""

    @functools.cache  # at the first call: an annotation may name what its module makes later
    def hints() -> dict[str, Any]:
        names = ChainMap(inner.__globals__, vars(builtins), _Unknown())
        said = [each for each in signature.parameters.values() if each.annotation is not each.empty]
        found = {each.name: each.annotation for each in said if each.kind != each.VAR_KEYWORD}
        read = {name: eval(hint, {}, names) if isinstance(hint, str) else hint for name, hint in found.items()}
        return {name: hint for name, hint in read.items() if not _open(hint)}

    @functools.wraps(entrance)
    def checked(*given: Any, **named: Any) -> Any:
        try:
            bound = signature.bind(*given, **named)
        except TypeError as error:
            whose = type(given[0]).__name__ if of and given else entrance.__qualname__
            raise TypeError(f"{whose}: {error}") from None
        for name, hint in hints().items():
            parameter = signature.parameters[name]
            if name not in bound.arguments or (value := bound.arguments[name]) is parameter.default:
                continue
            many = parameter.kind == parameter.VAR_POSITIONAL
            label = of + name
            found = tuple(_taken(each, label, hint) for each in value) if many else _taken(value, label, hint)
            bound.arguments[name] = found
        return entrance(*bound.args, **bound.kwargs)

    return checked  # type: ignore[return-value]


class _Unknown(dict[str, Any]):
    """Names that only type checkers import stand for anything."""

    def __missing__(self, name: str) -> Any:
        return Any


def _taken(value: Any, name: str, hint: Any) -> Any:
    found, parts = _fitted(value, hint), _parts(hint)
    if found is not _UNFIT:
        return found
    for part in parts:
        if _kind(part) in (Sequence, Collection) and isinstance(value, list | tuple) and (inside := get_args(part)):
            for i, each in enumerate(value):
                if _fitted(each, inside[0], False) is _UNFIT:
                    return _taken(each, f"{name}[{i}]", inside[0])
        if _kind(part) is Mapping and isinstance(value, Mapping) and (inside := get_args(part)):
            for key, each in value.items():
                if _fitted(each, inside[-1], False) is _UNFIT:
                    return _taken(each, f"{name}[{key!r}]", inside[-1])
    words = " or ".join(dict.fromkeys(map(_words, parts)))
    if Literal in map(_kind, parts):
        raise ValueError(f"{name}={shown(value)}: choose {words.replace(' or None', ', None')}")
    if int in parts or float in parts:
        if isinstance(plain_number(value), float | bool):
            raise ValueError(f"{name}={shown(value)}: give {words}")
        raise TypeError(f"{name} is {shown(value)}: give {words}")
    kinds = " or ".join(_name(part) for part in parts if part is not type(None))
    raise TypeError(f"{name} must be a {kinds}, and is {shown(value)}: give {words}")


def _name(hint: Any) -> str:
    hint = getattr(hint, "array_type", hint)
    return str((get_origin(hint) or hint).__name__).replace("tuple", "list")


def _parts(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


def _kind(hint: Any) -> Any:
    """What is checked of a hint: one of _WORDS, Literal, Sequence, Collection, or a class; Any: nothing."""
    hint = getattr(hint, "array_type", hint)  # jaxtyping's: of shapes, functions say more
    kind = _LIKE.get(get_origin(hint) or hint, get_origin(hint) or hint)
    if kind is Literal or (isinstance(kind, type) and not getattr(kind, "_is_protocol", False)):
        return kind
    return Any


def _open(hint: Any) -> bool:
    return any(_kind(part) is Any for part in _parts(hint))


def _words(hint: Any) -> str:
    kind, inside = _kind(hint), get_args(hint)
    if kind is Literal:
        return f"one of {', '.join(map(repr, inside))}"
    if kind in (Sequence, Collection):
        of = inside[0] if inside else Any
        return _SEVERAL.get(of) or f"a list of {getattr(of, '__name__', 'item').removesuffix('s')}s"
    return _WORDS.get(kind) or f"a {kind.__name__}" + getattr(kind, "_such_as", "")


def _fitted(value: Any, hint: Any, deep: bool = True) -> Any:
    """The value as the hint has it, or _UNFIT. deep: with what a list or a dict holds."""
    for part in _parts(hint):
        if (found := _as(value, _kind(part), get_args(part), deep)) is not _UNFIT:
            return found
    return _UNFIT


def _as(value: Any, kind: Any, inside: tuple[Any, ...], deep: bool) -> Any:
    plain = plain_number(value)
    if kind is Any:
        return value
    if kind is Literal:
        return next((each for each in inside if _is_a(plain, type(each)) and each == plain), _UNFIT)
    if kind is float:
        real = isinstance(plain, Real) and not isinstance(plain, bool)
        if real and not isinstance(plain, int):
            with suppress(OverflowError):
                return float(plain) if math.isfinite(plain) else _UNFIT
            return _UNFIT
        return plain if real else _UNFIT
    if kind in (bool, int):
        return plain if _is_a(plain, kind) else _UNFIT
    if kind is Callable:
        return value if callable(value) else _UNFIT
    several = kind in (Sequence, Collection)
    if several and getattr(value, "ndim", 0) == 1:  # a row of numpy or torch
        value = value.tolist()
    no_list = isinstance(value, str | bytes | Mapping) or getattr(value, "shape", None) == ()
    if not isinstance(value, kind) or (several and no_list):
        return _UNFIT
    of = inside[0 if several else -1] if inside else Any
    plainly = all(_kind(part) in (*_WORDS, Sequence, Literal) for part in _parts(of))
    if not (deep and plainly and (several or kind is Mapping)):
        return value  # of what else is in it, functions say which
    items = list(value) if several else list(value.values())
    found = [_fitted(each, of, False) for each in items]
    if any(each is _UNFIT for each in found):
        return _UNFIT
    if all(map(operator.is_, found, items)):
        return value
    return tuple(found) if several else dict(zip(value, found, strict=True))


def _is_a(value: Any, kind: type) -> bool:
    """Whether it is of that type, a member of an Enum too; True is no 1."""
    return isinstance(value, kind) and isinstance(value, bool) == (kind is bool)
