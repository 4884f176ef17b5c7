"""`spt-lens pick`: choose heads on a page, and take back what it saved."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from spt_lens.cli.output import tell

if TYPE_CHECKING:
    from spt_lens.heads import HeadSet
    from spt_lens.scores.head_scores import HeadScores


def pick(
    scores: Annotated[list[Path], typer.Argument(help="Score files of one model, such as `spt-lens find` writes.")],
    take: Annotated[Path | None, typer.Option(help="A selection that the page saved: check it, and write it.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="What to write; default: NAME-picker.html or NAME-heads.json beside the scores.")
    ] = None,
    chosen: Annotated[str, typer.Option(help="Heads to begin with: a file, or text such as L5.H3.")] = "",
    budget: Annotated[float, typer.Option(help="The share of all heads that is meant to be the most.")] = 0.05,
    name: Annotated[str, typer.Option(help="Of the selection; it is saved with it.")] = "",
    show: Annotated[bool, typer.Option("--open/--no-open", help="Open the page in a browser.")] = True,
) -> None:
    """Open the picker of score files as a page: no kernel, no network. Its "save" writes the chosen heads.

    `spt-lens tune --heads` takes that file. With --take it is checked first that it is of these scores.
    """
    from spt_lens.checking import existing_file
    from spt_lens.cli.options import heads_of
    from spt_lens.heads import HeadSet
    from spt_lens.picker.picker import HeadPicker
    from spt_lens.scores.head_scores import HeadScores

    paths = [path.expanduser() for path in scores]
    found = {path: HeadScores.load(path) for path in paths}
    first = next(iter(found))
    _check_one_model(found)
    picker = HeadPicker(list(found.values()), budget=budget)
    try:
        if take is not None:
            path = existing_file(take.expanduser())
            heads = HeadSet.load(path)
            if not heads:
                raise ValueError(f"{path} holds no head: choose some in the page, then save")
            _check_of(path, heads, list(found.values()), first)
            picker.selected = heads
            file = picker.save(_beside(first, out, "heads.json"), name or None)
            return tell(
                str(picker.selected),
                f"heads: {file}",
                f"Tune them with: spt-lens tune --heads {shlex.quote(str(file))} ...",
            )
        if chosen:
            picker.selected = heads_of(chosen)
        picker.name = name or picker.name
        page = picker.write_html(_beside(first, out, "picker.html"))
    finally:
        picker.close()
    tell(f"page: {page}")
    if show and not _opened(page):
        tell("No browser was found here: open the page in one.")
    given = shlex.join(map(str, scores))
    tell(f"When you have saved heads in it: spt-lens pick {given} --take heads.json, from where the browser put it.")


def _beside(first: Path, out: Path | None, what: str) -> Path:
    return first.with_name(f"{first.stem}-{what}") if out is None else out.expanduser()


def _check_one_model(found: dict[Path, HeadScores]) -> None:
    names = {path: each.model_name for path, each in found.items()}
    (first, model), *others = names.items()
    for path, other in others:
        if other != model:
            raise ValueError(f"{first} is of {model} and {path} of {other}: give score files of one model")


def _check_of(path: Path, heads: HeadSet, scores: Sequence[HeadScores], first: Path) -> None:
    """Raises ValueError for a selection that says it is of another model, or of a page of other scores."""
    from spt_lens.picker.layers import digest_of

    model, own = scores[0].model_name, {digest_of(each) for each in scores}
    if (other := heads.about.get("model", model)) != model:
        raise ValueError(f"{path} was chosen on {other}, and {first} is of {model}: give a score file of {other}")
    said = heads.about.get("scores")
    there = {each["digest"] for each in said if "digest" in each} if isinstance(said, list) else set()
    if there and not there & own:
        raise ValueError(
            f"{path} was saved by a page of other scores of {model} than {first}, a copied or an older one maybe: open "
            f"the page that `spt-lens pick {shlex.quote(str(first))}` writes, or give the selection to tune as it is"
        )


def _opened(page: Path) -> bool:
    """Whether a browser took the page. Text browsers, which would take the terminal, are not asked."""
    import webbrowser

    shown = sys.platform in ("darwin", "win32") or os.environ.keys() & {"DISPLAY", "WAYLAND_DISPLAY", "BROWSER"}
    return bool(shown) and webbrowser.open(page.absolute().as_uri())
