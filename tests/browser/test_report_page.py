"""A report as it is read: on a light and on a dark screen, and on paper."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
import torch
from picking import scores_of

from browser.driver import screenshots
from spt_lens.chat.dialogues import dialogue
from spt_lens.view.attention import AttentionView
from spt_lens.view.report import Example, Section, write_report

if TYPE_CHECKING:
    from playwright.sync_api import Page


def test_it_is_dark_on_a_dark_screen_and_white_on_paper(page: Page, tmp_path: Path) -> None:
    scores = scores_of(8, 24)
    wide = pd.DataFrame({f"method {i}": ["0.92 [0.88, 0.95]\n0.91 to 0.93"] * 60 for i in range(7)})
    tokens = ["What", " is", " it", "?"]
    shown = [
        Section("Which heads", "Hover.", figure=scores.heatmap(scores.top(5)), links=[("The map", "picker.html")]),
        Section("Attention", attention=AttentionView.of(torch.eye(4)[None], tokens, ["L0.H1"])),
        Section("Every method", table=wide.assign(figure="ends right: supported right answers").set_index("figure")),
        Section("Dialogues", examples=[Example(dialogue("What?", "This.", "Sure?"), "No.", "Yes.")]),
    ]
    path = write_report(tmp_path / "report.html", "Title", "Text.", shown)
    look = "el => [getComputedStyle(document.body).backgroundColor, getComputedStyle(el).fill]"
    page.set_viewport_size({"width": 1280, "height": 800})
    for media, scheme, expected in (
        ("screen", "light", ["rgb(255, 255, 255)", "rgb(27, 27, 27)"]),
        ("screen", "dark", ["rgb(22, 22, 22)", "rgb(228, 228, 228)"]),
        ("print", "dark", ["rgb(255, 255, 255)", "rgb(27, 27, 27)"]),
    ):
        page.emulate_media(media=media, color_scheme=scheme)  # type: ignore[arg-type]
        page.goto(path.as_uri())
        assert page.locator(".figure .ytick text").first.evaluate(look) == expected
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        page.screenshot(path=screenshots() / f"report-{media}-{scheme}.png", full_page=True)
    # A sheet of A4 between its margins: nothing is cut.
    page.set_viewport_size({"width": 703, "height": 1000})
    fits = "el => el.getBoundingClientRect().right <= innerWidth + 1"
    assert page.locator("table").first.evaluate(fits) and page.locator(".figure svg").first.evaluate(fits)
    assert page.locator("a", has_text="The map").evaluate("a => a.href") == (tmp_path / "picker.html").as_uri()
