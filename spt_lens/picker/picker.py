"""HeadPicker: an interactive heatmap of head scores in which heads are chosen by hand, as a Jupyter widget.

plotly.js draws the map and the page owns the selection (page/*.js): an outline never waits for Python. Python hears of
one thing, the chosen heads, and the last state wins.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Literal

import traitlets

from spt_lens.checking import a_path, door, share, whole_number
from spt_lens.data.pairs import ContrastPairs
from spt_lens.heads import HeadSet
from spt_lens.measure.set_effect import SetEffect
from spt_lens.model.ranks import warn_caller
from spt_lens.model.view import Model, ModelView
from spt_lens.picker import pages
from spt_lens.picker.check import LiveCheck
from spt_lens.picker.check_state import NO_CHECK, CheckState
from spt_lens.picker.details import HeadDetails
from spt_lens.picker.layers import (
    Layers,
    check_model,
    flat,
    map_payload,
    named_layers,
    named_selections,
    page_provenance,
    sizes_payload,
    words_payload,
)
from spt_lens.picker.runner import Runner, beside, running_loop
from spt_lens.picker.shared import Shared
from spt_lens.saving import write_text
from spt_lens.statistics import heads_within

Theme = Literal["auto", "light", "dark"]
REPORT_PAIRS = 8  # over which a head's panel averages


class HeadPicker(Shared):
    """Choose heads by looking: `picker = spt.HeadPicker(scores, model=model, pairs=pairs); picker`.

    Click a head to choose it, drag a box or a lasso over many, or take the best k, those above a threshold or a preset.
    `picker.selected` is the HeadSet, live both ways: set it and the page follows; `picker.observe(f, "selected")` calls
    `f` at every change, on a thread of the kernel's (not the main one), so `f` must keep off the model. A selection
    above the budget is allowed, and said. `picker.selections` are those kept under names, as a dict of HeadSets.

    Resting on a head, or reaching it by keys, shows it and chooses nothing. The live check and what is shown of a head
    run on the model in short parts between your cells, never beside one. The model is left as it was.

    Args:
        scores: HeadScores, or several of one model as a list or by name: layers to switch between or see side by side.
        model, pairs: for the live check and for a head's panel; both or none.
        chosen: heads to begin with.
        budget: the share of all heads that is meant to be the most, above 0 and up to 1 (paper: 3 to 4 %).
        presets: selections to choose from by name, e.g. a colleague's.
        auto_check: check after every change, when it has stood for half a second.
        check_pairs: how many of the pairs a check takes, from the first. n_random: how many matched random sets.
        projections: what tuning will move, for the share of parameters; see `HeadSet.parameters`.
        theme: "light", "dark", or "auto" for that of the page.
        name: of the selection; it is saved with it.

    Raises: TypeError for what is no HeadScores, ContrastPairs or HeadSet; ValueError for scores of different shapes or
    of another shape than the model, heads that have no score, a budget outside of (0, 1], only one of model and pairs,
    pairs that do not fit the model, an unknown theme.
    """

    _esm = pages.script()
    _css = pages.style()

    @door
    def __init__(
        self,
        scores: Layers,
        model: Model | None = None,
        pairs: ContrastPairs | None = None,
        chosen: HeadSet | str | Collection[tuple[int, int] | str] | None = None,
        budget: float = 0.05,
        presets: Mapping[str, HeadSet | str] | None = None,
        auto_check: bool = False,
        check_pairs: int = 32,
        n_random: int = 3,
        projections: str = "auto",
        theme: Theme = "auto",
        name: str = "",
    ) -> None:
        self.lock = threading.RLock()
        self.scores = named_layers(scores)
        first = next(iter(self.scores.values()))
        self.n_layers, self.n_heads, self.model_name = first.n_layers, first.n_heads, first.model_name
        if (model is None) != (pairs is None):
            raise ValueError("the live check needs a model and its pairs: give both, or neither")
        whole_number(check_pairs, "check_pairs")
        self.budget = share(budget, "budget")
        self._live: LiveCheck | None = None
        self._details: HeadDetails | None = None
        view = None if model is None else ModelView(model)
        if view is not None and pairs is not None:
            check_model(view, pairs, first)
            self._live = LiveCheck(view.model, pairs[:check_pairs], n_random=n_random)
            self._details = HeadDetails(view.model, pairs[:REPORT_PAIRS], self._live)
        why = "Give the picker model= and pairs= for this."
        given = named_selections(presets, self.n_layers, self.n_heads)
        about = map_payload(self.scores, self.budget, given) | {
            "sizes": None if view is None else sizes_payload(view, projections),
            **dict.fromkeys(("canCheck", "canShow"), view is not None),
            **dict.fromkeys(("whyNoCheck", "whyNoShow"), why),
            "words": words_payload(pairs),
            "canReply": self._live is not None and self._live.can_reply,
            "plotly": pages.plotly_version(),
            "theme": theme,
            "page": False,
        }
        start = self._fitting(HeadSet() if chosen is None else chosen)
        self.selections = self._selections(given)
        super().__init__(
            _map=about,
            _chosen={"heads": flat(start, self.n_heads), "number": 0},
            _check=NO_CHECK,
            _auto=auto_check and view is not None,
            name=name,
            selected=start,
        )
        loop = running_loop()
        self._state = CheckState(self.n_heads, lambda state: setattr(self, "_check", state))
        self._checks = Runner(loop, self._state.report, on=None if view is None else view.model)
        self._reports = Runner(loop, lambda what, told: self.send(told) if isinstance(told, dict) else None)
        self.on_msg(self._hear)
        if self._auto and start:
            self._start_check(delay=0.0)

    @door
    def check(self, progress: bool = True, replies: bool = False) -> SetEffect:
        """The live check of the chosen heads, now, to its end; the page shows it too.

        replies: also let the model reply with the heads knocked out, and judge that; `.replies` has what it says. That
        takes much longer. Raises: ValueError without a model (or after `close`), without any chosen heads, for replies
        where there are no dialogues or no judge, and as LiveCheck.run does.
        """
        if self._live is None:
            raise ValueError("the live check needs the model: HeadPicker(scores, model=model, pairs=pairs)")
        self._checks.cancel()
        result = self._live.run(self.selected, progress=progress, replies=replies)
        self._state.report("queued", result.heads)
        self._state.report("done", result)
        return result

    @property
    def last_check(self) -> SetEffect | None:
        """The last check that came to its end, of whatever heads were chosen then."""
        return self._state.result

    def summary(self) -> str:
        """One line: how many heads, and whether that is within the budget."""
        n, chosen = self.n_layers * self.n_heads, len(self.selected)
        over = "over" if chosen > heads_within(self.budget, n) else "within"
        return f"{chosen} of {n} heads ({chosen / n:.1%}), {over} the budget of {100 * self.budget:.3g} %"

    @door
    def save(self, path: str | Path, name: str | None = None) -> Path:
        """Writes the chosen heads with where they came from, as JSON; `HeadSet.load` reads it as well.

        name: of the selection; default the picker's own, else what the selection has, else that of the file. Raises
        ValueError if no head is chosen; OSError if the file can't be written.
        """
        if not self.selected:
            raise ValueError("no heads are chosen: there is nothing to save")
        about = self.selected.about
        name = name or self.name or str(about.get("name") or Path(path).stem)
        HeadSet(self.selected.heads, {**about, "name": name}).save(path)
        self.name = name
        return Path(path)

    def load(self, path: str | Path) -> HeadSet:
        """Chooses the heads that `save` (or `HeadSet.save`) wrote, with their name; another model's with a warning.

        Raises: FileNotFoundError; ValueError for another file, or heads that have no score here. Nothing changes then.
        """
        heads = self._fitting(HeadSet.load(path))
        if (other := heads.about.get("model", self.model_name)) != self.model_name:
            warn_caller(f"{path} was chosen on {other}, these scores are of {self.model_name}")
        self.name = str(heads.about.get("name") or "")
        self.selected = heads
        return heads

    def to_html(self) -> str:
        """The picker as a page of its own, about 2 MB: no network, no kernel, no live check. Clicks choose heads in it,
        and the selection can be saved as a file that `HeadSet.load` reads, or copied as text."""
        about = {**self._map, **dict.fromkeys(("canCheck", "canShow", "canReply"), False), "page": True}
        about |= {"whyNoCheck": "The live check needs a kernel.", "whyNoShow": "More of it in a notebook."}
        # A check that is under way goes on here, not in the page, and half of one is none.
        check = {**self._check, "state": "idle"} if self._check["state"] == "done" else NO_CHECK
        about["selection"] = page_provenance(self.name, self.budget, self.scores)
        state = {"_map": about, "_chosen": self._chosen, "_seen": 0, "_check": check, "_auto": False}
        state["_sets"] = self._sets
        return pages.page_html(f"Heads of {self.model_name}", state)

    def write_html(self, path: str | Path) -> Path:
        """Writes `to_html` to a file. Raises OSError when it can't be written."""
        return write_text(a_path(path), self.to_html())

    def close(self) -> None:
        """Takes it off all pages and lets go of the model: ipywidgets keeps every widget until it is closed."""
        if hasattr(self, "_checks"):  # Widget.__del__ calls it too, whatever came of __init__
            self._live = self._details = None
            for runner in (self._checks, self._reports):
                runner.cancel()
                runner.let_go()
        super().close()

    def _selection_changed(self) -> None:
        """On whatever thread: notes what is wanted. A check of what was chosen before is of no use now."""
        if not hasattr(self, "_checks"):  # while the widget is made
            return
        if self._auto and self.selected:
            self._start_check(delay=0.5)
        else:
            self._checks.cancel()

    @traitlets.observe("_auto")
    def _auto_changed(self, change: Any) -> None:
        if change["new"] and hasattr(self, "_checks") and self.selected:
            self._start_check(delay=0.0)

    def _start_check(self, delay: float, replies: bool = False) -> None:
        live, heads, details = self._live, self.selected, self._details
        if live is not None:
            self._checks.start(lambda: beside(live.parts(heads, replies), live.view, lambda: details), delay, heads)

    def _hear(self, widget: Any, message: Any, buffers: Any) -> None:
        """What a page asks for, on a thread of the kernel's."""
        kind = message.get("kind") if isinstance(message, dict) else None
        if kind == "plotly":
            self.send({"kind": "plotly"}, buffers=[pages.plotly_gzip()])
        elif kind in ("check", "replies"):
            self._start_check(delay=0.0, replies=kind == "replies")
        elif kind == "stop":
            self._checks.cancel()
        elif kind == "details" and self._details is not None and (work := self._details.asked(message)):
            self._reports.start(work)

    def __repr__(self) -> str:
        return f"HeadPicker({', '.join(self.scores)}; {self.summary()}: {self.selected})"

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        """The widget; for viewers without widgets a picture of the map, which says that it is one."""
        data, *metadata = super()._repr_mimebundle_(**kwargs) or ({},)
        table = pages.fallback_html(next(iter(self.scores.values())), self.selected)
        return ({**data, "text/html": table, "text/plain": repr(self)}, *metadata)
