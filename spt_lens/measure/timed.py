"""How long things take on the machine at hand, by a few short runs of them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, Self

MANY = 24  # of what is measured at once


def in_words(seconds: float) -> str:
    """ "0.3 s", "45 s", "12 min", "2.3 h"."""
    if seconds < 90:
        return f"{seconds:.0f} s" if seconds >= 1 else f"{seconds:.1g} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"


def seconds_of(run: Callable[[], Any]) -> float:
    """Of one call, which must not leave work behind on a device."""
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


class Line(NamedTuple):
    """Seconds of n things: so much each time that some are begun with, and so much for each."""

    start: float
    each: float

    @classmethod
    def of(cls, run: Callable[[int], Any], few: int, many: int) -> Self:
        """Measured with many, then with few: what is slow the first time alone makes the estimate larger."""
        took = [seconds_of(partial(run, n)) for n in (many, few)]
        each = max(took[0] - took[1], took[0] / many / 4) / max(1, many - few)
        return cls(max(0.0, took[0] - each * many), each)

    @classmethod
    def over(cls, run: Callable[[Sequence[Any]], Any], items: Sequence[Any]) -> Self:
        """Of some of the items; nothing if there are none."""
        many = min(MANY, len(items))
        return cls.of(lambda n: run(items[:n]), max(1, many // 4), many) if many else cls(0.0, 0.0)

    def __call__(self, n: float, at_once: float = math.inf) -> float:
        """at_once: how many share a start."""
        return self.start * max(1, math.ceil(n / at_once)) + self.each * n if n else 0.0
