"""All that this library needs to know of a model. No other module knows a model class.

A model here is a `TransformerBridge` of TransformerLens 4.3 whose attention has separate q, k, v and o projections
(Llama, Mistral, Qwen2, Qwen3, Gemma-2 and the like). `load_model` makes one (see loading.py); `ModelView` looks at it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformer_lens.model_bridge import TransformerBridge
from transformers import AutoModelForCausalLM, PreTrainedModel

from spt_lens.loading import load_model

__all__ = ["Hook", "Model", "ModelView", "Projection", "load_model", "pattern_name", "z_name"]

Model = Any  # a TransformerBridge: its attributes are made at run time, so a stricter type would help nobody
Projection = Literal["q", "k", "v", "o"]
Hook = tuple[str, Callable[..., Any]]  # a hook point's name, and a function of (activation, hook)


def z_name(layer: int) -> str:
    """The hook point of a layer's head outputs, `[batch, pos, n_heads, d_head]`."""
    return f"blocks.{layer}.attn.hook_z"


def pattern_name(layer: int) -> str:
    """The hook point of a layer's attention patterns, `[batch, n_heads, pos, pos]`."""
    return f"blocks.{layer}.attn.hook_pattern"


class ModelView:
    """A model seen by this library: sizes, weights, forward passes. Cheap to make; holds no state of its own.

    Raises:
        TypeError: The object is not a TransformerBridge, or not a decoder with attention in every block.
    """

    model: Model
    z_name = staticmethod(z_name)
    pattern_name = staticmethod(pattern_name)

    def __init__(self, model: Model | ModelView) -> None:
        if isinstance(model, ModelView):
            model = model.model
        if not isinstance(model, TransformerBridge):
            raise TypeError(
                f"expected a TransformerBridge, got {type(model).__name__}: "
                "load one by spt_lens.load_model(name or folder)"
            )
        blocks = getattr(model, "blocks", None)
        if not blocks or not all(hasattr(block, "attn") for block in blocks):
            raise TypeError(f"{model.cfg.architecture} is not supported: not every block has an attention with heads")
        self.model = model
        cfg = model.cfg
        self.n_layers: int = cfg.n_layers
        self.n_heads: int = cfg.n_heads
        self.n_kv_heads: int = cfg.n_key_value_heads or cfg.n_heads
        self.d_head: int = cfg.d_head
        self.d_model: int = cfg.d_model
        self.vocab_size: int = cfg.d_vocab
        self.architecture: str = cfg.architecture
        self.name: str = Path(str(cfg.model_name)).name
        self.tokenizer = model.tokenizer

    @property
    def grouped(self) -> bool:
        """Whether several heads share one set of keys and values."""
        return self.n_kv_heads != self.n_heads

    @property
    def n_params(self) -> int:
        """All parameters, tied ones once."""
        return sum(p.numel() for p in self.model.original_model.parameters())

    @property
    def device(self) -> torch.device:
        return self._embedding.device

    @property
    def dtype(self) -> torch.dtype:
        return self._embedding.dtype

    @property
    def _embedding(self) -> nn.Parameter:
        return next(self.model.original_model.parameters())

    def projection(self, layer: int, which: Projection) -> nn.Parameter:
        """The live weight in Hugging Face's layout, rows are outputs.

        q is `[n_heads * d_head, d_model]`, k and v `[n_kv_heads * d_head, d_model]`, o `[d_model, n_heads * d_head]`.

        Raises:
            IndexError: No such layer.
            NotImplementedError: The projection is not a plain Linear of its own (fused or transposed weights).
        """
        if not 0 <= layer < self.n_layers:
            raise IndexError(f"layer {layer} does not exist: {self.name} has layers 0 to {self.n_layers - 1}")
        attention = self.model.blocks[layer].attn.original_component
        linear = getattr(attention, f"{which}_proj", None)
        linear = getattr(linear, "original_component", linear)  # the bridge wraps each Linear
        if not isinstance(linear, nn.Linear):
            raise NotImplementedError(
                f"{self.architecture} has no separate {which}_proj in layer {layer}: only architectures with q_proj, "
                "k_proj, v_proj and o_proj of their own (Llama, Mistral, Qwen2, Qwen3, Gemma-2) can be tuned so far"
            )
        heads = self.n_heads if which in "qo" else self.n_kv_heads
        inner = heads * self.d_head
        expected = (self.d_model, inner) if which == "o" else (inner, self.d_model)
        if tuple(linear.weight.shape) != expected:
            raise NotImplementedError(
                f"{which}_proj of layer {layer} is {tuple(linear.weight.shape)}, expected {expected}: "
                f"this layout of {self.architecture} is not supported"
            )
        weight: nn.Parameter = linear.weight  # type: ignore[assignment]
        return weight

    def logits(
        self,
        tokens: Int[Tensor, "batch pos"],
        attention_mask: Bool[Tensor, "batch pos"] | None = None,
        hooks: Sequence[Hook] = (),
    ) -> Float[Tensor, "batch pos vocab"]:
        """One forward pass, with gradients as the caller set them. The hooks are gone afterwards, also on an error."""
        mask = None if attention_mask is None else attention_mask.to(self.device).long()
        with self.model.hooks(fwd_hooks=list(hooks)):
            return self.model(tokens.to(self.device), attention_mask=mask, use_cache=False)

    @torch.no_grad()
    def cache_z(
        self, tokens: Int[Tensor, "batch pos"], attention_mask: Bool[Tensor, "batch pos"] | None = None
    ) -> Float[Tensor, "layer batch pos n_heads d_head"]:
        """The outputs of all heads, before W_O, without gradients."""
        seen: dict[int, Tensor] = {}

        def keep(layer: int) -> Hook:
            def hook_fn(z: Tensor, hook: Any) -> None:
                seen[layer] = z.detach()

            return z_name(layer), hook_fn

        self.logits(tokens, attention_mask, [keep(layer) for layer in range(self.n_layers)])
        return torch.stack([seen[layer] for layer in range(self.n_layers)])

    @torch.no_grad()
    def generate(
        self, tokens: Int[Tensor, "batch pos"], max_new_tokens: int, hooks: Sequence[Hook] = ()
    ) -> Int[Tensor, "batch new"]:
        """Greedy replies to prompts of equal length, up to and with the end token; after it, padding.

        Keys and values are cached: hooks see the whole prompt at the first step and one new position at each later one.
        Our own loop, since the bridge's `generate` takes options from the checkpoint (sampling, penalties).

        Raises:
            ValueError: No prompt, an empty prompt, or max_new_tokens below one.
        """
        if tokens.ndim != 2 or 0 in tokens.shape:
            raise ValueError(f"tokens must be [batch, pos] and not empty, got shape {tuple(tokens.shape)}")
        if max_new_tokens < 1:
            raise ValueError(f"max_new_tokens must be at least 1, got {max_new_tokens}")
        ends = self.end_tokens
        pad = self.pad_token
        step, cache = tokens.to(self.device), None
        done = torch.zeros(len(step), dtype=torch.bool, device=step.device)
        new: list[Tensor] = []
        with self.model.hooks(fwd_hooks=list(hooks)):
            for _ in range(max_new_tokens):
                logits, cache = self.model(step, return_type="logits_and_cache", use_cache=True, past_key_values=cache)
                best = logits[:, -1].argmax(-1).masked_fill(done, pad)
                new.append(best)
                if ends:
                    done |= torch.isin(best, torch.tensor(ends, device=best.device))
                if done.all():
                    break
                step = best[:, None]
        return torch.stack(new, dim=1)

    @property
    def end_tokens(self) -> list[int]:
        """The tokens that end a reply: the tokenizer's and the generation config's."""
        config = getattr(self.model.original_model, "generation_config", None)
        found = getattr(config, "eos_token_id", None)
        ends = set(found if isinstance(found, list) else [found]) | {getattr(self.tokenizer, "eos_token_id", None)}
        return sorted(end for end in ends if end is not None)

    @property
    def pad_token(self) -> int:
        """What fills up a row: the tokenizer's padding token, else its end token, else 0."""
        pad = getattr(self.tokenizer, "pad_token_id", None)
        return pad if pad is not None else next(iter(self.end_tokens), 0)

    def check_measurable(self) -> None:
        """Raises ValueError for a model in training mode: dropout would blur every measurement."""
        if any(module.training for module in self._modules()):
            raise ValueError(f"{self.name} is in training mode: call model.eval() first")

    def check_tunable(self) -> None:
        """Raises ValueError for a model whose weights are no longer the checkpoint's, or on a device without data.

        NotImplementedError for an architecture whose projections cannot be sliced by heads.
        """
        self.check_measurable()
        if getattr(self.model, "_weights_processed", False):  # the bridge has no public name for it
            raise ValueError(
                f"the weights of {self.name} were processed (enable_compatibility_mode folds norms and centres "
                "weights), so what is tuned could not be put back into the checkpoint: load the model again without it"
            )
        for layer in range(self.n_layers):
            for which in ("q", "k", "v", "o"):
                self.projection(layer, which)

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Restores, after the block and whatever happens in it: training flags, requires_grad, gradients, hooks.

        Gradients are set aside, so that the block starts with none. Weights are the caller's business.
        """
        modules = [(module, module.training) for module in self._modules()]
        parameters = [(p, p.requires_grad, p.grad) for p in self.model.original_model.parameters()]
        points = {id(point): point for point in self.model.hook_dict.values()}.values()
        hooks = [(point, list(point.fwd_hooks), list(point.bwd_hooks)) for point in points]
        try:
            for p, _, _ in parameters:
                p.grad = None
            yield
        finally:
            for module, training in modules:
                module.training = training
            for p, requires_grad, grad in parameters:
                p.requires_grad_(requires_grad)
                p.grad = grad
            for point, forward, backward in hooks:
                for present, before in ((point.fwd_hooks, forward), (point.bwd_hooks, backward)):
                    for handle in [h for h in present if not any(h is b for b in before)]:
                        handle.hook.remove()
                        present.remove(handle)

    def _modules(self) -> list[nn.Module]:
        # The wrapped model is not among the bridge's own modules.
        found = {id(m): m for root in (self.model, self.model.original_model) for m in root.modules()}
        return list(found.values())

    def weights(self) -> dict[str, Tensor]:
        """The live parameters under their Hugging Face names, tied ones once."""
        named = self.model.original_model.named_parameters()
        return {name.replace("._original_component", ""): p for name, p in named}

    def hf_copy(self) -> PreTrainedModel:
        """An independent plain transformers model with the same weights, dtype and device, in evaluation mode."""
        config = copy.deepcopy(self.model.original_model.config)
        config.output_attentions = False  # the bridge may have turned it on
        with torch.random.fork_rng(devices=[]):  # the new model draws weights that we overwrite
            plain = AutoModelForCausalLM.from_config(config, dtype=self.dtype, attn_implementation="eager")
        own = {name: p.detach() for name, p in self.weights().items()}
        expected = {name for name, _ in plain.named_parameters()}
        if own.keys() != expected:
            odd = sorted(own.keys() ^ expected)
            raise NotImplementedError(
                f"the weights of {self.architecture} cannot be named as Hugging Face does: {odd[:3]}"
            )
        plain.load_state_dict(own, strict=False)  # tied weights are named once
        plain.tie_weights()
        return plain.to(self.device).eval()

    @torch.no_grad()
    def load_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Copies values into the live parameters. **Changes the model.** All names and shapes are checked first.

        Raises:
            ValueError: A name is missing or unknown, or a shape differs.
        """
        own = self.weights()
        if own.keys() != weights.keys():
            missing, unknown = sorted(own.keys() - weights.keys()), sorted(weights.keys() - own.keys())
            raise ValueError(f"these weights do not fit {self.name}: missing {missing[:3]}, unknown {unknown[:3]}")
        for name, p in own.items():
            if p.shape != weights[name].shape:
                raise ValueError(f"{name} is {tuple(p.shape)} in {self.name}, got {tuple(weights[name].shape)}")
        for name, p in own.items():
            p.copy_(weights[name])

    def fingerprint(self) -> dict[str, str | int]:
        """What another model must match for an adapter of this one to fit: architecture and shapes."""
        return {
            "architecture": self.architecture,
            "n_layers": self.n_layers,
            "n_heads": self.n_heads,
            "n_kv_heads": self.n_kv_heads,
            "d_head": self.d_head,
            "d_model": self.d_model,
            "vocab_size": self.vocab_size,
        }
