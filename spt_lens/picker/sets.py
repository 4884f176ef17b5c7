"""Selections that a picker keeps under names: those given as presets, and those kept in the page or from Python."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, MutableMapping
from typing import Any

from spt_lens.checking import instance
from spt_lens.heads import HeadSet
from spt_lens.picker.layers import flat, heads_in

LONGEST = 80  # letters of a name
MOST = 500  # selections that a page may keep


class Selections(MutableMapping[str, HeadSet]):
    """Name -> HeadSet: `picker.selections["mine"] = picker.selected`; `picker.selections["mine"] - other`.

    Live both ways. Presets come first, and stay. fitting: reads what is set, or raises ValueError. tell: is given what
    the page is to hold. about: where a selection came from, by its name.

    Raises: TypeError for a name that is no text; ValueError for an empty or a preset's one, or heads without a score;
    KeyError for a name that there is not.
    """

    def __init__(
        self,
        presets: Mapping[str, HeadSet],
        n_heads: int,
        fitting: Callable[[Any], HeadSet],
        about: Callable[[str], dict[str, Any]],
        tell: Callable[[list[dict[str, Any]]], None],
    ) -> None:
        self._presets, self._n_heads, self._fitting, self._about, self._tell = presets, n_heads, fitting, about, tell
        self._kept: dict[str, HeadSet] = {}

    def __getitem__(self, name: str) -> HeadSet:
        return self._presets[name] if name in self._presets else self._kept[named(name)]

    def __setitem__(self, name: str, heads: Any) -> None:
        instance(name, "a selection's name", str, "give it as text")
        name = named(name)
        if not name:
            raise ValueError("a selection is kept under a name: give it one")
        if name in self._presets:
            raise ValueError(f"{name!r} is a preset of this picker, which stays as it is: take another name")
        found = self._fitting(heads)
        if not found:
            raise ValueError(f"there are no heads to keep as {name!r}: choose at least one")
        self._kept[name] = HeadSet(found.heads, {**(found.about or self._about(name)), "name": name})
        self._tell(self.told())

    def __delitem__(self, name: str) -> None:
        if name in self._presets:
            raise ValueError(f"{name!r} is a preset of this picker, which stays as it is")
        del self._kept[named(name)]
        self._tell(self.told())

    def __iter__(self) -> Iterator[str]:
        return iter([*self._presets, *self._kept])

    def __len__(self) -> int:
        return len(self._presets) + len(self._kept)

    def __repr__(self) -> str:
        return f"{{{', '.join(f'{name!r}: {heads!r}' for name, heads in self.items())}}}"

    def told(self) -> list[dict[str, Any]]:
        """The kept ones, as the page holds them."""
        return [{"name": name, "heads": flat(heads, self._n_heads)} for name, heads in self._kept.items()]

    def hear(self, sets: list[dict[str, Any]], n_layers: int) -> None:
        """Takes what a page says that is kept, which `sound` has looked at. What is there already keeps its history."""
        before, self._kept = self._kept, {}
        for each in sets:
            name, heads = each["name"], heads_in(each["heads"], n_layers, self._n_heads)
            if heads is not None and name not in self._presets:
                old = before.get(name)
                same = old is not None and old.heads == heads.heads
                self._kept[name] = old if old and same else HeadSet(heads.heads, self._about(name))


def named(text: str) -> str:
    """A name as it is kept: on one line, and not without end."""
    return " ".join(text.split())[:LONGEST].rstrip()


def sound(sets: Any, n_layers: int, n_heads: int) -> bool:
    """Whether a page's selections are such: names, each once, with heads that have a score."""
    if not isinstance(sets, (list, tuple)) or len(sets) > MOST or not all(isinstance(each, dict) for each in sets):
        return False
    names = [each.get("name") for each in sets]
    fine = all(isinstance(name, str) and name == named(name) != "" for name in names)
    return fine and len(set(names)) == len(names) and all(heads_in(s.get("heads"), n_layers, n_heads) for s in sets)
