"""Tables that read well in a notebook: texts on the left and whole, numbers on the right, no wider than the page."""

from __future__ import annotations

import html
from dataclasses import dataclass
from typing import Any

import pandas as pd

LEFT = "text-align:left;white-space:normal;overflow-wrap:anywhere;vertical-align:top"
RIGHT = "text-align:right;vertical-align:top"


def table_html(table: pd.DataFrame, number: str = ".4g", index: bool = False) -> str:
    """A table as HTML without colours of its own, escaped; floats by this format, nan as nothing.

    index: whether the rows' names are shown, as a first column.
    """
    if index:
        table = table.reset_index(names=[" " * i if name is None else name for i, name in enumerate(table.index.names)])
    styles = [RIGHT if pd.api.types.is_numeric_dtype(kind) else LEFT for kind in table.dtypes]

    def row(kind: str, cells: Any) -> str:
        both = zip(styles, cells, strict=True)
        return "".join(f'<{kind} style="{style}">{html.escape(text)}</{kind}>' for style, text in both)

    rows = [row("th", map(str, table.columns))]
    counts = [_counts(table.iloc[:, i]) for i in range(table.shape[1])]
    for cells in table.itertuples(index=False):
        both = zip(cells, counts, strict=True)
        rows.append(row("td", (_text(cell, ".0f" if whole else number) for cell, whole in both)))
    return f'<div style="overflow-x:auto"><table>{"".join(f"<tr>{each}</tr>" for each in rows)}</table></div>'


def _counts(column: pd.Series) -> bool:
    """Whether a column holds counts: whole numbers that a missing one has made floats."""
    if not pd.api.types.is_float_dtype(column) or not column.isna().any():
        return False
    there = column.dropna()
    return len(there) > 0 and bool((there == there.round()).all() and (there.abs() > 1).any())


def _text(cell: Any, number: str) -> str:
    if cell is None or cell is pd.NA or cell != cell:
        return ""
    if not isinstance(cell, float):
        return str(cell)
    text = format(cell, number)
    return text.removeprefix("-") if not float(text) else text  # no "-0.00"


@dataclass(frozen=True, eq=False)
class Readable:
    """A table that is shown in a notebook by `table_html`, with its rows' names where it has any."""

    table: pd.DataFrame
    number: str = ".4g"

    def __repr__(self) -> str:
        with pd.option_context("display.max_colwidth", None, "display.width", None):
            return repr(self.table)

    def _repr_html_(self) -> str:
        return table_html(self.table, self.number, index=not isinstance(self.table.index, pd.RangeIndex))
