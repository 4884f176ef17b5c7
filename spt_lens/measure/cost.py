"""What a measurement costs before it starts: forward passes, seconds and memory."""

from __future__ import annotations

import html
from dataclasses import dataclass
from typing import Any

import torch

from spt_lens.checking import door
from spt_lens.data.pairs import ContrastPairs
from spt_lens.measure.timed import in_words, seconds_of
from spt_lens.model.limits import Limits, prompt_bytes
from spt_lens.model.view import Model, ModelView
from spt_lens.patching.engine import Engine, both_runs_work, prepare
from spt_lens.patching.methods import method_named
from spt_lens.patching.rows import Batch, Direction, Positions, Rows, make_rows

TIMED = 4  # prompts of the pass that is timed, twice
SLOWER = 3  # than by its forward passes alone a measurement may be: hooks, short suffixes, all that is no pass


@dataclass(frozen=True)
class Cost:
    """What a measurement takes.

    forward_passes: of all the `n_prompts` that are patched, of so many `tokens`; a backward pass counts as two.
    seconds: from, to, on this machine as busy as it was: these passes at the speed of two that were timed, of up to
    four of the prompts, and three times that, for what a measurement does beside them. A guide, no promise: where
    a GPU takes many prompts at once (`batch_size`), a token takes less than in the passes of four, and both ends may
    be too high.
    memory: GiB of activations at most, roughly, beside the weights' `weights` GiB. batch_size: prompts at once.
    engine, engine_reason: which one is used, and why no faster one ("" if there is none).
    """

    forward_passes: float
    memory: float
    weights: float
    engine: str
    engine_reason: str
    batch_size: int
    n_prompts: int
    tokens: int
    seconds: tuple[float, float]

    def __str__(self) -> str:
        why = f" ({self.engine_reason})" if self.engine_reason else ""
        return (
            f"{self.forward_passes:.1f} forward passes of {self.n_prompts} prompts ({self.tokens:,} tokens), about "
            f"{in_words(self.seconds[0])} to {in_words(self.seconds[1])} by two that were timed; "
            f"{self.memory:.2g} GiB beside the weights' {self.weights:.2g} GiB; engine {self.engine}{why}, "
            f"{self.batch_size} prompts at once"
        )

    def _repr_html_(self) -> str:
        return f"<p>{html.escape(str(self))}</p>"


@door
def cost(
    model: Model,
    pairs: ContrastPairs,
    method: str = "activation",
    *,
    direction: Direction = "denoising",
    positions: Positions = "last",
    engine: Engine = "auto",
    batch_size: int | None = None,
    max_memory: float | None = None,
    **arguments: Any,
) -> Cost:
    """What a measurement would take: forward passes, seconds, memory, which engine. Runs a few passes of a few prompts
    for that, and leaves the model as it was. On a GPU with large batches all of `seconds` may be too high (see `Cost`).

    The pairs' check (`scores.check`) takes no pass of its own: it reads what both runs give anyway.

    method: "activation", "path", "attribution" or "screened", with its own `arguments` as in path_patching, ... The
    other arguments, and what raises, are those of activation_patching.

    Raises: ValueError also for an unknown method, or arguments that it does not have.
    """
    view = ModelView(model)
    way = method_named(method, arguments)
    rows = make_rows(view, pairs, direction, positions)
    limits, used, reason = prepare(view, rows, way, engine, batch_size, max_memory)
    tokens = sum(len(row.into) for row in rows.rows)
    longest = max(max(len(row.into), len(row.source)) for row in rows.rows)
    passes = (both_runs_work(view, rows) + way.work(view, rows, used)) / (tokens * view.n_layers)
    quick, slow = _timed(view, rows, limits)
    return Cost(
        forward_passes=passes,
        memory=limits.batch_size * prompt_bytes(view, longest) * way.memory / 2**30,
        weights=sum(p.numel() * p.element_size() for p in view.backend.root.parameters()) / 2**30,
        engine=used,
        engine_reason=reason,
        batch_size=limits.batch_size,
        n_prompts=len(rows),
        tokens=tokens,
        seconds=(passes * tokens * quick, SLOWER * passes * tokens * slow),
    )


def _timed(view: ModelView, rows: Rows, limits: Limits) -> tuple[float, float]:
    """Seconds of a token in the quicker and the slower of two passes, of prompts of middling length."""
    ordered = min(rows.alike(), key=lambda group: rows.rows[group[0]].reads)
    n = min(TIMED, len(ordered), limits.batch_size)
    middle = ordered[(len(ordered) - n) // 2 :][:n]

    def run(part: list[int]) -> None:
        Batch.of(rows.some(part)[0], "into").logits(view).sum().item()  # a GPU has done it all then

    with view.kept(), torch.no_grad():
        took = [seconds_of(lambda: Limits(n).each([middle], run)) for _ in range(2)]
    tokens = sum(len(rows.rows[i].into) for i in middle)
    return min(took) / tokens, max(took) / tokens
