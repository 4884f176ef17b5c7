"""tools.readme_support."""

from __future__ import annotations

import re
from pathlib import Path

from spt_lens import saving
from spt_lens.support.table import caption, load, markdown_table

BEGIN, END = "<!-- support: make support -->", "<!-- end of support -->"


def update_readme(readme: Path, folder: str | Path) -> bool:
    """Puts the table of a folder's saved reports between the README's marks. Returns whether that changed anything.

    Raises:
        ValueError: The marks are not there, or a saved file is damaged.
        FileNotFoundError: There is no such README, or no saved report.
    """
    text = readme.read_text(encoding="utf-8")
    parts = re.split(f"({BEGIN}|{END})", text)
    if parts[1::2] != [BEGIN, END]:
        raise ValueError(f"{readme} has no marks {BEGIN} and {END} to put the table between")
    made = f"{parts[0]}{BEGIN}\n{markdown_table(load(folder))}\n\n{caption()}\n{END}{parts[4]}"
    if made != text:
        saving.write_text(readme, made)
    return made != text


if __name__ == "__main__":
    update_readme(Path("README.md"), "notebooks/results")
