from __future__ import annotations

import pytest
import torch

from spt_lens.heads import HeadSet
from spt_lens.model.loading import load_model
from spt_lens.model.view import ModelView
from spt_lens.tune.slices import Slice, SliceMask, head_slices
from tools.tiny import TINY

HEADS = HeadSet.parse("L0.H1 L1.H0 L1.H3")
NAMES = [name for name in TINY if name not in ("olmo2", "opt")]


def loss_of(view: ModelView, tokens: torch.Tensor) -> torch.Tensor:
    logits = view.logits(tokens)
    return torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())


def copies(view: ModelView) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in view.weights().items()}


def outside(view: ModelView, slices: list[Slice]) -> dict[str, torch.Tensor]:
    """True where a weight is in none of the slices."""
    masks = {name: torch.ones_like(p, dtype=torch.bool) for name, p in view.weights().items()}
    for piece in slices:
        (name,) = [n for n, p in view.weights().items() if p is piece.parameter]
        piece.of(masks[name]).fill_(False)
    return masks


OPTIMISERS = {
    "adamw with decay": lambda ps: torch.optim.AdamW(ps, lr=0.01, weight_decay=0.1),
    "sgd with momentum and decay": lambda ps: torch.optim.SGD(ps, lr=0.1, momentum=0.9, weight_decay=0.1),
}


@pytest.mark.parametrize("make", OPTIMISERS.values(), ids=OPTIMISERS.keys())
@pytest.mark.parametrize("fixture, projections", [("tiny", "auto"), ("gqa", "auto"), ("gqa", "qkvo")])
def test_all_outside_the_slices_stays_bit_identical(request, model_class, fixture, projections, make, tokens):
    view = ModelView(request.getfixturevalue(fixture))
    slices = head_slices(view, HEADS, projections)
    before = copies(view)
    with SliceMask(view, slices) as mask:
        optimiser = make(mask.masters)
        for _ in range(5):
            optimiser.zero_grad()
            loss_of(view, tokens).backward()
            torch.nn.utils.clip_grad_norm_(mask.masters, 0.1)
            optimiser.step()
            mask.write_back()
    masks = outside(view, slices)
    for name, p in view.weights().items():
        assert torch.equal(p[masks[name]], before[name][masks[name]]), name
    for piece, master in zip(slices, mask.masters, strict=True):
        (name,) = [n for n, p in view.weights().items() if p is piece.parameter]
        assert not torch.equal(piece.read(), piece.of(before[name])), piece.name
        assert torch.equal(piece.read(), master)


def test_equals_training_everything_with_gradients_zeroed_outside(tiny, load, tiny_folder, tokens):
    view, plain = ModelView(tiny), ModelView(load(tiny_folder))
    slices = head_slices(view, HEADS)
    with SliceMask(view, slices) as mask:
        optimiser = torch.optim.SGD(mask.masters, lr=0.1, momentum=0.9)
        for _ in range(4):
            optimiser.zero_grad()
            loss_of(view, tokens).backward()
            optimiser.step()
            mask.write_back()
    # Without decay, plain SGD does not move what never has a gradient: the textbook way, with full gradients.
    masks = outside(plain, head_slices(plain, HEADS))
    weights = plain.weights()
    reference = torch.optim.SGD(weights.values(), lr=0.1, momentum=0.9)
    for p in weights.values():
        p.requires_grad_(True)
    for _ in range(4):
        reference.zero_grad()
        loss_of(plain, tokens).backward()
        for name, p in weights.items():
            p.grad[masks[name]] = 0.0
        reference.step()
    for name, p in view.weights().items():
        torch.testing.assert_close(p, weights[name], rtol=1e-5, atol=1e-6)


def test_gradients_of_several_backward_passes_add_up(tiny, tokens):
    view = ModelView(tiny)
    with SliceMask(view, head_slices(view, HEADS)) as mask:
        loss_of(view, tokens).backward()
        once = [m.grad.clone() for m in mask.masters]
        loss_of(view, tokens).backward()
        for master, grad in zip(mask.masters, once, strict=True):
            torch.testing.assert_close(master.grad, 2 * grad)
        assert all(p.grad is None for p in view.weights().values())


@pytest.mark.parametrize("whole", [False, True])
def test_the_model_gets_its_flags_and_gradients_back_also_after_an_error(tiny, tokens, whole):
    view = ModelView(tiny)
    weights = list(view.weights().values())
    for i, p in enumerate(weights):
        p.requires_grad_(i % 2 == 0)
    weights[0].grad = torch.ones_like(weights[0])
    slices = head_slices(view, HEADS)
    with pytest.raises(KeyboardInterrupt), SliceMask(view, slices, whole) as mask:
        held = {id(s.parameter) for s in slices if whole or s.module is None}
        assert all(p.requires_grad == (id(p) in held) for p in weights)
        loss_of(view, tokens).backward()
        raise KeyboardInterrupt
    assert [p.requires_grad for p in weights] == [i % 2 == 0 for i in range(len(weights))]
    assert torch.equal(weights[0].grad, torch.ones_like(weights[0]))
    assert all(p.grad is None for p in weights[1:])
    given = [m.grad.clone() for m in mask.masters]
    for p in weights:
        p.requires_grad_(True)
    assert not any("forward" in vars(s.module) for s in slices if s.module is not None)
    loss_of(view, tokens).backward()  # the hooks are gone: nothing is handed over any more
    assert all(torch.equal(m.grad, g) for m, g in zip(mask.masters, given, strict=True))


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-5), (torch.float64, 1e-12)])
@pytest.mark.parametrize("name", NAMES)
def test_gradients_of_slices_alone_are_those_of_whole_weights(folder_of, name, dtype, tolerance, exact_softmax):
    """Of every architecture. No weight of the model gets any, and the losses are the same bits."""
    view = ModelView(load_model(folder_of(name), device="cpu", dtype=dtype))
    tokens = torch.randint(6, 120, (3, 10), generator=torch.Generator().manual_seed(0))
    slices = head_slices(view, HeadSet.parse("L0.H1 L1.H0 L1.H3"), "qkvo")
    found, losses = [], []
    for whole in (False, True):
        with SliceMask(view, slices, whole) as mask:
            assert mask.reached()
            losses.append(loss_of(view, tokens))
            assert whole or not any(p.requires_grad for p in view.weights().values())
            losses[-1].backward()
            found.append([master.grad for master in mask.masters])
    assert torch.equal(*losses)
    for piece, one, other in zip(slices, *found, strict=True):
        assert float((one - other).norm() / other.norm()) < tolerance, piece.name


def test_an_interrupt_on_entering_gives_them_back_as_well(tiny, monkeypatch):
    weights = list(ModelView(tiny).weights().values())
    weights[0].grad = torch.ones_like(weights[0])
    mask = SliceMask(tiny, head_slices(tiny, HEADS), whole=True)

    def stop(weight, hook):
        raise KeyboardInterrupt

    monkeypatch.setattr(torch.Tensor, "register_post_accumulate_grad_hook", stop)
    with pytest.raises(KeyboardInterrupt), mask:
        pass
    assert all(p.requires_grad for p in weights)
    assert torch.equal(weights[0].grad, torch.ones_like(weights[0]))


def test_masters_are_float32_so_small_steps_are_not_lost(load, tiny_folder):
    view = ModelView(load(tiny_folder, dtype=torch.bfloat16))
    slices = head_slices(view, HeadSet.parse("L0.H0"), "q")
    with SliceMask(view, slices) as mask:
        start = slices[0].read().float()
        for _ in range(100):  # one step is far below what bfloat16 resolves near 1; a hundred are not
            with torch.no_grad():
                mask.masters[0].mul_(1.0003)
            mask.write_back()
    ratio = (slices[0].read().float() / start)[start != 0].median().item()
    assert abs(ratio - 1.0003**100) < 0.01
    assert slices[0].parameter.dtype == torch.bfloat16


def test_nothing_to_tune_is_refused(tiny):
    with pytest.raises(ValueError, match="no slices"):
        SliceMask(tiny, [])
