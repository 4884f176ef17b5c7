"""`spt-lens support`: what works with a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from spt_lens.cli import options


def support(
    checkpoint: Annotated[str, typer.Argument(help="A local Hugging Face folder, a .gguf file, or a hub name.")],
    dtype: options.Weights = "float32",
    model_class: Annotated[
        Literal["bridge", "hooked"],
        typer.Option(help="hooked is a HookedTransformer, which TransformerLens has up to 3.9."),
    ] = "bridge",
    device: options.Device = None,
    chat_template: options.Template = None,
    out: Annotated[Path | None, typer.Option(help="A JSON file for what was found.")] = None,
) -> None:
    """Try out what works with a checkpoint: load, measure, slices, tune, adapter, export.

    The checkpoint is only read. It takes up to four times the memory of its weights, and as much room in the temporary
    folder (TMPDIR) as the checkpoint; seconds for a small model, minutes for a large one on a GPU, hours on a CPU.
    Ends with status 1 if anything does not work.
    """
    import torch

    from spt_lens.support.checks import check_checkpoint
    from spt_lens.support.report import save

    found = check_checkpoint(checkpoint, model_class, getattr(torch, dtype), device, chat_template)
    typer.echo(repr(found))
    if out is not None:
        typer.echo(f"Wrote {save([found], out)}")
    if not found.works:
        raise typer.Exit(1)
