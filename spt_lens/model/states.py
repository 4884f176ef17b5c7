"""What lies below the lowest layer that changes, computed once: the hidden states that its block is given.

Where only weights from some layer on change, as in pinpoint tuning, the blocks below give the same for a row of token
ids at every step, in every epoch and in every run. So each row's hidden states there are computed once and kept, and
forward passes start from them. The backward pass ends there too: they are constants.

All else is the model's own forward pass: the blocks below are passed over and hand on what was kept. In the last block,
the MLP runs at the positions that are read, since nothing after it looks at the others.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from spt_lens.chat.batches import PromptBatch, Reads
from spt_lens.checking import a_path, instance, number, whole_number
from spt_lens.model import ranks
from spt_lens.model.blocks import passed_over, with_methods
from spt_lens.model.devices import free_bytes
from spt_lens.model.held import came_between
from spt_lens.model.kept_rows import Row, RowFolder
from spt_lens.model.own_hooks import has_hooks
from spt_lens.model.targets import model_logits, most_off, off_by
from spt_lens.model.view import Model, ModelView
from spt_lens.saving import weights_digest

CHUNK = 16  # rows of like length that go through the blocks below at once


class States:
    """Hidden states of rows of token ids at the inputs of some layers' blocks, within one bound for all.

    max_memory: GiB for all that is kept; default: half of the memory (or disk) that is free now. folder: where they are
    kept instead of in memory, and found again by later runs of the same model; rows of other data lie beside each other
    there. What has no room is computed again each time it is needed.

    Raises: ValueError for a bound that is not above zero, or a file in place of a folder.
    """

    def __init__(self, model: Model, max_memory: float | None = None, folder: str | Path | None = None) -> None:
        self.view = ModelView(model)
        self.folder = None if folder is None else a_path(folder, "folder")
        if self.folder is not None and self.folder.exists() and not self.folder.is_dir():
            raise ValueError(f"{folder} is a file: name a folder for hidden states, which is made if it does not exist")
        if max_memory is not None:
            number(max_memory, "max_memory", above=0)
        free = free_bytes(torch.device("cpu")) if self.folder is None else RowFolder.free(self.folder)
        self.room = int(free / 2 if max_memory is None else max_memory * 2**30)
        self._below: dict[int, Below] = {}

    @classmethod
    def given(cls, model: Model, states: States | str | Path | bool) -> States | None:
        """What an argument `states` asks for: in memory (True), in a folder, those of a caller, or none (False).

        Raises: TypeError for anything else; ValueError for those of another model, whose numbers would be learned from.
        """
        if isinstance(states, bool):
            return cls(model) if states else None
        way_out = "give True, False, a folder, or the model.states.States that runs share"
        found = instance(states, "states", (States, str, Path), way_out)
        if isinstance(found, States):
            if found.view.model is not ModelView(model).model:
                raise ValueError(
                    f"states are those of another model ({found.view.name}): give States(model) of this one"
                )
            return found
        return cls(model, folder=found)

    def below(self, layer: int) -> Below:
        """What is kept at one layer. It is forgotten first if weights below it are no longer what they were.

        Raises ValueError if the folder holds what was kept of another model, or of other weights; OSError if it can't
        be written to.
        """
        whole_number(layer, "layer", 0, self.view.n_layers - 1)
        digest = weights_below(self.view, layer)
        kept = self._below.get(layer)
        if kept is None or kept.digest != digest:
            if kept is not None:
                self.room += kept.nbytes
            kept = self._below[layer] = Below(self, layer, digest)
        return kept


class Below:
    """`States` at one layer: `logits` is `targets.model_logits` that starts from there."""

    def __init__(self, states: States, layer: int, digest: str) -> None:
        self.states, self.view, self.layer, self.digest = states, states.view, layer, digest
        self._blocks = list(self.view.model.blocks)
        self._logits = model_logits(self.view)
        self._kept: dict[Row, Tensor] = {}
        self._rest: int | None = None  # what a block gives beside the hidden states; None: it gives them alone
        self.nbytes = 0
        about: dict[str, str | int] = {"model": self.view.name, "layer": layer}
        about |= {"weights below it": digest, "dtype": str(self.view.dtype)}
        self._folder = None
        if states.folder is not None and layer:
            folder = states.folder
            ranks.from_first(lambda: len(RowFolder(folder, about)))  # made by one
            self._folder = RowFolder(folder, about)

    def __len__(self) -> int:
        """How many rows are kept."""
        return len(self._kept) if self._folder is None else len(self._folder)

    def problem(self, rows: Sequence[Sequence[int]]) -> str:
        """Why this model can't be run from there, as what follows "it"; "" if it can.

        Tried on the shortest and the longest row together: the logits must be those of the plain way.

        Raises ValueError if what is kept of them already is not what the model gives: its config may have changed.
        """
        if has_hooks(self.view.model, self.view.modules()):
            return "carries hooks of yours, which would not see the layers below"
        ordered = sorted(map(tuple, rows), key=len)
        tried = [ordered[0], ordered[-1]]
        batch = PromptBatch.of(tried)
        where = batch.mask & (batch.last[:, None] - torch.arange(batch.mask.shape[1]) < 4)
        device = self.view.device
        reads = Reads(batch.tokens.to(device), where.to(device), batch.last + 1)
        try:
            with self.view.kept(), torch.no_grad():
                hidden = self._compute(tried)
                found = self._from(self._stacked(hidden, reads), reads)
                expected = self._logits(reads)
        except Exception as error:  # whatever a model makes of being run in part
            if came_between(error):
                raise
            return f"can't be run from layer {self.layer} on ({type(error).__name__}: {error})"
        most = most_off(self.view.dtype)  # batches of other shapes are added up in another order
        for row, here in zip(tried, hidden, strict=True):
            # Not as exact: the softmax of most bridges is in float32 whatever the model is in.
            if self._has(row) and not off_by(self._get(row), here) <= max(most, 1e-4):
                raise ValueError(
                    f"{self.states.folder or 'the States'} holds hidden states below layer {self.layer} that "
                    f"{self.view.name} does not give now: its config or how it is run has changed, so give another "
                    "folder, or a new States"
                )
        off = off_by(found, expected)
        fits = off <= most  # nan does not
        return "" if fits else f"gives other logits when run from layer {self.layer} on (by a share of {off:.2g})"

    def fill(self, rows: Sequence[Sequence[int]], progress: bool = False) -> int:
        """Keeps the states of rows, as far as there is room; gives how many of them are kept.

        Which rows go through the blocks together depends on these rows alone, so that the same ones give the same bits.
        """
        wanted = sorted(set(map(tuple, rows)), key=lambda row: (len(row), row))
        chunks = [wanted[start : start + CHUNK] for start in range(0, len(wanted), CHUNK)] if self.layer else []
        title = f"keeping what lies below layer {self.layer}"
        for chunk in tqdm(chunks, desc=title, unit="batch", disable=not ranks.shows(progress)):
            if not all(map(self._has, chunk)):
                with self.view.kept(), torch.no_grad():
                    fits = self._keep(chunk, self._compute(chunk))
                if not fits:  # those to come are longer
                    break
        return sum(map(self._has, wanted))

    def logits(self, batch: Reads) -> Float[Tensor, "n_where vocab"]:
        """The model's logits at the marked positions (`targets.LogitsAt`), with gradients as the caller set them."""
        return self._from(self._hidden(batch) if self.layer else None, batch)

    def _hidden(self, batch: Reads) -> Float[Tensor, "batch pos d_model"]:
        tokens, lengths = batch.tokens.tolist(), batch.lengths.tolist()
        rows = [tuple(row[:length]) for row, length in zip(tokens, lengths, strict=True)]
        missing = [row for row in dict.fromkeys(rows) if not self._has(row)]
        new: dict[Row, Tensor] = {}
        if missing:
            with torch.no_grad():
                new = dict(zip(missing, self._compute(missing), strict=True))
            self._keep(missing, list(new.values()))
        return self._stacked([new[row] if row in new else self._get(row) for row in rows], batch)

    def _stacked(self, states: Sequence[Tensor], batch: Reads) -> Float[Tensor, "batch pos d_model"]:
        """Rows of states as one batch; zeros where it is padded, which no real token sees."""
        hidden = torch.zeros(*batch.tokens.shape, self.view.d_model, dtype=self.view.dtype)
        for into, row in zip(hidden, states, strict=True):
            into[: len(row)] = row
        return hidden.to(self.view.device)

    def _from(self, hidden: Tensor | None, batch: Reads) -> Tensor:
        def give(*args: Any, **kwargs: Any) -> Any:
            return self._given(hidden)

        lower = self._blocks[: self.layer] if hidden is not None else []
        with passed_over(lower, give), self._mlp_where(batch.where):
            return self._logits(batch)

    @contextmanager
    def _mlp_where(self, where: Tensor) -> Iterator[None]:
        """In the block, the last MLP runs at these positions alone, and gives zeros at the others."""
        mlp = getattr(self._blocks[-1], "mlp", None)
        if mlp is None:
            yield
            return
        own = mlp.forward

        def there(hidden: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            at = where.to(hidden.device)
            found = own(hidden[at][None], *args, **kwargs)[0]
            return hidden.new_zeros(*hidden.shape[:2], found.shape[-1]).index_put((at,), found)

        with with_methods(mlp, forward=there):
            yield

    def _compute(self, rows: Sequence[Row]) -> list[Float[Tensor, "pos d_model"]]:
        """Runs the blocks below, and no other."""
        batch, seen = PromptBatch.of(rows), []

        def give(*args: Any, **kwargs: Any) -> Any:
            seen.append(args[0] if args else kwargs["hidden_states"])
            return self._given(seen[0])

        if self._rest is None:
            self._rest = self._beside(rows[0])
        with passed_over(self._blocks[self.layer :], give):
            self.view.logits(batch.tokens, at=torch.zeros_like(batch.last))  # any position: it is not wanted
        hidden = seen[0].cpu()
        return [row[: last + 1].clone() for row, last in zip(hidden, batch.last.tolist(), strict=True)]

    def _beside(self, row: Row) -> int:
        """How many things a block gives beside the hidden states, -1 if it gives them alone."""
        found: list[int] = []

        def look(module: Any, args: Any, output: Any) -> None:
            found.append(len(output) - 1 if isinstance(output, tuple) else -1)

        with self._blocks[0].register_forward_hook(look):
            self.view.logits(torch.tensor([row]), at=torch.zeros(1, dtype=torch.long))
        return found[0]

    def _given(self, hidden: Tensor | None) -> Any:
        return hidden if self._rest in (None, -1) else (hidden, *[None] * self._rest)  # type: ignore[operator]

    def _has(self, row: Row) -> bool:
        return row in self._kept if self._folder is None else row in self._folder

    def _get(self, row: Row) -> Tensor:
        return self._kept[row] if self._folder is None else self._folder.read(row)

    def _keep(self, rows: Sequence[Row], states: Sequence[Tensor]) -> bool:
        """Whether there was room for them."""
        size = sum(value.nbytes for value in states)
        if size > self.states.room:
            return False
        if self._folder is None:
            new = {row: value for row, value in zip(rows, states, strict=True) if row not in self._kept}
            self._kept |= new
            size = sum(value.nbytes for value in new.values())
        else:
            self._folder.write(rows, states)
        self.states.room -= size
        self.nbytes += size
        return True


def weights_below(model: Model, layer: int) -> str:
    """A digest of all weights but those of the blocks from a layer on, as they are now."""
    view = ModelView(model)
    above = {p.untyped_storage().data_ptr() for block in view.model.blocks[layer:] for p in block.parameters()}
    weights = sorted(view.weights().items())
    below = [(n, weight) for n, weight in weights if weight.is_meta or weight.untyped_storage().data_ptr() not in above]
    return weights_digest(below).hexdigest()[:32]
