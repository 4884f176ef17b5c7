"""What a tuning run changed, as a small object and a small file: the slices before and after, bit for bit."""

import hashlib
import html
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from safetensors.torch import load as tensors_of_bytes
from torch import Tensor

from spt_lens import saving
from spt_lens.checking import a_path, door, existing_file
from spt_lens.heads import HeadSet
from spt_lens.model.held import to_the_end
from spt_lens.model.view import Model, ModelView
from spt_lens.tune.edits import edit_slices, is_edit
from spt_lens.tune.slices import Slice, head_slices, put_back, whole_weights

Slices = Mapping[str, Tensor]  # slice name ("L5.H3.q") -> [d_head, d_model], for o [d_model, d_head]
FILE, FIRST_DESCRIPTION, FIRST_FORMAT = "adapter.safetensors", "adapter.json", "spt_lens adapter 1"


@door
@dataclass(frozen=True, eq=False)
class Adapter:
    """The chosen heads' slices before and after tuning, in the model's dtype, and what they fit.

    before, after: slice name -> weights; `heads` and `projections` ("qkvo", "qo", ...) say which slices these are.
    Without heads they are whole weights, those that full fine-tuning or LoRA moved, as the model class names them. Or
    they are edits (`edits.py`), of heads or not: changes of activations, which steering, ITI and others leave.
    fingerprint: what a model must share to be fitted (architecture, shapes, vocabulary). meta: free, JSON; "selection"
    in it is what the heads said about where they came from. Raises ValueError if before and after differ in slices, or
    in a slice's shape or dtype.
    """

    before: Slices
    after: Slices
    heads: HeadSet
    projections: str
    fingerprint: dict[str, str | int]
    meta: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        odd = sorted(map(str, set(self.before) ^ set(self.after)))
        if odd:
            raise ValueError(f"the slices before and after are not the same ones; only on one side: {', '.join(odd)}")
        for name, value in self.before.items():
            one, other = (f"{list(each.shape)} {each.dtype}" for each in (value, self.after[name]))
            if one != other:
                raise ValueError(f"{name} is {one} before and {other} after: give both as the model has them")

    def apply(self, model: Model, force: bool = False) -> None:
        """**Changes the model**: writes the tuned slices. Nothing happens if they are there already.

        Raises ValueError, the model unchanged, if it has another shape, or (without `force`) its slices are neither the
        untuned nor the tuned ones, so that another change would be lost.
        """
        self._put(self.after, model, "apply", force)

    def revert(self, model: Model, force: bool = False) -> None:
        """**Changes the model**: writes back the untuned slices, bit for bit. Raises as `apply` does."""
        self._put(self.before, model, "revert", force)

    @contextmanager
    def reverted(self, model: Model) -> Iterator[None]:
        """A context in which the model is untuned; on leaving, also after an error, its slices are as they were."""
        with self._put_back(model):
            self.revert(model)
            yield

    @contextmanager
    def applied(self, model: Model) -> Iterator[None]:
        """A context in which the model is tuned; on leaving, also after an error, its slices are as they were."""
        with self._put_back(model):
            self.apply(model)
            yield

    @contextmanager
    def _put_back(self, model: Model) -> Iterator[None]:
        with ModelView(model).held(lasting=True):
            slices = self._fitting(model)
            found = {s.name: s.read() for s in slices}
            try:
                yield
            finally:
                to_the_end(_write, slices, found)

    def check_fits(self, fingerprint: Mapping[str, str | int]) -> None:
        """Raises ValueError, naming what differs, unless a model's or checkpoint's fingerprint is the adapter's own."""
        theirs, own = fingerprint, self.fingerprint
        odd = [key for key in sorted(theirs.keys() | own.keys()) if theirs.get(key) != own.get(key)]
        wrong = [f"{key} is {theirs.get(key)}, not {own.get(key)}" for key in odd]
        if wrong:
            raise ValueError(f"this adapter was made for another model: {'; '.join(wrong)}")

    @property
    def edits(self) -> bool:
        """Whether it changes activations, and no weights."""
        return any(map(is_edit, self.after))

    def numel(self) -> int:
        """How many weights it replaces."""
        return sum(value.numel() for value in self.after.values())

    def save(self, folder: str | Path) -> Path:
        """Writes adapter.safetensors into the folder, by one rename, and returns the folder. Raises OSError."""
        folder = a_path(folder, "folder")
        tensors = {f"before.{name}": value for name, value in self.before.items()}
        tensors |= {f"after.{name}": value for name, value in self.after.items()}
        heads = HeadSet(self.heads.heads).to_json()  # what they are about is in meta
        about = {name: getattr(self, name) for name in ("projections", "fingerprint", "meta")}
        saving.make_folder(folder, "the adapter")
        saving.save_tensors(folder / FILE, "adapter", tensors, {"heads": heads, **about})
        first = folder / FIRST_DESCRIPTION
        if first.is_file() and FIRST_FORMAT in first.read_text("utf-8", "replace"):  # now replaced
            first.unlink(missing_ok=True)
        return folder

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Reads what `save` wrote, also the two files of the first version.

        Raises: FileNotFoundError if no adapter is there; ValueError for a damaged file, or numbers that are not finite.
        """
        file = a_path(folder, "folder") / FILE
        if not file.exists():
            raise FileNotFoundError(f"no adapter in {folder}: give the folder that adapter.save wrote")
        try:
            tensors, about = saving.load_tensors(file, "adapter")
        except ValueError:
            if not file.with_name(FIRST_DESCRIPTION).exists():
                raise
            tensors, about = _first_version(file)
        odd = [name for name, value in tensors.items() if not value.isfinite().all()]
        if odd:
            raise ValueError(f"{file}: {odd[0]} holds numbers that are not finite, so it was damaged: tune again")
        with saving.reading(file, "adapter"):
            meta = saving.entry(about, "meta", dict)
            selection = meta.get("selection")  # meta is free: this may be of somebody else
            heads = HeadSet(HeadSet.from_json(about["heads"]).heads, selection if isinstance(selection, dict) else {})
            before, after = (
                {name.removeprefix(side): value for name, value in tensors.items() if name.startswith(side)}
                for side in ("before.", "after.")
            )
            projections, fingerprint = saving.entry(about, "projections", str), saving.entry(about, "fingerprint", dict)
            return cls(before, after, heads, projections, fingerprint, meta)

    def __repr__(self) -> str:
        elsewhere = f"edits {' '.join(self.after):.60}" if self.edits else "whole matrices"
        where = f"{self.heads}, {self.projections}" if self.heads else elsewhere
        architecture = self.fingerprint.get("architecture", "an unknown architecture")
        return f"Adapter({where}, {self.numel():,} weights, for {architecture})"

    def _repr_html_(self) -> str:
        return f"<code>{html.escape(repr(self))}</code>"

    def _fitting(self, model: Model) -> list[Slice]:
        view = ModelView(model)
        self.check_fits(view.fingerprint())
        view.check_tunable()
        if self.edits:
            slices = edit_slices(view, list(self.after))
        elif self.heads:
            slices = head_slices(view, self.heads, self.projections)
        else:
            slices = [weight for weight in whole_weights(view) if weight.name in self.after]
        if {s.name for s in slices} != set(self.after):
            raise ValueError("this adapter's slices are not those of its heads, or of this model class")
        for piece in slices:
            for value in (self.before[piece.name], self.after[piece.name]):
                here = piece.of(piece.parameter)
                if here.shape != value.shape or here.dtype != value.dtype:
                    raise ValueError(
                        f"{piece.name}: the adapter holds {list(value.shape)} {value.dtype}, the model has "
                        f"{list(here.shape)} {here.dtype}: load the model with dtype={value.dtype}"
                    )
        return slices

    def _put(self, values: Slices, model: Model, action: str, force: bool) -> None:
        with ModelView(model).held():
            slices = self._fitting(model)
            known = (self.before, self.after)
            if not force and not any(all(saving.same_bits(s.read(), k[s.name]) for s in slices) for k in known):
                raise ValueError(
                    f"can't {action}: the model's weights at {self.heads or 'hand'} are neither those before nor those "
                    "after this run: another change lies on top, or it is another model of the same shape or another "
                    "revision. Revert that change first, load the right model, or pass force=True to overwrite them"
                )
            _write(slices, values)


def _first_version(file: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """An adapter of two files, of which one holds the description and the other's checksum."""
    description = file.with_name(FIRST_DESCRIPTION)
    about = saving.read_json(description, "adapter")
    with saving.reading(description, "adapter"):
        if about["format"] != FIRST_FORMAT:
            raise ValueError(f"its format is {about['format']!r}")
        checksum = saving.entry(about, "sha256", str)
    data = existing_file(file).read_bytes()
    if hashlib.sha256(data).hexdigest() != checksum:
        raise ValueError(f"{file} is damaged, or not what {FIRST_DESCRIPTION} belongs to: save the adapter again")
    with saving.reading(file, "adapter"):
        return tensors_of_bytes(data), about


def _write(slices: list[Slice], values: Slices) -> None:
    """All of them or, also on an interrupt, none: a model between two states could be neither applied nor reverted."""
    found = [(piece, piece.read()) for piece in slices]
    try:
        for piece in slices:
            piece.write(values[piece.name])
    except BaseException:
        to_the_end(put_back, found)
        raise
