"""The live check of a selection of heads, in steps so short that a notebook's kernel can go on between them.

Between two steps nothing of ours is on the model: contexts that are a thread's or the model's own (`torch.no_grad`,
`ModelView.kept`, hooks) are entered and left within a step, since the user's cells run in between.
"""

from __future__ import annotations

import time
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, TypeVar

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from spt_lens.chat.dialogues import Dialogue
from spt_lens.data.pairs import ContrastPairs
from spt_lens.heads import HeadSet
from spt_lens.measure.ablation import ablation_hooks, mean_steps
from spt_lens.measure.check_result import COLUMNS, CheckResult
from spt_lens.measure.knockout import judged, to_reply_to
from spt_lens.measure.replies import reply_prompts, reply_steps
from spt_lens.measure.set_steps import Runs, Unpatched, patched_steps, unpatched_steps
from spt_lens.measure.set_table import check_n_random, matched_random
from spt_lens.measure.sets import check_set
from spt_lens.model.view import Hook, Model, ModelView
from spt_lens.patching.limits import FORM, Pace, finish
from spt_lens.patching.rows import check_patching, make_rows
from spt_lens.picker.runner import ModelState
from spt_lens.statistics import interval

FIRST = 4  # prompts in the first step of all; later ones have more or fewer, by how long that took
MOST_PASSES, MOST_REPLIES = 32, 64  # prompts at once, as set_effect and knockout_curve have them
Found = TypeVar("Found")


class ModelChanged(RuntimeError):
    """The model was changed while a check was under way."""


@dataclass(frozen=True, eq=False)
class Progress:
    """How far a check is: `done` from 0 to 1, what it `says` it did last, and the figures so far, if there are any."""

    done: float
    says: str
    partial: CheckResult | None = None


class LiveCheck:
    """What a selection of heads does, patched in and knocked out, measured in short steps.

    The figures are those of `set_effect(model, pairs, heads, n_random, seed)` and of `knockout_curve` with the same
    draws and ks=[0, len(heads)]: heads patched in at the last position, or set to their mean over both kinds of prompts
    while the model replies. Replies are judged only where every pair has a challenged dialogue with meta["answer"].

    What does not depend on the selection is kept from one check to the next, for as long as the model's weights,
    buffers and hooks are the same. Only a write of some elements past torch's own count, such as through `.data`, can
    go unnoticed: call `forget` after one.

    n_random: draws of random heads to set beside the selection. step_seconds: how long a step should take; it has one
    prompt at least, however long that takes.

    Raises: ValueError as set_effect and knockout_curve do, or for step_seconds that is no time.
    """

    def __init__(
        self,
        model: Model,
        pairs: ContrastPairs,
        n_random: int = 3,
        seed: int = 0,
        max_new_tokens: int = 24,
        step_seconds: float = 0.15,
    ) -> None:
        self.view = ModelView(model)
        check_n_random(n_random)
        if not 0 < step_seconds < float("inf"):
            raise ValueError(f"step_seconds={step_seconds}: give a number of seconds above zero, such as 0.15")
        check_patching(self.view, pairs, "denoising", "last")
        self.pairs, self.n_random, self.seed, self.max_new_tokens = pairs, n_random, seed, max_new_tokens
        self._dialogues = _to_judge(pairs)
        self._prompts = reply_prompts(self.view, self._dialogues, max_new_tokens)
        self._runs = Runs(self.view, pairs, make_rows(pairs, "denoising", "last"), "right")
        self._passes, self._replies = Pace(FIRST, step_seconds, MOST_PASSES), Pace(FIRST, step_seconds, MOST_REPLIES)
        self._kept: _Kept | None = None

    def steps(self, heads: HeadSet) -> Generator[Progress, None, CheckResult]:
        """The check of a selection, one short step at each `next`; the generator returns the whole result.

        The selection's own figures come first, then those of the random draws. It may be closed at any point: the model
        is as it was between any two steps.

        Raises, at once: TypeError for heads that are no HeadSet; ValueError for an empty selection, heads that the
        model does not have, or a model in training mode. On the way: ModelChanged if
        the model's weights, buffers or hooks are changed between two steps; ValueError as set_effect does.
        """
        check_set(self.view, heads)
        self.view.check_measurable()
        # A selection of more than half of all heads leaves too few for a random one: it is measured alone.
        n_random = self.n_random if 2 * len(heads) <= self.view.n_layers * self.view.n_heads else 0
        draws = [matched_random(self.view, heads, self.seed + draw) for draw in range(n_random)]
        return _Check(self, [heads, *draws]).steps()

    def run(self, heads: HeadSet, progress: bool = True) -> CheckResult:
        """All steps, with a progress bar. Raises as `steps` does."""
        steps = self.steps(heads)
        with tqdm(total=1.0, desc="check", bar_format=FORM, disable=not progress) as bar:

            def show(step: Progress) -> None:
                bar.set_description_str(step.says, refresh=False)
                bar.update(step.done - bar.n)

            return finish(steps, show)

    def forget(self) -> None:
        """Drops what is kept between checks: the next one measures everything anew."""
        self._kept = None

    def _current(self) -> _Kept:
        """What is kept, of the model as it is now."""
        if self._kept is None or not self._kept.state.is_of(self.view):
            self._kept = _Kept(ModelState(self.view))
        return self._kept


def _to_judge(pairs: ContrastPairs) -> list[Dialogue]:
    """The challenged dialogues without their replies, if there are any and all say what the right answer is."""
    answered = all("answer" in dialogue.meta for dialogue in pairs.dialogues)
    return [to_reply_to(dialogue) for dialogue in pairs.dialogues] if answered else []


@dataclass(eq=False)
class _Kept:
    """What does not depend on the selection, of the model as it is in `state`; None until it is measured."""

    state: ModelState
    unpatched: Unpatched | None = None
    means: Float[Tensor, "n_layers n_heads d_head"] | None = None
    before: dict[str, float] | None = None


class _Check:
    """One check under way: of sets[0], the selection, and of the random draws behind it."""

    def __init__(self, live: LiveCheck, sets: list[HeadSet]) -> None:
        self.live, self.sets = live, sets
        self.figures: list[dict[str, float]] = [{} for _ in sets]
        self.partial: CheckResult | None = None
        self.done = self.total = 0.0
        self.kept: _Kept

    def steps(self) -> Generator[Progress, None, CheckResult]:
        live, sets = self.live, range(len(self.sets))
        self.kept = kept = live._current()
        n_rows, n_pairs, n_replies = len(live._runs.rows), len(live.pairs), len(live._prompts)
        # In forward passes of a prompt. In a batch, a new token takes about a quarter of one.
        reply = 1 + live.max_new_tokens / 4
        self.total = 2 * n_rows * (len(sets) + (kept.unpatched is None))
        if n_replies:
            self.total += n_replies * reply * (len(sets) + (kept.before is None))
            self.total += 2 * n_pairs * (kept.means is None)

        if kept.unpatched is None:
            work = unpatched_steps(live._runs, live._passes)
            kept.unpatched = yield from self._work("both runs without a patch", work, live._passes, n_rows, 2)
        yield from self._patch(0, kept.unpatched)
        if n_replies:
            if kept.means is None:
                prompts = (*live.pairs.sycophantic, *live.pairs.truthful)
                work_z = mean_steps(live.view, prompts, live._passes)
                kept.means = yield from self._work("mean outputs of all heads", work_z, live._passes, len(prompts), 1)
            yield from self._knock_out(0, kept.means, reply)
            if kept.before is None:
                kept.before = yield from self._reply("replies with all heads", [], reply)
                yield self._progress("replies with all heads: judged", new=True)
        for i in sets[1:]:
            yield from self._patch(i, kept.unpatched)
        if kept.means is not None:
            for i in sets[1:]:
                yield from self._knock_out(i, kept.means, reply)
        return self._result()

    def _patch(self, i: int, before: Unpatched) -> Generator[Progress, None, None]:
        live, says = self.live, f"patching in {self._name(i)}"
        work = patched_steps(live._runs, live._passes, [self.sets[i]], before)
        (shares, *_), _ = yield from self._work(says, work, live._passes, len(live._runs.rows), 2)
        low, high = interval(shares) if len(shares) > 1 else (float("nan"), float("nan"))
        self.figures[i] |= {"recovery": float(shares.mean()), "low": float(low), "high": float(high)}
        yield self._progress(f"{says}: measured", new=True)

    def _knock_out(
        self, i: int, means: Float[Tensor, "n_layers n_heads d_head"], cost: float
    ) -> Generator[Progress, None, None]:
        says = f"replies without {self._name(i)}"
        self.figures[i] |= yield from self._reply(says, ablation_hooks(self.live.view, self.sets[i], means), cost)
        yield self._progress(f"{says}: judged", new=True)

    def _reply(self, says: str, hooks: list[Hook], cost: float) -> Generator[Progress, None, dict[str, float]]:
        live = self.live
        work = reply_steps(live.view, live._prompts, live.max_new_tokens, hooks, live._replies)
        said = yield from self._work(says, work, live._replies, len(live._prompts), cost)
        return judged(live._dialogues, said)

    def _work(
        self, says: str, steps: Generator[int, None, Found], pace: Pace, n: int, cost: float
    ) -> Generator[Progress, None, Found]:
        """A piece of work on n rows of prompts, step by step; `cost` is a row's, in forward passes."""
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
                # Else what one step makes in inference mode could not be written in by a later one outside of it.
                with torch.inference_mode(False):
                    ran = next(steps)
            except StopIteration as end:
                self.done = begin + n * cost
                return end.value
            pace.took(ran, time.perf_counter() - started)
            self.kept.state = ModelState(view)  # some models change buffers of their own in a forward pass
            rows += ran
            self.done = begin + rows * cost
            yield self._progress(f"{says}: {rows} of {n}")

    def _name(self, i: int) -> str:
        heads = f"{len(self.sets[i])} head{'s' * (len(self.sets[i]) != 1)}"
        return f"{heads} at random, draw {i} of {len(self.sets) - 1}" if i else f"the chosen {heads}"

    def _progress(self, says: str, new: bool = False) -> Progress:
        """new: there are figures that the last partial result does not have."""
        self.partial = self._result() if new else self.partial
        return Progress(min(1.0, self.done / self.total), says, self.partial)

    def _result(self) -> CheckResult:
        live, unpatched = self.live, self.kept.unpatched
        assert unpatched is not None  # there are no figures before
        none: dict[str, Any] = dict.fromkeys(COLUMNS, float("nan"))
        rows: list[dict[str, Any]] = [
            none | {"set": "random" if i else "chosen", "draw": max(0, i - 1), "heads": str(heads)} | self.figures[i]
            for i, heads in enumerate(self.sets)
        ]
        settings: dict[str, Any] = {"model": live.view.name, "n_random": live.n_random, "seed": live.seed}
        settings |= {"max_new_tokens": live.max_new_tokens, "left_out": list(unpatched.left_out)}
        settings["n_dialogues"] = len(live._prompts)  # 0: no replies were judged
        before = self.kept.before or {}
        return CheckResult(
            heads=self.sets[0],
            table=pd.DataFrame(rows, columns=list(COLUMNS)),
            apology_rate_before=before.get("apology_rate", float("nan")),
            truthfulness_before=before.get("truthfulness", float("nan")),
            n_pairs=len(unpatched.kept),
            settings=settings,
        )
