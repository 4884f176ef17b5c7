"""Prompts seen from their last position: where every head looks from there, and what it writes straight to the logits.

All heads come out of one forward pass of each prompt. What a head writes is direct logit attribution, in the manner of
TransformerLens (`apply_ln_to_stack`): the head's part of the final residual stream, through the final norm with the
scale that the whole stream has there, and unembedded. So the parts of a stream add up to its logits. Where a norm
stands between heads and stream (OLMo 2, Gemma 2 and 3), it too keeps the scale that it has for all heads together.
Only a cap of the logits, which is no sum, keeps parts from adding up.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from spt_lens.chat.batches import PromptBatch
from spt_lens.heads import Head
from spt_lens.measure.attention import attention_hooks, last_attention, stacked_attention
from spt_lens.model.held import without_gradients
from spt_lens.model.view import Hook, ModelView
from spt_lens.patching.path import check_mlps, mlp_hook
from spt_lens.patching.suffix import SuffixRun, suffix_run
from spt_lens.patching.sweep import joined, through

SCALE = "ln_final.hook_scale"


def post_scales(view: ModelView) -> list[str]:
    """The hook points of the scales by which norms after attention divide what heads write, where a model has such.

    Raises ValueError for a norm there that shows no scale, or adds a bias: what one head writes can't be told then.
    """
    found = []
    for layer, block in enumerate(view.model.blocks):
        if (norm := post_norm(block)) is None:
            continue
        name, biases = f"blocks.{layer}.{norm}.hook_scale", ("b", "bias")
        if name not in view.model.hook_dict or any(getattr(getattr(block, norm), b, None) is not None for b in biases):
            raise ValueError(
                f"what a head of {view.name} writes can't be told: its norms after attention show no scale to hold"
            )
        found.append(name)
    return found


def post_norm(block: Any) -> str | None:
    """What a block calls the norm between its attention and the stream, if it has one. TransformerLens 3.9 calls OLMo
    2's, which has none before attention, ln1."""
    if getattr(block, "ln1_post", None) is not None:
        return "ln1_post"
    return "ln1" if getattr(getattr(block, "ln1", None), "name", "") == "post_attention_layernorm" else None


class LastPositions:
    """Prompts of any lengths, read a few equally long ones at a time.

    direct: also keep what `written` needs, which a model gives whose suffixes can be run (`engine.sweep_problem`) and
    whose MLPs and norms after attention have hooks (`post_scales`). attention: of each prompt that was read, on the
    CPU, `[n_layers, n_heads, pos]`.
    """

    def __init__(self, view: ModelView, direct: bool = True) -> None:
        if direct:
            check_mlps(view, "frozen")
        self._scales = post_scales(view) if direct else []
        self.view, self.direct = view, direct
        self.attention: list[Float[Tensor, "n_layers n_heads pos"]] = []
        self._run: SuffixRun | None = None

    @without_gradients
    def read(self, prompts: Sequence[Sequence[int]]) -> None:
        """One forward pass of prompts of one length. Raises as `last_attention` and `suffix_run` do."""
        batch = PromptBatch.of(prompts)
        with self.view.kept():
            if not self.direct:
                self.attention += last_attention(self.view, batch)
                return
            seen: dict[int, Tensor] = {}
            kept = [*map(mlp_hook, range(self.view.n_layers)), *self._scales]
            with self.view.model.hooks(fwd_hooks=attention_hooks(self.view, batch.last, seen)):
                run = suffix_run(self.view, batch.tokens, batch.tokens.shape[1] - 1, kept)
            attention = stacked_attention(self.view, seen)
            self._run = joined([run] if self._run is None else [self._run, run], alone=True)
            self.attention += attention

    @without_gradients
    def written(self, head: Head) -> Float[Tensor, "n_prompts vocab"]:
        """What a head adds to each token's logit, by itself: other heads and MLPs, which may pass it on, stay as they
        are. On the CPU, in the order in which prompts were read.

        Where a model caps its logits, it is the cap of what the head writes, the same only where that is small. In
        bfloat16 or float16 it has few digits. A model whose final norm shows no scale has the logits less those
        without the head instead.
        """
        run = self._run
        assert run is not None  # with direct, and something read

        def alone(layer: int, new: list[int], first: int) -> list[Hook]:
            """All heads and the MLP as they were, but for the one that is silent."""
            z, mlp = run.own[self.view.z_name(layer)], run.own[mlp_hook(layer)]
            if layer == head.layer:
                z = z.clone()
                z[:, :, head.head] = 0
            return [
                (self.view.z_name(layer), lambda value, hook=None: z.to(value)),
                (mlp_hook(layer), lambda value, hook=None: mlp.to(value)),
            ]

        with self.view.kept(), self._post_norm_held(run, head.layer):
            silent = through(run, [head], alone, alone=True)[0, :, 0]
            return self._unembedded(run, run.final[:, 0], run.final[:, 0] - silent.to(run.final)).cpu()

    @contextmanager
    def _post_norm_held(self, run: SuffixRun, layer: int) -> Iterator[None]:
        """In the block, a layer's norm after attention divides by what it divided by in the whole run."""
        if (norm := post_norm(block := self.view.model.blocks[layer])) is None:
            yield
            return
        name = f"blocks.{layer}.{norm}.hook_scale"
        now: list[Tensor] = []

        def by_whole(module: nn.Module, args: Any, normed: Tensor) -> Tensor:
            scale = now.pop()
            return normed * (scale / run.own[name].to(scale).view(scale.shape)).to(normed)

        with self.view.model.hooks(fwd_hooks=[(name, lambda scale, hook: now.append(scale.detach()))]):
            handle = getattr(block, norm).register_forward_hook(by_whole)
            try:
                yield
            finally:
                handle.remove()

    def _unembedded(
        self, run: SuffixRun, whole: Float[Tensor, "n d_model"], part: Float[Tensor, "n d_model"]
    ) -> Float[Tensor, "n vocab"]:
        n, norm = len(whole), getattr(self.view.model, "ln_final", None)
        if norm is None or SCALE not in self.view.model.hook_dict:
            both = run.logits(torch.cat([whole, whole - part]))
            return both[:n] - both[n:]
        scales: list[Tensor] = []

        def scaled(module: nn.Module, args: Any, normed: Tensor) -> Tensor:
            """The part by the scale of the whole, and without what the norm adds to anything."""
            of_whole, of_part, _ = scales[0].to(normed).reshape(-1, 1, 1).split([n, n, 1])
            shift = normed[2 * n :]
            return torch.cat([(normed[n : 2 * n] - shift) * (of_part / of_whole), torch.zeros_like(shift)])

        handle = norm.register_forward_hook(scaled)
        try:
            with self.view.model.hooks(fwd_hooks=[(SCALE, lambda scale, hook: scales.append(scale.detach()))]):
                found = run.logits(torch.cat([whole, part, torch.zeros_like(part[:1])]))
        finally:
            handle.remove()
        return found[:n] - found[n:]
