"""A headless browser for the tests that open a page; they skip without one, except in continuous integration."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

# Nothing resolves: a page that needs the network breaks here, whatever the machine's network is.
_OFFLINE = ("--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run")
_FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--host-resolver-rules=MAP * ~NOTFOUND", *_OFFLINE)


def rendered(page: Path, profile: Path) -> tuple[str, str]:
    """The page's HTML after its scripts have run, and the browser's log (with the page's console)."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        if os.environ.get("CI"):
            pytest.fail("no chromium: .ci/run installs it")
        pytest.skip("needs a chromium browser to open the page in")
    command = [browser, *_FLAGS, f"--user-data-dir={profile}", "--virtual-time-budget=10000", "--enable-logging=stderr"]
    done = subprocess.run([*command, "--dump-dom", page.as_uri()], capture_output=True, text=True, timeout=120)
    return done.stdout, done.stderr
