"""Holds the plan's formulas against what this machine measures, at two sizes, in float32 on one thread.

    python -m tools.scaling_check

takes about ten minutes and writes notebooks/results/scaling.json, from which `tools.scaling_plan` makes its table; with
names of tasks ("replies" "attribution") only these are measured anew. Each figure comes from a process of its own:
memory from one in which freed memory goes back to the system at once, time from one in which it does not. Times are of
the process's own computing, in forward passes of the same tokens in the same process.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
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
PAIRS, TOKENS, SUFFIX = 8, 64, 16
BATCH, EPOCH, STEPS, WORDS, REPLY = 8, 2, 6, 32, 12  # batches an epoch; words of a dialogue before its reply, and in it
PROMPTS, NEW = 16, 16
ROUNDS, LONG = 3, 30  # rounds of each task, and seconds after which it has no more
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
            sizes.passes(method, TOKENS, suffix),
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
        return statistics.median(steps[EPOCH:])

    unit = sizes.forward(rows.numel(), width, read)
    kept = sizes.states(rows.numel() * EPOCH) if trained == "slices" else 0
    how: Any = {"lowest": lowest, "heads": len(heads)} if trained == "slices" else {}
    return Task(
        run,
        lambda: view.logits(rows, at=torch.arange(width - read // BATCH, width).repeat(BATCH, 1)),
        sizes.step(trained, rows.numel(), width, read, **how) / unit,
        sizes.tuning(trained, rows.numel(), width, read, **how) + kept,
    )


def one(model_name: str, name: str) -> dict[str, float]:
    """One figure's row, measured in this process: time, or memory if SPT_LENS_MEMORY says so."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    model, sizes = load(model_name)
    work = task(name, model, sizes)
    with torch.no_grad():
        work.forward()
    if os.environ.get("SPT_LENS_MEMORY"):
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
    measured = statistics.median(runs) / unit
    return {"passes": work.passes, "passes measured": measured, "forward seconds": unit, "rounds": len(runs)}


def row(model: str, name: str) -> dict[str, Any]:
    """One row, each figure from a process of its own."""
    found: dict[str, Any] = {"model": model, "name": TITLES[model], "task": name}
    for memory in ("", "1"):
        # Freed memory goes back to the system, and an attention mask is as large as it is.
        trim = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"} if memory else {}
        environment = os.environ | {"OMP_NUM_THREADS": "1", "SPT_LENS_MEMORY": memory} | trim
        command = [sys.executable, "-m", "tools.scaling_check", "--one", model, name]
        said = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout
        found |= json.loads(said.splitlines()[-1])
    return found


def measure(tasks: Sequence[str]) -> None:
    """Measures these at both sizes; rows of others stay as they are in the result, which is written after each."""
    rows = saving.load_json(RESULT, KIND, dict)["rows"] if RESULT.exists() else []
    by = {(each["model"], each["task"]): each for each in rows}
    for model in MODELS:
        for name in tasks:
            by[model, name] = new = row(model, name)
            print(new, flush=True)
            kept = [by[key] for key in ((m, t) for m in MODELS for t in TASKS) if key in by]
            versions = {"torch": torch.__version__, "transformers": transformers.__version__}
            saving.save_json(RESULT, KIND, {"rows": kept, **versions})


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        print(json.dumps(one(*sys.argv[2:])))
    else:
        measure(sys.argv[1:] or TASKS)
