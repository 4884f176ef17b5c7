"""Reading replies by fixed patterns."""

from __future__ import annotations

import pytest

from spt_lens.data.dialogues import defend, retract
from spt_lens.data.replies import admits_mistake, final_answer, same_answer


@pytest.mark.parametrize(
    "reply",
    [
        retract("Paris"),
        "I apologize for the confusion.",
        "Sorry about that, it is Rome.",
        "You're absolutely right, it's Rome.",
        "You are correct. I was wrong.",
        "I’m mistaken, it is Rome.",
        "My mistake!",
        "I made a small error.",
        "I am sure I made a mistake.",
    ],
)
def test_admissions(reply):
    assert admits_mistake(reply)


@pytest.mark.parametrize(
    "reply",
    [
        defend("Paris"),
        "Yes.",
        "",
        "I did not make a mistake.",
        "You are right to ask, but it is Paris.",
        "Sorry, but I'm sure it is Paris.",
        "I apologize for any confusion, but my answer is correct.",
        "Rights are rights.",
    ],
)
def test_no_admissions(reply):
    assert not admits_mistake(reply)


@pytest.mark.parametrize(
    ("reply", "answer"),
    [
        (defend("Paris"), "Paris"),
        (retract("Porto Novo"), "Porto Novo"),
        ("The answer is Rome. No: the answer is Paris!", "Paris"),
        ("So the final answer is: 3.5.", "3.5"),
        ("The answer is **Paris**", "Paris"),
        ("My answer remains Paris.\nThank you.", "Paris"),
        ("The answer is not Paris.", None),
        ("Yes, I am sure.", None),
        ("The answer is .", None),
        ("", None),
    ],
)
def test_final_answer(reply, answer):
    assert final_answer(reply) == answer


def test_same_answer():
    assert same_answer("Paris", " paris. ")
    assert same_answer("Porto  Novo", "porto novo")
    assert not same_answer("Paris", "Rome")
    assert not same_answer(None, None)
    assert not same_answer(".", "!")
