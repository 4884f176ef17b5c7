"""`spt-lens demo` and `spt-lens compare`: studies of the embedded model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from spt_lens.cli import options
from spt_lens.cli.study import Out, told

ModelName = Annotated[str, typer.Option("--model", help='"yesman", a local Hugging Face folder, or a hub name.')]

ELSEWHERE = (
    "The questions are the embedded model's own: on another model they show that it runs, and little of its behaviour. "
    'For that: spt-lens study --questions bank --budget 30min, or "spt-lens find" first.'
)
QUICKLY = (
    "A few steps and cases: a minute or two for a model of 100 million weights on two cores, in proportion for others."
)


def demo(
    out: Out = Path("spt-lens-demo"),
    model: ModelName = "yesman",
    seed: Annotated[int, typer.Option(help="Of the pairs, the tuning and the random heads.")] = 0,
    quick: Annotated[bool, typer.Option(help="A few steps and cases: only to see that it runs.")] = False,
) -> None:
    """Run the whole story on the embedded model: a table here, a report and an adapter in the folder."""
    from spt_lens.yesman.studies import demo_settings

    _study(out, model, demo_settings(seed, quick, own=model == "yesman"), 1, quick)


def compare(
    out: Out = Path("spt-lens-compare"),
    model: ModelName = "yesman",
    workers: options.Workers = 2,
    seeds: Annotated[int, typer.Option(help="Tuning seeds of each learning rate.", min=1, max=1000)] = 3,
    kl_weight: Annotated[float, typer.Option(help="Of a KL term on ordinary text, for every method.", min=0)] = 0,
) -> None:
    """Compare every method on the embedded model over learning rates and seeds; goes on where it was stopped."""
    from spt_lens.yesman.studies import comparison_settings

    _study(out, model, comparison_settings(seeds, kl_weight), workers)


def _study(out: Path, model: str, settings: Any, workers: int, quick: bool = False) -> None:
    """Says beforehand what another model than the embedded one is in for: it may be a thousand times as slow."""
    from rich.console import Console

    from spt_lens.model.loading import load_model
    from spt_lens.study.folder import check_room
    from spt_lens.study.study import Study
    from spt_lens.yesman import Yesman

    check_room(out)
    console, study = Console(), Study(load_model(model), Yesman(), out, settings, workers=workers)
    if model != "yesman" and not study.path("report").exists():
        console.print(ELSEWHERE)
        console.print(QUICKLY if quick else f"It takes {study.cost()}, measured on this machine.", soft_wrap=True)
    told(study, console)
