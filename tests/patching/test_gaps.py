"""Pairs without a gap, logits that are no numbers, answers that the model does not have."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
import torch
from by_hand import assert_close, assert_same, logits, made, measured, two_layers

from spt_lens.data.pairs import ContrastPairs
from spt_lens.model.view import ModelView

tiny_folder, model_of, tiny = two_layers()  # which all tests here leave as they were
WAYS = [
    {},
    {"engine": "stacked"},
    {"engine": "hooks"},
    {"direction": "noising", "positions": "all"},
    {"method": "path"},
    {"method": "path", "engine": "hooks"},
    {"method": "attribution"},
    {"method": "screened", "share": 0.5},
]
LENGTHS = [(9, 9), (6, 6), (9, 9), (7, 7), (6, 6)]


def alike(pairs: ContrastPairs, *numbers: int) -> ContrastPairs:
    """The same with these pairs' truthful prompts the same as the sycophantic ones."""
    truthful = tuple((pairs.sycophantic if i in numbers else pairs.truthful)[i] for i in range(len(pairs)))
    return replace(pairs, truthful=truthful)


def chosen(pairs: ContrastPairs, *numbers: int) -> ContrastPairs:
    kept = {}
    for field in fields(pairs):
        if field.name in ("judge", "words"):
            continue
        value = getattr(pairs, field.name)
        is_tensor = isinstance(value, torch.Tensor)
        kept[field.name] = value[list(numbers)] if is_tensor else tuple(value[i] for i in numbers if value)
    return ContrastPairs(**kept)


def assert_all_count(model, pairs, without: list[int], how) -> None:
    """Pairs without a gap have no effect, and count: the others' scores, with as much less of a mean gap."""
    rest = [i for i in range(len(pairs)) if i not in without]
    scores, others = measured(model, pairs, **how), measured(model, chosen(pairs, *rest), **how)
    assert scores.n_pairs == scores.meta["n_pairs"] == len(pairs) and "left_out" not in scores.meta
    torch.testing.assert_close(scores.effects[without], torch.zeros_like(scores.effects[without]), atol=1e-4, rtol=0)
    if how.get("method") != "screened":  # which measures the best heads of these pairs
        torch.testing.assert_close(scores.effects[rest], others.effects, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(scores.values, others.values, atol=1e-4, rtol=1e-4)  # shares of the same sum
    gap = float((scores.target - scores.base).mean()) * (-1 if how.get("direction") == "noising" else 1)
    torch.testing.assert_close(scores.values, scores.effects.mean(0) / gap)
    assert gap == pytest.approx(scores.check.mean_gap.value, abs=1e-5) and scores.check.n_pairs == len(pairs)


@pytest.mark.parametrize("how", WAYS, ids=str)
def test_pairs_of_twice_the_same_prompt_count_as_no_effect(tiny, how):
    assert_all_count(tiny, alike(made(tiny, LENGTHS), 1, 2), [1, 2], how)


@pytest.mark.parametrize("how", WAYS, ids=str)
def test_no_pair_has_a_gap(tiny, how):
    pairs = made(tiny, LENGTHS)
    with pytest.raises(ValueError, match="there is no gap to recover: .* all 5 pairs"):
        measured(tiny, alike(pairs, *range(5)), **how)
    ids = tuple(((a, 7), (b, 8, 9)) for a, b in pairs.answer_ids.tolist())
    if how.get("positions") != "all":
        with pytest.raises(ValueError, match="there is no gap to recover"):
            measured(tiny, replace(alike(pairs, *range(5)), completion_ids=ids), **how)


def test_whole_completions_without_a_gap_count_too(tiny):
    pairs = made(tiny, LENGTHS)
    ids = tuple(((a, 7), (b, 8, 9)) for a, b in pairs.answer_ids.tolist())
    assert_all_count(tiny, replace(alike(pairs, 0), completion_ids=ids), [0], {"engine": "stacked"})


def test_a_reversed_gap_counts_against_the_others(tiny):
    """Its share of its own gap, which has no sign, would count for them."""
    pairs = made(tiny, LENGTHS)
    answers = pairs.answer_ids.clone()
    answers[1] = answers[1].flip(0)
    turned, before = measured(tiny, replace(pairs, answer_ids=answers)), measured(tiny, pairs)
    assert turned.check.n_reversed == 1 and before.check.n_reversed == 0
    sign = torch.tensor([1.0, -1.0, 1.0, 1.0, 1.0])
    gaps, effects = (before.target - before.base) * sign, before.effects * sign[:, None, None]
    torch.testing.assert_close(turned.values, effects.sum(0) / gaps.sum(), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(turned.per_pair, effects / gaps.mean(), atol=1e-4, rtol=1e-4)
    assert_close(turned, 1, (-before.base[1], -before.target[1], -before.logit_differences[1]))


def test_a_tiny_gap_does_not_rule(tiny):
    """With answers that its two runs hardly tell apart, a pair's share of its own gap is hundreds."""
    pairs = made(tiny, LENGTHS)
    change = logits(tiny, pairs.truthful[3])[-1] - logits(tiny, pairs.sycophantic[3])[-1]
    apart = (change[:, None] - change).abs() + torch.eye(len(change)) * 9
    answers = pairs.answer_ids.clone()
    answers[3] = torch.tensor(divmod(int(apart.flatten().argmin()), len(change)))
    scores = measured(tiny, replace(pairs, answer_ids=answers))
    gaps = scores.target - scores.base
    assert float(gaps[3].abs()) < 1e-3 and float((scores.effects[3] / gaps[3]).abs().max()) > 10
    assert float(scores.values.abs().max()) < 2 and scores.n_pairs == 5
    torch.testing.assert_close(scores.values, scores.effects.sum(0) / gaps.sum(), atol=1e-5, rtol=1e-4)


def test_gaps_that_cancel_are_an_error(tiny):
    pairs = made(tiny, [(6, 6)])
    both = ContrastPairs(
        pairs.sycophantic * 2, pairs.truthful * 2, torch.cat([pairs.answer_ids, pairs.answer_ids.flip(1)])
    )
    with pytest.raises(ValueError, match="the gaps of the 2 pairs cancel"):
        measured(tiny, both)


def test_screening_takes_the_heads_of_the_largest_mean_effect(tiny):
    pairs = made(tiny, LENGTHS)
    for share, many in ((0.125, 1), (0.5, 4)):
        found = measured(tiny, pairs, method="screened", share=share)
        size = measured(tiny, pairs, method="attribution").effects.mean(0).abs()
        assert set(size[found.verified].tolist()) == set(size.flatten().topk(many).values.tolist())


def test_the_batch_size_does_not_decide_which_pairs_count(tiny):
    """With eight of the shortest alike, it must not give up before it has seen another one."""
    pairs = alike(made(tiny, [(6, 6)] * 8 + [(9, 9)] * 2), *range(8))
    for size in (16, 3, 1):
        scores = measured(tiny, pairs, batch_size=size)
        assert scores.n_pairs == 10 and scores.effects[8:].abs().amax(dim=(1, 2)).gt(1e-3).all()
        assert scores.check.median_gap.value == pytest.approx(0, abs=1e-5)


def counting(monkeypatch) -> list[int]:
    """Whole forward passes."""
    forward, calls = ModelView.logits, []

    def counted(self, *args, **named):
        calls.append(1)
        return forward(self, *args, **named)

    monkeypatch.setattr(ModelView, "logits", counted)
    return calls


@pytest.mark.parametrize("how", WAYS, ids=str)
@torch.no_grad()
def test_logits_that_are_no_numbers(tiny_folder, load, how, monkeypatch):
    tiny = load(tiny_folder)
    pairs = made(tiny, LENGTHS)
    view = ModelView(tiny)
    embedding = next(view.backend.root.parameters())
    # A token of pair 3's sycophantic prompt alone.
    token = next(
        token
        for token in pairs.sycophantic[3]
        if sum(row.count(token) for row in (*pairs.sycophantic, *pairs.truthful)) == 1 and token not in pairs.answer_ids
    )
    run = "source" if how.get("direction") == "noising" else "patched"
    kept = embedding[token].clone()
    embedding[token] = torch.nan
    with pytest.raises(ValueError, match=f"pair 3: the model's logits are not finite in the {run} run"):
        measured(tiny, pairs, **how)
    embedding[token] = kept
    weight = view.head_weight(0, "o", 0)[0]
    weight.flatten()[0] = torch.nan  # now in every pair
    calls = counting(monkeypatch)
    with pytest.raises(ValueError, match=r"pair \d: the model's logits are not finite"):
        measured(tiny, pairs, **how)
    assert len(calls) <= 5  # there are 8 heads


def test_overflow_in_float16(tiny_folder, load):
    model = load(tiny_folder, dtype=torch.float16)
    pairs = made(model, LENGTHS)
    assert measured(model, pairs).logit_differences.dtype == torch.float32
    with torch.no_grad():
        ModelView(model).head_weight(1, "o", 0)[0].mul_(6e4)
    with pytest.raises(ValueError, match="not finite .*float16: use bfloat16 or float32"):
        measured(model, pairs)


def test_answers_outside_of_the_vocabulary(tiny, monkeypatch):
    pairs = made(tiny, [(6, 6), (5, 5)])
    size = ModelView(tiny).vocab_size
    first = pairs.answer_ids.clone()
    first[1, 1] = size
    second = pairs.answer_ids.tolist()
    sets = replace(pairs, answer_sets=(((second[0][0], size + 5), (second[0][1],)), ((second[1][0],), (second[1][1],))))
    whole = replace(pairs, completion_ids=(tuple((a,) for a in second[0]), ((second[1][0], 7, size), (second[1][1],))))
    prompt = replace(pairs, truthful=(pairs.truthful[0], (*pairs.truthful[1][:-1], size)))
    calls = counting(monkeypatch)
    for wrong, message in (
        (replace(pairs, answer_ids=first), f"pair 1: the sycophantic answer token holds the token id {size}"),
        (sets, f"pair 0: the truthful answer set holds the token id {size + 5}"),
        (whole, f"pair 1: the truthful completion holds the token id {size}"),
        (prompt, f"pair 1: the truthful prompt holds the token id {size}"),
    ):
        with pytest.raises(ValueError, match=message):
            measured(tiny, wrong)
    assert not calls


def test_odd_prompts(tiny):
    """Of one token; that differ from the first token on; several times the same; that begin another."""
    one, several = made(tiny, [(1, 1)]), made(tiny, [(6, 6)])
    many = replace(
        several,
        sycophantic=several.sycophantic * 5,
        truthful=several.truthful * 5,
        answer_ids=several.answer_ids.repeat(5, 1),
    )
    row = several.sycophantic[0]
    prefix = replace(several, sycophantic=(row[:3],), truthful=(row,)).aligned()
    for pairs in (one, several, many, prefix):
        assert pairs.sycophantic[0][0] != pairs.truthful[0][0] or pairs is prefix
        for way in ({}, {"method": "attribution"}, {"method": "path", "receivers": "L1.H0.k"}):
            found, plain = (
                measured(tiny, pairs, positions="all", engine=engine, **way) for engine in ("sweep", "hooks")
            )
            assert_same(found, plain)
            if pairs is many:
                alone = measured(tiny, several, positions="all", **way)
                for i in range(5):
                    assert_close(found, i, (alone.base[0], alone.target[0], alone.logit_differences[0]))
