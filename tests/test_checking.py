import inspect
import pickle
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from enum import IntEnum, StrEnum
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch

from spt_lens import checking

NAN, INF = float("nan"), float("inf")


class TestNumbers:
    @pytest.mark.parametrize("value", [1, 3, np.int64(2), torch.tensor(3)])
    def test_whole_numbers_pass_as_ints(self, value):
        found = checking.whole_number(value, "n", 1, 3)
        assert type(found) is int and found == value

    @pytest.mark.parametrize("value", [0, 4, -1, 1.5, 2.0, NAN, INF, True])
    def test_other_numbers_do_not(self, value):
        with pytest.raises(ValueError, match=r"n=.*: give a whole number from 1 to 3"):
            checking.whole_number(value, "n", 1, 3)

    @pytest.mark.parametrize("value", [None, "3", [1], torch.ones(2), object()])
    def test_what_is_no_number_is_a_type_error(self, value):
        with pytest.raises(TypeError, match=r"n is .*: give a whole number from 1 up"):
            checking.whole_number(value, "n")
        with pytest.raises(TypeError, match=r"x is .*: give a finite number"):
            checking.number(value, "x")

    def test_bounds_are_in_or_out(self):
        assert checking.number(0, "x", least=0, below=1) == 0.0
        assert checking.number(np.float32(0.5), "x", above=0, most=1) == 0.5
        for value in (0, 1.1, NAN, INF, 10**400):
            with pytest.raises(ValueError, match="give a number above 0 and of at most 1"):
                checking.share(value, "x")
        with pytest.raises(ValueError, match="x=1: give a number of at least 0 and below 1"):
            checking.number(1, "x", least=0, below=1)
        with pytest.raises(TypeError):
            checking.number(True, "x")


def test_a_choice_lists_what_there_is():
    assert checking.one_of("a", "way", ("a", "b")) == "a"
    for value in ("c", None, ["a"], torch.ones(2), 3):
        with pytest.raises(ValueError, match=r"way=.*: choose one of 'a', 'b'"):
            checking.one_of(value, "way", ("a", "b"))


def test_a_type_ends_in_the_way_out():
    assert checking.instance(3, "n", int, "give a number") == 3
    with pytest.raises(TypeError, match=r"heads must be a list or tuple, and is 'L5.H3': use HeadSet.parse"):
        checking.instance("L5.H3", "heads", (list, tuple), "use HeadSet.parse")
    with pytest.raises(TypeError, match="and is a str: shorter"):
        checking.instance("x" * 100, "n", int, "shorter")


def test_a_file_must_be_there(tmp_path):
    (tmp_path / "a").write_text("")
    assert checking.existing_file(str(tmp_path / "a")) == tmp_path / "a"
    for path, error in ((tmp_path / "b", FileNotFoundError), (tmp_path, IsADirectoryError)):
        with pytest.raises(error):
            checking.existing_file(path)
    for path, error in ((None, TypeError), (3, TypeError), ("", ValueError), ("a\0b", ValueError)):
        with pytest.raises(error):
            checking.existing_file(path)


@checking.door
def entrance(
    n: int = 1,
    x: float = NAN,
    *,
    by: Literal["up", "down"] = "up",
    flag: bool = True,
    text: "str | None" = None,
    path: "str | Path" = ".",
    sizes: Literal["curve"] | Sequence[int] = (),
    rates: "Mapping[str, Sequence[float]] | None" = None,
    names: str | Collection[str] = (),
    call: Callable[[int], int] | None = None,
    whole: "torch.Tensor | Trial | None" = None,
    later: "OnlyForTypeCheckers | None" = None,  # noqa: F821
    **more: Any,
) -> dict[str, Any]:
    return {**locals(), **more}


@checking.door
@dataclass(frozen=True)
class Trial:
    """A class with a constructor, a method and a class method."""

    n: int
    rates: tuple[float, ...] = ()

    def times(self, k: int) -> int:
        return self.n * k

    @classmethod
    def of(cls, n: int) -> "Trial":
        return cls(n)


class Way(StrEnum):
    DOWN = "down"


class Many(IntEnum):
    THREE = 3


@checking.door
@contextmanager
def within(flag: bool):
    yield flag


class TestADoor:
    @pytest.mark.parametrize(
        "name, value, taken",
        [
            ("n", np.int64(3), 3),
            ("n", torch.tensor(3), 3),
            ("x", np.float32(0.5), 0.5),
            ("x", torch.tensor(0.5), 0.5),
            ("x", 2, 2),
            ("flag", np.bool_(False), False),
            ("sizes", np.array([1, 2]), [1, 2]),
            ("sizes", torch.tensor([1, 2]), [1, 2]),
            ("sizes", [np.int64(1), 2], (1, 2)),
            ("sizes", range(2), range(2)),
            ("sizes", "curve", "curve"),
            ("by", np.str_("down"), "down"),
            ("by", Way.DOWN, "down"),
            ("n", Many.THREE, 3),
            ("rates", {"a": np.array([1e-2])}, {"a": [1e-2]}),
            ("text", None, None),
            ("path", Path("a"), Path("a")),
            ("names", {"a"}, {"a"}),
            ("later", 5, 5),
            ("anything", object, object),
        ],
    )
    def test_what_can_be_meant_is_taken(self, name, value, taken):
        found = entrance(**{name: value})[name]
        assert found == taken and isinstance(found, type(taken))

    @pytest.mark.parametrize(
        "name, value, error, says",
        [
            ("n", None, TypeError, "n is None: give a whole number"),
            ("n", "3", TypeError, "n is '3': give a whole number"),
            ("n", 1.5, ValueError, "n=1.5: give a whole number"),
            ("n", True, ValueError, "n=True: give a whole number"),
            ("x", INF, ValueError, "x=inf: give a finite number"),
            ("x", np.float64(NAN), ValueError, r"x=.*nan.*: give a finite number"),
            ("x", 1j, TypeError, "x is 1j: give a finite number"),
            ("by", "left", ValueError, "by='left': choose one of 'up', 'down'"),
            ("flag", 0, TypeError, "flag must be a bool, and is 0: give True or False"),
            ("text", b"a", TypeError, "text must be a str, and is b'a': give a text or None"),
            ("path", None, TypeError, "path must be a str or Path, and is None: give a text or a path"),
            ("sizes", "all", ValueError, "sizes='all': choose one of 'curve' or a list of whole numbers"),
            ("sizes", [1.5], ValueError, r"sizes\[0\]=1.5: give a whole number"),
            ("rates", {"a": 1}, TypeError, r"rates\['a'\] .* is 1: give a list of numbers"),
            ("x", Fraction(10**400, 3), TypeError, "x is a Fraction: give a finite number"),
            ("rates", [1], TypeError, "rates must be a Mapping"),
            ("names", [1], TypeError, r"names\[0\] must be a str, and is 1: give a text"),
            ("call", 5, TypeError, "call must be a Callable, and is 5: give a function or None"),
            ("whole", "a", TypeError, "whole must be a Tensor or Trial, and is 'a': give a Tensor or a Trial or None"),
        ],
    )
    def test_what_can_not_is_refused(self, name, value, error, says):
        with pytest.raises(error, match=says):
            entrance(**{name: value})

    def test_a_class_has_one_at_its_constructor_and_methods(self):
        assert Trial(np.int64(2)).times(torch.tensor(3)) == Trial.of(2).times(3) == 6
        for call in (lambda: Trial("2"), lambda: Trial.of(None), lambda: Trial(2).times("k"), lambda: Trial(1, "ab")):
            with pytest.raises(TypeError):
                call()
        with pytest.raises(TypeError, match="n is None"):
            replace(Trial(1), n=None)
        assert pickle.loads(pickle.dumps(Trial(1))) == Trial(1)

    def test_a_function_stays_what_it_was(self):
        assert list(inspect.signature(within).parameters) == ["flag"] and within.__name__ == "within"
        with within(True) as flag:
            assert flag
        with pytest.raises(TypeError, match="flag must be a bool"):
            within(1)
        with pytest.raises(TypeError, match="within: missing a required argument: 'flag'"):
            within()
        assert pickle.loads(pickle.dumps(entrance)) is entrance
