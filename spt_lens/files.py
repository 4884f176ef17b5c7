"""How a file or folder takes its place in one step, and how what killed processes left beside it is found."""

import errno
import glob
import hashlib
import os
import platform
import re
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

_NO_LINKS = (errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP)  # the file system has none


def own_name(target: Path) -> Path:
    """A hidden name beside the target for what is to take its place; it says by which process it is used."""
    return target.with_name(f"{_start(target)}{os.getpid()}-{secrets.token_hex(4)}.tmp")


def left_over(target: Path, end: str = ".tmp") -> Iterator[Path]:
    """What processes of this machine that are no longer there left beside the target, under names of their own."""
    for path in target.parent.glob(f"{glob.escape(_start(target))}*-*{end}"):
        process = re.match(r"\d{1,9}(?=-)", path.name.removeprefix(_start(target)))
        if process and not psutil.pid_exists(int(process[0])):
            yield path


def clear(target: Path) -> None:
    """Removes the files that killed processes left beside the target."""
    for left in left_over(target):
        left.unlink(missing_ok=True)


def _start(target: Path) -> str:
    """How hidden names of a target begin; of no other's, and of no other machine's, whose processes are not known here.

    Not the whole name, which with more added may be too long: of 255 bytes, a letter takes up to 4.
    """
    try:
        processes = os.readlink("/proc/self/ns/pid")  # a container may have its own, and its host's name
    except OSError:
        processes = ""
    whose = hashlib.sha256("\0".join((target.name, platform.node(), processes)).encode("utf-8", "replace"))
    return f".{target.name[:30]}.{whose.hexdigest()[:16]}-"


def put(target: Path, data: bytes, new: bool) -> None:
    """Writes a file under a name of its own and renames it. new: not over another. Raises OSError."""
    temporary = own_name(target)
    if target.exists() and not os.access(target, os.W_OK):
        raise PermissionError(errno.EACCES, "it is write-protected")
    clear(target)
    try:
        # Opened so, and not by tempfile, a new file has the permissions that any new file has.
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if new:
            _put_new(temporary, target)
        else:
            with suppress(FileNotFoundError):
                shutil.copymode(target, temporary)
            os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def _put_new(temporary: Path, target: Path) -> None:
    """A rename that takes no other's place. Raises FileExistsError."""
    try:
        os.link(temporary, target)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        if target.exists():  # of two at this very moment the second is left
            raise FileExistsError(errno.EEXIST, "it is there already") from None
        os.replace(temporary, target)


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder for what may be large and is needed in the block alone. What killed processes left of theirs goes."""
    folder = own_name(Path(tempfile.gettempdir()) / "spt_lens")
    for left in left_over(folder.with_name("spt_lens")):
        shutil.rmtree(left, ignore_errors=True)
    folder.mkdir(mode=0o700)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
