"""Every method through the one face: full fine-tuning, LoRA, and a rival of one's own."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass

import pytest
import torch

from spt_lens.chat.batches import Examples
from spt_lens.export.hf import export_hf
from spt_lens.model.backends import BridgeBackend
from spt_lens.model.targets import encode_all, model_logits
from spt_lens.model.view import ModelView
from spt_lens.tune import tuner
from spt_lens.tune.adapter import Adapter
from spt_lens.tune.full import full_finetune
from spt_lens.tune.lora import lora_tune
from spt_lens.tune.slices import Slice, SliceMask, whole_weights
from spt_lens.tune.training import TuneConfig
from spt_lens.tune.tuner import Trainable, Tuner
from spt_lens.yesman import Yesman
from tools.tiny import tiny_checkpoint

CONFIG = TuneConfig(lr=3e-3, steps=3, batch_size=4)


@pytest.fixture(scope="module")
def dialogues():
    return Yesman().training(n=8)


def copies(model) -> dict[str, torch.Tensor]:
    return {name: weight.detach().clone() for name, weight in ModelView(model).weights().items()}


def moved(model, before) -> set[str]:
    return {name for name, weight in ModelView(model).weights().items() if not torch.equal(weight, before[name])}


def test_full_finetuning_moves_everything_and_is_undone_exactly(tiny, dialogues):
    before = copies(tiny)
    before_plain = dict(ModelView(tiny).hf_copy().named_parameters())
    tuned = full_finetune(tiny, dialogues, CONFIG, progress=False)
    # Biases that the checkpoint does not have stay zero.
    assert moved(tiny, before) == {name for name, weight in before.items() if weight.any()}
    assert tuned.weights == sum(p.numel() for p in before_plain.values())
    assert tuned.weights == ModelView(tiny).n_params and len(tuned.history) == 3
    tuned.undo(tiny)
    assert moved(tiny, before) == set()


def test_full_finetuning_equals_plain_sgd(tiny, load, tiny_folder, dialogues):
    """One step of SGD on all dialogues at once, written out."""
    plain = ModelView(tiny).hf_copy()
    data = Examples(encode_all(tiny, dialogues))
    batch = data.batch(torch.arange(len(data)))
    logits = plain(input_ids=batch.tokens).logits[batch.where]
    torch.nn.functional.cross_entropy(logits, batch.labels).backward()
    expected = {name: (p - 0.1 * p.grad).detach() for name, p in plain.named_parameters()}
    settings = TuneConfig(
        lr=0.1,
        steps=1,
        batch_size=8,
        optimizer="sgd",
        momentum=0,
        max_grad_norm=None,
        warmup_share=0,
        schedule="constant",
    )
    full_finetune(tiny, dialogues, settings, progress=False)
    trained, by_hand = ModelView(tiny), ModelView(load(tiny_folder))
    plain.load_state_dict(expected, strict=False)
    by_hand.load_plain(plain)
    for name, weight in trained.weights().items():
        torch.testing.assert_close(weight, by_hand.weights()[name], rtol=1e-4, atol=1e-6)


def test_lora_moves_attention_only_by_a_low_rank(tiny, dialogues):
    before, plain = copies(tiny), dict(ModelView(tiny).hf_copy().named_parameters())
    tuned = lora_tune(tiny, dialogues, CONFIG, rank=2, progress=False)
    now = dict(ModelView(tiny).hf_copy().named_parameters())
    attention = {name for name in now if name.split(".")[-2] in ("q_proj", "k_proj", "v_proj", "o_proj")}
    assert {name for name in now if not torch.equal(now[name], plain[name])} == attention and len(attention) == 4 * 3
    for name in attention:
        assert torch.linalg.matrix_rank(now[name] - plain[name], atol=1e-5) <= 2
    assert tuned.weights == 4 * 3 * 2 * (32 + 32)
    tuned.undo(tiny)
    assert moved(tiny, before) == set()


@pytest.mark.parametrize("tune", [full_finetune, lora_tune])
def test_seeds_reproduce_and_leave_the_global_one_alone(tiny, dialogues, tune):
    torch.manual_seed(5)
    expected = torch.rand(1)
    found = []
    for noise in (5, 6):
        torch.manual_seed(noise)
        tuned = tune(tiny, dialogues, CONFIG, progress=False)
        if noise == 5:
            assert torch.equal(torch.rand(1), expected)
        found.append(copies(tiny))
        tuned.undo(tiny)
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


@pytest.mark.parametrize("tune", [full_finetune, lora_tune])
def test_an_interrupt_ends_any_method_early_with_a_result_that_can_be_undone(tiny, dialogues, monkeypatch, tune):
    whole_fit, before = tuner.fit, copies(tiny)

    def interrupted_fit(*args, **options):
        whole_fit(*args, **options)
        raise KeyboardInterrupt

    monkeypatch.setattr(tuner, "fit", interrupted_fit)
    tuned = tune(tiny, dialogues, CONFIG, progress=False)
    assert tuned.interrupted and "Interrupted" in tuned.summary() and moved(tiny, before)
    tuned.undo(tiny)
    assert moved(tiny, before) == set()


def test_the_model_is_untouched_after_an_interrupt_while_the_result_is_written(tiny, dialogues, monkeypatch):
    load_plain = ModelView.load_plain

    def stop(view, plain):
        load_plain(view, plain)
        raise KeyboardInterrupt

    before = copies(tiny)
    monkeypatch.setattr(ModelView, "load_plain", stop)
    with pytest.raises(KeyboardInterrupt):
        full_finetune(tiny, dialogues, CONFIG, progress=False)
    assert moved(tiny, before) == set()


@pytest.mark.parametrize("off", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("tune", [full_finetune, lora_tune])
def test_they_tune_where_gradients_are_off(tiny, dialogues, tune, off):
    before = copies(tiny)
    with off():
        tune(tiny, dialogues, CONFIG, progress=False)
        assert not torch.is_grad_enabled()
    assert moved(tiny, before)


def test_bad_input(tiny, dialogues):
    with pytest.raises(ValueError, match="rank=0"):
        lora_tune(tiny, dialogues, rank=0)
    with pytest.raises(ValueError, match="no dialogues"):
        full_finetune(tiny, [], progress=False)


@dataclass(frozen=True)
class Norms(Tuner):
    """A rival of one's own: the gains of the layer norms alone, trained in the live model."""

    @property
    def method(self) -> str:
        return "layer norms"

    @contextmanager
    def setup(self, view, config):
        gains = [weight for weight in whole_weights(view) if weight.parameter.ndim == 1 and weight.parameter.any()]
        with SliceMask(view, gains) as mask:
            yield Trainable(model_logits(view), mask.masters, mask.write_back, gains, live=True)


def test_a_rival_of_ones_own_trains_undoes_itself_and_saves(tiny, dialogues, tmp_path):
    before = copies(tiny)
    tuned = Norms().tune(tiny, dialogues, CONFIG, progress=False)
    after = moved(tiny, before)
    assert len(after) == 2 * 3 + 1
    assert tuned.history["loss"].iloc[-1] < tuned.history["loss"].iloc[0]
    assert tuned.summary().startswith(f"Layer norms, {sum(before[name].numel() for name in after)} weights: 3 of 3")
    folder = tuned.save(tmp_path / "norms")
    tuned.undo(tiny)
    assert moved(tiny, before) == set()
    Adapter.load(folder).apply(tiny)
    assert moved(tiny, before) == after


@pytest.mark.parametrize("tune", [full_finetune, lora_tune])
def test_what_is_saved_is_applied_and_undone_bit_for_bit_in_a_fresh_model(
    tiny, load, tiny_folder, dialogues, tune, tmp_path
):
    tuned = tune(tiny, dialogues, CONFIG, progress=False)
    tuned.save(tmp_path / "deep" / "folder")
    change, fresh = Adapter.load(tmp_path / "deep" / "folder"), load(tiny_folder)
    untuned = copies(fresh)
    change.apply(fresh)
    assert moved(fresh, copies(tiny)) == set() and change.meta["dialogues"] == 8
    change.apply(fresh)  # nothing happens
    change.revert(fresh)
    assert moved(fresh, untuned) == set()


def test_whole_weights_are_no_slices_to_export(tiny, tiny_folder, dialogues, tmp_path):
    adapter = full_finetune(tiny, dialogues, CONFIG, progress=False).adapter
    assert "whole matrices" in repr(adapter) and not adapter.heads
    with pytest.raises(ValueError, match="export the tuned model"):
        export_hf(adapter, tmp_path / "out", base=tiny_folder, progress=False)


def test_a_change_is_not_written_over_another_nor_into_another_model(tiny, gqa, dialogues):
    tuned = full_finetune(tiny, dialogues, CONFIG, progress=False)
    weight = next(iter(ModelView(tiny).weights().values()))
    with torch.no_grad():
        weight.add_(1)
    before = copies(tiny)
    for model, match in ((tiny, "another change lies on top"), (gqa, "made for another model")):
        with pytest.raises(ValueError, match=match):
            tuned.undo(model)
    assert moved(tiny, before) == set()
    tuned.adapter.revert(tiny, force=True)
    full_finetune(tiny, dialogues, CONFIG, progress=False)


def test_an_interrupt_while_a_change_is_written_leaves_none_of_it(tiny, dialogues, monkeypatch):
    tuned = full_finetune(tiny, dialogues, CONFIG, progress=False)
    before, write, left = copies(tiny), Slice.write, [2]

    def stop(weight, value):
        left[0] -= 1
        if left[0] == 0:
            raise KeyboardInterrupt
        write(weight, value)

    monkeypatch.setattr(Slice, "write", stop)
    with pytest.raises(KeyboardInterrupt):
        tuned.undo(tiny)
    assert moved(tiny, before) == set()


def test_a_last_step_that_overflows_puts_the_model_back(load, tiny_folder, dialogues):
    model = load(tiny_folder, dtype=torch.float16)
    before = copies(model)
    hot = TuneConfig(lr=1e6, steps=1, batch_size=4, warmup_share=0.0)
    with pytest.raises(FloatingPointError, match="lower lr"):
        full_finetune(model, dialogues, hot, progress=False)
    assert moved(model, before) == set()


# Fused, transposed and interleaved projections, and tied embeddings behind soft caps.
@pytest.mark.parametrize("tune", [full_finetune, lora_tune])
@pytest.mark.parametrize("name", ["gemma2", "phi3", "gpt2", "neox"])
def test_other_architectures(name, tune, load, dialogues, tmp_path, tokens):
    model = load(tiny_checkpoint(name, tmp_path))
    view, before = ModelView(model), copies(model)
    plain, tokens = view.hf_copy(), tokens % view.vocab_size
    with torch.no_grad():
        untuned = view.logits(tokens)
    tuned = tune(model, dialogues, CONFIG, progress=False)
    assert tuned.history["loss"].iloc[-1] < tuned.history["loss"].iloc[0]
    with torch.no_grad():
        assert (view.logits(tokens) - untuned).abs().max() > 1e-3
        # What was trained is what runs: the copy that it was trained in gives the same logits.
        if isinstance(view.backend, BridgeBackend):
            trained = view.hf_copy()
            torch.testing.assert_close(trained(tokens).logits, view.logits(tokens), atol=1e-5, rtol=1e-5)
            moved_there = {n for n, p in trained.named_parameters() if not torch.equal(p, plain.get_parameter(n))}
            if tune is lora_tune:
                assert {n.split(".")[-3] for n in moved_there} <= {"self_attn", "attn", "attention"}
                assert len(moved_there) == 2 * len(set(view.backend.layout.names))
    tuned.undo(model)
    assert moved(model, before) == set()
