"""A run in sections: each within its time, its memory and its errors, and what is known so far always on the disk."""

from __future__ import annotations

import gc
import json
import math
import signal
import statistics
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from spt_lens.model.held import is_out_of_memory
from tools.peak import Spent, spent

Row = dict[str, Any]


class OutOfTime(KeyboardInterrupt):
    """A section's time is up. An interrupt like the user's, after which the library leaves the model as it was."""


class Skipped(Exception):
    """Why a section is left out."""


class Course:
    """Sections one after the other, each of which fills its row; all rows are written to `out` after each."""

    def __init__(self, out: Path | None, ends: float, device: torch.device, about: Row) -> None:
        self.out, self.ends, self.device = out, ends, device
        self.found: Row = {**about, "sections": []}

    def section(self, size: str, title: str, seconds: float, work: Callable[[Row], None]) -> Row:
        """Runs `work` on its row, for so many seconds at most. The row tells if it was cut, skipped or failed."""
        row: Row = {"size": size, "section": title}
        began = time.perf_counter()
        left = self.ends - time.time()
        if left < 1:
            row["skipped"] = "the whole run's time is over"
        else:
            _run(row, work, min(seconds, left))
        self._clean()
        row["took"] = round(time.perf_counter() - began, 2)
        self.found["sections"].append(row)
        print(described(row), flush=True)
        self.write()
        return row

    def write(self) -> None:
        if self.out is not None:
            self.out.parent.mkdir(parents=True, exist_ok=True)
            self.out.write_text(json.dumps(self.found, indent=1) + "\n", encoding="utf-8")

    def _clean(self) -> None:
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    @property
    def failed(self) -> list[Row]:
        return [row for row in self.found["sections"] if "failed" in row]


def _run(row: Row, work: Callable[[Row], None], seconds: float) -> None:
    try:
        with _alarm(seconds):
            work(row)
    except OutOfTime:
        row["skipped"] = f"cut off after {seconds:.3g} s"
    except Skipped as why:
        row["skipped"] = str(why)
    except Exception as error:  # one section's fault shall not cost the others
        if is_out_of_memory(error):
            row["skipped"] = f"out of memory: {str(error).splitlines()[0]}"
        else:
            row["failed"] = f"{type(error).__name__}: {error}"
            traceback.print_exc(file=sys.stderr)


@contextmanager
def _alarm(seconds: float) -> Iterator[None]:
    """Raises OutOfTime in the block when its time is over, where the system has alarms."""
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def ring(*args: object) -> None:
        raise OutOfTime

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def repeated(device: torch.device, work: Callable[[], Any], rounds: int, most: float = 8) -> tuple[Any, Spent]:
    """What `work` gives, its median seconds and its largest peak; again while that stays below `most` seconds."""
    runs: list[Spent] = []
    while len(runs) < rounds and (not runs or sum(run.seconds for run in runs) + runs[-1].seconds < most):
        result = None  # of the run before: its memory is not this one's
        with spent(device) as took:
            result = work()
        runs.append(took)
    return result, Spent(statistics.median(run.seconds for run in runs), peak=max(run.peak for run in runs))


def described(row: Row) -> str:
    """One line."""
    said = ", ".join(f"{name} {_shown(value)}" for name, value in row.items() if name not in ("size", "section"))
    return f"{row['size']:>5}  {row['section']}: {said}"


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}" if math.isfinite(value) else str(value)
    return (
        "yes" if value is True else "NO" if value is False else f"{value:,}" if isinstance(value, int) else str(value)
    )
