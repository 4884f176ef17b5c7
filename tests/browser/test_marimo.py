"""The picker in marimo, by `mo.ui.anywidget`: runs where marimo is installed, which the tests do not ask for.

To try it: pip install --target FOLDER marimo, then PYTHONPATH=FOLDER python -m pytest tests/browser/test_marimo.py
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from browser.driver import expect, screenshots
from browser.pickers import PickerPage

pytestmark = pytest.mark.skipif(find_spec("marimo") is None, reason="marimo is not installed: pip install marimo")

NOTEBOOK = """
import marimo

app = marimo.App()


@app.cell
def _():
    import marimo as mo
    import torch
    import spt_lens as spt
    per_pair = torch.randn(8, 8, 16, generator=torch.Generator().manual_seed(0))
    scores = spt.HeadScores(per_pair.mean(0), per_pair, "activation", "denoising", "last", "random")
    picker = spt.HeadPicker(scores)
    shown = mo.ui.anywidget(picker)
    return mo, picker, scores, shown


@app.cell
def _(shown):
    shown
    return


@app.cell
def _(mo, picker, shown):
    shown.value
    mo.md(f"chosen: {picker.selected}; kept: {', '.join(picker.selections)}")
    return


if __name__ == "__main__":
    app.run()
"""
START = 90.0  # seconds


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    (tmp_path / "notebook.py").write_text(NOTEBOOK, encoding="utf-8")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "marimo", "run", "notebook.py", "--headless", "--no-token", "--host", "127.0.0.1"]
    home = {"HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path), "MARIMO_SKIP_UPDATE_CHECK": "1"}
    with (tmp_path / "log").open("w") as log:
        server = subprocess.Popen(
            [*command, "--port", str(port)], cwd=tmp_path, env={**os.environ, **home}, stdout=log, stderr=log
        )
    try:
        until = time.monotonic() + START
        while time.monotonic() < until and server.poll() is None:
            with socket.socket() as tried:
                if tried.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.send_signal(signal.SIGINT)
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()


def test_a_click_is_heard_by_python(address: str, chromium) -> None:
    with chromium.new_context(viewport={"width": 1280, "height": 1000}) as context:
        page = context.new_page()
        page.goto(address)
        picker = PickerPage(page, page.locator("body"), 8, 16)
        picker.click("5.3")
        expect(page.get_by_text("chosen: L5.H3;")).to_be_visible()
        picker.box("1.2", "2.3", key="Shift")
        expect(page.get_by_text("chosen: L5.H3 L1.H2 L1.H3 L2.H2 L2.H3;")).to_be_visible()
        picker.expect("L5.H3 L1.H2 L1.H3 L2.H2 L2.H3")
        picker.root.locator(".spt-named > summary").click()
        picker.root.get_by_label("a name for the selection").fill("mine")
        picker.root.get_by_role("button", name="keep", exact=True).click()
        expect(page.get_by_text("kept: mine")).to_be_visible()
        page.screenshot(path=screenshots() / "marimo-picker.png")
