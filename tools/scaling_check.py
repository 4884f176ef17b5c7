"""Holds the plan's formulas against what this machine measures, at two sizes, in float32 on one thread.

    python -m tools.scaling_check

takes about ten minutes and writes notebooks/results/scaling.json, from which `tools.scaling_plan` makes its table; with
names of tasks ("replies" "attribution") only these are measured anew. Memory and time come from processes of their own:
memory from one in which freed memory goes back to the system at once. Times are of the process's own computing, in
forward passes of the same tokens in the same process.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers

import spt_lens as spt
from spt_lens import saving
from spt_lens.chat.template import prompt_ids
from spt_lens.model.targets import encode_all
from spt_lens.model.view import ModelView
from spt_lens.patching.activation import Activation
from spt_lens.patching.attribution import Attribution
from spt_lens.patching.path import Path as PathMethod
from spt_lens.tune.full import FullFineTuning
from spt_lens.tune.lora import LoRA
from spt_lens.tune.pinpoint import Pinpoint
from spt_lens.tune.tuner import Tuner
from tools.made_up import made_up_dialogues, made_up_pairs, made_up_prompts, spread_heads
from tools.peak import spent, step_ends
from tools.scaling_formulas import Sizes, Trained
from tools.yesman.build import make_tokenizer

RESULT, KIND = Path("notebooks/results/scaling.json"), "scaling"
PAIRS, TOKENS, SUFFIX = 4, 64, 16
BATCH, EPOCH, STEPS, WORDS, REPLY = 4, 2, 5, 32, 12  # batches an epoch; words of a dialogue before its reply, and in it
PROMPTS, NEW = 8, 12
ROUNDS, LONG = 3, 6  # rounds of each task, and seconds after which it has no more
TITLES = {"smollm2": "SmolLM2-135M", "llama-12x12": "Llama of 12 x 12 heads, d_model 768"}
MODELS = tuple(TITLES)


@dataclass(frozen=True)
class Task:
    """run: the work, once; it gives seconds of computing, where its whole is not what counts. forward: what counts as
    one forward pass. passes: how many of these are predicted, and bytes: memory above the weights."""

    run: Callable[[], float | None]
    forward: Callable[[], Any]
    passes: float
    bytes: float


def load(name: str) -> tuple[Any, Sizes]:
    """A model, and its sizes."""
    if name != MODELS[1]:
        model = spt.load_model(name, device="cpu")
        view = ModelView(model)
        return model, Sizes.of_config(view.name, view.backend.root.config, 4)  # type: ignore[arg-type]
    config = transformers.LlamaConfig(
        vocab_size=32000, hidden_size=768, intermediate_size=2048, num_hidden_layers=12, num_attention_heads=12
    )
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
        make_tokenizer().save_pretrained(folder)
        return spt.load_model(folder, device="cpu"), Sizes.of_config("Llama, 12 x 12, d_model 768", config, 4)


def task(name: str, model: Any, sizes: Sizes) -> Task:
    view = ModelView(model)
    measuring: dict[str, tuple[Any, Any, int, dict[str, Any]]] = {
        "sweep, last position": (spt.activation_patching, Activation(), 1, {}),
        "sweep, all positions": (spt.activation_patching, Activation(), SUFFIX, {"positions": "all"}),
        "path patching": (spt.path_patching, PathMethod(), 1, {}),
        "attribution": (spt.attribution_patching, Attribution(), 1, {}),
    }
    if name in measuring:
        function, method, suffix, how = measuring[name]
        given = made_up_pairs(model, PAIRS, TOKENS, SUFFIX)
        tokens, at = torch.tensor(given.sycophantic), torch.full((PAIRS,), TOKENS - 1)
        how |= {"batch_size": PAIRS, "progress": False}
        return Task(
            lambda: _nothing(function(model, given, **how)),
            lambda: view.logits(tokens, at=at),
            sizes.passes(method, TOKENS, suffix, PAIRS),
            PAIRS * sizes.prompt(TOKENS) * method.memory,
        )
    if name == "replies":
        return _replies(view, sizes)
    return _tuning(name, model, sizes)


def _nothing(result: object) -> None:
    del result


def _replies(view: ModelView, sizes: Sizes) -> Task:
    rows = [prompt_ids(view.tokenizer, each) for each in made_up_prompts(view.tokenizer, PROMPTS, WORDS)]
    tokens, at = torch.tensor(rows), torch.full((PROMPTS,), len(rows[0]) - 1)
    new = view.generate(rows, NEW).shape[1]
    width = tokens.shape[1]
    unit = sizes.forward(tokens.numel(), width, PROMPTS)
    later = sum(sizes.forward(PROMPTS, width + i, PROMPTS) for i in range(1, new))
    return Task(
        lambda: _nothing(view.generate(rows, NEW)),
        lambda: view.logits(tokens, at=at),
        (unit + later) / unit,
        sizes.keys_and_values(PROMPTS, width + new) + PROMPTS * sizes.prompt(width),
    )


TUNING: dict[str, tuple[Trained, float]] = {
    "tuning, from the middle": ("slices", 1 / 2),
    "tuning, top third": ("slices", 2 / 3),
    "LoRA, rank 16": ("lora", 0),
    "full fine-tuning": ("full", 0),
}
TASKS = ("sweep, last position", "sweep, all positions", "path patching", "attribution", *TUNING, "replies")


def _tuning(name: str, model: Any, sizes: Sizes) -> Task:
    trained, share = TUNING[name]
    lowest = round(share * sizes.n_layers)
    heads = spread_heads(sizes.n_layers, sizes.n_heads, lowest)
    tuner: Tuner = {"slices": Pinpoint(heads), "lora": LoRA(16), "full": FullFineTuning()}[trained]
    view = ModelView(model)
    given = made_up_dialogues(view.tokenizer, BATCH * EPOCH, WORDS, REPLY)
    encoded = encode_all(view, given)
    rows = torch.tensor([ids for ids, _ in encoded[:BATCH]])
    read, width = sum(sum(target) for _, target in encoded[:BATCH]), rows.shape[1]
    config = spt.TuneConfig(lr=1e-4, steps=STEPS, batch_size=BATCH)

    def run() -> float:
        with step_ends(clock=time.process_time) as ends:
            tuner.tune(model, given, config, progress=False).undo(model)
        steps = [after - before for before, after in zip(ends, ends[1:], strict=False)]
        return statistics.median(steps[1:])

    unit = sizes.forward(rows.numel(), width, read)
    kept = sizes.states(rows.numel() * EPOCH) if trained == "slices" else 0
    how: Any = {"lowest": lowest, "heads": len(heads)} if trained == "slices" else {}
    return Task(
        run,
        lambda: view.logits(rows, at=torch.arange(width - read // BATCH, width).repeat(BATCH, 1)),
        sizes.step(trained, rows.numel(), width, read, **how) / unit,
        sizes.tuning(trained, rows.numel(), width, read, **how) + kept,
    )


def measured(model: Any, sizes: Sizes, name: str, memory: bool) -> dict[str, float]:
    """Of one task: memory, or else time."""
    work = task(name, model, sizes)
    with torch.no_grad():
        work.forward()
    if memory:
        with spent() as took:
            work.run()
        return {"memory": work.bytes / 2**30, "memory measured": took.peak}
    units: list[float] = []
    runs: list[float] = []
    whole: list[float] = []
    while len(runs) < ROUNDS and sum(whole) < LONG:
        with spent() as forward, torch.no_grad():
            work.forward()
        with spent() as took:
            seconds = work.run()
        units.append(forward.computing)
        whole.append(took.computing)
        runs.append(took.computing if seconds is None else seconds)
    unit = statistics.median(units)
    passes = statistics.median(runs) / unit
    return {"passes": work.passes, "passes measured": passes, "forward seconds": unit, "rounds": len(runs)}


def in_this_process(model_name: str, tasks: Sequence[str]) -> None:
    """Prints a line of JSON for each task. Memory if SPT_LENS_MEMORY says so, else time."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    memory = bool(os.environ.get("SPT_LENS_MEMORY"))
    model, sizes = load(model_name)
    with torch.no_grad():
        for weight in ModelView(model).weights().values():
            weight.sum()  # read from the file only now, where nobody has looked at it
    for name in tasks:
        print(json.dumps({"task": name, **measured(model, sizes, name, memory)}), flush=True)


def figures(model: str, tasks: Sequence[str], memory: bool) -> Iterator[dict[str, Any]]:
    """From a process of its own, as they come."""
    # Freed memory goes back to the system, and an attention mask is as large as it is.
    trim = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"} if memory else {}
    environment = os.environ | {"OMP_NUM_THREADS": "1", "SPT_LENS_MEMORY": "1" if memory else ""} | trim
    command = [sys.executable, "-m", "tools.scaling_check", "--here", model, *tasks]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield from map(json.loads, process.stdout)
    if process.returncode:
        raise SystemExit(process.returncode)


def measure(models: Sequence[str], tasks: Sequence[str]) -> None:
    """Measures these; other figures stay as they are in the result, which is written after each."""
    for model in models:
        for memory in (False, True):
            for new in figures(model, tasks, memory):
                print(model, new, flush=True)
                rows = saving.load_json(RESULT, KIND, dict)["rows"] if RESULT.exists() else []
                by = {(each["model"], each["task"]): each for each in rows}
                key = model, new["task"]
                by[key] = {"model": model, "name": TITLES[model], **by.get(key, {}), **new}
                kept = [by[key] for key in ((m, t) for m in MODELS for t in TASKS) if key in by]
                versions = {"torch": torch.__version__, "transformers": transformers.__version__}
                saving.save_json(RESULT, KIND, {"rows": kept, **versions})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="*", metavar="TASK", help=f"default: all of {', '.join(TASKS)}")
    parser.add_argument("--model", choices=MODELS, help="default: both")
    parser.add_argument("--here", choices=MODELS, help=argparse.SUPPRESS)  # in this process, one line for each
    options = parser.parse_args()
    tasks = options.tasks or TASKS
    if unknown := set(tasks) - set(TASKS):
        parser.error(f"no such task: {', '.join(unknown)}")
    if options.here:
        in_this_process(options.here, tasks)
    else:
        measure([options.model] if options.model else MODELS, tasks)


if __name__ == "__main__":
    main()
