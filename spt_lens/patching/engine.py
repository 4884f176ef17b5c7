"""The engine behind every way of scoring heads, and which way of running a model allows, tried out before the work.

A new way of scoring is one file: a subclass of `Method`, a line that puts it into METHODS (so that `cost` and
`random_pairs_null` know it by name), and a function for users that calls `scores_by`. Activation.measure shows how:

- `measure(readings)` calls `each_part` with what is to be done with some rows: it says by hooks, layer by layer, what
  happens to each variant of a prompt, runs them by `variants.run`, and hands what is read to `readings.patched`. The
  same code serves all engines.
- `work` counts what that takes, beside both runs of each row, for the progress bar and `cost`.
- `check` raises for its own arguments before anything runs; `settings` tells of them in the scores' meta; `engines`
  are those that it has, and `memory` how many times a forward pass's it takes.

The driver sees to everything else: rows, batches, memory, the bar, pairs without a gap, the model left as it was.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from spt_lens.checking import one_of
from spt_lens.data.pairs import ContrastPairs
from spt_lens.model.held import by_a_signal, is_out_of_memory
from spt_lens.model.limits import Limits, find_limits, progress_bar
from spt_lens.model.own_hooks import has_hooks
from spt_lens.model.ranks import warn_caller
from spt_lens.model.view import Model, ModelView
from spt_lens.patching.plain import patch_heads
from spt_lens.patching.readings import Readings, Resting, to_scores
from spt_lens.patching.rows import Batch, Direction, Positions, Row, Rows, make_rows, named
from spt_lens.patching.suffix import NotPossible, suffix_run
from spt_lens.patching.sweep import Variants, joining, through, waves
from spt_lens.scores.head_scores import HeadScores
from spt_lens.scores.metrics import Metric

Engine = Literal["auto", "sweep", "stacked", "hooks"]


class Method(ABC):
    """A way of scoring heads, with the arguments that only it has: a frozen dataclass of these. See above."""

    name: ClassVar[str]  # as HeadScores.method says it
    engines: ClassVar[tuple[str, ...]] = ("sweep", "stacked", "hooks")
    memory: ClassVar[int] = 1

    def check(self, view: ModelView, rows: Rows) -> None:  # noqa: B027 - most have nothing to check
        """Raises ValueError for arguments that are wrong or don't fit the model or the rows."""

    def settings(self) -> dict[str, Any]:
        return {}

    @abstractmethod
    def work(self, view: ModelView, rows: Rows, engine: str) -> float:
        """In tokens times blocks that they go through, beside both runs; a backward pass counts as two forward."""

    @abstractmethod
    def measure(self, readings: Readings) -> None:
        """Reads every row, without a patch and with each head patched."""


METHODS: dict[str, type[Method]] = {}


def joined_blocks(view: ModelView) -> float:
    """Blocks that variants go through, one of every layer."""
    return view.n_layers * (view.n_layers + 1) / 2


def both_runs_work(view: ModelView, rows: Rows) -> float:
    """In tokens times blocks, as Method.work."""
    return sum(len(row.into) + len(row.source) for row in rows.rows) * view.n_layers


def scores_by(
    method: Method,
    model: Model,
    pairs: ContrastPairs,
    direction: Direction,
    positions: Positions,
    metric: Metric,
    engine: Engine,
    batch_size: int | None,
    max_memory: float | None,
    progress: bool,
) -> HeadScores:
    """What a method gives for some pairs, for its public function, whose arguments these are."""
    view = ModelView(model)
    one_of(metric, "metric", get_args(Metric))
    rows = make_rows(view, pairs, direction, positions)
    resting = Resting(view, pairs, direction)
    readings, settings = measure(view, rows, method, engine, batch_size, max_memory, progress, resting=resting)
    scores = to_scores(readings, method.name, direction, named(positions), settings)
    try:
        return scores.as_metric(metric)
    except ValueError as error:  # known only now, and no reason to lose the measurement
        warn_caller(f"these are recoveries, since {metric} can't be told: {error}")
        return scores


def measure(
    view: ModelView,
    rows: Rows,
    method: Method,
    engine: str,
    batch_size: int | None,
    max_memory: float | None,
    progress: bool,
    title: str = "",
    resting: Resting | None = None,
) -> tuple[Readings, dict[str, Any]]:
    """Reads every row with each head patched, and says how, for the scores' meta."""
    limits, used, reason = prepare(view, rows, method, engine, batch_size, max_memory)
    work = both_runs_work(view, rows) + method.work(view, rows, used)
    with (
        view.held(),
        torch.inference_mode(False),  # gradients may be wanted
        view.kept(),
        torch.no_grad(),
        progress_bar(work, title or f"{method.name} patching", progress) as tick,
    ):
        readings = Readings(view, rows, used, limits, tick)
        readings.resting, readings.about = resting, {"method": method.name, **method.settings()}
        method.measure(readings)
    settings = {"engine": engine, "batch_size": limits.batch_size, **method.settings()}
    return readings, settings | ({"engine_reason": reason} if reason else {})


def prepare(
    view: ModelView, rows: Rows, method: Method, engine: str, batch_size: int | None, max_memory: float | None
) -> tuple[Limits, str, str]:
    """What goes at once, the engine, and why no faster one. Runs a few passes of one prompt. Raises ValueError."""
    method.check(view, rows)
    view.backend.check_length(torch.empty(1, rows.longest))
    limits = find_limits(view, rows.longest, batch_size, max_memory)
    with view.kept(), torch.no_grad():
        return limits, *choose_engine(view, rows, engine, method.engines)


def choose_engine(view: ModelView, rows: Rows, engine: str, has: tuple[str, ...]) -> tuple[str, str]:
    """The engine, and why no faster one; "" if there is none. has: those that the method has.

    "auto" takes the sweep where it gives what plain hooks give on the shortest prompt, else stacked heads, and plain
    hooks for a model that carries hooks of the user's. Raises ValueError for an engine that does not fit either.
    """
    one_of(engine, "engine", ("auto", *has))
    plain = "hooks" if has_hooks(view.model, view.modules()) or "stacked" not in has else "stacked"
    if engine in ("auto", "sweep"):
        problem = sweep_problem(view, rows) if "sweep" in has else ""
        if not problem:
            return ("sweep" if "sweep" in has else plain), ""
        if engine == "sweep":
            raise ValueError(f"engine='sweep' does not fit {view.name}: it {problem}. Use engine='auto'")
        return plain, f"no sweep: {view.name} {problem}"
    if engine == "stacked" and plain == "hooks":
        raise ValueError(
            f"engine='stacked' does not fit {view.name}: it carries hooks of yours, which would see several copies of "
            "a batch. Use engine='hooks', or take them off by model.reset_hooks()"
        )
    return engine, ""


@torch.no_grad()
def sweep_problem(view: ModelView, rows: Rows, each: int = 2) -> str:
    """Why the sweep does not fit a model, as what follows "it"; "" where it fits.

    On the shortest prompt, heads of two layers (so many of `each`), set to much more than the negative of what they
    are, must change the last block's output as by plain hooks. In a single logit, half precision hides what is wrong by
    far.
    """
    if has_hooks(view.model, view.modules()):
        return "carries hooks of yours, which would see suffixes instead of whole prompts"
    shortest = min(range(len(rows)), key=lambda i: len(rows.rows[i].into))
    (row,), readout = rows.some([shortest])
    heads = [(layer, head) for layer in sorted({0, view.n_layers // 2}) for head in range(min(each, view.n_heads))]
    at = [at - row.start for at in row.into_at]
    try:
        run = suffix_run(view, torch.tensor([row.into]), row.start)
        z = torch.stack([-3 * run.own[view.z_name(i)][0, at].to(view.device) for i in range(view.n_layers)])
        variants = Variants(view, [row], z, readout, suffix=run)
        found = torch.cat([through(run, wave, joining(variants)) for wave in waves(heads, 2)])
    except NotPossible as error:
        return str(error)
    except Exception as error:  # whatever a block makes of arguments that it was not written for
        if is_out_of_memory(error):
            return "has no memory for two suffixes of its shortest prompt"
        if by_a_signal(error):
            raise
        return f"can't run its blocks on suffixes ({type(error).__name__}: {error})"
    expected = torch.cat([_by_hooks(view, row, z, layer, head)[:, row.start :] for layer, head in heads])
    change, off = (expected - run.final).float(), (expected - found[:, 0]).float()
    share = float(off.norm() / change.norm()) if bool(change.any()) else float(off.norm())
    wrong = share > (0.1 if torch.finfo(view.dtype).eps > 1e-4 else 1e-3)  # nan is no reason: it is looked for later
    said = f"gives other outputs in the sweep than with plain hooks (by {share:.2g} of the change that patches make)"
    return said if wrong else ""


def _by_hooks(
    view: ModelView, row: Row, z: Float[Tensor, "layer places n_heads d_head"], layer: int, head: int
) -> Float[Tensor, "1 pos d_model"]:
    """The last block's output with one head patched by a plain hook."""
    kept: list[Tensor] = []
    batch = Batch.of([row], "into")

    def keep(module: Any, args: Any, output: Any) -> None:
        kept.append(output[0] if isinstance(output, tuple) else output)

    with view.model.blocks[-1].register_forward_hook(keep):
        batch.logits(view, [(view.z_name(layer), patch_heads(batch.row, batch.pos, z[layer], [head]))])
    return kept[0]
