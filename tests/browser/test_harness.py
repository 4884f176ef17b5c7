"""The harness itself, with a widget of a few lines: page to kernel and back, in both applications."""

from __future__ import annotations

import sys

import pytest

from browser.driver import Driver, expect
from browser.lab import LabServer
from browser.watch import Watch

WIDGET = """
import threading
import anywidget, traitlets

class Counter(anywidget.AnyWidget):
    _esm = '''
    export default {
        render({model, el}) {
            const button = document.createElement("button");
            button.className = "counter";
            const show = () => button.textContent = "count " + model.get("count");
            button.onclick = () => { model.set("count", model.get("count") + 1); model.save_changes(); };
            model.on("change:count", show);
            show();
            el.append(button);
        }
    }
    '''
    count = traitlets.Int(0).tag(sync=True)

clicked = threading.Event()
counter = Counter()
counter.observe(lambda change: clicked.set(), "count")
counter
"""
# Sleeps until somebody clicks, so that a click while it runs is one, however slow the machine is.
BUSY = """
import time
clicked.clear()
busy = True
end = time.monotonic() + 60
while not clicked.is_set() and time.monotonic() < end:
    time.sleep(0.05)
busy, seen = False, counter.count
"""


@pytest.fixture(scope="module", params=["lab", "notebook7"])
def application(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def notebook(application: str, lab: LabServer) -> str:
    return lab.write(f"harness_{application}", [WIDGET, BUSY])


@pytest.fixture
def opened(application: str, notebook: str, lab_page: Driver, notebook7_page: Driver) -> Driver:
    """The counter's notebook; it stays open from one test to the next."""
    if application == "lab":
        lab_page.open_lab(notebook)
        return lab_page
    notebook7_page.open_notebook7(notebook)
    return notebook7_page


def test_a_click_reaches_python_and_a_change_in_python_the_page(opened, application):
    opened.run(0)
    button = opened.output(0).locator("button.counter")
    expect(button).to_have_text("count 0")
    for count in (1, 2):
        button.click()
        expect(button).to_have_text(f"count {count}")
        opened.kernel.wait_for("counter.count", count)
    opened.kernel.execute("counter.count = 40")
    expect(button).to_have_text("count 40")
    button.click()
    opened.kernel.wait_for("counter.count", 41)
    opened.screenshot(f"harness-{application}")


def test_a_click_arrives_while_a_cell_runs(opened):
    opened.run(0)
    button = opened.output(0).locator("button.counter")
    # ipykernel 7.4 hands the first click after a message of a cell's to the cells' thread, behind them. Having answered
    # a click, it hands the next to the subshell that JupyterLab asks for.
    button.click()
    opened.kernel.wait_for("counter.count", 1)
    opened.run(1, wait=False)
    opened.kernel.wait_for("busy", True, beside=True)
    button.click()
    opened.kernel.wait_for("counter.count", 2, beside=True)
    opened.wait_until_run()
    assert opened.kernel.evaluate("seen") == 2


def test_a_first_click_while_a_cell_runs_is_not_lost(opened):
    opened.kernel.execute("busy = False")
    opened.run_all(wait=False)
    button = opened.output(0).locator("button.counter")
    opened.kernel.wait_for("busy", True, beside=True)
    button.click()
    expect(button).to_have_text("count 1")
    opened.kernel.execute("clicked.set()", beside=True)  # the cell ends, wherever the click is
    opened.wait_until_run()
    opened.kernel.wait_for("counter.count", 1)


def test_a_restarted_kernel_knows_nothing_and_runs_again(opened):
    opened.restart()
    assert opened.kernel.evaluate("'counter' in globals()") is False
    opened.run(0)
    button = opened.output(0).locator("button.counter")
    expect(button).to_have_text("count 0")
    button.click()
    opened.kernel.wait_for("counter.count", 1)
    opened.close()
    assert opened.lab.api("GET", "sessions") == []


def test_cells_that_fail_are_told(lab_page):
    lab_page.open_lab(lab_page.lab.write("failing", ["1 / 0"]))
    assert lab_page.run_all(may_fail=True) == ["ZeroDivisionError: division by zero"]
    with pytest.raises(AssertionError, match="ZeroDivisionError"):
        lab_page.run_all()
    with pytest.raises(RuntimeError, match="NameError"):
        lab_page.kernel.evaluate("missing")
    lab_page.close()


def test_the_kernel_is_this_python_with_a_home_of_its_own(lab_page):
    kernel = lab_page.open_lab(lab_page.lab.write("python", ["import os, sys"]))
    lab_page.run_all()
    assert kernel.evaluate("sys.executable") == sys.executable
    assert kernel.evaluate("os.environ['OMP_NUM_THREADS']") == "1"
    assert kernel.evaluate("os.path.expanduser('~')") == str(lab_page.lab.folder / "home")
    kernel.restart()  # past the page
    assert kernel.evaluate("'os' in globals()", beside=True) is False
    lab_page.close()


def test_a_page_without_jupyter(page, served, tmp_path):
    (tmp_path / "shown.js").write_text("document.body.textContent = 'drawn'")
    (tmp_path / "index.html").write_text("<body><script type=module src=shown.js></script>")
    page.goto(served(tmp_path))
    expect(page.locator("body")).to_have_text("drawn")


def test_errors_and_requests_elsewhere_are_noticed(chromium):
    with chromium.new_context() as context:
        watch = Watch(context)
        page = context.new_page()
        page.set_content("<script>console.error('wrong'); setTimeout(() => { throw Error('thrown') })</script>")
        with pytest.raises(AssertionError, match="wrong(.|\n)*thrown"):
            watch.check()
        watch.check()
        page.evaluate("fetch('https://example.com/far').catch(() => {})")
        page.evaluate("() => { new WebSocket('wss://example.com/socket') }")
        page.wait_for_timeout(0)
        with pytest.raises(AssertionError):
            watch.check()
