"""Sets of heads patched in together: what single-head scores, which need not add up, can't tell.

The work is done in parts, between which nothing of ours is on the model: generators that yield how many rows they have
run, and return what was measured. `set_patching` runs them to their end, a picker's live check one part at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from spt_lens.checking import MANY, door, instance, seed_number, shown, whole_number
from spt_lens.data.pairs import ContrastPairs
from spt_lens.heads import HeadSet
from spt_lens.measure.set_effect import SetEffect, table_of
from spt_lens.model.generation import finish
from spt_lens.model.limits import Limits, find_limits, progress_bar
from spt_lens.model.ranks import Share
from spt_lens.model.view import Hook, Model, ModelView
from spt_lens.patching.plain import patch_heads
from spt_lens.patching.readings import Resting
from spt_lens.patching.rows import Batch, Direction, Positions, Rows, make_rows, named, run_source
from spt_lens.scores.head_scores import HeadScores
from spt_lens.scores.metrics import check_finite, least_gap, mean_gap, recovery
from spt_lens.statistics import interval

Sizes = Literal["curve"] | Sequence[int]
LONGEST = 16  # heads of a ranking at which a curve ends by itself


class OneSet(NamedTuple):
    """A set to measure: the best heads of a size, or a random draw of as many."""

    heads: HeadSet
    which: Literal["chosen", "random"] = "chosen"
    draw: int = 0

    def row(self, figures: Mapping[str, float]) -> dict[str, Any]:
        """Its row in the table of a SetEffect."""
        return {"size": len(self.heads), "set": self.which, "draw": self.draw, "heads": str(self.heads), **figures}


def sets_of(
    view: ModelView, heads: HeadSet | HeadScores, sizes: Sizes | None, n_random: int, seed: int
) -> list[OneSet]:
    """No heads, the best ones of each size, then the random sets of each; known before any of them is measured.

    Raises: ValueError for an empty selection, heads that the model does not have, sizes out of range, a negative
    n_random, or more heads to draw than there are.
    """
    whole_number(n_random, "n_random", 0, MANY)
    seed_number(seed)
    ranked = heads.top(view.n_layers * view.n_heads) if isinstance(heads, HeadScores) else heads
    ranked.check(view)
    if sizes == "curve" or (sizes is None and isinstance(heads, HeadScores)):
        last = min(len(ranked), LONGEST) if isinstance(heads, HeadScores) else len(ranked)
        sizes = [*(2**i for i in range(last.bit_length()) if 2**i < last), last]
    elif sizes is None:
        sizes = [len(ranked)]
    whole = (
        isinstance(sizes, Sequence)
        and not isinstance(sizes, str)
        and all(isinstance(k, int) and not isinstance(k, bool) for k in sizes)
    )
    if not whole or not sizes or not 0 <= min(sizes) <= max(sizes) <= len(ranked) or max(sizes) == 0:
        raise ValueError(f"sizes={shown(sizes)}: give numbers of heads up to {len(ranked)}, at least one, or 'curve'")
    at = sorted({*sizes} - {0})
    drawn = [
        OneSet(matched_random(view, ranked[:k], seed + draw), "random", draw) for k in at for draw in range(n_random)
    ]
    return [OneSet(ranked[:k]) for k in (0, *at)] + drawn


def matched_random(view: ModelView, heads: HeadSet, seed: int) -> HeadSet:
    """As many other heads in each layer; where a layer has too few others, heads of any layer."""
    room = all(2 * len(chosen) <= view.n_heads for chosen in heads.by_layer().values())
    return heads.random_like(view, seed=seed, matched=room)


@door
def set_patching(
    model: Model,
    pairs: ContrastPairs,
    heads: HeadSet | HeadScores,
    sizes: Sizes | None = None,
    *,
    n_random: int = 5,
    seed: int = 0,
    scores: HeadScores | None = None,
    direction: Direction = "denoising",
    positions: Positions = "last",
    batch_size: int | None = 32,
    progress: bool = True,
) -> SetEffect:
    """activation_patching of a whole set at once: what comes back with only these heads patched in, together.

    heads: a selection, in its own order, or scores, by their signed value. sizes: how many of them to patch in, in rank
    order; None: the whole selection (scores: as "curve"); "curve": 1, 2, 4, 8 and so on, up to the selection's size or
    to 16. n_random: beside each size, sets of as many heads in each layer, and none of these; where a layer has too few
    others, heads of any layer. scores: of single heads (activation_patching), to be summed over each set; measured with
    the same direction and positions. batch_size: prompts at once; None for what memory allows.

    Recovery is the mean effect over the mean gap, as in activation_patching. The model is left as it was.

    Raises: ValueError as activation_patching does, for sizes out of range, a negative n_random, more heads to draw than
    there are, an empty selection or heads that the model does not have, or scores of another shape, metric, direction
    or positions; TypeError for heads that are neither a selection nor scores.
    """
    view = ModelView(model)
    sets = sets_of(view, heads, sizes, n_random, seed)
    if scores is not None:
        check_scores(view, scores)
        _check_alike(scores, direction, named(positions))
    runs = Runs(view, pairs, make_rows(view, pairs, direction, positions))
    resting = Resting(view, pairs, direction)
    limits = find_limits(view, runs.rows.longest, batch_size, None)
    with view.held(), progress_bar(len(sets) * len(runs.rows), "patching sets", progress) as tick:
        unpatched = finish(both_runs(runs, limits, resting=resting))
        shares, begins = finish(patched_runs(runs, limits, [one.heads for one in sets], unpatched, tick))
    gaps = unpatched.gaps(runs.rows)
    rows = []
    for one, share, begin in zip(sets, shares, begins, strict=True):
        single = {} if scores is None else {"sum_of_single": float(sum(scores[head] for head in one.heads))}
        rows.append(one.row({**recovery_figures(share, gaps), **single, "begins": float(begin.double().mean())}))
    check = resting.found(runs.rows.by_pair(unpatched.base), runs.rows.by_pair(unpatched.target))
    chosen = [i for i, one in enumerate(sets) if one.which == "chosen"][-1]
    method = None if scores is None else scores.method
    return SetEffect(
        sets[chosen].heads,
        table_of(rows),
        n_pairs=shares.shape[1],
        direction=direction,
        positions=named(positions),
        settings={"model": view.name, "n_random": n_random, "seed": seed, "scores": method, "check": check},
        per_pair=by_pair(
            **{"recovery": shares[chosen], "logits": shares[chosen] * check["mean_gap"][0]}
            | {"begins before": begins[0], "begins": begins[chosen]}
        ),
    )


def check_scores(view: ModelView, scores: HeadScores) -> None:
    """Raises TypeError for what is no HeadScores, ValueError for scores of another shape than the model's."""
    instance(scores, "scores", HeadScores, "give those of activation_patching(model, pairs), say")
    if (scores.n_layers, scores.n_heads) != (view.n_layers, view.n_heads):
        raise ValueError(
            f"the scores are of {scores.n_layers} layers x {scores.n_heads} heads, {view.name} has {view.n_layers} x "
            f"{view.n_heads}: measure them on this model"
        )


def _check_alike(scores: HeadScores, direction: str, positions: str) -> None:
    if scores.meta.get("null"):
        raise ValueError(
            "these scores are a null of random pairs, not the set's own: give those of activation_patching"
        )
    same = {"method": "activation", "metric": "recovery", "direction": direction, "positions": positions}
    for name, own in same.items():
        if getattr(scores, name) != own:
            raise ValueError(
                f"the scores were measured with {name}={getattr(scores, name)!r} and the set is with {own!r}, so their "
                "sum can't be compared: measure both alike"
            )


def recovery_figures(shares: Float[Tensor, " n_pairs"], gaps: Float[Tensor, " n_pairs"]) -> dict[str, float]:
    """The mean over pairs, and its 95 % bootstrap interval (nan for a single pair), effects and gaps drawn together."""
    low, high = interval(shares, gaps=gaps) if len(shares) > 1 else (float("nan"), float("nan"))
    return {"recovery": float(shares.mean()), "low": float(low), "high": float(high)}


def by_pair(**read: Float[Tensor, " n_pairs"]) -> pd.DataFrame:
    """What was read of each pair, by the pairs' numbers."""
    table = pd.DataFrame({name: values.double().numpy() for name, values in read.items()})
    return table.rename_axis("pair")


class Runs:
    """Whole forward passes of some rows, and what is read from them."""

    def __init__(self, view: ModelView, pairs: ContrastPairs, rows: Rows) -> None:
        self.view, self.rows = view, rows
        self.sycophantic = [set(both[1]) for both in pairs.answer_sets] or [
            {i} for i in pairs.answer_ids[:, 1].tolist()
        ]

    def read(
        self,
        part: list[int],
        which: Literal["into", "source"],
        values: Float[Tensor, " n_rows"],
        begins: Bool[Tensor, " n_rows"] | None = None,
        hooks: Sequence[Hook] = (),
        resting: Resting | None = None,
    ) -> None:
        """Writes what some rows read into `values`, and whether their reply begins with the sycophantic answer."""
        chosen, readout = self.rows.some(part)
        logits = Batch.of(chosen, which).logits(self.view, hooks)
        read = readout.of(logits)
        check_finite(read, [row.pair for row in chosen], "patched" if which == "into" else "source")
        if resting is not None:
            resting.note(chosen, which, logits)
        values[part] = read.to(values)
        if begins is not None:
            # The first position that is read is the prompt's last, whatever completion stands behind it.
            said = logits[:, 0].argmax(dim=-1).tolist()
            begins[part] = torch.tensor([i in self.sycophantic[row.pair] for i, row in zip(said, chosen, strict=True)])

    def begun(self, begins: Bool[Tensor, "*sets n_rows"]) -> Bool[Tensor, "*sets n_pairs"]:
        """Pair by pair, what was read of the rows: of either completion's the same, so of the first one's."""
        return begins[..., [i for i, row in enumerate(self.rows.rows) if row.side == 0]]

    def share(self, what: str, *settings: Any, resting: Resting | None = None, held: Sequence[Tensor] = ()) -> Share:
        """Of work that reads these rows: what ranks must have in common, and what they then all hold."""
        held = [*held, *(() if resting is None else resting.reader.held)]
        return Share(what, {"model": self.view, "pairs": self.rows.same, "settings": settings}, held)


@dataclass(frozen=True, eq=False)
class BothRuns:
    """What both runs of every pair read: of the prompts that would be patched (base), and of the others (target).

    begins: whether the reply of the former would begin with the sycophantic answer.
    """

    base: Float[Tensor, " n_rows"]
    target: Float[Tensor, " n_rows"]
    begins: Bool[Tensor, " n_rows"]

    def gaps(self, rows: Rows) -> Float[Tensor, " n_pairs"]:
        """The gap of each pair as a share of the mean gap."""
        gap = rows.by_pair(self.target - self.base)
        return gap / gap.mean()


def both_runs(
    runs: Runs, limits: Limits, hooks: Sequence[Hook] = (), resting: Resting | None = None
) -> Generator[int, None, BothRuns]:
    """Reads both runs of every pair, with `hooks` on. Raises: ValueError if logits are not finite."""
    # In float32, or float64 for a model that is.
    dtype = torch.promote_types(runs.view.dtype, torch.float32)
    base, target = (torch.zeros(len(runs.rows), dtype=dtype) for _ in range(2))
    begins = torch.zeros(len(runs.rows), dtype=torch.bool)

    def read(part: list[int]) -> None:
        with runs.view.kept(), torch.no_grad():
            runs.read(part, "into", base, begins, hooks, resting)
            runs.read(part, "source", target, None, hooks, resting)

    share = runs.share("both runs", resting=resting, held=[base, target, begins])
    yield from limits.parts(runs.rows.alike(), read, share)
    return BothRuns(base, target, begins)


Patched = tuple[Float[Tensor, "sets n_pairs"], Bool[Tensor, "sets n_pairs"]]


def patched_runs(
    runs: Runs,
    limits: Limits,
    sets: Sequence[HeadSet],
    unpatched: BothRuns,
    tick: Callable[[int], None] = lambda rows: None,
) -> Generator[int, None, Patched]:
    """Each set's effect as a share of the mean gap, pair by pair, and whether the reply would begin sycophantically.

    A set without heads patches nothing. tick: told of the rows that a set was patched into, set by set; a part is of
    all sets.

    Raises: ValueError, before the first part, if there is no gap.
    """
    view, rows = runs.view, runs.rows
    base, target = (rows.by_pair(values) for values in (unpatched.base, unpatched.target))
    least = least_gap(view.dtype)
    mean_gap(base, target, least)
    patched, begins = unpatched.base.repeat(len(sets), 1), unpatched.begins.repeat(len(sets), 1)

    def patch(part: list[int]) -> None:
        chosen, readout = rows.some(part)
        with view.kept(), torch.no_grad():
            z, _ = run_source(view, chosen, readout)
            places = Batch.of(chosen, "into")
            for i, heads in enumerate(sets):
                hooks = [
                    (view.z_name(layer), patch_heads(places.row, places.pos, z[layer], own))
                    for layer, own in heads.by_layer().items()
                ]
                if hooks:
                    runs.read(part, "into", patched[i], begins[i], hooks)
                tick(len(part))

    share = runs.share("patching sets", list(map(str, sets)), held=[patched.T, begins.T])
    yield from limits.parts(rows.alike(), patch, share)
    return recovery(rows.by_pair(patched.T).T, base, target, least), runs.begun(begins)
