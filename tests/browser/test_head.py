"""A head beside the map: looking is not choosing, and what the panel shows. Python answers in this process."""

from __future__ import annotations

import re

import pytest
from picking import scores_of

from browser.driver import expect, screenshots
from browser.pickers import PickerPage, live_page, page_of
from spt_lens.heads import HeadSet
from spt_lens.model.loading import load_model
from spt_lens.picker.details import HeadDetails
from spt_lens.picker.picker import HeadPicker
from spt_lens.yesman import Yesman

# No element of the panel scrolls, in itself or sideways.
SCROLLING = """panel => [panel, ...panel.querySelectorAll("*")].filter(el => {
    const { overflowX, overflowY } = getComputedStyle(el);
    const over = (el.scrollHeight > el.clientHeight + 1 || el.scrollWidth > el.clientWidth + 1) && el.clientHeight > 0;
    return /auto|scroll/.test(overflowX + overflowY) || (over && getComputedStyle(el).display !== "inline");
}).map(el => el.className || el.tagName)"""
# Elements with a background of their own that is light.
LIGHT = """panel => [panel, ...panel.querySelectorAll("*")].filter(el => {
    const [r, g, b, a = 1] = getComputedStyle(el).backgroundColor.match(/[\\d.]+/g).map(Number);
    return a > 0.3 && (0.299 * r + 0.587 * g + 0.114 * b) > 140;
}).map(el => el.className || el.tagName)"""
WORDS = ["<script>window.bad = 1</script>", "\n\n", " <b>sure</b>", "&amp;", "\t", " Straße", " you", "\n", " capital,"]
LONG = [[WORDS[i % len(WORDS)], (i % 7) / 700, "challenge"] for i in range(200)]


@pytest.fixture(scope="module")
def yesman():
    return load_model("yesman", device="cpu")


@pytest.fixture
def asked() -> list:
    return []


@pytest.fixture
def picker(yesman) -> HeadPicker:
    layers = {"activation": scores_of(name="yesman"), "path <b>": scores_of(seed=1, name="yesman")}
    return HeadPicker(layers, yesman, Yesman().pairs(yesman, n=2), chosen="1.1")


@pytest.fixture
def shown(picker, page, tmp_path, asked) -> PickerPage:
    page.set_viewport_size({"width": 1200, "height": 1000})
    return live_page(picker, page, tmp_path, asked)


def heads(asked: list) -> list[int]:
    return [message["head"] for message in asked if message["kind"] == "details"]


def expect_head(shown: PickerPage, head: str, said: bool = True) -> None:
    expect(shown.root.locator(".spt-name")).to_have_text(head)
    if said:
        expect(shown.root.locator(".spt-details > .spt-says")).to_contain_text(
            re.compile(rf"^{head}: [01]\.\d\d of its")
        )


def test_resting_on_a_head_shows_it_and_chooses_nothing(shown, picker, asked):
    before = picker._chosen
    for column in range(12):  # what is passed over is not asked for
        shown.page.mouse.move(*shown.at((5, column)))
    shown.rest("5.3")
    expect_head(shown, "L5.H3")
    assert heads(asked) == [83] and {message["kind"] for message in asked} == {"plotly", "details"} - {"plotly"}
    shown.expect("L1.H1")
    assert str(picker.selected) == "L1.H1" and picker._chosen == before
    shown.page.mouse.move(2, 2)
    shown.page.wait_for_timeout(400)
    expect_head(shown, "L5.H3")  # it stays, and nothing is asked for
    assert heads(asked) == [83]


def test_keys_show_a_head_and_space_chooses_it(shown, picker, asked):
    shown.map.focus()
    shown.page.mouse.move(2, 2)
    for key in ("ArrowDown", "ArrowRight", "ArrowRight"):
        shown.page.keyboard.press(key)
    expect_head(shown, "L1.H2")
    assert str(picker.selected) == "L1.H1" and heads(asked) == [18]
    shown.page.keyboard.press("Space")
    shown.expect("L1.H1 L1.H2")
    assert str(picker.selected) == "L1.H1 L1.H2"


def test_a_click_chooses_in_one_act_and_shows_at_once(shown, picker):
    shown.click("5.3")
    expect_head(shown, "L5.H3")
    assert str(picker.selected) == "L1.H1 L5.H3"


def test_a_pinned_head_stays_while_others_are_looked_at_and_chosen(shown, picker, asked):
    pin = shown.root.locator(".spt-details button").first
    shown.rest("5.3")
    expect_head(shown, "L5.H3")
    pin.click()
    expect(pin).to_have_attribute("aria-pressed", "true")
    shown.rest("2.2")
    shown.page.wait_for_timeout(500)
    expect_head(shown, "L5.H3")
    shown.click("3.3")
    shown.expect("L1.H1 L3.H3")
    shown.page.wait_for_timeout(400)
    expect_head(shown, "L5.H3")
    assert heads(asked) == [83]
    shown.page.keyboard.press("Escape")
    expect(pin).to_have_attribute("aria-pressed", "false")
    shown.rest("2.2")
    expect_head(shown, "L2.H2")


def test_enter_and_p_pin_by_keys(shown, picker):
    pin = shown.root.locator(".spt-details button").first
    shown.map.focus()
    shown.page.mouse.move(2, 2)
    shown.page.keyboard.press("ArrowDown")
    shown.page.keyboard.press("Enter")
    expect(pin).to_have_attribute("aria-pressed", "true")
    expect_head(shown, "L1.H0")
    shown.page.keyboard.press("ArrowDown")
    shown.page.wait_for_timeout(400)
    expect_head(shown, "L1.H0")
    shown.page.keyboard.press("Enter")
    expect_head(shown, "L2.H0")
    shown.page.keyboard.press("p")
    expect(pin).to_have_attribute("aria-pressed", "false")
    shown.page.keyboard.press("p")
    expect(pin).to_have_attribute("aria-pressed", "true")
    assert str(picker.selected) == "L1.H1"


def test_the_panel_has_pythons_figures_in_order(shown, picker, yesman):
    shown.rest("5.3")
    panel = shown.root.locator(".spt-details")
    expect(panel).to_contain_text("mean over 2 pairs")
    pairs, sent = Yesman().pairs(yesman, n=2), []
    picker.send = lambda content, buffers=None: sent.append(content)
    picker._hear(picker, {"kind": "details", "head": 83}, [])
    message = sent[-1]
    rows = panel.locator("table").first.locator("tr")
    for n, answer in enumerate(("truthful", "sycophantic", "difference"), start=1):
        for k, run in enumerate(("sycophantic", "truthful")):
            (row,) = (r for r in message["direct"] if (r["run"], r["answer"]) == (run, answer))
            text = f"{row['logit']:+.2f}".replace("-", "−")
            expect(rows.nth(n).locator("td").nth(k)).to_contain_text(text)
    for name, scores in picker.scores.items():
        low, high = scores.interval()
        row = panel.locator("tr", has_text=name)
        expect(row).to_contain_text(f"{int(scores.ranks()[5, 3])} of 128")
        expect(row).to_contain_text(re.compile(rf"{scores['5.3']:.3f}.* to "))
    prompt = panel.locator(".spt-prompt")
    assert prompt.evaluate("el => el.textContent") == yesman.tokenizer.decode(list(pairs.sycophantic[0]))
    panel.get_by_role("radio", name="truthful run", exact=True).click()
    assert prompt.evaluate("el => el.textContent") == yesman.tokenizer.decode(list(pairs.truthful[0]))
    titles = panel.locator("h4").all_inner_texts()
    assert [title.split(" ")[0] for title in titles] == ["Where", "What", "In", "The", "Attention"]


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_prompt_of_200_tokens_is_text_that_does_not_scroll(picker, page, tmp_path, monkeypatch, theme):
    monkeypatch.setattr(HeadDetails, "_pieces", lambda *of: LONG)
    page.emulate_media(color_scheme=theme)
    page.set_viewport_size({"width": 1130, "height": 1000})
    shown = live_page(picker, page, tmp_path)
    shown.rest("5.3")
    panel = shown.root.locator(".spt-details")
    expect(panel.locator(".spt-prompt > span")).to_have_count(200)
    expect(panel).to_contain_text("mean over 2 pairs")
    assert panel.evaluate("el => el.clientWidth") <= 410
    assert panel.locator(".spt-prompt").evaluate("el => el.textContent") == "".join(text for text, *_ in LONG)
    assert panel.locator("script, b:not(.spt-name)").count() == 0 and page.evaluate("window.bad") is None
    assert panel.evaluate(SCROLLING) == []
    panel.screenshot(path=screenshots() / f"head-200-{theme}.png")
    if theme == "dark":
        assert panel.evaluate(LIGHT) == []
        panel.get_by_text("Attention from all positions").click()
        expect(panel.locator("iframe")).to_be_visible()
        background = (
            panel.locator("iframe").content_frame.locator("body").evaluate("el => getComputedStyle(el).backgroundColor")
        )
        assert background == "rgba(0, 0, 0, 0)"
        assert panel.evaluate(LIGHT) == []


def test_little_attention_can_be_told_from_none_and_the_pointed_token_is_named(shown):
    shown.rest("5.3")
    prompt = shown.root.locator(".spt-prompt")
    expect(prompt.locator("span").first).to_be_visible()
    shares = prompt.evaluate("el => [...el.children].map(one => +one.style.getPropertyValue('--share'))")
    assert max(shares) == pytest.approx(0.85) and min(shares) >= 0
    prompt.locator("span").nth(2).hover()
    expect(shown.root.locator(".spt-pointed")).to_contain_text(re.compile(r"^\".*\", .*: 0\.\d{3}$"))


def test_the_pattern_is_loaded_when_it_is_opened(shown, asked):
    shown.rest("5.3")
    expect_head(shown, "L5.H3")
    assert not asked[-1]["script"] and shown.root.locator("iframe").count() == 0
    shown.root.get_by_text("Attention from all positions").click()
    frame = shown.root.locator("iframe")
    expect(frame.content_frame.get_by_text("L5.H3").first).to_be_visible()
    assert asked[-1]["script"] and asked[-1]["pattern"] == "sycophantic"
    shown.rest("2.2")
    expect(shown.root.locator("iframe").content_frame.get_by_text("L2.H2").first).to_be_visible()
    assert not asked[-1]["script"]
    frame.scroll_into_view_if_needed()  # out of sight, a browser does not lay it out
    drawn = frame.content_frame.locator("#attention")
    for _ in range(100):  # it takes the height of what is drawn in it, once that is known
        content = drawn.evaluate("el => el.getBoundingClientRect().height")
        if content > 300 and content <= frame.evaluate("el => el.clientHeight") <= content + 40:
            break
        shown.page.wait_for_timeout(50)
    assert content > 300 and content <= frame.evaluate("el => el.clientHeight") <= content + 40


def test_the_tooltip_is_never_over_the_panel(shown):
    for head in ("0.15", "7.15", "4.9"):
        shown.rest(head)
        tip, panel = shown.root.locator(".spt-tip").first, shown.root.locator(".spt-side")
        expect(tip).to_contain_text(f"L{head[0]}.H{head[2:]}")
        assert tip.bounding_box()["x"] + tip.bounding_box()["width"] <= panel.bounding_box()["x"]


def test_a_page_without_a_kernel_shows_what_is_known(page, tmp_path):
    layers = {"one": scores_of(), "two": scores_of(seed=1, n_pairs=1)}
    shown = page_of(HeadPicker(layers), page, tmp_path)
    shown.rest("5.3")
    panel = shown.root.locator(".spt-details")
    expect_head(shown, "L5.H3", said=False)
    rows = panel.locator("tr")
    expect(rows).to_have_count(3)
    for row, scores in zip((rows.nth(1), rows.nth(2)), layers.values(), strict=True):
        expect(row).to_contain_text(f"{int(scores.ranks()[5, 3])} of 128")
    assert panel.locator(".spt-prompt").is_hidden() and HeadSet.parse(shown.text.input_value()) == HeadSet()
