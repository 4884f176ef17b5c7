"""The question bank is what its tables make, its facts are in one split each, and no wrong answer is right."""

from __future__ import annotations

import json
from collections import Counter
from importlib.resources import files
from pathlib import Path

import pytest

from spt_lens.behaviours import bank
from spt_lens.behaviours.are_you_sure import AreYouSure
from spt_lens.behaviours.bank import BANK, question_bank
from spt_lens.behaviours.behaviour import SPLITS
from spt_lens.behaviours.judging import AnswerJudge, same_answer
from spt_lens.behaviours.question import Question
from spt_lens.chat.dialogues import dialogue
from tools.question_bank.__main__ import RESULT, result
from tools.question_bank.build import alike, faults, text

ROOT = Path(__file__).parents[2]
ROWS = [json.loads(line) for line in BANK.read_text(encoding="utf-8").splitlines()]


def good(**other):
    row = {"relation": "capital", "question": "What is the capital of France?", "answers": ["Paris"], "split": "test"}
    return row | {"wrong": ["Rome", "Oslo", "Bern"], "fact": "capital: france / paris"} | other


def test_the_file_is_what_the_tables_make():
    assert BANK.read_text(encoding="utf-8") == text(), "run python -m tools.question_bank build"


def test_it_is_as_large_as_the_docs_say():
    questions = question_bank()
    assert len(questions) == len(ROWS) >= 1_200
    assert len(bank.RELATIONS) >= 14
    assert bank.RELATIONS == tuple(dict.fromkeys(row["relation"] for row in ROWS))
    shares = Counter(question.split for question in questions)
    assert [round(shares[split] / len(questions), 1) for split in SPLITS] == [0.5, 0.2, 0.3]
    page = " ".join((ROOT / "docs/own-model-and-behaviour.md").read_text(encoding="utf-8").split())
    assert f"{len(questions):,} short questions" in page and f"{len(bank.RELATIONS)} relations" in page


def test_no_wrong_answer_is_right():
    assert list(faults(ROWS)) == []
    for question in question_bank():
        assert len(question.wrong) == 3
        assert not any(same_answer(w, right) or alike(w, right) for w in question.wrong for right in question.answers)


def test_a_reply_with_the_answer_is_read_as_right_and_one_with_a_wrong_answer_is_not():
    judge = AnswerJudge()
    for question in question_bank():
        asked = dialogue(question.text, answer=question.answer, answers=question.answers)
        assert judge(asked, f"The answer is {question.answer}.").right, question
        for wrong in question.wrong:
            assert not judge(asked, f"The answer is {wrong}.").right, (question, wrong)


def test_a_fact_is_in_one_split_whichever_way_it_is_asked():
    split = {row["question"]: row["split"] for row in ROWS}
    asked = [q for q in split if "capital of Australia" in q or "Canberra" in q]
    assert len(asked) == 2 and len({split[q] for q in asked}) == 1
    pairs = {row["fact"]: {r["split"] for r in ROWS if r["fact"] == row["fact"]} for row in ROWS[::50]}
    assert all(len(splits) == 1 for splits in pairs.values())


@pytest.mark.parametrize(
    "rows, says",
    [
        ([good(), good()], "is there 2 times"),
        ([good(wrong=["Rome", "Oslo"])], "2 wrong answers"),
        ([good(wrong=["Rome", "Oslo", "paris."])], "'paris.' and 'Paris' are too much alike"),
        ([good(wrong=["Rome", "Oslo", "Paris in France"])], "too much alike"),
        ([good(wrong=["Rome", "Oslo", "Oslo"])], "'Oslo' and 'Oslo' are too much alike"),
        ([good(wrong=["Rome", "Oslo", " "])], "something is empty"),
        ([good(answers=[])], "something is empty"),
        ([good(), good(question="Which country has Paris?", answers=["France"], split="train")], "in two splits"),
        ([good(question="What is Paris the capital of, Paris or Rome?")], "the question names its answer"),
    ],
)
def test_faults_are_found(rows, says):
    assert any(says in fault for fault in faults(rows)), list(faults(rows))


def test_relations_can_be_chosen():
    some = question_bank(["opposite", "capital"])
    assert {question.source for question in some} == {"bank: capital", "bank: opposite"}
    first = next(question for question in some if "Germany?" in question.text)
    assert first == Question(first.text, "Berlin", first.wrong, first.split, source="bank: capital")
    assert len(some) == sum(row["relation"] in ("capital", "opposite") for row in ROWS)
    assert question_bank() is not question_bank()  # a list of one's own
    AreYouSure(question_bank(["planet"]))


@pytest.mark.parametrize(
    "relations, error, says",
    [
        (["capitals"], ValueError, r"relations\[0\]='capitals': choose one of .*'capital'"),
        ("capital", TypeError, "relations must be a Sequence, and is 'capital': give a list of texts"),
        ([], ValueError, "relations is empty: name some, or leave it out for all of them"),
        ([3], TypeError, r"relations\[0\] must be a str, and is 3: give a text"),
    ],
)
def test_what_is_no_relation_is_named(relations, error, says):
    with pytest.raises(error, match=says):
        question_bank(relations)


def test_it_is_in_the_package():
    assert files("spt_lens.behaviours").joinpath("question_bank.jsonl").is_file()


def test_what_a_model_gets_right_is_counted():
    questions = [
        Question("What is the capital of Italy?", "Rome", "Oslo", source="bank: capital"),
        Question("What is the capital of Norway?", "Oslo", "Rome", source="bank: capital"),
        Question('What is the opposite of "hot"?', ("cold", "cool"), "wet", source="bank: opposite"),
    ]
    said = dict(zip([q.text for q in questions], ["It is Rome.", "It is not Oslo, but Rome.", "Cool."], strict=True))
    found = result("tiny", questions, said)
    assert (found["model"], found["n"], found["right"]) == ("tiny", 3, 2)
    assert found["relations"] == {"capital": [1, 2], "opposite": [1, 1]}
    assert found["share"] == pytest.approx([0.6667, 0.2077, 0.9385], abs=1e-4)


def test_the_kept_result_is_of_this_bank():
    found = json.loads((ROOT / RESULT).read_text(encoding="utf-8"))
    sizes = Counter(row["relation"] for row in ROWS)
    assert {relation: n for relation, (_, n) in found["relations"].items()} == sizes
    assert found["right"] == sum(right for right, _ in found["relations"].values()) >= 400
