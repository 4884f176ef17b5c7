"""LoRA on the chosen heads alone, beside the same training written out on a plain model."""

from __future__ import annotations

import pytest
import torch
from conftest import head_part

from spt_lens.chat.batches import Examples
from spt_lens.heads import HeadSet
from spt_lens.model.states import States
from spt_lens.model.targets import encode_all
from spt_lens.model.view import ModelView
from spt_lens.tune.adapter import Adapter
from spt_lens.tune.head_lora import HeadLoRA
from spt_lens.tune.slices import head_slices
from spt_lens.tune.training import TuneConfig
from spt_lens.yesman import Yesman

HEADS = HeadSet.parse("L1.H1 L2.H3")
CASES = Yesman().training(n=8)
CONFIG = TuneConfig(lr=1e-2, steps=4, batch_size=4, kl_weight=0.1)
KEEP = CASES[:2]


def copies(model) -> dict[str, torch.Tensor]:
    return {name: weight.detach().clone() for name, weight in ModelView(model).weights().items()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


def test_steps_are_those_of_low_rank_updates_written_out(tiny):
    """Three steps of SGD on all dialogues at once; the first moves B alone, since B begins at zero."""
    view = ModelView(tiny)
    plain, data = view.hf_copy(), Examples(encode_all(tiny, CASES))
    batch, seed, rank = data.batch(torch.arange(len(data))), 3, 2
    draw = torch.Generator().manual_seed(seed)
    factors = {}
    for layer, head in HEADS:
        for which in "qkvo":
            rows, columns = (32, 8) if which == "o" else (8, 32)
            down = (torch.rand(rank, columns, generator=draw) * 2 - 1) / columns**0.5  # as peft draws it
            factors[layer, head, which] = down.requires_grad_(), torch.zeros(rows, rank, requires_grad=True)
    for _ in range(3):
        weights = dict(plain.named_parameters())
        for (layer, head, which), (down, up) in factors.items():
            name = f"model.layers.{layer}.self_attn.{which}_proj.weight"
            around = 8 * head, 24 - 8 * head  # the place of this head
            pad = around if which == "o" else (0, 0, *around)
            weights[name] = weights[name] + torch.nn.functional.pad(up @ down, pad)
        logits = torch.func.functional_call(plain, weights, (batch.tokens,)).logits[batch.where]
        torch.nn.functional.cross_entropy(logits, batch.labels).backward()
        with torch.no_grad():
            for factor in [each for both in factors.values() for each in both]:
                factor -= 0.5 * factor.grad
                factor.grad = None
    expected = {f"L{layer}.H{head}.{which}": up @ down for (layer, head, which), (down, up) in factors.items()}
    settings = {"max_grad_norm": None, "warmup_share": 0, "schedule": "constant", "momentum": 0, "optimizer": "sgd"}
    config = TuneConfig(lr=0.5, steps=3, batch_size=8, seed=seed, **settings)
    tuned = HeadLoRA(HEADS, rank).tune(tiny, CASES, config, progress=False)
    change = tuned.adapter
    assert change.before.keys() == expected.keys()
    for name, update in expected.items():
        assert update.abs().max() > 1e-4
        torch.testing.assert_close(change.after[name] - change.before[name], update.detach(), rtol=1e-3, atol=2e-6)


def test_it_moves_the_slices_alone_by_a_low_rank_and_undoes_it_exactly(tiny, load, tiny_folder, tmp_path):
    before = copies(tiny)
    others = [(i, which, j) for i in range(3) for which in "qkvo" for j in range(4) if (i, j) not in HEADS.heads]
    was = {place: head_part(ModelView(tiny), *place).clone() for place in others}
    tuned = HeadLoRA(HEADS, rank=2).tune(tiny, CASES, CONFIG, keep=KEEP, progress=False)
    for piece in head_slices(tiny, HEADS):
        moved = piece.read() - tuned.adapter.before[piece.name]
        assert 1 <= torch.linalg.matrix_rank(moved, atol=1e-5) <= 2
    assert all(torch.equal(head_part(ModelView(tiny), *place), part) for place, part in was.items())
    weights = dict(ModelView(tiny).weights())
    assert {n for n in weights if not torch.equal(weights[n], before[n])} == {
        n for n, p in weights.items() if any(p is piece.parameter for piece in head_slices(tiny, HEADS))
    }
    assert tuned.weights == 2 * 4 * 2 * (8 + 32) and tuned.heads == HEADS
    assert tuned.summary().startswith("LoRA, rank 2, on the slices of 2 heads (L1.H1 L2.H3), qkvo, 640 weights: 4 of 4")
    assert tuned.history["loss"].iloc[-1] < tuned.history["loss"].iloc[0]
    after = copies(tiny)
    tuned.save(tmp_path)
    tuned.undo(tiny)
    assert same(copies(tiny), before)
    fresh = load(tiny_folder)
    Adapter.load(tmp_path).apply(fresh)
    assert same(copies(fresh), after)


def test_kept_states_are_used_as_by_pinpoint_tuning(tiny):
    states, found = States(tiny), []
    for given in (states, False):
        tuned = HeadLoRA(HEADS, rank=2).tune(tiny, CASES, CONFIG, keep=KEEP, progress=False, states=given)
        found.append(tuned.adapter.after)
        tuned.undo(tiny)
    assert len(states.below(1)) == len(CASES)
    for name, value in found[0].items():
        torch.testing.assert_close(value, found[1][name], rtol=1e-3, atol=1e-4)


def test_the_seed_draws_the_start_and_the_global_one_is_left_alone(tiny):
    def run(seed: int, noise: int) -> dict[str, torch.Tensor]:
        torch.manual_seed(noise)
        expected = torch.rand(1)
        torch.manual_seed(noise)
        config = TuneConfig(steps=2, batch_size=8, seed=seed)
        tuned = HeadLoRA(HEADS, rank=2).tune(tiny, CASES, config, progress=False)
        assert torch.equal(torch.rand(1), expected)
        tuned.undo(tiny)
        return dict(tuned.adapter.after)

    assert same(run(0, 5), run(0, 6)) and not same(run(0, 5), run(1, 5))


def test_nothing_has_moved_before_the_first_step(tiny, monkeypatch):
    def stop(*args, **options):
        raise KeyboardInterrupt

    before = copies(tiny)
    monkeypatch.setattr("spt_lens.tune.tuner.fit", stop)
    tuned = HeadLoRA(HEADS).tune(tiny, CASES, CONFIG, keep=KEEP, progress=False)
    assert tuned.interrupted and same(copies(tiny), before)


def test_a_rank_above_the_slices_own_is_that(gqa):
    tuned = HeadLoRA(HEADS, rank=99).tune(gqa, CASES, TuneConfig(steps=1), progress=False)
    assert tuned.weights == 2 * 2 * 8 * (8 + 32)  # q and o of two heads


def test_bad_input(tiny):
    with pytest.raises(ValueError, match="rank=0"):
        HeadLoRA(HEADS, rank=0)
    with pytest.raises(ValueError, match="L9.H9"):
        HeadLoRA(HeadSet.parse("L9.H9")).check(tiny)
