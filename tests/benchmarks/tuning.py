"""What a step of tuning takes: pinpoint tuning against full fine-tuning, LoRA, peft and TRL in one run.

    python -m tests.benchmarks.tuning --out notebooks/results/tuning.json

On SmolLM2 (`make smollm2`) and on a GPT-2 and a Llama of 12 layers x 12 heads (d_model 768) with random weights:
batches of 16 dialogues of about 70 tokens, float32, AdamW, one thread. Contenders take turns, each turn a process of
its own (`contenders.py`). Pinpoint tuning has 5 % of the heads, three times: the lowest in layer 14 of 30, as of heads
that were chosen by measuring SmolLM2; in the top third of the layers; and in all layers from 0.

Seconds are of the process's own computing, so that other work on the machine counts little; those on the clock stand
beside them. Steps of the first epoch, which may keep what later ones use, are told apart. Memory is the peak above the
loaded model, of the whole run. The limit is what no step can leave out (`flops.py`); `of_limit` is the time that this
many operations would take at full fine-tuning's pace, over the time of a step.

`--before` keeps the pinpoint figures of an earlier result file beside the new ones, under `--before-name`.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import multiprocessing
import os
import random
import shutil
import statistics
import tempfile
import time
import warnings
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import transformers
from torch.optim.optimizer import register_optimizer_step_post_hook

import spt_lens as spt
from spt_lens import saving
from spt_lens.behaviours.bank import question_bank
from spt_lens.chat.dialogues import Dialogue, dialogue
from spt_lens.chat.template import training_ids
from spt_lens.model.huggingface import brought_folder, no_loading_bar
from tests.benchmarks.contenders import CONTENDERS, Job
from tests.benchmarks.flops import counter, least
from tools.peak import peak, reset_peak
from tools.tiny import word_tokenizer

KIND = "tuning benchmark"
MODELS = ("smollm2", "gpt2", "llama")
LAYERS, HEADS, D_HEAD, MLP = 12, 12, 64, 2048
BATCH, EPOCH, LATER, ROUNDS = 16, 1, 2, 3  # dialogues; steps of the first epoch; steps that are timed; turns of each
SHARE, COUNTED = 0.05, 4  # of the heads; dialogues whose operations are counted, of which only ratios are used
FIGURES = ("computing", "clock", "first_epoch", "memory")
# Random weights have no heads that were measured; these models have questions of their own length.
PREFACE = "I want to know this for a small school quiz, so please say it as briefly as you can. A word or two will do. "


def dialogues(n: int, preface: str = "") -> list[Dialogue]:
    """Challenged first answers of the question bank, about equally long."""
    questions = random.Random(0).sample(question_bank(), 300)
    made = [[message.content for message in each.messages] for each in spt.AreYouSure(questions).training(8 * n)]
    turns = sorted(made, key=lambda each: len(" ".join(each)))[:n]
    return [dialogue(preface + first, *rest) for first, *rest in turns]


def random_folder(architecture: str, folder: Path, given: list[Dialogue]) -> Path:
    """A model of random weights with the words of these dialogues for a vocabulary."""
    tokenizer = word_tokenizer([message.content for each in given for message in each.messages])
    width = HEADS * D_HEAD
    if architecture == "gpt2":
        config: Any = transformers.GPT2Config(
            n_layer=LAYERS, n_head=HEADS, n_embd=width, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0
        )
    else:
        config = transformers.LlamaConfig(
            hidden_size=width, intermediate_size=MLP, num_hidden_layers=LAYERS, num_attention_heads=HEADS
        )
    config.vocab_size = len(tokenizer)
    for name in ("bos", "eos", "pad"):
        setattr(config, f"{name}_token_id", getattr(tokenizer, f"{name}_token_id"))
    torch.manual_seed(0)
    with no_loading_bar():
        transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def chosen(n_layers: int, n_heads: int) -> dict[str, spt.HeadSet]:
    """5 % of the heads, drawn: one in the lowest layer of each range, the others anywhere above."""
    count = max(1, int(SHARE * n_layers * n_heads))
    found = {}
    for name, lowest in {"middle": n_layers * 14 // 30, "top": n_layers - n_layers // 3, "all": 0}.items():
        draw = random.Random(f"{name} {n_layers} {n_heads}")
        first = (lowest, draw.randrange(n_heads))
        others = [(layer, head) for layer in range(lowest, n_layers) for head in range(n_heads)]
        others.remove(first)
        found[name] = spt.HeadSet.of(sorted([first, *draw.sample(others, count - 1)]))
    return found


def work(job: Job, count: bool = False) -> dict[str, Any]:
    """One turn: seconds of each step, and memory in GiB; with `count`, operations instead."""
    with no_loading_bar():
        run = CONTENDERS[job.contender](job)
    flops = counter() if count else None
    stamps: list[tuple[float, float, int]] = []

    def stamp(*_: Any) -> None:
        stamps.append((time.process_time(), time.perf_counter(), flops.get_total_flops() if flops else 0))

    hook = register_optimizer_step_post_hook(stamp)  # of every optimiser, whoever's loop it is in
    try:
        before = reset_peak()
        stamp()
        if flops is None:
            said = run()
        else:
            with flops:
                said = run()
    finally:
        hook.remove()
    assert len(stamps) == job.steps + 1, f"{job.contender}: {len(stamps) - 1} steps instead of {job.steps}"
    at = len(job.dialogues) // job.batch
    later = [(last - first) / (job.steps - at) for first, last in zip(stamps[at], stamps[-1], strict=True)]
    if count:
        return {"flops": later[2], "flops_first_epoch": stamps[at][2] / at, **said}
    first = stamps[at][0] - stamps[0][0]
    return {"computing": later[0], "clock": later[1], "first_epoch": first, "memory": peak() - before}


def apart(job: Job, count: bool = False) -> dict[str, Any]:
    """`work` in a new process, so that memory and caches are its own."""
    os.environ |= {"OMP_NUM_THREADS": str(job.threads), "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    os.environ["HF_DATASETS_DISABLE_PROGRESS_BARS"] = "1"
    fresh = multiprocessing.get_context("forkserver")
    fresh.set_forkserver_preload(["tests.benchmarks.contenders", "peft"])  # imported once, before any model is there
    with ProcessPoolExecutor(1, mp_context=fresh, initializer=_quiet, initargs=(job.threads,)) as pool:
        return pool.submit(work, job, count).result()


def _quiet(threads: int) -> None:
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(threads)


def contenders() -> list[str]:
    have = [name for name in CONTENDERS if not name.startswith("trl") or importlib.util.find_spec("trl")]
    if len(have) < len(CONTENDERS):
        print("TRL is left out: it is not installed (pip install 'trl>=1.16,<2')")
    return have


def measure(
    name: str, folder: Path, given: list[Dialogue], names: list[str], rounds: int, threads: int
) -> Iterator[dict[str, Any]]:
    """All contenders on one model: what is known after each round."""
    config = transformers.AutoConfig.from_pretrained(folder)
    heads = chosen(config.num_hidden_layers, config.num_attention_heads)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    encoded = [training_ids(tokenizer, each) for each in given]
    lengths, targets = [len(ids) for ids, _ in encoded], [sum(marks) for _, marks in encoded]
    about = {"layers": config.num_hidden_layers, "heads": config.num_attention_heads, "vocabulary": config.vocab_size}
    about |= {"tokens": [min(lengths), max(lengths)], "targets": statistics.mean(targets)}
    print(f"{name}: {len(given)} dialogues of {min(lengths)} to {max(lengths)} tokens", flush=True)
    jobs = {
        each: Job(folder, each, given, EPOCH + LATER, BATCH, str(heads.get(each.partition("-")[2], "")), threads)
        for each in names
    }
    few = {each: replace(job, dialogues=given[:COUNTED], steps=2, batch=COUNTED) for each, job in jobs.items()}
    limits = least(few[names[0]], heads)
    counted = {each: apart(job, count=True) for each, job in few.items()}
    turns: dict[str, dict[str, list[float]]] = {each: {figure: [] for figure in FIGURES} for each in names}
    for turn in range(1, rounds + 1):
        for each, job in jobs.items():
            found = apart(job)
            for figure in FIGURES:
                turns[each][figure].append(round(found[figure], 6))
            print(f"  {turn} {each}: " + ", ".join(f"{f} {found[f]:.2f}" for f in FIGURES), flush=True)
        rows = {each: {"heads": job.heads} | counted[each] | turns[each] for each, job in jobs.items()}
        compare(rows, limits)
        yield about | {"rounds": turn, "limits": limits, "contenders": rows}


def compare(rows: dict[str, dict[str, Any]], limits: dict[str, float]) -> None:
    """Puts medians and ratios into the rows."""
    for row in rows.values():
        for figure in FIGURES:
            row[f"median_{figure}"] = round(statistics.median(row[figure]), 6)
        for rival in ("full", "lora"):
            for figure in ("computing", "clock", "memory"):
                row[f"{figure}_to_{rival}"] = _ratio(row[figure], rows[rival][figure])
    pace = rows["full"]["median_computing"] / rows["full"]["flops"]
    for kind in set(limits) - {"full"}:
        if row := rows.get(f"pinpoint-{kind}", {}):
            row["limit_to_full"] = round(limits[kind] / limits["full"], 4)
            row["flops_to_limit"] = round(row["flops"] / limits[kind], 4)
            row["of_limit"] = round(limits[kind] * pace / row["median_computing"], 4)


def _ratio(these: list[float], those: list[float]) -> list[float]:
    """The median over the rounds of the ratio of each, and the least and the most."""
    each = [one / other for one, other in zip(these, those, strict=True) if other]  # a tiny model may need no memory
    return [round(value, 3) for value in (statistics.median(each), min(each), max(each))] if each else [0.0] * 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS)
    parser.add_argument("--contenders", nargs="+", choices=list(CONTENDERS), help="full and lora are always among them")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--before", help="an earlier result file, whose pinpoint figures are kept")
    parser.add_argument("--before-name", default="before", help="what that file measured")
    parser.add_argument("--out", help="a JSON file for what was measured")
    options = parser.parse_args()
    names = [n for n in contenders() if not options.contenders or n in {"full", "lora", *options.contenders}]
    before = saving.load_json(options.before, KIND, dict) if options.before else None
    found: dict[str, Any] = {"threads": options.threads, "batch": BATCH, "steps": LATER}
    found["epoch"] = EPOCH
    found["versions"] = {
        n: importlib.metadata.version(n) for n in ("torch", "transformers", "transformer-lens", "peft")
    }
    found["models"] = {}
    temporary = Path(tempfile.mkdtemp())
    try:
        for name in options.models:
            given = dialogues(BATCH * EPOCH, "" if name == "smollm2" else PREFACE)
            folder = brought_folder(name) if name == "smollm2" else random_folder(name, temporary / name, given)
            if folder is None:
                parser.error("smollm2 is not there: make smollm2, or leave it out (--models gpt2 llama)")
            for model in measure(name, folder, given, names, options.rounds, options.threads):
                if before is not None and name in before["models"]:
                    rows = before["models"][name]["contenders"].items()
                    model["before"] = {each: row for each, row in rows if each.startswith("pinpoint")}
                    found["before"] = options.before_name
                found["models"][name] = model
                if options.out:  # each round: what is there after an interrupt counts too
                    saving.save_json(options.out, KIND, found)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    for name, model in found["models"].items():
        for each, row in model["contenders"].items():
            line = f"{name}, {each}: {row['median_computing']:.2f} s a step, {row['computing_to_full'][0]:.2f} of full"
            line += f", {row['computing_to_lora'][0]:.2f} of LoRA; {row['median_memory']:.2f} GiB"
            if "of_limit" in row:
                line += f"; limit {row['limit_to_full']:.2f} of full, reached to {row['of_limit']:.0%}"
            print(line)


if __name__ == "__main__":
    main()
