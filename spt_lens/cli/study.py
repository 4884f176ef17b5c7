"""`spt-lens study`: the whole story of a model and questions of yours."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from spt_lens.cli import options
from spt_lens.cli.output import Result, result_of

Out = Annotated[Path, typer.Option(help="The folder to write into.")]


def study(
    model: options.Model,
    questions: options.Questions,
    out: Out = Path("spt-lens-study"),
    settings: Annotated[Path | None, typer.Option(help="A JSON file of StudySettings.")] = None,
    heads: Annotated[str | None, typer.Option(help="A picker's file, or text; default: by the rule.")] = None,
    budget: Annotated[str | None, typer.Option(help="The largest study that fits, such as 30min or 2h.")] = None,
    check: Annotated[list[str] | None, typer.Option(help="NAME=FILE: other questions, for the chosen rates.")] = None,
    device: options.Device = None,
    dtype: options.Weights = "float32",
    matmul: Annotated[
        Literal["highest", "high", "medium"], typer.Option(help="torch.set_float32_matmul_precision.")
    ] = "highest",
    workers: options.Workers = 1,
    export: Annotated[bool, typer.Option("--export", help="Write the tuned model too.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what it takes, and stop.")] = False,
    as_json: options.Json = False,
) -> None:
    """Which heads, what they do, and how tuning them compares: the whole story of a model and questions of yours.

    It says what it takes before it starts. It may be stopped anywhere: the same command goes on.
    """
    import torch
    from rich.console import Console
    from rich.markup import escape

    from spt_lens.measure.timed import in_words
    from spt_lens.model.devices import usable_device
    from spt_lens.model.loading import load_model
    from spt_lens.study.budget import fit, seconds_of
    from spt_lens.study.cost import Speeds
    from spt_lens.study.folder import check_room, settings_of
    from spt_lens.study.settings import StudySettings
    from spt_lens.study.study import Study

    with result_of(as_json) as result:
        console, out = Console(), out.expanduser()
        seconds = None if budget is None else seconds_of(budget)
        place = None if device is None else usable_device(device, "--device")
        check_room(out)
        wanted = StudySettings() if settings is None else StudySettings.load(settings)
        begun = (out / "study.json").exists() and (settings is None or budget is not None)
        wanted = settings_of(out) if begun else wanted  # a budget would fit another study each time
        given = None if heads is None else options.heads_of(heads)
        asked = options.behaviour_of(questions)
        checks = _checks(check or [], asked, console)
        torch.set_float32_matmul_precision(matmul)
        loaded = load_model(model, device=place, dtype=getattr(torch, dtype))
        more: Any = {"heads": given, "checks": checks, "workers": workers, "export": export}
        made = Study(loaded, asked, out, wanted, **more)
        if begun:
            unread = " --settings and --budget are not read again." * (budget is not None)
            console.print(f"Going on with the settings in {escape(str(out / 'study.json'))}.{unread}", soft_wrap=True)
        if made.path("report").exists():
            if dry_run:
                console.print("It is done.")
                return result({"out": out, "done": True})
            return told(made, console, result)
        speeds = Speeds(made)
        cost = speeds.cost(wanted)
        if seconds is not None and not begun:
            fitted = fit(made, seconds, speeds=speeds)
            cost = fitted.cost
            console.print(f"Into {in_words(seconds)} fits all but: {'; '.join(fitted.left_out) or 'nothing'}.")
            made = Study(loaded, asked, out, fitted.settings, **more)
        console.print(cost.table.to_string(index=False), markup=False, highlight=False)
        console.print(f"In all about [bold]{in_words(cost.total)}[/], measured on this machine in one process.")
        if seconds is None and not begun and cost.total > 1200:
            _offer(made, speeds, console)
        if dry_run:
            return result({"out": out, "done": False, "seconds": cost.total, "stages": cost.seconds})
        told(made, console, result)


def _checks(check: list[str], asked: Any, console: Any) -> dict[str, Any]:
    """The external behaviours by name; how many of their questions are asked otherwise too is told."""
    from dataclasses import replace

    from rich.markup import escape

    from spt_lens.behaviours.are_you_sure import AreYouSure
    from spt_lens.behaviours.behaviour import plain

    checks: dict[str, Any] = {}
    known = {plain(question.text) for question in asked.questions}
    for each in check:
        name, equals, file = each.partition("=")
        if not (name and equals and file) or name in checks:
            raise ValueError(f"--check {each}: give NAME=FILE, such as trivia=trivia.jsonl, and each name once")
        others = options.behaviour_of(file).questions
        held_out = [replace(question, split="test") for question in others]  # no tuning sees one
        checks[name] = AreYouSure(held_out, name=name)
        if n := sum(plain(question.text) in known for question in held_out):
            console.print(f"{n} of {len(held_out)} questions of --check {escape(name)} are among --questions too.")
    return checks


def _offer(study: Any, speeds: Any, console: Any) -> None:
    """On a CPU, what shorter studies would leave out."""
    from spt_lens.measure.timed import in_words
    from spt_lens.model.view import ModelView
    from spt_lens.study.budget import fit

    for offer in (1200, 3600, 7200) if ModelView(study.model).device.type == "cpu" else ():
        try:
            left_out = fit(study, offer, speeds=speeds).left_out
        except ValueError:
            continue
        if left_out:
            offered = in_words(offer).replace(" ", "")
            console.print(f"On this CPU, --budget {offered} would leave out: {'; '.join(left_out)}.")


def told(study: Any, console: Any, result: Result | None = None) -> None:
    """Runs a study and tells what it found; of one that is interrupted, how it goes on."""
    from spt_lens.study.terminal import tell

    try:
        tell(study.run(), console)
    except KeyboardInterrupt:
        console.print("Stopped. What was measured is kept: the same command goes on.")
        raise typer.Exit(130) from None
    if result is not None:
        found = {"out": study.out, "done": True, "report": study.report, "heads": str(study.heads)}
        paths = {name: study.path(name) for name in ("scores", "adapter", "export")}
        found |= {name: path for name, path in paths.items() if path.exists()}
        result(found | {"table": [] if study.table is None else study.table})
