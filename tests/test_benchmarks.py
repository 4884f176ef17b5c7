"""The benchmark still runs and prints what the README quotes, on a smaller model. What it measures decides no test."""

from __future__ import annotations

import importlib.util
import json
import math
import sys
from pathlib import Path

import pytest
from benchmarks import head_sweep, replies, tuning


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_the_head_sweep(architecture, monkeypatch, capsys):
    for name, value in {"LAYERS": 2, "HEADS": 2, "TOKENS": 20, "PAIRS": 2, "SUFFIX": 10}.items():
        monkeypatch.setattr(head_sweep, name, value)
    arguments = ["head_sweep", "--architecture", architecture, "--peer-heads", "2", "--rounds", "1"]
    monkeypatch.setattr(sys, "argv", arguments)
    head_sweep.main()
    said = capsys.readouterr().out
    for part in ("positions=last", "positions=all", "path patching", "attribution, 4 steps"):
        assert part in said
    assert said.count("times faster") == 2
    differences = [float(line.split()[6]) for line in said.splitlines() if "largest difference" in line]
    assert len(differences) == 2 and max(differences) < 1e-5


def test_replies(tiny_folder, tmp_path, monkeypatch, capsys):
    for name, value in {"PROMPTS": 7, "TOKENS": 5, "ROUNDS": 1}.items():
        monkeypatch.setattr(replies, name, value)
    out = tmp_path / "found.json"
    monkeypatch.setattr(sys, "argv", ["replies", "--model", str(tiny_folder), "--out", str(out)])
    replies.main()
    assert "of its throughput; 7 of 7 replies are the same" in " ".join(capsys.readouterr().out.split())
    found = json.loads(out.read_text())
    assert found["prompts"] == 7 and found["prompt_tokens"][0] < found["prompt_tokens"][1] and found["ratio"] > 0


def test_tuning(tmp_path, monkeypatch, capsys):
    small = {"LAYERS": 3, "HEADS": 4, "D_HEAD": 8, "MLP": 64, "BATCH": 4, "EPOCH": 1, "LATER": 1}
    for name, value in small.items():
        monkeypatch.setattr(tuning, name, value)
    in_turn = iter([tuning.apart])  # a process of its own for the first; that takes longer than all the others

    def next_turn(job, count=False):
        return next(in_turn, tuning.work)(job, count)

    for name in ("OMP_NUM_THREADS", "HF_HUB_OFFLINE", "TOKENIZERS_PARALLELISM", "HF_DATASETS_DISABLE_PROGRESS_BARS"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setattr(tuning, "apart", next_turn)
    out = tmp_path / "found.json"
    arguments = ["tuning", "--models", "gpt2", "--rounds", "1", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", arguments)
    tuning.main()
    said = capsys.readouterr().out
    have_trl = importlib.util.find_spec("trl") is not None
    assert ("TRL is left out" in said) is not have_trl
    found = json.loads(out.read_text())
    model = found["models"]["gpt2"]
    rows = model["contenders"]
    assert len(rows) == 6 + 2 * have_trl
    for row in rows.values():
        assert all(math.isfinite(row[f"median_{figure}"]) for figure in tuning.FIGURES)
        assert len(row["computing_to_full"]) == 3 and row["flops"] > 0 and math.isfinite(row["loss"])
    # Full fine-tuning does what it can't leave out and nothing else; so the same counter counts the limits.
    assert rows["full"]["flops"] == model["limits"]["full"]
    limits = [rows[f"pinpoint-{kind}"]["limit_to_full"] for kind in ("top", "middle", "all")]
    assert 0 < limits[0] < limits[1] < limits[2] < 1
    assert all(rows[f"pinpoint-{kind}"]["flops_to_limit"] >= 0.99 for kind in ("top", "middle", "all"))
    assert all(rows[f]["same_ids"] == rows[f]["same_labels"] == 4 for f in rows if f.startswith("trl"))
    again = [
        "tuning",
        "--models",
        "gpt2",
        "llama",
        "--contenders",
        "pinpoint-top",
        "--rounds",
        "1",
        "--before",
        str(out),
    ]
    monkeypatch.setattr(sys, "argv", [*again, "--before-name", "today", "--out", str(out)])
    tuning.main()
    kept = json.loads(out.read_text())
    assert kept["before"] == "today"
    for each in kept["models"].values():
        assert set(each["contenders"]) == {"full", "lora", "pinpoint-top"}
    before = {name: row for name, row in rows.items() if name.startswith("pinpoint")}
    assert kept["models"]["gpt2"]["before"] == before and "before" not in kept["models"]["llama"]


def test_the_docs_say_what_was_measured():
    root = Path(__file__).parent.parent
    found = json.loads((root / "notebooks/results/replies.json").read_text())
    said = (root / "docs/measuring.md").read_text()
    low, high = found["prompt_tokens"]
    assert f"{found['prompts']} prompts of {low} to {high} tokens and {found['new_tokens']} new ones" in said
    assert f"{found['ratio']:.2f} times the throughput" in said and f"the same {found['same_replies']} replies" in said
