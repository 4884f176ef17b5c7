"""Which pairs a direction is of, where it is read, whether it cancels, and which questions judge it."""

from __future__ import annotations

import warnings
from dataclasses import replace

import pytest
import torch

from spt_lens.chat.dialogues import Dialogue, Message, dialogue
from spt_lens.rivals import fitted, iti
from spt_lens.rivals.ablation import Ablation
from spt_lens.rivals.direction import Direction, directions
from spt_lens.rivals.fitted import Material
from spt_lens.rivals.iti import ITI, probed
from spt_lens.rivals.pairs import first_is_right
from spt_lens.rivals.random_direction import RandomDirection
from spt_lens.rivals.steering import Steering
from spt_lens.tune.config import TuneConfig
from spt_lens.tune.preference import preferences
from spt_lens.yesman import Yesman

CASES = Yesman().training(n=24)
HELD = Yesman().training(n=6, split="validation")
RIGHT = "right answers"


def given(rival, model, monkeypatch, cases=CASES, **how):
    """What the rival is fitted on."""
    seen, own = [], type(rival).fit
    monkeypatch.setattr(type(rival), "fit", lambda self, data: seen.append(data) or own(self, data))
    rival.tune(model, cases, TuneConfig(lr=1.0), progress=False, **how).undo(model)
    return seen[0]


def questions(model, examples):
    return {model.tokenizer.decode(ids).partition("<assistant>")[0] for ids, _ in examples}


def vector(rival, model, cases, **how):
    tuned = rival.tune(model, cases, TuneConfig(lr=1.0), progress=False, **how)
    tuned.undo(model)
    return next(iter(tuned.adapter.after.values())), tuned


def test_right_answers_alone_are_caa_of_one_behaviour(tiny):
    right = [case for case in CASES if case.meta["right"]]
    assert 0 < len(right) < len(CASES)
    for rival, layer in ((Steering, {"layer": 1}), (Ablation, {"layer": 1})):
        one, tuned = vector(rival(**layer, read="answer", pairs=RIGHT), tiny, CASES, validation=HELD)
        other, _ = vector(rival(**layer, read="answer"), tiny, right, validation=HELD)
        both, _ = vector(rival(**layer, read="answer"), tiny, CASES, validation=HELD)
        assert torch.equal(one, other) and not torch.allclose(one, both)
        assert tuned.method.endswith("by right answers") and f"{len(right)} pairs" in tuned.way


def test_held_out_dialogues_are_of_right_answers_too(tiny, monkeypatch):
    data = given(Steering(layer=1, pairs=RIGHT), tiny, monkeypatch, validation=HELD)
    assert len(data.held_out) == sum(bool(case.meta["right"]) for case in HELD) and all(data.right)
    control = given(RandomDirection(Steering(layer=1, pairs=RIGHT)), tiny, monkeypatch, validation=HELD)
    assert control.chosen == data.chosen


def test_supported_answers_are_left_out_where_others_are_challenged(tiny, monkeypatch):
    mixed = Yesman().training(n=24, supports=0.5)
    wanted = [each for each in mixed if each.meta["right"] and each.meta["stance"] == "opposed"]
    data = given(Steering(layer=1, pairs=RIGHT), tiny, monkeypatch, mixed, validation=HELD)
    assert len(data.chosen) == len(wanted) < sum(bool(each.meta["right"]) for each in mixed)


def test_what_meta_says_of_the_first_answer():
    for meta, says in (
        ({"right": False, "given": "a", "answer": "a"}, False),
        ({"given": "a", "answer": "a"}, True),
        ({"given": "b", "answer": "a", "answers": ("a", "b")}, True),
        ({"given": "b", "answers": ["a", "b"]}, True),  # as JSON has it
        ({"given": ["a"], "answer": "a"}, False),
        ({"given": "c", "answer": "a"}, False),
        ({"given": "c"}, None),
        ({}, None),
    ):
        assert first_is_right(dialogue("Who?", **meta)) is says


def test_dialogues_that_do_not_say_it_are_refused_by_name(tiny):
    silent = [Dialogue(case.messages, {"rejected": case.meta["rejected"]}) for case in CASES]
    for rival, name in (
        (Steering(pairs=RIGHT), "steering by right answers"),
        (Ablation(pairs=RIGHT), "ablation of the"),
    ):
        for of in (rival, RandomDirection(rival)):
            with pytest.raises(ValueError, match=f"{name}.*none of the 24 dialogues says in its meta"):
                of.tune(tiny, silent, progress=False)
    with pytest.raises(ValueError, match="none of the 6 validation dialogues says"):
        Steering(pairs=RIGHT).tune(tiny, CASES, progress=False, validation=[Dialogue(case.messages) for case in HELD])
    with pytest.raises(ValueError, match="none of the validation dialogues has a right first answer"):
        wrong = [case for case in HELD if not case.meta["right"]]
        Steering(pairs=RIGHT).tune(tiny, CASES, progress=False, validation=wrong)
    with pytest.raises(ValueError, match="4 pairs of replies of right answers or more, and there are 0"):
        Steering(pairs=RIGHT).tune(tiny, [case for case in CASES if not case.meta["right"]], progress=False)


def test_halves_that_cancel_are_said_and_warned_of(tiny, monkeypatch):
    def one_sided(self, points, last=False):
        """What is right after a right first answer is nearly the opposite after a wrong one."""
        side = torch.tensor([1.0 if each else -0.9 for each in self.right])
        difference = side[None, :, None] * torch.ones(len(points), 1, 32)
        return difference, torch.zeros_like(difference)

    with monkeypatch.context() as patch:
        patch.setattr(Material, "activations", one_sided)
        for rival in (Steering(layer=1), Ablation(layer=1)):
            with pytest.warns(UserWarning, match='cancels.*of cosine -1.00.*pairs="right answers"'):
                _, tuned = vector(rival, tiny, CASES, validation=HELD)
            assert "by right and by wrong first answers 5.66 and 5.09, of cosine -1.00" in tuned.way
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            _, tuned = vector(Steering(layer=1, pairs=RIGHT), tiny, CASES, validation=HELD)
        assert "cosine" not in tuned.way
    a, b = torch.tensor([1.0, 0.0]), torch.tensor([-0.6, 0.8])
    assert Direction(0, "end", (a + b) / 4, (a, b)).cancels
    assert not Direction(0, "end", (a + b) / 1, (a, b)).cancels and not Direction(0, "end", a / 9, (a, a)).cancels


def test_where_it_is_read_is_chosen_on_what_is_held_out(tiny, monkeypatch):
    tuned = {read: vector(Steering(layer=1, read=read), tiny, CASES, validation=HELD) for read in ("answer", "end")}
    assert not torch.allclose(tuned["answer"][0], tuned["end"][0])
    best = min(tuned, key=lambda read: tuned[read][1].history["validation_loss"][0])
    chosen, both = vector(Steering(layer=1), tiny, CASES, validation=HELD)
    assert list(both.history["read"]) == ["answer", "end"] and torch.equal(chosen, tuned[best][0])
    data = given(Steering(layer=1), tiny, monkeypatch, validation=HELD)
    right, rejected = data.activations(["blocks.1.hook_resid_post"], last=True)
    (end,) = directions(data, [1], "end")
    torch.testing.assert_close(end.vector, (right - rejected)[0].mean(0))


def test_probes_judge_on_questions_that_they_have_not_seen_and_directions_are_of_all(tiny, monkeypatch):
    seen = []
    monkeypatch.setattr(iti, "probed", lambda z, labels, held: seen.append(held) or probed(z, labels, held))
    for how in ({}, {"validation": HELD}):
        data = given(ITI(2), tiny, monkeypatch, **how)
        assert set(seen.pop()[: len(CASES)].nonzero().flatten().tolist()) == data.aside
        assert len(data.chosen) == len(CASES) and 0 < len(data.aside) < len(CASES) / 2
        held = questions(tiny, [data.chosen[i] for i in data.aside])
        rest = questions(tiny, [one for i, one in enumerate(data.chosen) if i not in data.aside])
        assert held and rest and not held & rest


def test_of_heads_of_one_accuracy_the_likelier_probe_comes_first(tiny, monkeypatch):
    likely = torch.tensor([-0.9] * 10 + [-0.1, -0.2])
    monkeypatch.setattr(iti, "probed", lambda z, labels, held: (torch.full((12,), 0.75), likely))
    tuned = ITI(2).tune(tiny, CASES, progress=False)
    tuned.undo(tiny)
    assert [str(head) for head in tuned.heads] == ["L2.H2", "L2.H3"]
    monkeypatch.undo()
    z = torch.zeros(2, 8, 1)
    labels, held = torch.arange(8) % 2 == 0, torch.arange(8) >= 4
    z[0, :, 0] = torch.where(labels, 1.0, -1.0)
    z[1, :, 0] = torch.where(labels, 1.0, -1.0) * torch.where(held, 0.1, 1.0)
    accuracy, said = probed(z, labels, held)
    assert accuracy.tolist() == [1.0, 1.0] and said[0] > said[1]


def test_a_system_message_is_no_question():
    told = [
        Dialogue((Message("system", "Be kind."), Message("user", f"Question {i // 2}?"), Message("assistant", "Yes.")))
        for i in range(40)
    ]
    for seed in range(3):
        held = fitted._held_out(told, seed)
        assert len(held) == 8 and all((i ^ 1) in held for i in held)


def test_the_held_out_are_drawn_from_all_validation_dialogues(tiny, monkeypatch):
    monkeypatch.setattr(fitted, "MOST", 8)
    ordered = sorted(Yesman().training(n=24, split="validation"), key=lambda case: not case.meta["right"])
    first = given(Steering(layer=1), tiny, monkeypatch, validation=ordered).held_out
    again = given(Steering(layer=1), tiny, monkeypatch, validation=ordered).held_out
    starts = fitted.encode_all(tiny, ordered[:8])
    assert len(first) == 8 and list(first) == list(again) and list(first) != list(starts)


def test_a_rejected_reply_goes_with_its_own_reply():
    case = dialogue("Who?", "Me.", kind="x").prompt.replied("Me.", rejected="You.")
    turned = case.prompt.replied(case.rejected.reply)
    assert turned.rejected is None and turned.meta == {"kind": "x"} and case.rejected.reply == "You."
    assert case.prompt.replied("You.", rejected="Me.").rejected.reply == "Me."
    same = replace(case, meta={"rejected": "Me."})
    assert preferences([case, same], "DPO") == [(case, case.rejected)]
    with pytest.raises(ValueError, match="none of the 1 dialogues has a rejected one"):
        preferences([same], "DPO")


def test_what_changed_is_not_taken_for_what_was():
    assert repr(ITI(13)) == "ITI(k=13, pairs='all')"
    assert repr(Steering()) == "Steering(layer=None, positions='reply', read=None, pairs='all')"
    assert repr(Ablation()) == "Ablation(layer=None, everywhere=True, read=None, pairs='all')"
