"""The picker's page without a kernel: all that happens in the page itself."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime

import pytest
from picking import scores_of

from browser.driver import expect, screenshots
from browser.pickers import PickerPage, page_of
from browser.watch import Watch
from spt_lens.heads import HeadSet
from spt_lens.model.view import ModelView
from spt_lens.picker.picker import HeadPicker
from spt_lens.yesman import Yesman


@pytest.fixture(scope="module")
def scores():
    return scores_of()


@pytest.fixture(scope="module")
def picker(scores) -> HeadPicker:
    layers = {"activation": scores, "other": scores_of(seed=1)}
    return HeadPicker(layers, presets={"mine <b>": HeadSet.parse("1.1 2.2")})


@pytest.fixture(scope="module")
def opened(picker, chromium, tmp_path_factory) -> Iterator[tuple[PickerPage, Watch]]:
    """Most of a test's time would be the page's loading: these share one."""
    with chromium.new_context(viewport={"width": 1000, "height": 800}, reduced_motion="reduce") as context:
        watch = Watch(context)
        yield page_of(picker, context.new_page(), tmp_path_factory.mktemp("page")), watch


@pytest.fixture
def shown(opened) -> Iterator[PickerPage]:
    page, watch = opened
    page.reset()
    yield page
    watch.check()


def test_a_click_chooses_a_head_and_another_lets_it_go(shown):
    shown.expect("")
    for head in ("5.3", "0.0", "7.15"):
        shown.click(head)
    shown.expect("L5.H3 L0.H0 L7.H15")
    shown.click("0.0")
    shown.expect("L5.H3 L7.H15")


def test_a_box_replaces_adds_with_shift_and_removes_with_alt(shown):
    shown.click("7.7")
    shown.box("1.2", "2.3")
    shown.expect("L1.H2 L1.H3 L2.H2 L2.H3")
    shown.box("2.3", "3.3", key="Shift")
    shown.expect("L1.H2 L1.H3 L2.H2 L2.H3 L3.H3")
    shown.box("1.0", "1.15", key="Alt")
    shown.expect("L2.H2 L2.H3 L3.H3")


def test_the_mode_switch_does_the_same(shown):
    shown.click("7.7")
    shown.press("add")
    shown.box("1.2", "1.3")
    shown.expect("L7.H7 L1.H2 L1.H3")
    shown.press("remove")
    shown.box("1.3", "7.7")
    shown.expect("L1.H2")


def test_a_box_drawn_backwards_and_beyond_the_map(shown):
    shown.page.mouse.move(*shown.at("1.1", 0.4, 0.4))
    shown.page.mouse.down()
    shown.page.mouse.move(*shown.at("0.0", -1.2, -1.2), steps=3)
    shown.page.mouse.up()
    shown.expect("L0.H0 L0.H1 L1.H0 L1.H1")


def test_a_lasso_takes_the_heads_whose_middle_is_inside(shown):
    shown.press("lasso")
    # A triangle over the first heads of the first three layers.
    shown.lasso((-0.4, -0.4), (2.6, -0.4), (-0.4, 2.6))
    shown.expect("L0.H0 L0.H1 L0.H2 L1.H0 L1.H1 L2.H0")


def test_top_and_threshold_choose_as_python_does(shown, scores):
    top = shown.root.get_by_label("top k")
    top.fill("6")
    shown.expect(str(scores.top(6)))
    shown.press("by size")
    top.fill("5")
    shown.expect(str(scores.top(5, by="size")))
    shown.root.get_by_label("threshold", exact=True).fill("0.05")
    shown.expect(str(scores.above(0.05, by="size")))
    shown.press("signed")
    shown.root.get_by_label("threshold", exact=True).fill("0.04")
    shown.expect(str(scores.above(0.04)))
    limit = scores["5.3"]  # a float32, which is not above itself
    shown.root.get_by_label("threshold", exact=True).fill(f"{limit:.9g}")
    shown.expect(str(scores.above(limit)))


def test_the_slider_moves_the_threshold_as_one_step_of_the_history(shown, scores):
    shown.click("7.7")
    slider = shown.root.get_by_label("threshold slider")
    slider.focus()
    slider.evaluate("s => { for (const v of [900, 950, 980]) { s.value = v; s.dispatchEvent(new Event('input')); } }")
    limit = float(shown.root.get_by_label("threshold", exact=True).input_value())
    shown.expect(str(scores.above(limit)))
    assert 0 < len(scores.above(limit)) < 10
    shown.button("undo")
    shown.expect("L7.H7")


def test_undo_redo_and_clear(shown):
    shown.click("1.1")
    shown.click("2.2")
    shown.button("clear")
    shown.expect("")
    shown.button("undo")
    shown.expect("L1.H1 L2.H2")
    shown.button("undo")
    shown.expect("L1.H1")
    shown.button("redo")
    shown.expect("L1.H1 L2.H2")
    expect(shown.root.get_by_role("button", name="undo")).to_be_enabled()


def test_presets(shown, scores):
    preset = shown.root.get_by_label("preset")
    preset.select_option("top")
    shown.expect(str(scores.top_fraction(0.05)))
    preset.select_option("noise")
    shown.expect(str(scores.above_noise()))
    shown.click("3.4")
    preset.select_option("layer")
    shown.expect(" ".join(f"L3.H{i}" for i in range(16)))
    preset.select_option(label="mine <b> (2)")
    shown.expect("L1.H1 L2.H2")
    assert shown.root.locator("option b").count() == 0


def test_the_keyboard_moves_and_chooses(shown):
    shown.map.focus()
    for key in ["ArrowUp"] * 7 + ["ArrowLeft"] * 15:
        shown.page.keyboard.press(key)
    shown.page.keyboard.press("ArrowRight")
    shown.page.keyboard.press("ArrowDown")
    shown.page.keyboard.press("Space")
    shown.expect("L1.H1")
    shown.page.keyboard.press("Shift+ArrowRight")
    shown.expect("L1.H1 L1.H2")
    for _ in range(20):
        shown.page.keyboard.press("ArrowUp")
    shown.page.keyboard.press("Space")
    shown.expect("L1.H1 L1.H2 L0.H2")
    shown.page.keyboard.press("Control+z")
    shown.expect("L1.H1 L1.H2")
    shown.page.keyboard.press("Control+y")
    shown.expect("L1.H1 L1.H2 L0.H2")


def test_hovering_tells_what_is_known_of_a_head(shown, scores):
    shown.page.mouse.move(*shown.at("5.3"))
    tip = shown.root.locator(".spt-tip").first
    expect(tip).to_contain_text("L5.H3")
    low, high = scores.interval()
    rank, share = int(scores.ranks()[5, 3]), round(100 * float(scores.top_probability(6)[5, 3]))
    for text in (
        f"activation: {scores['5.3']:.3f}",
        f"95 % interval {low[5, 3]:.4f} to {high[5, 3]:.3f}",  # four decimals below .01
        f"rank {rank} of 128",
        f"in the top 6 of {share} % of resamples",
        "other: ",
    ):
        expect(tip).to_contain_text(text)
    shown.page.mouse.move(2, 2)
    expect(tip).to_be_hidden()


def test_the_status_goes_red_past_the_budget(shown):
    count = shown.root.locator(".spt-count")
    shown.root.get_by_label("top k").fill("6")
    expect(count).to_have_text("6 of 128 heads (4.7 %) · within the budget of 5 % (6)")
    red = "el => getComputedStyle(el).color"
    calm = count.evaluate(red)
    shown.root.get_by_label("top k").fill("7")
    expect(count).to_have_text("7 of 128 heads (5.5 %) · over the budget of 5 % (6)")
    assert count.evaluate(red) != calm


def test_heads_can_be_typed_and_what_is_none_is_marked(shown):
    shown.text.fill("5.3, (2, 1) L0H15")
    expect(shown.root.locator(".spt-count")).to_contain_text("3 of 128")
    assert shown.outlined() == {"L5.H3", "L2.H1", "L0.H15"}
    shown.text.fill("5.3 99.1")
    expect(shown.text).to_have_class("spt-heads spt-wrong")
    assert shown.outlined() == {"L5.H3", "L2.H1", "L0.H15"}


def test_the_text_is_what_headset_parses(shown):
    shown.box("1.2", "2.3")
    assert HeadSet.parse(shown.text.input_value()) == HeadSet.of((1, 2), (1, 3), (2, 2), (2, 3))
    shown.button("copy")
    expect(shown.root.get_by_role("button", name="copied")).to_be_visible()


def test_what_the_page_saves_is_what_python_loads(shown, picker, tmp_path):
    save = shown.root.get_by_role("button", name="save", exact=True)
    expect(save).to_be_disabled()
    shown.click("5.3")
    shown.click("0.15")
    with shown.page.expect_download() as loading:
        save.click()
    assert loading.value.suggested_filename == "heads.json"
    loading.value.save_as(tmp_path / "heads.json")
    heads = HeadSet.load(tmp_path / "heads.json")
    assert heads == HeadSet.parse("L5.H3 L0.H15")
    assert heads.about["model"] == "random"
    assert [each["layer"] for each in heads.about["scores"]] == ["activation", "other"]
    assert datetime.fromisoformat(heads.about["date"]).tzinfo is not None
    picker.load(tmp_path / "heads.json")
    picker.selected = ""  # as it was: other tests open its page too


def test_layers_switch_and_stand_side_by_side_with_one_selection(shown):
    other = scores_of(seed=1)
    shown.click("5.3")
    shown.root.get_by_label("scores").select_option(label="other")
    shown.root.get_by_label("top k").fill("3")
    shown.expect(str(other.top(3)))
    shown.root.get_by_label("beside").select_option(label="activation")
    expect(shown.root.locator(".spt-map")).to_have_count(2)
    shown.click("4.4", slot=1)
    shown.expect(f"{other.top(3)} L4.H4")
    assert shown.outlined(0) == shown.outlined(1)
    shown.page.screenshot(path=screenshots() / "page-side-by-side.png")


def test_zoom_shows_fewer_heads_and_clicks_still_hit(shown):
    shown.press("zoom")
    shown.box("2.4", "3.7")
    ticks = shown.root.locator(".xtick text")
    expect(ticks).to_have_text(["4", "5", "6", "7"])
    box = shown.map.bounding_box()
    shown.page.mouse.click(box["x"] + 0.9 * box["width"], box["y"] + 0.75 * box["height"])
    expect(shown.text).to_have_value("L3.H7")
    shown.press("zoom")
    expect(ticks).to_have_count(16)


def test_a_hand_that_shakes_clicks_and_a_box_around_nothing_changes_nothing(shown):
    shown.text.fill("L1.H1 L2.H2")
    shown.expect("L1.H1 L2.H2")
    shown._drag([shown.at("5.3", -0.4, -0.4), shown.at("5.3", 0.2, 0.3)])
    shown.expect("L1.H1 L2.H2 L5.H3")
    shown._drag([shown.at("5.3", 0.4, 0.3), shown.at("5.4", -0.3, 0.4)])
    shown.expect("L1.H1 L2.H2 L5.H3")


def test_a_key_let_go_before_the_button_still_counts_and_escape_ends_a_drag(shown):
    mouse, keyboard = shown.page.mouse, shown.page.keyboard
    shown.click("7.7")
    keyboard.down("Shift")
    mouse.move(*shown.at("1.2", -0.4, -0.4))
    mouse.down()
    mouse.move(*shown.at("1.3", 0.4, 0.4), steps=4)
    keyboard.up("Shift")
    mouse.up()
    shown.expect("L7.H7 L1.H2 L1.H3")
    mouse.move(*shown.at("4.2", -0.4, -0.4))
    mouse.down()
    mouse.move(*shown.at("5.3", 0.4, 0.4), steps=4)
    keyboard.press("Escape")
    mouse.up()
    shown.expect("L7.H7 L1.H2 L1.H3")


def test_typing_counts_before_a_click_that_follows_at_once(shown, scores):
    shown.root.get_by_label("top k").fill("3")
    shown.click("7.15")
    shown.expect(f"{scores.top(3)} L7.H15")


def test_what_a_zoom_hides_is_not_chosen(shown):
    shown.press("zoom")
    shown.box("2.4", "3.7")
    shown.press("box")
    box = shown.map.bounding_box()
    mouse = shown.page.mouse
    mouse.move(box["x"] + 0.7 * box["width"], box["y"] + 0.6 * box["height"])
    mouse.down()
    mouse.move(box["x"] + 2 * box["width"], box["y"] + 3 * box["height"], steps=4)
    mouse.up()
    shown.expect("L3.H7")
    shown.map.focus()
    for key in ["ArrowLeft"] * 9 + ["ArrowUp"] * 9 + ["Space"]:
        shown.page.keyboard.press(key)
    shown.expect("L3.H7 L2.H4")
    expect(shown.root.locator(".spt-spoken")).to_contain_text("L2.H4")
    shown.press("zoom")
    shown.press("zoom")


def test_a_query_group_is_a_preset_and_its_shared_weights_count_once(gqa, page, tmp_path):
    scores = scores_of(3, 4, name=ModelView(gqa).name)
    shown = page_of(HeadPicker(scores, gqa, Yesman().pairs(gqa, n=4), projections="qkvo"), page, tmp_path)
    shown.click("1.3")
    shown.root.get_by_label("preset").select_option(label="the KV group of L1.H3")
    shown.expect("L1.H2 L1.H3")
    for heads in ("L1.H2 L1.H3", "L1.H2", "L1.H1 L1.H2 L0.H0"):
        shown.text.fill(heads)
        shown.expect(heads)
        share = HeadSet.parse(heads).share_of_parameters(gqa, "qkvo")
        expect(shown.root.locator(".spt-count")).to_contain_text(f"{share:.1%} of parameters".replace("%", " %"))


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_themes(picker, scores, page, tmp_path, theme):
    page.emulate_media(color_scheme=theme)
    shown = page_of(picker, page, tmp_path)
    expect(shown.root).to_have_attribute("data-theme", theme)
    shown.root.get_by_label("top k").fill("6")
    shown.expect(str(scores.top(6)))
    page.screenshot(path=screenshots() / f"page-{theme}.png")
    # It follows while the page is open.
    page.emulate_media(color_scheme="dark" if theme == "light" else "light")
    expect(shown.root).not_to_have_attribute("data-theme", theme)


def test_a_narrow_page_holds_everything(picker, page, tmp_path):
    page.set_viewport_size({"width": 560, "height": 800})
    picker.selected = HeadSet()  # another test has loaded some
    shown = page_of(picker, page, tmp_path)
    assert shown.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    # It takes the room that there is.
    page.set_viewport_size({"width": 1000, "height": 800})
    drawn = shown.root.locator(".spt-plot svg.main-svg").first
    expect(drawn).to_have_attribute("width", re.compile(r"5[2-9]\d|[67]\d\d"))
    shown.click("7.15")
    shown.expect("L7.H15")


def test_a_page_with_a_theme_of_its_own_keeps_it(scores, page, tmp_path):
    page.emulate_media(color_scheme="light")
    shown = page_of(HeadPicker(scores, theme="dark"), page, tmp_path)
    expect(shown.root).to_have_attribute("data-theme", "dark")
    assert shown.root.evaluate("el => getComputedStyle(el).backgroundColor") == "rgb(26, 27, 29)"


def test_what_a_notebook_keeps_is_a_picture_and_says_so(picker, page, tmp_path):
    picker.selected = "1.1"
    data, *_ = picker._repr_mimebundle_()
    for theme, paper in {"light": "#fff", "dark": "#111"}.items():
        page.emulate_media(color_scheme=theme)
        colours = f"background:{paper};color:{'#ddd' if theme == 'dark' else '#222'}"
        (tmp_path / "kept.html").write_text(f"<body style='{colours}'>{data['text/html']}</body>", encoding="utf-8")
        page.goto((tmp_path / "kept.html").as_uri())
        expect(page.get_by_text("As saved, not live.")).to_be_visible()
        expect(page.locator("body")).to_contain_text("Chosen then: L1.H1")
        page.screenshot(path=screenshots() / f"kept-{theme}.png")
    before = page.content()
    page.locator('td[title^="L5.H3:"]').first.click()
    assert page.content() == before and page.locator("input, button, script").count() == 0


def test_a_page_is_whole_in_itself_and_one_that_was_cut_short_says_so(picker, page, tmp_path):
    whole = picker.to_html()
    (tmp_path / "elsewhere").mkdir()
    copied = tmp_path / "elsewhere" / "copied.html"  # nothing of what lay beside it
    copied.write_text(whole, encoding="utf-8")
    page.goto(copied.as_uri())
    shown = PickerPage(page, page.locator("body"), 8, 16)
    shown.click("5.3")
    page.wait_for_timeout(2200)
    assert page.locator("#spt-cut").count() == 0
    for end in (len(whole) // 2, len(whole) - 200):
        copied.write_text(whole[:end], encoding="utf-8")
        page.goto(copied.as_uri())
        expect(page.get_by_text("the file was cut short")).to_be_visible()
