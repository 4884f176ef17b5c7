"""What a piece of work takes: seconds, and the most memory meanwhile, on the CPU (Linux) or on a CUDA device."""

from __future__ import annotations

import ctypes
import gc
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook


@dataclass
class Spent:
    """seconds on the clock; computing: of this process alone, so that other work on the machine does not count.

    peak: GiB above what was held before. nan where it can't be told.
    """

    seconds: float = float("nan")
    computing: float = float("nan")
    peak: float = float("nan")


@contextmanager
def spent(device: torch.device | str = "cpu") -> Iterator[Spent]:
    """Fills in what the block takes, once it is left without an error. All that is queued on a device is waited for."""
    found, device = Spent(), torch.device(device)
    gc.collect()
    synchronize(device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device) / 2**30
    else:
        before = reset_peak()
    start, computing = time.perf_counter(), time.process_time()
    yield found
    synchronize(device)
    found.seconds, found.computing = time.perf_counter() - start, time.process_time() - computing
    most = torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else peak()
    found.peak = most - before


@contextmanager
def step_ends(
    device: torch.device | str = "cpu", clock: Callable[[], float] = time.perf_counter
) -> Iterator[list[float]]:
    """Gives a list that gets the time at its start, and after each step of any optimiser in the block."""
    ends = [clock()]

    def stamp(*args: object) -> None:
        synchronize(device)
        ends.append(clock())

    handle = register_optimizer_step_post_hook(stamp)
    try:
        yield ends
    finally:
        handle.remove()


def synchronize(device: torch.device | str) -> None:
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


def reset_peak() -> float:
    """Forgets the peak of this process so far. Returns the memory in use now, in GiB (Linux; nan elsewhere)."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # what was freed would be used again without being seen
    if trim is not None:
        trim(0)
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return float("nan")
    return _status("VmRSS")


def peak() -> float:
    """The most memory in use since `reset_peak`, in GiB."""
    return _status("VmHWM")


def _status(name: str) -> float:
    """GiB of this process, such as "VmRSS"; nan where the system does not say."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return float("nan")
    return next(float(line.split()[1]) for line in lines if line.startswith(name)) / 2**20
