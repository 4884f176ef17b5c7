"""Who has a model, and interrupts that wait: nothing is left half put in place, or half taken away.

Ctrl-C can come between any two lines, also as a context is left, be it torch's, of the process as a whole, or one that
has a hook taken off: what it would have done is then never done. So in a block of `unbroken` a signal that comes while
something is entered or left is taken up once that is done, a moment later; any other ends the work at once, as ever.

Hooks, flags and weights are the model's, not a thread's: two threads on one model would get each other's numbers.
"""

from __future__ import annotations

import inspect
import signal
import sys
import threading
import time
import traceback
from _thread import interrupt_main, start_new_thread
from collections.abc import Callable, Iterator
from contextlib import ContextDecorator, contextmanager
from types import FrameType
from typing import Any, TypeVar

import torch
from torch import nn

Function = TypeVar("Function", bound=Callable[..., Any])
SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGALRM", "SIGTERM") if hasattr(signal, name)]
_SUSPENDED = inspect.CO_GENERATOR | inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR
LONGEST = 10.0  # seconds that a signal waits: work that is done as a context is entered can be ended too
SOON = 0.002
HANDED = 0.5  # seconds for a result to get back to who asked for it: without it a model that was tuned can't be undone
ENTERING = ("__enter__", "enter_context")
LEAVING = ("__exit__", "to_the_end")


def to_the_end(restore: Callable[..., object], *args: Any) -> None:
    """Restores something. An interrupt in the middle is raised once all is restored."""
    try:
        restore(*args)
    except KeyboardInterrupt:
        restore(*args)
        raise


class unbroken(ContextDecorator):  # noqa: N801 - as contextlib's own
    """In the block, a signal that comes while a context is entered or left waits until that is done (Ctrl-C, SIGTERM
    and alarms, where their handlers are Python's). Blocks in blocks are one; in other threads, which get no signals, it
    does nothing. As a decorator: the whole function.
    """

    _depth = 0
    _over = False  # the work in the block is over, and its result is on its way
    _outermost: FrameType | None = None
    _handlers: dict[int, Any] = {}  # noqa: RUF012 - of the process, as those below
    _waiting: set[int] = set()  # noqa: RUF012 - signals that are to be sent again
    _since: dict[int, float] = {}  # noqa: RUF012 - when these came first
    _lock = threading.Lock()

    def __enter__(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            return
        cls = unbroken
        if not cls._depth:
            cls._outermost = _opener(sys._getframe(1))
        for number in SIGNALS:  # in a block too: a notebook has new ones for each cell
            if callable(known := signal.getsignal(number)) and known != cls._came:
                cls._handlers[number] = known
                signal.signal(number, cls._came)
        cls._depth += 1  # at last: a signal that comes before it ends what was not begun

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, *where: object) -> None:
        cause = None if error is None or came_between(error) else error.__cause__
        while cause is not None and not came_between(cause):
            cause = cause.__cause__
        if threading.current_thread() is threading.main_thread():
            unbroken._leave(isinstance(error, KeyboardInterrupt))
        if cause is not None:  # else a model or a file would be named its fault
            raise cause

    @classmethod
    def hand_over(cls) -> None:
        """From here on to the end of the block a signal waits: what the work has changed is the caller's to undo, who
        needs its result for that."""
        cls._over = threading.current_thread() is threading.main_thread()

    @classmethod
    def _leave(cls, interrupted: bool) -> None:
        cls._depth, cls._over = max(0, cls._depth - 1), False  # one that was lost may be left as it is collected
        if cls._depth:
            return
        cls._outermost = None
        with cls._lock:
            cls._since.clear()
            if interrupted:  # a second Ctrl-C has had its way too
                cls._waiting.discard(signal.SIGINT)
        for number, known in reversed(cls._handlers.items()):  # Ctrl-C's last
            if signal.getsignal(number) == cls._came:
                signal.signal(number, known)

    @classmethod
    def _came(cls, number: int, frame: FrameType | None) -> None:
        since = cls._since.setdefault(number, time.monotonic())
        if time.monotonic() - since < LONGEST and cls._between(frame):
            cls._waiting.add(number)
            start_new_thread(cls._again, (signal.Signals(number),))
        else:
            cls._since.pop(number, None)
            cls._handlers[number](number, frame)

    @classmethod
    def _between(cls, frame: FrameType | None) -> bool:
        """Whether something is being entered or left, or handed over."""
        if cls._over:
            return bool(cls._depth)
        while frame is not None and frame is not cls._outermost:
            if frame.f_code.co_name in (*ENTERING, *LEAVING):
                return bool(cls._depth)
            frame = frame.f_back
        return False

    @classmethod
    def _again(cls, number: signal.Signals) -> None:
        time.sleep(SOON)
        until = time.monotonic() + HANDED
        while not cls._depth and _on_its_way() and time.monotonic() < until:
            time.sleep(SOON)
        if not cls._depth:
            time.sleep(SOON)  # what was done is in the caller's hands now
        with cls._lock:
            if number not in cls._waiting:
                return
            cls._waiting.remove(number)
            # The block is over: whoever had the signal before has it again, unless that is over too, as of an alarm.
            if not cls._depth and signal.getsignal(number) not in (cls._came, cls._handlers.get(number)):
                return
            if hasattr(signal, "pthread_kill"):  # a real one also ends a call that waits
                signal.pthread_kill(threading.main_thread().ident or 0, number)
            else:
                interrupt_main(number)


def _on_its_way() -> bool:
    """Whether the main thread is in a function of this package."""
    frame = sys._current_frames().get(threading.main_thread().ident or 0)
    while frame is not None and not str(frame.f_globals.get("__name__")).startswith("spt_lens."):
        frame = frame.f_back
    return frame is not None


def is_out_of_memory(error: BaseException) -> bool:
    """torch raises its own error on accelerators, and a plain RuntimeError on the CPU."""
    said = str(error) if isinstance(error, RuntimeError) else ""
    known = isinstance(error, torch.OutOfMemoryError | MemoryError)
    return known or "not enough memory" in said or "can't allocate memory" in said


def by_a_signal(error: BaseException) -> bool:
    """Whether the handler of a signal raised it, such as that of the user's own alarm (in a block of `unbroken`)."""
    return any(frame.f_code.co_qualname == "unbroken._came" for frame, _ in traceback.walk_tb(error.__traceback__))


def came_between(error: BaseException) -> bool:
    """Whether it tells nothing of a model or a file that was tried: memory ran out, or a signal came."""
    return is_out_of_memory(error) or by_a_signal(error)


def without_gradients(function: Function) -> Function:
    """`torch.no_grad` as a decorator, which no interrupt leaves on."""
    return unbroken()(torch.no_grad()(function))


class Hold:
    """A thread has a model. undo: what leaves it as it was, the last one first."""

    def __init__(self, root: nn.Module, lasting: bool) -> None:
        self.root, self.thread, self.depth = root, threading.current_thread(), 0
        self.undo: list[Callable[[], object]] = []
        self.opened_in = None if lasting else _opener(sys._getframe(1))

    def over(self) -> bool:
        """Whether what opened it is no longer at work: it was ended in a way that left no time to clear up."""
        if self.opened_in is None:
            return not self.thread.is_alive()
        if self.thread is threading.current_thread():
            return not self._at_work()
        for _ in range(3):  # it goes on as its frames are looked at, so that once is not enough
            if self._at_work():
                return False
            time.sleep(SOON)
        return True

    def _at_work(self) -> bool:
        """Whether the frame that opened it is among its thread's."""
        frame, last = sys._current_frames().get(self.thread.ident or 0), None
        while frame is not None and frame is not self.opened_in:
            last, frame = frame, frame.f_back
        # Of a generator that has just given something, the caller can't be told.
        return frame is not None or bool(last and last.f_code.co_flags & _SUSPENDED)


def _opener(frame: FrameType) -> FrameType:
    """What opened a block: the first frame that is not of a context itself, which ends, or rests, in the block."""
    while frame.f_back and (frame.f_code.co_flags & inspect.CO_GENERATOR or frame.f_code.co_name in ENTERING):
        frame = frame.f_back
    return frame


def check_mode() -> None:
    """Raises RuntimeError where something has left torch in a mode in which nothing works."""
    if torch.get_default_device().type == "meta":
        raise RuntimeError(
            'torch.device("meta") is on, so that new tensors hold no numbers: leave that context, or restart the '
            "process if an interrupt has left it on"
        )


_held: dict[int, Hold] = {}  # by the id of the module that holds the parameters


@contextmanager
def held(root: nn.Module, name: str, lasting: bool = False) -> Iterator[Hold]:
    """In the block, the model is this thread's. What earlier blocks have left on any model is cleared first.

    lasting: the block may outlive the function that opened it, as a context that a user enters by hand.

    Raises RuntimeError where another thread has the model, or torch makes tensors without numbers by default.
    """
    with unbroken():
        for key, other in list(_held.items()):
            if other.over() and _held.get(key) is other:
                del _held[key]
                while other.undo:  # and not once more if its contexts are left late, as they are collected
                    to_the_end(other.undo[-1])
                    other.undo.pop()
                other.opened_in = unbroken._outermost = None  # frames, with all that they name
        now = _held.setdefault(id(root), Hold(root, lasting))
        if now.thread is not threading.current_thread():
            raise RuntimeError(
                f"{name} is at work in another thread ({now.thread.name}), and its hooks and weights are all threads': "
                "wait until that is done, or give each thread a model of its own"
            )
        now.depth += 1
        try:
            check_mode()
            yield now
        finally:
            now.depth -= 1
            if not now.depth and _held.get(id(root)) is now:
                del _held[id(root)]
                now.opened_in = None
