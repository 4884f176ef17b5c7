"""Made tables, and made text between two marks of a Markdown page."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from spt_lens.saving import write_text


def put_between(page: Path, begin: str, end: str, text: str) -> bool:
    """Puts text between a page's marks. Returns whether that changed anything.

    Raises: ValueError if the marks are not there, once each; FileNotFoundError if the page is not.
    """
    old = page.read_text(encoding="utf-8")
    parts = re.split(f"({re.escape(begin)}|{re.escape(end)})", old)
    if parts[1::2] != [begin, end]:
        raise ValueError(f"{page} has no marks {begin} and {end} to put the table between")
    made = f"{parts[0]}{begin}\n{text}\n{end}{parts[4]}"
    if made != old:
        write_text(page, made)
    return made != old


def markdown(rows: Sequence[Mapping[str, str]]) -> str:
    """Rows of the same columns as a Markdown table."""
    lines = ["| " + " | ".join(rows[0]) + " |", "| " + " | ".join("---" for _ in rows[0]) + " |"]
    return "\n".join(lines + ["| " + " | ".join(row.values()) + " |" for row in rows])
