"""The picker in a real JupyterLab and Notebook 7: the same selection on both sides, and the live check."""

from __future__ import annotations

import pytest

from browser.driver import Driver, expect
from browser.lab import LabServer
from browser.pickers import PickerPage
from spt_lens.heads import HeadSet

SETUP = """
import time
import spt_lens as spt
from spt_lens.yesman import Yesman

model = spt.load_model("yesman")
pairs = Yesman().pairs(model, n=8)
scores = spt.activation_patching(model, pairs, progress=False)
"""
SCORES = """
import torch
import spt_lens as spt

per_pair = torch.randn(8, 8, 16, generator=torch.Generator().manual_seed(0))
scores = spt.HeadScores(per_pair.mean(0), per_pair, "activation", "denoising", "last", "random")
"""
SHOW = """
picker = spt.HeadPicker(scores, model=model, pairs=pairs)
picker
"""
# Runs until it is told to end.
BUSY = """
busy = True
end = time.monotonic() + 60
while busy and time.monotonic() < end:
    time.sleep(0.02)
seen = str(picker.selected)
"""
ALONE = """
beside = picker.last_check.table.select_dtypes("number")
alone = spt.HeadPicker(scores, model=model, pairs=pairs, chosen=scores.top(6)).check(progress=False)
alone = alone.table.select_dtypes("number")
"""
STATE = "str(picker.selected)"


@pytest.fixture(scope="module")
def notebook(lab: LabServer) -> str:
    return lab.write("picker", [SETUP, SHOW, BUSY, "picker"])


@pytest.fixture(scope="module")
def ready(notebook: str, lab_driver: Driver) -> Driver:
    """The notebook with its model loaded."""
    lab_driver.open_lab(notebook)
    lab_driver.run(0)
    return lab_driver


@pytest.fixture
def picker(ready: Driver, lab_page: Driver) -> PickerPage:
    """A new picker, shown in its cell."""
    ready.run(1)
    return PickerPage(ready.page, ready.output(1), 8, 16)


def test_what_is_chosen_in_the_page_is_chosen_in_python(picker, ready):
    picker.click("5.3")
    picker.click("0.8")
    picker.expect("L5.H3 L0.H8")
    ready.kernel.wait_for(STATE, "L5.H3 L0.H8")
    picker.box("1.2", "2.3", key="Shift")
    ready.kernel.wait_for(STATE, "L5.H3 L0.H8 L1.H2 L1.H3 L2.H2 L2.H3")
    picker.root.get_by_label("threshold", exact=True).fill("0.02")
    ready.kernel.wait_for("picker.selected == scores.above(0.02) and len(picker.selected) > 2", True)
    picker.root.get_by_label("top k").fill("6")
    ready.kernel.wait_for(STATE, ready.kernel.evaluate("str(scores.top(6))"))
    expect(picker.root.locator(".spt-count")).to_contain_text("2.5 % of parameters")
    ready.screenshot("lab-picker")


def test_what_is_chosen_in_python_is_outlined(picker, ready):
    ready.kernel.execute("picker.selected = spt.HeadSet.parse('7.1 2.2')")
    picker.expect("L7.H1 L2.H2")
    picker.click("2.2")
    ready.kernel.wait_for(STATE, "L7.H1")
    picker.button("undo")
    ready.kernel.wait_for(STATE, "L7.H1 L2.H2")
    with pytest.raises(RuntimeError, match="L8.H0 have no score"):
        ready.kernel.execute("picker.selected = '8.0'")
    picker.expect("L7.H1 L2.H2")


def test_quick_clicks_are_all_there(picker, ready):
    heads = [(i % 8, (5 * i) % 16) for i in range(10)]
    for head in heads:
        picker.click(head)
        picker.page.wait_for_timeout(30)
    wanted = str(HeadSet.of(heads))
    picker.expect(wanted)
    ready.kernel.wait_for(STATE, wanted)


def test_clicks_while_a_cell_runs_are_all_there(picker, ready):
    ready.kernel.execute("busy = False")
    ready.run(2, wait=False)
    ready.kernel.wait_for("busy", True, beside=True)
    for head in ("1.1", "2.2", "3.3"):
        picker.click(head)
    picker.expect("L1.H1 L2.H2 L3.H3")
    ready.kernel.execute("busy = False", beside=True)
    ready.wait_until_run()
    ready.kernel.wait_for(STATE, "L1.H1 L2.H2 L3.H3")


def test_the_live_check_says_what_python_says(picker, ready):
    picker.root.get_by_label("top k").fill("6")
    picker.button("check")
    says, cells = picker.root.locator(".spt-check .spt-says"), picker.root.locator(".spt-check td")
    expect(says).to_contain_text("6 heads on 8 pairs", timeout=60_000)
    ready.kernel.wait_for("picker.last_check is not None and picker.last_check.heads == scores.top(6)", True)
    ready.kernel.execute("effect = spt.set_patching(model, pairs, scores.top(6), n_random=0, progress=False)")
    expected = ready.kernel.evaluate("round(float(effect.chosen['recovery']), 2)")
    expect(cells.nth(1)).to_contain_text(f"{expected:.2f}")
    ready.screenshot("lab-check")
    # Of another selection it is an old one.
    picker.click("7.7")
    expect(says).to_contain_text("Of an earlier selection.")
    # The page shows what Python measured, too.
    ready.kernel.execute("result = picker.check(progress=False)")
    expect(says).to_contain_text("7 heads on 8 pairs")


def test_a_newer_selection_takes_the_place_of_a_check(picker, ready):
    auto = picker.root.get_by_label("after every change")
    picker.root.get_by_label("top k").fill("6")
    auto.check()
    expect(picker.root.locator(".spt-bar")).to_be_visible()
    picker.click("7.7")
    ready.kernel.wait_for("picker.last_check is not None and len(picker.last_check.heads)", 7)
    expect(picker.root.locator(".spt-check .spt-says")).to_contain_text("7 heads on 8 pairs")
    # In between the kernel runs cells, and the model is as it was.
    picker.click("7.7")
    ready.kernel.execute("again = spt.activation_patching(model, pairs, progress=False)")
    assert ready.kernel.evaluate("bool((again.values == scores.values).all())")
    ready.kernel.wait_for("len(picker.last_check.heads)", 6)


def test_a_head_shows_its_report_and_its_attention(picker, ready):
    picker.click("0.8")
    details = picker.root.locator(".spt-details")
    expect(details).to_contain_text("of its attention on the", timeout=60_000)
    expect(details.locator("table").nth(1)).to_contain_text("activation")
    expect(details.locator(".spt-prompt")).to_contain_text("Are you sure")
    details.get_by_text("Attention from all positions").click()
    frame = details.locator("iframe").content_frame
    expect(frame.get_by_text("L0.H8").first).to_be_visible()
    expect(frame.locator("canvas, img").first).to_be_visible()
    ready.screenshot("lab-details")
    picker.click("5.3")
    expect(frame.get_by_text("L5.H3").first).to_be_visible()


def test_looking_while_a_check_runs_stops_nothing(picker, ready):
    picker.root.get_by_label("top k").fill("6")
    ready.kernel.wait_for("len(picker.selected)", 6)
    picker.button("check")
    expect(picker.root.locator(".spt-bar")).to_be_visible()
    name, says = picker.root.locator(".spt-name"), picker.root.locator(".spt-details > .spt-says")
    for head in ("7.7", "1.1"):
        picker.rest(head)
        expect(name).to_have_text(f"L{head[0]}.H{head[2]}")
        expect(says).to_contain_text("of its attention on the")
    picker.map.focus()
    ready.page.keyboard.press("ArrowRight")
    expect(says).to_contain_text("L1.H2: ")
    expect(picker.root.locator(".spt-check .spt-says")).to_contain_text("6 heads on 8 pairs")
    assert ready.kernel.evaluate("picker.selected == scores.top(6) and picker.last_check.heads == scores.top(6)")
    ready.kernel.execute(ALONE)
    assert ready.kernel.evaluate("float((alone - beside).abs().max().max())") < 1e-4


def test_two_views_are_one_selection(picker, ready):
    ready.run(3)
    again = PickerPage(ready.page, ready.output(3), 8, 16)
    picker.click("3.3")
    again.expect("L3.H3")
    again.click("4.4")
    picker.expect("L3.H3 L4.H4")
    again.button("undo")
    picker.expect("L3.H3")
    ready.kernel.wait_for(STATE, "L3.H3")


def test_names_are_kept_on_both_sides(picker, ready):
    picker.click("5.3")
    picker.root.locator(".spt-named > summary").click()
    picker.root.get_by_label("a name for the selection").fill("mine")
    picker.root.get_by_role("button", name="keep", exact=True).click()
    ready.kernel.wait_for("str(picker.selections.get('mine'))", "L5.H3")
    ready.kernel.execute("picker.selections['from Python'] = scores.top(3)")
    expect(picker.root.locator(".spt-set")).to_have_text(["mine (1)×", "from Python (3)×"])
    assert ready.output(1).locator(".spt-saved").count() == 0  # the picture is there only where the widget is not


def test_replies_come_when_they_are_asked_for(picker, ready):
    picker.root.get_by_label("top k").fill("6")
    picker.button("check")
    says = picker.root.locator(".spt-check .spt-says")
    expect(says).to_have_text("6 heads on 8 pairs, beside 3 random sets of as many.", timeout=60_000)
    expect(picker.root.locator(".spt-check th:first-child")).to_have_text(["", "gap recovered, only these patched"])
    picker.button("replies")
    expect(says).to_contain_text("8 replies to each.", timeout=60_000)
    expect(picker.root.locator(".spt-reply")).to_have_count(3)
    shown = picker.root.locator(".spt-check").inner_text()
    assert "gives in, these knocked out" in shown and "without these heads: " in shown
    assert ready.kernel.evaluate("len(picker.last_check.replies)") == 8
    ready.screenshot("lab-replies")


def test_a_front_end_without_widgets_shows_the_table_and_says_what_to_install(chromium, tmp_path):
    server = LabServer(tmp_path, disabled=["@jupyter-widgets/jupyterlab-manager"])
    server.start()
    try:
        with chromium.new_context(viewport={"width": 1280, "height": 900}) as context:
            driver = Driver(context, server)
            path = server.write("plain", [SCORES, "spt.HeadPicker(scores, chosen=scores.top(2))"])
            kernel = driver.open_lab(path)
            driver.run_all()
            shown = driver.output(1)
            expect(shown).to_contain_text("pip install anywidget jupyterlab_widgets")
            expect(shown).to_contain_text("As saved, not live.")
            expect(shown.locator("code").first).to_have_text(kernel.evaluate("str(scores.top(2))"))
            driver.screenshot("lab-without-widgets")
            assert not driver.foreign_requests  # errors there are: JupyterLab has no use for the widget's messages
    finally:
        server.stop()


def test_notebook_7(lab, notebook7_page):
    path = lab.write("picker7", [SETUP, SHOW])
    kernel = notebook7_page.open_notebook7(path)
    notebook7_page.run_all()
    picker = PickerPage(notebook7_page.page, notebook7_page.output(1), 8, 16)
    picker.click("5.3")
    picker.box("1.2", "2.3", key="Shift")
    kernel.wait_for(STATE, "L5.H3 L1.H2 L1.H3 L2.H2 L2.H3")
    kernel.execute("picker.selected = scores.top(3)")
    picker.expect(kernel.evaluate("str(scores.top(3))"))
    picker.button("check")
    expect(picker.root.locator(".spt-check .spt-says")).to_contain_text("3 heads on 8 pairs", timeout=60_000)
    notebook7_page.screenshot("notebook7-picker")
    notebook7_page.close()


def test_a_restarted_kernel_is_told(notebook, lab_page):
    lab_page.open_lab(notebook)
    lab_page.run(0)
    lab_page.run(1)
    picker = PickerPage(lab_page.page, lab_page.output(1), 8, 16)
    picker.click("5.3")
    lab_page.kernel.wait_for(STATE, "L5.H3")
    lab_page.restart()
    picker.click("0.8")
    expect(picker.root.locator(".spt-link")).to_contain_text("Disconnected: the kernel was restarted")
    picker.expect("L5.H3 L0.H8")
    lab_page.screenshot("lab-disconnected")
    lab_page.close()


def test_a_kernel_that_is_shut_down_is_noticed_by_the_next_click(lab, lab_page):
    path = lab.write("shut_down", [SCORES, "picker = spt.HeadPicker(scores); picker"])
    lab_page.open_lab(path)
    lab_page.run_all()
    picker = PickerPage(lab_page.page, lab_page.output(1), 8, 16)
    picker.click("5.3")
    lab_page.kernel.wait_for(STATE, "L5.H3")
    lab_page.page.evaluate("() => { jupyterapp.commands.execute('kernelmenu:shutdown'); }")
    expect(lab_page.page.get_by_text("No Kernel").first).to_be_visible()
    picker.click("0.8")
    picker.expect("L5.H3 L0.H8")
    expect(picker.root.locator(".spt-link")).to_contain_text("Disconnected")
    lab_page.watch.errors.clear()  # JupyterLab logs that it could not send
    lab_page.close()
