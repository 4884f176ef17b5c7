"""Figures as pictures beside the README's and the docs' tables."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import plotly.graph_objects as go

from spt_lens import saving


def check_pictures() -> None:
    """Raises ImportError without kaleido, before anything is written."""
    if importlib.util.find_spec("kaleido") is None:
        raise ImportError("pictures need kaleido: pip install 'spt-lens[images]', and a Chrome or Chromium")


def write_picture(path: Path, figure: go.Figure, width: int = 900, height: int = 450) -> Path:
    """A figure as a PNG; returns the path."""
    figure.layout.updatemenus = ()  # buttons do nothing in a picture
    return saving.write_bytes(path, figure.to_image(format="png", width=width, height=height, scale=1.5))
