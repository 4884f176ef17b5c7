"""What pages show of the study is what its kept result says: tables of a made-up comparison, and the kept one's."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from spt_lens import saving
from spt_lens.behaviours.asking import Answer, Answers
from spt_lens.behaviours.question import Question
from spt_lens.evaluate.comparison import Comparison
from spt_lens.evaluate.evaluate import Evaluation
from spt_lens.evaluate.trials import Spec, Trial
from spt_lens.heads import HeadSet
from spt_lens.scores.head_scores import HeadScores
from spt_lens.statistics import Estimate
from spt_lens.study.settings import METHODS, StudySettings
from tools.study import kept, tables

ROOT = Path(__file__).parent.parent
CHECK = "open-trivia-qa"


def evaluation(split: str, right: float, put_right: float, gives_in: float = 0.1, drift: float = 0.1, choice=0.4):
    values = {"discernment": (right + put_right) / 2, "confidence": right, "retracted": put_right}
    values |= {"truthfulness": right, "self_correction": put_right, tables.SUPPORTED: 1 - gives_in, "choice": choice}
    shares = {name: Estimate(value, value - 0.05, value + 0.04, 200) for name, value in values.items()}
    drifts = {name: Estimate(drift, drift / 2, drift * 2, 24) for name in ("kl", "kl: own replies")}
    return Evaluation("tiny", f"bank {split}", shares | drifts)


def made_up() -> Comparison:
    """Two methods and three draws of random heads at two rates; only the chosen rate has a test split and a check."""
    trials = [Trial(Spec("untuned"), 0, 0.0, {s: evaluation(s, 0.2, 0.2, 0.6, 0.0) for s in ("validation", "test")})]
    trials[0].evaluations[CHECK] = evaluation(CHECK, 0.1, 0.3, 0.6, 0.0)
    methods = {"chosen heads": (10, 0.95, 0.04), "full fine-tuning": (1000, 0.90, 0.10), "random heads": (10, 0.7, 0.2)}
    for method, (weights, reached, drift) in methods.items():
        for draw in range(3 if method == "random heads" else 1):
            for lr in (1e-4, 1e-3):
                right, seed = reached - 0.2 * (lr == 1e-4) + 0.01 * draw**2, draw
                found = {"validation": evaluation("validation", right, right, drift=drift)}
                if lr == 1e-3:
                    found["test"] = evaluation("test", right, right - 0.05, 0.08, drift, 0.395)
                    found[CHECK] = evaluation(CHECK, right - 0.1, right - 0.2, 0.2, drift)
                trials.append(Trial(Spec(method, lr, seed, draw, "made up", "L0.H1 L1.H0"), weights, 30.0, found))
    return Comparison(tuple(trials), {"parameters": 1000, "steps": 60, "batch_size": 8})


def rows(table: str) -> dict[str, dict[str, str]]:
    """A table's rows by their first cell, each by its columns."""
    head, _, *lines = ([cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines())
    return {line[0]: dict(zip(head, line, strict=True)) for line in lines}


def test_the_table_has_each_method_at_its_chosen_rate_on_the_test_split():
    found = rows(tables.methods_table(made_up()))
    assert list(found) == ["untuned", "chosen heads", "full fine-tuning", "random heads"]
    ours = found["chosen heads"]
    assert (ours["tuned"], ours["lr"], ours["right kept"]) == ("1.0%", "0.001", "0.95 [0.90, 0.99]")
    assert ours["supported kept"] == "0.92 [0.87, 0.96]"
    assert ours["drift, own replies"] == "0.040 [0.020, 0.080]"
    assert found["random heads"]["right kept"] == "0.71 [0.66, 0.75]"  # the median of .70, .71 and .74
    assert found["untuned"]["lr"] == found["untuned"]["tuned"] == ""
    said = tables.caption(made_up())
    assert "200 right first answers challenged, 200 wrong ones" in said and "60 steps of 8" in said
    assert "chosen heads 1, full fine-tuning 1, random heads 3" in said


def test_other_splits_have_the_same_table():
    comparison = made_up()
    assert tables.other_splits(comparison) == [CHECK]
    found = rows(tables.methods_table(comparison, CHECK, tables.ORDER, digits=3))
    assert found["chosen heads"]["right kept"] == "0.850 [0.800, 0.890]"
    assert found["untuned"]["wrong put right"] == "0.300 [0.250, 0.340]"
    assert "own wrong put right" not in found["untuned"]  # nobody was asked


def test_goals_say_what_is_reached_by_each_method():
    found = rows(tables.goals_table(made_up()))
    right, supported = found["right answers still right after the challenge"], found["supported right answers kept"]
    assert right["wanted"] == "0.9" and right["chosen heads"] == "0.950, yes" and right["random heads"] == "0.710, no"
    assert (supported["chosen heads"], supported["untuned"]) == ("0.920, yes", "0.400, no")
    assert found["four-way choices lost at most"]["chosen heads"] == "0.005, yes"
    drift = next(row for goal, row in found.items() if goal.startswith("drift on the untuned model's own replies"))
    assert (drift["wanted"], drift["chosen heads"], drift["random heads"]) == ("0.05", "0.040, yes", "0.200, no")


def test_what_is_reached_at_equal_drift():
    found = rows(tables.equal_table(made_up(), "validation", 1.0, "random heads"))["0.200"]
    assert found["chosen heads, discernment"].startswith("0.950 [") and found["chosen heads, lr"] == "0.001"
    assert found["random heads, discernment"].startswith("0.710 [") and found["difference"].startswith("0.240 [")
    assert tables.equal_table(made_up(), "validation", 1.0, "LoRA") == ""


def test_what_the_trials_took():
    found = rows(tables.cost_table(made_up()))["random heads"]
    assert found == {"method": "random heads", "trials": "6", "s of tuning a trial": "30", "minutes in all": "3"}


def test_every_rate_on_validation_and_the_chosen_one_bold():
    lines = tables.rates_table(made_up()).splitlines()
    assert len(lines) == 2 + 3 * 2
    assert lines[2].startswith("| chosen heads | 0.0001 | 1 | 0.75 | 0.75 | 0.90 | 0.75 | 0.40 | 0.040")
    assert [line.split("|")[2].strip() for line in lines[2:]] == ["0.0001", "**0.001**"] * 3
    assert lines[-1].startswith("| random heads | **0.001** | 3 | 0.71 |")


def test_a_chosen_rate_at_the_edge_of_those_tried_is_said_to_be_there():
    lines = tables.rates_table(made_up(), edges=True).splitlines()
    assert [line.split("|")[2].strip() for line in lines[2:4]] == ["0.0001", "**0.001**, highest tried"]


def finished(folder: Path) -> Path:
    """A study's folder, as far as the pages need it."""
    folder.mkdir()
    made_up().save(folder / "comparison.json")
    values = torch.tensor([[0.1, 0.9], [0.8, 0.0]])
    scores = HeadScores(values, values.expand(3, 2, 2).clone(), "activation", "denoising", "last", "tiny")
    scores.save(folder / "scores.safetensors")
    HeadSet.parse("L0.H1 L1.H0").save(folder / "heads.json")
    question = Question("Two?", "2", "3", split="test")
    answers = [Answer(question, said, "", right, False, False, said) for said, right in (("2", True), ("3", False))]
    for name, some in (("answers", answers), (f"answers-{CHECK}", answers[1:])):
        Answers(tuple(some), {"model": "tiny", "max_new_tokens": 32}).save(folder / f"{name}.json")
    saving.save_json(folder / "seconds.json", "seconds", {"seconds": {"ask": 90.0, "trials": 600.0}})
    for name in ("table.csv", "frontier.csv", "study.json"):
        (folder / name).write_text("{}\n", encoding="utf-8")
    return folder


def test_small_files_are_kept_and_the_answers_only_counted(tmp_path):
    study = finished(tmp_path / "study")
    kept.keep(study, tmp_path / "kept")
    assert sorted(path.name for path in (tmp_path / "kept").iterdir()) == sorted([*kept.WHOLE, kept.ASKED])
    found = kept.Kept.load(tmp_path / "kept")
    assert rows(kept.asked_table(found.asked))["test"] == {
        "split": "test",
        "asked": "2",
        "right": "1",
        "share": "0.50 [0.09, 0.91]",
    }
    assert found.asked.set_index("split").loc[CHECK, ["asked", "right"]].tolist() == [1, 0]
    took = rows(kept.stages_table(found.seconds))
    assert {name: row["minutes"] for name, row in took.items()} == {"ask": "1.5", "trials": "10.0", "in all": "12"}
    assert found.frontier_split == "validation" and str(found.heads) == "L0.H1 L1.H0"
    made = kept.pictures(found)
    assert set(made) == {"heads.png", "frontier.png"} and len(made["heads.png"].data) > 0
    assert made["frontier.png"].layout.xaxis.title.text.startswith("drift, own replies")
    assert {0.04, 0.1, 0.2} <= {x for trace in made["frontier.png"].data for x in trace.x}
    (study / "heads.json").unlink()
    with pytest.raises(FileNotFoundError, match="heads.json"):
        kept.keep(study, tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_made_texts_stand_between_the_marks(tmp_path, monkeypatch):
    kept.keep(finished(tmp_path / "study"), tmp_path / "kept")
    found = kept.texts(kept.Kept.load(tmp_path / "kept"))
    assert "0.850 [0.800, 0.890]" in found[("checks", kept.STUDY)] and CHECK in found[("checks", kept.STUDY)]
    assert set(found) == set(kept.PLACES)
    assert "2 of 4 heads (50.0%)" in found[("heads", kept.STUDY)] and ": L0.H1 L1.H0." in found[("heads", kept.STUDY)]
    assert "on validation](../notebooks/results/study/frontier.png)" in found[("frontier", kept.STUDY)]
    for page in ("README.md", "docs/study.md", "docs/real-models.md"):
        begins = [kept.marks(name)[0] + "\n" + kept.marks(name)[1] for name, its in kept.PLACES if str(its) == page]
        (tmp_path / page).parent.mkdir(exist_ok=True)
        (tmp_path / page).write_text("\n\n".join(["# A page", *begins, "The end."]), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(kept, "pictures", lambda kept: {})  # these need a browser
    assert [str(path) for path in kept.write_all(Path("kept"))] == ["README.md", "docs/real-models.md", "docs/study.md"]
    page = Path("docs/study.md").read_text(encoding="utf-8")
    assert page.startswith("# A page") and page.endswith("The end.")
    assert page.split(kept.marks("rates")[1])[0].endswith(f"{found[('rates', kept.STUDY)]}\n")


@pytest.mark.parametrize("name, page", kept.PLACES)
def test_the_pages_show_the_kept_result(name, page):
    text = (ROOT / page).read_text(encoding="utf-8")
    begin, end = kept.marks(name)
    if not (ROOT / kept.RESULTS).exists():
        assert not text.partition(begin)[2].partition(end)[0].strip()
        return
    assert text.split(begin)[1].split(end)[0].strip() == kept.texts(kept.Kept.load(ROOT / kept.RESULTS))[(name, page)]


def test_the_settings_ask_for_what_the_page_promises():
    settings = StudySettings.load(ROOT / kept.SETTINGS)
    assert settings.test["n"] >= 200 and settings.n_random >= 5 and len(settings.seeds + settings.confirm) >= 2
    assert set(settings.methods) == set(METHODS)
    assert all(len(rates) >= 4 for rates in settings.rates.values())
    if (ROOT / kept.RESULTS).exists():
        about = saving.load_json(ROOT / kept.RESULTS / "study.json", "study", dict)
        assert about["settings"] == settings.to_json()
