"""LoFiT, tuning of layers alone, and DPO: each against the same written out, undone exactly, with every option."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from conftest import condition
from interrupting import same_weights, weights

from spt_lens.chat.batches import Examples
from spt_lens.chat.dialogues import dialogue
from spt_lens.chat.template import training_ids
from spt_lens.heads import HeadSet
from spt_lens.model.targets import encode_all
from spt_lens.model.view import ModelView
from spt_lens.rivals import lofit
from spt_lens.rivals.dpo import DPO
from spt_lens.rivals.layers import LayerFullFineTuning, LayerLoRA
from spt_lens.rivals.lofit import LoFiT
from spt_lens.rivals.steering import Steering
from spt_lens.tune import tuner
from spt_lens.tune.adapter import Adapter
from spt_lens.tune.full import FullFineTuning
from spt_lens.tune.head_lora import HeadLoRA
from spt_lens.tune.lora import LoRA
from spt_lens.tune.pinpoint import Pinpoint
from spt_lens.tune.training import TuneConfig, fit
from spt_lens.yesman import Yesman

CASES = Yesman().training(n=8)
HEADS = HeadSet.parse("L1.H1 L2.H3")
SGD = TuneConfig(
    lr=0.5, steps=2, batch_size=8, optimizer="sgd", momentum=0, max_grad_norm=None, warmup_share=0, schedule="constant"
)
CONFIG = TuneConfig(lr=1e-2, steps=3, batch_size=4)
TRAINED = (
    LoFiT(HEADS),
    LoFiT(HEADS, scales=True),
    LoFiT(k=2),
    LayerLoRA(2, (0, 2)),
    LayerFullFineTuning((1,)),
    DPO(Pinpoint(HEADS)),
    DPO(HeadLoRA(HEADS, 2)),
    DPO(LoRA(2)),
    DPO(FullFineTuning()),
    DPO(LoFiT(HEADS)),
)


@pytest.fixture(autouse=True)
def warm(tiny):
    """What is looked for once a model leaves its traces now."""
    Pinpoint(HEADS).tune(tiny, CASES[:2], TuneConfig(steps=1), progress=False).undo(tiny)


@pytest.mark.parametrize("rival", TRAINED, ids=lambda rival: rival.method)
def test_a_rival_trains_with_a_kl_term_saves_goes_on_and_is_undone_exactly(tiny, tokens, tmp_path, rival):
    view, before, values = ModelView(tiny), condition(tiny), weights(tiny)
    untouched, how = view.logits(tokens), {"progress": False, "keep": CASES[:2], "validation": CASES[:2]}
    config = replace(CONFIG, kl_weight=0.5, save_every=1)
    tuned = rival.tune(tiny, CASES, config, resume=tmp_path / "run", **how)
    kl = tuned.history["kl"].dropna().tolist()
    assert abs(kl[0]) < 1e-5 < kl[-1]
    assert len(tuned.history) == 4 and not torch.equal(view.logits(tokens), untouched)
    saved = Adapter.load(tuned.save(tmp_path / "saved"))
    changed = view.logits(tokens)
    tuned.undo(tiny)
    assert torch.equal(view.logits(tokens), untouched) and same_weights(tiny, values) and condition(tiny) == before
    with saved.applied(tiny):
        assert torch.equal(view.logits(tokens), changed)
    again = rival.tune(tiny, CASES, config, resume=tmp_path / "run", **how)  # it is done: given back
    assert torch.equal(view.logits(tokens), changed)
    again.undo(tiny)
    assert condition(tiny) == before and same_weights(tiny, values)


def test_lofit_trains_offsets_of_the_heads_outputs(tiny):
    """Two steps of SGD on all dialogues at once, written out with a hook."""
    view = ModelView(tiny)
    data = Examples(encode_all(tiny, CASES))
    batch = data.batch(torch.arange(len(data)))
    offsets = {head: torch.zeros(8, requires_grad=True) for head in HEADS}

    def shift(z, hook):
        z = z.clone()
        for head, offset in offsets.items():
            if hook.layer() == head.layer:
                z[:, :, head.head] += offset
        return z

    for _ in range(2):
        with view.kept():
            logits = view.logits(batch.tokens, hooks=[(view.z_name(layer), shift) for layer in (1, 2)])[batch.where]
            torch.nn.functional.cross_entropy(logits, batch.labels).backward()
        with torch.no_grad():
            for offset in offsets.values():
                offset -= 0.5 * offset.grad
                offset.grad = None
    tuned = LoFiT(HEADS).tune(tiny, CASES, SGD, progress=False)
    tuned.undo(tiny)
    assert tuned.weights == 16 and tuned.heads == HEADS
    for head, offset in offsets.items():
        scale, found = tuned.adapter.after[f"{head}.z"]
        assert not scale.any()
        torch.testing.assert_close(found, offset.detach(), rtol=1e-3, atol=1e-6)


def test_lofit_chooses_the_heads_whose_scales_grow(tiny, monkeypatch):
    kept = {}

    def seen(logits, trainable, *args, **options):
        rows = fit(logits, trainable, *args, **options)
        kept.setdefault("scales", trainable[0].detach().clone())
        return rows

    monkeypatch.setattr(lofit, "fit", seen)
    before = condition(tiny)
    config = replace(CONFIG, steps=6)
    heads = LoFiT(k=3).choose(ModelView(tiny), CASES, config, progress=False)
    norms = kept["scales"].norm(dim=1)
    assert kept["scales"].shape == (12, 8) and len(heads) == 3
    assert {head.layer * 4 + head.head for head in heads} == set(norms.topk(3).indices.tolist())
    assert condition(tiny) == before
    kept.clear()
    LoFiT(k=3, sparsity=10.0).choose(ModelView(tiny), CASES, config, progress=False)
    assert kept["scales"].norm() < 0.5 * norms.norm()  # the penalty draws them to zero


def test_the_penalty_of_lofit_is_in_the_loss(tiny):
    """Two steps of SGD on all dialogues at once, written out: in the second the scales' signs are in the gradient."""
    view, sparsity, d = ModelView(tiny), 0.2, 8
    data = Examples(encode_all(tiny, CASES))
    batch = data.batch(torch.arange(len(data)))
    scales = torch.zeros(3, 4, d, requires_grad=True)
    hooks = [(view.z_name(i), lambda z, hook: z * (1 + scales[hook.layer()])) for i in range(3)]
    for _ in range(2):
        with view.kept():
            found = view.logits(batch.tokens, hooks=hooks)[batch.where]
            loss = torch.nn.functional.cross_entropy(found, batch.labels) + sparsity * scales.abs().sum()
            (slope,) = torch.autograd.grad(loss, scales)
        with torch.no_grad():
            scales -= SGD.lr * slope
    norms = scales.detach().norm(dim=2).flatten()
    heads = LoFiT(k=12, sparsity=sparsity).choose(view, CASES, SGD, progress=False)
    assert [head.layer * 4 + head.head for head in heads] == norms.argsort(descending=True, stable=True).tolist()


def test_a_choice_among_scales_that_are_zero_is_refused(tiny, monkeypatch):
    before = condition(tiny)
    monkeypatch.setattr(lofit, "fit", lambda *args, **options: [])
    with pytest.raises(ValueError, match="0 of 12 heads have a scale other than zero, of which LoFiT is to choose 2"):
        LoFiT(k=2).tune(tiny, CASES, CONFIG, progress=False)
    assert condition(tiny) == before


def test_results_of_given_heads_are_found_again_and_those_of_another_penalty_are_not():
    assert repr(LoFiT(HEADS)) == f"LoFiT(heads={HEADS!r}, k=None, scales=False, sparsity=0.001)"
    assert repr(LoFiT(k=2)) == "LoFiT(k=2, scales=False, sparsity=0.001)"


def test_tuning_of_layers_moves_these_layers_alone(tiny):
    before = {name: weight.detach().clone() for name, weight in ModelView(tiny).weights().items()}
    plain = dict(ModelView(tiny).hf_copy().named_parameters())
    of_block = sum(weight.numel() for name, weight in plain.items() if "layers.1." in name)
    for rival, layers, part, n in (
        (LayerFullFineTuning((1,)), "1", "", of_block),
        (LayerLoRA(2, (0, 2)), "02", "attn", 2 * 4 * 2 * 64),
    ):
        tuned = rival.tune(tiny, CASES, CONFIG, progress=False)
        now = ModelView(tiny).weights()
        moved = {name for name in before if not torch.equal(now[name], before[name])}
        inside = {
            name
            for name, weight in before.items()
            if any(f"layers.{i}." in name or f"blocks.{i}." in name for i in layers) and part in name and weight.any()
        }
        assert moved == inside and tuned.weights == n
        tuned.undo(tiny)


def test_dpo_is_the_loss_of_the_paper(tiny, load, tiny_folder):
    """A step of SGD on all pairs at once, on a plain model with the loss written out."""
    view, beta = ModelView(tiny), 0.3
    plain, reference = view.hf_copy(), view.hf_copy()

    def log_prob(model, case):
        ids, target = training_ids(tiny.tokenizer, case)
        found = model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
        return sum(found[i - 1, ids[i]] for i, wanted in enumerate(target) if wanted)

    losses = []
    for case in CASES:
        chosen, rejected = (log_prob(plain, c) - log_prob(reference, c).detach() for c in (case, case.rejected))
        losses.append(-torch.log(torch.sigmoid(beta * (chosen - rejected))))
    torch.stack(losses).mean().backward()
    expected = {name: (p - 0.5 * p.grad).detach() for name, p in plain.named_parameters()}
    tuned = DPO(FullFineTuning(), beta).tune(tiny, CASES, replace(SGD, steps=1), progress=False)
    assert tuned.history["loss"].iloc[0] == pytest.approx(0.6931, abs=1e-3)
    by_hand = ModelView(load(tiny_folder))
    plain.load_state_dict(expected, strict=False)
    by_hand.load_plain(plain)
    for name, weight in view.weights().items():
        torch.testing.assert_close(weight, by_hand.weights()[name], rtol=1e-3, atol=1e-5)
    tuned.undo(tiny)


def test_dpo_in_parts_is_the_same_step_and_learns_to_prefer(tiny):
    weights_of = []
    for config in (SGD, replace(SGD, micro_batch_size=3)):
        tuned = DPO(Pinpoint(HEADS)).tune(tiny, CASES, config, progress=False)
        weights_of.append(tuned.adapter.after)
        tuned.undo(tiny)
    for name, value in weights_of[0].items():
        torch.testing.assert_close(weights_of[1][name], value, rtol=1e-4, atol=1e-6)
    tuned = DPO(Pinpoint(HEADS)).tune(tiny, CASES, replace(CONFIG, steps=20), progress=False)
    tuned.undo(tiny)
    assert tuned.history["loss"].iloc[-1] < 0.6


def test_what_can_not_be_meant_is_refused_before_anything_is_run(tiny, monkeypatch):
    monkeypatch.setattr(ModelView, "logits", lambda *args, **how: pytest.fail("the model was run"))
    before, values = condition(tiny), weights(tiny)
    plain = [dialogue("What is it?", "Paris.", "Sure?", "Yes.") for _ in range(5)]
    for rival, cases, says in (
        (DPO(Pinpoint(HEADS)), plain, "needs pairs of replies, and none of the 5 dialogues"),
        (DPO(Pinpoint(HeadSet.parse("L9.H1"))), CASES, "L9.H1"),
        (LoFiT(k=13), CASES, "k=13 heads are more than"),
        (LoFiT(HeadSet.parse("L0.H9")), CASES, "L0.H9"),
        (LayerLoRA(2, (3,)), CASES, "layer 3 does not exist"),
        (LayerFullFineTuning((0, 5)), CASES, "layer 5 does not exist"),
    ):
        with pytest.raises((ValueError, IndexError), match=says):
            rival.tune(tiny, cases, progress=False)
    for make, says in (
        (lambda: LoFiT(HEADS, k=2), "leave one of the two out"),
        (lambda: LoFiT(sparsity=-1.0), "sparsity"),
        (lambda: LayerLoRA(), "layers is empty"),
        (lambda: LayerFullFineTuning(()), "layers is empty"),
        (lambda: DPO(Steering()), "has no objective to be replaced"),
        (lambda: DPO(DPO(LoRA())), "has no objective to be replaced"),
        (lambda: DPO(LoFiT(k=2)), "give them, DPO"),
        (lambda: DPO(LoRA(), beta=0.0), "beta"),
    ):
        with pytest.raises(ValueError, match=says):
            make()
    assert condition(tiny) == before and same_weights(tiny, values)


@pytest.mark.parametrize("rival", [LoFiT(HEADS), LayerFullFineTuning((1,)), DPO(Pinpoint(HEADS))], ids=str)
def test_an_interrupted_run_has_a_result_and_a_second_one_leaves_nothing(tiny, monkeypatch, rival):
    before, values, whole = condition(tiny), weights(tiny), tuner.fit

    def stop(*args, **options):
        whole(*args, **options)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(tuner, "fit", stop)
        tuned = rival.tune(tiny, CASES, CONFIG, progress=False)
    assert tuned.interrupted
    tuned.undo(tiny)
    assert condition(tiny) == before and same_weights(tiny, values)
    with monkeypatch.context() as patch:  # while the result is made, with all of it in the model
        patch.setattr(tuner, "Adapter", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            rival.tune(tiny, CASES, CONFIG, progress=False)
    assert condition(tiny) == before and same_weights(tiny, values)
