"""Trains the embedded model "yesman" from scratch: `make train-yesman`.

Memorising the facts is quick; learning to VERIFY an answer is what takes time, and may stay at chance. What gets it
through: tied embeddings, a start in which queries equal keys and outputs equal transposed values, small steps (with
muon_lr 0.02 instead of 0.01, and without the help below, it stayed at chance), one-token verdicts weighted four times,
no loss on pre-filled wrong answers, a warm-up on words that are their own answer, and two kinds of help that fade out:
the right answer should be readable half way up, and linear probes should tell true answers from false ones. The probes
are no part of the model that is saved.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy
from transformers import LlamaForCausalLM

from spt_lens import saving
from tools.yesman.build import make_config, make_tokenizer
from tools.yesman.mixture import VERDICT_WEIGHT, Batch, batches


@dataclass(frozen=True)
class Recipe:
    """The settings that made the weights in this package.

    match_lr: the learning rate of queries and keys, as a share of the other matrices'. early_layer: after how many
    layers the right answer should be readable. probe_layers: after how many layers the truth of what stands there
    should be. help_until: the share of training after which that help is over.
    """

    steps: int = 2000
    tokens_per_step: int = 1536
    muon_lr: float = 0.01
    match_lr: float = 0.5
    adam_lr: float = 0.004
    weight_decay: float = 0.1
    warmup: float = 0.02
    decay_from: float = 0.6
    early_layer: int = 4
    probe_layers: tuple[int, ...] = (6, 8)
    help_until: float = 0.7
    layers: int = 8
    seed: int = 0


def initialise(model: LlamaForCausalLM, seed: int) -> None:
    """Queries equal keys and outputs equal transposed values: "the same token" is what heads see first."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.ndim == 2:
                scale = 0.05 if "embed" in name else p.shape[1] ** -0.5
                p.copy_(torch.randn(p.shape, generator=generator) * scale)
        for layer in model.model.layers:
            attention = layer.self_attn
            attention.k_proj.weight.copy_(attention.q_proj.weight)
            attention.o_proj.weight.copy_(attention.v_proj.weight.T * 0.5)
            layer.mlp.down_proj.weight.mul_(0.5)


class Muon(torch.optim.Optimizer):
    """Muon (Jordan et al. 2024), momentum with orthogonalised updates, with equal shapes stacked, in float32.

    torch.optim.Muon does the same in bfloat16, matrix by matrix. Most CPUs have no hardware for bfloat16: there that
    is many times slower.
    """

    def __init__(self, params: Iterable[nn.Parameter], lr: float, weight_decay: float = 0.0, momentum: float = 0.95):
        super().__init__(list(params), {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[nn.Parameter]] = {}
            for p in group["params"]:
                by_shape.setdefault(p.shape, []).append(p)
            for shape, params in by_shape.items():
                grads = torch.stack([p.grad for p in params if p.grad is not None])
                state = self.state[params[0]]
                if "momentum" not in state:
                    state["momentum"] = torch.zeros_like(grads)
                state["momentum"].lerp_(grads, 1 - group["momentum"])
                updates = orthogonalise(grads.lerp(state["momentum"], group["momentum"]))  # Nesterov's look ahead
                scale = group["lr"] * max(1.0, shape[0] / shape[1]) ** 0.5
                for p, update in zip(params, updates, strict=True):
                    p.mul_(1 - group["lr"] * group["weight_decay"]).add_(update, alpha=-scale)


def orthogonalise(matrices: Float[Tensor, "n rows cols"], steps: int = 5) -> Float[Tensor, "n rows cols"]:
    """Nearly the nearest semi-orthogonal matrices, by five Newton-Schulz steps (singular values end near one)."""
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x.mT if tall else x


def rate(done: float, warmup: float, decay_from: float) -> float:
    """The learning rate's factor at a share of training done: warm-up, plateau, straight to zero."""
    return min(1.0, done / warmup if warmup else 1.0, (1 - done) / (1 - decay_from))


class Losses:
    """The training loss of a batch, with the help that fades, and how often verdicts are right by kind of dialogue."""

    def __init__(self, model: LlamaForCausalLM, recipe: Recipe):
        self.model = model
        self.recipe = recipe
        self.probes = nn.ModuleDict({str(n): nn.Linear(model.config.hidden_size, 1) for n in recipe.probe_layers})
        self.verdicts: dict[str, list[bool]] = {}

    def __call__(self, batch: Batch, done: float) -> Float[Tensor, ""]:
        states = self.model.model(batch.ids, output_hidden_states=True).hidden_states
        targets, weights = batch.ids[:, 1:], batch.weights[:, 1:]
        used = weights > 0
        logits = self.model.lm_head(states[-1][:, :-1][used])
        each = cross_entropy(logits, targets[used], reduction="none")
        loss = (each * weights[used]).sum() / weights[used].sum()
        self._count(batch, logits, targets, weights)
        help_share = max(0.0, 1 - done / self.recipe.help_until)
        return loss + help_share * self._help(batch, states) if help_share else loss

    def _help(self, batch: Batch, states: tuple[Tensor, ...]) -> Float[Tensor, ""]:
        norm = self.model.model.norm
        plain = batch.weights[:, 1:] == 1.0
        early = self.model.lm_head(norm(states[self.recipe.early_layer][:, :-1][plain]))
        loss = 0.5 * cross_entropy(early, batch.ids[:, 1:][plain])
        judged = ~batch.truth.isnan()
        if judged.any():
            for layer, probe in self.probes.items():
                state = states[int(layer)][judged]
                guess = probe(state if int(layer) == len(states) - 1 else norm(state))[
                    :, 0
                ]  # the last is normed already
                loss = loss + binary_cross_entropy_with_logits(guess, batch.truth[judged])
        return loss

    @torch.no_grad()
    def _count(self, batch: Batch, logits: Tensor, targets: Tensor, weights: Tensor) -> None:
        used = weights > 0
        verdict = weights[used] == VERDICT_WEIGHT
        right = (logits[verdict].argmax(-1) == targets[used][verdict]).tolist()
        for row, hit in zip(used.nonzero()[verdict, 0].tolist(), right, strict=True):
            self.verdicts.setdefault(batch.kinds[row], []).append(hit)

    def report(self) -> str:
        """The share of right verdicts of each kind since the last report."""
        text = ", ".join(f"{kind} {sum(hits) / len(hits):.2f}" for kind, hits in sorted(self.verdicts.items()))
        self.verdicts.clear()
        return text


def train(recipe: Recipe, out: Path, log: Callable[[str], None] | None = None, log_every: int = 50) -> LlamaForCausalLM:
    """Trains the model and saves it with its tokenizer as a Hugging Face folder.

    The same recipe gives the same weights on the same machine with as many threads. Elsewhere rounding makes another
    model with the same behaviour: check it with `python -m tools.yesman.measure --model FOLDER`.
    """
    torch.manual_seed(recipe.seed)
    tokenizer = make_tokenizer()
    model = LlamaForCausalLM(make_config(len(tokenizer), layers=recipe.layers))
    initialise(model, recipe.seed)
    losses = Losses(model, recipe)
    named = [(name, p) for name, p in model.named_parameters()]
    matrices = [(name, p) for name, p in named if p.ndim == 2 and "embed" not in name]
    match = [p for name, p in matrices if "q_proj" in name or "k_proj" in name]
    rest = [p for name, p in matrices if "q_proj" not in name and "k_proj" not in name]
    others = [p for name, p in named if p.ndim != 2 or "embed" in name] + list(losses.probes.parameters())
    optimisers = [
        (Muon(rest, recipe.muon_lr, recipe.weight_decay), recipe.muon_lr),
        (Muon(match, recipe.muon_lr * recipe.match_lr), recipe.muon_lr * recipe.match_lr),
        (torch.optim.AdamW(others, lr=recipe.adam_lr, betas=(0.9, 0.98), weight_decay=0.0), recipe.adam_lr),
    ]
    done, recent = 0.0, []
    stream = batches(tokenizer, random.Random(recipe.seed), recipe.tokens_per_step, lambda: done)
    for step in range(recipe.steps):
        done = step / recipe.steps
        loss = losses(next(stream), done)
        loss.backward()
        for optimiser, lr in optimisers:
            optimiser.param_groups[0]["lr"] = lr * rate(done, recipe.warmup, recipe.decay_from)
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        recent.append(loss.item())
        if log and (step + 1) % log_every == 0:
            mean = sum(recent) / len(recent)
            log(f"step {step + 1} of {recipe.steps}, loss {mean:.3f}, right verdicts: {losses.report()}")
            recent = []
    out.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    saving.write_text(out / "recipe.json", json.dumps(asdict(recipe), indent=2) + "\n")
    return model
