"""A real chat model in the picker: what its scores rest on is said, and the live check has the figures of Python."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from browser.driver import Driver, expect, screenshots
from browser.lab import LabServer
from browser.pickers import PickerPage

# Ten capitals that it knows: it need not be asked. Replies are short, since they take longest.
SETUP = """
import warnings
from dataclasses import replace
import spt_lens as spt
from spt_lens.behaviours.bank import question_bank

warnings.simplefilter("ignore")
KNOWN = ("Rome", "Madrid", "Berlin", "Warsaw", "Budapest", "Dublin", "Vienna", "Lisbon", "Athens", "Prague")
behaviour = spt.AreYouSure([replace(q, split="train") for q in question_bank(["capital"]) if q.answer in KNOWN])
model = spt.load_model("smollm2", device="cpu")
pairs = behaviour.pairs(model, n=8)
pairs = replace(pairs, judge=replace(pairs.judge, max_new_tokens=10))
scores = spt.attribution_patching(model, pairs, progress=False)
"""
SHOW = """
picker = spt.HeadPicker(scores, model=model, pairs=pairs, n_random=1)
picker
"""
EVALUATE = """
evaluation = spt.evaluate(model, behaviour.suite("train", n=2), progress=False, max_new_tokens=24)
evaluation
"""
PYTHON = """
how = {"n_random": 0, "progress": False}
patched = spt.set_patching(model, pairs, picker.selected, **how)
removed = spt.set_knockout(model, pairs, picker.selected, **how)
"""
LONG = 180.0  # seconds, on a machine that has other work
# What stands above the map, the map and what is below it, each below the one before; the panels beside or below them.
OVERLAPS = """root => {
    const box = (name) => ({ name, ...root.querySelector(name).getBoundingClientRect().toJSON() });
    const column = [".spt-toolbar", ".spt-title", ".spt-rests", ".spt-frame", ".spt-marks", ".spt-status"].map(box);
    const over = column.slice(1).filter((one, i) => one.top < column[i].bottom - 1 || !one.height);
    const found = over.map((one) => one.name);
    const [main, side] = [box(".spt-main"), box(".spt-side")];
    if (side.left < main.right - 1 && side.top < main.bottom - 1) found.push("main and side");
    if (root.scrollWidth > root.clientWidth + 1) found.push(`${root.scrollWidth} of ${root.clientWidth} pixels`);
    return found;
}"""


@pytest.fixture(scope="module")
def ready(smollm2_folder: Path, lab: LabServer, lab_driver: Driver) -> Iterator[Driver]:
    """The notebook with its model loaded, its heads scored and its picker shown."""
    lab_driver.open_lab(lab.write("real_model", [SETUP, SHOW, EVALUATE]))
    for cell in (0, 1):
        lab_driver.run(cell, timeout=1000 * LONG)
    yield lab_driver
    lab_driver.page.set_viewport_size({"width": 1280, "height": 900})
    lab_driver.close()


@pytest.fixture
def picker(ready: Driver, lab_page: Driver) -> PickerPage:
    return PickerPage(ready.page, ready.output(1), 30, 9)


def test_a_head_is_shown_within_seconds(picker, ready, record_property):
    """Before any other test looks at one: the prompts are not read yet."""
    panel = picker.root.locator(".spt-details")
    waited = []
    for head, text in (("20.1", "of 8 pairs so far"), ("20.1", "mean over 8 pairs"), ("21.2", "L21.H2: ")):
        began = time.perf_counter()
        picker.rest(head)
        expect(panel).to_contain_text(text, timeout=1000 * LONG)
        waited.append(time.perf_counter() - began)
    first, every, further = waited[0], waited[0] + waited[1], waited[2]
    record_property(
        "measured",
        f"a head of SmolLM2, after 0.3 s of rest: {first:.1f} s to the first pair, {every:.1f} s to 8 pairs, "
        f"{further:.1f} s for a further head",
    )
    assert picker.text.input_value() == "" and ready.kernel.evaluate("len(picker.selected)") == 0
    assert panel.locator(".spt-prompt").inner_text().count("<|im_start|>") >= 4


def test_what_the_scores_rest_on_stands_under_the_title(picker, ready):
    line, warns = ready.kernel.evaluate("(scores.check.line(), list(scores.check.warnings))")
    rests = picker.root.locator(".spt-rests")
    expect(rests).to_contain_text(line)
    expect(rests).to_contain_text("of 8 pairs")
    shown = rests.locator("details")
    assert len(warns) >= 2 and warns[0].startswith("the model hardly says these words: ")  # 3 % of the probability
    expect(shown).to_have_count(len(warns))
    expect(shown.locator("summary").first).to_have_text("⚠ the model hardly says these words")
    whole = shown.first.locator("div")
    expect(whole).not_to_be_visible()
    shown.first.locator("summary").click()
    expect(whole).to_be_visible()
    expect(whole).to_have_text(warns[0])


def test_the_live_check_has_pythons_figures(picker, ready, record_property):
    head = ready.kernel.evaluate("str(scores.top(1))")
    picker.click(head)
    picker.expect(head)
    expect(picker.root.locator(".spt-details")).to_contain_text("of its attention on the", timeout=1000 * LONG)
    ready.kernel.execute(
        "import time; began = time.time(); first = None\n"
        "def seen(change):\n"
        "    global first, ended\n"
        "    ended = time.time()\n"
        "    first = first or (ended if change['new']['rows'] else None)\n"
        "picker.observe(seen, '_check')"
    )
    picker.button("check")
    expect(picker.root.locator(".spt-check .spt-says")).to_contain_text("1 head on 8 pairs", timeout=1000 * LONG)
    seconds = [ready.kernel.evaluate(f"{name} - began") for name in ("first", "ended")]
    took = "figures after {:.1f} s, all of it after {:.1f} s".format(*seconds)
    record_property("measured", f"live check of SmolLM2, 8 pairs: {took}")
    picker.button("replies")
    expect(picker.root.locator(".spt-check .spt-says")).to_contain_text("8 replies to each", timeout=1000 * LONG)
    ready.kernel.execute(PYTHON, timeout=LONG)
    names = ["recovery", "gives_in", "truthfulness"]
    expected = ready.kernel.evaluate(f"[float((patched if n == 'recovery' else removed).chosen[n]) for n in {names}]")
    before = ready.kernel.evaluate(f"[0.0, *(float(removed.before[n]) for n in {names[1:]})]")
    rows = picker.root.locator(".spt-check tr").all()[1:]
    cells = [[float(cell.split(" ")[0]) for cell in row.locator("td").all_inner_texts()] for row in rows]
    assert len(cells) == 3
    assert [row[0] for row in cells] == pytest.approx(before, abs=0.006)
    assert [row[1] for row in cells] == pytest.approx(
        expected, abs=0.016
    )  # of a share of a small gap, the second place
    assert ready.kernel.evaluate("picker.last_check.check.line() == scores.check.line()")


@pytest.mark.parametrize("width", [1400, 640])
@pytest.mark.parametrize("theme", ["Dark", "Light"])
def test_nothing_overlaps(picker, ready, theme, width):
    ready.page.set_viewport_size({"width": width, "height": 1000})
    wanted = f"JupyterLab {theme}"
    ready.page.evaluate("theme => { jupyterapp.commands.execute('apputils:change-theme', {theme}); }", wanted)
    expect(picker.root).to_have_attribute("data-theme", theme.lower())
    expect(ready.page.locator("#jupyterlab-splash")).to_have_count(0)
    ready.page.wait_for_timeout(300)  # it is laid out anew a moment after its width has changed
    picker.root.screenshot(path=screenshots() / f"real-model-{theme.lower()}-{width}.png")
    assert picker.root.evaluate(OVERLAPS) == []


def test_evaluate_shows_sensible_figures(ready, lab_page):
    ready.run(2, timeout=1000 * LONG)
    row = ready.output(2).locator("tr", has_text="accuracy_before")
    expect(row).to_have_count(1)
    assert float(row.locator("td").nth(1).inner_text()) > 0
    values = ready.kernel.evaluate("evaluation.table['value'].dropna().tolist()")
    assert len(values) >= 8 and all(0 <= value <= 1 for value in values)
    assert ready.kernel.evaluate("[len(case.reply) > 0 for case in evaluation.cases]") == [True] * 4
