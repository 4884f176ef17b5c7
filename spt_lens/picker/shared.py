"""What a picker and its pages have in common: the selection and those kept under names, live both ways.

The page owns the selection, and Python hears of it; the last state wins. What makes no sense is answered by what is.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from functools import partial
from typing import Any

import anywidget
import traitlets

from spt_lens.heads import HeadSet
from spt_lens.picker.layers import Chosen, fitting, flat, heads_in, provenance
from spt_lens.picker.sets import Selections, sound
from spt_lens.scores.head_scores import HeadScores


class Shared(anywidget.AnyWidget):
    """The traits that both sides have, and what becomes of a change on either side."""

    _map = traitlets.Dict().tag(sync=True)  # what never changes: see layers.py
    _chosen = traitlets.Dict().tag(sync=True)  # {"heads": flat numbers, "number": of the change}
    _seen = traitlets.Int(0).tag(sync=True)  # the number of the last change of _chosen that Python has taken
    _check = traitlets.Dict().tag(sync=True)
    _auto = traitlets.Bool(False).tag(sync=True)
    _sets = traitlets.List().tag(sync=True)  # kept selections, [{"name": text, "heads": flat numbers}]: see sets.py

    selected: Any = Chosen(help="the chosen heads, a HeadSet")
    name = traitlets.Unicode("")
    selections: Selections
    scores: dict[str, HeadScores]
    lock: threading.RLock
    budget: float
    n_layers: int
    n_heads: int

    def _selection_changed(self) -> None:
        """Told of every change, on whatever thread, once the widget is made."""
        raise NotImplementedError

    def set_state(self, sync_data: dict[str, Any]) -> None:
        """What ipywidgets calls with a page's message."""
        with self.lock:
            super().set_state(sync_data)

    def _fitting(self, heads: Any) -> HeadSet:
        return fitting(heads, self.n_layers, self.n_heads)

    def _selections(self, presets: Mapping[str, HeadSet]) -> Selections:
        about = partial(provenance, budget=self.budget, layers=self.scores)
        return Selections(presets, self.n_heads, self._fitting, about, partial(setattr, self, "_sets"))

    @traitlets.validate("selected")
    def _valid_selection(self, proposal: Any) -> HeadSet:
        heads = self._fitting(proposal["value"])
        return HeadSet(heads.heads, heads.about or provenance(self.name, self.budget, self.scores))

    @traitlets.validate("_chosen")
    def _valid_chosen(self, proposal: Any) -> dict[str, Any]:
        """What a page says it has chosen, or, if that makes no sense, what is chosen."""
        new = proposal["value"]
        number, heads = new.get("number"), heads_in(new.get("heads"), self.n_layers, self.n_heads)
        fine = heads is not None and type(number) is int and number >= 0
        return new if fine else {"heads": flat(self.selected, self.n_heads), "number": self._seen}

    @traitlets.validate("_sets")
    def _valid_sets(self, proposal: Any) -> Any:
        """What a page says it keeps, or, if that makes no sense, what is kept."""
        new = proposal["value"]
        return new if sound(new, self.n_layers, self.n_heads) else self.selections.told()

    @traitlets.observe("_sets")
    def _hear_sets(self, change: Any) -> None:
        self.selections.hear(change["new"], self.n_layers)

    @traitlets.observe("selected")
    def _tell_page(self, change: Any) -> None:
        numbers = flat(change["new"], self.n_heads)
        if numbers != self._chosen["heads"]:
            self._chosen = {"heads": numbers, "number": self._chosen["number"] + 1}
            self._seen = self._chosen["number"]
        self._selection_changed()

    @traitlets.observe("name")
    def _rename(self, change: Any) -> None:
        self.selected = HeadSet(self.selected.heads, {**self.selected.about, "name": change["new"]})

    @traitlets.observe("_chosen")
    def _hear_page(self, change: Any) -> None:
        heads = heads_in(change["new"]["heads"], self.n_layers, self.n_heads)
        try:
            if heads is not None and heads.heads != self.selected.heads:
                self.selected = heads
        finally:  # an observer may fail, or choose otherwise
            self._seen = self._chosen["number"]
