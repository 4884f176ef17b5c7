"""The tables of docs/what-changes.md are what a result says: the untuned model's figures, and the changes from them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from spt_lens.evaluate.evaluate import Evaluation
from spt_lens.evaluate.paired import Units
from spt_lens.statistics import share
from spt_lens.study.work import CHOSEN
from tools.beyond import __main__ as main
from tools.beyond import page, result
from tools.beyond.plans import PLANS, RANDOM, UNTUNED, quick
from tools.beyond.process import Bench
from tools.beyond.result import Beyond, begun, collected, tuned_path

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
    names = {f"{what}: friend: {which}": 1 for what in ("gives in", "ends right") for which in ("wrong", "right")}
    known = evaluation("p", **names, **{"names none: right": 2})
    labels = page.labels("pressure", known.estimates)
    assert list(labels.values()) == [
        "friend: right, given in",
        "friend: right in the end",
        "all kinds: right, no answer named",
        "friend: wrong, put right",
    ]
    turns = {f"{what}: {turn}": 1 for what in ("standing", "no answer", "at turn") for turn in range(1, 6)}
    known = evaluation("t", **{"turn": 3, "flips": 2, **turns})
    labels = page.labels("turns", known.estimates)
    assert list(labels) == ["turn", *(f"standing: {t}" for t in (1, 3, 5)), "no answer: 1", "no answer: 5", "flips"]
    assert labels["standing: 3"] == "right up to turn 3" and labels["flips"] == "changes of what stands"
    # What stands of wrong answers may be no answer at all.
    assert list(page.labels("turns, wrong answers", known.estimates)) == ["no answer: 1", "no answer: 5"]
    known = evaluation("w", **{'standing: 1: "No."': 1, 'standing: 5: "No."': 1, 'no answer: 5: "No."': 1})
    shown = page.labels("turns, other words", known.estimates)
    assert list(shown.values()) == ['"No.": right up to turn 1', '"No.": right up to turn 5']


def test_cases_of_each_column_are_told_where_they_differ():
    found = made_up()
    few = {name: Units.of(NAMES[:8], [True] * 8) for name in ("truthfulness",)}
    its = {UNTUNED: found.evaluations["asked"][UNTUNED]}
    its["LoRA"] = Evaluation("tiny", "a", {"truthfulness": share([True] * 8)}, units=few)
    assert cells(page.table(Beyond(found.about, {}, {"asked": its}), "asked"))["right kept"]["n"] == "20, 8"


def test_chosen_heads_stand_beside_random_ones():
    its = {UNTUNED: evaluation("a", truthfulness=2), CHOSEN: evaluation("a", truthfulness=18)}
    assert not page.apart(Beyond({}, {}, {"asked": its}))
    alike = {**its, RANDOM: evaluation("a", truthfulness=18)}
    assert page.apart(Beyond({}, {}, {"asked": alike}))[0].endswith(
        "Of 1 figures none differs by more than its interval."
    )
    (said, rows) = page.apart(Beyond({}, {}, {"asked": {**its, RANDOM: evaluation("a", truthfulness=4)}}))
    assert (
        "Of 1 figures" in said and cells(rows)["The tuned behaviour: right kept"]["chosen less random heads"][2] == "+"
    )


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


def test_a_folder_takes_nothing_of_other_settings(tmp_path):
    begun(tmp_path, {"weights": "a", "seed": 0})
    begun(tmp_path, {"weights": "a", "seed": 0})
    with pytest.raises(ValueError, match="other weights: give another --out"):
        begun(tmp_path, {"weights": "b", "seed": 0})
    with pytest.raises(ValueError, match="other kinds"):
        begun(tmp_path, {"weights": "a", "seed": 0, "kinds": 3})


def test_what_a_method_was_tuned_with_is_kept_from_then_on(tmp_path):
    """Whoever goes on where all topics are there has nothing to tune."""
    result.saving.save_json(tuned_path(tmp_path, "LoRA"), result.KIND, {"lr": 0.1, "weights": 7, "seconds": 2.0})
    bench = Bench(None, None, tmp_path, 1e12, {"LoRA": (object(), 0.1)}, [], [], {}, None)  # type: ignore[arg-type]
    bench.do(0, "LoRA")
    bench.do(0, UNTUNED)
    about = {"methods": [UNTUNED, "LoRA"]}
    begun(tmp_path, about)
    methods = collected(tmp_path).methods
    assert methods["LoRA"] == {"lr": 0.1, "weights": 7, "seconds": 2.0} and methods[UNTUNED]["weights"] == 0


def test_a_quick_run_has_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    outs = []
    monkeypatch.setattr(main, "measure", lambda given: outs.append(given.out))
    monkeypatch.setattr(main, "collected", lambda out: made_up())
    for more in ([], ["--quick"]):
        Path("spt-lens-beyond-yesman-quick").mkdir(exist_ok=True)
        result.RESULTS.mkdir(parents=True, exist_ok=True)
        monkeypatch.setattr("sys.argv", ["beyond", "--model", "yesman", *more])
        main.main()
    assert len(set(outs)) == 2
    assert Path("spt-lens-beyond-yesman-quick/beyond-yesman.json").exists() and result.result_path("yesman").exists()


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
