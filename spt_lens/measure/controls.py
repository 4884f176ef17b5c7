"""Controls: what a finding is to beat. Data in which nothing is to be found, directions that mean nothing, and how far
two selections overlap for no other reason than the layers that they are in.

`random_pairs_null` is the control of a patching score, `HeadSet.random_like` that of a selection.
"""

from __future__ import annotations

import math
import random
from dataclasses import replace
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from spt_lens.checking import door, instance, seed_number, whole_number
from spt_lens.data.pairs import ContrastPairs
from spt_lens.heads import Head, HeadSet
from spt_lens.model.view import Model, ModelView

_TWO = {"sycophantic": "truthful", "dialogues": "truthful_dialogues"}


@door
def swapped_pairs(pairs: ContrastPairs, seed: int = 0) -> ContrastPairs:
    """The same pairs, in half of which, drawn by `seed`, the two runs have changed places: right and wrong by chance.

    Whatever tells the runs apart is gone, and all else of the data is as it was: a ranking on these pairs is one by
    noise, a probe's accuracy that of guessing. Their mean gap is near zero, so that recoveries mean nothing: for
    patching take `random_pairs_null`.

    Raises: ValueError for fewer than two pairs, of which half is none.
    """
    instance(pairs, "pairs", ContrastPairs, "make some by behaviour.pairs(model)")
    n = len(pairs)
    if n < 2:
        raise ValueError("there is 1 pair: to swap the runs of half of the pairs takes 2 or more")
    chosen = set(random.Random(f"swapped {seed_number(seed)}").sample(range(n), n // 2))
    found: dict[str, tuple[object, ...]] = {}
    for one, other in _TWO.items():
        rows, others = getattr(pairs, one), getattr(pairs, other)
        if rows and others:
            found[one] = tuple(others[i] if i in chosen else rows[i] for i in range(n))
            found[other] = tuple(rows[i] if i in chosen else others[i] for i in range(n))
        elif rows or others:  # of one run alone, which is no longer one
            found |= {one: (), other: ()}
    if pairs.alignment:
        turned = (tuple((b, a) for a, b in each) for each in pairs.alignment)
        both = zip(pairs.alignment, turned, strict=True)
        found["alignment"] = tuple(two if i in chosen else one for i, (one, two) in enumerate(both))
    return replace(pairs, **found)  # type: ignore[arg-type]


def random_direction(like: Float[Tensor, "*shape"], seed: int = 0) -> Float[Tensor, "*shape"]:
    """A direction drawn from all alike, as long as a given one: what steering along that has to beat.

    The same seed gives the same direction, on whatever device and in whatever dtype; the length is that of the whole
    tensor. Raises: ValueError for a direction of no length, or one that is not finite.
    """
    instance(like, "like", Tensor, "give the direction that it is to be as long as")
    norm = float(like.detach().double().norm())
    if not math.isfinite(norm) or norm == 0:
        what = "has no length" if norm == 0 else "is not finite"
        raise ValueError(f"the direction {what}, and a random one as long as it says nothing: give another")
    drawn = torch.randn(like.shape, generator=torch.Generator().manual_seed(seed_number(seed)), dtype=torch.float64)
    return (drawn * (norm / drawn.norm())).to(like)


@door
def same_layers(model: Model, heads: HeadSet, seed: int = 0) -> HeadSet:
    """Random heads, as many in each layer as a selection has: what a choice within its layers is to beat.

    None of these heads, as long as a layer has others; of a layer of which more than half are chosen, these too. So a
    large selection still has its control, which `HeadSet.random_like` refuses. The i-th is in the layer of the i-th
    head. The same seed gives the same heads.

    Raises: ValueError for an empty selection, or heads that the model does not have.
    """
    view = ModelView(model)
    heads.check(view)
    rng = random.Random(f"same layers {seed_number(seed)}")
    drawn: dict[int, list[Head]] = {}
    for layer, chosen in heads.by_layer().items():
        others = [head for head in range(view.n_heads) if head not in chosen]
        found = rng.sample(others, min(len(chosen), len(others)))
        found += rng.sample(chosen, len(chosen) - len(found))
        drawn[layer] = [Head(layer, head) for head in found]
    return HeadSet(tuple(drawn[head.layer].pop(0) for head in heads))


class OverlapNull(NamedTuple):
    """Two selections' overlap, and what it is between random ones with as many heads in each layer.

    shared: heads in both. expected: of random selections, the mean. high: up to so many in 95 % of them, at least. p:
    the share of them with as many as these, or more.
    """

    shared: int
    expected: float
    high: int
    p: float


def layer_overlap(one: HeadSet, other: HeadSet, n_heads: int) -> OverlapNull:
    """How many heads two selections share, beside what their layers alone would give. Exact: nothing is drawn.

    Two rankings that agree on nothing but the layers share heads all the same, the more the fewer heads a layer has.
    In each layer what random heads share is hypergeometric; layers are independent. n_heads: of a layer.

    Raises: ValueError for an empty selection, or heads beyond n_heads.
    """
    whole_number(n_heads, "n_heads")
    for heads in (one, other):
        if not len(heads) or max(head.head for head in heads) >= n_heads:
            odd = "is empty" if not len(heads) else f"has heads that a layer of {n_heads} does not have"
            raise ValueError(f"a selection {odd}: give two selections of this model's heads")
    chances = [1.0]  # of sharing 0, 1, ... heads in the layers so far
    layers = other.by_layer()
    for layer, heads_there in one.by_layer().items():
        a, b = len(heads_there), len(layers.get(layer, ()))
        ways = [math.comb(b, x) * math.comb(n_heads - b, a - x) if x <= a else 0 for x in range(min(a, b) + 1)]
        total = math.comb(n_heads, a)
        new = [0.0] * (len(chances) + len(ways) - 1)
        for i, chance in enumerate(chances):
            for x, way in enumerate(ways):
                new[i + x] += chance * way / total
        chances = new
    shared = len(one & other)
    expected = sum(i * chance for i, chance in enumerate(chances))
    upto, high = 0.0, 0
    for high, chance in enumerate(chances):  # noqa: B007 - the first that is enough
        upto += chance
        if upto >= 0.95 - 1e-12:
            break
    return OverlapNull(shared, expected, high, min(1.0, sum(chances[shared:])))
