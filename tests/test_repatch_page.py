"""The tables of docs/patching-again.md on patching again say what the committed results do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from spt_lens import saving, statistics
from spt_lens.evaluate.repatched import RUNS, Repatched
from spt_lens.heads import HeadSet
from spt_lens.scores.head_scores import HeadScores
from tools.repatch import page
from tools.repatch.plans import PLANS, Case, quick

ROOT = Path(__file__).parent.parent
CASE: dict[str, Any] = {
    "selection": "activation patching",
    "tuned": "random",
    "draw": 1,
    "reading": "its words",
    "method": "activation",
    "direction": "denoising",
    "heads": "L0.H1 L0.H0",
    "moved": "L0.H2 L0.H3",
    "preferred": "'<b>|*'",
    "answers": {"truthful": "'No'", "sycophantic": "'<b>|*'", "alike": True},
    "gap_ends": [3.5, 4.5, None, None],
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
        "L0.H0": {"before": 9.0, "after": 9.5, "change": 0.5, "low": 0.25, "high": 0.75}
        | {"importance_before": 0.5, "importance_after": 0.5, "rank_after": 1},
        "L0.H1": {"before": 3.0, "after": 0.5, "change": -2.5, "low": -3.0, "high": -2.0}
        | {"importance_before": 0.5, "importance_after": None, "rank_after": 4},
    },
    "spearman": 0.9,
    "k": 1,
    "in_top": [[1, 0.25, 0.25], [0, 0.25, 1.0]],
    "gained": "L3.H3",
}


def test_a_row_of_each_table():
    header, _, runs = page.runs_table([CASE], 8).splitlines()
    assert runs.startswith("| activation patching | random heads, draw 1 | -2.00 → 1.00 | 2.00 → 2.50 |")
    assert runs.endswith("| 4.00 [+3.50, +4.50] → 1.50 [–] | [-3.00, -2.00] | 8 → 2 |")
    assert header.endswith(r"| prefer '&lt;b&gt;\|\*', of 8 |")
    chosen = page.chosen_table([CASE]).splitlines()[-1]  # the ranking's first head, not these pairs' strongest one
    assert chosen.endswith("| L0.H1: 3.00 → 0.50 [-3.00, -2.00] | 50.0% → – |")
    where = page.where_table([CASE]).splitlines()[-1]
    assert where.endswith("| 1.00 → 2.00 [+0.50, +1.50] | 4.00 → 5.00 | 0.90 | 1 → 0 (0.2) | L3.H3 |")


def test_without_a_gap_there_is_no_list():
    one = {**CASE, "in_top": [[1, 0.25, 0.25], None], "gained": None}
    assert page.where_table([one]).splitlines()[-1].endswith("| 0.90 | 1 → – | – |")
    sets = {**CASE["sets"], "random": {"single": [1.0, 0.5, -0.5, None, None]}}
    both = page.where_table([CASE, {**CASE, "sets": sets}]).splitlines()
    assert "| – → – | 0.90" in both[2] and "| 1.00 → 0.50 | 0.90" in both[3]


def older() -> Repatched:
    """As a file that lacks the gap's intervals and the tokens, with random heads of another layer."""
    names = [(layer, head, f"L{layer}.H{head}") for layer in (0, 1) for head in (0, 1)]
    effects = {"before": 0.5, "after": 0.25, "change": -0.25, "low": -0.5, "high": 0.0}
    more = dict.fromkeys(("share_before", "share_after", "importance_before", "importance_after"), 0.1)
    table = [
        {"layer": layer, "head": head, "name": name, "set": "chosen" if name == "L0.H1" else "other"}
        | {**effects, "before": layer + head / 2, **more, "rank_before": 1, "rank_after": 1}
        for layer, head, name in names
    ]
    sets = [("chosen", 0, "L0.H1"), ("random", 0, "L0.H0"), ("random", 1, "L1.H1"), ("others", 0, "")]
    return Repatched.from_json(
        {"model_name": "m", "method": "activation", "direction": "noising", "positions": "last", "n_pairs": 4}
        | {"heads": {"heads": ["L0.H1"]}, "tuned": {"heads": ["L0.H1"]}, "settings": {"k": 1}, "table": table}
        | {"runs": [{"figure": name, **effects} for name in RUNS]}
        | {
            "sets": [
                {"set": which, "draw": draw, "k": 1, "heads": heads, "figure": "single", **effects}
                for which, draw, heads in sets
            ]
        }
    )


def test_an_older_file_is_completed_from_what_else_is_kept():
    base, target = torch.tensor([3.0, 4.0, 5.0, 4.0]), torch.tensor([1.0, 1.0, 2.0, 3.0])
    zeros = torch.zeros(4, 2, 2)
    about = {"method": "activation", "direction": "noising", "positions": "last", "model_name": "m"}
    before = HeadScores(zeros[0], zeros, logit_differences=zeros, base=base, target=target, **about)
    answers = {"truthful": "'I'", "sycophantic": "'The'", "alike": True}
    found = page.completed(older(), before, answers)
    low, high = statistics.interval((base - target).double())
    gap = found.of("gap")
    assert (gap["before_low"], gap["before_high"]) == (float(low), float(high)) and low > 0
    assert found.preferred == "'The'" and older().preferred == "the sycophantic answer"
    assert found.sets["heads"].tolist() == ["L0.H1", "L0.H0", ""]
    record = page.record(found, Case("a", "themselves", 0, found.heads, found.heads), "r")
    assert record["gap_ends"] == [pytest.approx(float(low), rel=1e-4), pytest.approx(float(high), rel=1e-4), None, None]
    assert record["answers"] == answers and record["preferred"] == "'The'" and record["gained"] is None
    assert record["in_top"][0][0] == 0 and record["in_top"][1] is None


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
        assert (
            len(each["sets"]["chosen"]) == 5
            and set(each["answers"]) == {"truthful", "sycophantic", "alike"}
            and json.dumps(each)
        )


def test_plans_are_small_where_nothing_is_to_be_found():
    for plan in PLANS.values():
        small = quick(plan)
        assert small.n == 4 and small.settings.tune.steps == 2 and small.lr == plan.lr
        assert list(small.selections) == list(plan.selections)
