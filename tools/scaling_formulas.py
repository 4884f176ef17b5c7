"""What measuring, tuning and replying take on a model of given sizes: memory in bytes, work in operations. On paper.

An operation is a multiplication or an addition; a matrix of n weights takes 2 n of them for each token. What lies
between the matrices (norms, rotations, softmax) is left out, as is the time that memory takes: a small model on a CPU
shows what that amounts to (`scaling_check.py`). The work of measuring is the package's own, as `spt_lens.cost` tells
it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Literal, Self

import torch

from spt_lens.model.layout import Shape
from spt_lens.model.limits import prompt_bytes
from spt_lens.patching.engine import Method, both_runs_work

# Passes of one prompt in which the sweep is tried: by plain hooks for four heads, and one that is kept.
TRIAL = 5
Trained = Literal["slices", "lora", "full"]


@dataclass(frozen=True)
class Sizes:
    """A Llama's sizes. tied: the unembedding is the embedding. size: bytes of a number of the model's dtype."""

    name: str
    n_layers: int
    n_heads: int
    n_kv_heads: int
    d_head: int
    d_model: int
    d_mlp: int
    vocab: int
    tied: bool = False
    size: int = 2

    @classmethod
    def of_config(cls, name: str, config: Any, size: int) -> Self:
        """From a transformers config of a Llama."""
        s = Shape.of_config(config)
        shape = (s.n_layers, s.n_heads, s.n_kv_heads, s.d_head, s.d_model)
        return cls(name, *shape, config.intermediate_size, config.vocab_size, config.tie_word_embeddings, size)

    @property
    def dtype(self) -> torch.dtype:
        return {2: torch.bfloat16, 4: torch.float32}[self.size]

    @property
    def d_heads(self) -> int:
        """All heads of a layer together."""
        return self.n_heads * self.d_head

    @property
    def block_weights(self) -> int:
        """Of one layer's matrices."""
        attention = 2 * self.d_model * self.d_heads + 2 * self.d_model * self.n_kv_heads * self.d_head
        return attention + 3 * self.d_model * self.d_mlp

    @property
    def weights(self) -> int:
        """All of them, as the checkpoint counts."""
        norms = (2 * self.n_layers + 1) * self.d_model
        return self.n_layers * self.block_weights + (1 if self.tied else 2) * self.vocab * self.d_model + norms

    def slices(self, heads: int) -> int:
        """Weights of so many heads' slices: of W_Q and W_O, without query groups also of W_K and W_V."""
        return heads * (4 if self.n_heads == self.n_kv_heads else 2) * self.d_head * self.d_model

    def lora(self, rank: int = 16) -> int:
        """Weights of LoRA on all four projections of every layer."""
        kv = self.n_kv_heads * self.d_head
        return self.n_layers * rank * (2 * (self.d_model + self.d_heads) + 2 * (self.d_model + kv))

    # Work, in operations.

    def blocks(self, tokens: int, context: int, layers: int | None = None) -> int:
        """Forward through so many layers (default: all). context: positions that a token's attention is computed over,
        which is the whole prompt, masked or not."""
        each = 2 * self.block_weights + 4 * context * self.d_heads
        return tokens * each * (self.n_layers if layers is None else layers)

    def unembedding(self, positions: int) -> int:
        return positions * 2 * self.vocab * self.d_model

    def forward(self, tokens: int, context: int, read: int) -> int:
        """One forward pass; `read` positions are unembedded."""
        return self.blocks(tokens, context) + self.unembedding(read)

    def step(self, trained: Trained, tokens: int, context: int, read: int, lowest: int = 0, heads: int = 0) -> int:
        """One tuning step, forward and backward. lowest: the lowest layer with a chosen head; the hidden states that it
        is given are there (`below`).

        Slices and LoRA need gradients of activations and next to none of weights. From kept states, the last block's
        MLP runs at the positions alone that are read.
        """
        if trained == "full":
            return 3 * self.forward(tokens, context, read)
        if trained == "lora":
            return 2 * self.forward(tokens, context, read) + 6 * tokens * self.lora()
        blocks = self.blocks(tokens, context, self.n_layers - lowest)
        not_run = 2 * 3 * self.d_model * self.d_mlp * (tokens - read)
        return 2 * (blocks - not_run + self.unembedding(read)) + 2 * tokens * self.slices(heads)

    def below(self, tokens: int, context: int, lowest: int) -> int:
        """Computing, once for all steps, the hidden states of so many tokens below a layer."""
        return self.blocks(tokens, context, lowest)

    # Memory above the weights, in bytes.

    def states(self, tokens: int) -> int:
        """The hidden states of so many tokens below one layer."""
        return tokens * self.d_model * self.size

    def activations(self, trained: Trained, tokens: int, context: int, layers: int, rank: int = 16) -> int:
        """What a forward pass keeps for its backward pass in so many layers.

        Always the MLP's three inner values and, in float32, what the two norms were given. More, by what is trained:

        - slices: queries, and keys and values of all heads; attention after its softmax (in float32, and once more in
          the model's dtype if that is another); what the matrices of queries and of outputs were given.
        - lora, by fused attention: queries, keys, values and outputs; inputs of its first matrices, in float32, and of
          its second ones.
        - full, by fused attention and in float32: the same, and inputs of all matrices and gains.
        """
        s, q, kv, d = 4 if trained == "full" else self.size, self.d_heads, self.n_kv_heads * self.d_head, self.d_model
        each = s * 3 * self.d_mlp + 4 * 2 * d
        if trained == "slices":
            each += s * (4 * q + d) + self.n_heads * context * (4 if s == 4 else 4 + s)
        elif trained == "lora":
            each += s * 2 * (q + kv) + 4 * ((d if s == 4 else 3 * d + q) + 4 * rank)
        else:
            each += 4 * (self.d_mlp + 4 * d + 2 * (q + kv))
        return tokens * layers * each

    def trained_bytes(self, trained: Trained, heads: int = 0) -> int:
        """What the trained weights take beside the model: a float32 copy unless they are the model's own, gradient, two
        moments of AdamW, and the weights before, to undo the run."""
        n = {"slices": self.slices(heads), "lora": self.lora(), "full": self.weights}[trained]
        own = trained == "full" and self.size == 4
        before = self.size * (n if trained != "lora" else self.n_layers * (self.block_weights - 3 * self._mlp))
        return n * (12 if own else 16) + before

    @property
    def _mlp(self) -> int:
        return self.d_model * self.d_mlp

    def tuning(self, trained: Trained, tokens: int, context: int, read: int, lowest: int = 0, heads: int = 0) -> int:
        """The peak of a step, beside kept hidden states: three times the logits that are read (they, their softmax,
        their gradient) in float32 come on top of the activations."""
        layers = self.n_layers - lowest if trained == "slices" else self.n_layers
        kept = self.activations(trained, tokens, context, layers)
        return kept + self.trained_bytes(trained, heads) + 3 * 4 * read * self.vocab

    def keys_and_values(self, rows: int, tokens: int) -> int:
        return rows * tokens * self.n_layers * 2 * self.n_kv_heads * self.d_head * self.size

    def prompt(self, tokens: int) -> int:
        """What one prompt takes while heads are measured, as the package counts it."""
        return prompt_bytes(self, tokens)  # type: ignore[arg-type]

    def passes(self, method: Method, tokens: int, suffix: int, prompts: float = math.inf) -> float:
        """Forward passes of the prompts that measuring all heads takes, as `spt_lens.cost` counts them.

        suffix: the positions from the first that differs; 1: only the last one is patched. prompts: so many, beside
        which the engine's trial on one of them counts; cost leaves it out.
        """
        prompt = (0,) * tokens
        row = SimpleNamespace(into=prompt, source=prompt, start=tokens - suffix, reads=1)
        rows: Any = SimpleNamespace(rows=[row])
        view: Any = self
        counted = both_runs_work(view, rows) + method.work(view, rows, "sweep")
        return counted / (tokens * self.n_layers) + TRIAL / prompts


LLAMAS = (
    Sizes("7B", 32, 32, 32, 128, 4096, 11008, 32000),
    Sizes("13B", 40, 40, 40, 128, 5120, 13824, 32000),
    Sizes("70B", 80, 64, 8, 128, 8192, 28672, 32000),
)
