"""A page with JupyterLab or Notebook 7 in it: opens and runs notebooks by the application's own commands."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from browser.kernel import Kernel
from browser.lab import LabServer
from browser.watch import RESTART_ERROR, Watch

try:
    from playwright.sync_api import expect
except ImportError:  # the fixtures then skip; tests import `expect` from here, so that they can be collected
    expect = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from playwright.sync_api import BrowserContext, Locator

LOAD = 90_000  # milliseconds, to load an application, or to start a kernel, on a machine that has other work
# The notebook's panel. JupyterLab may have more than one; Notebook 7 has one to a page.
_PANEL = "const panel = [...jupyterapp.shell.widgets('main')].find(panel => panel.context?.path === path);"
_IDLE = """
    const session = panel?.sessionContext, kernel = session?.session?.kernel;
    const idle = session?.isReady && kernel?.connectionStatus === 'connected' && kernel.status === 'idle';
"""
_STARTED = f"path => {{ {_PANEL} {_IDLE} return Boolean(idle && panel.context.isReady); }}"
_RUN = f"""([path, commands, cell]) => {{
    {_PANEL}
    const run = window.testRun = {{cell, ended: false, error: null}};
    jupyterapp.shell.activateById(panel.id);
    if (cell !== null) panel.content.activeCellIndex = cell;
    panel.content.deselectAll();
    (async () => {{ for (const command of commands) await jupyterapp.commands.execute(command); }})()
        .catch(error => run.error = String(error)).finally(() => run.ended = true);
}}"""
# A cell that fails ends a run; the ones behind it may never get a number.
_RAN = f"""path => {{
    {_PANEL} {_IDLE}
    const {{ended, error, cell}} = window.testRun;
    const code = [...panel.content.model.cells].filter((one, i) => one.type === 'code' && (cell ?? i) === i);
    const outputs = code.flatMap(one => one.outputs.toJSON()).filter(output => output.output_type === 'error');
    const errors = outputs.map(output => `${{output.ename}}: ${{output.evalue}}`);
    const all = code.every(one => one.executionCount !== null || !one.sharedModel.source.trim());
    return error || (ended && idle && (all || errors.length)) ? {{errors, error}} : null;
}}"""
_RESTART = f"""path => {{
    {_PANEL}
    const run = window.testRun = {{ended: false, error: null}};
    panel.sessionContext.restartKernel().catch(error => run.error = String(error)).finally(() => run.ended = true);
}}"""
_RESTARTED = f"path => {{ {_PANEL} {_IDLE} return window.testRun.error || (window.testRun.ended && Boolean(idle)); }}"


def screenshots() -> Path:
    """Kept after the run, for a person to look at."""
    return Path(os.environ.get("SPT_LENS_SCREENSHOTS") or Path(__file__).parent / "screenshots")


class Driver:
    """One page, and the notebook that was opened last in it."""

    def __init__(self, context: BrowserContext, lab: LabServer, harmless: tuple[str, ...] = ()) -> None:
        self.lab = lab
        self.watch = Watch(context, (*harmless, RESTART_ERROR))
        self.page = context.new_page()
        self.path = ""

    @property
    def errors(self) -> list[str]:
        return self.watch.errors

    @property
    def foreign_requests(self) -> list[str]:
        return self.watch.foreign_requests

    def open_lab(self, path: str) -> Kernel:
        """Opens the notebook in JupyterLab, or brings it to the front, and returns its kernel.

        JupyterLab itself is loaded only where the page does not show it yet.
        """
        if not self.page.url.startswith(f"{self.lab.url}lab"):
            self._load("lab?reset&")
        self.page.evaluate("path => { jupyterapp.commands.execute('docmanager:open', {path}); }", path)
        return self._started(path)

    def open_notebook7(self, path: str) -> Kernel:
        """Opens the notebook in Notebook 7, which takes the page, and returns its kernel."""
        if not self.page.url.startswith(f"{self.lab.url}notebooks/{path}"):
            self._load(f"notebooks/{path}?")
        return self._started(path)

    def _load(self, address: str) -> None:
        self.page.goto(f"{self.lab.url}{address}token={self.lab.token}", timeout=LOAD)
        self.page.wait_for_function("() => window.jupyterapp", timeout=LOAD)
        self.page.evaluate("() => { jupyterapp.restored.then(() => window.testRestored = true); }")
        self.page.wait_for_function("() => window.testRestored", timeout=LOAD)

    def _started(self, path: str) -> Kernel:
        self.path = path
        self.page.wait_for_function(_STARTED, arg=path, timeout=LOAD)
        return self.kernel

    @property
    def kernel(self) -> Kernel:
        return self.lab.kernel(self.path)

    def run_all(self, *, wait: bool = True, may_fail: bool = False, timeout: float = LOAD) -> list[str]:
        """Clears all outputs and runs all cells. Returns the cells' errors, which fail the test unless they may be.

        Without `wait`, it returns once the cells are under way; `wait_until_run` then waits for their end.
        """
        commands = ["notebook:clear-all-cell-outputs", "notebook:run-all-cells"]
        self.page.evaluate(_RUN, [self.path, commands, None])
        return self.wait_until_run(may_fail=may_fail, timeout=timeout) if wait else []

    def run(self, cell: int, *, wait: bool = True, may_fail: bool = False, timeout: float = LOAD) -> list[str]:
        """Runs one cell, counted from 0."""
        self.page.evaluate(_RUN, [self.path, ["notebook:run-cell"], cell])
        return self.wait_until_run(may_fail=may_fail, timeout=timeout) if wait else []

    def wait_until_run(self, *, may_fail: bool = False, timeout: float = LOAD) -> list[str]:
        """Until each cell has run, its outputs are there, and the kernel is idle."""
        found = self.page.wait_for_function(_RAN, arg=self.path, timeout=timeout).json_value()
        assert found["error"] is None, found["error"]
        assert may_fail or not found["errors"], found["errors"]
        return found["errors"]

    def restart(self) -> None:
        """Restarts the kernel as the page's menu does, without the question that comes before."""
        self.page.evaluate(_RESTART, self.path)
        done = self.page.wait_for_function(_RESTARTED, arg=self.path, timeout=LOAD).json_value()
        assert done is True, done
        self.kernel.reconnect()

    def output(self, cell: int) -> Locator:
        """The output area of a cell of the open notebook, counted from 0."""
        return self.page.locator(".jp-NotebookPanel:not(.lm-mod-hidden) .jp-Cell").nth(cell).locator(".jp-OutputArea")

    def close(self) -> None:
        """Closes the notebook without saving it, and ends its kernel. JupyterLab stays."""
        if self.page.url.startswith(f"{self.lab.url}lab"):
            self.page.evaluate(f"path => {{ {_PANEL} panel?.dispose(); }}", self.path)
        else:
            self.page.goto("about:blank")
        self.lab.shut_down(self.path)
        self.path = ""

    def screenshot(self, name: str) -> Path:
        file = screenshots() / f"{name}.png"
        self.page.screenshot(path=file)
        return file
