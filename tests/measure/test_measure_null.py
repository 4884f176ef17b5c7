"""Scores between random pairs: the same computation with another pair's run, on the pair's own gap."""

from __future__ import annotations

import pytest
import torch
from by_hand import measured

from spt_lens.data.pairs import ContrastPairs
from spt_lens.measure.null import _partners, random_pairs_null
from spt_lens.model.view import ModelView
from spt_lens.yesman import Yesman


@pytest.mark.parametrize("direction", ["denoising", "noising"])
@pytest.mark.parametrize("method, positions", [("activation", "last"), ("activation", "all"), ("path", "last")])
def test_the_values_of_another_pair_over_the_gap_of_its_own(tiny, direction, method, positions):
    pairs = Yesman().pairs(tiny, n=8, seed=1)
    how = {"method": method, "direction": direction, "positions": positions}
    null = random_pairs_null(tiny, pairs, seed=3, progress=False, **how)
    partners = _partners(pairs, direction, positions == "last", 3)
    own = measured(tiny, pairs, **how)
    assert null.check is None and own.check is not None
    used = null.meta["pairs_used"]
    assert set(used) <= set(partners) and len(used) > 1
    prompts = pairs.sycophantic if direction == "denoising" else pairs.truthful
    for place, i in enumerate(used):
        other = prompts[partners[i]]
        assert partners[i] != i and (positions == "last" or len(other) == len(prompts[i]))
        both = (prompts[i], other) if direction == "denoising" else (other, prompts[i])
        swapped = ContrastPairs((both[0],), (both[1],), pairs.answer_ids[i : i + 1])
        # Of the swapped pair the share of its own gap, whatever that is; here it is compared in logits.
        alone = measured(tiny, swapped, **how)
        gap = (own.target - own.base)[used].mean()
        expected = (alone.logit_differences[0] - alone.base[0]) / gap
        if positions == "all":  # both patch from the first position in which the pair itself differs, or earlier
            continue
        torch.testing.assert_close(null.per_pair[place], expected, atol=2e-5 / min(1, float(gap.abs())), rtol=0)
    torch.testing.assert_close(null.target, own.target[used])
    assert null.meta["null"] and null.method == method


def test_partners_are_others_and_each_is_taken_once(tiny):
    pairs = Yesman().pairs(tiny, n=9)
    for any_length in (True, False):
        partners = _partners(pairs, "denoising", any_length, 0)
        assert len(set(partners.values())) == len(partners) and all(i != j for i, j in partners.items())
    assert len(_partners(pairs, "denoising", True, 0)) == 9
    assert _partners(pairs, "denoising", True, 0) != _partners(pairs, "denoising", True, 1)
    with pytest.raises(ValueError, match="no two pairs"):
        random_pairs_null(tiny, pairs[:1])


def test_heads_above_the_null(tiny):
    pairs = Yesman().pairs(tiny, n=8)
    scores, null = measured(tiny, pairs), random_pairs_null(tiny, pairs, progress=False)
    above = scores.above_null(null)
    assert all(scores[head] > float(null.values.abs().max()) for head in above)
    assert ModelView(tiny).n_layers == null.n_layers


def test_a_seed_draws_the_same(tiny):
    pairs = Yesman().pairs(tiny, n=6)
    one, same, other = (random_pairs_null(tiny, pairs, seed=seed, progress=False) for seed in (0, 0, 1))
    assert torch.equal(one.per_pair, same.per_pair) and not torch.equal(one.per_pair, other.per_pair)


def test_what_can_not_be_measured_has_no_null(tiny, monkeypatch):
    pairs = Yesman().pairs(tiny, n=2)
    monkeypatch.setattr(ModelView, "logits", lambda *a, **k: pytest.fail("long work began"))
    for wrong, message in (
        ({"method": "magic"}, "method='magic': choose one of 'activation', "),
        ({"receivers": "L1.H0.q"}, "receivers does not go with method='activation', which has none of its own"),
        ({"method": "screened", "mlps": "frozen"}, "mlps does not go with .* which has share and ig_steps"),
        ({"method": "path", "receivers": "L9.H0.q"}, "layers 0 to 2"),
        ({"method": "path", "positions": [-3]}, "only what is written at the positions that are read"),
    ):
        with pytest.raises(ValueError, match=message):
            random_pairs_null(tiny, pairs, **wrong)
