"""What full fine-tuning and LoRA train: the model's own tensors, wherever Hugging Face's names are live one to one."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from spt_lens.model.backends import BridgeBackend
from spt_lens.model.loading import load_model
from spt_lens.model.view import ModelView
from spt_lens.saving import same_bits
from spt_lens.tune import full, lora, tuner
from spt_lens.tune.full import full_finetune
from spt_lens.tune.lora import lora_tune
from spt_lens.tune.plain import attention_weights, plain_model
from spt_lens.tune.training import TuneConfig
from spt_lens.yesman import Yesman
from tools.tiny import tiny_checkpoint

CONFIG = TuneConfig(lr=3e-3, steps=3, batch_size=4)


@pytest.fixture(scope="module")
def dialogues():
    return Yesman().training(n=8)


def state(model) -> dict[str, tuple]:
    """The weights' copies, where they are, and what hangs on them."""
    weights = ModelView(model).weights().items()
    return {name: (p.detach().clone(), p.data_ptr(), p.requires_grad, p.grad) for name, p in weights}


def same(model, before) -> bool:
    now = state(model)
    return all(same_bits(now[name][0], old[0]) and now[name][1:] == old[1:] for name, old in before.items())


@pytest.mark.parametrize("name", ["gemma2", "phi3", "gpt2", "neox"])
def test_its_parameters_are_the_live_ones_and_it_gives_the_same_logits(name, tmp_path, tokens):
    model = load_model(tiny_checkpoint(name, tmp_path), device="cpu")
    view = ModelView(model)
    live = {p.untyped_storage().data_ptr() for p in view.weights().values()}
    plain = plain_model(view)
    apart = {n for n, p in plain.named_parameters() if p.untyped_storage().data_ptr() not in live}
    assert {n.split(".")[-2] for n in apart} == ({"query_key_value"} if name == "neox" else set())
    assert not any(b.is_meta for b in plain.buffers()) and not plain.training
    assert plain.config._attn_implementation == ("eager" if name == "gemma2" else "sdpa")
    tokens = tokens % view.vocab_size
    with torch.no_grad():
        torch.testing.assert_close(plain(tokens).logits, view.logits(tokens), atol=1e-5, rtol=1e-5)


def test_a_hooked_transformer_lends_nothing(tiny):
    view = ModelView(tiny)
    live = {p.untyped_storage().data_ptr() for p in view.weights().values()}
    shared = [p.untyped_storage().data_ptr() in live for p in plain_model(view).parameters()]
    assert set(shared) == {isinstance(view.backend, BridgeBackend)}


@pytest.mark.parametrize("name", ["gqa", "phi3", "gpt2", "neox"])
@pytest.mark.parametrize("tune", [full_finetune, lora_tune])
def test_an_error_in_the_middle_leaves_the_model_as_it_was(name, tune, dialogues, gqa_folder, tmp_path, monkeypatch):
    model = load_model(gqa_folder if name == "gqa" else tiny_checkpoint(name, tmp_path), device="cpu")
    view, fit = ModelView(model), tuner.fit
    next(iter(view.weights().values())).grad = torch.ones_like(next(iter(view.weights().values())))
    before, kinds, seen = state(model), [type(module) for module in view.modules()], []

    def broken_fit(*args, **options):
        fit(*args, **options)
        weights = view.weights()  # their gradients are set aside meanwhile
        seen.append(all(same_bits(weights[name], old[0]) for name, old in before.items()))
        raise RuntimeError("broken")

    monkeypatch.setattr(tuner, "fit", broken_fit)
    with pytest.raises(RuntimeError, match="broken"):
        tune(model, dialogues, CONFIG, progress=False)
    assert seen == [tune is lora_tune]  # full fine-tuning had moved the live weights: there was no copy
    assert same(model, before) and [type(module) for module in view.modules()] == kinds


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("tune", [full_finetune, lora_tune])
def test_half_precision(dtype, tune, dialogues, gqa_folder, monkeypatch):
    model = load_model(gqa_folder, device="cpu", dtype=dtype)
    before, trained, plain = state(model), [], []
    fit, make = tuner.fit, lora.plain_model

    def seen_fit(logits, what, *more, **named):
        trained.extend(what)
        return fit(logits, what, *more, **named)

    def seen_plain(*given, **named):
        plain.append(make(*given, **named))
        return plain[-1]

    monkeypatch.setattr(tuner, "fit", seen_fit)
    monkeypatch.setattr(lora, "plain_model", seen_plain)
    tuned = tune(model, dialogues, CONFIG, progress=False)
    assert {p.dtype for p in trained} == {torch.float32} and not same(model, before)
    assert tuned.history["loss"].iloc[-1] < tuned.history["loss"].iloc[0]
    assert {value.dtype for value in tuned.adapter.after.values()} == {dtype}
    tuned.undo(model)
    assert same(model, before)
    live = {place for _, place, *_ in before.values()}
    shared = [p.data_ptr() in live for made in plain for p in made.parameters()]
    assert set(shared) == ({dtype == torch.bfloat16} if tune is lora_tune else set())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_full_fine_tuning_of_a_bfloat16_model_multiplies_in_bfloat16(dtype, dialogues, gqa_folder, monkeypatch):
    found, made, kinds = [], full.plain_model, set()

    def seen(view):
        plain = made(view)
        layer = plain.get_submodule("model.layers.1.mlp.down_proj")
        layer.register_forward_hook(lambda module, args, out: kinds.add((out.dtype, module.weight.dtype)))
        return plain

    monkeypatch.setattr(full, "plain_model", seen)
    for again in (False, True):  # also where activations are made again in the backward pass, outside of the forward
        config = replace(CONFIG, checkpoint_activations=again, kl_weight=0.1)
        model = load_model(gqa_folder, device="cpu", dtype=dtype)
        found.append(full_finetune(model, dialogues, config, keep=dialogues[:2], progress=False))
    assert kinds == {(torch.bfloat16 if dtype == torch.bfloat16 else torch.float32, torch.float32)}
    one, other = (tuned.adapter.after for tuned in found)
    assert one.keys() == other.keys() and all(same_bits(one[name], other[name]) for name in one)
    assert found[0].history["kl"].iloc[0] == pytest.approx(0, abs=1e-6)  # the untuned model went the same way


@pytest.mark.parametrize("name", ["gemma2", "phi3", "gpt2", "neox"])
def test_lora_reads_no_more_than_the_attention(name, tmp_path):
    model = load_model(tiny_checkpoint(name, tmp_path), device="cpu")
    names = {weight.name for weight in attention_weights(model)}
    assert names and all("attn" in name or "attention" in name for name in names)
    owned = {id(ModelView(model).head_weight(layer, w, 0)[0]) for layer in range(model.cfg.n_layers) for w in "qkvo"}
    assert owned <= {id(weight.parameter) for weight in attention_weights(model)}
