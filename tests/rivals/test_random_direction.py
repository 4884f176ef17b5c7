"""Along random directions: where the rival works, as long as its own, pointing elsewhere, and undone exactly."""

from __future__ import annotations

import pytest
import torch
from conftest import condition
from interrupting import same_weights, weights

from spt_lens.model.view import ModelView
from spt_lens.rivals.ablation import Ablation
from spt_lens.rivals.fitted import Material
from spt_lens.rivals.iti import ITI
from spt_lens.rivals.random_direction import RandomDirection
from spt_lens.rivals.steering import Steering
from spt_lens.tune.adapter import Adapter
from spt_lens.tune.config import TuneConfig
from spt_lens.tune.lora import LoRA
from spt_lens.yesman import Yesman

CASES = Yesman().training(n=16)
HELD = Yesman().training(n=6, split="validation")
QUIET = {"progress": False, "validation": HELD}
OWN = (Steering(), Ablation(), ITI(3))


def edits(rival, model, seed=0):
    tuned = rival.tune(model, CASES, TuneConfig(lr=1.0, seed=seed), **QUIET)
    tuned.undo(model)
    return tuned, {name: value.double() for name, value in tuned.adapter.after.items()}


@pytest.mark.parametrize("rival", OWN, ids=repr)
def test_all_but_where_it_points_is_the_rivals(tiny, rival):
    (own, one), (tuned, other) = edits(rival, tiny), edits(RandomDirection(rival), tiny)
    assert list(other) == list(one) and tuned.heads == own.heads and tuned.weights == own.weights
    assert tuned.history.equals(own.history)  # layers, or heads, were chosen by the rival's own
    for name, value in one.items():
        a, b = value.flatten(), other[name].flatten()
        assert float(b.norm()) == pytest.approx(float(a.norm()), rel=1e-4)
        assert abs(float(torch.nn.functional.cosine_similarity(a, b, dim=0))) < 0.95
    if isinstance(rival, ITI):
        assert not any(value[0].any() for value in other.values())  # no scales
        assert len({tuple(value[1].tolist()) for value in other.values()}) == 3
    if isinstance(rival, Ablation):
        assert len({tuple(value.tolist()) for value in other.values()}) == 1  # one direction in all layers


def test_the_seed_draws_the_direction(tiny):
    rival = RandomDirection(Steering(layer=1))
    first, again, other = (edits(rival, tiny, seed)[1]["L1.out.reply"] for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.allclose(first, other)


def test_it_is_saved_and_undone_exactly(tiny, tokens, tmp_path):
    view, before, values = ModelView(tiny), condition(tiny), weights(tiny)
    untouched = view.logits(tokens)
    tuned = RandomDirection(Ablation()).tune(tiny, CASES, **QUIET)
    changed = view.logits(tokens)
    saved = Adapter.load(tuned.save(tmp_path))
    tuned.undo(tiny)
    assert torch.equal(view.logits(tokens), untouched) and not torch.allclose(changed, untouched)
    with saved.applied(tiny):
        assert torch.equal(view.logits(tokens), changed)
    assert condition(tiny) == before and same_weights(tiny, values)


def test_what_can_not_be_meant_is_refused(tiny, monkeypatch):
    for given, error, says in (
        (LoRA(), TypeError, "of must be a Fitted"),
        (RandomDirection(ITI()), ValueError, "of is a control already"),
    ):
        with pytest.raises(error, match=says):
            RandomDirection(given)
    before = condition(tiny)
    with pytest.raises(ValueError, match="k=13 heads are more than"):
        RandomDirection(ITI(13)).tune(tiny, CASES, **QUIET)
    whole = Material.activations
    monkeypatch.setattr(Material, "activations", lambda self, *args, **how: (whole(self, *args, **how)[0],) * 2)
    with pytest.raises(ValueError, match="length zero"):
        RandomDirection(Steering()).tune(tiny, CASES, **QUIET)
    assert condition(tiny) == before
