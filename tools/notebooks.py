"""Runs the notebooks and keeps their outputs, but for the progress bars: a saved one is a widget that nobody has.

Widgets' state is not kept either: with it, pages made of a notebook would wait for a widget manager from the network,
and show nothing instead of the picker's picture.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat

WIDGET = "application/vnd.jupyter.widget-view+json"


def is_bar(output: Any) -> bool:
    """A bar of tqdm's, as a widget or as text; a widget with a page of its own, as the picker has, is none."""
    data = output.get("data", {})
    bar = output.get("name") == "stderr" and "%|" in output["text"]
    return bar or (WIDGET in data and "text/html" not in data)


def without_bars(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if not is_bar(output)]
    nbformat.write(notebook, path)


def main(paths: list[str]) -> None:
    run = [sys.executable, "-m", "nbconvert", "--to", "notebook", "--execute", "--inplace"]
    for path in paths:
        subprocess.run([*run, "--ExecutePreprocessor.store_widget_state=False", path], check=True)
        without_bars(Path(path))


if __name__ == "__main__":
    main(sys.argv[1:])
