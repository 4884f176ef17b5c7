"""What a step of pinpoint tuning costs with transformers' own attention, beside the bridge's, in the same run.

    python -m tests.benchmarks.attention --model smollm2

Steps (a pass forward and one backward) of whole models, on one thread, for batches of several shapes, in turn with
either kind. Prints seconds of a process's own computing, so that other work on the machine counts little, as the median
of the rounds with the lowest and the highest, the median of the rounds' ratios, and the memory that a step of each kind
takes at its peak above the model, in a process of its own.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import time
from contextlib import nullcontext
from typing import Any

import torch

KINDS = ("bridge", "sdpa")
SHAPES = ((16, 70), (4, 1000))


class Steps:
    """Steps on random tokens, with the slices of one head at either end of the model."""

    def __init__(self, name: str) -> None:
        from spt_lens.heads import HeadSet
        from spt_lens.model.loading import load_model
        from spt_lens.model.view import ModelView
        from spt_lens.tune.slices import head_slices

        torch.set_num_threads(1)
        self.view = ModelView(load_model(name, device="cpu"))
        self.slices = head_slices(self.view, HeadSet.of("L0.H0", f"L{self.view.n_layers - 1}.H0"))

    def step(self, kind: str, rows: int, length: int) -> float:
        """Seconds of computing; a quarter of the positions are learned, as of a chat."""
        from spt_lens.chat.batches import Reads
        from spt_lens.model.attention_kind import without_patterns
        from spt_lens.model.targets import model_logits
        from spt_lens.tune.slices import SliceMask

        tokens = torch.randint(6, self.view.vocab_size, (rows, length), generator=torch.Generator().manual_seed(0))
        where = (torch.arange(length) >= length - length // 4).expand(rows, length)
        reads = Reads(tokens, where, torch.full((rows,), length))
        with (
            without_patterns(self.view) if kind == "sdpa" else nullcontext(kind) as used,
            SliceMask(self.view, self.slices),
        ):
            if used != kind:
                raise SystemExit("this model keeps to the bridge's attention: there is nothing to compare")
            began = time.process_time()
            model_logits(self.view)(reads).log_softmax(-1)[:, 0].sum().backward()
            return time.process_time() - began


def peak(name: str, kind: str, rows: int, length: int) -> float:
    """GiB above what the process held after a tiny step."""
    steps = Steps(name)
    steps.step(kind, 1, 8)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    held = _held()
    steps.step(kind, rows, length)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return (after - held) / 2**20 if after > before else 0.0


def _held() -> int:
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--shapes", default=",".join(f"{rows}x{length}" for rows, length in SHAPES))
    parser.add_argument("--peak", choices=KINDS, help=argparse.SUPPRESS)  # in a process of its own
    options = parser.parse_args(arguments)
    shapes = [tuple(map(int, shape.split("x"))) for shape in options.shapes.split(",")]
    if options.peak:
        print(peak(options.model, options.peak, *shapes[0]))
        return
    steps = Steps(options.model)
    for rows, length in shapes:
        taken: dict[str, list[float]] = {kind: [] for kind in KINDS}
        for kind in KINDS:
            steps.step(kind, rows, length)  # the first one allocates
        for number in range(options.rounds):
            for kind in KINDS if number % 2 else KINDS[::-1]:
                taken[kind].append(steps.step(kind, rows, length))
        ratio = statistics.median(new / old for old, new in zip(*taken.values(), strict=True))
        memory: dict[str, Any] = {}
        for kind in KINDS:
            command = [sys.executable, "-m", "tests.benchmarks.attention", "--model", options.model, "--peak", kind]
            command += ["--shapes", f"{rows}x{length}"]
            memory[kind] = float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        for kind, seconds in taken.items():
            spread = f"{statistics.median(seconds):.2f} s ({min(seconds):.2f} to {max(seconds):.2f})"
            print(f"{rows} x {length} tokens, {kind:6s}: {spread}, {memory[kind]:.2f} GiB at the peak")
        print(f"{rows} x {length} tokens: ratio {ratio:.2f}, of {options.rounds} rounds", flush=True)


if __name__ == "__main__":
    main()
