"""A head's report as HTML: tables in the behaviour's words, prompts shaded by attention; no script, no network."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence

import pandas as pd

from spt_lens.chat.words import Words
from spt_lens.measure.seen import DIFFERENCE, RUNS, SIDES
from spt_lens.view.tables import table_html

TITLES = {
    "scores": "Scores, with 95 % intervals over pairs",
    "attention": "Attention from the last position, mean over pairs",
    "direct": "What it adds to the answers' logits at the last position by itself, mean over pairs, 95 % intervals",
    "tokens": "What it writes at the last position of the {run}, in logits, mean over pairs",
    "examples": "Where it looks from the last position of a {prompt}",
}


def report_html(
    head: str, about: str, tables: Mapping[str, pd.DataFrame], rests_on: Sequence[str], words: Words
) -> str:
    """All tables of a report, and the examples with attention as the colour behind each token."""
    parts = [f"<p><b>{html.escape(head)}</b> {html.escape(about)}</p>"]
    for name, title in TITLES.items():
        table = tables[name]
        if table.empty:
            continue
        parts.append(f"<h4>{html.escape(title.format(run=words.run, prompt=words.of('prompt')))}</h4>")
        if name == "scores":
            parts += [f"<p>{html.escape(text)}</p>" for text in rests_on]
        if name == "examples":
            parts += [_shaded(rows) for _, rows in table.groupby("pair", sort=False)]
        else:
            parts.append(table_html(_named(table, words), ".3f"))
    return "\n".join(parts)


def answer_names(words: Words) -> dict[str, str]:
    """What the sides of the answers' logits are called."""
    return dict(zip((*SIDES, DIFFERENCE), (words.other_answer, words.answer, DIFFERENCE), strict=True))


def _named(table: pd.DataFrame, words: Words) -> pd.DataFrame:
    """The table in the behaviour's words; tokens quoted, so that spaces and line breaks can be seen."""
    runs = dict(zip(RUNS, words.runs, strict=True))
    others = {f"{run}_others": f"other heads, {name}" for run, name in runs.items()}
    shown = table.assign(token=[repr(t) if t else "" for t in table["token"]]) if "token" in table else table
    if "answer" in shown:
        shown = shown.assign(run=shown["run"].map(runs), answer=shown["answer"].map(answer_names(words)))
    return shown.rename(columns=runs | others)


def _shaded(rows: pd.DataFrame) -> str:
    """The tokens of one prompt, the more red behind them the more attention they get; hover for the number."""
    cells = "".join(
        f'<span title="{html.escape(row["span"])}: {row["attention"]:.3f}" '
        f'style="background:rgba(178,24,43,{row["attention"]:.3f})">{html.escape(row["token"])}</span> '
        for row in rows.to_dict("records")
    )
    return f'<p style="white-space:pre-wrap">pair {rows["pair"].iloc[0]}: {cells}</p>'
