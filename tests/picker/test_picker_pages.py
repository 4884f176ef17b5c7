"""The picker without a kernel: its own page, and what a notebook keeps. tests/browser opens them."""

from __future__ import annotations

import json
import re
from html import unescape

import nbformat
import pytest
from nbconvert import HTMLExporter
from picking import page_asks, scores_of

from spt_lens.heads import HeadSet
from spt_lens.model.view import ModelView
from spt_lens.picker.pages import fallback_html, json_for_script
from spt_lens.picker.picker import HeadPicker
from spt_lens.yesman import Yesman

BAD = "</script><img src=x onerror=alert(1)><!-- <script> \u2028 ' \" &amp; 𝄞"


def state_of(page: str) -> dict:
    """What the page's script reads: the text of its element, up to the first end of a script."""
    found = re.search(r'<script type="application/json" id="spt-state">(.*?)</script', page, re.DOTALL | re.IGNORECASE)
    assert found is not None
    return json.loads(found[1])


def without_plotly(page: str) -> str:
    return re.sub(r'(?s)(id="spt-plotly">).*?(</script>)', r"\1\2", page)


@pytest.fixture
def picker() -> HeadPicker:
    return HeadPicker({"one": scores_of(), "two": scores_of(seed=1)}, chosen="5.3 0.8", presets={"mine": "1.1"})


def test_a_page_holds_all_that_the_widget_shows(picker):
    state = state_of(picker.to_html())
    assert state["_chosen"] == picker._chosen and state["_check"] == picker._check and state["_sets"] == picker._sets
    changed = {"page", "canCheck", "canShow", "canReply", "whyNoCheck", "whyNoShow", "selection"}
    told = json.loads(json.dumps(picker._map))
    assert {k: v for k, v in state["_map"].items() if k not in changed} == {
        k: v for k, v in told.items() if k not in changed
    }
    assert state["_map"]["page"] is True and told["page"] is False
    assert "kernel" in state["_map"]["whyNoCheck"] and "notebook" in state["_map"]["whyNoShow"]


def test_a_page_loads_nothing(picker):
    page = picker.to_html()
    assert 1_000_000 < len(page) < 4_000_000
    markup = without_plotly(page)
    assert not re.search(r"""(?:src|href|action|data)\s*=\s*["']?\s*(?:https?:|//)""", markup, re.IGNORECASE)
    assert not re.search(r"<link|@import|\burl\((?!['\"]?data:)", markup)
    assert re.findall(r"https?://[^\"'\s]+", markup) == ["http://www.w3.org/2000/svg"] * 2  # a name, not a place
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', markup)
    assert policy is not None and policy[1].startswith("default-src 'none'") and "http" not in policy[1]


def test_a_page_knows_no_kernel_that_it_has_not(tiny):
    name = ModelView(tiny).name
    picker = HeadPicker(scores_of(3, 4, name=name), model=tiny, pairs=Yesman().pairs(tiny, n=2), auto_check=True)
    picker._check = {
        **picker._check,
        "state": "running",
        "done": 0.5,
        "says": "patching",
        "heads": [1],
        "rows": [["a", "1", "2", "3"]],
    }
    state = state_of(picker.to_html())
    assert not state["_map"]["canCheck"] and not state["_map"]["canShow"] and not state["_auto"]
    assert state["_check"]["state"] == "idle"  # nothing goes on in the page
    assert state["_check"]["rows"] == [] and "patching" not in state["_check"]["says"]  # half a check is none
    assert picker._map["canCheck"] and picker._check["state"] == "running"
    picker.selected = "1.1"
    page_asks(picker, kind="check")
    assert state_of(picker.to_html())["_check"]["rows"] == picker._check["rows"] != []


def test_no_text_breaks_out_of_a_page():
    scores = scores_of(name=BAD)
    picker = HeadPicker({BAD: scores}, presets={BAD: "1.1"}, name=BAD)
    picker.selections[BAD[:70]] = "2.2"
    reply = {"asked": BAD, "before": BAD, "without": BAD, "mark_before": True, "mark_without": False}
    picker._check = {**picker._check, "state": "done", "says": BAD, "replies": [reply]}
    page = picker.to_html()
    assert "<img" not in page and "<!--" not in without_plotly(page)
    n = len(re.findall(r"</script", without_plotly(page), re.IGNORECASE))
    assert n == len(re.findall(r"</script", without_plotly(HeadPicker(scores_of()).to_html()), re.IGNORECASE)) == 3
    state = state_of(page)
    (layer,) = state["_map"]["layers"]
    assert state["_sets"] == [{"name": " ".join(BAD[:70].split()), "heads": [34]}] and state["_check"]["replies"] == [
        reply
    ]
    assert layer["name"] == BAD and state["_map"]["presets"] == {BAD: [17]} and state["_check"]["says"] == BAD
    assert layer["about"].startswith(f"{BAD}: recovery")
    title = re.search(r"<title>(.*?)</title>", page, re.DOTALL)
    assert title is not None and unescape(title[1]) == f"Heads of {BAD}" and "<" not in title[1]


def test_json_for_a_script():
    data = {BAD: [BAD, 0.1, None, True]}
    text = json_for_script(data)
    assert "<" not in text and json.loads(text) == data
    with pytest.raises(ValueError):
        json_for_script(float("nan"))


def test_what_a_notebook_keeps(picker):
    data, *metadata = picker._repr_mimebundle_()
    assert set(data) == {"application/vnd.jupyter.widget-view+json", "text/html", "text/plain"}
    assert data["application/vnd.jupyter.widget-view+json"]["model_id"] == picker.model_id
    assert data["text/plain"] == repr(picker)
    assert data["text/html"] == fallback_html(scores_of(), picker.selected)
    assert json.loads(json.dumps(metadata)) == metadata
    with_arguments = picker._repr_mimebundle_(include=None, exclude=None)
    assert with_arguments[0] == data and list(with_arguments[1:]) == metadata


def test_metadata_of_the_widget_are_kept(picker, monkeypatch):
    monkeypatch.setattr("anywidget.AnyWidget._repr_mimebundle_", lambda self, **_: ({"a": 1}, {"b": 2}))
    data, metadata = picker._repr_mimebundle_()
    assert metadata == {"b": 2} and set(data) == {"a", "text/html", "text/plain"}
    monkeypatch.setattr("anywidget.AnyWidget._repr_mimebundle_", lambda self, **_: None)
    (data,) = picker._repr_mimebundle_()
    assert set(data) == {"text/html", "text/plain"}


def test_the_fallback_shows_the_map_and_the_chosen_heads(picker):
    shown = fallback_html(scores_of(), picker.selected)
    assert "Chosen then: <code>L5.H3 L0.H8</code>" in shown and "<b>As saved, not live.</b>" in shown
    assert shown.count("<td") == 128 and len(shown) < 128 * 250
    assert not re.search(r"(?:src|href)\s*=|<script|\bon\w+=", shown)
    assert "Chosen then: none" in fallback_html(scores_of(), HeadSet())


def test_no_text_breaks_out_of_the_fallback():
    plain, shown = (fallback_html(scores_of(name=name), HeadSet.parse("1.1")) for name in ("random", BAD))
    assert "<img" not in shown and shown.count("<") == plain.count("<")
    assert BAD in unescape(shown)


def test_a_page_is_written(picker, tmp_path):
    path = picker.write_html(str(tmp_path / "picker.html"))
    assert path == tmp_path / "picker.html" and path.read_text(encoding="utf-8") == picker.to_html()
    with pytest.raises(OSError):
        picker.write_html(tmp_path / "missing" / "picker.html")
    with pytest.raises(OSError):
        picker.write_html(tmp_path)


def test_a_page_that_was_cut_short_says_so(picker):
    page = picker.to_html()
    notice = page.index('<p id="spt-cut">')
    assert notice < page.index('id="spt-state"') and page.index('getElementById("spt-cut").remove()') > len(page) - 2000
    assert "the file was cut short" in page[notice : notice + 300]


def test_a_page_made_of_a_notebook_shows_one_picture_that_says_so(picker):
    data, *_ = picker._repr_mimebundle_()
    cell = nbformat.v4.new_code_cell("picker")
    cell.outputs = [nbformat.v4.new_output("display_data", data)]
    html, _ = HTMLExporter(template_name="basic").from_notebook_node(nbformat.v4.new_notebook(cells=[cell]))
    assert html.count("As saved, not live.") == 1 and html.count('class="spt-saved"') == 1
    assert "model_id" not in html
