"""What a tuning run changed, as a small object and a small file: the slices before and after, bit for bit."""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from spt_lens.heads import HeadSet
from spt_lens.model.view import Model, ModelView
from spt_lens.tune import adapter_files
from spt_lens.tune.slices import Slice, head_slices

Slices = Mapping[str, Tensor]  # slice name ("L5.H3.q") -> [d_head, d_model], for o [d_model, d_head]


@dataclass(frozen=True, eq=False)
class Adapter:
    """The chosen heads' slices before and after tuning, in the model's dtype, and what they fit.

    before, after: slice name -> weights; `heads` and `projections` ("qkvo", "qo", ...) say which slices these are.
    fingerprint: what a model must share to be fitted (architecture, shapes, vocabulary). meta: free, JSON; "selection"
    in it is what the heads said about where they came from.
    """

    before: Slices
    after: Slices
    heads: HeadSet
    projections: str
    fingerprint: dict[str, str | int]
    meta: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if set(self.before) != set(self.after):
            odd = sorted(set(self.before) ^ set(self.after))
            raise ValueError(f"The slices before and after are not the same ones; only on one side: {', '.join(odd)}.")

    def apply(self, model: Model, force: bool = False) -> None:
        """**Changes the model**: writes the tuned slices. Nothing happens if they are there already.

        Raises:
            ValueError: the model has another shape, or (without `force`) its slices are neither the untuned nor the
                tuned ones, so that another change would be lost. The model is then unchanged.
        """
        slices = self._fitting(model)
        if not force:
            self._check_state(slices, "apply")
        _write(slices, self.after)

    def revert(self, model: Model, force: bool = False) -> None:
        """**Changes the model**: writes back the untuned slices, bit for bit. Raises as `apply` does."""
        slices = self._fitting(model)
        if not force:
            self._check_state(slices, "revert")
        _write(slices, self.before)

    @contextmanager
    def reverted(self, model: Model) -> Iterator[None]:
        """A context in which the model is untuned; on leaving, also after an error, its slices are as they were."""
        slices = self._fitting(model)
        self._check_state(slices, "revert")
        found = {s.name: s.read() for s in slices}
        try:
            _write(slices, self.before)
            yield
        finally:
            _write(slices, found)

    def check_fits(self, fingerprint: Mapping[str, str | int]) -> None:
        """Raises ValueError, naming what differs, unless a model's or checkpoint's fingerprint is the adapter's own."""
        wrong = [
            f"{key} is {fingerprint.get(key)}, not {self.fingerprint.get(key)}"
            for key in sorted(fingerprint.keys() | self.fingerprint.keys())
            if fingerprint.get(key) != self.fingerprint.get(key)
        ]
        if wrong:
            raise ValueError(f"This adapter was made for another model: {'; '.join(wrong)}.")

    def numel(self) -> int:
        """How many weights it replaces."""
        return sum(value.numel() for value in self.after.values())

    def save(self, folder: str | Path) -> Path:
        """Writes adapter.safetensors and adapter.json; an adapter that is there already is replaced whole.

        Raises:
            OSError: the folder can't be made or written; nothing is written then.
        """
        tensors = {f"before.{name}": value for name, value in self.before.items()}
        tensors |= {f"after.{name}": value for name, value in self.after.items()}
        description = {
            "heads": HeadSet(self.heads.heads).to_json(),  # what they are about is in meta
            "projections": self.projections,
            "fingerprint": self.fingerprint,
            "meta": self.meta,
        }
        return adapter_files.write(Path(folder), tensors, description)

    @classmethod
    def load(cls, folder: str | Path) -> Adapter:
        """Reads what `save` wrote.

        Raises:
            FileNotFoundError: there is no adapter in the folder.
            ValueError: a file is truncated or damaged, or the two files don't belong together.
        """
        tensors, description = adapter_files.read(Path(folder))
        for name, kind in (("projections", str), ("fingerprint", dict), ("meta", dict)):
            if not isinstance(description.get(name), kind):
                raise ValueError(f"{folder}: adapter.json lacks or garbles {name!r}; save the adapter again.")
        # meta is free: what stands there under this name may be of somebody else.
        selection = description["meta"].get("selection")
        about = isinstance(selection, dict)
        try:
            return cls(
                before={k.removeprefix("before."): v for k, v in tensors.items() if k.startswith("before.")},
                after={k.removeprefix("after."): v for k, v in tensors.items() if k.startswith("after.")},
                heads=HeadSet(HeadSet.from_json(description["heads"]).heads, selection if about else {}),
                projections=description["projections"],
                fingerprint=description["fingerprint"],
                meta=description["meta"],
            )
        except (KeyError, TypeError) as error:
            raise ValueError(f"{folder}: adapter.json lacks or garbles {error}; save the adapter again.") from error

    def __repr__(self) -> str:
        where = f"{self.heads}, {self.projections}, {self.numel():,} weights"
        return f"Adapter({where}, for {self.fingerprint.get('architecture', 'an unknown architecture')})"

    def _repr_html_(self) -> str:
        return f"<code>{html.escape(repr(self))}</code>"

    def _fitting(self, model: Model) -> list[Slice]:
        view = ModelView(model)
        self.check_fits(view.fingerprint())
        view.check_tunable()
        slices = head_slices(view, self.heads, self.projections)
        if {s.name for s in slices} != set(self.after):
            raise ValueError("This adapter's slices are not those of its heads and projections; it was damaged.")
        for piece in slices:
            for value in (self.before[piece.name], self.after[piece.name]):
                here = piece.of(piece.parameter)
                if here.shape != value.shape or here.dtype != value.dtype:
                    raise ValueError(
                        f"{piece.name}: the adapter holds {list(value.shape)} {value.dtype}, the model has "
                        f"{list(here.shape)} {here.dtype}. Load the model with dtype={value.dtype}."
                    )
        return slices

    def _check_state(self, slices: list[Slice], action: str) -> None:
        for known in (self.before, self.after):
            if all(torch.equal(s.of(s.parameter), known[s.name].to(s.parameter.device)) for s in slices):
                return
        raise ValueError(
            f"Can't {action}: the model's weights at {self.heads} are neither those before nor those after this run: "
            "another change lies on top, or it is another model of the same shape or another revision. Revert that "
            "change first, load the right model, or pass force=True to overwrite these slices."
        )


def _write(slices: list[Slice], values: Slices) -> None:
    """All of them or, also on an interrupt, none: a model between two states could be neither applied nor reverted."""
    found = [piece.read() for piece in slices]
    try:
        for piece in slices:
            piece.write(values[piece.name])
    except BaseException:
        for piece, value in zip(slices, found, strict=True):
            piece.write(value)
        raise
