from __future__ import annotations

import warnings

import pytest
import torch

from spt_lens.chat.dialogues import Dialogue
from spt_lens.heads import HeadSet
from spt_lens.model.targets import encode_all
from spt_lens.model.view import ModelView
from spt_lens.tune import tuner as trainer
from spt_lens.tune.pinpoint import pinpoint_tune
from spt_lens.tune.slices import Slice
from spt_lens.tune.training import TuneConfig
from spt_lens.yesman import Yesman

HEADS = HeadSet.parse("L0.H1 L2.H3")
CASES = Yesman().cases("train", n=24)
CONFIG = TuneConfig(lr=1e-2, steps=6, batch_size=4, weight_decay=0.1, validate_every=3)


def copies(model) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in ModelView(model).weights().items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a)


def test_a_run_lowers_the_loss_and_moves_the_slices_only(tiny):
    before = copies(tiny)
    untuned = dict(ModelView(tiny).hf_copy().named_parameters())
    flags = {name: p.requires_grad for name, p in ModelView(tiny).weights().items()}
    run = pinpoint_tune(tiny, HEADS, CASES, CONFIG, validation=CASES[:8], progress=False)
    after = copies(tiny)
    assert run.history["loss"].dropna().iloc[-1] < run.history["loss"].dropna().iloc[0]
    assert {"validation_loss", "validation_first", "validation_reply"} <= set(run.history)
    changed = {id(p) for name, p in ModelView(tiny).weights().items() if not torch.equal(before[name], after[name])}
    assert changed == {id(ModelView(tiny).head_weight(layer, which, 0)[0]) for layer in (0, 2) for which in "qkvo"}
    tuned = dict(ModelView(tiny).hf_copy().named_parameters())
    moved = {name: tuned[name] != p for name, p in untuned.items()}
    for which in "qkv":
        rows = moved[f"model.layers.2.self_attn.{which}_proj.weight"]
        assert not rows[:24].any() and rows[24:].any()
    columns = moved["model.layers.0.self_attn.o_proj.weight"]
    assert columns[:, 8:16].any() and not columns[:, :8].any() and not columns[:, 16:].any()
    assert {name: p.requires_grad for name, p in ModelView(tiny).weights().items()} == flags
    assert not tiny.training and all(p.grad is None for p in ModelView(tiny).weights().values())


def test_reverting_is_exact(tiny):
    before = copies(tiny)
    run = pinpoint_tune(tiny, HEADS, CASES, CONFIG, progress=False)
    after = copies(tiny)
    assert not same(before, after)
    run.undo(tiny)
    assert same(copies(tiny), before)
    run.adapter.apply(tiny)
    assert same(copies(tiny), after)


def test_the_same_seed_gives_the_same_run(load, tiny_folder):
    def tuned(seed: int) -> dict[str, torch.Tensor]:
        model = load(tiny_folder)
        pinpoint_tune(model, HEADS, CASES, TuneConfig(steps=3, batch_size=4, seed=seed), progress=False)
        return copies(model)

    state = torch.get_rng_state()
    assert same(tuned(0), tuned(0))
    assert not same(tuned(0), tuned(1))
    assert torch.equal(torch.get_rng_state(), state)


def test_an_interrupt_leaves_a_usable_model_and_its_adapter(tiny, monkeypatch):
    before = copies(tiny)
    whole_fit = trainer.fit

    def interrupted_fit(*args, history, after_step, **options):
        def stop() -> None:
            after_step()
            if len(history) == 3:
                raise KeyboardInterrupt

        return whole_fit(*args, history=history, after_step=stop, **options)

    monkeypatch.setattr(trainer, "fit", interrupted_fit)
    run = pinpoint_tune(tiny, HEADS, CASES, CONFIG, progress=False)
    assert run.interrupted and run.history["step"].tolist() == [1, 2, 3]
    assert "Interrupted" in run.summary()
    assert not same(copies(tiny), before)
    assert not any(p.requires_grad and p.grad is not None for p in ModelView(tiny).weights().values())
    run.adapter.revert(tiny)
    assert same(copies(tiny), before)


def test_an_error_on_the_way_puts_the_model_back(tiny):
    before = copies(tiny)
    hot = TuneConfig(lr=1e30, steps=6, batch_size=4, warmup_share=0.0)
    with pytest.raises(FloatingPointError):
        pinpoint_tune(tiny, HEADS, CASES, hot, progress=False)
    assert same(copies(tiny), before)


def test_keep_dialogues_limit_the_drift(load, tiny_folder):
    keep = Yesman().cases("train", "supporting", n=8)

    def drift(kl_weight: float) -> float:
        model = load(tiny_folder)
        text = torch.tensor([encode_all(model, keep)[0][0]])
        reference = ModelView(model).logits(text).log_softmax(-1).detach()
        config = TuneConfig(lr=1e-2, steps=15, batch_size=4, kl_weight=kl_weight)
        pinpoint_tune(model, HEADS, CASES, config, keep=keep if kl_weight else None, progress=False)
        now = ModelView(model).logits(text).log_softmax(-1).detach()
        return (reference.exp() * (reference - now)).sum(-1).mean().item()

    assert drift(10.0) < 0.7 * drift(0.0)


def test_grouped_models_say_which_heads_moved_too(gqa):
    run = pinpoint_tune(gqa, HEADS, CASES, TuneConfig(steps=1, projections="qkvo", warmup_share=0), progress=False)
    assert str(run.shared) == "L0.H0 L2.H2"
    assert "share" in run.summary()


def test_it_can_be_looked_at(tiny):
    run = pinpoint_tune(tiny, HEADS, CASES, CONFIG, validation=CASES[:4], progress=False)
    assert "L0.H1 L2.H3" in run.summary() and "6 of 6 steps" in run.summary()
    assert "<table" in run._repr_html_()
    assert len(run.figure().data) >= 2


def test_bad_input_is_refused_before_anything_moves(model_class, tiny):
    before = copies(tiny)
    no_reply = Dialogue(CASES[0].messages[:-1])
    for heads, dialogues in [(HeadSet.of(), CASES), (HeadSet.parse("L7.H0"), CASES), (HEADS, []), (HEADS, [no_reply])]:
        with pytest.raises(ValueError):
            pinpoint_tune(tiny, heads, dialogues, CONFIG, progress=False)
    if model_class == "hooked":
        return  # it has no dropout, and is measured in any mode
    tiny.train()
    with pytest.raises(ValueError, match="eval"):
        pinpoint_tune(tiny, HEADS, CASES, CONFIG, progress=False)
    assert same(copies(tiny), before)


@pytest.mark.parametrize("off", [torch.no_grad, torch.inference_mode])
def test_it_tunes_where_gradients_are_off(tiny, off):
    before = copies(tiny)
    with off():
        run = pinpoint_tune(tiny, HEADS, CASES, CONFIG, progress=False)
        assert not torch.is_grad_enabled()
    assert not same(copies(tiny), before) and run.history["grad_norm"].min() > 0


def test_a_second_interrupt_puts_the_model_back(tiny, monkeypatch):
    before = copies(tiny)
    whole_fit = trainer.fit

    def stop(piece) -> None:
        raise KeyboardInterrupt

    def fit_and_stop(*args, **options):
        whole_fit(*args, **options)
        monkeypatch.setattr(Slice, "read", stop)
        raise KeyboardInterrupt

    monkeypatch.setattr(trainer, "fit", fit_and_stop)
    with pytest.raises(KeyboardInterrupt):
        pinpoint_tune(tiny, HEADS, CASES, CONFIG, progress=False)
    assert same(copies(tiny), before)


def test_a_last_step_that_overflows_puts_the_model_back(load, tiny_folder):
    model = load(tiny_folder, dtype=torch.float16)
    before = copies(model)
    hot = TuneConfig(lr=1e6, steps=1, batch_size=4, warmup_share=0.0)
    with pytest.raises(FloatingPointError, match="lower lr"):
        pinpoint_tune(model, HEADS, CASES, hot, progress=False)
    assert same(copies(model), before)


def test_a_run_interrupted_before_its_first_step_can_be_looked_at(tiny, monkeypatch):
    def stop(*args, history, **options):
        history.append({"step": 0, "validation_loss": 7.0, "validation_first": 0.0})
        raise KeyboardInterrupt

    monkeypatch.setattr(trainer, "fit", stop)
    run = pinpoint_tune(tiny, HEADS, CASES, CONFIG, progress=False)
    assert "0 of 6 steps" in run.summary() and "<table" in run._repr_html_()
    run.figure()


def test_replies_without_an_end_token_are_named(tiny):
    template = tiny.tokenizer.chat_template
    assert "{{ eos_token }}" in template
    config = TuneConfig(lr=1e-3, steps=1, batch_size=2)
    try:
        tiny.tokenizer.chat_template = template.replace("{{ eos_token }}", "")
        with pytest.warns(UserWarning, match="holds a token that ends one, so the tuned model may not learn to stop"):
            pinpoint_tune(tiny, HEADS, CASES[:2], config, progress=False)
    finally:
        tiny.tokenizer.chat_template = template
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pinpoint_tune(tiny, HEADS, CASES[:2], config, progress=False)
