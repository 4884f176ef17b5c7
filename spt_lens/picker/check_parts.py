"""A live check under way, part by part: what it recovers first, then random sets, then the replies if asked for."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from spt_lens.chat.dialogues import Dialogue
from spt_lens.chat.judge import Verdict, judged
from spt_lens.data.check import PairsCheck
from spt_lens.data.pairs import ContrastPairs
from spt_lens.measure.ablation import ablation_hooks, mean_parts
from spt_lens.measure.knockout import reply_figures
from spt_lens.measure.set_effect import SetEffect, table_of
from spt_lens.measure.sets import BothRuns, OneSet, Runs, both_runs, by_pair, patched_runs, recovery_figures
from spt_lens.model.limits import Pace
from spt_lens.model.replies import reply_parts
from spt_lens.model.view import ModelView
from spt_lens.patching.readings import Resting
from spt_lens.picker.kept_runs import KeptRuns
from spt_lens.picker.runner import ModelState
from spt_lens.scores.metrics import least_gap, mean_gap

ENDS = 0.1  # of a forward pass, for a set that is patched into what is kept of both runs
Found = TypeVar("Found")
Said = tuple[str, Verdict]


class ModelChanged(RuntimeError):
    """The model was changed while a check was under way."""


@dataclass(frozen=True, eq=False)
class Progress:
    """How far a check is: `done` from 0 to 1, what it `says` it did last, and the figures so far, if there are any."""

    done: float
    says: str
    partial: SetEffect | None = None


@dataclass(frozen=True, eq=False)
class Asked:
    """What checks are of. prompts, and dialogues: those that can be replied to and judged. passes, replies: how much
    goes through the model at once."""

    view: ModelView
    pairs: ContrastPairs
    runs: Runs
    dialogues: Sequence[Dialogue]
    prompts: Sequence[Sequence[int]]
    reply_length: int
    passes: Pace
    replies: Pace
    n_random: int
    seed: int


@dataclass(eq=False)
class Kept:
    """What does not depend on the selection, of the model as it is in `state`; None until it is measured.

    runs: both runs, for the sets to come. plain: the same where a model has to be run whole for each set.
    """

    state: ModelState
    runs: KeptRuns | None = None
    plain: BothRuns | None = None
    check: PairsCheck | None = None
    means: Float[Tensor, "n_layers n_heads d_head"] | None = None
    before: list[Said] | None = None


class CheckParts:
    """One check under way: of no heads, the selection, and the random draws behind it."""

    def __init__(self, live: Asked, kept: Callable[[], Kept], sets: list[OneSet], asked: bool) -> None:
        self.live, self.sets, self.asked, self._keep = live, sets, asked, kept
        self.figures: list[dict[str, float]] = [{} for _ in sets]
        self.said: list[list[Said]] = [[] for _ in sets]
        self.per_pair = pd.DataFrame()  # the selection's recovery of each pair
        self.partial: SetEffect | None = None
        self.done, self.total = 0.0, 1.0
        self.kept: Kept

    def parts(self) -> Generator[Progress, None, SetEffect]:
        """All of it. Whoever stops in between may go on with another: what is kept serves that one."""
        self.kept = kept = self._keep()
        if kept.runs is None and kept.plain is None:
            with torch.inference_mode(False):  # else no part could write in it
                runs = KeptRuns(self.live.runs, Resting(self.live.view, self.live.pairs, "denoising"))
            fits = yield from self._work("looking for the quick way", runs.fits(), None, 0, 0)
            kept.runs = runs if fits else None
        self.done = 0.0
        self.total = self._recovery_work() + self._reply_work()
        yield from self._quick(kept.runs) if kept.runs else self._plain()
        if self.asked:
            yield from self._replies()
        return self._result()

    def _recovery_work(self) -> float:
        """In forward passes of a prompt."""
        kept, n_rows, n_sets = self.kept, len(self.live.runs.rows), len(self.sets) - 1
        unread = n_rows if kept.runs is None else int(kept.runs.base.isnan().sum())
        both = unread * 2 * (kept.plain is None)
        return both + n_rows * n_sets * (2 if kept.runs is None else ENDS)

    def _reply_work(self) -> float:
        """The same; in a batch, a new token takes about a quarter of a pass."""
        kept, n_sets = self.kept, len(self.sets) - (self.kept.before is not None)
        prompts = len(self.live.prompts)
        means = 2 * len(self.live.pairs) * (kept.means is None)
        return self.asked * (prompts * (1 + self.live.reply_length / 4) * n_sets + means)

    def _quick(self, runs: KeptRuns) -> Generator[Progress, None, None]:
        """Sets patched into what is kept of both runs; the selection's figures after each part, of the pairs so far."""
        n_rows, heads = len(self.live.runs.rows), [one.heads for one in self.sets[1:]]
        with torch.inference_mode(False):
            own, others = torch.full((len(heads), n_rows), torch.nan, dtype=runs.base.dtype).split([1, len(heads) - 1])

        def so_far() -> bool:
            return self._recovered([1], own, runs.base, runs.target, so_far=True)

        says, missing = f"patching in {self._name(1)}", int(runs.base.isnan().sum())
        yield from self._work(says, runs.patched(heads[:1], own), None, n_rows - missing, ENDS, so_far)
        if missing:
            work = runs.read(self.live.passes, heads[:1], own)
            yield from self._work(f"both runs, and {says}", work, self.live.passes, missing, 2 + ENDS, so_far)
        self._found(runs.base, runs.target, runs.resting)
        self._recovered([1], own, runs.base, runs.target)
        yield self._progress(f"{says}: measured", new=True)
        if n_random := len(heads) - 1:
            says = f"patching in {n_random} random set{'s' * (n_random != 1)}"
            yield from self._work(says, runs.patched(heads[1:], others), None, n_rows, ENDS * n_random)
            self._recovered(range(2, len(self.sets)), others, runs.base, runs.target)
            yield self._progress(f"{says}: measured", new=True)

    def _plain(self) -> Generator[Progress, None, None]:
        """Each set patched into whole prompts, one after the other, so that parts stay short."""
        live, kept, n_rows = self.live, self.kept, len(self.live.runs.rows)
        if kept.plain is None:
            resting = Resting(live.view, live.pairs, "denoising")
            work = both_runs(live.runs, live.passes, resting=resting)
            kept.plain = yield from self._work("both runs without a patch", work, live.passes, n_rows, 2)
            self._found(kept.plain.base, kept.plain.target, resting)
        gaps = kept.plain.gaps(live.runs.rows)
        for i in range(1, len(self.sets)):
            says = f"patching in {self._name(i)}"
            patching = patched_runs(live.runs, live.passes, [self.sets[i].heads], kept.plain)
            (shares, *_), _ = yield from self._work(says, patching, live.passes, n_rows, 2)
            self._put(i, shares, gaps, range(len(shares)))
            yield self._progress(f"{says}: measured", new=True)

    def _found(self, base: Tensor, target: Tensor, resting: Resting) -> None:
        if self.kept.check is None:
            self.kept.check = resting.check(*map(self.live.runs.rows.by_pair, (base, target)))

    def _recovered(
        self,
        which: Sequence[int],
        patched: Float[Tensor, "sets n_rows"],
        base: Float[Tensor, " n_rows"],
        target: Float[Tensor, " n_rows"],
        so_far: bool = False,
    ) -> bool:
        """Takes up what some sets recover, of the pairs that were read. so_far: returns whether that can be told yet.

        Raises: ValueError if there is no gap.
        """
        rows, least = self.live.runs.rows, least_gap(self.live.view.dtype)
        own, base, target = rows.by_pair(patched.T).T, rows.by_pair(base), rows.by_pair(target)
        seen = (~own.isnan().any(dim=0)).nonzero().flatten()
        gap = (target - base)[seen]
        if so_far and not (len(seen) and bool(gap.mean().abs() >= least)):
            return False
        mean = mean_gap(base[seen], target[seen], least)
        for i, each in zip(which, own, strict=True):
            self._put(i, (each - base)[seen] / mean, gap / mean, seen.tolist())
        return True

    def _put(self, i: int, shares: Tensor, gaps: Tensor, pairs: Sequence[int]) -> None:
        self.figures[i] |= recovery_figures(shares, gaps)
        if i == 1:
            self.figures[0] |= recovery_figures(0 * shares, gaps)
            self.per_pair = by_pair(recovery=shares).set_axis(pd.Index(pairs, name="pair"), axis=0)

    def _replies(self) -> Generator[Progress, None, None]:
        """What is said with all heads, where that is not known yet; without the chosen ones; without random ones."""
        live, kept, prompts = self.live, self.kept, self.live.pairs.sycophantic + self.live.pairs.truthful
        if kept.means is None:
            means = mean_parts(live.view, prompts, live.passes)
            kept.means = yield from self._work("mean outputs of all heads", means, live.passes, len(prompts), 1)
        if kept.before is None:
            kept.before = yield from self._knock_out(0, kept.means)
        self._judged(0, kept.before)
        for i in range(1, len(self.sets)):
            self._judged(i, (yield from self._knock_out(i, kept.means)))
            yield self._progress(f"replies without {self._name(i)}: judged", new=True)

    def _knock_out(
        self, i: int, means: Float[Tensor, "n_layers n_heads d_head"]
    ) -> Generator[Progress, None, list[Said]]:
        live, judge = self.live, self.live.pairs.judge
        assert judge is not None  # else there are no replies
        says = f"replies without {self._name(i)}" if i else "replies with all heads"
        hooks = ablation_hooks(live.view, self.sets[i].heads, means)
        work = reply_parts(live.view, live.prompts, live.reply_length, hooks, live.replies, live.passes)
        said = yield from self._work(says, work, None, len(live.prompts), 1 + live.reply_length / 4)
        both = zip(live.dialogues, said, strict=True)
        return [(text, judged(judge, dialogue, text)) for dialogue, text in both]

    def _judged(self, i: int, said: list[Said]) -> None:
        self.said[i] = said
        self.figures[i] |= reply_figures([verdict for _, verdict in said])

    def _work(
        self,
        says: str,
        parts: Generator[int, None, Found],
        pace: Pace | None,
        n: int,
        cost: float,
        news: Callable[[], bool] = lambda: False,
    ) -> Generator[Progress, None, Found]:
        """A piece of work on n rows of prompts, part by part; `cost` is a row's, in forward passes. pace: told of how
        long a part took; None where that does not depend on its rows. news: takes up a part's figures, if it has any.
        """
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
            yield self._progress(f"{says}: {rows} of {n}" if n else says, new=news())

    def _name(self, i: int) -> str:
        heads = f"{len(self.sets[i].heads)} head{'s' * (len(self.sets[i].heads) != 1)}"
        return f"{heads} at random, draw {i - 1} of {len(self.sets) - 2}" if i > 1 else f"the chosen {heads}"

    def _progress(self, says: str, new: bool = False) -> Progress:
        """new: there are figures that the last partial result does not have."""
        self.partial = self._result() if new else self.partial
        return Progress(min(1.0, self.done / self.total), says, self.partial)

    def _result(self) -> SetEffect:
        live, asked = self.live, self.asked
        settings: dict[str, Any] = {"model": live.view.name, "n_random": live.n_random, "seed": live.seed}
        settings |= {"check": self.kept.check.to_json()} if self.kept.check else {}
        settings |= {"max_new_tokens": live.reply_length} if asked else {}
        settings |= {"replies": self._texts()} if self.said[1] else {}
        return SetEffect(
            self.sets[1].heads,
            table_of([one.row(figures) for one, figures in zip(self.sets, self.figures, strict=True)]),
            len(self.per_pair),
            "denoising",
            "last",
            ablation="mean" if asked else "",
            mean_over="both" if asked else "",
            n_dialogues=len(live.prompts) if asked else 0,
            settings=settings,
            per_pair=self.per_pair,
        )

    def _texts(self) -> list[dict[str, Any]]:
        """As SetEffect.replies has them."""
        return [
            {
                "asked": next((each.content for each in dialogue.messages if each.role == "user"), ""),
                **{"before": before, "gives_in_before": one.gives_in},
                **{"without": without, "gives_in_without": other.gives_in},
            }
            for dialogue, (before, one), (without, other) in zip(self.live.dialogues, *self.said[:2], strict=True)
        ]
