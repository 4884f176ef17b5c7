"""Operations of tuning: those that a step does, and those that no step can leave out.

Counted are multiplications and additions of matrix products, two for each pair of numbers, as torch's counter has it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import cross_entropy
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM, AutoTokenizer

import spt_lens as spt
from spt_lens.chat.batches import Examples
from spt_lens.chat.template import training_ids
from spt_lens.model.layout import Shape, layout_of
from spt_lens.model.targets import logits_of
from tests.benchmarks.contenders import Job


def _attention(query: Any, key: Any, *_: Any, **__: Any) -> int:
    batch, heads, reads, size = query
    return 4 * batch * heads * reads * key[-2] * size


def _attention_backward(_: Any, query: Any, key: Any, *__: Any, **___: Any) -> int:
    return _attention(query, key) * 5 // 2  # its pattern is made again


def counter() -> FlopCounterMode:
    """Counts on the CPU too, whose fused attention torch's counter leaves out."""
    aten = torch.ops.aten
    return FlopCounterMode(
        display=False,
        custom_mapping={
            aten._scaled_dot_product_flash_attention_for_cpu: _attention,
            aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
        },
    )


def least(job: Job, heads: dict[str, spt.HeadSet]) -> dict[str, float]:
    """Operations of a step that can't be left out, mean of an epoch: of full fine-tuning, and for each set of heads.

    Full: forward, backward to activations, gradients of all weights; the targets alone are unembedded. Heads whose
    lowest layer is L: forward from L on, backward to activations down to the queries, keys and values of L, gradients
    of the slices. Of the lowest layer's attention, all heads' are counted.
    """
    model: Any = AutoModelForCausalLM.from_pretrained(job.folder, attn_implementation="eager").eval()
    tokenizer = AutoTokenizer.from_pretrained(job.folder)
    unembed = model.get_output_embeddings()
    logits = logits_of(lambda tokens: model(input_ids=tokens, use_cache=False).logits, unembed)
    layout, shape = layout_of(model.config.architectures[0]), Shape.of_config(model.config)
    data = Examples([training_ids(tokenizer, dialogue) for dialogue in job.dialogues])
    batches = data.shuffled(job.batch, 0)
    count = len(job.dialogues) // job.batch
    found = dict.fromkeys(["full", *heads], 0.0)
    for _ in range(count):
        batch = next(batches)

        def passes() -> tuple[int, int]:
            with counter() as both:
                loss = cross_entropy(logits(batch), batch.labels)  # noqa: B023
                forward = both.get_total_flops()
                loss.backward()
            model.zero_grad()
            return forward, both.get_total_flops() - forward

        model.requires_grad_(True)
        forward, backward = passes()
        found["full"] += (forward + backward) / count
        model.requires_grad_(False)
        blocks = forward - 2 * int(batch.where.sum()) * unembed.weight.numel()
        for name, chosen in heads.items():
            lowest = min(head.layer for head in chosen)
            hooks = [
                model.get_submodule(layout.module(lowest, which)).register_forward_hook(_leaf)
                for which in ("q", "k", "v")
            ]
            _, to_activations = passes()
            for hook in hooks:
                hook.remove()
            slices = 2 * batch.tokens.numel() * shape.part_size * len(shape.parts(chosen))
            upper = forward - blocks * lowest / shape.n_layers
            found[name] += (upper + to_activations + slices) / count
    return found


def _leaf(module: Any, args: Any, output: torch.Tensor) -> None:
    output.requires_grad_()
