"""A training run that can be watched: a bar with figures and a small curve, in Jupyter beside a live Plotly curve."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import pandas as pd
from tqdm.auto import tqdm

Rows = Sequence[Mapping[str, float]]
BLOCKS = "▁▂▃▄▅▆▇█"
FEW = 20  # a run of fewer steps has no curve
_WIDTH = 12  # of the small curve, in characters
_PATIENCE = 1.0  # seconds between two drawings of the Plotly curve


@contextmanager
def watched(total: int, done: int, shown: bool) -> Iterator[Callable[[Rows], None]]:
    """Gives the function that is told the history after each step: rows with `step`, `loss`, and what was measured.

    total: the run's steps, of which `done` were taken before. On leaving, also by an error, the curve is drawn as it
    then is.
    """
    with tqdm(total=total, initial=done, desc="tuning", unit="step", disable=not shown) as bar:
        if not shown:
            yield lambda rows: None
            return
        curve = LiveCurve() if total >= FEW else None
        small = total >= FEW and draws_blocks(bar.fp)
        last: Rows = ()
        said = -math.inf

        def show(rows: Rows) -> None:
            nonlocal last, said
            last, now = rows, time.monotonic()
            if now - said >= bar.mininterval or rows[-1]["step"] >= total:  # as often as the bar itself is drawn
                bar.set_postfix_str(figures(rows, small), refresh=False)
                said = now
            bar.update(rows[-1]["step"] - bar.n)
            if curve is not None:
                curve.show(rows)

        try:
            yield show
        finally:
            if curve is not None and last:
                curve.show(last, at_once=True)


def figures(rows: Rows, small_curve: bool = False) -> str:
    """The last loss and validation figures as a few words: "loss 0.532, validation 0.611, first 0.75"."""
    found: list[str] = []
    for name, what in (("loss", "loss"), ("validation_loss", "validation"), ("validation_first", "first")):
        value = next((row[name] for row in reversed(rows) if name in row), None)
        if value is not None:
            found.append(f"{what} {value:.{2 if what == 'first' else 3}f}")
        if name == "loss" and small_curve and value is not None:
            found[-1] += f" {sparkline([row['loss'] for row in rows if 'loss' in row])}"
    return ", ".join(found)


def sparkline(values: Sequence[float], width: int = _WIDTH) -> str:
    """At most `width` blocks, each as high as the mean of its share of the values; empty for fewer than two values."""
    if len(values) < 2:
        return ""
    n = min(width, len(values))
    parts = [values[i * len(values) // n : (i + 1) * len(values) // n] for i in range(n)]
    means = [sum(part) / len(part) for part in parts]
    low, span = min(means), max(means) - min(means)
    if not all(map(math.isfinite, means)):
        return ""
    return "".join(BLOCKS[int((mean - low) / span * (len(BLOCKS) - 1) + 0.5) if span else 0] for mean in means)


def draws_blocks(stream: Any) -> bool:
    """Whether a stream is a terminal that has the blocks; a log file gets plain text."""
    encoding = getattr(stream, "encoding", None) or ""
    return bool(getattr(stream, "isatty", bool)()) and encoding.lower().replace("-", "").startswith("utf")


def notebook_display() -> Callable[..., Any] | None:
    """IPython's `display`, where this runs in a notebook's kernel."""
    ipython: Any = sys.modules.get("IPython")  # it is there if anything of it runs
    shell = ipython.get_ipython() if ipython is not None else None
    return ipython.display.display if hasattr(shell, "kernel") else None


class LiveCurve:
    """A Plotly figure of the losses in a notebook, drawn again at most every second; elsewhere nothing.

    It is sent as plain data, which JupyterLab, Notebook and VS Code draw by themselves: nothing is loaded for it.
    """

    def __init__(self) -> None:
        self._display, self._handle = notebook_display(), None
        self._next, self._drawn = time.monotonic() + _PATIENCE, 0

    def show(self, rows: Rows, at_once: bool = False) -> None:
        now = time.monotonic()
        if self._display is None or (now < self._next and not at_once) or len(rows) == self._drawn:
            return
        if sum("loss" in row for row in rows[-2:]) < 2:
            return
        bundle = self._bundle(rows)
        if self._handle is None:
            self._handle = self._display(bundle, raw=True, display_id=True)
        else:
            self._handle.update(bundle, raw=True)
        # A long history takes longer to draw: never more than a twentieth of the time.
        self._drawn, self._next = len(rows), now + max(_PATIENCE, 20 * (time.monotonic() - now))

    def _bundle(self, rows: Rows) -> dict[str, Any]:
        from spt_lens.view.curves import training_figure

        drawn = json.loads(training_figure(pd.DataFrame(list(rows))).to_json())
        return {"application/vnd.plotly.v1+json": drawn, "text/plain": figures(rows)}
