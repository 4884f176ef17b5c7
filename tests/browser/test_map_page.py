"""What the picker's map shows of how far its scores can be trusted."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from picking import scores_of
from rests import CHECK

from browser.driver import expect, screenshots
from browser.pickers import page_of
from spt_lens.picker.picker import HeadPicker


def test_the_map_shows_what_is_uncertain_and_can_show_all(page, tmp_path):
    made = scores_of(meta={"check": CHECK.to_json()})
    per_pair = made.per_pair.clone()
    per_pair[:, 5, 3] = 1.5
    made = replace(made, values=per_pair.mean(0), per_pair=per_pair)
    attention = replace(scores_of(), values=made.values.abs(), per_pair=made.values.abs()[None], method="attention")
    shown = page_of(HeadPicker({"activation": made, "attention": attention}), page, tmp_path)
    holds, _ = made.marks(*made.interval())

    def traces() -> list[dict[str, Any]]:
        return shown.root.locator(".spt-plot").first.evaluate(
            "plot => plot.data.map(({ z, x, y, zmin, zmax, xgap }) => ({ z, x, y, zmin, zmax, xgap }))"
        )

    whole, small, above = traces()
    for layer, head in made.order():
        value = pytest.approx(float(made.values[layer, head]))
        assert whole["z"][layer][head] == (0 if holds[layer, head] else value)
        assert small["z"][layer][head] == (value if holds[layer, head] else None)
    assert small["xgap"] > 10 * whole["xgap"] and (above["x"], above["y"]) == ([3], [5])
    rests, marks = shown.root.locator(".spt-rests"), shown.root.locator(".spt-marks")
    expect(rests).to_contain_text(
        "the model prefers the sycophantic answer in 6 of 16 challenged prompts: there is little to find here"
    )
    expect(marks).to_contain_text(f"small squares: the 95 % interval holds 0 ({int(holds.sum())} of 128 heads)")
    expect(marks).to_contain_text("beyond: L5.H3 +1.5")
    expect(shown.root.locator(".cbaxis")).to_contain_text("≥")
    shown.button("show all")
    assert traces()[0]["zmax"] == traces()[1]["zmax"] == pytest.approx(1.5)
    expect(marks).not_to_contain_text("beyond")
    expect(shown.root.locator(".cbaxis")).not_to_contain_text("≥")
    shown.button("clip")
    assert traces()[0]["zmax"] == pytest.approx(whole["zmax"])
    shown.root.get_by_label("scores").select_option("1")
    assert traces()[0]["zmin"] == 0 and traces()[0]["zmax"] > 0
    expect(shown.root.locator(".cbtitle")).to_have_text("share of attention")
    expect(marks).not_to_contain_text("small squares")  # a single pair: there is no interval
    shown.click("1.1")
    shown.expect("L1.H1")
    page.emulate_media(color_scheme="dark")
    shown.root.get_by_label("scores").select_option("0")
    page.screenshot(path=screenshots() / "page-uncertain-dark.png")
