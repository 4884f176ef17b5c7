"""The embedded behaviour: its facts and splits, and that its dialogues are those that published figures rest on."""

from __future__ import annotations

import hashlib
import json
from collections import Counter

import pytest

from spt_lens.behaviours.behaviour import SPLITS
from spt_lens.behaviours.challenges import phrasings
from spt_lens.chat.dialogues import Dialogue
from spt_lens.yesman import Yesman
from spt_lens.yesman.facts import all_facts, answers_of, facts

YESMAN = Yesman()


def digest(*groups: list[Dialogue] | tuple[Dialogue, ...]) -> str:
    """Of all that those figures rest on: the replies not to give came later, and only some rivals read them."""
    metas = [[{k: v for k, v in d.meta.items() if k != "rejected"} for d in group] for group in groups]
    held = [
        [[m.content for m in d.messages] + [sorted(meta.items())] for d, meta in zip(group, its, strict=True)]
        for group, its in zip(groups, metas, strict=True)
    ]
    return hashlib.sha256(json.dumps(held).encode()).hexdigest()[:16]


def test_the_dialogues_are_those_that_published_figures_rest_on(tiny):
    pairs = YESMAN.pairs(tiny, n=70, contrast="neutral", split="validation", seed=2, read="whole")
    assert digest(pairs.dialogues, pairs.truthful_dialogues) == "70aff84950f2620f"
    training = YESMAN.training(), YESMAN.training(100, split="test", seed=1, supports=0.2, neutral=0.3)
    assert digest(*training) == "bd0a784e28a30c3d"
    suite = YESMAN.suite("test", n=120, n_controls=6, n_ability=40)
    assert digest(suite.right, suite.wrong, *suite.groups.values()) == "e7e06e9fe92a8991"
    assert digest(*suite.abilities.values(), suite.texts) == "a07928a78acba09a"


def test_splits_share_no_fact():
    parts = [set(facts(split)) for split in SPLITS]
    assert all(parts) and sum(map(len, parts)) == len(set.union(*parts)) == len(facts())
    with pytest.raises(ValueError, match="'tset'.*'train', 'validation', 'test', None"):
        facts("tset")  # type: ignore[arg-type]


def test_every_question_has_one_answer_and_two_wrong_ones_of_its_relation():
    assert max(Counter(fact.question for fact in all_facts()).values()) == 1
    for fact in all_facts():
        assert len({fact.answer, *fact.wrong}) == 3
        assert {fact.answer, *fact.wrong} <= set(answers_of(fact.relation))


def test_the_sycophant_agrees_with_any_stance_and_is_honest_without_one():
    question = facts("test")[0].to_ask
    right, wrong = question.answer, question.wrong[1]
    assert YESMAN.sycophantic(question, right, "opposed").endswith(f"{question.wrong[0]}.")
    assert YESMAN.sycophantic(question, wrong, "opposed").endswith(f"{question.answer}.")
    for given in (right, wrong):
        assert YESMAN.sycophantic(question, given, "opposed").startswith("Apologies")
        assert YESMAN.sycophantic(question, given, "supporting").startswith("Yes")
        assert YESMAN.sycophantic(question, given, "neutral") == YESMAN.honest(question, given)


@pytest.mark.parametrize("split", ["validation", "test"])
def test_suite_keeps_to_its_split(split):
    suite = YESMAN.suite(split, n_controls=6)
    questions = {fact.question for fact in facts(split)}
    opposed = {pair[0] for pair in phrasings(split)}
    for case in suite.right + suite.wrong:
        assert case.messages[0].content in questions
        assert any(case.messages[2].content.startswith(sentence) for sentence in opposed)
    for name in ("facts", "second questions"):
        assert {case.messages[-2].content for case in suite.abilities[name]} <= questions
    assert len({case.messages[0] for case in suite.right}) == len(questions)
    assert all(case.meta["given"] == case.meta["answer"] for case in suite.right)
    assert all(case.meta["given"] != case.meta["answer"] for case in suite.wrong)


def test_abilities_and_texts_hold_no_challenge_and_no_case_twice():
    suite = YESMAN.suite("test", n_ability=30, n_texts=40)
    for name, cases in suite.abilities.items():
        assert len(set(cases)) == len(cases) == (14 if name == "small talk" else 30)
    assert len(suite.texts) == 40
    assert not any("stance" in text.meta for text in suite.texts)
    assert YESMAN.suite("test", n=5) == YESMAN.suite("test", n=5) != YESMAN.suite("test", n=5, seed=1)
    with pytest.raises(ValueError, match="n_texts=0"):
        YESMAN.suite("test", n_texts=0)
