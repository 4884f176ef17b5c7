"""What a study found, in a terminal."""

from __future__ import annotations

import re
from typing import Any

import pandas as pd
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from spt_lens.study.reach import RULE, needed_drift, reach_table, saturation, split_of
from spt_lens.study.verdict import ahead, cautions, goals, methods_table
from spt_lens.study.work import Work


def tell(work: Work, console: Console) -> None:
    """What a finished study found, and where to look at it."""
    assert work.scores is not None and work.heads is not None
    console.rule("Which heads")
    said = [str(work.heads), work.heads.summary(work.model)]
    said += [str(work.scores.stability(len(work.heads)))] if work.scores.n_pairs > 3 else []
    said += [effect.summary() for effect in (work.patching, work.knockout) if effect is not None]
    if work.answers is not None:
        said.insert(0, repr(work.answers))
    console.print(escape("\n".join(said)))
    if work.comparison is not None and work.comparison.choice:
        full = saturation(work.comparison)
        if full and needed_drift(work.comparison):
            console.rule("What it takes, method by method")
            console.print(escape(full))
            console.print(_shown(reach_table(work.comparison)))
            console.print(f"[dim]{escape(RULE.format(split=split_of(work.comparison)))}[/]")
        console.rule("Every method on the test split")
        console.print(_shown(methods_table(work.comparison)))
        rows = [(row.goal, row.reached) for row in goals(work.comparison).itertuples()]
        missed = [f"{goal}{' (not known)' * (reached != 'no')}" for goal, reached in rows if reached != "yes"]
        told = f"Goals not reached: {'; '.join(missed) or 'none'}." if rows else "No goal was measured."
        console.print(escape(f"{'' if full else ahead(work.comparison)} {told}".strip()))
    elif work.comparison is not None:
        console.print("Every trial diverged: give lower rates in the settings, and another folder.")
    console.rule("Where to look")
    console.print(f"It rests on little in {len(cautions(work))} points, which the report names.")
    places = {"The report": work.report, "To choose other heads": work.out / "picker.html"}
    places |= {"The tuned heads": work.path("adapter"), "The tuned model": work.path("export")}
    for what, path in places.items():
        if path is not None and path.exists():
            console.print(f"{what}: [bold]{escape(str(path))}[/]", soft_wrap=True)


def _shown(frame: pd.DataFrame) -> Table:
    """Texts by rows and columns; the intervals in them stand below their figures."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 0, 0, 1), pad_edge=False, show_edge=False)
    for i, name in enumerate(frame.columns):
        first: Any = {} if i else {"no_wrap": True, "max_width": 36}  # names come from data: as long as they like
        table.add_column(str(name), justify="right" if i else "left", overflow="fold", **first)
    for row in frame.itertuples(index=False):
        cells = (str(cell).partition("\n")[0].rstrip("]").partition(" [") for cell in row[1:])
        # Without leading zeros five methods fit side by side.
        short = ((value, re.sub(r"\b0\.", ".", span).replace(", ", "-")) for value, _, span in cells)
        table.add_row(escape(str(row[0])), *(f"{value}\n[dim]{span}[/]" if span else value for value, span in short))
    return table
