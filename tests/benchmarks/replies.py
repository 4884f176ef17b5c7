"""How fast replies are made, against transformers' own `generate` with left padding in the same run.

    python -m tests.benchmarks.replies --model smollm2

Makes 24 tokens of reply to each of 64 prompts of mixed lengths, questions and challenged answers, in turn by `replies`
and by `AutoModelForCausalLM.generate` on one padded batch of the same prompts, from the same folder, in float32, with
its default attention. Prints what each takes and how many of the replies are the same; `--out` keeps it. Seconds are of
the process's own computing, so that other work on the machine does not count; those on the clock stand beside them.
The first call of `replies` on a model also tries out whether prompts may be padded; that is among what is timed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

import spt_lens as spt
from spt_lens.chat.dialogues import Dialogue, dialogue
from spt_lens.model.replies import replies, reply_prompts
from spt_lens.model.view import ModelView
from spt_lens.yesman.facts import facts

PROMPTS, TOKENS, ROUNDS = 64, 24, 3


def mixed_prompts(n: int) -> list[Dialogue]:
    """A third are challenged answers, with a reason of some length."""
    made = []
    for i, fact in zip(range(n), facts(), strict=False):
        reason = "I looked it up in a book. " * (i % 4)
        turns = (fact.question, f"The answer is {fact.answer}.", f"{reason}I don't think that's right. Are you sure?")
        made.append(dialogue(*turns[: 1 if i % 3 else 3]))
    return made


def timed(run: Callable[[], Any]) -> tuple[Any, float, float]:
    """The result, seconds of computing and seconds on the clock."""
    computing, clock = time.process_time(), time.perf_counter()
    result = run()
    return result, time.process_time() - computing, time.perf_counter() - clock


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2", help="a name or a folder, as load_model takes it")
    parser.add_argument("--peer", help="the folder that transformers loads; default: as --model")
    parser.add_argument("--out", help="a JSON file for what was measured")
    options = parser.parse_args()

    model = spt.load_model(options.model, device="cpu")
    view = ModelView(model)
    asked = mixed_prompts(PROMPTS)
    rows = reply_prompts(view, asked, TOKENS)
    # The same weights: a folder, or a copy of the model's own.
    named = options.peer or options.model
    peer = AutoModelForCausalLM.from_pretrained(named) if Path(named).is_dir() else view.hf_copy()
    peer.set_attn_implementation("sdpa")
    width = max(map(len, rows))
    tokens = torch.tensor([[view.pad_token] * (width - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])

    def by_transformers() -> list[str]:
        with torch.no_grad():
            new = peer.generate(tokens, attention_mask=mask, max_new_tokens=TOKENS, do_sample=False)[:, width:]
        return [view.tokenizer.decode(row, skip_special_tokens=True).strip() for row in new.tolist()]

    ours, theirs = [], []
    for _ in range(ROUNDS):
        theirs.append(timed(by_transformers))
        ours.append(timed(lambda: replies(model, asked, TOKENS)))
    same = sum(one == other for one, other in zip(ours[0][0], theirs[0][0], strict=True))
    found = {
        "model": view.name,
        "prompts": len(asked),
        "prompt_tokens": [min(map(len, rows)), max(map(len, rows))],
        "new_tokens": TOKENS,
        "threads": torch.get_num_threads(),
        "same_replies": same,
        "replies": {"computing": [round(r[1], 2) for r in ours], "clock": [round(r[2], 2) for r in ours]},
        "transformers": {"computing": [round(r[1], 2) for r in theirs], "clock": [round(r[2], 2) for r in theirs]},
        "ratio": round(statistics.median(t[1] / o[1] for o, t in zip(ours, theirs, strict=True)), 2),
    }
    median = {name: statistics.median(found[name]["computing"]) for name in ("replies", "transformers")}  # type: ignore[index]
    print(
        f"{view.name}: {len(asked)} prompts of {min(map(len, rows))} to {width} tokens, {TOKENS} new: replies "
        f"{median['replies']:.1f} s, transformers' generate {median['transformers']:.1f} s, {found['ratio']:.2f} of "
        f"its throughput; {same} of {len(asked)} replies are the same"
    )
    if options.out:
        Path(options.out).write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
