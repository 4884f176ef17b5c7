"""One run of at most eight minutes that says what this project takes on a GPU.

    python -m tests.benchmarks.gpu --out gpu.json

For Llamas of random weights in bfloat16, shaped like Llama-3.2-1B and Llama-2-7B: loading; activation patching against
TransformerLens's own loop on a sample of heads, scaled to all; path patching and attribution; replies against
transformers' `generate`; ranking in float32 and bfloat16; whether tuning leaves everything outside of the slices, and
its undoing everything, bit for bit; a tuning step and its peak memory against LoRA and full fine-tuning where they fit.
Nothing is downloaded. `--size tiny` runs on a CPU within a minute: it shows that the script works, and no speed.

Each section has seconds of its own; one that takes longer, or more memory than there is, is cut off and says so. What
is known is printed as it comes and written to `--out` after every section. Figures that end in _gib are above what was
held before.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import platform
import tempfile
import time
import warnings
from collections.abc import Sequence
from pathlib import Path

import psutil
import torch

from .course import Course, Row
from .models import SIZES
from .sections import Bench

GROUPS = {"all": ("1b", "7b"), **{name: (name,) for name in SIZES}}


def about(device: torch.device) -> Row:
    """What this is measured on."""
    packages = ("torch", "transformers", "transformer-lens", "peft")
    found: Row = {"device": platform.processor() or platform.machine(), "python": platform.python_version()}
    if device.type == "cuda":
        card = torch.cuda.get_device_properties(device)
        found |= {"device": card.name, "memory_gib": card.total_memory / 2**30, "cuda": torch.version.cuda}
    return found | {"versions": {name: importlib.metadata.version(name) for name in packages}}


def run_size(course: Course, name: str, folder: Path, device: torch.device) -> None:
    """All sections of one size; the cheap and important ones first."""
    bench = Bench(SIZES[name], device, folder)
    sections = (
        ("weights made on the device", 60, bench.weights),
        ("transformers' generate", 40, bench.generate),
        ("loading", 90, bench.loading),
        ("a forward pass", 30, bench.forward),
        ("exactness of slices and undo", 60, bench.exactness),
        ("activation patching, last position", 60, lambda row: bench.sweep(row, "last")),
        ("tuning, heads from the middle on", 60, lambda row: bench.tuning(row, "slices", 1 / 2)),
        ("tuning, heads in the top third", 60, lambda row: bench.tuning(row, "slices", 2 / 3)),
        ("tuning, LoRA of rank 16", 60, lambda row: bench.tuning(row, "lora")),
        ("tuning, full", 90, lambda row: bench.tuning(row, "full")),
        ("replies", 40, bench.replies),
        ("path patching to the logits", 40, bench.path),
        ("attribution", 40, bench.attribution),
        ("activation patching, all positions", 90, lambda row: bench.sweep(row, "all")),
        ("float32 against bfloat16", 60, bench.precision),
    )
    for title, seconds, work in sections:
        course.section(name, title, seconds, work)


def main(arguments: Sequence[str] | None = None, started: float | None = None) -> int:
    """Gives the number of sections that failed. started: what the seconds count from; default: now."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=GROUPS, default="all")
    parser.add_argument("--device", help="default: cuda where there is one, else the CPU")
    parser.add_argument("--seconds", type=float, default=460, help="of the whole run, from its start")
    parser.add_argument("--out", type=Path, help="a JSON file for what was measured")
    options = parser.parse_args(arguments)
    device = torch.device(options.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if device.type == "cpu" and options.size != "tiny":
        parser.error("there is no GPU here: --size tiny shows on a CPU that the script works")
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", torch.cuda.current_device())
    warnings.simplefilter("ignore")  # of random models there is much to warn about
    course = Course(options.out, (started or time.time()) + options.seconds, device, about(device))
    print(" ".join(f"{name}: {value}" for name, value in course.found.items() if name != "sections"), flush=True)
    for name in GROUPS[options.size]:
        with tempfile.TemporaryDirectory() as folder:
            run_size(course, name, Path(folder), device)
    print(f"{len(course.found['sections'])} sections, {len(course.failed)} failed", flush=True)
    return len(course.failed)


if __name__ == "__main__":
    raise SystemExit(main(started=psutil.Process().create_time()))
