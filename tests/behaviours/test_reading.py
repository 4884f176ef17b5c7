"""Questions from files and tables, and splits that share nothing."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from spt_lens.behaviours.are_you_sure import AreYouSure
from spt_lens.behaviours.behaviour import SPLITS, split_of
from spt_lens.behaviours.question import Question, splits_of
from spt_lens.behaviours.reading import read_questions

TRIVIA = Path(__file__).parents[2] / ".." / "shared" / "data" / "open-trivia-qa"
ROWS = [
    {"question": "What is the capital of France?", "answer": "Paris", "wrong": ["Lyon", "Rome"], "category": "geo"},
    {"question": "When did it end?", "answers": [1945, "in 1945"], "wrong": 1918, "split": "test", "id": 7},
]
READ = (
    Question("What is the capital of France?", ("Paris",), ("Lyon", "Rome"), category="geo"),
    Question("When did it end?", ("1945", "in 1945"), ("1918",), "test"),
)


def test_every_way_to_bring_questions(tmp_path):
    datasets = pytest.importorskip("datasets")
    (tmp_path / "q.jsonl").write_text("\n".join(map(json.dumps, ROWS)), encoding="utf-8")
    (tmp_path / "q.csv").write_text(
        "question,answer,wrong,category,split\nWhat is the capital of France?,Paris,Lyon | Rome,geo,\n"
        "When did it end?,1945|in 1945,1918,,test\n",
        encoding="utf-8",
    )
    texts = [
        {**ROWS[0], "answers": None, "split": None},
        {**ROWS[1], "answers": ["1945", "in 1945"], "wrong": ["1918"]},
    ]
    table = pd.DataFrame(texts)
    plain = [
        {key: value for key, value in row.items() if key != "id"} for row in table.astype(object).to_dict("records")
    ]
    clean = [{k: None if isinstance(v, float) else v for k, v in row.items()} for row in plain]
    parts = {"train": datasets.Dataset.from_list(clean[:1]), "test": datasets.Dataset.from_list(clean[1:])}
    found = {
        "list": ROWS,
        "jsonl": tmp_path / "q.jsonl",
        "csv": str(tmp_path / "q.csv"),
        "DataFrame": table,
        "Dataset": datasets.Dataset.from_list(clean),
    }
    for name, source in found.items():
        questions, skipped = read_questions(source)
        assert tuple(replace(question, source="") for question in questions) == READ and skipped == (), name
    assert read_questions(tmp_path / "q.csv")[0][1].source == "q.csv, row 3"  # by lines
    assert read_questions(table)[0][1].source == "DataFrame, row 1"
    assert [q.split for q in AreYouSure(datasets.DatasetDict(parts)).questions] == ["train", "test"]


def test_numbers_of_a_table_are_answers():
    table = pd.DataFrame(
        {"question": ["How many legs has a spider?", "And a dog?"], "answer": [8.0, 4], "wrong": [6, None]}
    )
    questions, _ = read_questions(table)
    assert [(q.answers, q.wrong) for q in questions] == [(("8",), ("6",)), (("4",), ())]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("question,right\nQ?,a\n", "q.csv has the columns .*right.*the columns question, answer and wrong"),
        ("question,answer\nQ?,a\nR?,\n", "q.csv, row 3, field 'answer': found"),
        ("question,answer\nQ?,a,b\n", "q.csv, row 2: 3 values for 2 columns"),
        ('question,answer\n"Q\nq?",a\nR?,a|a|b|\nS?,\n', "q.csv, row 5, field 'answer'"),
        ("question,answer,wrong\nQ?,a,b|A\n", "q.csv, row 2: 'Q.': the answer 'A' is both right and wrong"),
        ("question,answer,split\nQ?,a,dev\n", "q.csv, row 2: split='dev': choose one of"),
        (
            "question,answer,split\nQ is?,a,train\nq  IS,a,test\n",
            "q.csv, row 3, .*is there twice, in the splits 'train' and",
        ),
        ("question,answer\n", "there are no questions"),
        ("question,answer,answer\nQ?,a,b\n", "q.csv has two columns of one name, of question, answer, answer"),
        ("question,answer\nQ?,|\n", "q.csv, row 2, field 'answer': found a text, \"\""),
        ('question,answer\n"Q?,a\n', "q.csv is no CSV file"),
    ],
)
def test_tables_that_can_not_be_meant(tmp_path, text, message):
    (tmp_path / "q.csv").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        read_questions(tmp_path / "q.csv")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"answer": pd.Timestamp("2020-01-01")}, "^the DataFrame, row 0, field 'answer': found a Timestamp, "),
        ({"answer": "x", "wrong": ["y", None]}, r"^the DataFrame, row 0, field 'wrong\[1\]': found null; it must be"),
        ({"answer": "x", "wrong": {"y"}}, "^the DataFrame, row 0, field 'wrong': found a set, "),
        ({"answer": "x", "before": "Hi"}, r"^the DataFrame, row 0, field 'before': found 'Hi'; it must be \[.\"role\""),
        ({"answer": "é", "wrong": "e\u0301"}, "is both right and wrong"),
    ],
)
def test_cells_that_can_not_be_meant(row, message):
    with pytest.raises(ValueError, match=message):
        read_questions(pd.DataFrame([{"question": "Q?", **row}]))


def test_messages_before_a_question():
    row = {"question": "Q?", "answer": "x", "before": [{"role": "system", "content": "Be brief."}]}
    table = pd.DataFrame([row, {"question": "R?", "answer": "x", "wrong": pd.NaT}])
    (first, other), _ = read_questions(table)
    assert [message.content for message in first.asked] == ["Be brief.", "Q?"] and other.before == other.wrong == ()
    with pytest.raises(TypeError, match="holds messages, and is given 5"):
        Question("Q?", "x", before=5)
    with pytest.raises(ValueError, match="half a character"):
        Question("\ud800?", "x")


def test_what_can_not_be_read_is_skipped_and_said(tmp_path):
    rows = [ROWS[0], {"question": "Q?"}, {"question": "Q?", "answer": "a", "wrong": "a"}, {**ROWS[0], "split": "test"}]
    (tmp_path / "q.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    with pytest.raises(ValueError, match=r"q.jsonl, row 2, field 'answer': it is missing \(there are 'question'\)"):
        AreYouSure(tmp_path / "q.jsonl")
    behaviour = AreYouSure(tmp_path / "q.jsonl", on_error="skip")
    assert len(behaviour.questions) == 1 and [message.split(", ")[1][:5] for message in behaviour.skipped] == [
        "row 2",
        "row 3",
        "row 4",
    ]
    assert "1 questions" in repr(behaviour) and "3 rows skipped" in repr(behaviour)
    for row in rows[1:3]:
        with pytest.raises(
            ValueError, match="none of the 1 rows of questions can be read|is both right and wrong|questions.0."
        ):
            AreYouSure([row], on_error="skip")


def test_what_asks_the_same_is_in_one_split():
    facts = [Question(f"What is the capital of land {i}?", "x", fact=f"capital {i}") for i in range(40)]
    turned = [Question(f"Land {i} has which capital?", "x", fact=f"capital {i}") for i in range(40)]
    system = Question("what is  the capital of land 3", "x", before=AreYouSure([("Hi?", "x")]).questions[0].asked)
    bare = [Question(question.text, "x") for question in facts]
    drawn = splits_of([*facts, *turned])
    assert drawn[:40] == drawn[40:] and {*drawn} == {*SPLITS}
    same = splits_of([*bare, system])
    assert same[3] == same[-1]
    # One text with a fact and without, or with two facts: all of them are of one.
    some = [replace(facts[3], fact=""), replace(system, fact="other"), Question("Whose capital?", "x", fact="other")]
    assert {*splits_of([*facts[:3], *facts[4:], *turned, *some])[-3:]} == {splits_of([*facts, *turned, *some])[3]}
    # What one names, the other gets.
    assert splits_of([Question("A?", "x", split="test", fact="f"), Question("B?", "x", fact="f")]) == ["test", "test"]
    with pytest.raises(ValueError, match="'B.' is in the split 'train', and what asks the same, 'f', in 'test'"):
        AreYouSure([Question("A?", "x", split="test", fact="f"), Question("B?", "x", split="train", fact="f")])


def test_real_trivia():
    if not TRIVIA.is_dir():
        pytest.skip("open-trivia-qa is not beside the project (../shared/data)")
    behaviour = AreYouSure(TRIVIA / "test.jsonl")
    assert len(behaviour.questions) == 1507 and all(len(q.wrong) == 3 and q.category for q in behaviour.questions)
    assert behaviour.questions[0].source == "test.jsonl, row 1"


def test_texts_that_are_the_same_are_in_one_split():
    texts = [f"Is it {i}?" for i in range(20)]
    again = [f"  is IT {i}" for i in range(20)]
    found = split_of(texts + again)
    assert found[:20] == found[20:] and {*found} == {*SPLITS} and found == split_of(again + texts)
