"""Steering, ablation and ITI: each against the same written out, undone exactly, and refused where it can't be."""

from __future__ import annotations

import pytest
import torch
from conftest import condition
from interrupting import same_weights, weights

from spt_lens.chat.dialogues import dialogue
from spt_lens.chat.template import training_ids
from spt_lens.heads import Head
from spt_lens.model.held import unbroken
from spt_lens.model.view import ModelView
from spt_lens.rivals import fitted
from spt_lens.rivals.ablation import Ablation
from spt_lens.rivals.fitted import Material
from spt_lens.rivals.iti import ITI, probed
from spt_lens.rivals.steering import Steering
from spt_lens.tune.adapter import Adapter
from spt_lens.tune.training import TuneConfig
from spt_lens.yesman import Yesman

CASES = Yesman().training(n=16)
HELD = Yesman().training(n=6, split="validation")
RIVALS = (Steering(), Steering(layer=1, positions="all"), Ablation(), Ablation(1, everywhere=False), ITI(3))
QUIET = {"progress": False, "validation": HELD}


def residual(model, case, layer, place):
    """After a block, at one token."""
    seen = []
    hooks = [(f"blocks.{layer}.hook_resid_post", lambda x, hook: seen.append(x[0, place].clone()))]
    ids, _ = training_ids(model.tokenizer, case)
    ModelView(model).logits(torch.tensor([ids]), hooks=hooks)
    return seen[0].detach()


def answers(model, case):
    """Where the two replies differ first."""
    one, other = (training_ids(model.tokenizer, each)[0] for each in (case, case.rejected))
    return next(i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)


def difference(model, layer):
    each = []
    for case in CASES:
        place = answers(model, case)
        each.append(residual(model, case, layer, place) - residual(model, case.rejected, layer, place))
    return torch.stack(each).mean(0)


def test_training_dialogues_hold_the_reply_not_to_give():
    for case in CASES:
        stands = case.rejected.reply.startswith("Yes")
        assert stands != bool(case.meta["right"]) and case.rejected.reply != case.reply
        assert case.rejected.messages[:-1] == case.messages[:-1]


@pytest.mark.parametrize("rival", RIVALS, ids=repr)
def test_a_rival_is_fitted_saved_and_undone_exactly(tiny, tokens, tmp_path, rival):
    view, before, values = ModelView(tiny), condition(tiny), weights(tiny)
    untouched = view.logits(tokens)
    tuned = rival.tune(tiny, CASES, **QUIET)
    reply = torch.tensor([training_ids(tiny.tokenizer, CASES[0])[0]])
    changed = view.logits(reply)
    assert same_weights(tiny, values) and not tuned.interrupted and tuned.weights in (32, 3 * 8)
    assert "fitted in" in tuned.summary() and tuned.method in repr(tuned).lower()
    saved = Adapter.load(tuned.save(tmp_path))
    tuned.undo(tiny)
    assert torch.equal(view.logits(tokens), untouched) and condition(tiny) == before
    with saved.applied(tiny):
        assert torch.equal(view.logits(reply), changed)
    assert not torch.allclose(view.logits(reply), changed, atol=1e-4) and condition(tiny) == before
    again = rival.tune(tiny, CASES, **QUIET)
    assert all(torch.equal(again.adapter.after[name], value) for name, value in tuned.adapter.after.items())
    again.undo(tiny)


def test_steering_adds_the_mean_difference_at_the_answer(tiny):
    tuned = Steering(layer=1, read="answer").tune(tiny, CASES, TuneConfig(lr=2.5), **QUIET)
    tuned.undo(tiny)
    assert list(tuned.adapter.after) == ["L1.out.reply"]
    torch.testing.assert_close(tuned.adapter.after["L1.out.reply"], 2.5 * difference(tiny, 1), rtol=1e-3, atol=1e-5)


def test_the_layer_is_that_of_the_lowest_loss_on_validation(tiny):
    tuned = Steering().tune(tiny, CASES, TuneConfig(lr=3.0), **QUIET)
    tuned.undo(tiny)
    table = tuned.history.set_index(["layer", "read"])["validation_loss"]
    assert list(table.index) == [(layer, read) for read in ("answer", "end") for layer in range(3)]
    assert list(tuned.adapter.after) == [f"L{table.idxmin()[0]}.out.reply"]
    losses = []
    for case in HELD:  # of the chosen one, written out
        ids, target = training_ids(tiny.tokenizer, case)
        with tuned.adapter.applied(tiny):
            found = ModelView(tiny).logits(torch.tensor([ids]))[0].log_softmax(-1)
        losses += [-found[i - 1, ids[i]].item() for i, wanted in enumerate(target) if wanted]
    assert sum(losses) / len(losses) == pytest.approx(table.min(), rel=1e-4)


def test_without_validation_a_fifth_of_the_questions_is_held_out(tiny, monkeypatch):
    seen = []
    own = Steering.fit
    monkeypatch.setattr(Steering, "fit", lambda self, data: seen.append(data) or own(self, data))
    Steering(layer=1).tune(tiny, CASES, progress=False).undo(tiny)
    (data,) = seen
    assert len(data.held_out) >= 1 and len(data.chosen) + len(data.held_out) == len(CASES)

    def questions(examples):
        return {tiny.tokenizer.decode(ids).partition("<assistant>")[0] for ids, _ in examples}

    assert not questions(data.chosen) & questions(data.held_out)


def test_after_ablation_nothing_is_written_along_the_direction(tiny):
    direction = difference(tiny, 1)
    direction = direction / direction.norm()

    def along():
        streams = [residual(tiny, CASES[0], layer, -1) for layer in range(3)]
        return [abs(float(stream @ direction)) / float(stream.norm()) for stream in streams]

    assert max(along()) > 1e-2
    tuned = Ablation(layer=1, read="answer").tune(tiny, CASES, **QUIET)
    assert tuned.weights == 32 and len(tuned.adapter.after) == 3 * 3
    assert max(along()) < 1e-4
    tuned.undo(tiny)
    assert max(along()) > 1e-2


def test_iti_shifts_along_the_mean_by_the_deviation(tiny):
    tuned = ITI(2).tune(tiny, CASES, TuneConfig(lr=4.0), **QUIET)
    tuned.undo(tiny)
    assert len(tuned.heads) == 2 and tuned.history["accuracy"].is_monotonic_decreasing
    for head in tuned.heads:
        sides = [[], []]
        for case in CASES:
            for side, each in zip(sides, (case, case.rejected), strict=True):
                ids, target = training_ids(tiny.tokenizer, each)
                last = len(target) - 1 - target[::-1].index(True) - 1  # before what ends the reply
                side.append(ModelView(tiny).cache_z(torch.tensor([ids]))[head.layer, 0, last, head.head])
        right, rejected = map(torch.stack, sides)
        direction = (right - rejected).mean(0)
        direction = direction / direction.norm()
        deviation = (torch.cat([right, rejected]) @ direction).std(correction=0)
        scale, shift = tuned.adapter.after[f"{Head(*head)}.z.reply"]
        assert not scale.any()
        torch.testing.assert_close(shift, 4 * deviation * direction, rtol=1e-3, atol=1e-5)


def test_probes_are_those_of_scikit_learn():
    linear = pytest.importorskip("sklearn.linear_model")
    draw = torch.Generator().manual_seed(0)
    labels, held = torch.arange(80) % 2 == 0, torch.arange(80) >= 60
    z = torch.randn(5, 80, 6, generator=draw)
    z[:3] += torch.where(labels, 0.4, -0.4)[None, :, None] * torch.arange(3)[:, None, None]
    found, said = probed(z, labels, held)
    for x, accuracy, log_prob in zip(z.double(), found, said, strict=True):
        seen = x[~held]
        x = ((x - seen.mean(0)) / seen.std(0, correction=0)).numpy()
        probe = linear.LogisticRegression(C=1.0, tol=1e-8, max_iter=1000).fit(x[:60], labels[:60].numpy())
        assert probe.score(x[60:], labels[60:].numpy()) == pytest.approx(
            float(accuracy), abs=0.051
        )  # one row of twenty
        given = probe.predict_log_proba(x[60:])[torch.arange(20), labels[60:].int()]
        assert given.mean() == pytest.approx(float(log_prob), abs=0.02)
    assert found[2] > found[4]


def test_a_probe_of_one_class_is_refused():
    z, ones = torch.randn(1, 6, 2), torch.ones(6, dtype=torch.bool)
    with pytest.raises(ValueError, match="rows of both classes, and those fitted on are of one"):
        probed(z, ones, torch.arange(6) > 3)


def test_a_probe_of_one_class_is_refused_in_the_rival_and_nothing_is_left(tiny, monkeypatch):
    """Pairs give both classes, unless what is held out is nothing."""
    before, values = condition(tiny), weights(tiny)
    monkeypatch.setattr(fitted, "_held_out", lambda *args: set())
    with pytest.raises(ValueError, match="a probe needs rows of both classes, and those held out are of one"):
        ITI(2).tune(tiny, CASES, **QUIET)
    assert condition(tiny) == before and same_weights(tiny, values)


@pytest.mark.parametrize("rival", [Steering(), Ablation(), ITI(2)], ids=repr)
def test_a_direction_of_length_zero_is_refused_and_nothing_is_left(tiny, monkeypatch, rival):
    whole = Material.activations
    monkeypatch.setattr(Material, "activations", lambda self, *args, **how: (whole(self, *args, **how)[0],) * 2)
    before = condition(tiny)
    with pytest.raises(ValueError, match="length zero"):
        rival.tune(tiny, CASES, **QUIET)
    assert condition(tiny) == before


def test_what_does_not_fit_is_refused_before_anything_is_run(tiny, monkeypatch):
    monkeypatch.setattr(ModelView, "logits", lambda *args, **how: pytest.fail("the model was run"))
    before, values = condition(tiny), weights(tiny)
    plain = [dialogue("What is it?", "Paris.", "Sure?", "Yes.") for _ in range(5)]
    for rival, cases, says in (
        (ITI(13), CASES, "k=13 heads are more than .* has \\(12\\)"),
        (Steering(layer=3), CASES, "layer 3 does not exist"),
        (Ablation(layer=3), CASES, "layer 3 does not exist"),
        (Steering(), plain, "none of the 5 dialogues has a rejected one"),
        (ITI(2), CASES[:3], "needs 4 pairs of replies or more, and there are 3"),
    ):
        with pytest.raises(ValueError, match=says):
            rival.tune(tiny, cases, progress=False)
    for make, says in (
        (lambda: Steering(layer=-1), "layer=-1: give a whole number"),
        (lambda: Steering(positions="some"), "positions"),
        (lambda: Steering(read="middle"), "read"),
        (lambda: Ablation(pairs="wrong answers"), "pairs"),
        (lambda: ITI(pairs="wrong answers"), "pairs"),
        (lambda: ITI(0), "k=0: give a whole number"),
    ):
        with pytest.raises(ValueError, match=says):
            make()
    assert condition(tiny) == before and same_weights(tiny, values)


@pytest.mark.parametrize(
    ("rival", "lacks"),
    [
        (Steering(), "blocks.2.hook_resid_post"),
        (Steering(layer=1, positions="all"), "blocks.1.hook_resid_post"),
        (Ablation(), "blocks.1.hook_mlp_out"),
        (ITI(2), "blocks.0.attn.hook_z"),
    ],
    ids=repr,
)
def test_an_architecture_without_the_place_is_refused_before_anything_is_run(tiny, monkeypatch, rival, lacks):
    view, before, values = ModelView(tiny), condition(tiny), weights(tiny)
    lacks = view.z_name(0) if lacks.endswith("z") else lacks
    points = {name: point for name, point in tiny.hook_dict.items() if name != lacks}
    owner = type(tiny) if isinstance(getattr(type(tiny), "hook_dict", None), property) else tiny
    with monkeypatch.context() as patch:
        patch.setattr(owner, "hook_dict", points if owner is tiny else property(lambda self: points))
        patch.setattr(ModelView, "logits", lambda *args, **how: pytest.fail("the model was run"))
        with pytest.raises(ValueError, match=f"can't be edited: .* has no {lacks}"):
            rival.tune(tiny, CASES, progress=False)
    assert condition(tiny) == before and same_weights(tiny, values)


@pytest.mark.parametrize("rival", RIVALS, ids=repr)
def test_an_interrupt_leaves_the_model_as_it_was(tiny, monkeypatch, rival):
    before, values = condition(tiny), weights(tiny)

    def stop(*args, **how):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(fitted, "validate" if not isinstance(rival, ITI) else "activations_at", stop)
        with pytest.raises(KeyboardInterrupt):
            rival.tune(tiny, CASES, **QUIET)
    assert condition(tiny) == before
    with monkeypatch.context() as patch:  # just as it is in the model
        patch.setattr(unbroken, "hand_over", stop)
        with pytest.raises(KeyboardInterrupt):
            rival.tune(tiny, CASES, **QUIET)
    assert condition(tiny) == before and same_weights(tiny, values)


def test_a_strength_that_is_too_high_diverges_by_name(tiny):
    before = condition(tiny)
    with pytest.raises(FloatingPointError, match="no number|not finite"):
        Steering().tune(tiny, CASES, TuneConfig(lr=1e39), **QUIET)
    assert condition(tiny) == before
