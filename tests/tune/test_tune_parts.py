"""A step in parts and with activations made again is the same step."""

from __future__ import annotations

import pytest
import torch

from spt_lens.chat.batches import Examples
from spt_lens.heads import HeadSet
from spt_lens.model.targets import encode_all, model_logits
from spt_lens.model.view import ModelView
from spt_lens.tune.checkpointing import checkpointed, plain_blocks
from spt_lens.tune.config import TuneConfig
from spt_lens.tune.full import full_finetune
from spt_lens.tune.head_lora import HeadLoRA
from spt_lens.tune.lora import lora_tune
from spt_lens.tune.pinpoint import pinpoint_tune
from spt_lens.tune.slices import SliceMask, head_slices
from spt_lens.tune.training import KeepTerm, fit, step_gradients, validate
from spt_lens.yesman import Yesman
from tools.tiny import TINY, tiny_checkpoint

HEADS = HeadSet.parse("L0.H1 L2.H3")
CASES = Yesman().cases("train", n=12)
KEEP = Yesman().cases("train", "supporting", n=7)


def copies(model) -> list[torch.Tensor]:
    return [p.detach().clone() for p in ModelView(model).weights().values()]


# In float64 the order of sums shows in the last bits alone. In float32 it is 1e-7 of the largest, many times over.
@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-6), (torch.float32, 1e-5)])
@pytest.mark.parametrize("size", [1, 3, 5])
def test_the_gradient_of_a_step_in_parts_is_that_of_the_whole_batch(load, tiny_folder, dtype, tolerance, size):
    view = ModelView(load(tiny_folder, dtype=dtype))
    examples, texts = encode_all(view, CASES[:7]), [ids for ids, _ in encode_all(view, KEEP)]
    assert len({sum(target) for _, target in examples}) > 1  # or a mean of means would do
    data, logits = Examples(examples), model_logits(view)
    slices = head_slices(view, HEADS)

    def gradients(at_once: int | None) -> tuple[dict[str, float], list[torch.Tensor]]:
        term = KeepTerm(logits, texts, 7, at_once=at_once)
        with torch.no_grad():  # the KL of an untuned model is zero, and so is its gradient
            moved = [piece.read() for piece in slices]
            for piece, value in zip(slices, moved, strict=True):
                piece.write(value * 1.5)
        with SliceMask(view, slices) as mask:
            parts = [data.batch(rows) for rows in torch.arange(7).split(at_once or 7)]
            figures = step_gradients(logits, parts, term.batch(1), kl_weight=0.7)
            found = [master.grad for master in mask.masters]
        for piece, value in zip(slices, moved, strict=True):
            piece.write(value)
        return figures, found

    (whole, expected), (found, parts) = gradients(None), gradients(size)
    assert whole["kl"] > 1e-3
    assert found == pytest.approx(whole, rel=tolerance)
    largest = max(g.abs().max() for g in expected)
    for one, other in zip(expected, parts, strict=True):
        torch.testing.assert_close(other, one, rtol=0, atol=float(largest) * tolerance)


def test_a_run_in_parts_ends_where_the_whole_one_does(load, tiny_folder):
    def run(size: int | None) -> list[torch.Tensor]:
        model = load(tiny_folder)
        config = TuneConfig(lr=1e-2, steps=4, batch_size=6, kl_weight=0.5, micro_batch_size=size, optimizer="sgd")
        pinpoint_tune(model, HEADS, CASES, config, validation=CASES[:3], keep=KEEP, progress=False)
        return copies(model)

    for one, other in zip(run(None), run(4), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6)


def test_validation_in_smaller_parts_has_the_same_figures(tiny):
    data, logits = Examples(encode_all(tiny, CASES)), model_logits(tiny)
    assert validate(logits, data, 5) == pytest.approx(validate(logits, data), rel=1e-5)


def blocks_as_they_are(model) -> list[tuple[bool, object]]:
    return [("forward" in vars(block), type(block).forward) for block in ModelView(model).model.blocks]


@pytest.mark.parametrize(
    "tune, heads",
    [
        (pinpoint_tune, ["L0.H1 L2.H3"]),
        (pinpoint_tune, ["L1.H1 L2.H3"]),  # from kept states on, with the last MLP at the read positions alone
        (lambda model, heads, *args, **options: HeadLoRA(heads, 2).tune(model, *args, **options), ["L1.H1 L2.H3"]),
        (full_finetune, []),
        (lora_tune, []),
    ],
)
def test_activations_made_again_change_no_bit(load, tiny_folder, tune, heads):
    def run(again: bool):
        model = load(tiny_folder)
        before = blocks_as_they_are(model)
        config = TuneConfig(lr=1e-2, steps=2, batch_size=4, kl_weight=0.3, checkpoint_activations=again)
        chosen = map(HeadSet.parse, heads)
        tuned = tune(model, *chosen, CASES, config, validation=CASES[:3], keep=KEEP, progress=False)
        assert blocks_as_they_are(model) == before
        return tuned.history, copies(model)

    (history, weights), (again, found) = run(False), run(True)
    assert history.equals(again)
    assert all(map(torch.equal, weights, found))


@pytest.mark.parametrize("name", sorted(TINY.keys() - {"olmo2", "opt"}))  # where these have heads is not known
def test_every_architecture_keeps_less_and_gives_the_same_gradients(tmp_path, load, name):
    try:
        view = ModelView(load(tiny_checkpoint(name, tmp_path / name)))
        view.check_tunable()
    except (NotImplementedError, ValueError, TypeError):
        pytest.skip("not a model that this class has, or that can be tuned")
    tokens = torch.randint(8, 30, (2, 9), generator=torch.Generator().manual_seed(0))
    for module, blocks in [(None, list(view.model.blocks)), (plain := view.hf_copy(), plain_blocks(plain, view))]:
        assert len(blocks) == view.n_layers
        weights = list((view.backend.root if module is None else module).parameters())

        def run(again: bool, module=module, blocks=blocks, weights=weights) -> tuple[list[torch.Tensor], int]:
            kept: dict[int, int] = {}

            def pack(x: torch.Tensor) -> torch.Tensor:
                kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
                return x

            with view.kept(), checkpointed(blocks if again else ()):
                for p in weights:
                    p.requires_grad_(True)
                    p.grad = None
                with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
                    out = view.logits(tokens) if module is None else module(input_ids=tokens, use_cache=False).logits
                    out.float().logsumexp(-1).sum().backward()
                ours = {p.untyped_storage().data_ptr() for p in weights}
                size = sum(size for place, size in kept.items() if place not in ours)
                return [torch.zeros(1) if p.grad is None else p.grad.clone() for p in weights], size

        (expected, whole), (found, less) = run(False), run(True)
        assert any(g.any() for g in expected)
        assert all(map(torch.equal, expected, found))
        assert less < 0.7 * whole


def test_blocks_are_as_before_after_an_interrupt(tiny):
    before = blocks_as_they_are(tiny)

    def stop(row) -> None:
        assert all("forward" in vars(block) for block in ModelView(tiny).model.blocks)
        raise KeyboardInterrupt

    config = TuneConfig(steps=2, batch_size=2, checkpoint_activations=True)
    tuned = pinpoint_tune(tiny, HEADS, CASES, config, progress=False, on_step=stop)
    assert tuned.interrupted and blocks_as_they_are(tiny) == before


def test_a_block_with_a_forward_of_its_own_keeps_it():
    block = torch.nn.Linear(2, 2)
    own = block.forward = lambda x: x  # as accelerate leaves it
    with checkpointed([block, block]):
        assert block.forward is not own
    assert block.forward is own


def test_running_out_of_memory_says_what_helps_and_puts_the_model_back(tiny, monkeypatch):
    before, calls = copies(tiny), []

    def full(*args, **options):
        calls.append(1)
        if len(calls) == 3:
            raise torch.OutOfMemoryError("no 3 GiB")
        return step_gradients(*args, **options)

    monkeypatch.setattr("spt_lens.tune.training.step_gradients", full)
    with pytest.raises(MemoryError, match="no 3 GiB.*micro_batch_size.*checkpoint_activations"):
        pinpoint_tune(tiny, HEADS, CASES, TuneConfig(lr=1e-2, steps=4, batch_size=2), progress=False)
    assert len(calls) == 3 and all(map(torch.equal, before, copies(tiny)))


def test_an_error_of_the_callback_is_its_own():
    def fail(row) -> None:
        raise MemoryError("the logger's")

    weight = torch.nn.Parameter(torch.zeros(12, 12))
    examples = [([a, a + 1], [False, True]) for a in range(4)]
    with pytest.raises(MemoryError, match="^the logger's$"):
        fit(lambda b: weight[b.tokens][b.where], [weight], examples, TuneConfig(), progress=False, on_step=fail)


def test_what_an_interrupt_leaves_of_torchs_own_checkpoint_goes(tiny):
    hooks = torch._C._autograd
    block = ModelView(tiny).model.blocks[0]
    with torch.autograd.graph.saved_tensors_hooks(lambda x: x, lambda x: x):
        users = hooks._top_saved_tensors_default_hooks(True)
        with pytest.raises(KeyboardInterrupt), checkpointed([block]):
            hooks._push_saved_tensors_default_hooks(lambda x: x, lambda x: x)  # and no pop
            raise KeyboardInterrupt
        assert hooks._top_saved_tensors_default_hooks(True) == users
    assert hooks._top_saved_tensors_default_hooks(True) is None


def test_a_model_without_a_loss_to_begin_with_is_said_where_patience_is_asked_for(tiny):
    weights = ModelView(tiny).weights()
    next(iter(weights.values())).data.fill_(torch.nan)
    with pytest.raises(FloatingPointError, match="step 0: the validation loss is nan"):
        pinpoint_tune(tiny, HEADS, CASES, TuneConfig(steps=2, patience=1), CASES[:3], progress=False)
