"""Attention heads and selections of them. A selection knows no model; what depends on one takes it as an argument."""

from __future__ import annotations

import json
import operator
import random
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, overload

from spt_lens import saving
from spt_lens.checking import door, instance, seed_number, shown
from spt_lens.model.view import Model, ModelView

_HEAD = re.compile(r"\s*(?:L?(\d+)\.H?(\d+)|L(\d+)H(\d+)|\(\s*(\d+)\s*,\s*(\d+)\s*\))\s*", re.IGNORECASE)
_BRACKETED = re.compile(r"\(\s*(\d+)\s*,\s*(\d+)\s*\)")


class Head(NamedTuple):
    """A head by its zero-based layer and place in the layer. Prints as "L5.H3"."""

    layer: int
    head: int

    def __str__(self) -> str:
        return f"L{self.layer}.H{self.head}"

    @classmethod
    def parse(cls, value: str | tuple[int, int] | list[int]) -> Head:
        """Reads "L5.H3", "L5H3", "5.3", "(5, 3)" or the pair (5, 3). Raises ValueError for anything else."""
        if isinstance(value, str):
            match = _HEAD.fullmatch(value)
            if match is None:
                raise ValueError(f'{value!r} is not a head: write "L5.H3", "5.3" or (5, 3) for head 3 of layer 5')
            layer, head = (int(group) for group in match.groups() if group is not None)
            return cls(layer, head)
        try:
            layer, head = (operator.index(number) for number in value)
        except (TypeError, ValueError):
            raise ValueError(f"{shown(value)} is not a head: give a layer and a head, such as (5, 3)") from None
        if layer < 0 or head < 0:
            raise ValueError(f"({layer}, {head}) is not a head: layers and heads count from 0")
        return cls(layer, head)


def _several(value: Any) -> bool:
    # A scalar of torch says that it is iterable.
    return isinstance(value, Iterable) and not isinstance(value, Mapping) and getattr(value, "shape", None) != ()


HeadLike = Head | tuple[int, int] | str


@dataclass(frozen=True, repr=False)
class HeadSet:
    """A selection of heads: immutable, each head once, in an order that means something (usually the rank).

    Make one by `HeadSet.of((5, 3), "6.1")` or `HeadSet.parse("L5.H3 L6.H1")`. A head given twice keeps its first place.
    about: where it came from, as JSON holds it (else ValueError), e.g. a picker's name, scores and date; a selection
    made from it has none. Two selections of the same heads are equal whatever they say about themselves.
    """

    _such_as = ', such as scores.top(4) or HeadSet.parse("L5.H3")'
    heads: tuple[Head, ...] = ()
    about: Mapping[str, Any] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        if isinstance(self.heads, str) or not _several(self.heads):
            raise ValueError(f"{shown(self.heads)} is not a list of heads: use HeadSet.of or HeadSet.parse")
        object.__setattr__(self, "heads", tuple(dict.fromkeys(Head.parse(head) for head in self.heads)))
        try:
            about = instance(self.about, "about", Mapping, "leave it out")
            object.__setattr__(self, "about", json.loads(json.dumps(dict(about), allow_nan=False)))
        except saving.DAMAGE as error:
            kind = type(self.about).__name__
            raise ValueError(f"about must be a dict that JSON can hold, and not this {kind}: {error}") from error

    @classmethod
    def of(cls, *heads: HeadLike | Iterable[HeadLike]) -> HeadSet:
        """From heads, or iterables of heads. A string may name several. Raises ValueError for what is no head."""
        found: list[Head] = []
        for item in heads:
            if not _several(item):
                raise ValueError(f"{shown(item)} is not a head: give pairs such as (5, 3), not single numbers")
            pair = (
                isinstance(item, tuple) and len(item) == 2 and not any(isinstance(x, tuple | list | str) for x in item)
            )
            each: Iterable[Any] = [item] if pair or isinstance(item, str) else item
            for head in each:
                found += cls.parse(head).heads if isinstance(head, str) else [Head.parse(head)]
        return cls(tuple(found))

    @classmethod
    def parse(cls, text: str) -> HeadSet:
        """Reads heads between spaces, commas or semicolons: "L5.H3 L5H4 6.1, (2, 3)". Empty text is an empty selection.

        Raises: TypeError for what is not text; ValueError if something in it is not a head.
        """
        instance(text, "heads", str, 'write them as "L5.H3 L6.H1"')
        plain = _BRACKETED.sub(r" \1.\2 ", text)
        return cls(tuple(Head.parse(part) for part in re.split(r"[\s,;]+", plain) if part))

    def __str__(self) -> str:
        return " ".join(map(str, self.heads))

    def __repr__(self) -> str:
        return f'HeadSet.parse("{self}")'

    def __len__(self) -> int:
        return len(self.heads)

    def __iter__(self) -> Iterator[Head]:
        return iter(self.heads)

    def __contains__(self, head: object) -> bool:
        try:
            return Head.parse(head) in self.heads  # type: ignore[arg-type]
        except ValueError:
            return False

    @overload
    def __getitem__(self, index: int) -> Head: ...
    @overload
    def __getitem__(self, index: slice) -> HeadSet: ...
    def __getitem__(self, index: int | slice) -> Head | HeadSet:
        return HeadSet(self.heads[index]) if isinstance(index, slice) else self.heads[index]

    def __or__(self, other: HeadSet) -> HeadSet:
        """These heads, then the other's that are new."""
        return HeadSet(self.heads + other.heads) if isinstance(other, HeadSet) else NotImplemented

    def __and__(self, other: HeadSet) -> HeadSet:
        """The heads in both, in this order."""
        return HeadSet(tuple(h for h in self if h in other)) if isinstance(other, HeadSet) else NotImplemented

    def __sub__(self, other: HeadSet) -> HeadSet:
        """These heads without the other's."""
        return HeadSet(tuple(h for h in self if h not in other)) if isinstance(other, HeadSet) else NotImplemented

    def __xor__(self, other: HeadSet) -> HeadSet:
        """The heads in one of the two only, these first."""
        return (self - other) | (other - self) if isinstance(other, HeadSet) else NotImplemented

    def by_layer(self) -> dict[int, list[int]]:
        """Layer to heads, layers ascending, the heads of a layer in this order."""
        layers = sorted({head.layer for head in self})
        return {layer: [head.head for head in self if head.layer == layer] for layer in layers}

    def check(self, model: Model | ModelView) -> None:
        """Raises ValueError when the selection is empty or names heads that the model does not have."""
        view = ModelView(model)
        if not self.heads:
            raise ValueError('the selection is empty: choose at least one head, e.g. HeadSet.parse("L5.H3")')
        odd = [str(head) for head in self if head.layer >= view.n_layers or head.head >= view.n_heads]
        if odd:
            there = f"it has layers 0 to {view.n_layers - 1} and heads 0 to {view.n_heads - 1}"
            raise ValueError(f"{', '.join(odd)} not in {view.name}: {there}")

    def share_of_heads(self, model: Model | ModelView) -> float:
        """The part of the model's heads that is chosen, 0 to 1. Raises ValueError for heads it does not have."""
        view = self._fitting(model)
        return len(self) / (view.n_layers * view.n_heads)

    @door
    def parameters(self, model: Model | ModelView, projections: str = "auto") -> int:
        """How many weights tuning these heads moves; what a query group shares ("k", "v") is counted once.

        Raises ValueError for heads that the model does not have, or unknown projections.
        """
        shape = self._fitting(model).shape
        return len(shape.parts(self, projections)) * shape.part_size

    @door
    def share_of_parameters(self, model: Model | ModelView, projections: str = "auto") -> float:
        """The part of all the model's parameters that tuning these heads moves, 0 to 1. Raises as `parameters`."""
        return self.parameters(model, projections) / ModelView(model).n_params

    @door
    def sharing(self, model: Model | ModelView, projections: str = "auto") -> HeadSet:
        """Unchosen heads whose keys or values tuning these moves (only with query groups). Raises as `parameters`."""
        shape = self._fitting(model).shape
        parts = shape.parts(self, projections)
        return HeadSet(tuple(Head(part.layer, head) for part in parts for head in shape.owners(part))) - self

    @door
    def summary(self, model: Model | ModelView, projections: str = "auto") -> str:
        """One line: how many of how many heads and parameters, and which other heads move with them."""
        view = ModelView(model)
        others = self.sharing(view, projections)
        weights, share = self.parameters(view, projections), self.share_of_parameters(view, projections)
        text = f"{len(self)} of {view.n_layers * view.n_heads} heads ({self.share_of_heads(view):.1%}), "
        text += f"{weights:,} of {view.n_params:,} parameters ({share:.1%})"
        return text + (f"; their keys and values are shared by {others}" if others else "")

    def _fitting(self, model: Model | ModelView) -> ModelView:
        view = ModelView(model)
        if self.heads:
            self.check(view)
        return view

    @door
    def random_like(self, model: Model | ModelView, seed: int, matched: bool = True) -> HeadSet:
        """As many random heads, none of these: the control that a selection has to beat. Same seed, same heads.

        matched: as many in each layer as here; the i-th drawn head is in the layer of the i-th head here. Otherwise
        from all layers alike.

        Raises ValueError for too few other heads, or heads that the model does not have.
        """
        view = self._fitting(model)
        rng = random.Random(seed_number(seed))
        every = [Head(layer, head) for layer in range(view.n_layers) for head in range(view.n_heads)]
        free = [head for head in every if head not in self.heads]
        if not matched:
            if len(self) > len(free):
                raise ValueError(f"cannot draw {len(self)} other heads: {view.name} has only {len(free)} left")
            return HeadSet(tuple(rng.sample(free, len(self))))
        drawn: dict[int, list[Head]] = {}
        for layer, chosen in self.by_layer().items():
            there = [head for head in free if head.layer == layer]
            if len(chosen) > len(there):
                few = f"cannot draw {len(chosen)} other heads in layer {layer}, only {len(there)} are left"
                raise ValueError(f"{few}: choose fewer heads, or pass matched=False")
            drawn[layer] = rng.sample(there, len(chosen))
        return HeadSet(tuple(drawn[head.layer].pop(0) for head in self))

    def to_json(self) -> dict[str, Any]:
        """A JSON object: `{"heads": ["L5.H3", "L6.H1"]}`, and "about" if it has any."""
        return {"heads": [str(head) for head in self], **({"about": dict(self.about)} if self.about else {})}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> HeadSet:
        """The reverse of `to_json`. Raises ValueError when the data is not of that kind."""
        heads = data.get("heads") if isinstance(data, Mapping) else None
        if not isinstance(heads, list):
            raise ValueError(f'not a head selection: expected {{"heads": ["L5.H3", ...]}}, got {shown(data)}')
        return cls(tuple(Head.parse(head) for head in heads), data.get("about") or {})

    def save(self, path: str | Path) -> Path:
        """Writes the selection as a small JSON file, and returns its path. Raises OSError."""
        return saving.write_text(path, json.dumps(saving.sealed(self.to_json())) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> HeadSet:
        """Reads what `save` wrote. Raises FileNotFoundError, or ValueError for a file of another kind."""
        data = saving.read_json(path, "head selection")
        with saving.reading(path, "head selection"):
            return cls.from_json(saving.unsealed(data) if isinstance(data, dict) else data)

    def _repr_html_(self) -> str:
        if not self.heads:
            return "<em>no heads</em>"
        layers = {layer: ", ".join(f"H{head}" for head in heads) for layer, heads in self.by_layer().items()}
        rows = "".join(f"<tr><th>layer {layer}</th><td>{heads}</td></tr>" for layer, heads in layers.items())
        return f"<table><caption>{len(self)} heads: {self}</caption>{rows}</table>"
