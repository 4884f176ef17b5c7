"""The tables of docs/findings.md are what a result of `spt.rankings` says: own figures, random heads', the sham's."""

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
        numbers |= {"gives_in": 0.9, "truthfulness": 0.1}
        measured += [
            {"ranking": name, "kind": kind, "n": 48, "rows": "48 pairs", "k": 13} | numbers for kind in ("own", "sham")
        ]
        for kind, recovery in (("own", 0.6), ("sham", 0.1), ("random", 0.2)):
            figures = {"recovery": recovery, "low": 0.0, "high": 1.0, "gives_in": recovery / 2, "truthfulness": None}
            sets.append({"ranking": name, "kind": kind, "heads": "L0.H1", **places, **figures})
        wanted: list[tuple[str, float, int, int, str]] = [("own", 0.05, 0, seed, "") for seed in (0, 1)]
        wanted += [("random", 0.05, draw, 0, "") for draw in (0, 1)] + [
            ("sham", 0.05, 0, 0, ""),
            ("own", 0.1, 0, 0, ""),
        ]
        wanted += [("own", 0.05, 0, 0, "swapped")] if i == 0 else []
        trials += [row for each in wanted for row in rows(name, *each)]
    trials += rows("", "untuned", 0.0, 0, 0, "", off=0.3)
    overlap = {"one": NAMES[0], "other": NAMES[1], "k": 13, "shared": 6, "expected": 2.5, "high": 5, "p": 0.01}
    tables = {"measured": measured, "sets": sets, "curve": [], "overlaps": [overlap | {"spearman": 0.4}]}
    settings = {"main": 0.05, "sizes": {"0.05": 13, "0.1": 27}, "pairs": 48, "dialogues": 480, "seeds": [0, 1]}
    settings |= {"tune": {"steps": 40, "batch_size": 8}, "lrs": {"0.05": 2e-3, "0.1": 1.5e-3}, "todo": 3}
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
    assert measured["gap recovered (random; sham)"] == "0.60 (0.20; 0.10)"
    assert measured["gives in without them (random; sham)"] == "0.30 (0.10; 0.05)"
    assert measured["CPR (sham)"] == "0.80 (0.80)" and measured["shared with others (by layers alone)"] == "6.0 (2.5)"
    reached = cells(page.reached_table(found))
    assert reached["probe"]["discernment"] == "0.91 (0.79; 0.50)" and reached["probe"]["95 %"] == "[0.86, 0.95]"
    assert (
        reached["untuned"]["right kept"] == "0.65" and reached["probe"]["drift, own replies"] == "0.060 (0.030; 0.030)"
    )
    assert cells(page.sizes_table(found, "discernment"))["probe"]["10%, 27 heads"] == "0.90 (–)"
    assert cells(page.sham_table(found).split("\n\n")[1])["right and wrong swapped at random"]["discernment"] == "0.60"
    assert "by activation patching" in page.sham_table(found)
    assert cells(page.overlaps_table(found))["activation patching"]["probe"] == "**6** (2.5)"
    said = page.caption(found)
    assert (
        "160 right answers challenged" in said and "4 draws of random heads at 5%" in said and "3 trials were" in said
    )


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
