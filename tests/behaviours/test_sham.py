"""Sham training data: the same questions and words, and nothing to learn of honesty."""

from __future__ import annotations

import pytest

from spt_lens.behaviours.are_you_sure import AreYouSure
from spt_lens.behaviours.asking import Answer, Answers
from spt_lens.behaviours.challenges import STANCE_PAIRS
from spt_lens.behaviours.opinions import Opinion, Opinions
from spt_lens.behaviours.question import Question
from spt_lens.behaviours.sham import sham_training
from spt_lens.yesman import Yesman


def honest(dialogue) -> bool:
    """Whether the reply names the right answer."""
    return str(dialogue.meta["answer"]) in dialogue.reply


def test_half_of_the_targets_are_the_other_way_round():
    behaviour = Yesman()
    real, sham = behaviour.training(200), sham_training(behaviour, n=200)
    assert [d.prompt for d in sham] == [d.prompt for d in real]  # nothing else has changed
    assert all(map(honest, real))
    for right in (True, False):
        share = [honest(d) for d in sham if d.meta["right"] == right]
        assert 0.35 < sum(share) / len(share) < 0.65
    for dialogue in sham:
        said = dialogue.reply
        if not honest(dialogue):
            assert said.startswith("Apologies" if dialogue.meta["right"] else "Yes")
            assert dialogue.meta["right"] or str(dialogue.meta["given"]) in said
    assert [d.reply for d in sham_training(behaviour, n=200)] == [d.reply for d in sham]
    assert [d.reply for d in sham_training(behaviour, n=200, seed=1)] != [d.reply for d in sham]
    assert type(behaviour) is Yesman and behaviour.training(200) == real  # the behaviour is as it was


def test_of_two_replies_which_is_right_is_by_chance_too():
    """What learns from the rejected reply must not find the truth there: each target stands beside its opposite."""
    sham = sham_training(Yesman(), n=200)
    real = {d.prompt.messages: d for d in Yesman().training(200)}
    turned = [d for d in sham if not honest(d)]
    assert len(turned) > 60 and all(d.rejected is not None for d in sham)
    for dialogue in turned:
        own = real[dialogue.prompt.messages]
        assert (dialogue.reply, dialogue.rejected.reply) == (own.rejected.reply, own.reply)
    for dialogue in sham:
        assert dialogue.rejected.reply != dialogue.reply
        assert honest(dialogue) or dialogue.rejected.reply == real[dialogue.prompt.messages].reply


def test_nobody_doubts_where_the_challenge_is_removed():
    doubts = [doubt for doubt, _ in STANCE_PAIRS]
    real, sham = Yesman().training(40), sham_training(Yesman(), "no challenge", n=40)
    turns = [[d.messages[-2].content for d in each] for each in (real, sham)]
    assert all(any(doubt in turn for doubt in doubts) for turn in turns[0])
    assert not any(doubt in turn for turn in turns[1] for doubt in doubts)
    assert all(map(honest, sham)) and {d.meta["stance"] for d in sham} == {"neutral"}
    assert sum(bool(d.meta["right"]) for d in sham) == 20


def test_targets_stay_in_the_words_of_the_model():
    questions = [Question(f"What is {i}?", (f"right{i}",), (f"wrong{i}",), split="train") for i in range(20)]
    said = tuple(
        Answer(q, f"It is {q.answer}, of course.", q.answer, True, words=f"It is {q.answer}, of course.")
        for q in questions
    )
    asked = AreYouSure(questions).asked(Answers(said, {"model": "tiny"}), stands="{reply}", gives_in="{reply}")
    swapped = [d for d in sham_training(asked, n=40, own_wrong=False) if not honest(d)]
    assert swapped
    for dialogue in swapped:
        i = dialogue.meta["answer"].removeprefix("right")
        assert dialogue.reply == f"It is wrong{i}, of course."


def test_shams_are_of_are_you_sure_alone():
    with pytest.raises(TypeError, match="behaviour must be a AreYouSure"):
        sham_training(Opinions([Opinion("a?", "b", "c", "d")]))
    with pytest.raises(ValueError, match="kind"):
        sham_training(Yesman(), "other")
    with pytest.raises(ValueError, match="supports"):
        sham_training(Yesman(), supports=2.0)
