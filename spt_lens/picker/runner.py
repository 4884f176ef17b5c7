"""Work on the model, in short steps on the kernel's main thread, between the user's cells.

Messages from a page arrive on another thread, even while a cell runs (ipykernel 7). Hooks and weights are the model's,
not a thread's: work beside a running cell would change what that cell computes. So a message only notes what is
wanted; the event loop that runs the cells takes the steps when no cell runs.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Generator
from typing import Any

Report = Callable[[str, Any], None]  # ("working", a step's yield), ("done", the result), ("failed", an exception), ...


def running_loop() -> asyncio.AbstractEventLoop | None:
    """The event loop of the cell that this is called from; None in a plain script."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


class StepRunner:
    """Runs one generator at a time; a newer one takes the place of an older one.

    loop: where to run; None: `start` runs the work to its end at once. pause: seconds between two steps, in which the
    kernel takes messages and cells. report is called on the loop's thread.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop | None, report: Report, pause: float = 0.005) -> None:
        self.loop, self.report, self.pause = loop, report, pause
        self._lock = threading.Lock()
        self._ticket = 0
        self._work: Generator[Any, None, Any] | None = None
        self._at_work = False

    def start(self, make: Callable[[], Generator[Any, None, Any]], delay: float = 0.0) -> None:
        """Takes the place of what runs; begins after `delay` seconds without a newer start. From any thread."""
        with self._lock:
            self._ticket += 1
            ticket = self._ticket
            self._at_work = True
        if self.loop is None or self.loop.is_closed():
            self._begin(ticket, make)
            while self._wanted(ticket):
                self._step(ticket)
        else:
            loop = self.loop
            loop.call_soon_threadsafe(lambda: loop.call_later(delay, self._begin, ticket, make))

    def cancel(self) -> bool:
        """Stops after the step that runs. From any thread. Returns whether there was anything to stop."""
        with self._lock:
            self._ticket += 1
            was, self._at_work = self._at_work, False
        if self.loop is None or self.loop.is_closed():
            self._close()
        else:
            self.loop.call_soon_threadsafe(self._close_if_idle)
        return was

    def _wanted(self, ticket: int) -> bool:
        return ticket == self._ticket and self._at_work

    def _close_if_idle(self) -> None:
        if not self._at_work:
            self._close()

    def _close(self) -> None:
        work, self._work = self._work, None
        if work is not None:
            work.close()

    def _begin(self, ticket: int, make: Callable[[], Generator[Any, None, Any]]) -> None:
        if not self._wanted(ticket):
            return
        self._close()
        try:
            self._work = make()
        except Exception as error:  # a wrong selection, say: the page shows it
            self._end(ticket, "failed", error)
            return
        self.report("began", None)
        if self.loop is not None and not self.loop.is_closed():
            self.loop.call_soon(self._step, ticket)

    def _step(self, ticket: int) -> None:
        if not self._wanted(ticket) or self._work is None:
            return
        try:
            found = next(self._work)
        except StopIteration as stop:
            self._end(ticket, "done", stop.value)
        except (Exception, KeyboardInterrupt) as error:
            # Not raised further: it would land in the event loop, and nobody would see it.
            self._end(ticket, "failed", error)
        else:
            if self._wanted(ticket):
                self.report("working", found)
            if self.loop is not None and not self.loop.is_closed():
                self.loop.call_later(self.pause, self._step, ticket)

    def _end(self, ticket: int, what: str, value: Any) -> None:
        self._work = None
        with self._lock:
            if ticket != self._ticket:
                return
            self._at_work = False
        self.report(what, value)
