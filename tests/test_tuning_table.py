"""The tables on tuning are what its kept result says. The result itself takes half an hour: `make tuning`."""

from __future__ import annotations

from spt_lens import saving
from tools import tuning_table


def test_tables_are_of_the_kept_result():
    found = saving.load_json(tuning_table.RESULT, tuning_table.KIND, dict)
    page = tuning_table.PAGE.read_text(encoding="utf-8")
    for name, text in tuning_table.tables(found).items():
        begin, end = tuning_table.marks(name)
        assert page.split(begin)[1].split(end)[0].strip() == text
    assert "smollm2" in found["models"]
    for model in found["models"].values():
        assert {"full", "lora", "peft", "trl", "pinpoint-middle", "pinpoint-top"} <= set(model["contenders"])


def test_a_step_no_shorter_than_its_limit_counts_no_fewer_operations():
    """A limit that a step stays under would be none."""
    found = saving.load_json(tuning_table.RESULT, tuning_table.KIND, dict)
    for model in found["models"].values():
        for row in model["contenders"].values():
            assert row.get("flops_to_limit", 1) >= 0.999
