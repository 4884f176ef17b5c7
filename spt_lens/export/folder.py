"""A folder that appears whole or not at all, with a marker that says what it is."""

import ctypes
import errno
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from spt_lens import files, saving
from spt_lens.model.ranks import warn_caller

MARKER = "spt_lens.json"
_FORMAT = "spt_lens export 1"
_FULL = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)


@contextmanager
def replacing(folder: Path, needed: int, overwrite: bool, sources: Sequence[Path] = ()) -> Iterator[Path]:
    """A new empty folder beside `folder`. It takes that name when the block ends well, and is removed otherwise.

    An earlier export stays where it is until then. What a killed one left beside it is removed.

    Args: needed: bytes that will be written. overwrite: replace an earlier export. sources: folders that are read, and
    must not be written to.

    Raises: as `export_hf` says of its folder.
    """
    folder = folder.resolve()
    _clear(folder)
    _check(folder, overwrite, [source.resolve() for source in sources])
    missing = [parent for parent in folder.parents if not parent.exists()]
    if _free(folder) < needed:
        raise OSError(errno.ENOSPC, _too_full(folder, needed))
    temporary = files.own_name(folder)
    old = folder.with_name(f"{temporary.name}.old")
    try:
        _make(temporary, folder)
        yield temporary
        mode = temporary.stat().st_mode & 0o666
        for file in temporary.rglob("*"):
            if file.is_file():
                file.chmod(mode)  # safetensors makes files that only their owner may read
        _check(folder, overwrite, ())  # it may have come, or changed, meanwhile
        _move(temporary, folder, old)
        for replaced in (old, temporary):
            shutil.rmtree(replaced, ignore_errors=True)
    except BaseException as error:
        full = _full(error, folder, needed)
        shutil.rmtree(temporary, ignore_errors=True)
        if folder.exists():  # else it could not be put back, and is all there is
            shutil.rmtree(old, ignore_errors=True)
        for parent in missing:
            with suppress(OSError):
                parent.rmdir()
        if full is not None:
            raise full from error
        raise


def write_marker(folder: Path, description: Mapping[str, Any]) -> None:
    """Writes what an export is, and which files belong to it."""
    try:
        ours = version("spt-lens")
    except PackageNotFoundError:  # run from its sources
        ours = "unknown"
    known = {"format": _FORMAT, "spt_lens": ours, **description, "files": sorted(_files(folder) | {MARKER})}
    (folder / MARKER).write_text(json.dumps(known, indent=2) + "\n", encoding="utf-8")


def copy_file(source: Path, name: str, folder: Path) -> None:
    """Copies the file `name` of one folder into another; of a link what it leads to.

    Warns where that is out of the folder, and not in the hub's cache: what is there may not be meant for others.
    """
    real, blobs = (source / name).resolve(), source.resolve().parent.parent / "blobs"
    if not any(real.is_relative_to(own) for own in (source.resolve(), blobs.resolve())):
        warn_caller(f"{source / name} is a link to {real}, which the export holds a copy of: see that it may")
    (folder / name).parent.mkdir(exist_ok=True)
    shutil.copyfile(source / name, folder / name)


def size(folder: Path) -> int:
    """Bytes of all files in a folder."""
    return sum((folder / name).stat().st_size for name in _files(folder))


def _files(folder: Path) -> set[str]:
    return {file.relative_to(folder).as_posix() for file in folder.rglob("*") if not file.is_dir()}


def _clear(folder: Path) -> None:
    """Removes what killed exports left beside a folder, and puts back what one of them had moved away from there."""
    for old in files.left_over(folder, ".tmp.old"):
        if not folder.exists():
            os.replace(old, folder)
    for left in (*files.left_over(folder), *files.left_over(folder, ".tmp.old")):
        shutil.rmtree(left, ignore_errors=True)


def _check(folder: Path, overwrite: bool, sources: Sequence[Path]) -> None:
    for source in sources:
        if folder == source or source in folder.parents or folder in source.parents:
            raise ValueError(
                f"{folder} is, or lies in or around, the checkpoint that is read ({source}), which is never written "
                "to: choose another folder for the export"
            )
    if not folder.exists():
        return
    if folder.samefile("."):
        raise ValueError(f"{folder} is the current folder, whose place an export would take: name another one")
    if not folder.is_dir():
        raise FileExistsError(f"{folder} is a file: choose another name for the export's folder")
    if not any(folder.iterdir()):
        return
    if not overwrite:
        raise FileExistsError(
            f"{folder} exists and is not empty: choose another folder, or pass overwrite=True to replace an earlier "
            "export"
        )
    odd = sorted(_files(folder) - _files_of_export(folder))
    if odd:
        raise FileExistsError(
            f"{folder} also holds {odd[0]}, which is no part of the earlier export, and overwrite=True replaces the "
            "whole folder: move it away, or choose another folder"
        )


def _files_of_export(folder: Path) -> set[str]:
    with suppress(OSError, *saving.DAMAGE):
        known = saving.read_json(folder / MARKER, "export")
        if known["format"] == _FORMAT:
            return set(known["files"])
    raise FileExistsError(
        f"{folder} is not empty and no earlier export (it has no {MARKER} of this library), so overwrite=True does not "
        "replace it: choose another folder, or remove this one yourself"
    )


def _make(temporary: Path, folder: Path) -> None:
    try:
        temporary.mkdir(parents=True)
    except PermissionError as error:
        raise PermissionError(f"cannot write to {folder.parent}: choose another folder for the export") from error
    except OSError as error:
        if error.errno in _FULL:
            raise
        raise OSError(
            error.errno,
            f"cannot make the folder {folder} ({error.strerror}): is one of its parents a file? Choose another folder",
        ) from error


def _move(temporary: Path, folder: Path, old: Path) -> None:
    """By one move. Where two names can't be exchanged, what was there goes to `old` first, and back if that fails."""
    try:
        if folder.exists():
            if _exchanged(temporary, folder):
                return
            os.replace(folder, old)
        os.replace(temporary, folder)
    except BaseException as error:
        if old.exists() and not folder.exists():
            os.replace(old, folder)
        if isinstance(error, OSError):
            raise OSError(
                error.errno,
                f"the export is written, but cannot be put at {folder} ({error.strerror}; a mounted folder cannot be "
                "replaced): choose a folder that does not exist yet",
            ) from error
        raise


def _exchanged(one: Path, other: Path) -> bool:
    """Lets two folders change names in one step. False where the system, or its file system, can't."""
    try:
        rename = ctypes.CDLL(None).renameat2  # Linux alone has it
    except (AttributeError, OSError, TypeError):
        return False
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return bool(rename(here, os.fsencode(one), here, os.fsencode(other), exchange) == 0)


def _free(folder: Path) -> int:
    return shutil.disk_usage(next(parent for parent in folder.parents if parent.exists())).free


def _too_full(folder: Path, needed: int) -> str:
    room = f"it needs {needed:,} bytes, and {_free(folder):,} are free there"
    return f"not enough room for the export {folder}: {room}. Make room, or choose a folder on another disk"


def _full(error: BaseException, folder: Path, needed: int) -> OSError | None:
    """A clear error in place of one that says the disk is full, or that comes from safetensors while it writes."""
    number = error.errno if isinstance(error, OSError) else None
    if isinstance(error, SafetensorError):
        found = re.search(r"os error (\d+)", str(error))  # it keeps no number of its own
        number = int(found[1]) if found else errno.EIO
    if number in _FULL:
        return OSError(number, f"{_too_full(folder, needed)} ({os.strerror(number)})")
    if isinstance(error, SafetensorError):
        return OSError(number, f"cannot write the weights of the export {folder}: {error}")
    return None
