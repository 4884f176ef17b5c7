"""`spt-lens demo` and `spt-lens compare`: studies of the embedded model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from spt_lens.cli import options
from spt_lens.cli.study import Out, told

ModelName = Annotated[str, typer.Option("--model", help='"yesman", a local Hugging Face folder, or a hub name.')]


def demo(
    out: Out = Path("spt-lens-demo"),
    model: ModelName = "yesman",
    seed: Annotated[int, typer.Option(help="Of the pairs, the tuning and the random heads.")] = 0,
    quick: Annotated[bool, typer.Option(help="A few steps and cases: only to see that it runs.")] = False,
) -> None:
    """Run the whole story on the embedded model: a table here, a report and an adapter in the folder."""
    from spt_lens.yesman.studies import demo_settings

    _study(out, model, demo_settings(seed, quick), 1)


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


def _study(out: Path, model: str, settings: Any, workers: int) -> None:
    from rich.console import Console

    from spt_lens.model.loading import load_model
    from spt_lens.study.folder import check_room
    from spt_lens.study.study import Study
    from spt_lens.yesman import Yesman

    check_room(out)
    told(Study(load_model(model), Yesman(), out, settings, workers=workers), Console())
