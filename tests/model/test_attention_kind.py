"""transformers' own attention where no pattern is read: the same numbers, all as before afterwards."""

from __future__ import annotations

import pytest
import torch

from spt_lens.chat.dialogues import dialogue
from spt_lens.evaluate.change import Reference, drift
from spt_lens.heads import HeadSet
from spt_lens.model.attention_kind import without_patterns
from spt_lens.model.backends import BridgeBackend
from spt_lens.model.loading import load_model
from spt_lens.model.replies import replies
from spt_lens.model.unhooked import unhooked
from spt_lens.model.view import ModelView
from spt_lens.tune.pinpoint import pinpoint_tune
from spt_lens.tune.slices import SliceMask, head_slices
from spt_lens.tune.training import TuneConfig
from tests.conftest import condition
from tools.tiny import TINY

NOT = {"gemma2": "caps scores", "phi3": "fused", "gpt2": "fused", "neox": "fused", "olmo2": "no layout", "opt": "same"}
ASKED = [dialogue(text) for text in ("Yes", "You are right .", "Are you sure ? I think you are wrong .")]
LEARNED = [dialogue("Are you sure?", "Yes."), dialogue("Hello!", "You are right."), dialogue("2?", "No, 3.")]


def rows_of(view: ModelView) -> tuple[torch.Tensor, torch.Tensor]:
    """Longer than the tiny models' windows, one of them padded on either side."""
    tokens = torch.randint(6, view.vocab_size, (3, 30), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(tokens, dtype=torch.bool)
    mask[0, :12], mask[1, -5:] = False, False
    return tokens, mask


def gradients(view: ModelView) -> list[torch.Tensor]:
    tokens, mask = rows_of(view)
    with SliceMask(view, head_slices(view, HeadSet.of("L0.H1", "L1.H2"))) as masters:
        for given in (None, mask):
            logits = view.logits(tokens, given).log_softmax(-1)[:, :-1]
            (logits.gather(-1, tokens[:, 1:, None])[mask[:, :-1] & mask[:, 1:]]).sum().backward()
    return [master.grad for master in masters.masters]


def off(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize("name", sorted(TINY))
def test_it_gives_what_the_bridge_gives(name, folder_of):
    model = load_model(folder_of(name), device="cpu", model_class="bridge")
    view = ModelView(model)
    tokens, mask = rows_of(view)
    with torch.no_grad():
        expected = [view.logits(tokens), view.logits(tokens, mask)[mask]]
    before = condition(model)  # the bridge notes at its first masked pass whether it may count positions
    said = [view.generate([row[:length] for row, length in zip(tokens.tolist(), (4, 13, 30), strict=True)], 8)]
    known = name not in ("olmo2", "opt")
    grads = gradients(view) if known else []
    with without_patterns(view) as kind:
        assert kind == ("" if name in NOT else "sdpa")
        assert view.backend.root.config._attn_implementation == (kind or "eager")
        with torch.no_grad():
            found = [view.logits(tokens), view.logits(tokens, mask)[mask]]
        said.append(view.generate([row[:length] for row, length in zip(tokens.tolist(), (4, 13, 30), strict=True)], 8))
        for one, other in zip(gradients(view) if known else [], grads, strict=True):
            assert off(one, other) < 1e-4
    for one, other in zip(found, expected, strict=True):
        assert off(one, other) < 1e-5
        assert torch.equal(one, other) == (name in NOT)  # it is another way of computing, not the same again
    assert torch.equal(*said)
    # Of the fused ones the bridge keeps the last pattern.
    assert name in NOT or condition(model) == before
    assert view.backend.root.config._attn_implementation == "eager"
    with torch.no_grad():
        assert torch.equal(view.logits(tokens), expected[0])


def test_in_float64_it_is_used_where_it_gives_the_same_digits(folder_of, request):
    folder = folder_of("llama-grouped")
    with without_patterns(load_model(folder, device="cpu", dtype=torch.float64)) as kind:
        assert kind == ""  # TransformerLens takes the softmax in float32
    request.getfixturevalue("exact_softmax")
    view = ModelView(load_model(folder, device="cpu", dtype=torch.float64))
    expected = gradients(view)
    with without_patterns(view) as kind:
        assert kind == "sdpa"
        assert max(map(off, gradients(view), expected)) < 1e-9


def test_all_is_as_before_also_after_an_interrupt_and_nested(folder_of, tokens):
    model = load_model(folder_of("qwen3"), device="cpu")
    view = ModelView(model)
    tokens = tokens % view.vocab_size
    view.logits(tokens, torch.ones_like(tokens, dtype=torch.bool))
    before = condition(model)
    with pytest.raises(KeyboardInterrupt), without_patterns(view), without_patterns(view) as kind:
        assert kind == "sdpa"
        inside = view.logits(tokens)
        with without_patterns(model):
            pass
        assert torch.equal(view.logits(tokens), inside)
        raise KeyboardInterrupt
    assert condition(model) == before and view.backend.root.config._attn_implementation == "eager"


@pytest.mark.parametrize("name", ["llama-grouped", "mistral"])
def test_a_hook_on_a_pattern_in_the_block_sees_it(name, folder_of):
    view = ModelView(load_model(folder_of(name), device="cpu"))
    tokens, mask = rows_of(view)
    seen: list[torch.Tensor] = []
    hooks = [(view.pattern_name(1), lambda pattern, hook: seen.append(pattern.detach()))]
    with torch.no_grad():
        for given in (None, mask):
            expected = view.logits(tokens, given, hooks)
            with without_patterns(view):
                found = view.logits(tokens, given, hooks)
            real = torch.ones_like(mask) if given is None else mask
            assert off(found[real], expected[real]) < 1e-5
            before, now = (pattern.transpose(1, 2)[real] for pattern in seen[-2:])
            torch.testing.assert_close(now, before, atol=1e-5, rtol=1e-4)


def test_where_it_is_not_used(tiny):
    view = ModelView(tiny)
    with without_patterns(tiny) as kind:
        assert kind == ("sdpa" if isinstance(view.backend, BridgeBackend) else "")  # HookedTransformer has one way
    with tiny.hooks(fwd_hooks=[(view.z_name(0), lambda z, hook: None)]), without_patterns(tiny) as kind:
        assert kind == ""
    with tiny.blocks[1].register_forward_hook(lambda *args: None), without_patterns(tiny) as kind:
        assert kind == ""
    quick = unhooked(view)
    if quick is not view:
        with without_patterns(quick) as kind:
            assert kind == ""


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype, tiny_folder, tokens):
    view = ModelView(load_model(tiny_folder, device="cpu", dtype=dtype))
    mask = torch.ones_like(tokens, dtype=torch.bool)
    mask[0, :4] = False
    with torch.no_grad():
        expected = view.logits(tokens, mask)[mask].float()
        with without_patterns(view) as kind:
            assert kind == "sdpa"
            found = view.logits(tokens, mask)[mask].float()
    assert 0 < off(found, expected) < 0.05


def test_tuning_evaluation_and_replies_use_it(tiny_folder, monkeypatch):
    model = load_model(tiny_folder, device="cpu")
    config, eager = TuneConfig(steps=3, batch_size=2, lr=1e-3), torch.nn.functional.softmax
    reference, kinds = Reference.of(model, LEARNED), []
    assert drift(model, LEARNED, reference).value == 0 == drift(model, LEARNED, model).value

    def softmax(*args, **kwargs):
        kinds.append(model.original_model.config._attn_implementation)
        return eager(*args, **kwargs)

    monkeypatch.setattr(torch.nn.functional, "softmax", softmax)  # TransformerLens's own attention takes it, sdpa not
    said = replies(model, ASKED, 6)
    tuned = pinpoint_tune(model, HeadSet.of("L1.H2"), LEARNED, config, progress=False)
    assert not kinds and "from layer 1 on" in tuned.way
    hooks = [(ModelView(model).pattern_name(0), lambda pattern, hook: None)]
    tuned.undo(model)
    assert replies(model, ASKED, 6, hooks=hooks) == said
    assert set(kinds) == {"eager"}


def test_a_run_tells_as_much_as_one_by_the_bridges_attention(tiny_folder, monkeypatch):
    """The same losses and weights to rounding."""
    found = []
    for name in ("", "spt_lens.tune.pinpoint.without_patterns"):
        if name:
            from contextlib import nullcontext

            monkeypatch.setattr(name, nullcontext)
        model = load_model(tiny_folder, device="cpu")
        config = TuneConfig(steps=4, batch_size=2, lr=1e-3)
        found.append(pinpoint_tune(model, HeadSet.of("L1.H2", "L2.H0"), LEARNED, config, progress=False))
    one, other = found
    assert one.history["loss"].tolist() == pytest.approx(other.history["loss"].tolist(), rel=1e-4)
    for name, value in other.adapter.after.items():
        torch.testing.assert_close(one.adapter.after[name], value, atol=1e-5, rtol=1e-3)
