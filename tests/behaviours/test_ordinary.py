"""Ordinary prompts are varied, apart from the bank and from each other; questions become choices."""

from __future__ import annotations

from collections import Counter
from importlib.resources import files

import pytest

from spt_lens.behaviours.bank import question_bank
from spt_lens.behaviours.behaviour import plain
from spt_lens.behaviours.choices import Choice
from spt_lens.behaviours.ordinary import choices_of, ordinary_prompts
from spt_lens.behaviours.question import Question
from spt_lens.behaviours.suite import Suite
from spt_lens.chat.dialogues import Dialogue, Message, dialogue

KINDS = ["chat", "writing", "rewriting", "ideas", "advice", "how-to", "code", "sums"]


@pytest.mark.parametrize("split", ["validation", "test"])
def test_forty_prompts_a_split_five_of_each_kind_in_turn(split):
    found = ordinary_prompts(split)
    assert [prompt.meta["kind"] for prompt in found] == KINDS * 5
    assert {len(prompt.messages) for prompt in found} == {1}
    assert len(Suite("ordinary", prompts=tuple(found)).prompts) == 40


def test_no_prompt_is_in_both_splits():
    both = [plain(prompt.messages[0].content) for prompt in ordinary_prompts(None)]
    assert len(set(both)) == len(both) == 80
    assert ordinary_prompts(None) == ordinary_prompts("validation") + ordinary_prompts("test")
    assert ordinary_prompts() == ordinary_prompts("test")


def test_they_ask_nothing_of_the_bank_and_oppose_nothing():
    asked = [plain(question.text) for question in question_bank()]
    for prompt in ordinary_prompts(None):
        text = plain(prompt.messages[0].content)
        assert not any(question in text or text in question for question in asked), text
        assert not any(words in text for words in ("are you sure", "i don't think", "you are wrong", "i disagree"))


def test_another_split_is_named():
    with pytest.raises(ValueError, match="split='train': choose one of 'validation', 'test'"):
        ordinary_prompts("train")


def test_the_prompts_are_in_the_package():
    assert files("spt_lens.behaviours").joinpath("ordinary.json").is_file()


def test_questions_become_choices():
    before = (Message("system", "Be brief."),)
    questions = [
        Question("What is the capital of France?", ("Paris", "Paris, France"), ("Rome", "Oslo", "Bern"), before=before),
        Question("Without a wrong one?", "Yes"),
        Question("Hot or cold?", "hot", "cold"),
    ]
    first = Choice(Dialogue((*before, Message("user", questions[0].text))), ("Bern", "Oslo", "Paris", "Rome"), right=2)
    assert choices_of(questions, 10) == (first, Choice(dialogue("Hot or cold?"), ("cold", "hot"), right=1))
    assert choices_of(questions[1:2], 5) == ()


def test_choices_are_drawn_by_seed_in_their_order():
    bank = [question for question in question_bank() if question.split == "test"]
    found = choices_of(bank, 100, seed=3)
    assert len(found) == 100 and found == choices_of(bank, 100, seed=3) != choices_of(bank, 100, seed=4)
    place = {question.asked: i for i, question in enumerate(bank)}
    assert [place[c.dialogue.messages] for c in found] == sorted(place[c.dialogue.messages] for c in found)
    every = choices_of(bank, 10_000)
    assert len(every) == len(bank) and {c.chance for c in every} == {0.25}
    assert [c.options[c.right] for c in every] == [question.answer for question in bank]
    assert max(Counter(c.right for c in every).values()) < 0.35 * len(every)  # no place stands for the right one


@pytest.mark.parametrize(
    "questions, n, error, says",
    [
        ("Two?", 1, TypeError, "questions must be .*give a list of Questions"),
        ([("Two?", "2")], 1, TypeError, r"questions\[0\] .*make one by Question"),
        ([Question("Two?", "2", "3")], 0, ValueError, "n=0"),
    ],
)
def test_what_can_not_be_made_into_choices(questions, n, error, says):
    with pytest.raises(error, match=says):
        choices_of(questions, n)
