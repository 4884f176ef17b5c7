"""Back to Hugging Face: a tuned model, or a checkpoint and an adapter, as a folder that plain transformers loads."""

import html
import re
from dataclasses import dataclass
from pathlib import Path

import torch
from tqdm.auto import tqdm

from spt_lens.checking import a_path, door, whole_number
from spt_lens.export import splice, tokenizer
from spt_lens.export.elsewhere import check_python, told
from spt_lens.export.folder import replacing, size, write_marker
from spt_lens.export.older import say_again
from spt_lens.export.parity import Parity, check_written
from spt_lens.model.held import unbroken
from spt_lens.model.huggingface import checked_source, made_by_own_code, no_loading_bar
from spt_lens.model.own_hooks import check_unedited
from spt_lens.model.view import Model, ModelView
from spt_lens.tune.adapter import Adapter


@dataclass(frozen=True, repr=False)
class Export:
    """What was written, and how it was checked. Can be used as a path.

    size: bytes. parity: of an exported model. slices: how many slices of an adapter were written and read back.
    elsewhere: what another transformers made of it, where `check_with` was given.
    """

    folder: Path
    size: int
    parity: Parity | None = None
    slices: int = 0
    elsewhere: str = ""

    def __str__(self) -> str:
        return str(self.folder)

    __fspath__ = __str__

    def summary(self) -> str:
        """One line: where, how large, and how it was checked."""
        how = f"{self.slices} slices written and read back, every other weight is the checkpoint's"
        if self.parity is not None:
            how = f"logits within {self.parity.difference:.2g} of the live model's (allowed: {self.parity.allowed:.2g})"
        return f"{self.folder}, {self.size / 1e6:,.1f} MB: {how}" + (f"; {self.elsewhere}" if self.elsewhere else "")

    def __repr__(self) -> str:
        return f"Export({self.summary()})"

    def _repr_html_(self) -> str:
        return f"<code>{html.escape(self.summary())}</code>"


@door
@unbroken()
def export_hf(
    model: Model | Adapter | str | Path,
    folder: str | Path,
    *,
    base: str | Path | None = None,
    revision: str | None = None,
    max_shard_size: int | str = "50GB",
    overwrite: bool = False,
    check_with: str | Path | None = None,
    progress: bool = True,
) -> Export:
    """Writes a folder that plain `transformers` loads: config, weights, tokenizer, chat template, generation config.

    **A model**: its weights as they are now. The folder is loaded again by plain transformers before it gets its name:
    every weight must be the same bits, and logits within 1e-5 (`Parity`). The model, its hooks and flags are as before;
    hooks, also permanent ones, take no part. Memory: one more model on the CPU; of a HookedTransformer, two more.

    **An adapter**, or the folder of a saved one, with `base`: copies the checkpoint's files and writes the tuned slices
    over the untuned ones in the copy. All other weights are the checkpoint's, bit for bit. No model is made, and memory
    is that of the largest tensor. Slices are rounded to the checkpoint's dtype, with a warning where it is narrower.

    RoPE settings are in config.json under their older names too, and a tokenizer's class is named as transformers 4
    knows it, where transformers 5 reads the same from both (docs/exporting.md).

    All goes to a hidden folder beside `folder` first, which is removed on an error or an interrupt.

    Args:
        base: the checkpoint that an adapter was made for, as in `load_model`; or that a HookedTransformer was made of,
            if load_model did not make it. A bridge needs none.
        revision: of an adapter's `base`, where it is a hub name.
        max_shard_size: of a file of a model's weights, such as "5GB". An adapter's export has the files of its base.
        overwrite: replace an earlier export, once the new one is checked. Nothing else is ever replaced.
        check_with: a Python of another environment, whose transformers must give the same logits and tokens too.

    Raises: TypeError for neither a model nor an adapter; ValueError for a processed or training-mode model, or one of
    several dtypes; for an adapter of another model or revision (as far as its slices tell), applied already, or without
    a base; for the base's or the current folder. FileExistsError for a folder that is neither empty nor an earlier
    export to replace; FileNotFoundError for no such adapter or base, or one without safetensors; OSError if the folder
    cannot be written; RuntimeError if what was written is not the model (nothing is left of it); NotImplementedError
    for an architecture whose heads' places are not known, or a quantised base. With check_with, FileNotFoundError or
    ValueError for what is no such Python, ValueError for a model of its checkpoint's own code, and RuntimeError where
    its transformers reads another model (nothing is left of the export).
    """
    target = a_path(folder, "folder").expanduser()
    other = None if check_with is None else check_python(check_with)
    if isinstance(model, str | Path):
        model = Adapter.load(Path(model).expanduser())
    if isinstance(model, Adapter):
        if base is None:
            raise ValueError("an adapter holds slices only: name the checkpoint that it was made for with base=")
        slices, elsewhere = splice.export(model, target, base, revision, overwrite, progress, other)
        return Export(target, size(target), slices=slices, elsewhere=elsewhere)
    view = ModelView(model)
    if not isinstance(max_shard_size, str):
        whole_number(max_shard_size, "max_shard_size")
    elif not re.fullmatch(r"\d*[1-9]\d*(\.\d+)?[KMGT]B", max_shard_size, re.IGNORECASE):
        raise ValueError(f"max_shard_size={max_shard_size!r}: give bytes, or text such as '5GB'")
    parity, elsewhere = _export_model(view, target, base, max_shard_size, overwrite, progress, other)
    return Export(target, size(target), parity=parity, elsewhere=elsewhere)


def _export_model(
    view: ModelView,
    folder: Path,
    base: str | Path | None,
    shard: int | str,
    overwrite: bool,
    progress: bool,
    other: tuple[str, str] | None,
) -> tuple[Parity, str]:
    view.check_tunable()
    check_unedited(view.model)
    if other is not None and made_by_own_code(view.backend.root):
        raise ValueError("check_with reads an export without its checkpoint's own code, which this model needs")
    named = None if base is None else checked_source(base)
    local = Path(named) if named and Path(named).is_dir() else None
    source = tokenizer.source_folder(view.tokenizer) or local
    read = [place for place in (local, source) if place is not None]
    with (
        view.held(),
        torch.no_grad(),
        no_loading_bar(),
        replacing(folder, view.n_params * view.dtype.itemsize, overwrite, read) as temporary,
        tqdm(total=3, desc="exporting", unit="part", disable=not progress) as bar,
    ):
        plain = view.backend.plain(named, share=True)
        odd = [name for name, p in plain.named_parameters() if p.dtype != view.dtype]
        if odd:  # transformers would read all in one dtype
            raise ValueError(
                f"{len(odd)} weights, first {odd[0]}, are not {view.dtype} as the others: a checkpoint is loaded in "
                "one dtype, so bring the model to one first, such as model.to(torch.float32)"
            )
        bar.update()
        plain.save_pretrained(temporary, max_shard_size=shard)
        tokenizer.write(view.tokenizer, source, temporary)
        say_again(temporary)
        bar.update()
        parity = check_written(view, plain, temporary)
        elsewhere = told(temporary, other)
        bar.update()
        figures = {"difference": parity.difference, "allowed": parity.allowed, "largest_logit": parity.largest}
        about = {"made_from": view.name, "architecture": view.architecture}
        write_marker(temporary, {**about, "dtype": str(view.dtype).removeprefix("torch."), "parity": figures})
    return parity, elsewhere
