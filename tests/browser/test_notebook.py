"""The notebook that picks heads, in JupyterLab as a user opens it; its picture is the README's (make picture)."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest

from browser.driver import Driver, expect, screenshots
from browser.lab import LabServer
from browser.pickers import PickerPage

NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "02_pick_and_tune.ipynb"


@pytest.fixture(scope="module")
def opened(lab: LabServer, lab_driver: Driver) -> tuple[Driver, int]:
    """The notebook up to its picker, run, and which of its cells that is."""
    cells = [cell.source for cell in nbformat.read(NOTEBOOK, as_version=4).cells if cell.cell_type == "code"]
    until = next(i for i, source in enumerate(cells) if "spt.HeadPicker(" in source)
    lab_driver.open_lab(lab.write("02_pick_and_tune", cells[: until + 1]))
    lab_driver.run_all()
    return lab_driver, until


def test_two_maps_with_one_selection_and_its_check(opened, lab_page):
    driver, cell = opened
    driver.page.set_viewport_size({"width": 1500, "height": 1000})
    picker = PickerPage(driver.page, driver.output(cell), 8, 16)
    picker.root.get_by_label("preset").select_option("top")
    driver.kernel.wait_for("picker.selected == recovery.top_fraction(0.05)", True)
    picker.root.get_by_label("beside").select_option(label="attention to the challenge")
    expect(picker.root.locator(".spt-map")).to_have_count(2)
    assert picker.outlined(0) == picker.outlined(1)
    picker.button("check")
    expect(picker.root.locator(".spt-check .spt-says")).to_contain_text("6 heads on 32 pairs", timeout=60_000)
    picker.page.mouse.move(*picker.at("6.10"))
    picker.root.screenshot(path=screenshots() / "picker.png")
    picker.click("0.8")
    expect(picker.root.locator(".spt-details")).to_contain_text("of its attention on the", timeout=60_000)


@pytest.mark.parametrize("theme", ["dark", "light"])
def test_it_follows_jupyterlabs_theme(opened, lab_page, theme):
    driver, cell = opened
    wanted = {"dark": "JupyterLab Dark", "light": "JupyterLab Light"}[theme]
    driver.page.evaluate("theme => { jupyterapp.commands.execute('apputils:change-theme', {theme}); }", wanted)
    picker = PickerPage(driver.page, driver.output(cell), 8, 16)
    expect(picker.root).to_have_attribute("data-theme", theme)
    expect(driver.page.locator("#jupyterlab-splash")).to_have_count(0)
    driver.screenshot(f"lab-{theme}")


def test_jupyterlabs_shortcuts_leave_the_map_alone(opened, lab_page):
    driver, cell = opened
    picker = PickerPage(driver.page, driver.output(cell), 8, 16)
    count = driver.page.locator(".jp-NotebookPanel:not(.lm-mod-hidden) .jp-Cell").count()
    picker.map.focus()
    for key in ("d", "d", "a", "x", "ArrowDown", "Enter"):
        driver.page.keyboard.press(key)
    picker.text.fill("5.3")
    picker.text.press("Enter")
    driver.kernel.wait_for("str(picker.selected)", "L5.H3")
    assert driver.page.locator(".jp-NotebookPanel:not(.lm-mod-hidden) .jp-Cell").count() == count
    driver.page.set_viewport_size({"width": 1280, "height": 900})
    driver.close()
