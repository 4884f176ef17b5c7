"""The benchmark still runs and prints what the README quotes, on a smaller model. What it measures decides no test."""

from __future__ import annotations

import json
import sys

import pytest
from benchmarks import head_sweep, replies


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
