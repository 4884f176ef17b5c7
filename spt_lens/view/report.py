"""A report as one HTML file that opens without a network: figures, tables, attention and example dialogues.

plotly.js is inlined once and circuitsvis brings its own script; the page's content security policy forbids the browser
to load anything else. All text that comes from data is escaped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import pandas as pd
import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from spt_lens import saving
from spt_lens.chat.dialogues import Dialogue
from spt_lens.view.attention import AttentionView


@dataclass(frozen=True)
class Example:
    """A dialogue that ends in the user's turn, and the reply to it before and after tuning."""

    dialogue: Dialogue
    before: str
    after: str


@dataclass(frozen=True)
class Section:
    """A heading, plain text, and what to show under it. Numbers of a table get three decimals; its text is escaped."""

    title: str
    text: str = ""
    figure: go.Figure | None = None
    table: pd.DataFrame | None = None
    attention: AttentionView | None = None
    examples: Sequence[Example] = ()


def report_html(title: str, text: str, sections: Sequence[Section]) -> str:
    """The whole page as a string (about 6 MB, most of it plotly.js and circuitsvis)."""
    plotly = f"<script>{get_plotlyjs()}</script>" if any(section.figure is not None for section in sections) else ""
    body = "\n".join(_section(section) for section in sections)
    return (
        "<!DOCTYPE html>\n"
        f'<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<style>{_STYLE}</style>{plotly}</head>\n"
        f"<body><main><h1>{escape(title)}</h1>{_paragraphs(text)}\n{body}</main></body></html>\n"
    )


def write_report(path: str | Path, title: str, text: str, sections: Sequence[Section]) -> Path:
    """Writes the page, with the folders above it, and returns its path. Raises OSError if it can't be written."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    return saving.write_text(path, report_html(title, text, sections))


def _section(section: Section) -> str:
    parts = [f"<section><h2>{escape(section.title)}</h2>", _paragraphs(section.text)]
    if section.figure is not None:
        config = {"displayModeBar": False, "responsive": True}
        parts.append(section.figure.to_html(full_html=False, include_plotlyjs=False, config=config))
    if section.table is not None:
        named = section.table.index.name is not None
        cells = section.table.to_html(index=named, index_names=False, border=0, na_rep="", float_format="{:.3f}".format)
        parts.append(f'<div class="wide">{cells}</div>')
    if section.attention is not None:
        parts.append(f'<div class="wide">{section.attention.html}</div>')
    parts += [_example(example) for example in section.examples]
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
    return f'<div class="dialogue">{"".join(said)}</div>'


# Scripts and styles of the page itself, pictures made in the page, and nothing from anywhere else.
_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:; font-src data:"
)
_STYLE = """
body { font: 16px/1.5 system-ui, "DejaVu Sans", sans-serif; color: #1b1b1b; background: #fff; margin: 0; }
main { max-width: 1040px; margin: 0 auto; padding: 24px; }
h1 { font-size: 1.7em; } h2 { font-size: 1.25em; margin-top: 2em; border-bottom: 1px solid #ddd; padding-bottom: 4px; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: 0.8em; font-variant-numeric: tabular-nums; }
th, td { padding: 5px 8px; border-bottom: 1px solid #e3e3e3; text-align: right; white-space: nowrap; }
thead th { white-space: normal; } tbody th, th:first-child, td:first-child { text-align: left; }
.dialogue { border: 1px solid #ddd; border-radius: 6px; padding: 8px 14px; margin: 14px 0; }
.turn { display: flex; gap: 12px; } .turn p { margin: 3px 0; }
.turn span { flex: 0 0 8em; color: #666; font-size: 0.85em; padding-top: 5px; }
.before p { color: #b04600; font-weight: 600; } .after p { color: #0063a0; font-weight: 600; }
"""
