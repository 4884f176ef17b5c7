"""The command line: a thin layer over the functions of the library. `spt-lens --help` lists the commands."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

# Each command imports what it needs when it runs, so that one does not wait for another's libraries.

app = typer.Typer(
    help="Supervised pinpoint tuning: find the few attention heads behind a behaviour, and tune only them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
Out = Annotated[Path, typer.Option(help="The folder to write into.")]
ModelName = Annotated[str, typer.Option("--model", help='"yesman", a local Hugging Face folder, or a hub name.')]


@app.command()
def demo(
    out: Out = Path("spt-lens-demo"),
    model: ModelName = "yesman",
    seed: Annotated[int, typer.Option(help="Of the pairs, the tuning and the random heads.")] = 0,
    quick: Annotated[bool, typer.Option(help="A few steps and cases: only to see that it runs.")] = False,
) -> None:
    """Run the whole story on the embedded model: a table here, a report and an adapter in the folder."""
    from spt_lens.yesman.studies import demo_settings

    _study_yesman(out, model, demo_settings(seed, quick))


@app.command()
def compare(
    out: Out = Path("spt-lens-compare"),
    model: ModelName = "yesman",
    workers: Annotated[int, typer.Option(help="Processes of one thread each.", min=1)] = 2,
    seeds: Annotated[int, typer.Option(help="Tuning seeds of each learning rate.", min=1)] = 3,
    kl_weight: Annotated[float, typer.Option(help="Of a KL term on ordinary text, for every method.", min=0)] = 0,
) -> None:
    """Compare every method over learning rates and seeds; goes on where an interrupted comparison stopped."""
    from spt_lens.yesman.studies import comparison_settings

    _study_yesman(out, model, comparison_settings(seeds, kl_weight), workers)


def _study_yesman(out: Path, model: str, settings: Any, workers: int = 1) -> None:
    from spt_lens.model.loading import load_model
    from spt_lens.saving import writable
    from spt_lens.study.study import Study
    from spt_lens.yesman import Yesman

    writable(out, "the study")
    study = Study(load_model(model), Yesman(), out, settings, workers=workers).run()
    typer.echo(study.table)
    typer.echo(f"Open {study.report}.")


@app.command()
def support(
    checkpoint: Annotated[str, typer.Argument(help="A local Hugging Face folder, a .gguf file, or a hub name.")],
    dtype: Annotated[Literal["float32", "bfloat16", "float16"], typer.Option(help="Of the weights.")] = "float32",
    model_class: Annotated[
        Literal["bridge", "hooked"],
        typer.Option(help="hooked is a HookedTransformer, which TransformerLens has up to 3.9."),
    ] = "bridge",
    device: Annotated[str | None, typer.Option(help="Default: CUDA where there is one, else the CPU.")] = None,
    chat_template: Annotated[str | None, typer.Option(help='For base models: "plain", or a template\'s file.')] = None,
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


def main() -> None:
    """The console script. What the user can mend is told in a line; `--traceback` before the command shows where."""
    # peft and transformers warn of each other's deprecations; nothing a user could do about them.
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    arguments = [a for a in sys.argv[1:] if a != "--traceback"]
    try:
        app(arguments, prog_name="spt-lens")
    # TypeError, NotImplementedError: a model of a kind that is not supported.
    except (ValueError, OSError, ImportError, TypeError, NotImplementedError) as error:
        if len(arguments) < len(sys.argv) - 1:
            raise
        gone = isinstance(error, ImportError) and (error.name or "").startswith("spt_lens.yesman")
        message = "this command is the embedded model's, and spt_lens/yesman is not installed" if gone else error
        print(f"spt-lens: {message}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
