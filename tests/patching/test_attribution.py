"""Attribution against autograd written by hand, and what must hold by algebra."""

from __future__ import annotations

import pytest
import torch
from by_hand import own_shares

from spt_lens.data.pairs import ContrastPairs
from spt_lens.heads import Head, HeadSet
from spt_lens.measure.sets import set_patching
from spt_lens.model.view import ModelView
from spt_lens.patching.activation import activation_patching
from spt_lens.patching.attribution import attribution_patching, screened_patching
from spt_lens.yesman import Yesman


@pytest.fixture
def pairs(tiny) -> ContrastPairs:
    return Yesman().pairs(tiny, n=3)


def by_finite_differences(model, pairs: ContrastPairs, i: int, positions: str, step: float) -> torch.Tensor:
    """The slope of each head's recovery as its output starts to move to that of the other run, in float64."""
    into, source = torch.tensor([pairs.sycophantic[i]]), torch.tensor([pairs.truthful[i]])
    ids = pairs.answer_ids[i].tolist()
    view = ModelView(model)
    z, own = view.cache_z(source), view.cache_z(into)
    where = slice(-1, None) if positions == "last" else slice(None)

    def difference(tokens, hooks=()) -> torch.Tensor:
        with torch.no_grad():
            logits = view.logits(tokens, hooks=hooks)[0, -1]
        return logits[ids[0]] - logits[ids[1]]

    base, target = difference(into), difference(source)
    scores = torch.zeros(view.n_layers, view.n_heads, dtype=torch.float64)
    for layer in range(view.n_layers):
        for head in range(view.n_heads):
            found = []
            for sign in (1, -1):

                def move(value, hook, layer=layer, head=head, sign=sign):
                    value = value.clone()
                    change = z[layer, :, where, head] - own[layer, :, where, head]
                    value[:, where, head] += sign * step * change
                    return value

                found.append(difference(into, [(view.z_name(layer), move)]))
            scores[layer, head] = (found[0] - found[1]) / (2 * step) / (target - base)
    return scores


@pytest.mark.parametrize("engine", ["sweep", "hooks"])
@pytest.mark.parametrize("positions", ["last", "all"])
def test_one_step_is_the_slope_at_the_unpatched_run(tiny_folder, load, positions, engine, exact_softmax):
    model = load(tiny_folder, dtype=torch.float64)
    pairs = Yesman().pairs(model, n=2)
    scores = attribution_patching(model, pairs, positions=positions, engine=engine, progress=False, batch_size=2)
    assert scores.engine == engine
    for i in range(2):
        expected = by_finite_differences(model, pairs, i, positions, step=0.01)  # norms are in float32
        torch.testing.assert_close(own_shares(scores)[i], expected, atol=2e-3, rtol=2e-3)
    assert scores.values.abs().max() > 1e-2


@pytest.mark.parametrize("positions", ["last", "all"])
@pytest.mark.parametrize("steps", [1, 3])
def test_both_engines_give_the_same(tiny, pairs, positions, steps):
    one, other, small = (
        attribution_patching(tiny, pairs, positions=positions, ig_steps=steps, progress=False, **how)
        for how in ({"engine": "sweep"}, {"engine": "hooks"}, {"engine": "sweep", "batch_size": 1})
    )
    scale = (one.target - one.base).abs()[:, None, None].clamp(max=1)
    torch.testing.assert_close(one.per_pair * scale, other.per_pair * scale, atol=1e-5, rtol=0)
    torch.testing.assert_close(one.per_pair * scale, small.per_pair * scale, atol=1e-5, rtol=0)


def test_integrated_gradients_add_up_to_a_whole_layer(tiny, pairs):
    """Completeness: the nearer, the more steps; one step at the start of the line is not it."""
    layer = 1
    heads = HeadSet.of([(layer, head) for head in range(4)])
    whole = set_patching(tiny, pairs, heads, n_random=0, progress=False).chosen["recovery"]
    off = []
    for steps in (1, 2, 8, 32):
        scores = attribution_patching(tiny, pairs, ig_steps=steps, progress=False)
        off.append(abs(float(scores.values[layer].sum() - whole)))
    assert off[-1] < 1e-3 and off[-1] < off[1] and off[-1] < 0.1 * off[0]


def test_attribution_needs_no_gradients_of_the_user(tiny, pairs):
    view = ModelView(tiny)
    first = next(iter(view.weights().values()))
    first.requires_grad_(False)
    first_grad = torch.ones_like(first)
    first.grad = first_grad
    for how in ({}, {"engine": "hooks"}, {"ig_steps": 2}):
        with torch.no_grad():
            attribution_patching(tiny, pairs, progress=False, **how)
            assert not torch.is_grad_enabled()
    assert first.grad is first_grad and not first.requires_grad
    assert all(p.requires_grad and p.grad is None for p in view.weights().values() if p is not first)


def test_screening_measures_the_best_share_exactly(tiny, pairs):
    exact = activation_patching(tiny, pairs, progress=False)
    estimated = attribution_patching(tiny, pairs, progress=False)
    scores = screened_patching(tiny, pairs, share=0.25, progress=False)
    assert scores.verified is not None and int(scores.verified.sum()) == 3
    torch.testing.assert_close(scores.values[scores.verified], exact.values[scores.verified], atol=1e-4, rtol=0)
    torch.testing.assert_close(scores.values[~scores.verified], estimated.values[~scores.verified], atol=1e-4, rtol=0)
    assert set(scores.top(3)) == {Head(*at) for at in scores.verified.nonzero().tolist()}
    stacked = screened_patching(tiny, pairs, share=0.25, engine="stacked", progress=False)
    assert stacked.engine == "stacked"
    torch.testing.assert_close(stacked.values, scores.values, atol=1e-4, rtol=0)
    everything = screened_patching(tiny, pairs, share=1.0, progress=False)
    torch.testing.assert_close(everything.values, exact.values, atol=1e-4, rtol=0)


def test_bad_options(tiny, pairs):
    for patching, wrong, message in (
        (screened_patching, {"share": 0}, "share=0: give a number above 0"),
        (screened_patching, {"share": 1.5}, "share=1.5"),
        (screened_patching, {"ig_steps": True}, "ig_steps=True"),
        (attribution_patching, {"ig_steps": 0}, "ig_steps=0"),
    ):
        with pytest.raises(ValueError, match=message):
            patching(tiny, pairs, progress=False, **wrong)
