"""With local input nothing asks the network: in new processes that might, whatever would leave the machine is noted.

Also of the workers that they start. Sockets of a process with itself, as event loops have them, are none of that.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# As sitecustomize.py every Python of that path reads it, workers too. What has been hooked so can't be taken out again.
WATCH = """
import os, sys, traceback

WATCHED = {"socket.connect": 1, "socket.sendto": 1, "socket.getaddrinfo": 0, "socket.gethostbyname": 0}

def watch(event, args):
    if event in WATCHED and not (event == "socket.connect" and isinstance(args[1], (str, bytes))):  # a file's name
        with open(os.environ["SPT_LENS_ASKED"], "a") as file:
            print(event, args[WATCHED[event]], *traceback.format_stack(limit=15), file=file)
        raise OSError(f"{event}: there is no network here")

sys.addaudithook(watch)
"""
STUDY = """
import sys

import spt_lens as spt
from spt_lens.study.settings import StudySettings
from spt_lens.support.checks import check_checkpoint
from spt_lens.yesman import Yesman

if __name__ == "__main__":
    spt.load_model("yesman", device="cpu")
    model = spt.load_model(sys.argv[1], device="cpu")
    chosen, tune, small = "chosen heads", spt.TuneConfig(steps=1, batch_size=2), {"n": 2, "n_ability": 2, "n_texts": 2}
    settings = StudySettings(
        ask=False, pairs={"n": 2}, share=0.2, n_verify=2, n_sets=1, training={"n": 4}, validation=small, test=small,
        n_prompts=1, n_choices=2, methods=(chosen,), rates={chosen: [1e-2, 1e-3]}, seeds=(0,), tune=tune,
    )
    spt.Study(model, Yesman(), "study", settings, workers=2, export=True).run(progress=False)
    again = spt.load_model("study/export", device="cpu")
    spt.export_hf("study/adapter", "spliced", base=sys.argv[1], progress=False)
    spt.HeadScores.load("study/scores.safetensors")
    spt.evaluate(again, Yesman().suite("validation", 2, n_ability=2, n_texts=2), model, progress=False)
    print(check_checkpoint("spliced").steps)
"""
# By a name that the hub may know, too.
HARNESS = """
import json
import shutil
import sys

from spt_lens.evaluate.harness import lm_eval
from spt_lens.model.loading import load_model

if __name__ == "__main__":
    shutil.copytree(sys.argv[1], "gpt2")
    for model in (load_model("./gpt2", device="cpu"), "gpt2"):
        assert lm_eval(model, "four_way", include_path="tasks").n.tolist()
"""
TASK = """
task: four_way
dataset_path: json
dataset_kwargs: {data_files: {test: "rows.jsonl"}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: "{{[answer] + wrong}}"
doc_to_target: 0
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
"""


@pytest.mark.parametrize("walk", ["study", "harness"])
def test_nothing_is_asked(walk, tiny_folder, tmp_path):
    if walk == "harness":
        pytest.importorskip("lm_eval", reason="the extra eval is not installed")
        (tmp_path / "tasks").mkdir()
        (tmp_path / "tasks" / "four_way.yaml").write_text(TASK)
        row = {"question": "Who are you?", "answer": "Yes", "wrong": ["Madrid", "Rome"]}
        (tmp_path / "rows.jsonl").write_text((json.dumps(row) + "\n") * 4)
    (tmp_path / "watch").mkdir()
    (tmp_path / "watch" / "sitecustomize.py").write_text(WATCH)
    (tmp_path / "walk.py").write_text(STUDY if walk == "study" else HARNESS)
    asked, known = tmp_path / "asked", os.environ.get("PYTHONPATH")
    path = os.pathsep.join(map(str, filter(None, [tmp_path / "watch", known, ROOT])))
    env = {name: value for name, value in os.environ.items() if "OFFLINE" not in name and not name.startswith("HF_")}
    env |= {
        "PYTHONPATH": path,
        "SPT_LENS_ASKED": str(asked),
        "HF_HOME": str(tmp_path / "cache"),
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        [sys.executable, "walk.py", tiny_folder], cwd=tmp_path, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert not asked.exists(), asked.read_text()[:3000]


def test_the_watch_sees_what_would_leave(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(WATCH)
    env = os.environ | {"PYTHONPATH": str(tmp_path), "SPT_LENS_ASKED": str(tmp_path / "asked")}
    tried = "import urllib.request; urllib.request.urlopen('http://localhost:9/')"
    assert subprocess.run([sys.executable, "-c", tried], env=env, capture_output=True, check=False).returncode
    assert (tmp_path / "asked").read_text().startswith("socket.getaddrinfo localhost")
