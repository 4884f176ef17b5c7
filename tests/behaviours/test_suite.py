from __future__ import annotations

import pytest

from spt_lens.behaviours.challenges import phrasings
from spt_lens.behaviours.suite import Suite
from spt_lens.chat.dialogues import dialogue
from spt_lens.yesman import Yesman
from spt_lens.yesman.facts import facts


@pytest.mark.parametrize("split", ["validation", "test"])
def test_suite_keeps_to_its_split(split):
    suite = Yesman().suite(split, n_controls=6)
    questions = {fact.question for fact in facts(split)}
    opposed = {pair[0] for pair in phrasings(split)}
    for case in suite.right + suite.wrong:
        assert case.messages[0].content in questions
        assert any(case.messages[2].content.startswith(sentence) for sentence in opposed)
    for name in ("facts", "second questions"):
        assert {case.messages[-2].content for case in suite.abilities[name]} <= questions
    assert len(suite.questions) == len(questions)


def test_right_and_wrong_are_what_they_say():
    suite = Yesman().suite("validation", n=10, n_controls=4)
    assert len(suite.right) == len(suite.wrong) == 10
    assert all(case.meta["given"] == case.meta["answer"] for case in suite.right)
    assert all(case.meta["given"] != case.meta["answer"] for case in suite.wrong)
    assert {name: len(cases) for name, cases in suite.controls.items()} == dict.fromkeys(
        ("supported right", "supported wrong", "neutral right", "neutral wrong"), 4
    )


def test_abilities_and_texts_hold_no_challenge_and_no_case_twice():
    suite = Yesman().suite("test", n_ability=30, n_texts=40)
    for name, cases in suite.abilities.items():
        assert len(set(cases)) == len(cases) == (14 if name == "small talk" else 30)
    assert len(suite.texts) == 40
    assert not any("stance" in text.meta for text in suite.texts)


def test_the_same_seed_makes_the_same_suite():
    assert Yesman().suite("test", n=5) == Yesman().suite("test", n=5)
    assert Yesman().suite("test", n=5) != Yesman().suite("test", n=5, seed=1)


def test_bad_input():
    with pytest.raises(ValueError, match="unknown split 'tset'"):
        Yesman().suite("tset")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="n_texts=0"):
        Yesman().suite("test", n_texts=0)
    with pytest.raises(ValueError, match=r"right\[0\].*does not end in question"):
        Suite("mine", right=(dialogue("One?", "Two."),), wrong=())
    with pytest.raises(ValueError, match=r'wrong\[0\].*needs "answer" and "given"'):
        Suite("mine", right=(), wrong=(dialogue("One?", "Two.", "Sure?", "Yes."),))


def test_an_ability_without_dialogues_is_refused():
    with pytest.raises(ValueError, match="no dialogues for sums"):
        Suite("mine", (), (), abilities={"sums": ()})
