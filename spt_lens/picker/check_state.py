"""What the page shows of a live check: its state, and its figures as text."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from spt_lens.measure.check_result import NOT_JUDGED, CheckResult
from spt_lens.picker.check import Progress
from spt_lens.picker.layers import flat

NO_CHECK: dict[str, Any] = {"state": "idle", "done": 0.0, "says": "Not checked yet.", "heads": [], "rows": []}
WAITS = "Begins when the selection has stood for a moment and no cell runs …"
_FIGURES = {
    "recovery": "gap recovered, only these patched",
    "apology_rate": "apologies, these knocked out",
    "truthfulness": "truthful in the end, these knocked out",
}


class CheckState:
    """Turns the steps of a check into what the page shows. show: is given each new state."""

    def __init__(self, n_heads: int, show: Callable[[dict[str, Any]], None]) -> None:
        self.n_heads, self._show = n_heads, show
        self.result: CheckResult | None = None
        self._state = dict(NO_CHECK)

    def report(self, what: str, value: Any) -> None:
        """As StepRunner reports: "queued" with the heads, "working" with a Progress, "done" with the result, ..."""
        if what == "queued":
            # Figures that stand there are of another selection.
            heads = flat(value, self.n_heads)
            self._change(
                state="queued",
                done=0.0,
                says=WAITS,
                heads=heads,
                rows=[],
            )
        elif what == "began":
            self._change(state="running", says="Begins …")
        elif what == "working" and isinstance(value, Progress):
            shown = {} if value.partial is None else {"rows": rows(value.partial)}
            self._change(state="running", done=value.done, says=value.says, **shown)
        elif what == "done":
            self.result = value
            self._change(state="done", done=1.0, says=about(value), rows=rows(value))
        elif what == "failed":
            self._change(state="failed", done=0.0, says=f"Not checked. {value or type(value).__name__}")
        elif what == "stopped":
            self._change(state="idle", done=0.0, says="Stopped.")

    def _change(self, **changes: Any) -> None:
        self._state = {**self._state, **changes}
        self._show(self._state)


def about(result: CheckResult) -> str:
    """What the figures are of; the figures themselves stand in the rows."""
    n, n_random = len(result.heads), len(result.table) - 1
    left_out = len(result.settings.get("left_out", []))
    text = f"{n} head{'s' * (n != 1)} on {result.n_pairs} pairs"
    text += f" ({left_out} left out: no gap)" if left_out else ""
    text += f", beside {n_random} random sets of as many" if n_random else ""
    return text + ("." if result.settings.get("n_dialogues") else f". {NOT_JUDGED.capitalize()}.")


def rows(result: CheckResult) -> list[list[str]]:
    """A line for each figure: its name, without any change, with the chosen heads, and the range of the random sets."""
    before = {"recovery": 0.0, "apology_rate": result.apology_rate_before, "truthfulness": result.truthfulness_before}
    found = []
    for name, title in _FIGURES.items():
        chosen = result.table.loc[result.table["set"] == "chosen", name]
        random = result.table.loc[result.table["set"] == "random", name].dropna()
        own = _text(float(chosen.iloc[0]))
        if name == "recovery" and own and not math.isnan(result.table["low"].iloc[0]):
            own += f" [{result.table['low'].iloc[0]:.2f}, {result.table['high'].iloc[0]:.2f}]"
        ends = dict.fromkeys(map(_text, (random.min(), random.max()))) if len(random) else []
        found.append([title, _text(before[name]), own, " to ".join(ends)])
    return [row for row in found if row[2]]


def _text(value: float) -> str:
    return "" if math.isnan(value) else f"{round(value, 2) + 0.0:.2f}"  # no "-0.00"
