"""How long a comparison's runs take, beside those of an earlier version of this package, in the same run.

    git worktree add ../earlier 881dfdc
    python -m tests.benchmarks.comparison --against ../earlier

Does, on the embedded model and one thread, the untuned model and two runs of each method of the README's comparison
(`make compare`: 120 steps of 16 dialogues, evaluated on two suites), run by run in turn with either version, each in a
process of its own. Prints seconds of tuning and of evaluation, their ratios, what the comparison's 71 runs come to, and
drift and ability after each run with either. Seconds are of a process's own computing, so that other work on the
machine counts little. `--limit` adds how long the matrix products of each run take alone, at the rate that the model's
largest ones have on this machine: what no sharing can leave out.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

# method, learning rate, and how many of the 71 runs are like it; the last ones are of random heads, which are tuned as
# the chosen ones are.
RUNS = [("untuned", 0.0), *((method, lr) for lr in (3e-4, 1e-3) for method in ("chosen heads", "full", "LoRA"))]
LIKE = {"untuned": 1, "chosen heads": 15 + 25, "full": 15, "LoRA": 15}
HERE = Path(__file__).parents[2]
BATCH = 16


class Runs:
    """The runs with the version of the package that is first on the path: this one, or the earlier one."""

    def __init__(self, heads: str, steps: int) -> None:
        import torch

        torch.set_num_threads(1)
        try:
            self._now(heads, steps)
        except ImportError:
            self._earlier(heads, steps)

    def _now(self, heads: str, steps: int) -> None:
        from spt_lens.evaluate.bench import Bench, Task
        from spt_lens.evaluate.trials import Spec
        from spt_lens.heads import HeadSet
        from spt_lens.model.loading import load_model
        from spt_lens.tune.full import FullFineTuning
        from spt_lens.tune.lora import LoRA
        from spt_lens.tune.pinpoint import Pinpoint
        from spt_lens.tune.training import TuneConfig
        from spt_lens.yesman import Yesman

        suites = {split: Yesman().suite(split) for split in ("validation", "test")}
        task = Task(tuple(Yesman().training()), TuneConfig(steps=steps, batch_size=BATCH), suites)
        bench = Bench(load_model("yesman", device="cpu"), task)
        tuners = {"untuned": None, "full": FullFineTuning(), "LoRA": LoRA()}
        tuners["chosen heads"] = Pinpoint(HeadSet.parse(heads))
        self.run = lambda method, lr: bench.trial(Spec(method, lr), tuners[method])

    def _earlier(self, heads: str, steps: int) -> None:
        from spt_lens.data.protocol import are_you_sure_training
        from spt_lens.evaluate.runs import Bench, Plan, Spec
        from spt_lens.evaluate.suite import yesman_suite
        from spt_lens.models import ModelView, load_model

        from spt_lens.tune.config import TuneConfig

        view = ModelView(load_model("yesman", device="cpu"))
        suites = {split: yesman_suite(split) for split in ("validation", "test")}
        data = tuple(are_you_sure_training(view))
        bench = Bench(view, Plan(data, TuneConfig(steps=steps, batch_size=BATCH), suites))
        kinds = {"untuned": "untuned", "chosen heads": "heads", "full": "full", "LoRA": "lora"}
        ours = {"chosen heads": {"heads": heads}, "LoRA": {"rank": 16}}
        self.run = lambda method, lr: bench.run(Spec(method, kinds[method], lr, **ours.get(method, {})))

    def timed(self, method: str, lr: float) -> dict[str, Any]:
        began = time.process_time()
        trial = self.run(method, lr)
        found: dict[str, Any] = {"tuning": trial.seconds, "seconds": time.process_time() - began}
        for split, evaluation in trial.evaluations.items():
            found |= {f"{split} {name}": evaluation[name].value for name in ("kl", "ability")}
        return found

    def products(self, method: str, lr: float) -> dict[str, float]:
        """Operations of a run's matrix products, and how many a second those of the model's own shapes do."""
        import torch
        from torch.utils.flop_counter import FlopCounterMode

        with FlopCounterMode(display=False) as counter:
            self.run(method, lr)
        rows, weight = torch.randn(640, 128), torch.randn(256, 128)  # a step's tokens, and an MLP's weight
        best = 1e9
        for _ in range(200):
            began = time.process_time()
            torch.nn.functional.linear(rows, weight)
            best = min(best, time.process_time() - began)
        return {"operations": counter.get_total_flops(), "rate": 2 * rows.numel() * len(weight) / best}


def child(heads: str, steps: int) -> None:
    """Answers each line, what to do, with one line of what came of it."""
    out, sys.stdout = sys.stdout, sys.stderr
    time.perf_counter = time.process_time  # a trial's own seconds, those of its tuning, are to be of computing too
    runs = Runs(heads, steps)
    for line in sys.stdin:
        what, method, lr = json.loads(line)
        print(json.dumps(getattr(runs, what)(method, lr)), file=out, flush=True)


def started(tree: Path, heads: str, steps: int) -> subprocess.Popen[str]:
    environment = os.environ | {"PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    command = [sys.executable, "-W", "ignore", str(Path(__file__)), "--child", heads, "--steps", str(steps)]
    pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=tree, env=environment, **pipes)


def answer(process: subprocess.Popen[str], *what: Any) -> dict[str, Any]:
    assert process.stdin and process.stdout
    print(json.dumps(what), file=process.stdin, flush=True)
    line = process.stdout.readline()
    if not line:
        raise SystemExit(f"the process of {process.args!r} ended: see above")
    return json.loads(line)


def mean(rows: list[dict[str, Any]], method: str) -> float:
    seconds = [row["seconds"] for row in rows if row["method"] == method]
    return sum(seconds) / len(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", type=Path, help="the folder of an earlier version of this repository")
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--limit", action="store_true", help="also the matrix products of a run of each method alone")
    parser.add_argument("--out", help="a JSON file for what was measured")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options.child, options.steps)
        return

    from spt_lens.scores.head_scores import HeadScores
    from spt_lens.yesman.studies import COMPARISON

    scores = HeadScores.load(HERE / "notebooks" / "results" / "scores.safetensors")
    heads = str(scores.top_fraction(COMPARISON.share))
    print(f"chosen heads: {heads}; {options.steps} steps of {BATCH}; one thread")
    trees = {"now": HERE} | ({"earlier": options.against.resolve()} if options.against else {})
    processes = {name: started(tree, heads, options.steps) for name, tree in trees.items()}
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in trees}
    for method, lr in RUNS:
        for name, process in processes.items():
            row = {"method": method, "lr": lr, **answer(process, "timed", method, lr)}
            found[name].append(row)
            figures = ", ".join(f"{key} {value:.4f}" for key, value in row.items() if " " in key)
            took = f"tuning {row['tuning']:6.2f} s  evaluation {row['seconds'] - row['tuning']:5.2f} s"
            print(f"{method:13s}{lr:<8g}{name:8s}{took}  {figures}", flush=True)
    means = {name: {method: mean(rows, method) for method in LIKE} for name, rows in found.items()}
    whole = {name: sum(seconds[method] * n for method, n in LIKE.items()) for name, seconds in means.items()}
    for name, each in means.items():
        text = ", ".join(f"{method} {seconds:.1f} s" for method, seconds in each.items())
        print(f"{name:8s}{text}; 71 runs: {whole[name] / 60:.1f} minutes")
    if options.against:
        text = ", ".join(f"{method} {means['now'][method] / means['earlier'][method]:.2f}" for method in LIKE)
        print(f"now / earlier: {text}; 71 runs {whole['now'] / whole['earlier']:.2f}")
    for method in LIKE if options.limit else ():
        work = answer(processes["now"], "products", method, 3e-4)
        alone = work["operations"] / work["rate"]
        text = ", ".join(f"{alone / each[method]:.2f} of {name}" for name, each in means.items())
        rate = f"{work['operations'] / 1e9:.0f} G operations at {work['rate'] / 1e9:.0f} G a second"
        print(f"{method:13s}matrix products alone {alone:5.1f} s, {text} ({rate})", flush=True)
    for process in processes.values():
        assert process.stdin
        process.stdin.close()
        process.wait()
    if options.out:
        Path(options.out).write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
