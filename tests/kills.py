"""Processes that are killed at a given moment, and disks that get full at one: what the tests of files have in common.

A moment is a call of what touches a file (before it, and after it), or a line of the modules that write them.
"""

from __future__ import annotations

import errno
import io
import itertools
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

from spt_lens import files, saving
from spt_lens.export import folder as exports

# Of the modules posix and io, and of open files; safetensors writes whole files by its own.
CALLS = {"open", "write", "flush", "close", "fsync", "replace", "rename", "link", "unlink", "remove", "mkdir", "rmdir"}
CALLS |= {"truncate", "ftruncate", "chmod", "sendfile", "serialize_file", "renameat2", "fdopen"}
TAKES_ROOM = {"open", "write", "flush", "fsync", "replace", "rename", "link", "mkdir", "sendfile", "serialize_file"}
WRITERS = {files.__file__, saving.__file__, exports.__file__}


def touches_files(call: Any) -> bool:
    """Whether a function in C writes to files: `str.replace` does not."""
    owner = getattr(call, "__self__", None)
    inside = isinstance(owner, io.IOBase) and not isinstance(owner, io.BytesIO | io.StringIO)
    inside = inside or (isinstance(owner, ModuleType) and owner.__name__ in ("posix", "io", "_io"))
    name = getattr(call, "__name__", "")
    return name in CALLS and (inside or name in ("serialize_file", "renameat2"))


def counted(action: Callable[[], object], moment: int, do: Callable[[], None]) -> int:
    """Does an action, and something else at its n-th moment. Returns how many moments there were."""
    passed = 0

    def one_more() -> None:
        nonlocal passed
        passed += 1
        if passed == moment:
            do()

    def called(frame: FrameType, event: str, call: Any) -> None:
        if event in ("c_call", "c_return") and touches_files(call):
            one_more()

    def traced(frame: FrameType, event: str, argument: Any) -> Any:
        if frame.f_code.co_filename not in WRITERS:
            return None
        if event == "line":
            one_more()
        return traced

    sys.settrace(traced)
    sys.setprofile(called)
    try:
        action()
    finally:
        sys.setprofile(None)
        sys.settrace(None)
    return passed


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def killed(action: Callable[[], object], moment: int) -> bool:
    """Does an action in a process that is killed at its n-th moment. Returns whether it came so far."""
    process = os.fork()
    if not process:
        try:
            counted(action, moment, die)
        finally:
            os._exit(0)
    return os.WIFSIGNALED(os.waitpid(process, 0)[1])


def moments(action: Callable[[], object], n: int = 24) -> list[int]:
    """About n moments, spread over all that an action has; it is done once for that."""
    every = counted(action, 0, die)
    return sorted({1 + round(i * (every - 1) / (n - 1)) for i in range(n)})


def full_at(action: Callable[[], object], number: int) -> bool:
    """Does an action on a disk that is full at the n-th call that needs room. Returns whether it came so far."""
    calls = itertools.count(1)

    def called(frame: FrameType, event: str, call: Any) -> None:
        if event != "c_call" or not touches_files(call) or call.__name__ not in TAKES_ROOM:
            return
        if call.__module__ not in ("io", "_io") and next(calls) == number:  # `io.open`, which may be for reading
            raise OSError(errno.ENOSPC, "No space left on device")

    sys.setprofile(called)
    try:
        action()
    finally:
        sys.setprofile(None)
    return next(calls) > number


def at_operation(number: int, folder: Path) -> Callable[[], None]:
    """Makes the process kill itself before the n-th file under a folder is written, renamed, made or removed."""

    def install() -> None:
        calls, whole = itertools.count(1), str(folder)

        def heard(event: str, values: tuple[Any, ...]) -> None:
            if event == "open":
                changes = isinstance(values[1], str) and set(values[1]) & set("wax+")
                changes = changes or bool(values[2] & (os.O_WRONLY | os.O_RDWR))
            else:
                changes = event in ("os.rename", "os.link", "os.remove", "os.mkdir", "os.truncate", "os.rmdir")
            if changes and any(str(value).startswith(whole) for value in values[:2]) and next(calls) == number:
                die()

        sys.addaudithook(heard)

    return install


def begun(action: Callable[[], object], prepare: Callable[[], None] = lambda: None) -> int:
    """Does an action in a process of its own, whose number is returned."""
    process = os.fork()
    if not process:
        try:
            prepare()
            action()
            os._exit(0)
        except BaseException:
            sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]
        finally:
            os._exit(1)
    return process


def ended(process: int) -> int:
    """The signal that ended a process, 0 if none did. Raises RuntimeError if it was an error."""
    state = os.waitpid(process, 0)[1]
    if os.WIFEXITED(state) and os.WEXITSTATUS(state):
        raise RuntimeError("the process ended by an error, which stands above")
    return os.WTERMSIG(state)
