"""The tables of docs/patching-again.md on patching again say what the committed results do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from spt_lens import saving
from spt_lens.evaluate.repatched import Repatched
from spt_lens.heads import HeadSet
from tools.repatch import page
from tools.repatch.plans import PLANS, quick

ROOT = Path(__file__).parent.parent
CASE = {
    "selection": "activation patching",
    "tuned": "random",
    "draw": 1,
    "reading": "its words",
    "method": "activation",
    "direction": "denoising",
    "heads": "L0.H1",
    "moved": "L0.H2",
    "runs": {
        "ld_sycophantic": [-2.0, 1.0, 3.0, 2.5, 3.5],
        "ld_truthful": [2.0, 2.5, 0.5, 0.25, 0.75],
        "gap": [4.0, 1.5, -2.5, -3.0, -2.0],
        "prefers": [1.0, 0.25, -0.75, -1.0, -0.5],
        "prefers_other": [0.0, 0.0, 0.0, 0.0, 0.0],
    },
    "sets": {
        "chosen": {name: [3.0, 0.5, -2.5, -3.0, -2.0] for name in ("single", "sizes", "together", "knocked_out")},
        "others": {"single": [1.0, 2.0, 1.0, 0.5, 1.5], "sizes": [4.0, 5.0, 1.0, None, None]},
    },
    "chosen": {
        "L0.H1": {"before": 3.0, "after": 0.5, "change": -2.5, "low": -3.0, "high": -2.0}
        | {"importance_before": 0.5, "importance_after": None, "rank_after": 4}
    },
    "spearman": 0.9,
    "k": 1,
    "in_top": [[1, 0.25, 0.25], [0, 0.25, 1.0]],
    "gained": "L3.H3",
}


def test_a_row_of_each_table():
    runs = page.runs_table([CASE], 8).splitlines()[-1]
    assert runs.startswith("| activation patching | random heads, draw 1 | -2.00 → 1.00 | 2.00 → 2.50 |")
    assert runs.endswith("| 4.00 → 1.50 [-3.00, -2.00] | 8 → 2 |")
    chosen = page.chosen_table([CASE]).splitlines()[-1]
    assert chosen.endswith("| L0.H1: 3.00 → 0.50 [-3.00, -2.00] | 50.0% → – |")
    where = page.where_table([CASE]).splitlines()[-1]
    assert where.endswith("| 1.00 → 2.00 [+0.50, +1.50] | 4.00 → 5.00 | 0.90 | 1 → 0 (0.2) | L3.H3 |")


@pytest.mark.parametrize("name", page.MODELS)
def test_the_page_says_what_the_results_do(name):
    result = saving.load_json(ROOT / page.result_path(name), page.KIND, dict)
    begin, end = page.marks(name)
    shown = (ROOT / page.PAGE).read_text(encoding="utf-8").split(begin)[1].split(end)[0]
    assert page.text_of(result).strip() == shown.strip()
    assert (ROOT / page.RESULTS / f"repatch-{name}.png").exists()
    first = Repatched.from_json(result["first"])
    case = result["cases"][0]
    assert str(first.heads) == case["heads"] == case["moved"] and first.n_pairs == result["pairs"]
    assert first.of("gap")["after"] == pytest.approx(case["runs"]["gap"][1], rel=1e-4)
    for each in result["cases"]:
        chosen, moved = HeadSet.parse(each["heads"]), HeadSet.parse(each["moved"])
        assert (set(chosen) == set(moved)) == (each["tuned"] != "random")
        assert [head.layer for head in chosen] == [head.layer for head in moved]
        assert len(each["sets"]["chosen"]) == 5 and json.dumps(each)


def test_plans_are_small_where_nothing_is_to_be_found():
    for plan in PLANS.values():
        small = quick(plan)
        assert small.n == 4 and small.settings.tune.steps == 2 and small.lr == plan.lr
        assert list(small.selections) == list(plan.selections)
