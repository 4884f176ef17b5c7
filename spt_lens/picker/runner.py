"""Work on the model, in short parts on the kernel's main thread, between the user's cells.

Messages from a page arrive on another thread, even while a cell runs (ipykernel 7). Hooks and weights are the model's,
not a thread's: work beside a running cell would change what that cell computes. So a message only notes what is
wanted; the event loop that runs the cells takes the parts when no cell runs, not even one that awaits something.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import weakref
from collections.abc import Callable, Generator
from functools import cache
from typing import Any, TypeVar

from torch import Tensor

from spt_lens.model.view import ModelView


class ModelState:
    """Which weights, buffers and hooks a model has, to tell later whether it is still the same. Keeps none alive."""

    def __init__(self, view: ModelView) -> None:
        tensors, self.hooks = self._parts(view)
        self.tensors = [(weakref.ref(tensor), self._stamp(tensor)) for tensor in tensors]

    def is_of(self, view: ModelView) -> bool:
        tensors, hooks = self._parts(view)
        return (
            hooks == self.hooks
            and len(tensors) == len(self.tensors)
            and all(
                known() is tensor and stamp == self._stamp(tensor)
                for tensor, (known, stamp) in zip(tensors, self.tensors, strict=True)
            )
        )

    @staticmethod
    def _parts(view: ModelView) -> tuple[list[Tensor], list[int]]:
        modules = view.modules()
        held = (tensor for m in modules for tensor in (*m._parameters.values(), *m._buffers.values()))
        # torch numbers hooks, TransformerLens's too, and never gives a number twice.
        hooks = [number for m in modules for number in (*m._forward_hooks, *m._forward_pre_hooks)]
        return [tensor for tensor in held if tensor is not None], hooks

    @staticmethod
    def _stamp(tensor: Tensor) -> tuple[int, int, str]:
        """The count of changes in place; where its memory is, for .data that was set; and its first number, since
        fused optimizers (the Hugging Face trainer's default) do not count.
        """
        version = -1 if tensor.is_inference() else tensor._version
        first = repr(tensor.detach()[(0,) * tensor.ndim].item()) if tensor.numel() else ""
        return version, tensor.data_ptr(), first


Result = TypeVar("Result")


def beside(
    work: Generator[Any, None, Result], view: ModelView, other: Callable[[], Any]
) -> Generator[Any, None, Result]:
    """Work whose parts run between those of `other` work: what they change of the model's own buffers, as some models
    do in a forward pass, is not taken for a change by the user there.

    other: gives what has the `state` that it goes by, or None.
    """
    while True:
        held = other()
        same = held is not None and held.state is not None and held.state.is_of(view)
        try:
            found = next(work)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]
        finally:
            if same:
                held.state = ModelState(view)
        yield found


# ("queued", what start was told), maybe ("waiting", None), ("began", None), ("working", a part's yield), then one of
# ("done", the result), ("failed", an exception) and ("stopped", None).
Report = Callable[[str, Any], None]
Work = Generator[Any, None, Any]
Make = Callable[[], Work]
_TURNS: weakref.WeakKeyDictionary[Any, weakref.ref[Runner]] = weakref.WeakKeyDictionary()  # model -> who is at work
BUSY = 0.05  # seconds until the next look whether a cell that awaits something has come to its end


def running_loop() -> asyncio.AbstractEventLoop | None:
    """The event loop of the cell that this is called from; None in a plain script."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


class _Cells:
    """Whether a cell runs, by IPython's events. One that awaits leaves the loop to others, but is not at its end."""

    def __init__(self) -> None:
        self.running = False
        ipython = sys.modules.get("IPython")
        shell = None if ipython is None else ipython.get_ipython()
        if shell is not None:
            shell.events.register("pre_run_cell", lambda info: setattr(self, "running", True))
            shell.events.register("post_run_cell", lambda result: setattr(self, "running", False))


@cache
def _cells() -> _Cells:
    return _Cells()


class Runner:
    """Runs one generator at a time; a newer one takes the place of an older one, of which nothing more is reported.

    loop: where to run; None: `start` runs the work to its end at once. pause: seconds between two parts, in which the
    kernel takes messages and cells. report is called by one thread at a time: for "queued" and "stopped" the one that
    calls `start` or `cancel`, else the loop's. on: a model; of the runners on one, each waits ("waiting") until the
    one before it is done.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop | None, report: Report, pause: float = 0.005, on: Any = None
    ) -> None:
        self.loop, self.report, self.pause, self._on = loop, report, pause, on
        self._cells = _cells()
        self._lock = threading.RLock()  # held while reporting, so that no report of old work follows one of newer work
        self._ticket = self._told = 0
        self._at_work = False

    def start(self, make: Make, delay: float = 0.0, what: Any = None) -> None:
        """Takes the place of what runs; begins after `delay` seconds without a newer start. From any thread.

        what: is reported as "queued".
        """
        with self._lock:
            self._ticket += 1
            ticket, self._at_work = self._ticket, True
            self.report("queued", what)
        loop = self._open_loop()
        if loop is None:
            work = self._go_on(ticket, make)
            while work is not None:
                work = self._go_on(ticket, work)
        else:
            loop.call_soon_threadsafe(lambda: loop.call_later(delay, self._go_on_when_free, loop, ticket, make))

    def let_go(self) -> None:
        """Forgets the model: nothing is started any more."""
        self._on = None

    def cancel(self) -> bool:
        """Stops after the part that runs. From any thread. Returns whether there was anything to stop."""
        with self._lock:
            self._ticket += 1
            was, self._at_work = self._at_work, False
            if was:
                self.report("stopped", None)
        return was

    def _open_loop(self) -> asyncio.AbstractEventLoop | None:
        return None if self.loop is None or self.loop.is_closed() else self.loop

    def _go_on_when_free(self, loop: asyncio.AbstractEventLoop, ticket: int, work: Work | Make) -> None:
        if ticket == self._ticket and (self._cells.running or not self._has_turn(ticket)):
            loop.call_later(BUSY, self._go_on_when_free, loop, ticket, work)
            return
        rest = self._go_on(ticket, work)
        if rest is not None:
            loop.call_later(self.pause if rest is work else 0, self._go_on_when_free, loop, ticket, rest)

    def _has_turn(self, ticket: int) -> bool:
        """Whether no other runner is at work on the model; then it is this one's turn, until its work is over."""
        if self._on is None:
            return True
        holder = _TURNS.get(self._on, lambda: None)()
        if holder is not None and holder is not self and holder._at_work:
            if self._told != ticket:
                self._told = ticket
                self._report(ticket, "waiting", None)
            return False
        _TURNS[self._on] = weakref.ref(self)
        return True

    def _go_on(self, ticket: int, work: Work | Make) -> Work | None:
        """Makes the work, or runs a part of it. Returns it, or None at its end, or if it is not wanted any more."""
        if ticket != self._ticket:
            if not callable(work):
                work.close()
            return None
        try:
            made, *found = (work(),) if callable(work) else (work, next(work))
        except StopIteration as stop:
            self._report(ticket, "done", stop.value, last=True)
            return None
        except (Exception, KeyboardInterrupt) as error:  # a wrong selection, say: the page shows it
            self._failed(ticket, error)
            return None
        self._report(ticket, *(("working", found[0]) if found else ("began", None)))
        return made

    def _failed(self, ticket: int, error: BaseException) -> None:
        self._report(ticket, "failed", error, last=True)
        # On the loop it is not raised further: nobody would see it there. A plain script is interrupted as ever.
        if isinstance(error, KeyboardInterrupt) and self._open_loop() is None:
            raise error

    def _report(self, ticket: int, what: str, value: Any, last: bool = False) -> None:
        with self._lock:
            if ticket != self._ticket:
                return
            self._at_work = self._at_work and not last
            self.report(what, value)
