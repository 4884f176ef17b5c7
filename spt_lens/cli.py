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
Dtype = Literal["float32", "bfloat16", "float16"]
ModelName = Annotated[str, typer.Option("--model", help='"yesman", a local Hugging Face folder, or a hub name.')]


@app.command()
def study(
    model: Annotated[str, typer.Option(help='A local Hugging Face folder, a .gguf file, a hub name, or "yesman".')],
    questions: Annotated[str, typer.Option(help='A .jsonl or .csv file of questions, or "bank", which comes along.')],
    out: Out = Path("spt-lens-study"),
    settings: Annotated[Path | None, typer.Option(help="A JSON file of StudySettings.")] = None,
    heads: Annotated[Path | None, typer.Option(help="A file that a picker saved; default: by the rule.")] = None,
    budget: Annotated[str | None, typer.Option(help="The largest study that fits, such as 30min or 2h.")] = None,
    check: Annotated[list[str] | None, typer.Option(help="NAME=FILE: other questions, for the chosen rates.")] = None,
    device: Annotated[str | None, typer.Option(help="Default: CUDA where there is one, else the CPU.")] = None,
    dtype: Annotated[Dtype, typer.Option(help="Of the weights.")] = "float32",
    matmul: Annotated[
        Literal["highest", "high", "medium"], typer.Option(help="torch.set_float32_matmul_precision.")
    ] = "highest",
    workers: Annotated[int, typer.Option(help="Processes of one thread each, for the trials.", min=1, max=1000)] = 1,
    export: Annotated[bool, typer.Option("--export", help="Write the tuned model too.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what it takes, and stop.")] = False,
) -> None:
    """Which heads, what they do, and how tuning them compares: the whole story of a model and questions of yours.

    It says what it takes before it starts. It may be stopped anywhere: the same command goes on.
    """
    from dataclasses import replace

    import torch
    from rich.console import Console
    from rich.markup import escape

    from spt_lens.behaviours.are_you_sure import AreYouSure
    from spt_lens.behaviours.bank import question_bank
    from spt_lens.behaviours.behaviour import plain
    from spt_lens.checking import existing_file
    from spt_lens.heads import HeadSet
    from spt_lens.model.devices import usable_device
    from spt_lens.model.loading import load_model
    from spt_lens.model.view import ModelView
    from spt_lens.study.budget import fit, seconds_of
    from spt_lens.study.cost import Speeds, in_words
    from spt_lens.study.folder import check_room, settings_of
    from spt_lens.study.settings import StudySettings
    from spt_lens.study.study import Study

    console, out = Console(), out.expanduser()
    seconds = None if budget is None else seconds_of(budget)
    place = None if device is None else usable_device(device, "--device")
    check_room(out)
    wanted = StudySettings() if settings is None else StudySettings.load(settings)
    begun = (out / "study.json").exists() and (settings is None or budget is not None)
    wanted = settings_of(out) if begun else wanted  # a budget would fit another study each time
    given = None if heads is None else HeadSet.load(heads)

    def behaviour(source: str) -> AreYouSure:
        if source == "bank":
            return AreYouSure(question_bank(), name="question bank")
        return AreYouSure(source if "://" in source else existing_file(source), name=Path(source).stem)

    asked, checks = behaviour(questions), {}
    for each in check or []:
        name, equals, file = each.partition("=")
        if not (name and equals and file) or name in checks:
            raise ValueError(f"--check {each}: give NAME=FILE, such as trivia=trivia.jsonl, and each name once")
        held_out = [replace(question, split="test") for question in behaviour(file).questions]  # no tuning sees one
        checks[name] = AreYouSure(held_out, name=name)
        known = {plain(question.text) for question in asked.questions}
        if n := sum(plain(question.text) in known for question in held_out):
            console.print(f"{n} of {len(held_out)} questions of --check {escape(name)} are among --questions too.")
    torch.set_float32_matmul_precision(matmul)
    loaded = load_model(model, device=place, dtype=getattr(torch, dtype))
    more: Any = {"heads": given, "checks": checks, "workers": workers, "export": export}
    made = Study(loaded, asked, out, wanted, **more)
    if begun:
        unread = " --settings and --budget are not read again." * (budget is not None)
        console.print(f"Going on with the settings in {escape(str(out / 'study.json'))}.{unread}", soft_wrap=True)
    if made.path("report").exists():
        if dry_run:
            return console.print("It is done.")
        return _told(made, console)
    speeds = Speeds(made)
    cost = speeds.cost(wanted)
    if seconds is not None and not begun:
        fitted = fit(made, seconds, speeds=speeds)
        cost = fitted.cost
        console.print(f"Into {in_words(seconds)} fits all but: {'; '.join(fitted.left_out) or 'nothing'}.")
        made = Study(loaded, asked, out, fitted.settings, **more)
    console.print(cost.table.to_string(index=False), markup=False, highlight=False)
    console.print(f"In all about [bold]{in_words(cost.total)}[/], measured on this machine in one process.")
    if seconds is None and not begun and cost.total > 1200 and ModelView(loaded).device.type == "cpu":
        for offer in (1200, 3600, 7200):
            try:
                left_out = fit(made, offer, speeds=speeds).left_out
            except ValueError:
                continue
            if left_out:
                offered = in_words(offer).replace(" ", "")
                console.print(f"On this CPU, --budget {offered} would leave out: {'; '.join(left_out)}.")
    if not dry_run:
        _told(made, console)


@app.command()
def demo(
    out: Out = Path("spt-lens-demo"),
    model: ModelName = "yesman",
    seed: Annotated[int, typer.Option(help="Of the pairs, the tuning and the random heads.")] = 0,
    quick: Annotated[bool, typer.Option(help="A few steps and cases: only to see that it runs.")] = False,
) -> None:
    """Run the whole story on the embedded model: a table here, a report and an adapter in the folder."""
    from spt_lens.yesman.studies import demo_settings

    _embedded(out, model, demo_settings(seed, quick), 1)


@app.command()
def compare(
    out: Out = Path("spt-lens-compare"),
    model: ModelName = "yesman",
    workers: Annotated[int, typer.Option(help="Processes of one thread each.", min=1, max=1000)] = 2,
    seeds: Annotated[int, typer.Option(help="Tuning seeds of each learning rate.", min=1, max=1000)] = 3,
    kl_weight: Annotated[float, typer.Option(help="Of a KL term on ordinary text, for every method.", min=0)] = 0,
) -> None:
    """Compare every method on the embedded model over learning rates and seeds; goes on where it was stopped."""
    from spt_lens.yesman.studies import comparison_settings

    _embedded(out, model, comparison_settings(seeds, kl_weight), workers)


def _embedded(out: Path, model: str, settings: Any, workers: int) -> None:
    from rich.console import Console

    from spt_lens.model.loading import load_model
    from spt_lens.study.folder import check_room
    from spt_lens.study.study import Study
    from spt_lens.yesman import Yesman

    check_room(out)
    _told(Study(load_model(model), Yesman(), out, settings, workers=workers), Console())


def _told(study: Any, console: Any) -> None:
    """Runs a study and tells what it found; of one that is interrupted, how it goes on."""
    from spt_lens.study.terminal import tell

    try:
        tell(study.run(), console)
    except KeyboardInterrupt:
        console.print("Stopped. What was measured is kept: the same command goes on.")
        raise typer.Exit(130) from None


@app.command()
def support(
    checkpoint: Annotated[str, typer.Argument(help="A local Hugging Face folder, a .gguf file, or a hub name.")],
    dtype: Annotated[Dtype, typer.Option(help="Of the weights.")] = "float32",
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
    # TypeError, NotImplementedError: a model of a kind that is not supported. FloatingPointError: a run that diverged.
    except (ValueError, OSError, ImportError, TypeError, NotImplementedError, MemoryError, FloatingPointError) as error:
        if len(arguments) < len(sys.argv) - 1:
            raise
        gone = isinstance(error, ImportError) and (error.name or "").startswith("spt_lens.yesman")
        message = "this command is the embedded model's, and spt_lens/yesman is not installed" if gone else error
        print(f"spt-lens: {message}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
