"""Activation patching: each head's output from the other run, and all that comes after it recomputed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from spt_lens.checking import door
from spt_lens.data.pairs import ContrastPairs
from spt_lens.heads import Head
from spt_lens.model.view import Model, ModelView
from spt_lens.patching.engine import METHODS, Engine, Method, joined_blocks, scores_by
from spt_lens.patching.readings import Readings
from spt_lens.patching.rows import Direction, Positions, Row, Rows
from spt_lens.patching.sweep import Variants, each_part, joining, waves
from spt_lens.scores.head_scores import HeadScores
from spt_lens.scores.metrics import Metric


@dataclass(frozen=True)
class Activation(Method):
    """Each head's output of the other run, patched in alone; see activation_patching."""

    name: ClassVar[str] = "activation"

    def work(self, view: ModelView, rows: Rows, engine: str) -> float:
        if engine == "sweep":
            return view.n_heads * joined_blocks(view) * sum(len(row.into) - row.start for row in rows.rows)
        return view.n_heads * view.n_layers**2 * sum(len(row.into) for row in rows.rows)

    def measure(self, readings: Readings) -> None:
        patch_each(readings, readings.heads)


def patch_each(readings: Readings, heads: Sequence[Head], values: Callable[[list[Row]], Tensor] | None = None) -> None:
    """Reads every row with each of the heads patched alone. values: as in each_part."""

    def work(part: list[int], variants: Variants) -> None:
        for wave in waves(heads, variants.most):
            readings.patched(part, wave, variants.run(wave, joining(variants)))

    each_part(readings, work, values=values)


METHODS["activation"] = Activation


@door
def activation_patching(
    model: Model,
    pairs: ContrastPairs,
    *,
    direction: Direction = "denoising",
    positions: Positions = "last",
    metric: Metric = "recovery",
    engine: Engine = "auto",
    batch_size: int | None = None,
    max_memory: float | None = None,
    progress: bool = True,
) -> HeadScores:
    """The share of the logit-difference gap that each head's output carries, patched alone into hook_z.

    Denoising: the mean effect of a patch, mean(LD_patched - LD_sycophantic), over the mean gap, mean(LD_truthful -
    LD_sycophantic); 1 means that this head alone brings the truthful reply back. Noising: the share that is lost,
    mean(LD_truthful - LD_patched) over the same gap. LD is the logit of the truthful answer token minus the sycophantic
    one's at the last position; of sets of them, the log odds; of whole completions, the difference of their summed
    log-probabilities (`ContrastPairs`). `scores.effects` are the effects in logits.

    By the one-sweep engine it takes about four forward passes at the last position; else one for each head (`cost`).
    The effect of each pair as a share of the mean gap is kept (`per_pair`); no pair is left out. What the measurement
    rests on is looked at as well (`scores.check`, as `pairs.check`), and warned about where it is little. The model is
    left as it was.

    positions: "last" patches the last position only (with whole completions, all that are read), and takes pairs of
        unequal length. "all" patches every position from the first that differs, and needs equal lengths within each
        pair, or `pairs.aligned()`. Numbers, such as [-3, -2, -1], patch these positions of both prompts.
    metric: "importance" is the paper's score with its sign turned; `scores.as_metric` changes it later.
    engine: "auto" takes the sweep where it gives what plain hooks give, else stacked heads or plain hooks;
        `scores.engine` says which, and meta["settings"] why. All give the same numbers up to rounding.
    batch_size, max_memory: prompts at once, or GiB for activations; default: what fits in half of the free memory, at
        most 16 prompts. When memory runs out all the same, it goes on with half as many.

    Raises: ValueError for unknown options, positions outside of a prompt, pairs of unequal length with positions="all",
    ids outside of the vocabulary, logits that are not finite, a mean gap of nearly zero, an engine that does not fit
    the model, or a model in training mode; TypeError for an unsupported model. Source: Chen et al. 2024, section 3.1.
    """
    return scores_by(Activation(), model, pairs, direction, positions, metric, engine, batch_size, max_memory, progress)
