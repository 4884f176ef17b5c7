"""The benchmark still runs and prints what the README quotes, on a smaller model. What it measures decides no test."""

from __future__ import annotations

import importlib.util
import json
import math
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from benchmarks import attention, head_sweep, replies, tuning
from benchmarks.gpu.__main__ import main as gpu_main
from benchmarks.gpu.course import Course, Skipped
from benchmarks.gpu.models import SIZES
from benchmarks.gpu.sections import Bench


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


def test_attention(tiny_folder, capsys):
    attention.main(["--model", str(tiny_folder), "--rounds", "2", "--shapes", "2x12"])
    bridge, sdpa, ratio = capsys.readouterr().out.splitlines()
    assert bridge.startswith("2 x 12 tokens, bridge: ") and sdpa.startswith("2 x 12 tokens, sdpa  : ")
    assert ratio.endswith("of 2 rounds")


def test_replies(tiny_folder, tmp_path, monkeypatch, capsys):
    for name, value in {"PROMPTS": 7, "TOKENS": 5, "ROUNDS": 1}.items():
        monkeypatch.setattr(replies, name, value)
    out = tmp_path / "found.json"
    monkeypatch.setattr(sys, "argv", ["replies", "--model", str(tiny_folder), "--out", str(out)])
    replies.main()
    assert "of its throughput; 7 of 7 replies are the same" in " ".join(capsys.readouterr().out.split())
    found = json.loads(out.read_text())
    assert found["prompts"] == 7 and found["prompt_tokens"][0] < found["prompt_tokens"][1] and found["ratio"] > 0


FIGURES = {  # of each section of the GPU's run
    "weights made on the device": {"seconds", "parameters", "gib"},
    "transformers' generate": {"seconds", "tokens_a_second"},
    "loading": {"seconds", "saving_seconds"},
    "a forward pass": {"seconds", "tflops"},
    "exactness of slices and undo": {"slices_moved", "outside_untouched", "undone_exactly"},
    "activation patching, last position": {"forward_passes", "counted", "times_faster", "largest_difference"},
    "tuning, heads from the middle on": {"seconds_a_step", "first_step_seconds", "weights", "predicted_gib"},
    "tuning, heads in the top third": {"seconds_a_step"},
    "tuning, LoRA of rank 16": {"seconds_a_step"},
    "tuning, full": {"seconds_a_step"},
    "replies": {"first_seconds", "of_generate", "same_replies"},
    "path patching to the logits": {"forward_passes"},
    "attribution": {"forward_passes"},
    "activation patching, all positions": {"times_faster", "largest_difference"},
    "float32 against bfloat16": {"spearman", "spearman_of_halves", "largest_difference"},
}


def test_the_gpu_script_runs_on_a_cpu(tmp_path, capfd):
    out = tmp_path / "gpu.json"
    assert gpu_main(["--size", "tiny", "--device", "cpu", "--out", str(out)]) == 0
    found = json.loads(out.read_text())
    rows = {row["section"]: row for row in found["sections"]}
    assert list(rows) == list(FIGURES) and found["versions"]["torch"] == torch.__version__
    for name, figures in FIGURES.items():
        assert "skipped" not in rows[name] and "failed" not in rows[name]
        assert all(math.isfinite(rows[name][figure]) for figure in figures)
    exact = rows["exactness of slices and undo"]
    assert exact["slices_moved"] and exact["outside_untouched"] and exact["undone_exactly"]
    assert rows["weights made on the device"]["parameters"] == rows["tuning, full"]["weights"]
    # Both are q and o of one head out of six, of d_head 16 and d_model 32.
    assert rows["tuning, heads in the top third"]["weights"] == 2 * 16 * 32
    assert rows["float32 against bfloat16"]["largest_difference"] < 1e-5
    for name in ("last position", "all positions"):
        assert rows[f"activation patching, {name}"]["engine"] == "sweep"
        # In bfloat16, where logits of this size go in steps of 1/128 or so.
        assert rows[f"activation patching, {name}"]["largest_difference"] < 0.03
    assert rows["float32 against bfloat16"]["spearman"] > 0.5
    assert "15 sections, 0 failed" in capfd.readouterr().out


def test_a_model_too_large_for_its_files_is_loaded_from_memory(tmp_path):
    bench, rows = Bench(replace(SIZES["tiny"], on_disk=False), torch.device("cpu"), tmp_path), [{}, {}, {}]
    bench.weights(rows[0])
    before = {name: p.clone() for name, p in bench.plain.named_parameters()}
    bench.loading(rows[1])
    assert rows[1]["from"] == "memory" and bench.plain is None
    assert (tmp_path / "model.safetensors").stat().st_size < 1000  # the weights are not in it
    after = bench.view.hf_copy().named_parameters()
    assert all(torch.equal(before[name], p) for name, p in after)
    bench.forward(rows[2])
    assert rows[2]["tokens"] == 4 * 24
    with pytest.raises(Skipped, match="on the disk"):
        bench.precision({})


def test_what_goes_wrong_in_a_section_costs_no_other(tmp_path, capfd):
    out = tmp_path / "gpu.json"
    course = Course(out, time.time() + 60, torch.device("cpu"), {"device": "none"})

    def full(row):
        row["before"] = 1.5
        raise torch.OutOfMemoryError("nothing left\nand more")

    def wrong(row):
        raise KeyError("what")

    def skipped(row):
        raise Skipped("no reason")

    def slow(row):
        row["before"] = 2.5
        time.sleep(30)

    for name, work, seconds in (("full", full, 5), ("wrong", wrong, 5), ("skipped", skipped, 5), ("slow", slow, 0.1)):
        course.section("tiny", name, seconds, work)
    course.ends = 0
    course.section("tiny", "late", 5, wrong)
    rows = {row["section"]: row for row in json.loads(out.read_text())["sections"]}
    assert rows["full"]["skipped"] == "out of memory: nothing left" and rows["full"]["before"] == 1.5
    assert rows["wrong"]["failed"] == "KeyError: 'what'" and rows["skipped"]["skipped"] == "no reason"
    assert rows["slow"]["skipped"] == "cut off after 0.1 s" and rows["slow"]["before"] == 2.5
    assert rows["late"]["skipped"] == "the whole run's time is over"
    assert [row["section"] for row in course.failed] == ["wrong"]


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
    # Full fine-tuning does what it can't leave out, and makes the attention's pattern again in the backward pass, as
    # fused attention does; so the same counter counts the limits.
    assert 1 <= rows["full"]["flops"] / model["limits"]["full"] < 1.06
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
