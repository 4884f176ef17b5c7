"""Patching again after tuning: did the effects of the tuned heads shrink, and where did the behaviour go?

Chen et al. 2024 patch their tuned model again and find that the strongest head's effect has shrunk (3.77 % to .64 %).
By itself that says little: the largest effects are the likeliest to shrink whatever was tuned. So the same is asked of
the chosen heads after other heads were tuned, and of random heads beside them.
"""

from __future__ import annotations

import random
from typing import Any, Literal

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from spt_lens import statistics
from spt_lens.checking import MANY, door, seed_number, whole_number
from spt_lens.data.check import answers_read
from spt_lens.data.pairs import ContrastPairs
from spt_lens.evaluate.repatched import COLUMNS, Repatched, ranked
from spt_lens.evaluate.reread import PerPair, Read, Reader, of_the_tuned
from spt_lens.heads import Head, HeadSet
from spt_lens.model.ranks import warn_caller
from spt_lens.model.view import Model, ModelView
from spt_lens.patching.rows import Direction, Positions, make_rows, named
from spt_lens.scores.head_scores import HeadScores
from spt_lens.tune.adapter import Adapter


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
    each layer, neither chosen nor tuned; none, with a warning, where a layer has too few such heads. before: scores of
    the untuned model on these pairs, measured alike, in place of measuring them. batch_size: prompts at once; None for
    what memory allows.

    The model may be tuned or not; it is left as it was, also after an error or an interrupt. Warns, as
    activation_patching does, of what the pairs are to the untuned model: few, with no gap or a reversed one, and so on.

    Raises: ValueError for an adapter of another model, or of one whose weights have changed since; for one that names
    no heads, without `heads`; for one of activations; as activation_patching for pairs and options, also where the
    tuned model has no gap left; for heads that the model does not have, a k out of range, a negative n_random, or
    scores that were measured in another way (`ig_steps`, say) or estimated in part, on another model or other pairs.
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
    drawn, few = _random(view, chosen, adapter.heads, n_random, seed)
    if few:
        warn_caller(few)
    others = set(adapter.heads) not in (set(), set(chosen))
    sets = [("chosen", 0, chosen), *([("tuned", 0, adapter.heads)] if others else []), *drawn]
    alone = [HeadSet(each.heads) for _, _, each in sets]
    with adapter.reverted(model):
        one = reader.read(alone, "untuned", before, progress, warn=True)
    with adapter.applied(model), of_the_tuned():
        other = reader.read(alone, "tuned", None, progress, warn=False)
    every = [Head(layer, head) for layer in range(view.n_layers) for head in range(view.n_heads)]
    both = chosen | adapter.heads
    rest = HeadSet(tuple(head for head in every if head not in set(both)))
    runs = [{"figure": name, **changed(one.runs[name], other.runs[name], each=True)} for name in one.runs]
    settings: dict[str, Any] = {"k": top, "n_random": n_random, "seed": seed, "words": pairs.words.to_json()}
    settings |= {"answers": answers_read(view, pairs), "check": one.check, "no_random": few}
    return Repatched(
        view.name,
        method,
        direction,
        named(positions),
        HeadSet(chosen.heads),
        HeadSet(adapter.heads.heads),
        len(pairs),
        ranked(_table(one.scores, other.scores, chosen, adapter.heads), pd.DataFrame(runs)),
        pd.DataFrame(runs),
        _set_table(one, other, [*sets, *([("others", 0, rest)] if len(rest) else [])]),
        settings,
        (one.scores, other.scores),
    )


def _random(
    view: ModelView, chosen: HeadSet, tuned: HeadSet, n_random: int, seed: int
) -> tuple[list[tuple[str, int, HeadSet]], str]:
    """Sets of as many heads in each layer as are chosen there, neither chosen nor tuned; or none, and why."""
    taken, free = set(chosen | tuned), {}
    for layer, own in chosen.by_layer().items():
        free[layer] = [head for place in range(view.n_heads) if (head := Head(layer, place)) not in taken]
        if n_random and len(own) > len(free[layer]):
            return [], (
                f"no random heads stand beside the chosen ones: layer {layer} has {len(free[layer])} heads that are "
                f"neither chosen nor tuned, and {len(own)} are chosen there. Choose fewer, or pass n_random=0"
            )
    found = []
    for draw in range(n_random):
        rng = random.Random(f"neither chosen nor tuned {seed + draw}")
        its = {layer: rng.sample(free[layer], len(own)) for layer, own in chosen.by_layer().items()}
        found.append(("random", draw, HeadSet(tuple(its[head.layer].pop() for head in chosen))))
    return found, ""


def changed(before: PerPair, after: PerPair, *, each: bool = False) -> dict[str, float]:
    """Means over pairs before and after, the change, and its paired 95 % bootstrap interval; each: also theirs. nan for
    those of a single pair."""
    moved = (after - before).double()
    found = {"before": float(before.mean()), "after": float(after.mean()), "change": float(moved.mean())}
    for name, values in {"": moved, **({"before_": before, "after_": after} if each else {})}.items():
        low, high = statistics.interval(values.double()) if len(moved) > 1 else (float("nan"), float("nan"))
        found |= {f"{name}low": float(low), f"{name}high": float(high)}
    return found


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
    rows: list[dict[str, Any]] = []
    known = {head: "tuned" for head in tuned} | {head: "chosen" for head in chosen}
    for layer in range(one.n_layers):
        for place in range(one.n_heads):
            head = Head(layer, place)
            row: dict[str, Any] = {"layer": layer, "head": place, "name": str(head), "set": known.get(head, "other")}
            rows.append(row | {name: float(values[head]) for name, values in columns.items()})
    order = {head: i for i, head in enumerate((chosen | tuned).heads)}
    rows.sort(key=lambda row: order.get(Head(row["layer"], row["head"]), len(order)))
    return pd.DataFrame(rows)


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
