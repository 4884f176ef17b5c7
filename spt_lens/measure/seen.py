"""Both runs of contrast pairs, seen once from their last positions, and asked head by head."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any, get_args

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from spt_lens.chat.batches import by_length
from spt_lens.data.pairs import ContrastPairs
from spt_lens.heads import Head
from spt_lens.measure.attention import Run, ordered_spans, prompt_spans
from spt_lens.measure.last_position import LastPositions, post_scales
from spt_lens.model.limits import Limits
from spt_lens.model.view import ModelView
from spt_lens.patching.engine import sweep_problem
from spt_lens.patching.path import check_mlps
from spt_lens.patching.rows import make_rows
from spt_lens.statistics import interval

RUNS: tuple[Run, ...] = get_args(Run)
SIDES = ("truthful", "sycophantic")  # as answer_ids has them
DIFFERENCE = "difference"


class SeenPairs:
    """What all heads do at the last position of both runs, from one forward pass of each prompt (`parts`).

    no_spans, no_direct: why the prompts' spans, or what heads write, can't be told; "" where they can.

    Raises: ValueError for a model in training mode or ids that it does not have; with `strict`, for either of these.
    """

    def __init__(self, view: ModelView, pairs: ContrastPairs, strict: bool = False) -> None:
        view.check_measurable()
        pairs.check_ids(view)
        self.view, self.pairs = view, pairs
        self.prompts = {"sycophantic": pairs.sycophantic, "truthful": pairs.truthful}
        self.labels: dict[str, list[list[str]]] = {}
        self.no_spans = self.no_direct = ""
        try:
            self.labels = {run: prompt_spans(view, pairs, run) for run in RUNS}
        except ValueError as error:
            self.no_spans = str(error)
            if strict:
                raise
        try:
            check_mlps(view, "frozen")
            post_scales(view)
            with view.kept():
                problem = sweep_problem(view, make_rows(view, pairs))
            self.no_direct = f"what a head of {view.name} writes can't be told: it {problem}" if problem else ""
        except ValueError as error:
            self.no_direct = str(error)
        if strict and self.no_direct:
            raise ValueError(self.no_direct)
        self._ends = {run: LastPositions(view, direct=not self.no_direct) for run in RUNS}
        self._read: dict[str, list[int]] = {run: [] for run in RUNS}  # pairs, in the order in which they were read

    @property
    def done(self) -> list[int]:
        """The pairs of which both prompts were read."""
        return sorted(set(self._read["sycophantic"]) & set(self._read["truthful"]))

    def parts(self, batch_size: int = 1) -> Iterator[int]:
        """Reads what was not read yet, the first pair first: some prompts of one length at each `next`, which says how
        many. Raises as `LastPositions.read` does; it is then of no more use."""
        limits = Limits(batch_size)
        for wanted in (range(1), range(len(self.pairs))):
            for run in RUNS:
                left = [i for i in wanted if i not in self._read[run]]
                for group in by_length([self.prompts[run][i] for i in left], len(left) or 1):
                    yield from limits.parts([[left[i] for i in group]], partial(self._take, run))

    def _take(self, run: Run, part: list[int]) -> None:
        self._ends[run].read([self.prompts[run][i] for i in part])
        self._read[run] += part

    def last_row(self, run: Run, pair: int, head: Head) -> Float[Tensor, " pos"]:
        """Where the head looks from the last position of a prompt that was read."""
        return self._ends[run].attention[self._read[run].index(pair)][head.layer, head.head]

    def spans(self, head: Head) -> pd.DataFrame:
        """`HeadReport.attention`, over the pairs that were read. Raises ValueError as `prompt_spans` does."""
        if self.no_spans:
            raise ValueError(self.no_spans)
        names = ordered_spans([row for run in RUNS for row in self.labels[run]])
        rows: list[dict[str, Any]] = [{"span": name} for name in names]
        n_others = self.view.n_layers * self.view.n_heads - 1
        for run in RUNS:
            sums = torch.zeros(2, len(names), dtype=torch.float64)  # of this head, of all
            for i in self.done:
                of = torch.tensor([names.index(name) for name in self.labels[run][i]])
                every = self._ends[run].attention[self._read[run].index(i)]
                both = torch.stack([every[head.layer, head.head].double(), every.double().sum(dim=(0, 1))])
                sums.index_add_(1, of, both)
            own, every = sums / len(self.done)
            for row, mine, all_ in zip(rows, own.tolist(), every.tolist(), strict=True):
                row |= {run: mine, f"{run}_others": max(0.0, all_ - mine) / n_others if n_others else float("nan")}
        columns = ["span", *RUNS, *(f"{run}_others" for run in RUNS)]
        return pd.DataFrame(rows, columns=columns)

    def written(self, head: Head) -> dict[str, Float[Tensor, "n_done vocab"]]:
        """What the head adds to each token's logit by itself, by run and pair. Raises ValueError with `no_direct`."""
        if self.no_direct:
            raise ValueError(self.no_direct)
        order = {run: [self._read[run].index(i) for i in self.done] for run in RUNS}
        return {run: self._ends[run].written(head)[order[run]] for run in RUNS}

    def direct(self, written: dict[str, Float[Tensor, "n_done vocab"]]) -> pd.DataFrame:
        """`HeadReport.direct`, of what `written` gives."""
        ids, rows = self.pairs.answer_ids[self.done], []
        tokens = [{*ids[:, k].tolist()} for k in (0, 1)]
        texts = [self.view.tokenizer.decode(list(each)) if len(each) == 1 else "" for each in tokens]
        for run, logits in written.items():
            both = logits.double().gather(1, ids)
            each = torch.cat([both, both[:, :1] - both[:, 1:]], dim=1)
            ends = [[float("nan")] * 3] * 2 if len(each) < 2 else [end.tolist() for end in interval(each)]
            for k, answer in enumerate((*SIDES, DIFFERENCE)):
                row = {"run": run, "answer": answer, "token": texts[k] if k < 2 else ""}
                rows.append({**row, "logit": float(each[:, k].mean()), "low": ends[0][k], "high": ends[1][k]})
        return pd.DataFrame(rows)
