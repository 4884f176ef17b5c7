"""Multiple choice read from JSON Lines."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from spt_lens.behaviours.choices import Choice, choices_from
from spt_lens.behaviours.suite import Suite
from spt_lens.chat.dialogues import dialogue

TRIVIA = Path(__file__).parents[3] / "shared" / "data" / "open-trivia-qa" / "test.jsonl"


def written(path: Path, *rows: dict) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_rows_become_choices(tmp_path):
    rows = [{"question": f"What is {i}+1? ", "answer": f"{i + 1}", "wrong": ["x", "a", "0"]} for i in range(1, 9)]
    path = written(tmp_path / "rows.jsonl", *rows)
    found = choices_from(path)
    assert found[0] == Choice(dialogue("What is 1+1?"), ("0", "2", "a", "x"), 1)
    assert found[0].chance == 0.25
    some = choices_from(path, 3, seed=1)
    assert len(some) == 3 and set(some) <= set(found) and some == choices_from(path, 3, seed=1)
    assert some != choices_from(path, 3, seed=2)
    with pytest.raises(ValueError, match="n=9"):
        choices_from(path, 9)


def test_a_wrong_answer_that_is_right_is_named(tmp_path):
    good = {"question": "Two?", "answer": "2", "wrong": ["3", "4"]}
    bad = {"question": "Two?", "answer": "2", "wrong": ["3", " 2"]}
    path = written(tmp_path / "rows.jsonl", good, bad)
    with pytest.raises(ValueError, match=r"row 2, field 'wrong'.*differ"):
        choices_from(path)
    assert len(choices_from(path, on_error="skip")) == 1


@pytest.mark.parametrize("options", [("one",), ("one", " one "), ("one", " ")])
def test_options_that_are_none(options):
    with pytest.raises(ValueError, match="two or more options that differ"):
        Choice(dialogue("Which?"), options, 0)


def test_other_bad_choices():
    with pytest.raises(ValueError, match="right=2"):
        Choice(dialogue("Which?"), ("a", "b"), 2)
    with pytest.raises(ValueError, match="user turn"):
        Choice(dialogue("Which?", "That."), ("a", "b"), 0)
    with pytest.raises(TypeError, match=r"choices\[0\]"):
        Suite("mine", choices=("a",))
    with pytest.raises(TypeError, match=r"passages\[1\]"):
        Suite("mine", passages=("a", 2))
    with pytest.raises(ValueError, match="user turn"):
        Suite("mine", prompts=(dialogue("Which?", "That."),))


def test_the_trivia_questions_are_four_way_choices():
    if not TRIVIA.exists():
        pytest.skip("the shared data is not beside this clone")
    found = choices_from(TRIVIA, on_error="skip")
    assert len(found) > 1490
    assert {len(choice.options) for choice in found} == {4}
    places = [sum(choice.right == i for choice in found) / len(found) for i in range(4)]
    assert min(places) > 0.2  # the right one has no place of its own
