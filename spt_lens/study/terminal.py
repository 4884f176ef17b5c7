"""What a study costs and what it found, in a terminal."""

from __future__ import annotations

import re

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from spt_lens.model.view import ModelView
from spt_lens.study.cost import StudyCost, in_words
from spt_lens.study.report import methods_table
from spt_lens.study.verdict import ahead, cautions, goals
from spt_lens.study.work import Work


def tell_cost(cost: StudyCost, console: Console) -> None:
    """A line for each stage that is left, and how long all will take."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for name in ("stage", "takes", "of"):
        table.add_column(name, justify="right" if name == "takes" else "left")
    for row in cost.table.itertuples():
        table.add_row(str(row.stage), in_words(float(str(row.seconds))), escape(str(row.of)))
    console.print(table)
    console.print(f"In all about [bold]{in_words(cost.total)}[/], measured on this machine in one process.")


def tell(work: Work, console: Console) -> None:
    """What a study found, and where to look at it."""
    view = ModelView(work.model)
    console.rule("Which heads")
    console.print(f"[bold]{escape(view.name)}[/]: {view.n_params:,} weights, {view.n_layers} layers x {view.n_heads}")
    if work.answers is not None:
        console.print(escape(repr(work.answers)))
    if work.scores is not None and work.heads is not None:
        console.print(f"{work.heads}: {work.heads.summary(view)}")
        if work.scores.n_pairs > 3:
            console.print(str(work.scores.stability(len(work.heads))))
    for effect in (work.patching, work.knockout):
        if effect is not None:
            console.print(escape(effect.summary()))
    if work.comparison is not None and work.comparison.choice:
        console.rule("Every method on the test split")
        console.print(_methods(work))
        console.print(escape(ahead(work.comparison)))
        missed = [row.goal for row in goals(work.comparison).itertuples() if row.reached == "no"]
        console.print(f"Goals not reached: {escape('; '.join(map(str, missed)))}." if missed else "All goals reached.")
    little = cautions(work)
    console.rule("Where to look")
    console.print(
        f"{len(little)} things that it rests on little are in the report." if little else "", end="\n" * bool(little)
    )
    for what, path in {
        "The report": work.report,
        "To choose other heads by looking": work.out / "picker.html",
        "The tuned heads": work.path("adapter"),
        "The tuned model": work.path("export"),
    }.items():
        if path is not None and path.exists():
            console.print(f"{what}: [bold]{escape(str(path))}[/]", soft_wrap=True)


def _methods(work: Work) -> Table:
    assert work.comparison is not None
    frame = methods_table(work.comparison)
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 0, 0, 1), pad_edge=False, show_edge=False, caption_justify="left")
    table.caption = "Under each value: 95 % interval; of random heads, medians over the draws. The rest: in the report."
    for name in frame.columns:
        table.add_column(str(name), justify="right" if name else "left", no_wrap=not name)
    for row in frame.itertuples(index=False):
        cells = (str(cell).partition("\n")[0].rstrip("]").partition(" [") for cell in row[1:])
        # Without leading zeros five methods fit side by side.
        short = ((value, re.sub(r"\b0\.", ".", span).replace(", ", "-")) for value, _, span in cells)
        table.add_row(str(row[0]), *(f"{value}\n[dim]{span}[/]" if span else value for value, span in short))
    return table
