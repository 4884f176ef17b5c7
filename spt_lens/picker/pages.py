"""The picker without a kernel: a page of its own, and the small table that a notebook keeps.

In the page, clicks choose heads; the table is a picture of what was chosen, and says so. Neither needs the network.

The page's own code, and plotly.js as the installed plotly package has it.
"""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Mapping
from functools import cache
from html import escape
from importlib.resources import files
from typing import Any

from plotly.offline import get_plotlyjs, get_plotlyjs_version

from spt_lens.heads import HeadSet
from spt_lens.scores.head_scores import HeadScores

_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline' blob:; style-src 'unsafe-inline'; img-src data: blob:; "
    "font-src data:; frame-src 'self'"
)

# The few lines that stand for a kernel: everything is kept in the page, and nobody is told.
_MODEL = """
const state = JSON.parse(document.getElementById("spt-state").textContent);
document.getElementById("spt-cut").remove();
const packed = document.getElementById("spt-plotly").textContent.trim();
const model = {
  get: (name) => state[name],
  set: (name, value) => { state[name] = value; },
  save_changes() {}, send() {}, on() {}, off() {},
  plotly: async () => Uint8Array.from(atob(packed), (letter) => letter.charCodeAt(0)),
};
widget.render({ model, el: document.querySelector("main") });
"""


# Stands there until the script at the page's very end takes it away; shown only if that is not there soon.
_CUT = (
    '<p id="spt-cut">This page has not come to its end: if nothing follows, the file was cut short as it was saved or '
    "copied. Write it again by <code>picker.write_html(path)</code> or <code>spt-lens pick</code>.</p>"
)
_CUT_STYLE = "#spt-cut { animation: 2s spt-cut; } @keyframes spt-cut { 0%, 99% { visibility: hidden; } }\n"


def json_for_script(data: Any) -> str:
    """JSON that can't end the script element that it stands in."""
    return json.dumps(data, allow_nan=False).replace("<", "\\u003c")


def page_html(title: str, state: Mapping[str, Any]) -> str:
    """The whole page as one string, about 2 MB, most of it plotly.js. state: the widget's synced traits."""
    theme = state["_map"]["theme"]
    schemes = "light dark" if theme == "auto" else theme
    module = script().replace("export default {", "const widget = {")
    return (
        "<!DOCTYPE html>\n"
        f'<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<style>:root {{ color-scheme: {schemes}; }} "
        "body { margin: 0; background: Canvas; } "
        f"main {{ max-width: 1180px; margin: 0 auto; padding: 16px; }}\n{_CUT_STYLE}{style()}</style></head>\n"
        f"<body><main><noscript>This page needs scripts; it loads none from elsewhere.</noscript>{_CUT}</main>\n"
        f'<script type="application/json" id="spt-state">{json_for_script(state)}</script>\n'
        f'<script type="text/plain" id="spt-plotly">{base64.b64encode(plotly_gzip()).decode()}</script>\n'
        f'<script type="module">{module}\n{_MODEL}</script></body></html>\n'
    )


def fallback_html(scores: HeadScores, chosen: HeadSet) -> str:
    """What a notebook shows where there is no widget: a picture of the map and of the heads that were chosen then.

    Small enough to be kept with every notebook (about 150 bytes a head). It has no scripts, and looks like what it is:
    nobody is to take it for the picker that a running notebook shows in its place.
    """
    heads = f"<code>{escape(str(chosen))}</code>" if chosen else "none"
    return (
        '<div class="spt-saved" style="border:1px dashed #888;border-radius:4px;padding:4px 10px">'
        "<p><b>As saved, not live.</b> A picture of the picker: run this cell to choose heads in it.</p>"
        f'<div style="opacity:0.6">{scores.html(chosen)}</div>'
        f"<p>Chosen then: {heads}</p>"
        "<p><small>If you have just run this cell, its front end shows no widgets: <code>pip install anywidget "
        "jupyterlab_widgets</code>, then start it again and reload the page. <code>picker.write_html(path)</code> "
        "writes a page in which clicks choose heads without a kernel.</small></p></div>"
    )


# One ES module in parts, in this order: each part uses only what stands above it.
PARTS = ("selection", "plotly", "map", "toolbar", "sets", "panels", "head", "main")

plotly_version = get_plotlyjs_version


@cache
def script() -> str:
    """The widget's module: `export default { render }`, as anywidget takes it."""
    folder = files("spt_lens.picker") / "page"
    return "\n".join((folder / f"{part}.js").read_text(encoding="utf-8") for part in PARTS)


@cache
def style() -> str:
    """The picker's style sheet."""
    return (files("spt_lens.picker") / "page" / "picker.css").read_text(encoding="utf-8")


@cache
def plotly_gzip() -> bytes:
    """plotly.js, 4.8 MB, as 1.5 MB: a page asks for it once, and it is never kept in a notebook."""
    return gzip.compress(get_plotlyjs().encode(), compresslevel=6, mtime=0)
