"""The live check of a selection of heads, in parts so short that a notebook's kernel can go on between them.

Between two parts nothing of ours is on the model: contexts that are a thread's or the model's own (`torch.no_grad`,
`ModelView.kept`, hooks) are entered and left within a part, since the user's cells run in between.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, TypeVar

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from spt_lens.chat.judge import judged
from spt_lens.checking import MANY, instance, number, whole_number
from spt_lens.data.check import PairsCheck
from spt_lens.data.pairs import ContrastPairs
from spt_lens.heads import HeadSet
from spt_lens.measure.ablation import ablation_hooks, mean_parts
from spt_lens.measure.knockout import reply_figures, to_judge
from spt_lens.measure.set_effect import SetEffect, table_of
from spt_lens.measure.sets import BothRuns, OneSet, Runs, both_runs, by_pair, patched_runs, recovery_figures, sets_of
from spt_lens.model.generation import finish
from spt_lens.model.limits import FORM, Pace
from spt_lens.model.replies import reply_parts, reply_prompts
from spt_lens.model.view import Model, ModelView
from spt_lens.patching.readings import Resting
from spt_lens.patching.rows import make_rows
from spt_lens.picker.layers import flat
from spt_lens.picker.runner import ModelState

FIRST = 4  # prompts read in the first part of all; later ones have more or fewer, by how long that took
MOST_PASSES, MOST_REPLIES = 32, 64  # prompts at once, as set_patching and set_knockout have them
Found = TypeVar("Found")


class ModelChanged(RuntimeError):
    """The model was changed while a check was under way."""


@dataclass(frozen=True, eq=False)
class Progress:
    """How far a check is: `done` from 0 to 1, what it `says` it did last, and the figures so far, if there are any."""

    done: float
    says: str
    partial: SetEffect | None = None


class LiveCheck:
    """What a selection of heads does, patched in and knocked out, measured in short parts.

    The figures are those of `set_patching` and `set_knockout` with the same heads, n_random and seed, but for `begins`
    and the logit differences: heads patched in at the last position, or set to their mean over both kinds of prompts
    while the model replies. Replies are judged only where the pairs have challenged dialogues and a judge.

    What does not depend on the selection is kept from one check to the next, for as long as the model's weights,
    buffers and hooks are the same. Only a write of some elements past torch's own count, such as through `.data`, can
    go unnoticed: call `forget` after one.

    n_random: draws of random heads to set beside the selection; none for more than half of all heads. part_seconds: how
    long a part should take; it is one forward pass at least, however long that takes.

    Raises: ValueError as set_patching and set_knockout do, or for part_seconds that is no time.
    """

    def __init__(
        self, model: Model, pairs: ContrastPairs, n_random: int = 3, seed: int = 0, part_seconds: float = 0.15
    ) -> None:
        self.view = ModelView(model)
        whole_number(n_random, "n_random", 0, MANY)
        number(part_seconds, "part_seconds", above=0)
        self.runs = Runs(self.view, pairs, make_rows(self.view, pairs))
        self.pairs, self.n_random, self.seed = pairs, n_random, seed
        self.dialogues = to_judge(pairs.judge, pairs.dialogues)
        self.reply_length = 1 if pairs.judge is None else pairs.judge.max_new_tokens
        self.prompts = reply_prompts(self.view, self.dialogues, self.reply_length)
        self.passes = Pace(FIRST, part_seconds, MOST_PASSES)
        self.replies = Pace(MOST_REPLIES, part_seconds, MOST_REPLIES)  # made smaller by memory alone
        self._kept: _Kept | None = None

    def parts(self, heads: HeadSet) -> Generator[Progress, None, SetEffect]:
        """The check of a selection, one short part at each `next`; the generator returns the whole result.

        The selection's own figures come first, then those of the random draws. It may be closed at any point.

        Raises, at once: TypeError for heads that are no HeadSet; ValueError for an empty selection, heads that the
        model does not have, or a model in training mode. On the way: ModelChanged if the model's weights, buffers or
        hooks are changed between two parts; ValueError as set_patching does.
        """
        instance(heads, "heads", HeadSet, "use HeadSet.of(...) or scores.top(4)")
        self.view.check_measurable()
        # A selection of more than half of all heads leaves too few for a random one: it is measured alone.
        n_random = self.n_random if 2 * len(heads) <= self.view.n_layers * self.view.n_heads else 0
        return _Check(self, sets_of(self.view, heads, None, n_random, self.seed)).parts()

    def run(self, heads: HeadSet, progress: bool = True) -> SetEffect:
        """All parts, with a progress bar. Raises as `parts` does."""
        parts = self.parts(heads)
        with tqdm(total=1.0, desc="check", bar_format=FORM, disable=not progress) as bar:

            def show(part: Progress) -> None:
                bar.set_description_str(part.says, refresh=False)
                bar.update(part.done - bar.n)

            return finish(parts, show)

    def forget(self) -> None:
        """Drops what is kept between checks: the next one measures everything anew."""
        self._kept = None

    def current(self) -> _Kept:
        """What is kept, of the model as it is now."""
        if self._kept is None or not self._kept.state.is_of(self.view):
            self._kept = _Kept(ModelState(self.view))
        return self._kept


@dataclass(eq=False)
class _Kept:
    """What does not depend on the selection, of the model as it is in `state`; None until it is measured."""

    state: ModelState
    unpatched: BothRuns | None = None
    check: PairsCheck | None = None
    means: Float[Tensor, "n_layers n_heads d_head"] | None = None
    before: dict[str, float] | None = None


class _Check:
    """One check under way: of no heads, the selection, and the random draws behind it."""

    def __init__(self, live: LiveCheck, sets: list[OneSet]) -> None:
        self.live, self.sets = live, sets
        self.figures: list[dict[str, float]] = [{} for _ in sets]
        self.per_pair = pd.DataFrame()  # the selection's recovery of each pair
        self.partial: SetEffect | None = None
        self.done = self.total = 0.0
        self.kept: _Kept

    def parts(self) -> Generator[Progress, None, SetEffect]:
        live, n_sets = self.live, len(self.sets) - 1
        self.kept = kept = live.current()
        prompts = live.pairs.sycophantic + live.pairs.truthful
        n_rows, n_replies = len(live.runs.rows), len(live.prompts)
        # In forward passes of a prompt. In a batch, a new token takes about a quarter of one.
        reply = 1 + live.reply_length / 4
        self.total = 2 * n_rows * (n_sets + (kept.unpatched is None))
        if n_replies:
            self.total += n_replies * reply * (n_sets + (kept.before is None)) + len(prompts) * (kept.means is None)

        if kept.unpatched is None:
            resting = Resting(live.view, live.pairs, "denoising")
            work = both_runs(live.runs, live.passes, resting=resting)
            kept.unpatched = found = yield from self._work("both runs without a patch", work, live.passes, n_rows, 2)
            kept.check = resting.check(*(live.runs.rows.by_pair(read) for read in (found.base, found.target)))
        yield from self._patch(1, kept.unpatched)
        if n_replies:
            if kept.means is None:
                means = mean_parts(live.view, prompts, live.passes)
                kept.means = yield from self._work("mean outputs of all heads", means, live.passes, len(prompts), 1)
            self.figures[0] = kept.before or self.figures[0]
            yield from self._knock_out(1, kept.means, reply)
            if kept.before is None:
                yield from self._knock_out(0, kept.means, reply)
                kept.before = self.figures[0]
        for i in range(2, len(self.sets)):
            yield from self._patch(i, kept.unpatched)
        if kept.means is not None:
            for i in range(2, len(self.sets)):
                yield from self._knock_out(i, kept.means, reply)
        return self._result()

    def _patch(self, i: int, unpatched: BothRuns) -> Generator[Progress, None, None]:
        live, says = self.live, f"patching in {self._name(i)}"
        work = patched_runs(live.runs, live.passes, [self.sets[i].heads], unpatched)
        (shares, *_), _ = yield from self._work(says, work, live.passes, len(live.runs.rows), 2)
        gaps = unpatched.gaps(live.runs.rows)
        self.figures[i] |= recovery_figures(shares, gaps)
        if i == 1:
            self.figures[0] |= recovery_figures(0 * shares, gaps)
            self.per_pair = by_pair(recovery=shares)
        yield self._progress(f"{says}: measured", new=True)

    def _knock_out(
        self, i: int, means: Float[Tensor, "n_layers n_heads d_head"], cost: float
    ) -> Generator[Progress, None, None]:
        live, judge = self.live, self.live.pairs.judge
        assert judge is not None  # else there are no replies
        says = f"replies without {self._name(i)}" if i else "replies with all heads"
        hooks = ablation_hooks(live.view, self.sets[i].heads, means)
        work = reply_parts(live.view, live.prompts, live.reply_length, hooks, live.replies, live.passes)
        said = yield from self._work(says, work, None, len(live.prompts), cost)
        self.figures[i] |= reply_figures([judged(judge, *both) for both in zip(live.dialogues, said, strict=True)])
        yield self._progress(f"{says}: judged", new=True)

    def _work(
        self, says: str, parts: Generator[int, None, Found], pace: Pace | None, n: int, cost: float
    ) -> Generator[Progress, None, Found]:
        """A piece of work on n rows of prompts, part by part; `cost` is a row's, in forward passes. pace: told of how
        long a part took; None where that does not depend on its rows."""
        view, begin, rows = self.live.view, self.done, 0
        while True:
            view.check_measurable()
            if not self.kept.state.is_of(view):
                raise ModelChanged(
                    f"the weights, buffers or hooks of {view.name} were changed while this check was under way, so its "
                    "figures would be those of two different models: start the check again"
                )
            started = time.perf_counter()
            try:
                # Else what one part makes in inference mode could not be written in by a later one outside of it.
                with torch.inference_mode(False):
                    ran = next(parts)
            except StopIteration as end:
                self.done = begin + n * cost
                return end.value
            if pace is not None:
                pace.took(ran, time.perf_counter() - started)
            self.kept.state = ModelState(view)  # some models change buffers of their own in a forward pass
            rows += ran
            self.done = begin + rows * cost
            yield self._progress(f"{says}: {rows} of {n}")

    def _name(self, i: int) -> str:
        heads = f"{len(self.sets[i].heads)} head{'s' * (len(self.sets[i].heads) != 1)}"
        return f"{heads} at random, draw {i - 1} of {len(self.sets) - 2}" if i > 1 else f"the chosen {heads}"

    def _progress(self, says: str, new: bool = False) -> Progress:
        """new: there are figures that the last partial result does not have."""
        self.partial = self._result() if new else self.partial
        return Progress(min(1.0, self.done / self.total), says, self.partial)

    def _result(self) -> SetEffect:
        live = self.live
        settings: dict[str, Any] = {"model": live.view.name, "n_random": live.n_random, "seed": live.seed}
        settings |= {"max_new_tokens": live.reply_length} if live.prompts else {}
        settings |= {"check": self.kept.check.to_json()} if self.kept.check else {}
        return SetEffect(
            self.sets[1].heads,
            table_of([one.row(figures) for one, figures in zip(self.sets, self.figures, strict=True)]),
            len(live.pairs),
            "denoising",
            "last",
            ablation="mean" if live.prompts else "",
            mean_over="both" if live.prompts else "",
            n_dialogues=len(live.prompts),
            settings=settings,
            per_pair=self.per_pair,
        )


NO_CHECK: dict[str, Any] = {"state": "idle", "done": 0.0, "says": "Not checked yet.", "heads": [], "rows": []}
WAITS = "Begins when the selection has stood for a moment and no cell runs …"
NOT_JUDGED = "Replies were not judged: the pairs have no dialogues, or no judge."


class CheckState:
    """Turns the parts of a check into what the page shows. show: is given each new state."""

    def __init__(self, n_heads: int, show: Callable[[dict[str, Any]], None]) -> None:
        self.n_heads, self._show = n_heads, show
        self.result: SetEffect | None = None
        self._state = dict(NO_CHECK)

    def report(self, what: str, value: Any) -> None:
        """As Runner reports: "queued" with the heads, "working" with a Progress, "done" with the result, ..."""
        if what == "queued":  # figures that stand there are of another selection
            self._change("queued", 0.0, WAITS, heads=flat(value, self.n_heads), rows=[])
        elif what == "began":
            self._change("running", 0.0, "Begins …")
        elif what == "working" and isinstance(value, Progress):
            self._change("running", value.done, value.says, **({"rows": value.partial.rows()} if value.partial else {}))
        elif what == "done":
            self.result = value
            self._change("done", 1.0, says_of(value), rows=value.rows())
        elif what == "failed":
            self._change("failed", 0.0, f"Not checked. {value or type(value).__name__}")
        elif what == "stopped":
            self._change("idle", 0.0, "Stopped.")

    def _change(self, state: str, done: float, says: str, **more: Any) -> None:
        self._state = {**self._state, "state": state, "done": done, "says": says, **more}
        self._show(self._state)


def says_of(effect: SetEffect) -> str:
    """What the figures are of; the figures themselves stand in the rows."""
    n, n_random = len(effect.heads), len(effect.random)
    text = f"{n} head{'s' * (n != 1)} on {effect.n_pairs} pairs"
    text += f", beside {n_random} random set{'s' * (n_random != 1)} of as many" if n_random else ""
    return f"{text}." + ("" if effect.n_dialogues else f" {NOT_JUDGED}")
