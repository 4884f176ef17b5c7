"""What the page shows of a live check: how far it is, its figures as text, and a sample of replies to read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd

from spt_lens.measure.set_effect import SetEffect
from spt_lens.picker.check_parts import Progress
from spt_lens.picker.layers import flat

NO_CHECK: dict[str, Any] = {"state": "idle", "done": 0.0, "says": "Not checked yet.", "heads": [], "rows": []}
NO_CHECK["replies"] = []
WAITS = "Begins when the selection has stood for a moment and no cell runs …"
OTHER = "Another picker's check of this model is running: this one begins when that one is done."
SAMPLE, LONGEST = 9, 400  # replies that the page gets, and letters of each; `SetEffect.replies` has all of them


class CheckState:
    """Turns the parts of a check into what the page shows. show: is given each new state."""

    def __init__(self, n_heads: int, show: Callable[[dict[str, Any]], None]) -> None:
        self.n_heads, self._show = n_heads, show
        self.result: SetEffect | None = None
        self._state = dict(NO_CHECK)

    def report(self, what: str, value: Any) -> None:
        """As Runner reports: "queued" with the heads, "working" with a Progress, "done" with the result, ..."""
        if what == "queued":  # figures that stand there are of another selection
            self._change("queued", 0.0, WAITS, heads=flat(value, self.n_heads), rows=[], replies=[])
        elif what == "waiting":
            self._change("queued", 0.0, OTHER)
        elif what == "began":
            self._change("running", 0.0, "Begins …")
        elif what == "working" and isinstance(value, Progress):
            self._change("running", value.done, value.says, **shown_of(value.partial))
        elif what == "done":
            self.result = value
            self._change("done", 1.0, says_of(value), **shown_of(value))
        elif what == "failed":
            self._change("failed", 0.0, f"Not checked. {value or type(value).__name__}")
        elif what == "stopped":
            left = " The figures are of the pairs that were read till then." if self._state["rows"] else ""
            self._change("idle", 0.0, f"Stopped.{left}")

    def _change(self, state: str, done: float, says: str, **more: Any) -> None:
        self._state = {**self._state, "state": state, "done": done, "says": says, **more}
        self._show(self._state)


def says_of(effect: SetEffect) -> str:
    """What the figures are of; the figures themselves stand in the rows."""
    n, n_random = len(effect.heads), len(effect.random)
    text = f"{n} head{'s' * (n != 1)} on {effect.n_pairs} pair{'s' * (effect.n_pairs != 1)}"
    text += f", beside {n_random} random set{'s' * (n_random != 1)} of as many" if n_random else ""
    return f"{text}; {effect.n_dialogues} replies to each." if effect.n_dialogues else f"{text}."


def shown_of(effect: SetEffect | None) -> dict[str, Any]:
    """The figures as rows of text, and a sample of replies: those that changed first."""
    if effect is None:
        return {}
    said = effect.replies
    changed = said["gives_in_before"] != said["gives_in_without"]
    sample = pd.concat([said[changed], said[~changed]]).head(SAMPLE).to_dict("records")
    replies = [
        {
            "asked": shortened(each["asked"], 160),
            **{which: shortened(each[which], LONGEST) for which in ("before", "without")},
            **{f"mark_{which}": bool(each[f"gives_in_{which}"]) for which in ("before", "without")},
        }
        for each in sample
    ]
    return {"rows": effect.rows(), "replies": replies}


def shortened(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 2].rstrip()} …"
