"""How long a click takes, to the outline and to Python. Printed at the end of the run; asserted with a wide margin."""

from __future__ import annotations

from statistics import median

import pytest

from browser.pickers import PickerPage

MAKE = """
import time, torch
import spt_lens as spt

heard = []
def show(layers, heads):
    per_pair = torch.randn(8, layers, heads, generator=torch.Generator().manual_seed(0))
    global picker
    picker = spt.HeadPicker(spt.HeadScores(per_pair.mean(0), per_pair, "activation", "denoising", "last", "random"))
    picker.observe(lambda change: heard.append(time.time()), "selected")
    heard.clear()
    return picker
"""
# When the button went up, and when the outline had changed, in seconds of the clock that Python has too.
WATCH = """plot => {
    const now = () => (performance.timeOrigin + performance.now()) / 1000;
    window.speed = [];
    new MutationObserver(() => {
        const last = window.speed.at(-1);
        if (last && last.length === 1) last.push(now());
    }).observe(plot, {subtree: true, childList: true, attributes: true});
    plot.parentElement.addEventListener('pointerup', () => window.speed.push([now()]), {capture: true});
}"""
SIZES = [(12, 12), (32, 32), (80, 64)]
CLICKS = 25


@pytest.fixture(scope="module")
def notebook(lab, lab_driver):
    path = lab.write("speed", [MAKE, *(f"show{size}" for size in SIZES)])
    lab_driver.open_lab(path)
    lab_driver.run(0)
    yield path
    lab_driver.close()


@pytest.mark.parametrize("cell", [1, 2, 3], ids=[f"{layers}x{heads}" for layers, heads in SIZES])
def test_a_click_is_outlined_and_heard_at_once(notebook, lab_page, cell, record_property):
    layers, heads = SIZES[cell - 1]
    lab_page.run(cell)
    picker = PickerPage(lab_page.page, lab_page.output(cell), layers, heads)
    picker.root.locator(".spt-plot").evaluate(WATCH)
    picker.click((0, 0))  # the first one warms up
    for i in range(CLICKS):
        picker.click(divmod((37 * i + 5) % (layers * heads), heads))
        lab_page.page.wait_for_timeout(60)
    lab_page.kernel.wait_for("len(picker.selected)", CLICKS + 1)
    seen = lab_page.page.evaluate("window.speed")[1:]
    heard = lab_page.kernel.evaluate("list(heard)")[1:]
    assert len(seen) == len(heard) == CLICKS and all(len(times) == 2 for times in seen)
    outline = 1000 * median(drawn - up for up, drawn in seen)
    python = 1000 * median(time - up for time, (up, _) in zip(heard, seen, strict=True))
    found = f"click to outline {outline:.0f} ms, to Python {python:.0f} ms"
    record_property("measured", f"picker, {layers} x {heads} heads: {found} (medians of {CLICKS})")
    # Goals: 20 and 50 ms at 1,024 heads, twice that at 5,120. Far above, something is wrong, not just slow.
    assert outline < 400 and python < 2000
