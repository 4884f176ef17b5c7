"""Ablation, and the curve of what happens as heads go."""

from __future__ import annotations

import pytest
import torch

from spt_lens.behaviours.are_you_sure import are_you_sure, are_you_sure_cases, defend, retract
from spt_lens.chat.template import prompt_ids
from spt_lens.data.pairs import ContrastPairs
from spt_lens.heads import HeadSet
from spt_lens.measure import knockout
from spt_lens.measure.ablation import ablation_hooks, mean_z
from spt_lens.measure.knockout import knockout_curve
from spt_lens.measure.replies import replies
from spt_lens.model.view import ModelView
from spt_lens.patching.activation import activation_patching


def test_mean_counts_every_token_once(tiny):
    rows = [[2, 10, 11, 12], [2, 20, 21], [2, 30, 31, 32]]
    view = ModelView(tiny)
    each = torch.cat([view.cache_z(torch.tensor([row]))[:, 0] for row in rows], dim=1)  # layer, all positions, heads, d
    torch.testing.assert_close(mean_z(tiny, rows), each.mean(dim=1), atol=1e-6, rtol=0)
    torch.testing.assert_close(mean_z(tiny, rows, batch_size=1), mean_z(tiny, rows), atol=1e-6, rtol=0)
    for wrong in ([], [[]]):
        with pytest.raises(ValueError, match="prompt"):
            mean_z(tiny, wrong)


def test_zero_ablation_is_a_zero_output_matrix_also_while_generating(tiny):
    heads = HeadSet.parse("L0.H1 L0.H2 L2.H3")
    asked = [d.prompt for d in are_you_sure_cases("train", n=6)]
    view = ModelView(tiny)
    hooks = ablation_hooks(tiny, heads, torch.zeros(3, 4, 8))
    ablated = replies(tiny, asked, max_new_tokens=8, hooks=hooks)
    untouched = replies(tiny, asked, max_new_tokens=8)
    tokens = torch.tensor([prompt_ids(tiny.tokenizer, asked[0])])
    with torch.no_grad():
        logits = view.logits(tokens, hooks=hooks)
        for head in heads:
            weight, pick = view.head_weight(head.layer, "o", head.head)
            pick(weight).zero_()
        torch.testing.assert_close(view.logits(tokens), logits, atol=1e-5, rtol=0)
    assert replies(tiny, asked, max_new_tokens=8) == ablated
    assert ablated != untouched


def test_mean_ablation_at_a_constant_head_changes_nothing(tiny):
    # Values that do not depend on the token make z constant, so its mean is what it was.
    view = ModelView(tiny)
    with torch.no_grad():
        weight, pick = view.head_weight(1, "v", 1)
        pick(weight).zero_()
        tokens = torch.tensor([[2, 10, 11, 12]])
        hooks = ablation_hooks(tiny, HeadSet.parse("L1.H1"), mean_z(tiny, tokens.tolist()))
        torch.testing.assert_close(view.logits(tokens, hooks=hooks), view.logits(tokens), atol=1e-6, rtol=0)


def test_the_curve_reads_the_replies(tiny, monkeypatch):
    """A stand-in for the model: with L1.H2 it apologises and switches to nonsense, without it stands by its answer."""
    key = ModelView.z_name(1)

    def stand_in(model, dialogues, max_new_tokens, hooks, batch_size):
        z = torch.ones(1, 1, 4, 8)
        off = any(name == key and not hook(z, None)[0, 0, 2].any() for name, hook in hooks)
        return [defend(str(d.meta["given"])) if off else retract("nonsense") for d in dialogues]

    monkeypatch.setattr(knockout, "replies", stand_in)
    pairs = are_you_sure(tiny, n=4)
    cases = are_you_sure_cases("train", n=6)
    heads = HeadSet.parse("L0.H0 L1.H2 L2.H1")
    curve = knockout_curve(tiny, pairs, heads, ablation="zero", n_random=3, cases=cases, progress=False)
    ranked = curve.table[curve.table["order"] == "ranked"]
    assert ranked["k"].tolist() == [0, 1, 2, 3]
    assert ranked["apology_rate"].tolist() == [1.0, 1.0, 0.0, 0.0]
    assert ranked["truthfulness"].tolist() == [0.0, 0.0, 1.0, 1.0]
    assert ranked["accuracy"].tolist() == [0.0, 0.0, 0.5, 0.5]  # half of the cases have a wrong first answer
    random = curve.table[curve.table["order"] == "random"]
    assert random["k"].tolist() == [1, 1, 1, 2, 2, 2, 3, 3, 3]
    # Never one of the removed heads, so from k = 2 on L1.H2 stays.
    assert (random[random["k"] >= 2]["apology_rate"] == 1).all()
    assert curve.n_pairs == 4 and curve.n_cases == 6 and "zero" in curve.summary()


def test_scores_are_taken_in_rank_order(tiny):
    pairs = are_you_sure(tiny, n=3)
    scores = activation_patching(tiny, pairs, progress=False)
    curve = knockout_curve(
        tiny, pairs, scores, ks=[4, 0], n_random=1, max_new_tokens=3, mean_over="sycophantic", progress=False
    )
    assert curve.heads == scores.top(4)
    assert curve.table["k"].tolist() == [0, 4, 4] and "challenged prompts" in curve.summary()
    again = knockout_curve(
        tiny, pairs, scores, ks=[4, 0], n_random=1, max_new_tokens=3, mean_over="sycophantic", progress=False
    )
    assert again.table.equals(curve.table)


def test_default_steps():
    assert knockout._steps(None, 128, 16) == [0, 1, 2, 4, 8, 16]
    assert knockout._steps(None, 6, 6) == [0, 1, 2, 4, 6]
    assert knockout._steps(None, 1, 1) == [0, 1]
    assert knockout._steps([3, 1, 3], 4, 4) == [1, 3]


def test_errors_before_long_work(model_class, tiny, monkeypatch):
    pairs, heads = are_you_sure(tiny, n=2), HeadSet.parse("L0.H0 L1.H1")
    monkeypatch.setattr(knockout, "replies", lambda *a: pytest.fail("long work began"))
    for wrong, message in (
        ({"ablation": "half"}, "ablation"),
        ({"mean_over": "none"}, "mean_over"),
        ({"n_random": -1}, "n_random"),
        ({"ks": [3]}, "from 0 to 2"),
        ({"ks": []}, "at least one"),
    ):
        with pytest.raises(ValueError, match=message):
            knockout_curve(tiny, pairs, heads, **wrong)
    with pytest.raises(ValueError):
        knockout_curve(tiny, pairs, HeadSet.of())
    with pytest.raises(ValueError, match="L0.H7"):
        knockout_curve(tiny, pairs, HeadSet.parse("L0.H7"))
    bare = ContrastPairs(pairs.sycophantic, pairs.truthful, pairs.answer_ids)
    with pytest.raises(ValueError, match="no dialogues"):
        knockout_curve(tiny, bare, heads)
    if model_class == "hooked":
        return  # it has no dropout, and is measured in any mode
    tiny.train()
    with pytest.raises(ValueError, match="eval"):
        knockout_curve(tiny, pairs, heads)
