"""The report of a study: what it says of goals, of what it rests on little and of what to do next, and the page."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
import torch
from browser.rendered import rendered
from rich.console import Console

from spt_lens.behaviours.are_you_sure import AreYouSure
from spt_lens.chat.dialogues import dialogue
from spt_lens.evaluate.comparison import Comparison
from spt_lens.evaluate.evaluate import Evaluation
from spt_lens.evaluate.trials import Spec, Trial
from spt_lens.heads import HeadSet
from spt_lens.measure.sets import set_patching
from spt_lens.model.loading import load_model
from spt_lens.scores.head_scores import HeadScores
from spt_lens.statistics import Estimate
from spt_lens.study.reach import reach_table, saturation, split_of
from spt_lens.study.report import lead, sections, write_study_report
from spt_lens.study.settings import StudySettings
from spt_lens.study.terminal import tell
from spt_lens.study.verdict import ahead, cautions, clear, goals, methods_table, next_steps
from spt_lens.study.work import Work
from spt_lens.view.report import Example, report_html

EVIL = "<script>document.title='hacked'</script>"
HEADS = HeadSet.parse("L2.H3")


def evaluation(value: float, kl: float, choice: float = 0.6, n: int = 200) -> Evaluation:
    known = dict.fromkeys(("discernment", "truthfulness", "self_correction"), value)
    known |= {"ends right: supported right": value, "choice": choice, "kl: own replies": kl, "kl": 2 * kl}
    return Evaluation("model", "suite", {name: Estimate(x, x - 0.05, x + 0.05, n) for name, x in known.items()})


def trial(method: str, value: float, kl: float, lr: float = 1e-3, seed: int = 0, draw: int = 0, **more: float) -> Trial:
    both = {split: evaluation(value, kl, **more) for split in ("validation", "test")}  # type: ignore[arg-type]
    return Trial(Spec(method, lr, seed, draw, method), 10, 1.0, both)


def comparison(chosen: float = 0.92, random: float = 0.7, choice: float = 0.6) -> Comparison:
    untuned = Trial(Spec("untuned"), 0, 0.0, {s: evaluation(0.2, 0.0) for s in ("validation", "test")})
    trials = [trial("chosen heads", chosen + d, 0.1, seed=i, choice=choice) for i, d in enumerate((0, 0.02))]
    trials += [trial("chosen heads", 0.3, 0.01, lr=1e-4), trial("full fine-tuning", 0.95, 0.3)]
    trials += [trial("random heads", random + 0.01 * i, 0.1, draw=i) for i in range(3)]
    return Comparison((untuned, *trials), {"parameters": 1000})


@pytest.fixture(scope="module")
def model(tiny_folder: Path):
    return load_model(tiny_folder, device="cpu")


@pytest.fixture
def work(model, tmp_path: Path) -> Work:
    questions = [(f"What is {i}?", f"a{i}", f"b{i}") for i in range(20)]
    behaviour = AreYouSure(questions, name=f"doubt {EVIL}")
    made = Work(model, behaviour, tmp_path, StudySettings(replies={"stands": f"Yes. {{}} {EVIL}"}))
    per_pair = torch.full((8, 3, 4), 0.01) + torch.arange(8)[:, None, None] * 0.001
    per_pair[:, 2, 3] = 0.5
    per_pair[:, 0, 0] = torch.tensor([0.4, -0.4] * 4)
    made.scores = HeadScores(per_pair.mean(0), per_pair, "activation", "denoising", "last", "model")
    null = torch.full((8, 3, 4), 0.1)
    made.null = HeadScores(null.mean(0), null, "activation", "denoising", "last", "model")
    made.heads, made.comparison = HEADS, comparison()
    made.pairs = behaviour.pairs(model, n=4)
    made.patching = set_patching(model, made.pairs, HEADS, n_random=2, progress=False)
    made.seconds = {"ask": 12.0, "trials": 3600.0}
    return made


def test_goals_are_told_with_what_was_found_and_how_sure_it_is() -> None:
    table = goals(comparison(), share_of_heads=0.04).set_index("goal")
    right = table.loc["right answers still right after the challenge"]
    assert (right["wanted"], right["found"], right["n"], right["reached"]) == (0.9, pytest.approx(0.93), 200, "yes")
    assert (right["low"], right["high"]) == (pytest.approx(0.88), pytest.approx(0.98))
    assert table.loc["supported right answers kept", "found"] == pytest.approx(0.93)
    assert table.loc["four-way choices lost at most", "found"] == pytest.approx(0.0)
    assert (table["reached"] == "yes").all()
    drift = table.loc["drift on the untuned model's own replies, at most half of full fine-tuning's"]
    assert (drift["wanted"], drift["found"]) == (pytest.approx(0.15), pytest.approx(0.1))
    worse = goals(comparison(chosen=0.7, choice=0.55), share_of_heads=0.06).set_index("goal")["reached"]
    assert worse["heads chosen, at most, as a share of all"] == "no"
    assert worse["wrong answers put right"] == "no" and worse["four-way choices lost at most"] == "no"


def test_random_heads_that_keep_up_are_said_to() -> None:
    assert clear(comparison()) and "ahead of random heads (0.710), outside of" in ahead(comparison())
    level = comparison(random=0.9)
    assert not clear(level) and "within their intervals" in ahead(level)
    behind = ahead(comparison(chosen=0.5, random=0.8))
    assert "behind random heads (0.810), outside of their intervals" in behind


def full(random: float = 1.0) -> Comparison:
    """Every method at the top of the scale, each at a drift of its own, and one rate that does not get there."""
    untuned = Trial(Spec("untuned"), 0, 0.0, {s: evaluation(0.2, 0.0) for s in ("validation", "test")})
    trials = [trial("chosen heads", 1.0, 0.02), trial("chosen heads", 0.7, 0.01, lr=1e-4)]
    trials += [trial("full fine-tuning", 0.99, 0.04), trial("random heads", random, 0.1)]
    return Comparison((untuned, *trials), {"parameters": 1000})


def test_where_all_reach_the_top_it_is_said_and_the_drift_that_each_needs_leads(work: Work) -> None:
    work.comparison = full()
    said = saturation(work.comparison)
    assert said.startswith("Every method reaches 0.990 to 1.000 of discernment here (the untuned model 0.200)")
    table = reach_table(work.comparison).set_index("method")
    needed = table["drift needed for discernment ≥ 0.95"]
    assert list(needed) == ["0.0200 [0.0000, 0.0700]", "0.0400 [0.0000, 0.0900]", "0.1000 [0.0500, 0.1500]"]
    assert list(table["missed at"]) == ["0.0100", *["no cheaper rate tried"] * 2] and table["tuned"].iloc[0] == "1.0%"
    first, second, third = sections(work)[:3]
    assert (first.title, second.title, third.title) == (
        "What it takes, method by method",
        "",
        "What was asked, and how",
    )
    assert first.figure is not None and second.table is not None and said in lead(work)
    console = Console(width=80, file=StringIO(), record=True)
    tell(work, console)
    shown = console.export_text()
    assert "this figure tells them apart no more" in " ".join(shown.split())
    assert shown.index("What it takes") < shown.index("Every method on the test split")
    assert "can't be told from random heads" not in shown and "can't be told from" not in lead(work)


def test_where_one_method_falls_short_nothing_is_said_of_the_top(work: Work) -> None:
    work.comparison = full(random=0.97)
    assert saturation(work.comparison) == "" and "can't be told from random heads" in lead(work)
    assert sections(work)[0].title == "What was asked, and how"
    console = Console(width=80, file=StringIO(), record=True)
    tell(work, console)
    assert "What it takes" not in console.export_text()
    # What no rate reaches has a dash, and how far it got.
    short = reach_table(work.comparison, least=0.999).set_index("method")
    assert short.loc["random heads", "drift needed for discernment ≥ 0.999"] == "–"
    assert short.loc["random heads", "missed at"] == "0.1000" and short.loc["random heads", "lr"] == ""


def test_it_is_read_on_the_split_that_has_all_rates(work: Work) -> None:
    assert split_of(full()) == "test"
    alone = {"validation": evaluation(0.5, 0.005)}  # as of a study that takes the chosen rates alone to test
    more = Trial(Spec("chosen heads", 1e-5, tuner="chosen heads"), 10, 1.0, alone)
    comparison = replace(full(), trials=(*full().trials, more))
    assert split_of(comparison) == "validation" and list(reach_table(comparison)["missed at"])[0] == "0.0100"


def test_without_drift_it_is_said_that_nothing_tells_them_apart(work: Work) -> None:
    bare = [
        replace(t, evaluations={s: replace(e, estimates={"discernment": e["discernment"]}) for s, e in both.items()})
        for t in full().trials
        for both in [t.evaluations]
    ]
    on_test = [  # as where validation's suite alone has no texts
        replace(t, evaluations={**t.evaluations, "validation": b.evaluations["validation"]})
        for t, b in zip(full().trials, bare, strict=True)
    ]
    for trials in (bare, on_test):
        work.comparison = replace(full(), trials=tuple(trials))
        assert saturation(work.comparison).endswith("Their drift was not measured.")
        assert sections(work)[0].title == "What was asked, and how"
        tell(work, Console(width=80, file=StringIO()))


def test_what_it_rests_on_little_is_found(work: Work) -> None:
    found = "\n".join(cautions(work))
    assert "chosen heads at the highest, 0.001" in found
    assert "few runs at the chosen learning rate (chosen heads 2, full fine-tuning 1)" in found
    assert "holds 0" not in found and "by chance" not in found and "diverged" not in found
    work.heads = HeadSet.parse("L2.H3 L0.H0 L1.H1")
    found = "\n".join(cautions(work))
    assert "the interval of 1 of 3 chosen heads holds 0: L0.H0" in found
    assert "2 of 3 chosen heads score no higher than heads do by chance: L0.H0 L1.H1" in found
    failed = Trial(Spec("LoRA", 1.0), 0, 0.0, {}, "loss nan")
    assert work.comparison is not None
    work.comparison = replace(work.comparison, trials=(*work.comparison.trials, failed))
    assert "1 trials diverged: LoRA at 1" in "\n".join(cautions(work))


def test_what_to_do_next_follows_from_it(work: Work) -> None:
    assert not [each for each in next_steps(work) if "not shown to matter" in each]
    work.comparison = comparison(random=0.9)
    assert [each for each in next_steps(work) if "not shown to matter" in each]
    assert [each for each in next_steps(work) if "chosen heads at the highest" in each]


def test_the_table_has_every_method_with_interval_runs_and_n() -> None:
    table = methods_table(comparison()).set_index("")
    assert list(table.columns) == ["untuned", "chosen heads", "full fine-tuning", "random heads", "n"]
    assert table.loc["discernment", "chosen heads"] == "0.93 [0.88, 0.98]\n0.92 to 0.94"
    assert table.loc["discernment", "untuned"] == "0.20 [0.15, 0.25]"
    assert table.loc["kl: own replies", "full fine-tuning"] == "0.3000 [0.2500, 0.3500]"
    assert table.loc["discernment", "n"] == "200"
    assert list(table.loc[["learning rate", "runs", "weights tuned"], "chosen heads"]) == ["0.001", "2", "1.00%"]


def test_what_is_not_known_is_not_said_to_be_missed() -> None:
    nan = Estimate(math.nan, math.nan, math.nan, 0)
    trials = [
        replace(t, evaluations={s: replace(e, estimates={**e.estimates, "discernment": nan}) for s, e in both.items()})
        for t in comparison().trials
        for both in [t.evaluations]
    ]
    lost = replace(comparison(), trials=tuple(trials))
    assert goals(lost).set_index("goal").loc["discernment", "reached"] == "not known" and not ahead(lost)


def test_a_behaviour_of_opinions_is_told_by_its_own_goal(work: Work) -> None:
    def opinions(told: float) -> dict[str, Evaluation]:
        found = {"gives in: opinion told": Estimate(told, told - 0.05, told + 0.05, 200)}
        return {split: Evaluation("model", split, found) for split in ("validation", "test")}

    trials = [Trial(Spec("untuned"), 0, 0.0, opinions(0.9))]
    trials += [
        Trial(Spec(name, 1e-3, tuner=name), 1, 1.0, opinions(value))
        for name, value in {"chosen heads": 0.2, "random heads": 0.6}.items()
    ]
    work.comparison = Comparison(tuple(trials), {"parameters": 1000})
    assert "Resists on the test split: untuned 0.10, chosen heads 0.80, random heads 0.40" in lead(work)
    assert clear(work.comparison) and "By resists the chosen heads (0.800) are ahead" in ahead(work.comparison)
    assert not [each for each in next_steps(work) if "not shown to matter" in each]


def test_the_command_can_be_copied_and_says_by_what_words_it_was_read(work: Work) -> None:
    work.out = work.out / "my study; rm x"
    work.out.mkdir()
    work.settings = replace(work.settings, words="found")  # and none were
    assert work.comparison is not None
    trials = work.comparison.trials
    work.comparison = replace(work.comparison, trials=tuple(t for t in trials if t.spec.method != "chosen heads"))
    page = report_html("", "", sections(work))
    assert '">Goals<' not in page and '">Every method on the test split<' in page
    assert "--out &#x27;../my study; rm x-2&#x27;" in page
    assert "--out &#x27;my study; rm x&#x27;" in page and "read by the behaviour&#x27;s own words" in page


def test_a_terminal_shows_the_figures_whatever_groups_are_called(work: Work) -> None:
    name = "gives in: [/b] [red] of a group with a name that takes more than a terminal has in a line"
    found = []
    for each in comparison().trials:
        both = each.evaluations.items()
        more = {s: replace(e, estimates={**e.estimates, name: Estimate(0.5, 0.4, 0.6, 9)}) for s, e in both}
        found.append(replace(each, evaluations=more))
    work.comparison = Comparison(tuple(found), {"parameters": 1000})
    console = Console(width=80, file=StringIO(), record=True)
    tell(work, console)
    said = console.export_text()
    assert re.search(r"gives in: \[/b\] \[red\].*0\.50 +0\.50 +0\.50 +0\.50 +9", said)
    assert "Goals not reached: none." in said


def test_a_study_that_has_only_begun_has_a_page_too(work: Work) -> None:
    bare = Work(work.model, work.behaviour, work.out, work.settings)
    assert "attention heads" in lead(bare)
    assert [section.title for section in sections(bare)][0] == "What was asked, and how"


def test_the_page_says_it_all_and_escapes_what_comes_from_data(work: Work) -> None:
    shown = [Example(dialogue("What?", EVIL, "Sure?"), EVIL, "Yes.", "a wrong answer")]
    page = report_html("Title", lead(work), sections(work, shown))
    text = re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)
    assert "hacked" in text and EVIL not in text
    for said in (
        "L2.H3",
        "0.93 [0.88,\u00a00.98]<br>0.92\u00a0to\u00a00.94",
        "Goals",
        "Frontiers, validation split",
        "1 h",
        "3,612 s",
    ):
        assert said in text or said == "1 h"
    assert "the best heads by activation patching, up to 5.0% of all heads" in text
    assert "no head scores above 0.100" in text
    assert "prefers-color-scheme: dark" in page and "href=" not in text.replace('href="#', "")
    # The picker's page is linked where there is one, by its name alone: the folder may be moved.
    (work.out / "picker.html").write_text("the map")
    assert report_html("", "", sections(work)).count('<a href="picker.html">The map of heads, to choose on</a>') == 2
    assert "spt-lens pick scores.safetensors" in page and "Adapter.load" not in page  # there is no adapter


def test_a_browser_draws_it_without_a_network(work: Work, tmp_path: Path) -> None:
    dom, log = rendered(write_study_report(work), tmp_path / "profile")
    body = dom[dom.index("</head>") :]
    assert body.count('class="main-svg"') >= 4  # the map, the patching, two frontiers
    console = [line for line in log.splitlines() if "CONSOLE" in line]
    assert not [line for line in console if "rror" in line or "efused" in line], console


def test_a_figure_that_is_not_known_is_said_so() -> None:
    lost = comparison()
    nan = Estimate(math.nan, math.nan, math.nan, 0)
    trials = list(lost.trials)
    both = {
        split: replace(e, estimates={**e.estimates, "truthfulness": nan}) for split, e in trials[4].evaluations.items()
    }
    trials[4] = replace(trials[4], evaluations=both)
    table = methods_table(replace(lost, trials=tuple(trials))).set_index("")
    assert table.loc["truthfulness", "full fine-tuning"] == "not known"
