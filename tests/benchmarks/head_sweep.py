"""How fast all heads of a model are measured, against TransformerLens's own sweep in the same run.

    python -m tests.benchmarks.head_sweep --architecture gpt2

Makes a random model of 12 layers x 12 heads (d_model 768) and 8 pairs of prompts of 128 tokens that differ in 8 of the
last 16, and prints how many times faster than `transformer_lens.patching` the one-sweep engine is, the peak memory of
each, and the largest difference of their numbers. TransformerLens runs one forward pass for each head, whichever it is:
`--peer-heads` of them, evenly spread, are timed and the time is scaled to all. It runs without gradients here, which it
leaves on by itself; its progress bars, which can't be turned off, go to the standard error stream.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import warnings
from collections.abc import Callable
from typing import Any

import pandas as pd
import torch
import transformers
from transformer_lens import patching

import spt_lens as spt
from spt_lens.model.view import ModelView
from tools.peak import spent
from tools.yesman.build import make_tokenizer

LAYERS, HEADS, TOKENS, PAIRS, SUFFIX = 12, 12, 128, 8, 16
ANSWERS = (11, 12)


def random_model(architecture: str) -> Any:
    if architecture == "gpt2":
        config: Any = transformers.GPT2Config(n_layer=LAYERS, n_head=HEADS, n_embd=768)
    else:
        config = transformers.LlamaConfig(
            vocab_size=32000,
            hidden_size=768,
            intermediate_size=2048,
            num_hidden_layers=LAYERS,
            num_attention_heads=HEADS,
            max_position_embeddings=512,
        )
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
        make_tokenizer().save_pretrained(folder)
        return spt.load_model(folder, device="cpu")


def random_pairs() -> spt.ContrastPairs:
    draw = torch.Generator().manual_seed(0)
    one = torch.randint(20, 800, (PAIRS, TOKENS), generator=draw)
    other = one.clone()
    other[:, TOKENS - SUFFIX : TOKENS - SUFFIX + 8] = torch.randint(20, 800, (PAIRS, 8), generator=draw)
    rows = [tuple(map(tuple, tokens.tolist())) for tokens in (one, other)]
    return spt.ContrastPairs(rows[0], rows[1], torch.tensor([ANSWERS] * PAIRS))


def timed(run: Callable[[], Any]) -> tuple[Any, float, float]:
    """The result, seconds, and the most memory meanwhile in GiB above what there was (Linux; nan elsewhere)."""
    with spent() as took:
        result = run()
    return result, took.seconds, took.peak


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--architecture", choices=("gpt2", "llama"), default="gpt2")
    parser.add_argument("--peer-heads", type=int, default=24, help="heads that TransformerLens's loop is timed on")
    parser.add_argument("--rounds", type=int, default=3, help="runs of the sweep, of which the median counts")
    options = parser.parse_args()
    warnings.simplefilter("ignore")

    model = random_model(options.architecture)
    pairs = random_pairs()
    into, source = torch.tensor(pairs.sycophantic), torch.tensor(pairs.truthful)
    every = [(layer, head) for layer in range(LAYERS) for head in range(HEADS)]
    step = max(1, len(every) // options.peer_heads)
    some = every[:: step + (step % HEADS == 0)]  # not the same head of every layer

    def difference(logits: torch.Tensor) -> torch.Tensor:
        return (logits[:, -1, ANSWERS[0]] - logits[:, -1, ANSWERS[1]]).double().mean()

    with torch.no_grad():
        model(into)
        forward = statistics.median(timed(lambda: model(into))[1] for _ in range(3))
        _, cache = model.run_with_cache(source, names_filter=lambda name: name.endswith("hook_z"))
        print(f"{options.architecture}, {LAYERS} x {HEADS} heads, {PAIRS} pairs of {TOKENS} tokens, "
              f"{torch.get_num_threads()} threads; a forward pass takes {forward:.2f} s")  # fmt: skip
        for positions in ("last", "all"):
            columns = ["layer", "pos", "head"] if positions == "last" else ["layer", "head"]
            rows = [(layer, TOKENS - 1, head) if positions == "last" else (layer, head) for layer, head in some]
            setter = (
                patching.layer_pos_head_vector_patch_setter
                if positions == "last"
                else patching.layer_head_vector_patch_setter
            )
            index = pd.DataFrame(rows, columns=columns)
            peer, seconds, peer_memory = timed(
                lambda setter=setter, index=index: patching.generic_activation_patch(
                    model, into, cache, difference, setter, "z", index_df=index
                )
            )
            seconds *= len(every) / len(some)
            runs = [
                timed(lambda p=positions: measured(model, pairs, spt.activation_patching, positions=p))
                for _ in range(options.rounds)
            ]
            report(f"activation patching, positions={positions}", forward, runs, seconds, peer_memory)
            found = runs[0][0].logit_differences.double().mean(0)
            off = max(abs(float(found[at]) - float(value)) for at, value in zip(some, peer.flatten(), strict=True))
            print(f"    largest difference of the logit differences: {off:.1e} (of {float(found.abs().max()):.2g})")
        for mlps in ("recomputed", "frozen"):
            runs = [
                timed(lambda m=mlps: measured(model, pairs, spt.path_patching, mlps=m)) for _ in range(options.rounds)
            ]
            report(f"path patching to the logits, MLPs {mlps}", forward, runs)
        for steps in (1, 4):
            runs = [
                timed(lambda s=steps: measured(model, pairs, spt.attribution_patching, ig_steps=s))
                for _ in range(options.rounds)
            ]
            report(f"attribution, {steps} step{'s' if steps > 1 else ''}", forward, runs)


def measured(
    model: Any, pairs: spt.ContrastPairs, patching: Callable[..., spt.HeadScores], **how: Any
) -> spt.HeadScores:
    scores = patching(model, pairs, progress=False, **how)
    assert scores.engine == "sweep", scores.meta["settings"]
    assert ModelView(model).n_layers == LAYERS
    return scores


def report(
    title: str, forward: float, runs: list[tuple[Any, float, float]], peer: float | None = None, memory: float = 0.0
) -> None:
    seconds = statistics.median(run[1] for run in runs)
    line = f"{title}: {seconds:.2f} s, {seconds / forward:.1f} forward passes, {max(run[2] for run in runs):.2f} GiB"
    if peer is not None:
        line += f"; TransformerLens {peer:.0f} s, {memory:.2f} GiB: {peer / seconds:.0f} times faster"
    print(line, flush=True)


if __name__ == "__main__":
    main()
