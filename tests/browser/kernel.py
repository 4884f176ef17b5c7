"""The Python side of an open notebook: reads the kernel's state past the page, on a connection of its own."""

from __future__ import annotations

import ast
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jupyter_client.blocking.client import BlockingKernelClient

TIMEOUT = 60.0  # seconds: the machine may be shared, and importing torch takes some


class Kernel:
    def __init__(self, connection_file: Path, restart: Callable[[], object]) -> None:
        self._file = connection_file
        self._restart = restart
        self._client = self._connected()

    def _connected(self) -> BlockingKernelClient:
        client = BlockingKernelClient()
        client.load_connection_file(str(self._file))
        # Output and heartbeat are the page's business; unread, they would only pile up here.
        client.start_channels(shell=True, iopub=False, stdin=False, hb=False, control=True)
        self._subshell: str | None = None
        return client

    def evaluate(self, expression: str, *, beside: bool = False, timeout: float = TIMEOUT) -> Any:
        """An expression's value, which must be a Python literal (of lists, numbers, strings and the like).

        It waits its turn behind running cells, or, `beside` them, runs at once in a subshell (a thread). Nothing that
        changes a widget belongs there: ipykernel (7.4) hands a page's message to the shell that last sent one for the
        widget, which would then be this one.
        """
        reply = self._request("", {"value": f"repr({expression})"}, beside, timeout)["user_expressions"]["value"]
        if reply["status"] == "error":
            raise RuntimeError(f"{expression}: {reply['ename']}: {reply['evalue']}")
        shown = ast.literal_eval(reply["data"]["text/plain"])
        try:
            return ast.literal_eval(shown)
        except (ValueError, SyntaxError):
            raise ValueError(f"{expression} is no literal: {shown[:200]}") from None

    def wait_for(self, expression: str, value: Any, *, beside: bool = False, timeout: float = TIMEOUT) -> None:
        """Asks until the expression has the value; a name may still be missing meanwhile."""
        end, seen = time.monotonic() + timeout, None
        while (left := end - time.monotonic()) > 0:
            try:
                seen = self.evaluate(expression, beside=beside, timeout=left)
                if seen == value:
                    return
            except RuntimeError as error:
                seen = error
            time.sleep(0.02)
        raise AssertionError(f"{expression} is {seen!r} after {timeout} s, not {value!r}")

    def execute(self, code: str, *, beside: bool = False, timeout: float = TIMEOUT) -> None:
        """Runs code, which leaves no trace in the notebook. Raises what it raises, as RuntimeError."""
        reply = self._request(code, {}, beside, timeout)
        if reply["status"] != "ok":
            raise RuntimeError("\n".join(reply.get("traceback", [])) or str(reply))

    def restart(self) -> None:
        """Restarts by the server, as another client would: the page is not told. `Driver.restart` is by the page."""
        self._restart()
        self.reconnect()

    def reconnect(self) -> None:
        """To the process of a restart; returns once it answers."""
        self.close()
        self._client = self._connected()
        self.execute("")

    def close(self) -> None:
        self._client.stop_channels()

    def _request(self, code: str, expressions: dict[str, str], beside: bool, timeout: float) -> dict[str, Any]:
        content = {
            "code": code,
            "silent": True,
            "store_history": False,
            "user_expressions": expressions,
            "allow_stdin": False,
            "stop_on_error": False,  # else an error here would cancel the page's cells
        }
        message = self._client.session.msg("execute_request", content)
        if beside:
            message["header"]["subshell_id"] = self._own_subshell(timeout)
        return self._reply(self._client.shell_channel, message, timeout)

    def _own_subshell(self, timeout: float) -> str:
        if self._subshell is None:
            message = self._client.session.msg("create_subshell_request", {})
            self._subshell = self._reply(self._client.control_channel, message, timeout)["subshell_id"]
        return self._subshell

    def _reply(self, channel: Any, message: dict[str, Any], timeout: float) -> dict[str, Any]:
        channel.send(message)
        end = time.monotonic() + timeout
        while (left := end - time.monotonic()) > 0:
            # In short turns: a message to a kernel that has died is never answered.
            if not channel.socket.poll(min(left, 1.0) * 1000):
                continue
            reply = channel.get_msg(timeout=left)
            # Replies to earlier requests, given up on, may still come.
            if reply["parent_header"].get("msg_id") == message["header"]["msg_id"]:
                return reply["content"]
        raise TimeoutError(f"no reply from the kernel within {timeout:.0f} s to {message['content']}")
