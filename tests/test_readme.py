"""README and docs show what saved results say, and their code runs on the embedded model."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

import spt_lens as spt
from spt_lens.evaluate.comparison import Comparison
from spt_lens.model.layout import LAYOUTS
from spt_lens.study.reach import reach_table, saturation
from spt_lens.yesman.studies import DEMO
from tools import readme_support
from tools.marks import markdown
from tools.readme_results import BEGIN, END, markdown_table, shown_first, update_page, update_readme
from tools.tiny import TINY

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "notebooks" / "results"
PAGES = {
    path.relative_to(ROOT).as_posix(): path
    for path in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
}
TEXTS = {name: path.read_text(encoding="utf-8") for name, path in PAGES.items()}
README, FINDINGS, SUPPORT = TEXTS["README.md"], TEXTS["docs/embedded-model.md"], TEXTS["docs/support.md"]
# Blocks of a page run one after another, in one folder, as a reader would run them; those below a note are only read.
BLOCK = re.compile(r"(?P<note><!-- not run: [^\n]+ -->\n)?```python\n(?P<code>.*?)```", re.DOTALL)
# What takes long is done in small: pairs, dialogues, steps.
SMALL = {"n": 4, "n_ability": 2, "n_texts": 8, "n_random": 1, "steps": 2, "ig_steps": 2}
NUMBER = re.compile(rf"\b({'|'.join(SMALL)})=(\d+)")


@pytest.fixture(scope="module")
def comparison() -> Comparison:
    return Comparison.load(RESULTS / "comparison.json")


def test_the_tables_are_the_saved_comparisons(comparison):
    shown, full = README.split(BEGIN)[1].split(END)[0], FINDINGS.split(BEGIN)[1].split(END)[0]
    assert markdown_table(comparison) in full
    # All reach the top there: the README shows what each needs for it, and no row of ones.
    assert saturation(comparison) in shown and markdown(reach_table(comparison).to_dict("records")) in shown
    weak = [each for each in comparison.trials if each.spec.method != "chosen heads" or each.spec.lr < 4e-4]
    assert markdown_table(short := replace(comparison, trials=tuple(weak))) in shown_first(short)


def test_updating_an_up_to_date_readme_changes_nothing(comparison, tmp_path):
    copy = tmp_path / "README.md"
    copy.write_text(README, encoding="utf-8")
    assert not update_readme(copy, comparison)
    copy.write_text(FINDINGS, encoding="utf-8")
    assert not update_page(copy, comparison)
    copy.write_text("no marks", encoding="utf-8")
    with pytest.raises(ValueError, match="no marks"):
        update_readme(copy, comparison)


def test_the_table_of_what_works_is_the_saved_reports(tmp_path):
    shown = SUPPORT.split(readme_support.BEGIN)[1].split(readme_support.END)[0]
    reports = readme_support.load(RESULTS)
    assert readme_support.markdown_table(reports) in shown
    copy = tmp_path / "support.md"
    copy.write_text(SUPPORT, encoding="utf-8")
    assert not readme_support.update_page(copy, RESULTS)
    titles = {tiny.title for tiny in TINY.values()}
    assert {report.checkpoint for report in reports} == titles
    assert {report.architecture for report in reports if report.works} == set(LAYOUTS)


def test_the_findings_drifts_are_the_saved_comparisons(comparison):
    needed = comparison.drift_needed().set_index("method")
    for method, lr, kl in (
        ("chosen heads", 5e-4, ".0083"),
        ("full fine-tuning", 3e-5, ".0141"),
        ("LoRA", 2e-4, ".0153"),
        ("random heads", 5e-4, ".046"),
    ):
        row = needed.loc[method]
        assert row["lr"] == lr and f"{row['drift']:.{len(kl) - 1}f}".lstrip("0") == kl and kl in FINDINGS
        assert row["value"] > 0.999
    assert f"{needed.loc['LoRA', 'missed']:.4f}".lstrip("0") == ".0030" and ".0030" in FINDINGS
    frontier = comparison.frontier
    test = frontier[frontier["split"] == "test"].groupby(["method", "lr"])["discernment"].mean()
    assert f"{test['chosen heads', 3e-4]:.3f}".lstrip("0") == ".929"


def test_the_demo_shows_a_frontier_of_every_method():
    assert set(DEMO.rates) == set(DEMO.methods) and DEMO.test_each
    for rates in DEMO.rates.values():
        assert [round(after / before, 1) for before, after in pairwise(rates)] == [1.4, 1.4]


def test_the_readme_is_short():
    assert len(README.encode()) <= 13_500


@pytest.mark.parametrize("page", PAGES)
def test_every_name_is_public(page):
    for name in set(re.findall(r"\bspt\.(\w+)", TEXTS[page])):
        assert name in spt.__all__, name


@pytest.mark.parametrize("page", PAGES)
def test_every_linked_file_is_there(page):
    for target in re.findall(r"\]\(((?!http)[^)#]+)[^)]*\)", TEXTS[page]):
        assert (PAGES[page].parent / target).exists(), target


def test_every_file_named_in_the_architecture_is_there():
    for name in set(re.findall(r"`((?:spt_lens|tests|tools|notebooks)/[\w/.]+)`", TEXTS["docs/architecture.md"])):
        assert (ROOT / name).exists(), name


@pytest.mark.parametrize("page", [name for name, text in TEXTS.items() if "```python" in text])
def test_the_code_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "__main__"}
    for block in BLOCK.finditer(TEXTS[page]):
        code = NUMBER.sub(lambda found: f"{found[1]}={min(int(found[2]), SMALL[found[1]])}", block["code"])
        parsed = compile(code, page, "exec")
        if block["note"] is None:
            exec(parsed, names)
