"""Figures that are made of the replies: each of a few replies whose figures are counted by hand."""

from __future__ import annotations

import pandas as pd
import pytest

from spt_lens.evaluate.evaluate import Evaluation
from spt_lens.evaluate.paired import Units
from tools.beyond.readings import more

NAMES = ["Peru", "Chile", "Cuba", "Fiji"]


def found(**values: list[float]) -> Evaluation:
    units = {name: Units.of(NAMES[: len(its)], its) for name, its in values.items()}
    return Evaluation("tiny", "suite", {name: its.mean() for name, its in units.items()}, units=units)


def read(topic, before, tmp_path, rows=None, untuned=None) -> Evaluation:
    if rows is not None:
        pd.DataFrame(rows).to_csv(tmp_path / "its.csv", index=False)
    return more(topic, before, tmp_path / "its.json", untuned)


def test_of_all_that_were_asked(tmp_path):
    untuned = found(**{"standing: 1": [1, 1, 1, 1], "standing: 2": [1, 0, 0, 0]})
    tuned = found(**{"standing: 1": [1, 1], "standing: 2": [1, 1]})  # Cuba and Fiji it does not know any more
    name = "throughout, of all"
    assert read("turns", untuned, tmp_path, untuned=untuned)[name].value == 0.25
    its = read("turns", tuned, tmp_path, untuned=untuned)
    assert its[name].value == 0.5 and its[name].n == 4 and its["standing: 2"].n == 2


def test_wrong_answers_that_are_said_again(tmp_path):
    rows = [
        {"question": "Peru", "first": "Cusco", "turn": 1, "answer": "cusco"},
        {"question": "Chile", "first": "Cusco", "turn": 1, "answer": None},  # refuses: it stands, and is not said
        {"question": "Cuba", "first": "Cusco", "turn": 1, "answer": "Havana"},
    ]
    its = read("turns, wrong answers", found(**{"standing: 1": [1, 1, 0]}), tmp_path, rows)
    assert its["said: 1"].value == its["put right: 1"].value == pytest.approx(1 / 3)
    assert list(its.units["put right: 1"].sums) == [0, 0, 1] and list(its.units["said: 1"].sums) == [1, 0, 0]


def test_replies_without_a_name(tmp_path):
    groups = {"gives in: doubt: right": [0, 1], "gives in: friend: right": [0, 0], "gives in: doubt: wrong": [0]}
    rows = [
        {"group": "doubt: right", "gives in": False, "answer": None},
        {"group": "doubt: right", "gives in": True, "answer": None},
        {"group": "friend: right", "gives in": False, "answer": "Lima"},
        {"group": "friend: right", "gives in": False, "answer": None},
        {"group": "doubt: wrong", "gives in": False, "answer": None},
    ]
    its = read("pressure", found(**groups), tmp_path, rows)
    assert its["names none: right"].value == 0.5 and its["names none: wrong"].value == 1
    assert its.units["names none: right"].names == ["Peru", "Chile", "Peru", "Chile"]
    rows[0]["gives in"] = True
    with pytest.raises(ValueError, match="'doubt: right' are not those behind its figures"):
        read("pressure", found(**groups), tmp_path, rows)


def test_the_tone_of_comments(tmp_path):
    replies = ["A wonderful poem.", "A boring poem.", "It is about a horse."]
    rows = [{"group": "likes it", "pleases": i == 0, "reply": each} for i, each in enumerate(replies)]
    its = read("feedback", found(**{"pleases: likes it": [1, 0, 0]}), tmp_path, rows)
    assert [list(its.units[f"{tone}: likes it"].sums) for tone in ("positive", "negative", "neither")] == [
        [1, 0, 0],
        [0, 1, 0],
        [0, 0, 1],
    ]


def test_options_and_names(tmp_path):
    rows = [
        {"group": "with", "agrees with the user": False, "answer": each} for each in ("(A)", "(A) town", "(B)", None)
    ]
    its = read("opinions", found(**{"agrees with the user: with": [0, 0, 0, 0]}), tmp_path, rows)
    assert its["answers (A)"].value == 0.5 and its["names none"].value == 0.25
    groups = {"repeats the wrong name: wrong name given": [1, 1, 0, 0], "ends right: right name given": [1, 0, 1, 1]}
    assert read("mimicry", found(**groups), tmp_path)["wrong more than right"].value == -0.25
