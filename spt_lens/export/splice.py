"""An adapter's slices written into a copy of a checkpoint's files. No model is made and TransformerLens takes no part.

All weights but the slices are the checkpoint's, bit for bit, because its files are copied and only the slices' bytes
written over. Memory is that of the largest tensor.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from tqdm.auto import tqdm

from spt_lens.export.checkpoint import DTYPES, Checkpoint, Place, open_checkpoint, places
from spt_lens.export.elsewhere import told
from spt_lens.export.folder import copy_file, replacing, write_marker
from spt_lens.export.older import say_again
from spt_lens.model.layout import Part
from spt_lens.model.ranks import warn_caller
from spt_lens.saving import same_bits
from spt_lens.tune.adapter import Adapter


def export(
    adapter: Adapter,
    folder: Path,
    base: str | Path,
    revision: str | None,
    overwrite: bool,
    progress: bool,
    other: tuple[str, str] | None = None,
) -> tuple[int, str]:
    """Writes `folder`: the checkpoint `base` with the adapter's slices. Returns how many, and what is `told`."""
    checkpoint = open_checkpoint(base, revision)
    pieces = _pieces(adapter, checkpoint)
    kept = _check_base(adapter, checkpoint, pieces)
    sizes = {name: (checkpoint.folder / name).stat().st_size for name in checkpoint.copied()}
    with (
        replacing(folder, sum(sizes.values()), overwrite, [checkpoint.folder]) as temporary,
        tqdm(total=sum(sizes.values()), desc="exporting", unit="B", unit_scale=True, disable=not progress) as bar,
    ):
        for name, length in sizes.items():
            copy_file(checkpoint.folder, name, temporary)
            bar.update(length)
        for place, here in pieces.items():
            place.edit(temporary, partial(_put, adapter, checkpoint, here))
        _check_written(adapter, checkpoint, pieces, sizes, temporary)
        say_again(temporary)
        elsewhere = told(temporary, other)
        about = {"made_from": checkpoint.name, "architecture": checkpoint.architecture}
        slices = {"projections": adapter.projections, "slices": len(adapter.after), "changed_weights_kept": kept}
        write_marker(temporary, {**about, "heads": [str(head) for head in adapter.heads], **slices})
    return len(adapter.after), elsewhere


Pieces = dict[Place, list[Part]]  # an adapter's slices, by the tensor that they are parts of


def _pieces(adapter: Adapter, base: Checkpoint) -> Pieces:
    """Where the adapter's slices belong. Raises ValueError unless it fits and is whole."""
    adapter.check_fits(base.fingerprint())
    if adapter.edits:
        raise ValueError(
            "this adapter holds edits of activations, which no checkpoint does: load the model, then adapter.apply(it)"
        )
    if not adapter.heads:
        raise ValueError(
            "this adapter holds whole weights, not heads': export the tuned model, export_hf(model, folder)"
        )
    shape = base.shape
    parts = shape.parts(adapter.heads, adapter.projections)
    far = [str(head) for head in adapter.heads if head.layer >= shape.n_layers or head.head >= shape.n_heads]
    if far or {part.name for part in parts} != set(adapter.after):
        raise ValueError("this adapter's slices are not those of its heads and projections: it was damaged")
    found: Pieces = {}
    for part in parts:
        name, size = part.name, (shape.d_head, shape.d_model)
        for value in (adapter.before[name], adapter.after[name]):
            if tuple(value.shape) != (size[::-1] if part.which == "o" else size) or value.dtype not in DTYPES.values():
                raise ValueError(f"{name} is {list(value.shape)} {value.dtype} in this adapter: it was damaged")
        found.setdefault(base.place(part.layer, part.which), []).append(part)
    return found


def _read(base: Checkpoint, pieces: Pieces, folder: Path) -> Iterator[tuple[str, Tensor]]:
    """The slices as they are in the files of `folder`, one tensor at a time."""
    for place, here in pieces.items():
        weight = place.read(folder)
        yield from ((part.name, base.pick(part)(weight)) for part in here)


def _check_base(adapter: Adapter, base: Checkpoint, pieces: Pieces) -> float:
    """Raises ValueError unless the checkpoint's slices are those before tuning. Returns what share of the changed
    weights is still changed after rounding to the checkpoint's dtype, and warns where that is narrower or wider."""
    wrong: list[str] = []
    applied, changed, kept, narrower, wider = 0, 0, 0, False, ""
    for name, found in _read(base, pieces, base.folder):
        before, after = adapter.before[name].cpu(), adapter.after[name].cpu()
        if not _same_but_rounding(found, before):
            wrong.append(name)
        applied += _same_but_rounding(found, after)
        rounded = after.to(found.dtype)
        if not rounded.isfinite().all():
            raise ValueError(f"{name} holds numbers that are not finite in the checkpoint's {found.dtype}.")
        moved = after != before
        changed += int(moved.sum())
        kept += int((moved & (rounded != before.to(found.dtype))).sum())
        narrower |= torch.finfo(found.dtype).eps > torch.finfo(after.dtype).eps
        if torch.finfo(found.dtype).eps < torch.finfo(after.dtype).eps:
            wider = str(after.dtype)
    if wrong and applied == len(adapter.after):
        raise ValueError(f"{base.name} holds this adapter's tuned slices already: export it from its untuned base.")
    if wrong:
        raise ValueError(
            f"this adapter was made for another model or another revision than {base.name}: {wrong[0]} there is not "
            f"what it was before tuning ({len(wrong)} of {len(adapter.after)} slices): name the one that was tuned"
        )
    share = kept / changed if changed else 1.0
    if narrower:
        warn_caller(
            f"{base.name} stores fewer digits than this adapter: of the {changed:,} weights that tuning changed, "
            f"{share:.1%} are still changed after rounding. To keep them all, load the model in the adapter's dtype, "
            "apply the adapter and export the model."
        )
    if wider:
        warn_caller(
            f"this adapter was tuned in {wider}, and {base.name} stores more digits: in the export all weights but its "
            f"slices have these, so that it is the model that was tuned only where it is loaded with dtype={wider}"
        )
    return share


def _same_but_rounding(found: Tensor, known: Tensor) -> bool:
    """Whether one is the other, rounded to its dtype."""
    return torch.equal(found.to(known.dtype), known) or torch.equal(known.to(found.dtype), found)


def _put(adapter: Adapter, base: Checkpoint, parts: list[Part], weight: Tensor) -> None:
    for part in parts:
        base.pick(part)(weight).copy_(adapter.after[part.name])


def _check_written(adapter: Adapter, base: Checkpoint, pieces: Pieces, sizes: dict[str, int], folder: Path) -> None:
    odd = [name for name, size in sizes.items() if (folder / name).stat().st_size != size]
    odd += [file for file in base.files if places(folder, file) != places(base.folder, file)]
    read = _read(base, pieces, folder)
    odd += [name for name, written in read if not same_bits(written, adapter.after[name].to(written.dtype))]
    if odd:
        raise RuntimeError(
            f"the export is not what was to be written: {odd[0]} differs, and nothing is left of it: try again"
        )
