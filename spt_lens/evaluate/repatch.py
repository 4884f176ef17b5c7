"""Patching again after tuning: did the effects of the tuned heads shrink, and where did the behaviour go?

Chen et al. 2024 patch their tuned model again and find that the strongest head's effect has shrunk (3.77 % to .64 %).
By itself that says little: the largest effects are the likeliest to shrink whatever was tuned. So the same is asked of
the chosen heads after other heads were tuned, and of random heads beside them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from spt_lens import statistics
from spt_lens.checking import MANY, door, seed_number, whole_number
from spt_lens.data.pairs import ContrastPairs
from spt_lens.evaluate.repatched import COLUMNS, Repatched
from spt_lens.heads import Head, HeadSet
from spt_lens.measure.ablation import ablation_hooks, ablation_values
from spt_lens.measure.sets import Runs, both_runs, check_scores, matched_random, patched_runs
from spt_lens.model.generation import finish
from spt_lens.model.limits import find_limits, progress_bar
from spt_lens.model.view import Model, ModelView
from spt_lens.patching.engine import measure
from spt_lens.patching.methods import method_named
from spt_lens.patching.readings import to_scores
from spt_lens.patching.rows import Direction, Positions, Rows, make_rows, named
from spt_lens.scores.head_scores import HeadScores
from spt_lens.scores.metrics import least_gap
from spt_lens.tune.adapter import Adapter

OFF = 1e-2  # logits: scores that were measured before, on another machine or in other batches
PerPair = Float[Tensor, " n_pairs"]


@door
def repatch(
    model: Model,
    adapter: Adapter,
    pairs: ContrastPairs,
    heads: HeadSet | None = None,
    *,
    method: Literal["activation", "path", "attribution"] = "activation",
    direction: Direction = "denoising",
    positions: Positions = "last",
    k: int | None = None,
    n_random: int = 5,
    seed: int = 0,
    before: HeadScores | None = None,
    batch_size: int | None = 32,
    progress: bool = True,
) -> Repatched:
    """Patches every head of the untuned and of the tuned model, on the same pairs by the same method.

    Compared are effects in logits, since a recovery is a share of each model's own gap (see `Repatched`). Sets are
    patched in together by activation patching whatever the method, and knocked out by their mean of each model's own.

    Take pairs that were neither tuned on nor chosen by (`behaviour.pairs(model, split="test")`): of effects that were
    the largest on these very pairs, some are so by chance, and would shrink anyway. And do it once more with the
    adapter of tuned random heads, and `heads` the chosen ones: what shrinks then is not due to tuning them.

    adapter: what tuning changed, as `tuned.adapter` or `Adapter.load(folder)` has it. heads: the chosen ones; default:
    those that were tuned. k: how many "top" means; default: as many as are chosen. n_random: sets of as many heads in
    each layer, neither chosen nor tuned. before: scores of the untuned model on these pairs, measured alike, in place
    of measuring them. batch_size: prompts at once; None for what memory allows.

    The model may be tuned or not; it is left as it was, also after an error or an interrupt.

    Raises: ValueError for an adapter of another model, or of one whose weights have changed since; for one that names
    no heads, without `heads`; for one of activations; as activation_patching for pairs and options, also where the
    tuned model has no gap left; for heads that the model does not have, a k out of range, a negative n_random, or
    scores that were measured in another way, on another model or on other pairs.
    """
    view = ModelView(model)
    chosen = adapter.heads if heads is None else heads
    if adapter.edits:
        raise ValueError(
            "this adapter changes activations and no weights, and patching would put others in their place: give that "
            "of tuned weights, such as pinpoint_tune's"
        )
    if not len(chosen):
        raise ValueError(
            "no heads are chosen: this adapter changes whole matrices and names none, so give heads=..."
            if heads is None
            else "the selection is empty: choose at least one head"
        )
    chosen.check(view)
    whole_number(n_random, "n_random", 0, MANY)
    seed_number(seed)
    top = len(chosen) if k is None else whole_number(k, "k", 1, view.n_layers * view.n_heads)
    reader = Reader(view, pairs, make_rows(view, pairs, direction, positions), method, direction, positions, batch_size)
    if before is not None:
        reader.check(before)
    sets = _sets(view, chosen, adapter.heads, n_random, seed)
    alone = [HeadSet(each.heads) for _, _, each in sets]
    with adapter.reverted(model):
        one = reader.read(alone, "untuned", before, progress)
    with adapter.applied(model), _of_the_tuned():
        other = reader.read(alone, "tuned", None, progress)
    every = [Head(layer, head) for layer in range(view.n_layers) for head in range(view.n_heads)]
    both = chosen | adapter.heads
    others = HeadSet(tuple(head for head in every if head not in set(both)))
    return Repatched(
        view.name,
        method,
        direction,
        named(positions),
        HeadSet(chosen.heads),
        HeadSet(adapter.heads.heads),
        len(pairs),
        _table(one.scores, other.scores, chosen, adapter.heads),
        pd.DataFrame([{"figure": name} | changed(one.runs[name], other.runs[name]) for name in one.runs]),
        _set_table(one, other, [*sets, *([("others", 0, others)] if len(others) else [])]),
        {"k": top, "n_random": n_random, "seed": seed, "words": pairs.words.to_json()},
        (one.scores, other.scores),
    )


@contextmanager
def _of_the_tuned() -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise ValueError(f"of the tuned model, {error}") from error


def _sets(view: ModelView, chosen: HeadSet, tuned: HeadSet, n_random: int, seed: int) -> list[tuple[str, int, HeadSet]]:
    """The sets that are patched and knocked out together: name, draw, heads."""
    found = [("chosen", 0, chosen)]
    if len(tuned) and set(tuned) != set(chosen):
        found.append(("tuned", 0, tuned))
    # The i-th drawn head is in the layer of the i-th one here, so that the first are the chosen heads' controls.
    drawn = (matched_random(view, chosen | tuned, seed + draw) for draw in range(n_random))
    return found + [("random", draw, heads[: len(chosen)]) for draw, heads in enumerate(drawn)]


@dataclass(frozen=True, eq=False)
class Read:
    """Of one model: scores of all heads; by figure, each pair's of both runs; by figure, each set's and pair's."""

    scores: HeadScores
    runs: dict[str, PerPair]
    sets: dict[str, list[PerPair]]


@dataclass(frozen=True, eq=False)
class Reader:
    """Reads a model as it is now, the same way each time."""

    view: ModelView
    pairs: ContrastPairs
    rows: Rows
    method: str
    direction: str
    positions: Positions
    batch_size: int | None

    def check(self, before: HeadScores) -> None:
        """Raises ValueError for scores of another model, or measured in another way, or of other pairs."""
        check_scores(self.view, before)
        wanted: dict[str, Any] = {
            "method": self.method,
            "direction": self.direction,
            "positions": named(self.positions),
        }
        wanted |= {"model_name": self.view.name, "n_pairs": len(self.pairs)}
        for name, own in wanted.items():
            if getattr(before, name) != own:
                raise ValueError(
                    f"before= was measured with {name}={getattr(before, name)!r}, and this is {own!r}: measure it "
                    "alike, or leave it out"
                )
        if before.effects is None or before.meta.get("null"):
            raise ValueError("before= holds no effects of these pairs: give scores of patching, or leave it out")

    def read(self, sets: list[HeadSet], what: str, before: HeadScores | None, progress: bool) -> Read:
        limits = find_limits(self.view, self.rows.longest, self.batch_size, None)
        runs = Runs(self.view, self.pairs, self.rows)
        with self.view.held(), self.view.kept(), torch.no_grad():
            unpatched = finish(both_runs(runs, limits))
            base, target = (self.rows.by_pair(each).double() for each in (unpatched.base, unpatched.target))
            self._same(before, base, target)
            with progress_bar(2 * len(sets) * len(self.rows), f"sets of the {what} model", progress) as tick:
                shares, _ = finish(patched_runs(runs, limits, sets, unpatched, tick))
                values = ablation_values(self.view, self.pairs, "mean", "both", limits.batch_size)
                without = []
                for heads in sets:
                    found = finish(both_runs(runs, limits, ablation_hooks(self.view, heads, values)))
                    without.append(self._turned(*(self.rows.by_pair(each) for each in (found.base, found.target))))
                    tick(len(self.rows))
        one, other = self._turned(base, target)
        gap = other - one
        scores = before if before is not None else self._scores(f"heads of the {what} model", progress)
        return Read(
            scores,
            {
                "ld_sycophantic": one,
                "ld_truthful": other,
                "gap": gap,
                "prefers": (one < 0).double(),
                "prefers_other": (other < 0).double(),
            },
            {
                "together": list(shares.double() * gap.mean()),
                "knocked_out": [each - one for each, _ in without],
                "knocked_out_other": [each - other for _, each in without],
            },
        )

    def _turned(self, base: PerPair, target: PerPair) -> tuple[PerPair, PerPair]:
        """The logit differences of the sycophantic and of the truthful run."""
        runs = (target, base) if self.direction == "noising" else (base, target)
        return runs[0].double(), runs[1].double()

    def _scores(self, title: str, progress: bool) -> HeadScores:
        way = method_named(self.method, {})
        # Without a check of the pairs: that a tuned model no longer gives in is no warning.
        found = measure(self.view, self.rows, way, "auto", self.batch_size, None, progress, title)
        return to_scores(found[0], self.method, self.direction, named(self.positions), found[1])

    def _same(self, before: HeadScores | None, base: PerPair, target: PerPair) -> None:
        if before is None or before.base is None or before.target is None:
            return
        off = max(float((a.double() - b).abs().max()) for a, b in ((before.base, base), (before.target, target)))
        if off > max(OFF, 100 * least_gap(self.view.dtype)):
            raise ValueError(
                "before= was measured on other pairs or on another model: the runs' logit differences are off by "
                f"{off:.2g}: measure it on these pairs and the untuned model, or leave it out"
            )


def changed(before: PerPair, after: PerPair) -> dict[str, float]:
    """Means over pairs before and after, the change, and its paired 95 % bootstrap interval; nan for a single pair."""
    found = {"before": float(before.mean()), "after": float(after.mean())}
    moved = (after - before).double()
    low, high = statistics.interval(moved) if len(moved) > 1 else (float("nan"), float("nan"))
    return found | {"change": float(moved.mean()), "low": float(low), "high": float(high)}


def _effects(scores: HeadScores) -> Float[Tensor, "n_pairs n_layers n_heads"]:
    assert scores.effects is not None
    return scores.effects.double()


def _table(one: HeadScores, other: HeadScores, chosen: HeadSet, tuned: HeadSet) -> pd.DataFrame:
    before, after = _effects(one), _effects(other)
    moved = after - before
    nothing = torch.full_like(one.values, torch.nan)
    low, high = statistics.interval(moved) if len(moved) > 1 else (nothing, nothing)
    columns: dict[str, Tensor] = {"before": before.mean(0), "after": after.mean(0), "change": moved.mean(0)}
    columns |= {"low": low, "high": high, "share_before": one.values, "share_after": other.values}
    columns |= {"importance_before": _importance(one), "importance_after": _importance(other)}
    ranks = {f"rank_{side}": _ranks(columns[side]) for side in ("before", "after")}
    rows: list[dict[str, Any]] = []
    known = {head: "tuned" for head in tuned} | {head: "chosen" for head in chosen}
    for layer in range(one.n_layers):
        for place in range(one.n_heads):
            head = Head(layer, place)
            row: dict[str, Any] = {"layer": layer, "head": place, "name": str(head), "set": known.get(head, "other")}
            row |= {name: float(values[head]) for name, values in columns.items()}
            rows.append(row | {name: int(values[head]) for name, values in ranks.items()})
    order = {head: i for i, head in enumerate((chosen | tuned).heads)}
    rows.sort(key=lambda row: order.get(Head(row["layer"], row["head"]), len(order)))
    return pd.DataFrame(rows, columns=list(COLUMNS["table"]))


def _ranks(values: Float[Tensor, "n_layers n_heads"]) -> Tensor:
    order = values.flatten().argsort(descending=True, stable=True)
    ranks = torch.empty(len(order), dtype=torch.long)
    ranks[order] = torch.arange(1, len(order) + 1)
    return ranks.view(values.shape)


def _importance(scores: HeadScores) -> Float[Tensor, "n_layers n_heads"]:
    try:
        return scores.as_metric("importance").values
    except ValueError:  # the sycophantic answer's share is nearly zero, so that changes of it are noise
        return torch.full_like(scores.values, torch.nan)


def _set_table(one: Read, other: Read, sets: list[tuple[str, int, HeadSet]]) -> pd.DataFrame:
    before, after = _effects(one.scores), _effects(other.scores)
    rows = []
    for i, (name, draw, heads) in enumerate(sets):
        layers, places = [head.layer for head in heads], [head.head for head in heads]
        its = [each[:, layers, places] for each in (before, after)]
        sizes = [float(each.mean(0).abs().sum()) for each in its]
        figures = {"single": changed(*(each.sum(1) for each in its))}
        figures["sizes"] = {"before": sizes[0], "after": sizes[1], "change": sizes[1] - sizes[0]}
        if name != "others":
            figures |= {key: changed(values[i], other.sets[key][i]) for key, values in one.sets.items()}
        about = {"set": name, "draw": draw, "k": len(heads), "heads": "" if name == "others" else str(heads)}
        rows += [about | {"figure": key} | found for key, found in figures.items()]
    return pd.DataFrame(rows, columns=list(COLUMNS["sets"]))
