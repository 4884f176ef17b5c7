"""Notebooks as they are kept: without the bars of what ran, which nothing shows once the kernel is gone.

python -m tools.kept_notebooks notebooks/*.ipynb
"""

from __future__ import annotations

import sys
from pathlib import Path

import nbformat

WIDGET = "application/vnd.jupyter.widget-view+json"


def without_bars(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Leaves out outputs that are a widget and no HTML, as bars are and the picker is not."""
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [each for each in cell.outputs if not _is_bar(each.get("data", {}))]
    return notebook


def _is_bar(data: dict[str, object]) -> bool:
    return WIDGET in data and "text/html" not in data


def main(paths: list[str]) -> None:
    for path in map(Path, paths):
        notebook = without_bars(nbformat.read(path, as_version=4))
        path.write_text(nbformat.writes(notebook) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
