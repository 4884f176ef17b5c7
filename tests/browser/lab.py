"""A Jupyter server of the tests' own, with JupyterLab at /lab and Notebook 7 at /notebooks."""

from __future__ import annotations

import json
import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.request import ProxyHandler, Request, build_opener

import nbformat
import psutil

from browser.kernel import TIMEOUT, Kernel

START = 90.0  # seconds
STOP = 20.0

_OPTIONS = (
    "--no-browser",
    "--allow-root",
    "--ServerApp.ip=127.0.0.1",
    "--ServerApp.open_browser=False",
    # Both are the page's `window.jupyterapp`, through which the tests run the lab's commands.
    "--LabApp.expose_app_in_browser=True",
    "--JupyterNotebookApp.expose_app_in_browser=True",
    # Nothing that asks the internet.
    "--LabApp.news_url=",
    "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
    "--LabApp.extension_manager=readonly",
)
_CONFIG = {
    # Without these, popups about news cover a corner of the page.
    "lab/user-settings/@jupyterlab/apputils-extension/notification.jupyterlab-settings": {
        "fetchNews": "false",
        "checkForUpdates": False,
        "doNotDisturbMode": True,
    },
}
# The debugger asks each new kernel a dozen things, and logs an error when the notebook is closed meanwhile.
_DISABLED = ("@jupyterlab/debugger-extension",)


class LabServer:
    """Runs from `start` to `stop`. Notebooks are written to, and opened from, `root`. disabled: more lab extensions."""

    def __init__(self, folder: Path, disabled: Sequence[str] = ()) -> None:
        self.folder = folder
        self._disabled = (*_DISABLED, *disabled)
        self.root = folder / "notebooks"
        self.log = folder / "server.log"
        self.token = secrets.token_hex(24)
        self.url = ""  # with a slash at its end, once started
        self._runtime = folder / "runtime"
        self._process: subprocess.Popen[bytes] | None = None
        self._kernels: dict[str, Kernel] = {}
        self._open = build_opener(ProxyHandler({})).open  # a proxy of the machine's is not for loopback

    def start(self) -> None:
        disabled = {"disabledExtensions": dict.fromkeys(self._disabled, True)}
        for name, settings in (_CONFIG | {"labconfig/page_config.json": disabled}).items():
            file = self.folder / "config" / name
            file.parent.mkdir(parents=True)
            file.write_text(json.dumps(settings))
        for folder in (self.root, self.folder / "home"):
            folder.mkdir()
        options = [*_OPTIONS, f"--ServerApp.root_dir={self.root}", f"--ServerApp.port={_free_port()}"]
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "jupyterlab", *options],
                cwd=self.root,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl+C in the terminal is for pytest, which then stops this
            )
        try:
            self._wait_until_up()
        except BaseException:
            self.stop()
            raise

    def _environment(self) -> dict[str, str]:
        """The tests' own environment, but nothing of the user's settings, and nothing written to the user's home.

        The kernel is this Python: the server replaces a kernel spec's "python" by its own.
        """
        env = {name: value for name, value in os.environ.items() if not name.startswith(("JUPYTER", "JPY_", "IPYTHON"))}
        if "PYTHONPATH" in env:  # the server and its kernels run in other folders
            env["PYTHONPATH"] = os.pathsep.join(map(os.path.abspath, env["PYTHONPATH"].split(os.pathsep)))
        env |= {
            "HOME": str(self.folder / "home"),
            "JUPYTER_CONFIG_DIR": str(self.folder / "config"),
            "JUPYTER_DATA_DIR": str(self.folder / "data"),
            "JUPYTER_RUNTIME_DIR": str(self._runtime),
            "IPYTHONDIR": str(self.folder / "ipython"),
            "JUPYTER_TOKEN": self.token,  # not an option: those can be read in the list of processes
            "JUPYTER_PREFER_ENV_PATH": "1",  # this environment's extensions before any of the user's
            "OMP_NUM_THREADS": "1",
        }
        return env

    def _wait_until_up(self) -> None:
        assert self._process is not None
        end = time.monotonic() + START
        # The server says here which port it took: the free one may have been taken meanwhile.
        info = self._runtime / f"jpserver-{self._process.pid}.json"
        while time.monotonic() < end and self._process.poll() is None:
            try:
                self.url = json.loads(info.read_text())["url"]
                self.api("GET", "status", timeout=5)
                return
            except (OSError, ValueError):  # not there, half written, not answering
                time.sleep(0.1)
        state = f"ended with {self._process.poll()}" if self._process.poll() is not None else f"not up in {START} s"
        raise RuntimeError(f"the Jupyter server {state}:\n{self.tail()}")

    def tail(self, lines: int = 60) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def stop(self) -> None:
        """Asks the server to end, which ends the kernels first. Whatever is left after that is killed."""
        for client in self._kernels.values():
            client.close()
        self._kernels.clear()
        process, self._process = self._process, None
        if process is None:
            return
        started = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
        try:
            process.terminate()
            process.wait(STOP)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        finally:
            for kernel in psutil.wait_procs(started, timeout=5)[1]:
                kernel.kill()

    def api(self, method: str, path: str, body: object = None, timeout: float = TIMEOUT) -> Any:
        """The answer of the server's REST API, `path` being without /api/."""
        data = None if body is None else json.dumps(body).encode()
        headers = {"Authorization": f"token {self.token}", "Content-Type": "application/json"}
        request = Request(f"{self.url}api/{path}", data=data, headers=headers, method=method)
        with self._open(request, timeout=timeout) as response:
            text = response.read()
        return json.loads(text) if text else None

    def write(self, name: str, cells: list[str]) -> str:
        """Writes a notebook of these code cells and returns its path on the server. A name for each test: an open
        notebook whose file changes asks about it."""
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
        notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
        path = name if name.endswith(".ipynb") else f"{name}.ipynb"
        nbformat.write(notebook, self.root / path)
        return path

    def kernel(self, path: str, timeout: float = TIMEOUT) -> Kernel:
        """The kernel of the notebook at this path, as soon as it has one."""
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            for session in self.api("GET", "sessions"):
                if session["path"] == path and session["kernel"]:
                    return self._kernel(session["kernel"]["id"])
            time.sleep(0.05)
        raise TimeoutError(f"{path} has no kernel after {timeout} s:\n{self.tail()}")

    def _kernel(self, id: str) -> Kernel:
        if id not in self._kernels:
            file = self._runtime / f"kernel-{id}.json"
            self._kernels[id] = Kernel(file, lambda: self.api("POST", f"kernels/{id}/restart"))
        return self._kernels[id]

    def shut_down(self, path: str) -> None:
        """Ends the notebook's kernel, if it has one."""
        for session in self.api("GET", "sessions"):
            if session["path"] == path:
                self.api("DELETE", f"sessions/{session['id']}")
                if kernel := self._kernels.pop(session["kernel"]["id"], None):
                    kernel.close()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
