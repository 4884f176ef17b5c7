"""The report: escaped, self-contained, and really drawn by a browser without a network."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd
import plotly.graph_objects as go
import pytest
import torch
from browser.rendered import rendered

from spt_lens.chat.dialogues import dialogue
from spt_lens.view.attention import AttentionView
from spt_lens.view.report import Example, Section, report_html, write_report

EVIL = "</script><script>document.title='hacked'</script><img src=x onerror=\"document.title='hacked'\">"


def sections() -> list[Section]:
    uniform = torch.ones(2, 3, 3).tril()
    uniform /= uniform.sum(-1, keepdim=True)
    return [
        Section("A figure", EVIL, figure=go.Figure(go.Bar(x=[EVIL], y=[1.0], name=EVIL))),
        Section("A table", table=pd.DataFrame({"method": [EVIL], "value": [0.12345], EVIL: [1]})),
        Section(EVIL, attention=AttentionView.of(uniform, ["<s>", EVIL, "ok"], ["L0.H1", "L2.H3"])),
        Section("Dialogues", examples=[Example(dialogue("What?", EVIL, "Sure?"), before=EVIL, after="Yes.")]),
    ]


def test_text_is_escaped_and_nothing_is_loaded_from_elsewhere() -> None:
    page = report_html("Title", "First.\n\nSecond.", sections())
    without_scripts = re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)
    assert "hacked" in without_scripts  # it is shown ...
    assert "<img" not in without_scripts  # ... as text
    assert not re.search(r"<(script|link|img|iframe)[^>]*(src|href)=", page)
    assert page.count("plotly.js v") == 1
    assert "<td>0.123</td>" in page
    assert "<p>First.</p><p>Second.</p>" in page


def test_a_browser_draws_every_section_without_a_network(tmp_path: Path) -> None:
    page = write_report(tmp_path / "report.html", "Title", "", sections())
    dom, log = rendered(page, tmp_path / "profile")
    body = dom[dom.index("</head>") :]
    assert "<title>Title</title>" in dom  # no script from the data ran
    assert 'class="main-svg"' in body
    assert "Head Selector" in body and "L2.H3" in body
    assert "before tuning" in body  # what follows circuitsvis's figure is still there
    console = [line for line in log.splitlines() if "CONSOLE" in line]
    assert not [line for line in console if "rror" in line or "efused" in line], console


def test_no_plotly_without_a_figure(tmp_path: Path) -> None:
    assert len(report_html("Title", "", [Section("Only text", "here")])) < 10_000


def test_an_unwritable_place_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    with pytest.raises(OSError):
        write_report(blocked / "report.html", "Title", "", [])


def test_links_lead_to_files_beside_the_page_alone() -> None:
    page = report_html("Title", "", [Section("Map", links=[("Choose <b>", "a folder/picker.html")])])
    assert '<a href="a%20folder/picker.html">Choose &lt;b&gt;</a>' in page
    for path in (
        "https://example.org/x.html",
        "javascript:alert(1)",
        "//host/x",
        "/etc/passwd",
        "../x.html",
        "",
        "a\\b",
    ):
        with pytest.raises(ValueError, match="no file beside the report"):
            Section("Map", links=[("x", path)])


def test_tables_read_from_the_left_and_keep_intervals_in_one_piece() -> None:
    table = pd.DataFrame({"figure": ["discernment"], "chosen heads": ["0.92 [0.88, 0.95]\n0.91 to 0.93"]})
    page = report_html("Title", "", [Section("Table", table=table)])
    assert "<td>0.92 [0.88,\u00a00.95]<br>0.91\u00a0to\u00a00.93</td>" in page
    assert "text-align: right" not in page
