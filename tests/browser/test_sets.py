"""Selections under names, and replies to read, in the picker's page without a kernel."""

from __future__ import annotations

import pytest
from picking import scores_of

from browser.driver import expect, screenshots
from browser.pickers import PickerPage, page_of
from spt_lens.picker.picker import HeadPicker

BAD = "<img src=x onerror=alert(1)>"


@pytest.fixture
def picker() -> HeadPicker:
    made = HeadPicker({"activation": scores_of(), "other": scores_of(seed=1)}, presets={"paper": "5.3 0.8 1.1"})
    made.selections["kept before"] = "1.1 2.2"
    return made


def opened(shown: PickerPage) -> None:
    shown.root.locator(".spt-named > summary").click()
    expect(shown.root.get_by_label("a name for the selection")).to_be_visible()


def test_the_present_selection_is_kept_listed_and_chosen_again(picker, page, tmp_path):
    shown = page_of(picker, page, tmp_path)
    opened(shown)
    name, keep = (
        shown.root.get_by_label("a name for the selection"),
        shown.root.locator(".spt-named .spt-row button").first,
    )
    expect(keep).to_be_disabled()  # no heads, no name
    shown.click("3.3")
    shown.click("4.4")
    name.fill(BAD)
    keep.click()
    listed = shown.root.locator(".spt-set")
    expect(listed).to_have_text(["kept before (2)×", f"{BAD} (2)×"])
    assert shown.root.locator("img").count() == 0
    name.fill("paper")
    expect(keep).to_be_disabled()
    expect(shown.root.locator(".spt-named .spt-says")).to_contain_text('"paper" is a preset')
    name.fill("")
    shown.button("clear")
    listed.nth(1).locator("button").first.click()
    shown.expect("L3.H3 L4.H4")
    shown.root.get_by_label("preset").select_option(label="kept before (2)")
    shown.expect("L1.H1 L2.H2")
    name.fill(BAD)
    expect(keep).to_have_text("keep anew")
    keep.click()
    shown.root.get_by_label("forget kept before").click()
    expect(listed).to_have_text([f"{BAD} (2)×"])
    expect(shown.root.locator(".spt-named > summary")).to_have_text("Named selections (1)")


def test_two_selections_are_compared_and_combined(picker, page, tmp_path):
    shown = page_of(picker, page, tmp_path)
    opened(shown)
    compare, beside = shown.root.get_by_label("compare", exact=True), shown.root.get_by_label("with", exact=True)
    compare.select_option(label="paper (3)")
    beside.select_option(label="kept before (2)")
    says = shown.root.locator(".spt-named .spt-says")
    expect(says).to_have_text("1 shared, 2 and 1 in one only; by chance 0.047 would be.")
    one, other = picker.selections["paper"], picker.selections["kept before"]
    for how, wanted in {"and": one & other, "or": one | other, "not": one - other}.items():
        shown.button(how)
        shown.expect(str(wanted))
    shown.button("undo")
    shown.expect(str(one | other))
    page.emulate_media(color_scheme="dark")
    expect(shown.root).to_have_attribute("data-theme", "dark")
    page.screenshot(path=screenshots() / "page-sets-dark.png", full_page=True)
    page.emulate_media(color_scheme="light")
    page.screenshot(path=screenshots() / "page-sets-light.png", full_page=True)


def test_what_two_methods_agree_on_is_a_preset(picker, page, tmp_path):
    shown, preset = page_of(picker, page, tmp_path), page.get_by_label("preset")
    one, other = (scores.top(6) for scores in picker.scores.values())
    preset.select_option("both:1")
    shown.expect(str(one & other))
    preset.select_option("first:1")
    shown.expect(str(one - other))
    preset.select_option("second:1")
    shown.expect(str(other - one))
    expect(preset.locator("option[value='second:1']")).to_have_text(
        f"top 6 of other, not of activation ({len(other - one)})"
    )
    shown.press("by size")
    preset.select_option("both:1")
    one, other = (scores.top(6, by="size") for scores in picker.scores.values())
    shown.expect(str(one & other))


def test_replies_are_a_sample_that_opens(picker, page, tmp_path):
    reply = {"asked": BAD, "before": "Yes.", "without": "", "mark_before": True, "mark_without": False}
    picker._check = {
        **picker._check,
        "state": "done",
        "rows": [["gives in", "1.00", "0.00", ""]],
        "replies": [reply] * 5,
    }
    shown = page_of(picker, page, tmp_path)
    replies = shown.root.locator(".spt-reply")
    expect(replies).to_have_count(3)
    expect(replies.first).to_have_text(f"{BAD}as it is, gives in: Yes.without these heads: (nothing)")
    shown.button("show 2 more")
    expect(replies).to_have_count(5)
    assert shown.root.locator("img").count() == 0
    page.screenshot(path=screenshots() / "page-replies.png", full_page=True)
    shown.button("show fewer")
    expect(replies).to_have_count(3)
