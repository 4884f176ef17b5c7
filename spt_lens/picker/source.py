"""The page's own code, and plotly.js as the installed plotly package has it."""

from __future__ import annotations

import gzip
from functools import cache
from importlib.resources import files

from plotly.offline import get_plotlyjs, get_plotlyjs_version

# One ES module in parts, in this order: each part uses only what stands above it.
PARTS = ("cells", "selection", "plotly", "theme", "map", "toolbar", "status", "check", "details", "main")

plotly_version = get_plotlyjs_version


@cache
def script() -> str:
    """The widget's module: `export default { render }`, as anywidget takes it."""
    folder = files("spt_lens.picker") / "page"
    return "\n".join((folder / f"{part}.js").read_text(encoding="utf-8") for part in PARTS)


@cache
def style() -> str:
    return (files("spt_lens.picker") / "page" / "picker.css").read_text(encoding="utf-8")


@cache
def plotly_gzip() -> bytes:
    """plotly.js, 4.8 MB, as 1.5 MB: a page asks for it once, and it is never kept in a notebook."""
    return gzip.compress(get_plotlyjs().encode(), compresslevel=6, mtime=0)
