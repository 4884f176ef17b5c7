"""What a step of pinpoint tuning costs with transformers' own attention, beside the bridge's, in the same run.

    python -m tests.benchmarks.attention --model smollm2

Steps (a pass forward and one backward) through the whole model, on one thread, for batches of several shapes, in turn
with either kind. Prints seconds of the process's own computing, so that other work on the machine counts little, as the
median of the rounds with the lowest and the highest, the memory that a step takes at its peak above the model (Linux),
and the median of the rounds' ratios.
"""

from __future__ import annotations

import argparse
import statistics
import time
from contextlib import nullcontext

import torch

from spt_lens.chat.batches import Reads
from spt_lens.heads import HeadSet
from spt_lens.model.attention_kind import without_patterns
from spt_lens.model.loading import load_model
from spt_lens.model.targets import model_logits
from spt_lens.model.view import ModelView
from spt_lens.tune.slices import SliceMask, head_slices
from tools.peak import peak, reset_peak

KINDS = ("bridge", "sdpa")


def step(view: ModelView, kind: str, rows: int, length: int) -> tuple[float, float]:
    """Seconds of computing, and GiB. The last quarter of each row is learned, as of a chat, by a head at either end."""
    tokens = torch.randint(6, view.vocab_size, (rows, length), generator=torch.Generator().manual_seed(0))
    where = (torch.arange(length) >= length - length // 4).expand(rows, length)
    reads = Reads(tokens, where, torch.full((rows,), length))
    slices = head_slices(view, HeadSet.of("L0.H0", f"L{view.n_layers - 1}.H0"))
    with without_patterns(view) if kind == "sdpa" else nullcontext(kind) as used, SliceMask(view, slices):
        if used != kind:
            raise SystemExit(f"{view.name} keeps to the bridge's attention: there is nothing to compare")
        held, began = reset_peak(), time.process_time()
        model_logits(view)(reads).log_softmax(-1)[:, 0].sum().backward()
        return time.process_time() - began, peak() - held


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--shapes", default="16x70,4x1000", help="rows x tokens of each batch")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    view = ModelView(load_model(options.model, device="cpu"))
    for shape in options.shapes.split(","):
        rows, length = map(int, shape.split("x"))
        taken: dict[str, list[tuple[float, float]]] = {kind: [] for kind in KINDS}
        for kind in KINDS:
            step(view, kind, 1, 8)  # the first one tries
        for number in range(options.rounds):
            for kind in KINDS if number % 2 else KINDS[::-1]:
                taken[kind].append(step(view, kind, rows, length))
        for kind, found in taken.items():
            seconds, memory = zip(*found, strict=True)
            spread = f"{statistics.median(seconds):.2f} s ({min(seconds):.2f} to {max(seconds):.2f})"
            print(f"{rows} x {length} tokens, {kind:6s}: {spread}, {statistics.median(memory):.2f} GiB at the peak")
        ratio = statistics.median(new[0] / old[0] for old, new in zip(*taken.values(), strict=True))
        print(f"{rows} x {length} tokens: ratio {ratio:.2f}, of {options.rounds} rounds", flush=True)


if __name__ == "__main__":
    main()
