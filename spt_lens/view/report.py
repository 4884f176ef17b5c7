"""A report as one HTML file that opens without a network: figures, tables, attention and example dialogues.

plotly.js is inlined once and circuitsvis brings its own script; the page's content security policy forbids the browser
to load anything else. All text that comes from data is escaped.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path, PurePosixPath
from urllib.parse import quote

import pandas as pd
import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from spt_lens import saving
from spt_lens.chat.dialogues import Dialogue
from spt_lens.view.attention import AttentionView


@dataclass(frozen=True)
class Example:
    """A dialogue that ends in the user's turn, and the reply to it before and after tuning. title: about it."""

    dialogue: Dialogue
    before: str
    after: str
    title: str = ""


@dataclass(frozen=True)
class Section:
    """A heading, plain text, and what to show under it. Numbers of a table get three decimals; its text is escaped.

    title: "" goes on under the heading above. facts: what is said of what, a line each. code: to copy. links: to files
    beside the page, each as what is to be clicked and the file's path from the page's folder, so that the folder can be
    moved.

    Raises: ValueError for a link that leads elsewhere.
    """

    title: str
    text: str = ""
    facts: Sequence[tuple[str, str]] = ()
    code: str = ""
    figure: go.Figure | None = None
    table: pd.DataFrame | None = None
    attention: AttentionView | None = None
    examples: Sequence[Example] = ()
    links: Sequence[tuple[str, str]] = ()

    def __post_init__(self) -> None:
        for _, path in self.links:
            parts = PurePosixPath(path).parts
            if not parts or ":" in parts[0] or parts[0] == ".." or path.startswith("/") or "\\" in path:
                raise ValueError(f"{path!r} is no file beside the report: give its path from the report's folder")


def report_html(title: str, text: str, sections: Sequence[Section]) -> str:
    """The whole page as a string (about 6 MB, most of it plotly.js and circuitsvis). Dark where the reader's system is,
    and white on paper.

    More than four headings get a list of contents.
    """
    plotly = f"<script>{get_plotlyjs()}</script>" if any(section.figure is not None for section in sections) else ""
    body = "\n".join(_section(section, i) for i, section in enumerate(sections))
    titled = [(i, section.title) for i, section in enumerate(sections) if section.title]
    links = "".join(f'<a href="#part{i}">{escape(name)}</a>' for i, name in titled if len(titled) > 4)
    contents = f"\n<nav>{links}</nav>" if links else ""
    return (
        "<!DOCTYPE html>\n"
        f'<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<style>{_STYLE}</style>{plotly}</head>\n"
        f"<body><main><h1>{escape(title)}</h1>{_paragraphs(text)}{contents}\n{body}</main></body></html>\n"
    )


def write_report(path: str | Path, title: str, text: str, sections: Sequence[Section]) -> Path:
    """Writes the page, with the folders above it, and returns its path. Raises OSError if it can't be written."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    return saving.write_text(path, report_html(title, text, sections))


def _section(section: Section, i: int) -> str:
    heading = f'<h2 id="part{i}">{escape(section.title)}</h2>' if section.title else ""
    parts = [f"<section>{heading}", _paragraphs(section.text)]
    if section.facts:
        lines = "".join(f"<dt>{escape(name)}</dt><dd>{escape(said)}</dd>" for name, said in section.facts)
        parts.append(f"<dl>{lines}</dl>")
    if section.figure is not None:
        config = {"displayModeBar": False, "responsive": True}
        drawn = section.figure.to_html(full_html=False, include_plotlyjs=False, config=config)
        parts.append(f'<div class="wide figure">{drawn}</div>')
    if section.links:
        to = (f'<a href="{escape(quote(path))}">{escape(name)}</a>' for name, path in section.links)
        parts.append(f"<p>{' · '.join(to)}</p>")
    if section.table is not None:
        named = section.table.index.name is not None
        cells = section.table.to_html(
            index=named, index_names=False, justify="left", border=0, na_rep="", float_format="{:.3f}".format
        )
        cells = cells.replace("\\n", "<br>")  # as pandas writes the end of a line
        cells = _LONG.sub(r'<td class="long">\1</td>', cells)
        cells = _INTERVAL.sub(lambda found: found[0].replace(" ", "\u00a0"), cells)
        parts.append(f'<div class="wide">{cells}</div>')
    if section.attention is not None:
        parts.append(f'<div class="wide drawn">{section.attention.html}</div>')
    parts += [_example(example) for example in section.examples]
    parts += [f"<pre>{escape(section.code)}</pre>"] if section.code else []
    return "\n".join([*parts, "</section>"])


def _paragraphs(text: str) -> str:
    return "".join(f"<p>{escape(part)}</p>" for part in text.split("\n\n") if part.strip())


def _example(example: Example) -> str:
    turns = [(str(turn.role), str(turn.role), turn.content) for turn in example.dialogue.messages]
    turns += [("before", "before tuning", example.before), ("after", "after tuning", example.after)]
    said = [
        f'<div class="turn {kind}"><span>{who}</span><p>{text}</p></div>'
        for kind, who, text in (map(escape, turn) for turn in turns)
    ]
    title = f"<b>{escape(example.title)}</b>" if example.title else ""
    return f'<div class="dialogue">{title}{"".join(said)}</div>'


# Scripts and styles of the page itself, pictures made in the page, and nothing from anywhere else.
_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:; font-src data:"
)
_INTERVAL = re.compile(r"\[[^\[\]<>]{3,24}\]|-?[\d.]+ to -?[\d.]+")  # is not broken in a table's cell
_LONG = re.compile(r"<td>([^<]{31,})</td>")  # many columns would leave such a text a word a line
# Plotly's figures are seen through, and their texts take the page's colour, but for those on a colour of their own.
# What circuitsvis draws knows no dark mode: it is turned light for dark, and its hues back. Paper is always white.
_STYLE = """
:root { color-scheme: light dark; --text: #1b1b1b; --page: #fff; --faint: #666; --line: #ddd; --old: #b04600;
  --new: #0063a0; }
@media screen and (prefers-color-scheme: dark) {
  :root { --text: #e4e4e4; --page: #161616; --faint: #a0a0a0; --line: #3c3c3c; --old: #ff9d5c; --new: #6cbcf5; }
  .drawn { background: #fff; filter: invert(0.914) hue-rotate(180deg); }
}
body { font: 16px/1.5 system-ui, "DejaVu Sans", sans-serif; color: var(--text); background: var(--page); margin: 0; }
main { max-width: 1040px; margin: 0 auto; padding: 24px; overflow-wrap: anywhere; }
h1 { font-size: 1.7em; line-height: 1.2; }
h2 { font-size: 1.25em; margin-top: 2em; border-bottom: 1px solid var(--line); padding-bottom: 4px; }
nav { display: flex; flex-wrap: wrap; gap: 2px 18px; font-size: 0.9em; } a { color: var(--new); }
.wide { overflow-x: auto; }
.figure text:not(.hoverlayer text) { fill: var(--text) !important; }
table { border-collapse: collapse; font-size: 0.8em; font-variant-numeric: tabular-nums; overflow-wrap: normal; }
th, td { padding: 5px 8px; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
thead th { vertical-align: bottom; } td:first-child { min-width: 6em; } .long { min-width: 15em; }
dl { display: grid; grid-template-columns: minmax(6em, 12em) 1fr; gap: 4px 16px; font-size: 0.9em; }
dt { color: var(--faint); } dd { margin: 0; }
pre { border: 1px solid var(--line); border-radius: 6px; padding: 8px 14px; white-space: pre-wrap; font-size: 0.85em; }
.dialogue { border: 1px solid var(--line); border-radius: 6px; padding: 8px 14px; margin: 14px 0; }
.turn { display: flex; gap: 12px; } .turn p { margin: 3px 0; }
.turn span { flex: 0 0 8em; color: var(--faint); font-size: 0.85em; padding-top: 5px; }
.before p { color: var(--old); font-weight: 600; } .after p { color: var(--new); font-weight: 600; }
@media (max-width: 600px) {
  main { padding: 12px; } .turn, dl { display: block; } dd { margin-bottom: 6px; }
}
@page { margin: 14mm 12mm; }
@media print {
  :root { color-scheme: light; }
  body { font-size: 11pt; } main { max-width: none; padding: 0; } nav { display: none; }
  h1, h2, h3 { break-after: avoid; } tr, pre, dt, .dialogue, .figure, .drawn { break-inside: avoid; }
  .wide { overflow: visible; } table { font-size: 7.5pt; width: 100%; } thead { display: table-header-group; }
  th, td { padding: 3px 5px; min-width: 0 !important; }
  .figure, .drawn { zoom: 0.68; print-color-adjust: exact; -webkit-print-color-adjust: exact; }
}
"""
