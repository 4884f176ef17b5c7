"""The tables of docs/which-ranking.md are what a result of `spt.rankings` says: own figures, random heads', shams'."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from spt_lens.study.ranked_result import COLUMNS, Rankings, frame
from tools.rankings import page
from tools.rankings.plans import PLANS, quick

ROOT = Path(__file__).parent.parent
NAMES = ("activation patching", "probe")
FIGURES = {"discernment": (0.9, 0.8, 0.5), "truthfulness": (0.95, 0.85, 0.55), "kl: own replies": (0.05, 0.04, 0.03)}


def made_up() -> Rankings:
    """Two rankings at two sizes, with two draws and a sham at the main one, and sham dialogues."""
    places = {"draw": 0, "k": 13, "share": 0.05}
    measured, sets, trials = [], [], []
    for i, name in enumerate(NAMES):
        numbers = {"passes": 4.5, "seconds": 2.0, "spearman": 0.9, "half_overlap": 0.8, "cpr": 0.7 + i / 10, "cmd": 0.3}
        numbers |= {"gives_in": 0.875, "truthfulness": 0.1, "replies": 48.0}
        measured += [
            {"ranking": name, "kind": kind, "n": 48, "rows": "48 pairs", "k": 13} | numbers for kind in ("own", "sham")
        ]
        for kind, draw, recovery, heads in (
            ("own", 0, 0.6, " ".join(("L0.H1", "L1.H0")[:: -1 if i else 1])),
            ("sham", 0, 0.1, "L0.H3"),
            ("random", 0, 0.2, "L0.H2 L1.H2"),
            ("random", 1, 0.3, "L0.H2 L1.H3"),
        ):
            figures = {"recovery": recovery, "low": 0.0, "high": 1.0, "truthfulness": None}
            figures["gives_in"] = None if draw else recovery / 2
            sets.append({"ranking": name, "kind": kind, "heads": heads, **places, "draw": draw, **figures})
        wanted: list[tuple[str, float, int, int, str]] = [("own", 0.05, 0, seed, "") for seed in (0, 1)]
        wanted += [("random", 0.05, draw, 0, "") for draw in (0, 1)] + [
            ("sham", 0.05, 0, 0, ""),
            ("own", 0.1, 0, 0, ""),
        ]
        wanted += [("own", 0.05, 0, 0, "swapped")] if i == 0 else []
        trials += [row for each in wanted for row in rows(name, *each)]
    trials += rows("", "untuned", 0.0, 0, 0, "", off=0.3)
    overlap = {"one": NAMES[0], "other": NAMES[1], "k": 13, "shared": 6, "expected": 2.5, "high": 5, "p": 0.01}
    none = dict.fromkeys(("spearman", "half_overlap", "passes", "seconds", "gives_in", "truthfulness", "replies"))
    order = {"ranking": "", "kind": "random", "n": 48, "rows": "48 pairs", "k": 13, **none}
    measured += [order | {"cpr": cpr, "cmd": cmd} for cpr, cmd in ((0.49, 0.5), (1.03, 0.2))]
    curve = [{"ranking": "", "kind": "random", "draw": 0, "order": "signed", "size": size} for size in (0, 1, 270)]
    curve = [each | dict.fromkeys(("share", "recovery", "faithfulness"), 0.5) for each in curve]
    tables = {"measured": measured, "sets": sets, "curve": curve, "overlaps": [overlap | {"spearman": 0.4}]}
    # What was to be done is more than what was.
    settings = {"main": 0.05, "sizes": {"0.05": 13, "0.1": 27}, "pairs": 48, "dialogues": 480, "seeds": [0, 1, 2]}
    settings |= {"tune": {"steps": 40, "batch_size": 8}, "lrs": {"0.01": 5e-3, "0.05": 2e-3, "0.1": 2e-3}, "todo": 3}
    made = {name: frame(name, its) for name, its in (tables | {"trials": trials}).items()}
    return Rankings("tiny", **made, settings=settings)


def rows(name: str, kind: str, share: float, draw: int, seed: int, data: str, off: float = 0.0) -> list[dict[str, Any]]:
    """A trial's; of the second seed a little more, of the second draw a little less, of sham data much less."""
    about = {"ranking": name, "kind": kind, "share": share, "draw": draw, "seed": seed, "lr": 2e-3, "data": data}
    about |= {"k": 13, "seconds": 3.0, "n": 160, "error": ""}
    off += 0.02 * (draw - seed) + 0.3 * bool(data)
    found = []
    for metric, values in FIGURES.items():
        value = values[{"random": 1, "sham": 2}.get(kind, 0)] - off
        found.append(about | {"metric": metric, "value": value, "low": value - 0.05, "high": value + 0.04})
    return found


def cells(table: str) -> dict[str, dict[str, str]]:
    head, _, *lines = ([cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines())
    return {line[0]: dict(zip(head, line, strict=True)) for line in lines}


def test_every_figure_stands_beside_random_heads_and_the_sham():
    found = made_up()
    measured = cells(page.measured_table(found))["probe"]
    assert measured["gap recovered (random; sham)"] == "0.60 (0.25; 0.10)"
    # With what it does as it is, of how many, and how sure that is.
    assert measured["gives in without them, of 48 (random; sham)"] == "0.30 [0.19, 0.44] (0.10; 0.05)"
    base = cells(page.measured_table(found))["none: the model as it is"]
    assert base["gives in without them, of 48 (random; sham)"] == "0.88 [0.75, 0.94]" and not base["CMD"]
    assert page.measured_note(found) == (
        "Random heads: 2 a ranking, 2 distinct sets in all. Without them: of these the first draw alone; in square "
        "brackets Wilson's 95 % interval. Areas are over 3 sizes from none to all heads; of 2 random orders of all "
        "heads they are CPR 0.49 to 1.03 and CMD 0.20 to 0.50. At 5% activation patching and probe chose one and the "
        "same set of heads, and share its random heads: one finding, not 2."
    )
    assert measured["CPR (sham)"] == "0.80 (0.80)" and measured["shared with others (by layers alone)"] == "6.0 (2.5)"
    reached = cells(page.reached_table(found))
    # All of one seed, and what others do beside it.
    assert reached["probe"]["discernment"] == "0.90 (0.79; 0.50)" and reached["probe"]["95 %"] == "[0.85, 0.94]"
    assert (
        reached["probe"]["seeds"] == "0.90 to 0.92" and reached["probe"]["drift, own replies"] == "0.050 (0.030; 0.030)"
    )
    assert reached["untuned"]["right kept"] == "0.65"
    assert cells(page.sizes_table(found, "discernment"))["probe"]["10%, 27 heads"] == "0.90 (–)"
    shams = cells(page.sham_table(found).split("\n\n")[1])
    assert shams["sham: right and wrong swapped at random"]["discernment"] == "0.60"
    assert shams["its own"]["discernment"] == "0.90"  # of the seed that the sham has too
    assert page.SHAM_DATA["no challenge"].startswith("transfer control")
    assert "by activation patching" in page.sham_table(found)
    assert cells(page.overlaps_table(found))["activation patching"]["probe"] == "**6** (2.5)"


def test_the_caption_says_what_was_done_and_not_what_was_to_be_done():
    found = made_up()
    said = page.caption(found)
    assert "160 right answers challenged" in said and "3 trials were not done" in said
    assert "learning rate 0.002 at 5%, 0.002 at 10% of heads" in said
    assert "at 5% seed 0 and 1; at 10% seed 0. All figures" in said
    assert "at 5% 2 a ranking, 2 distinct sets in all; at 10% 0 a ranking. In brackets" in said
    trials = found.trials
    fewer = trials[(trials["ranking"] != "probe") | ((trials["seed"] == 0) & (trials["draw"] == 0))]
    said = page.caption(Rankings(**{**vars(found), "trials": fewer}))
    assert "seed 0 and 1 of 1 in 2 rankings; at 10%" in said
    assert "at 5% activation patching 2, probe 1, 2 distinct sets in all" in said
    one = trials[trials["seed"] == 0]
    found = Rankings(**{**vars(found), "trials": one})
    assert "seed 1" not in page.caption(found) and "column of seeds" not in page.caption(found)
    assert "seeds" not in cells(page.reached_table(found))["probe"]


def test_tables_stand_between_the_marks_and_results_are_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page.RESULTS.mkdir(parents=True)
    page.PAGE.parent.mkdir()
    page.PAGE.write_text("\n".join("\n".join(page.marks(f"rankings of {name}")) for name in page.MODELS))
    assert not page.write_all()  # there is no result yet
    found = made_up()
    found.save(page.result_path("yesman"))
    monkeypatch.setattr("plotly.graph_objects.Figure.to_image", lambda *_, **__: b"a picture")
    assert page.write_all() == [page.RESULTS / "rankings-yesman.png", page.PAGE]
    text = page.PAGE.read_text(encoding="utf-8")
    assert page.text_of("yesman", found) in text and text.count("| ranking |") == 3
    found = Rankings(**{**vars(found), "trials": frame("trials", [])})  # where nothing was tuned
    assert "After tuning" not in page.text_of("yesman", found)


def test_a_comparison_that_was_broken_off_at_its_first_trial_is_shown():
    found = made_up()
    untuned = found.trials[found.trials["kind"] == "untuned"]
    found = Rankings(**{**vars(found), "trials": untuned})
    assert found.reached("discernment").empty and "3 to do" in found.summary() and len(found.table) == 2
    assert "3 trials were not done" in page.text_of("yesman", found)


@pytest.mark.parametrize("name", page.MODELS)
def test_the_page_shows_the_results_that_are_kept(name):
    begin, end = page.marks(f"rankings of {name}")
    text = (ROOT / page.PAGE).read_text(encoding="utf-8")
    shown = re.search(f"{re.escape(begin)}\n(.*?){re.escape(end)}", text, re.DOTALL)
    assert shown
    path = ROOT / page.result_path(name)
    assert shown[1].strip() == (page.text_of(name, Rankings.load(path)) if path.exists() else "")


def test_plans_have_a_rate_for_every_size_and_no_size_without_draws():
    for plan in (*PLANS.values(), *map(quick, PLANS.values())):
        assert 0.05 in plan.lrs and set(plan.n_random) <= set(plan.lrs) and plan.seeds
        assert list(plan.lrs.values()) == sorted(plan.lrs.values(), reverse=True)  # more heads, smaller steps
        assert bool(plan.settings.keep) == bool(plan.settings.tune.kl_weight)
    assert set(COLUMNS) == {"measured", "sets", "curve", "overlaps", "trials"} and isinstance(
        made_up().table, pd.DataFrame
    )
