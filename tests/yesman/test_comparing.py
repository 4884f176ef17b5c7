"""The full comparison's folder: what is written, and what it is asked for."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console

from spt_lens.evaluate.comparison import Comparison
from spt_lens.evaluate.evaluate import Evaluation
from spt_lens.evaluate.trials import Spec, Trial
from spt_lens.statistics import Estimate
from spt_lens.yesman import Yesman, comparing
from spt_lens.yesman.comparing import as_text, run_comparison, sections
from spt_lens.yesman.demo import DemoSettings


def evaluated(discernment: float, kl: float) -> dict[str, Evaluation]:
    found = {"discernment": discernment, "confidence": discernment, "ability": 0.9, "ability: sums": 0.9, "kl": kl}
    estimates = {name: Estimate(value, value, value, 50) for name, value in found.items()}
    return {split: Evaluation("tiny", split, estimates) for split in ("validation", "test")}


def test_everything_is_written(tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {}

    def made_up(model: object, heads: object, behaviour: object, **arguments: object) -> Comparison:
        asked.update(arguments, heads=heads, behaviour=behaviour)
        trials = [Trial(Spec("untuned"), 0, 0.0, evaluated(0.5, 0.0))]
        trials += [
            Trial(Spec("LoRA", lr, tuner="LoRA(rank=16)"), 10, 1.0, evaluated(0.6 + 10 * lr, lr)) for lr in (1e-3, 1e-2)
        ]
        return Comparison(tuple(trials), {"steps": 7})

    monkeypatch.setattr(comparing, "compare", made_up)
    settings = DemoSettings(pairs=4, share=0.2, steps=7)
    run_comparison(tmp_path, str(tiny_folder), 1, settings, Console(quiet=True))

    assert len(asked["heads"]) == 2  # a fifth of the tiny model's twelve heads
    assert asked["out"] == tmp_path / "runs.jsonl"
    assert asked["config"].steps == 7 and isinstance(asked["behaviour"], Yesman)
    assert list(pd.read_csv(tmp_path / "table.csv")["method"]) == ["untuned", "LoRA"]
    assert len(pd.read_csv(tmp_path / "frontier.csv")) == 4  # two runs on two splits
    assert Comparison.load(tmp_path / "comparison.json").choice == {"LoRA": 1e-2}
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Discernment against drift, test split" in page and "steps: 7" in page


def test_numbers_are_written_as_a_reader_needs_them() -> None:
    table = pd.DataFrame({"method": ["a"], "lr": [0.003], "share": [0.025], "kl": [0.00171], "confidence": [0.8604]})
    assert list(as_text(table).iloc[0]) == ["a", "0.003", "2.5%", "0.0017", "0.860"]
    assert as_text(pd.DataFrame({"lr": [float("nan")]})).iloc[0, 0] == ""


def test_an_unwritable_folder_is_refused_first(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(OSError):
        run_comparison(blocked / "out", str(tmp_path / "no model"))


def test_a_report_without_drift_or_abilities_leaves_their_figures_out() -> None:
    untuned = Trial(Spec("untuned"), 0, 0.0, evaluated(0.5, 0.0))
    failed = Trial(Spec("LoRA", 1.0, tuner="LoRA(rank=16)"), 0, 0.0, {}, "loss nan")
    assert len(sections(Comparison((untuned, failed)))) == 1


def test_a_results_file_that_is_something_else_is_refused_first(tmp_path: Path) -> None:
    (tmp_path / "runs.jsonl").write_text('{"precious": "data"}')
    with pytest.raises(ValueError, match="give another file"):
        run_comparison(tmp_path, str(tmp_path / "no model"))
