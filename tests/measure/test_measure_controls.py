"""Controls: half of what is swapped is, random heads are of the same layers, and overlaps have an exact null."""

from __future__ import annotations

import random

import pytest
import torch

from spt_lens.data.pairs import ContrastPairs
from spt_lens.heads import Head, HeadSet
from spt_lens.measure.controls import layer_overlap, random_direction, same_layers, swapped_pairs
from spt_lens.model.view import ModelView
from spt_lens.yesman import Yesman


def test_half_of_the_pairs_change_places(tiny):
    pairs = Yesman().pairs(tiny, 9, contrast="neutral").aligned()
    swapped = swapped_pairs(pairs, seed=3)
    turned = [i for i in range(9) if swapped.sycophantic[i] != pairs.sycophantic[i]]
    assert len(turned) == 4
    for i in range(9):
        one, other = ("truthful", "sycophantic") if i in turned else ("sycophantic", "truthful")
        assert swapped.sycophantic[i] == getattr(pairs, one)[i] and swapped.truthful[i] == getattr(pairs, other)[i]
        both = pairs.dialogues[i], pairs.truthful_dialogues[i]
        assert (swapped.dialogues[i], swapped.truthful_dialogues[i]) == (both[::-1] if i in turned else both)
        assert swapped.alignment[i] == tuple((b, a) if i in turned else (a, b) for a, b in pairs.alignment[i])
    assert torch.equal(swapped.answer_ids, pairs.answer_ids) and swapped.judge is pairs.judge
    assert swapped_pairs(pairs, seed=3).sycophantic == swapped.sycophantic
    assert swapped_pairs(pairs, seed=4).sycophantic != swapped.sycophantic
    with pytest.raises(ValueError, match="2 or more"):
        swapped_pairs(pairs[:1])


def test_pairs_without_dialogues_of_both_runs_swap_their_prompts(tiny):
    pairs = Yesman().pairs(tiny, 4)
    bare = ContrastPairs(pairs.sycophantic, pairs.truthful, pairs.answer_ids, pairs.dialogues)
    swapped = swapped_pairs(bare)
    assert swapped.dialogues == () and {*swapped.sycophantic, *swapped.truthful} == {*bare.sycophantic, *bare.truthful}


def test_random_heads_of_the_same_layers(tiny):
    view = ModelView(tiny)  # 3 layers of 4 heads
    heads = HeadSet.parse("L0.H1 L2.H0 L2.H1 L2.H3 L0.H2")
    drawn = same_layers(tiny, heads, 1)
    assert [head.layer for head in drawn] == [head.layer for head in heads] and len(drawn) == 5
    assert {head.head for head in drawn if head.layer == 0} == {0, 3}  # none of the chosen, of which there are enough
    assert Head(2, 2) in drawn  # of layer 2, the one that is left, and two of the chosen
    assert same_layers(view, heads, 1) == drawn and any(same_layers(view, heads, seed) != drawn for seed in range(5))
    with pytest.raises(ValueError, match="empty"):
        same_layers(tiny, HeadSet())


def test_a_random_direction_is_as_long_and_another():
    like = torch.tensor([3.0, 4.0, 0.0], dtype=torch.float16)
    found = random_direction(like, 5)
    assert found.dtype == like.dtype and found.shape == like.shape
    assert float(found.float().norm()) == pytest.approx(5, rel=2e-3)
    assert torch.equal(found, random_direction(like, 5)) and not torch.equal(found, random_direction(like, 6))
    whole = random_direction(torch.full((2, 40), 0.1))
    assert float(whole.norm()) == pytest.approx(0.1 * 80**0.5)
    cosines = [float(random_direction(torch.ones(400), seed).mean()) for seed in range(20)]
    assert max(map(abs, cosines)) < 0.2  # of no preferred side
    for wrong in (torch.zeros(3), torch.tensor([float("nan")])):
        with pytest.raises(ValueError, match="has no length|is not finite"):
            random_direction(wrong)
    with pytest.raises(TypeError, match="like"):
        random_direction([1.0])


def test_overlaps_of_random_heads_by_layer_are_counted_exactly():
    one, other = HeadSet.parse("0.0 0.1 0.2 1.0 2.1"), HeadSet.parse("0.0 0.3 1.0 1.1 1.2")
    null = layer_overlap(one, other, 4)
    assert null.shared == 2
    assert null.expected == pytest.approx(3 * 2 / 4 + 1 * 3 / 4)
    rng, counts = random.Random(0), []
    for _ in range(20_000):
        drawn = [*((0, head) for head in rng.sample(range(4), 2)), *((1, head) for head in rng.sample(range(4), 3))]
        counts.append(sum(tuple(head) in drawn for head in one))
    assert null.expected == pytest.approx(sum(counts) / len(counts), abs=0.02)
    assert null.p == pytest.approx(sum(count >= 2 for count in counts) / len(counts), abs=0.02)
    assert sum(count <= null.high for count in counts) / len(counts) >= 0.94
    assert sum(count <= null.high - 1 for count in counts) / len(counts) < 0.95
    assert layer_overlap(one, HeadSet.parse("3.0"), 4) == (0, 0.0, 0, 1.0)
    same = layer_overlap(one, one, 4)
    assert same.shared == 5 and same.p == pytest.approx(1 / (4 * 4 * 4))
    for wrong in (HeadSet(), HeadSet.parse("0.4")):
        with pytest.raises(ValueError, match="is empty|does not have"):
            layer_overlap(one, wrong, 4)
