"""A browser, a Jupyter server and a page in each application, each started once, by the first test that asks."""

from __future__ import annotations

import os
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from browser.driver import Driver, expect, screenshots
from browser.lab import LabServer
from browser.watch import NOTEBOOK7_ERROR, Watch
from spt_lens.model.hooked import hooked_transformer

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page

_FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--no-proxy-server",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    # A page that needs the network breaks here, whatever the machine's network is.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost",
)
_TIMEOUT = 30_000  # milliseconds for what takes one at most on a free machine


def pytest_runtest_setup(item: pytest.Item) -> None:
    # What these tests see does not depend on the version, and they take long.
    if hooked_transformer() is not None and "chromium" in getattr(item, "fixturenames", ()):
        pytest.skip("runs once, with TransformerLens 4")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo) -> Iterator[None]:
    report = yield
    if report.when == "call" and report.failed:
        pages = {name: value for name, value in item.funcargs.items() if name in ("page", "lab_page", "notebook7_page")}
        for name, value in pages.items():
            page = value.page if isinstance(value, Driver) else value
            if page.url != "about:blank":
                file = screenshots() / f"failed-{re.sub(r'[^a-zA-Z0-9]+', '-', f'{item.name}-{name}')}.png"
                with suppress(Exception):  # the page itself may be what failed
                    page.screenshot(path=file)
                report.sections.append((name, f"{page.url}: {file}"))
        if server := item.funcargs.get("lab"):
            report.sections.append(("the Jupyter server's log", server.tail(30)))
    return report


def _missing(what: str) -> None:
    """In continuous integration .ci/run installs it, so there it is a mistake."""
    (pytest.fail if os.environ.get("CI") else pytest.skip)(f"needs {what} to drive a page")


# Started for this folder's tests, not for the whole session: playwright's event loop, as long as it is there, is in the
# way of any other test's asyncio.run.
@pytest.fixture(scope="package")
def chromium() -> Iterator[Browser]:
    executable = shutil.which("chromium")
    if executable is None:
        _missing("a chromium browser")
    if expect is None:
        _missing("Python's playwright package")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        expect.set_options(timeout=_TIMEOUT)
        browser = playwright.chromium.launch(executable_path=executable, args=_FLAGS, timeout=90_000)
        yield browser
        browser.close()


@pytest.fixture(scope="package")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabServer]:
    server = LabServer(tmp_path_factory.mktemp("lab"))
    server.start()
    yield server
    server.stop()


def _context(chromium: Browser) -> BrowserContext:
    context = chromium.new_context(viewport={"width": 1280, "height": 900}, reduced_motion="reduce")
    context.set_default_timeout(_TIMEOUT)
    return context


@pytest.fixture(scope="package")
def lab_driver(chromium: Browser, lab: LabServer) -> Iterator[Driver]:
    with _context(chromium) as context:
        yield Driver(context, lab)


@pytest.fixture(scope="package")
def notebook7_driver(chromium: Browser, lab: LabServer) -> Iterator[Driver]:
    with _context(chromium) as context:
        yield Driver(context, lab, harmless=(NOTEBOOK7_ERROR,))


@pytest.fixture
def lab_page(lab_driver: Driver) -> Iterator[Driver]:
    """The one page for JupyterLab; no test may leave an error in its console, or ask for anything elsewhere."""
    yield lab_driver
    lab_driver.watch.check()


@pytest.fixture
def notebook7_page(notebook7_driver: Driver) -> Iterator[Driver]:
    """The one page for Notebook 7, with the same demands."""
    yield notebook7_driver
    notebook7_driver.watch.check()


class _Files(SimpleHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/favicon.ico":  # asked for by the browser, not by the page: missing, it would be an error
            self.send_response(204)
            self.end_headers()
        else:
            super().do_GET()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def served() -> Iterator[Callable[[Path], str]]:
    """Serves a folder on loopback until the test's end; returns its address, with a slash at its end."""
    with ExitStack() as stack:

        def serve(folder: Path) -> str:
            server = stack.enter_context(ThreadingHTTPServer(("127.0.0.1", 0), partial(_Files, directory=str(folder))))
            threading.Thread(target=server.serve_forever, daemon=True).start()
            stack.callback(server.shutdown)
            return f"http://127.0.0.1:{server.server_port}/"

        yield serve


@pytest.fixture
def page(chromium: Browser, served: object) -> Iterator[Page]:
    """A fresh, empty page without Jupyter, for file:// addresses or `served` ones, with the same demands.

    It asks for `served` so as to end before it: a request after the server's end would be an error on the page.
    """
    with _context(chromium) as context:
        watch = Watch(context)
        yield context.new_page()
        watch.check()
