"""The tables of docs/what-changes.md are what a result says: the untuned model's figures, and the changes from them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from spt_lens.evaluate.evaluate import Evaluation
from spt_lens.evaluate.paired import Units
from spt_lens.statistics import share
from tools.beyond import page, result
from tools.beyond.plans import PLANS, UNTUNED, quick
from tools.beyond.result import Beyond, collected

ROOT = Path(__file__).parent.parent
NAMES = [f"question {i}" for i in range(20)]


def evaluation(suite: str, **hits: int) -> Evaluation:
    """Of each figure the first so many of twenty cases hit."""
    made = {name.replace("_", " "): [i < n for i in range(20)] for name, n in hits.items()}
    estimates = {name: share(values) for name, values in made.items()}
    units = {name: Units.of(NAMES, values) for name, values in made.items() if name != "cut"}
    return Evaluation("tiny", suite, estimates, units=units)


def made_up() -> Beyond:
    about = {"model": "tiny", "dialogues": 48, "steps": 40, "batch_size": 8, "seed": 0, "methods": [UNTUNED, "LoRA"]}
    topics = {
        "asked": {UNTUNED: evaluation("a", truthfulness=5), "LoRA": evaluation("a", truthfulness=15)},
        "refusals": {
            UNTUNED: evaluation("r", refuses=0, cut=3, other=10),
            "LoRA": evaluation("r", refuses=0, cut=9, other=11),
        },
    }
    return Beyond(about, {"LoRA": {"lr": 0.002, "weights": 10, "seconds": 1.0}}, topics)


def cells(table: str) -> dict[str, dict[str, str]]:
    head, _, *lines = ([cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines())
    return {line[0]: dict(zip(head, line, strict=True)) for line in lines}


def test_a_change_stands_beside_the_untuned_figure():
    found = made_up()
    row = cells(page.table(found, "asked"))["right kept"]
    assert row["n"] == "20" and row[UNTUNED].startswith("0.25 [0.11, 0.47]")
    assert re.fullmatch(r"\*\*\+0\.50 \[\+0\.\d\d, \+0\.\d\d\]\*\*", row["LoRA"])
    rows = cells(page.table(found, "refusals"))
    assert set(rows) == {"refuses", "other"}  # how many were cut is no finding
    assert rows["refuses"]["LoRA"] == "+0.00"  # nothing changed: twenty cases say little of others
    assert rows["other"]["LoRA"].startswith("+0.05 [+0.00")
    said = page.text_of(found)
    assert "LoRA 0.002" in said and said.index("**Refusals.**") > said.index("**The tuned behaviour")
    assert "**Mimicry" not in said


def test_figures_have_plain_names():
    known = evaluation(
        "p", **{"gives in: friend: right": 3, "ends right: friend: right": 2, "ends right: friend: wrong": 1}
    )
    assert list(page.labels("pressure", known.estimates).values()) == ["friend: right kept", "friend: wrong put right"]
    known = evaluation("t", **{"turn": 3, "flips": 2, "standing: 1": 1, "at turn: 1": 1})
    names = ["turn at which it stands no more", "changes of mind", "stood up to turn 1"]
    assert list(page.labels("turns", known.estimates).values()) == names


def test_a_result_is_read_again_with_its_cases(tmp_path):
    found = made_up()
    again = Beyond.load(found.save(tmp_path / "beyond.json"))
    assert page.text_of(again) == page.text_of(found)
    assert again.save(tmp_path / "again.json").read_bytes() == (tmp_path / "beyond.json").read_bytes()
    (tmp_path / "beyond.json").write_text('{"kind": "beyond"}')
    with pytest.raises(ValueError, match="about"):
        Beyond.load(tmp_path / "beyond.json")


def test_a_folder_gives_what_is_there(tmp_path):
    with pytest.raises(FileNotFoundError):
        collected(tmp_path)
    found = made_up()
    result.saving.save_json(tmp_path / result.ABOUT, result.KIND, found.about)
    found.evaluations["asked"][UNTUNED].save(result.topic_path(tmp_path, UNTUNED, "asked"))
    part = collected(tmp_path)
    assert part.about == found.about and not part.methods and list(part.evaluations) == ["asked"]
    assert page.table(part, "asked").count("\n") == 2 and not part.changes("asked")


def test_tables_stand_between_the_marks(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result.RESULTS.mkdir(parents=True)
    page.PAGE.parent.mkdir()
    page.PAGE.write_text("\n".join("\n".join(page.marks(name)) for name in page.MODELS))
    assert not page.write_all()
    made_up().save(result.result_path("smollm2"))
    assert page.write_all() == [page.PAGE] and page.text_of(made_up()) in page.PAGE.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", page.MODELS)
def test_the_page_shows_the_results_that_are_kept(name):
    begin, end = page.marks(name)
    text = (ROOT / page.PAGE).read_text(encoding="utf-8")
    shown = re.search(f"{re.escape(begin)}\n(.*?){re.escape(end)}", text, re.DOTALL)
    assert shown
    path = ROOT / result.result_path(name)
    assert shown[1].strip() == (page.text_of(Beyond.load(path)) if path.exists() else "")


@pytest.mark.parametrize("name", list(PLANS))
def test_every_method_of_a_plan_has_a_chosen_rate(name, monkeypatch):
    monkeypatch.chdir(ROOT)
    heads, rates = PLANS[name].chosen()
    assert len(heads) > 1 and [UNTUNED, *rates] == list(PLANS[name].methods)
    few = quick(PLANS[name])
    assert few.methods == PLANS[name].methods and bool(few.kinds) == bool(PLANS[name].kinds)
    assert set(page.TITLES) == set(result.TOPICS)
