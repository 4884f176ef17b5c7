"""The most memory that a process had, above what there was before."""

from __future__ import annotations

import ctypes
import gc
from pathlib import Path


def reset_peak() -> float:
    """Forgets the peak so far. Returns the memory in use now, in GiB (Linux; nan elsewhere)."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # what was freed would be used again without being seen
    if trim is not None:
        trim(0)
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return float("nan")
    return _status("VmRSS")


def peak() -> float:
    """The most memory in use since `reset_peak`, in GiB."""
    return _status("VmHWM")


def _status(name: str) -> float:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return float("nan")
    return next((float(line.split()[1]) for line in lines if line.startswith(name)), float("nan")) / 2**20
