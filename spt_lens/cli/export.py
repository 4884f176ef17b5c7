"""`spt-lens export`: a tuned model as a folder that plain transformers loads."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from spt_lens.cli import options
from spt_lens.cli.output import result_of, tell


def export(
    model: options.Model,
    out: Annotated[Path, typer.Option(help="The folder to write; not an existing one of something else.")],
    adapter: Annotated[Path | None, typer.Option(help="The folder of an adapter made for the model.")] = None,
    revision: Annotated[str | None, typer.Option(help="Of a hub name: branch, tag or commit.")] = None,
    max_shard_size: Annotated[str, typer.Option(help="Of a file of weights; with --adapter, as the model has it.")] = (
        "50GB"
    ),
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier export.")] = False,
    check_with: Annotated[
        Path | None, typer.Option(help="A Python of another environment, whose transformers must agree.")
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Write a folder that plain transformers loads, and check it.

    With --adapter, the checkpoint's files are copied and the tuned slices written into the copy: all other weights are
    the checkpoint's, bit for bit. Without, the model as it is loaded.
    """
    from spt_lens.export.hf import export_hf
    from spt_lens.model.loading import load_model
    from spt_lens.tune.adapter import Adapter

    with result_of(as_json) as result:
        more: Any = {"overwrite": overwrite, "check_with": check_with}
        if adapter is not None:
            tuned = Adapter.load(adapter.expanduser())
            made = export_hf(tuned, out, base=model, revision=revision, **more)
        else:
            made = export_hf(load_model(model, revision=revision), out, max_shard_size=max_shard_size, **more)
        tell(made.summary())
        parity = made.parity
        found: dict[str, Any] = {"folder": made.folder, "bytes": made.size, "slices": made.slices}
        found["parity"] = parity and {"difference": parity.difference, "allowed": parity.allowed}
        result(found | {"elsewhere": made.elsewhere})
