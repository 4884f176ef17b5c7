"""Head patching against TransformerLens's own sweep, a loop written by hand, and what must hold by algebra."""

from __future__ import annotations

import pandas as pd
import pytest
import torch
from by_hand import own_shares
from transformer_lens import patching

from spt_lens.data.pairs import ContrastPairs
from spt_lens.model.view import ModelView
from spt_lens.patching.activation import activation_patching
from spt_lens.yesman import Yesman


@pytest.fixture
def pairs(tiny) -> ContrastPairs:
    return Yesman().pairs(tiny, n=5)


def difference(logits: torch.Tensor, answers: torch.Tensor) -> torch.Tensor:
    last = logits[:, -1]
    rows = torch.arange(len(last))
    return last[rows, answers[:, 0]] - last[rows, answers[:, 1]]


def last_position(model, into, cache, metric) -> torch.Tensor:
    """get_act_patch_attn_head_out_by_pos, without the positions that we do not ask for."""
    layers, heads, last = range(model.cfg.n_layers), range(model.cfg.n_heads), into.shape[1] - 1
    index = pd.DataFrame([(layer, last, head) for layer in layers for head in heads], columns=["layer", "pos", "head"])
    setter = patching.layer_pos_head_vector_patch_setter
    found = patching.generic_activation_patch(model, into, cache, metric, setter, "z", index_df=index)
    return found.view(len(layers), len(heads))


def sweep(model, pairs: ContrastPairs, direction: str, positions: str) -> torch.Tensor:
    """Mean effects by TransformerLens, over the mean gap: [layer, head]."""
    total, gap = torch.zeros(model.cfg.n_layers, model.cfg.n_heads), 0.0
    for batch in pairs.batches(1):
        runs = (batch.sycophantic.tokens, batch.truthful.tokens)
        into, source = runs if direction == "denoising" else runs[::-1]
        target_logits, cache = model.run_with_cache(source)
        base, target = (difference(logits, batch.answer_ids).detach() for logits in (model(into), target_logits))

        def metric(logits: torch.Tensor, base=base, batch=batch) -> torch.Tensor:
            return (difference(logits, batch.answer_ids) - base).mean()

        with torch.no_grad():
            if positions == "all":
                found = patching.get_act_patch_attn_head_out_all_pos(model, into, cache, metric)
            else:
                found = last_position(model, into, cache, metric)
        total, gap = total + found, gap + float(target - base)
    return total / gap


@pytest.mark.parametrize("positions", ["last", "all"])
@pytest.mark.parametrize("direction", ["denoising", "noising"])
def test_equals_transformer_lens(tiny, pairs, direction, positions):
    scores = activation_patching(tiny, pairs, direction=direction, positions=positions, progress=False)
    tolerance = rounding((scores.target - scores.base).mean())
    torch.testing.assert_close(scores.values, sweep(tiny, pairs, direction, positions), atol=tolerance, rtol=0)
    assert scores.values.abs().max() > 1e-3  # the test would be empty if nothing moved


def rounding(gap: torch.Tensor) -> float:
    """Logits are the same to 1e-5, in another order of summing; a share of a small gap is so much less exact."""
    return 1e-5 / min(1.0, float(gap.abs()))


@pytest.mark.parametrize("contrast", ["supporting", "neutral"])
def test_last_position_equals_a_loop_by_hand(tiny, contrast):
    pairs = Yesman().pairs(tiny, n=3, contrast=contrast)
    scores = activation_patching(tiny, pairs, progress=False)
    for i in range(len(pairs)):
        into, source = torch.tensor([pairs.sycophantic[i]]), torch.tensor([pairs.truthful[i]])
        answers = pairs.answer_ids[i : i + 1]
        target_logits, cache = tiny.run_with_cache(source)
        base, target = (difference(logits, answers).detach() for logits in (tiny(into), target_logits))
        for layer in range(tiny.cfg.n_layers):
            name = f"blocks.{layer}.attn.hook_z"
            for head in range(tiny.cfg.n_heads):

                def patch(z, hook, name=name, head=head, cache=cache):
                    z[:, -1, head] = cache[name][:, -1, head]
                    return z

                with torch.no_grad():
                    patched = difference(tiny.run_with_hooks(into, fwd_hooks=[(name, patch)]), answers)
                expected = float((patched - base) / (target - base))
                assert float(own_shares(scores)[i, layer, head]) == pytest.approx(expected, abs=rounding(target - base))


def test_batch_size_changes_nothing(tiny, pairs):
    one, many = (activation_patching(tiny, pairs, batch_size=size, progress=False) for size in (1, 64))
    torch.testing.assert_close(one.effects, many.effects, atol=1e-5, rtol=0)
    torch.testing.assert_close(many.values, many.per_pair.mean(dim=0))
    assert many.per_pair.shape == (5, 3, 4) and many.meta["n_pairs"] == 5


def test_grouped_query_heads(gqa):
    pairs = Yesman().pairs(gqa, n=3)
    scores = activation_patching(gqa, pairs, progress=False)
    tolerance = rounding((scores.target - scores.base).mean())
    torch.testing.assert_close(scores.values, sweep(gqa, pairs, "denoising", "last"), atol=tolerance, rtol=0)


def test_bad_requests(model_class, tiny, pairs):
    for wrong in ({"metric": "magic"}, {"direction": "up"}, {"positions": "first"}, {"engine": "best"}):
        with pytest.raises(ValueError, match="choose one of|use 'last'"):
            activation_patching(tiny, pairs, **wrong)
    with pytest.raises(ValueError, match="batch_size=0"):
        activation_patching(tiny, pairs, batch_size=0)
    unequal = ContrastPairs(((2, 7, 8),), ((2, 8),), torch.tensor([[5, 6]]))
    with pytest.raises(ValueError, match="pair 0 have 3 and 2 tokens"):
        activation_patching(tiny, unequal, positions="all")
    same = ContrastPairs(((2, 7, 8),), ((2, 7, 8),), torch.tensor([[5, 6]]))
    with pytest.raises(ValueError, match="no gap"):
        activation_patching(tiny, same, progress=False)
    outside = ContrastPairs(((2, 7, 80000),), ((2, 7, 8),), torch.tensor([[5, 6]]))
    with pytest.raises(ValueError, match="80000"):
        activation_patching(tiny, outside)
    if model_class == "hooked":
        return  # it has no dropout, and is measured in any mode
    tiny.train()
    with pytest.raises(ValueError, match="eval"):
        activation_patching(tiny, pairs)


def test_the_model_is_left_as_it_was(tiny, pairs, monkeypatch):
    view = ModelView(tiny)
    before = {name: p.clone() for name, p in view.weights().items()}
    own = []
    tiny.add_hook(ModelView.z_name(0), lambda z, hook: own.append(1))
    frozen = next(iter(view.weights().values()))
    frozen.requires_grad_(False)

    def check() -> None:
        assert all(torch.equal(p, before[name]) for name, p in view.weights().items())
        assert all(p.requires_grad == (p is not frozen) and p.grad is None for p in view.weights().values())
        points = {id(point): point for point in tiny.hook_dict.values()}.values()
        assert sum(len(point.fwd_hooks) for point in points) == 1 and torch.is_grad_enabled()

    activation_patching(tiny, pairs, progress=False)
    check()
    assert own  # the user's own hook stayed on

    calls = []
    logits = ModelView.logits

    def interrupted(self, *args, **kwargs):
        calls.append(1)
        if len(calls) == 8:
            raise KeyboardInterrupt
        return logits(self, *args, **kwargs)

    monkeypatch.setattr(ModelView, "logits", interrupted)
    with pytest.raises(KeyboardInterrupt):
        activation_patching(tiny, pairs, batch_size=4, progress=False)
    check()
