"""The table of what works, made from the reports that `spt-lens support` saved: `make support`."""

from __future__ import annotations

from pathlib import Path

from spt_lens.support.table import caption, load, markdown_table
from tools.marks import put_between

PAGE, RESULTS = Path("docs/support.md"), Path("notebooks/results")
BEGIN, END = "<!-- support: make support -->", "<!-- end of support -->"


def update_page(page: Path, results: str | Path) -> bool:
    """Puts the table of a folder's saved reports between the page's marks. Returns whether that changed anything.

    Raises: ValueError if the marks are not there or a saved file is damaged; FileNotFoundError without page or reports.
    """
    return put_between(page, BEGIN, END, f"{markdown_table(load(results))}\n\n{caption()}")


if __name__ == "__main__":
    if update_page(PAGE, RESULTS):
        print(f"Wrote {PAGE}")
