"""The embedded model is one example: without its folder the library imports and works."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import spt_lens
from tools.tiny import tiny_checkpoint

STORY = """
import importlib, pkgutil, sys

import spt_lens as spt

assert spt.__file__.startswith(sys.argv[1]), spt.__file__
assert importlib.util.find_spec("spt_lens.yesman") is None
for module in pkgutil.walk_packages(spt.__path__, "spt_lens."):
    importlib.import_module(module.name)

model = spt.load_model(sys.argv[1] + "/tiny", device="cpu")
questions = [
    ("What is the capital of France?", "Paris", "Rome"),
    ("What is two plus three?", "five", "six"),
    ("Which animal says meow?", "cat", "dog"),
    ("What is the opposite of hot?", "cold", "warm"),
    ("In which season of the year does it snow?", "winter", "summer"),
    ("What colour is grass?", "green", "blue"),
]
behaviour = spt.AreYouSure(questions)
pairs = behaviour.pairs(model, n=4)
heads = spt.activation_patching(model, pairs, progress=False).top(2)
config = spt.TuneConfig(lr=1e-2, steps=3, batch_size=4)
run = spt.pinpoint_tune(model, heads, behaviour.training(n=8), config, progress=False)
found = spt.evaluate(model, behaviour, reference=run.adapter, progress=False)
assert found["kl"].value > 0 and found["retracted"].n == 4
print("works")
"""


def test_the_library_without_its_example(tmp_path: Path) -> None:
    shutil.copytree(
        Path(spt_lens.__file__).parent, tmp_path / "spt_lens", ignore=shutil.ignore_patterns("yesman", "__pycache__")
    )
    tiny_checkpoint("llama", tmp_path / "tiny")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])}

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )

    story = run("-c", STORY, str(tmp_path))
    assert story.stdout.strip() == "works", story.stderr
    demo = run("-m", "spt_lens.cli", "demo", "--quick")
    assert demo.returncode == 1
    assert demo.stderr == "spt-lens: this needs the embedded model, and spt_lens/yesman is not installed\n"
