"""What works with which architecture and model class: tried out on tiny checkpoints, and put into docs/support.md.

`python -m tools.readme_support FILE` tries out every architecture with the TransformerLens that is installed, and saves
what it found; without a file the page's table is made of what was saved. `make support` does all of it.
"""

from __future__ import annotations

import sys
import tempfile
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from spt_lens import saving
from spt_lens.model import hooked
from spt_lens.model.loading import ModelClass
from spt_lens.support.checks import check_checkpoint
from spt_lens.support.report import CLASS_NAMES, FORMAT, NOT_TRIED, STEPS, WORKS, Report, save
from tools.marks import put_between
from tools.tiny import TINY, tiny_checkpoint

PAGE, RESULTS = Path("docs/support.md"), Path("notebooks/results")
BEGIN, END = "<!-- support: make support -->", "<!-- end of support -->"
DTYPES = (torch.float32, torch.bfloat16)

Column = tuple[str, tuple[int, int]]  # a model class and the TransformerLens that it is of


def check_all(names: Sequence[str] = tuple(TINY), log: Callable[[str], None] | None = None) -> list[Report]:
    """Tries out every tiny checkpoint as every class that this TransformerLens has, in both dtypes, on the CPU.

    A second or two each. `log` is called with a line for each.
    """
    classes: list[ModelClass] = ["bridge"] if hooked.hooked_transformer() is None else ["bridge", "hooked"]
    reports = []
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            tiny_checkpoint(name, folder)
            for model_class in classes:
                for dtype in DTYPES:
                    report = check_checkpoint(folder, model_class, dtype, device="cpu")
                    reports.append(replace(report, checkpoint=TINY[name].title))
                    if log is not None:
                        log(f"{TINY[name].title}, {CLASS_NAMES[model_class]}, {report.dtype}: {_steps(report)}")
    return reports


def markdown_table(reports: Sequence[Report]) -> str:
    """A row for each checkpoint, in the order of the reports, and a column for each class and its TransformerLens."""
    columns = sorted({_column(report) for report in reports}, key=lambda column: column[1], reverse=True)
    columns.sort(key=lambda column: column[0])  # the bridge's first, and of each the newest first
    cells: dict[str, dict[Column, list[Report]]] = {}
    for report in reports:
        cells.setdefault(report.checkpoint, {}).setdefault(_column(report), []).append(report)
    heads = ["architecture", *(f"{CLASS_NAMES[name]} {major}.{minor}" for name, (major, minor) in columns)]
    lines = [heads, ["---"] * len(heads)]
    lines += [[title, *(_cell(row.get(column, [])) for column in columns)] for title, row in cells.items()]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def caption() -> str:
    """What the words of the table mean."""
    meaning = "; ".join(f"*{step}*, {text}" for step, text in STEPS.items())
    return (
        f'Which steps work: "all" in float32 and in bfloat16, or those that do, or a dash for none. {meaning}. '
        "Tried out on tiny random checkpoints (`make support`). `spt-lens support CHECKPOINT` tries out yours, and "
        "says why what does not work does not."
    )


def reasons(reports: Sequence[Report]) -> str:
    """Why what does not work does not: a line for each reason, shortened."""
    found: dict[tuple[str, str, str], tuple[dict[str, None], dict[str, None]]] = {}
    for report in reports:
        for step, why in report.steps.items():
            if why not in (WORKS, NOT_TRIED):
                key = (report.checkpoint, CLASS_NAMES[report.model_class], why)
                steps, dtypes = found.setdefault(key, ({}, {}))
                steps[step] = dtypes[report.dtype] = None
    return "\n".join(
        textwrap.shorten(f"{title}, {name}, {' and '.join(dtypes)}: {', '.join(steps)}: {why}", 240, placeholder=" ...")
        for (title, name, why), (steps, dtypes) in found.items()
    )


def load(folder: str | Path) -> list[Report]:
    """The reports of all support-*.json in a folder.

    Raises:
        FileNotFoundError: There are none.
        ValueError: A file is damaged, or is not what `save` wrote.
    """
    files = sorted(Path(folder).glob("support-*.json"))
    if not files:
        raise FileNotFoundError(f"there is no support-*.json in {folder}: `make support` makes it")
    reports = []
    for file in files:
        data = saving.read_json(file, "support reports")
        with saving.reading(file, "support reports"):
            if data["format"] != FORMAT:
                raise ValueError(f"its format is {data['format']!r}: make it again")
            reports += [Report.from_json(report) for report in data["reports"]]
    return reports


def _column(report: Report) -> Column:
    major, minor = report.transformer_lens.split(".")[:2]
    return report.model_class, (int(major), int(minor))


def _cell(reports: Sequence[Report]) -> str:
    by_dtype = {report.dtype: _steps(report) for report in reports}
    texts = set(by_dtype.values())
    if len(texts) < 2:
        return texts.pop() if texts else "not tried"
    return "; ".join(f"{dtype}: {text}" for dtype, text in by_dtype.items())


def _steps(report: Report) -> str:
    return "all" if report.works else ", ".join(report.working) or "–"


def update_page(page: Path, results: str | Path) -> bool:
    """Puts the table of a folder's saved reports between the page's marks. Returns whether that changed anything.

    Raises: ValueError if the marks are not there or a saved file is damaged; FileNotFoundError without page or reports.
    """
    return put_between(page, BEGIN, END, f"{markdown_table(load(results))}\n\n{caption()}")


if __name__ == "__main__":
    if sys.argv[1:]:
        found = check_all(log=lambda line: print(line, file=sys.stderr))
        print(f"{markdown_table(found)}\n\n{reasons(found)}\nWrote {save(found, sys.argv[1])}")
    elif update_page(PAGE, RESULTS):
        print(f"Wrote {PAGE}")
