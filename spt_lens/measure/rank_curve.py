"""What both curves over heads in rank order share: files, and how a notebook shows them."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import pandas as pd

from spt_lens.measure import saved

if TYPE_CHECKING:
    import plotly.graph_objects as go


class RankCurve:
    """A curve with a `table` that has the columns k, order and draw. kind: what its files are called."""

    kind: ClassVar[str]
    table: pd.DataFrame

    def summary(self) -> str:
        raise NotImplementedError

    def figure(self) -> go.Figure:
        raise NotImplementedError

    def to_json(self) -> dict[str, Any]:
        raise NotImplementedError

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        raise NotImplementedError

    def save(self, path: str | Path) -> Path:
        """Writes the curve and its settings as JSON. Raises OSError when the file can't be written."""
        return saved.save_json(path, self.kind, self.to_json())

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Reads what `save` wrote. Raises FileNotFoundError, or ValueError for a damaged or a different file."""
        return saved.load_json(path, cls.kind, cls.from_json)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.summary()})"

    def _repr_html_(self) -> str:
        """A table of means over draws that any viewer shows, with no script and no network."""
        means = self.table.drop(columns="draw").groupby(["order", "k"], sort=False).mean().reset_index()
        table = means.to_html(index=False, escape=True, float_format="%.2f", na_rep="")
        return f"<p>{html.escape(self.summary())}</p>{table}"

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        """Jupyter takes the interactive figure where it can, else the table."""
        return {
            "application/vnd.plotly.v1+json": json.loads(self.figure().to_json()),
            "text/html": self._repr_html_(),
            "text/plain": repr(self),
        }
