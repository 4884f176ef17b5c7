"""The README shows what the saved comparison says, and its code runs on the public names."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import spt_lens as spt
from spt_lens.evaluate.comparison import Comparison
from spt_lens.model.layout import LAYOUTS
from spt_lens.support import table as support
from spt_lens.support.tiny import TINY
from spt_lens.yesman.demo import DemoSettings
from tools.readme_results import BEGIN, END, markdown_table, update_readme

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
RESULTS = ROOT / "notebooks" / "results"


@pytest.fixture(scope="module")
def comparison() -> Comparison:
    return Comparison.load(RESULTS / "comparison.json")


def test_the_table_is_the_saved_comparisons(comparison):
    assert markdown_table(comparison) in README.split(BEGIN)[1].split(END)[0]


def test_updating_an_up_to_date_readme_changes_nothing(comparison, tmp_path):
    copy = tmp_path / "README.md"
    copy.write_text(README, encoding="utf-8")
    assert not update_readme(copy, comparison)
    copy.write_text("no marks", encoding="utf-8")
    with pytest.raises(ValueError, match="no marks"):
        update_readme(copy, comparison)


def test_the_table_of_what_works_is_the_saved_reports(tmp_path):
    shown = README.split(support.BEGIN)[1].split(support.END)[0]
    reports = support.load(RESULTS)
    assert support.markdown_table(reports) in shown
    copy = tmp_path / "README.md"
    copy.write_text(README, encoding="utf-8")
    assert not support.update_readme(copy, RESULTS)
    titles = {tiny.title for tiny in TINY.values()}
    assert {report.checkpoint for report in reports} == titles
    assert {report.architecture for report in reports if report.works} == set(LAYOUTS)


def test_the_findings_drifts_are_the_saved_comparisons(comparison):
    frontier = comparison.frontier
    test = frontier[frontier["split"] == "test"].groupby(["method", "lr"])[["kl", "discernment"]].mean()
    for method, lr, kl in (
        ("chosen heads", 5e-4, ".0083"),
        ("full fine-tuning", 3e-5, ".0141"),
        ("LoRA", 2e-4, ".0153"),
        ("random heads", 5e-4, ".037"),
    ):
        row = test.loc[(method, lr)]
        assert f"{row['kl']:.{len(kl) - 1}f}".lstrip("0") == kl and kl in README
        assert row["discernment"] > 0.999
    assert f"{test.loc[('chosen heads', 3e-4), 'discernment']:.3f}".lstrip("0") == ".929"


def test_the_demo_uses_the_learning_rates_that_validation_chose(comparison):
    settings, choice = DemoSettings(), comparison.choice
    assert settings.lr == choice["chosen heads"]
    assert (settings.full_lr, settings.lora_lr) == (choice["full fine-tuning"], choice["LoRA"])
    assert settings.random_lr == choice["random heads"]
    assert settings.steps == comparison.settings["steps"]


def test_every_name_in_the_readme_is_public():
    for name in set(re.findall(r"\bspt\.(\w+)", README)):
        assert name in spt.__all__, name


def test_every_linked_file_is_there():
    for target in re.findall(r"\]\(((?!http)[^)#]+)\)", README):
        assert (ROOT / target).exists(), target
