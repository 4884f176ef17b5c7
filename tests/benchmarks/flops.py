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
    """Operations of a step that can't be left out, mean of an epoch, for each set of heads.

    Under "full" stand those of full fine-tuning as it is done here: forward, backward to activations, gradients of all
    weights, unembedding at the targets alone.

    Heads whose lowest layer is L: forward from L on, backward to activations down to the queries (keys, values) of L,
    gradients of the slices, unembedding at the targets alone; in the last layer, keys and values of all positions and
    all else of the targets' alone. Counted although one could do without: heads beside the chosen ones in L, padding,
    and pairs of positions that the causal mask hides.
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
    last = model.get_submodule(layout.block.format(shape.n_layers - 1).rpartition(".")[0])
    keys_values = 2 * shape.n_kv_heads * shape.part_size
    beyond = sum(p.numel() for p in last.parameters() if p.ndim == 2) - keys_values  # weights that only targets need
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
        read = int(batch.where.sum())
        blocks = forward - 2 * read * unembed.weight.numel()
        pattern = 4 * shape.n_heads * shape.d_head * batch.tokens.shape[1]  # of attention, for each position
        unread = (batch.tokens.numel() - read) * (2 * beyond + pattern)  # forward
        unread += (batch.tokens.numel() - read) * (2 * beyond + 2 * pattern)  # backward
        for name, chosen in heads.items():
            lowest = min(head.layer for head in chosen)
            names = {layout.module(lowest, which) for which in ("q", "k", "v") if which in shape.letters()}
            hooks = [model.get_submodule(each).register_forward_hook(_leaf) for each in names]
            _, to_activations = passes()
            for hook in hooks:
                hook.remove()
            slices = 2 * batch.tokens.numel() * shape.part_size * len(shape.parts(chosen))
            upper = forward - blocks * lowest / shape.n_layers
            found[name] += (upper + to_activations - unread + slices) / count
    return found


def _leaf(module: Any, args: Any, output: torch.Tensor) -> None:
    output.requires_grad_()
