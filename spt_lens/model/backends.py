"""The one module that knows TransformerLens's model classes: `TransformerBridge` (3.9 and 4) and `HookedTransformer`.

The two classes keep weights differently. The bridge runs a Hugging Face model's own parameters, except where q, k and v
are fused: there it splits them, and the split parameters are the live ones (views of the fused weight in GPT-2 and
Phi-3 until the model is moved to another dtype; always copies in GPT-NeoX). HookedTransformer has weights of its own,
[n_heads, d_model, d_head], converted from the Hugging Face model.
"""

import copy
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from accelerate import init_empty_weights
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from spt_lens.model import bounds, hooked
from spt_lens.model.devices import state_of
from spt_lens.model.huggingface import made_by_own_code
from spt_lens.model.layout import LAYOUTS, Layout, Pick, Projection, Shape, block_of, layout_of
from spt_lens.saving import same_place

Tokens = Int[Tensor, "batch pos"]
Mask = Bool[Tensor, "batch pos"]
Logits = Float[Tensor, "batch pos vocab"]
Split = tuple[str, Pick, nn.Parameter, Pick]  # a Hugging Face name and part, and the live parameter and part


class Backend:
    """What both classes share. `root` holds all parameters."""

    may_drop_out = True

    def __init__(self, model: Any, root: nn.Module, architecture: str) -> None:
        self.model, self.root, self.architecture = model, root, architecture
        cfg = model.cfg
        self.shape = Shape(cfg.n_layers, cfg.n_heads, cfg.n_key_value_heads or cfg.n_heads, cfg.d_head, cfg.d_model)

    @property
    def dtype(self) -> torch.dtype:
        return next(self.root.parameters()).dtype

    @property
    def generation_config(self) -> Any:
        """The checkpoint's, or None."""
        return getattr(self.root, "generation_config", None)

    @property
    def layout(self) -> Layout:
        return layout_of(self.architecture)

    def named_parameters(self) -> dict[str, nn.Parameter]:
        return _plainly(self.root.named_parameters())

    def projection(self, layer: int, which: Projection) -> Any:
        """The linear module that multiplies by a layer's projection; None where the class has none."""
        return None

    def check_length(self, tokens: Tokens, new: int = 0) -> None:
        """`bounds.check_length`, and `check_exact`: every forward pass comes by here."""
        bounds.check_exact()
        bounds.check_length(self.model, self.architecture, getattr(self.root, "config", None), tokens.shape[1], new)


def _plainly(named: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """By the names without what the bridge puts around a module."""
    return {name.replace("._original_component", ""): value for name, value in named}


class BridgeBackend(Backend):
    """A TransformerBridge, of TransformerLens 3.9 or 4."""

    def __init__(self, model: Any) -> None:
        super().__init__(model, model.original_model, model.cfg.architecture)
        # Not cfg.d_vocab: TransformerLens sets that to the tokenizer's size when the user sets another tokenizer.
        self.vocab_size: int = model.original_model.config.get_text_config().vocab_size

    def forward(self, tokens: Tokens, mask: Mask | None) -> Logits:
        self.check_length(tokens)
        if mask is None:
            return self.model(tokens, attention_mask=None, use_cache=False)
        with self._finite():
            return self.model(tokens, attention_mask=mask.long(), use_cache=False)

    def _finite(self) -> AbstractContextManager[Any]:
        """In the block, attention of a padded query, which sees nothing, is finite.

        Its scores are the dtype's lowest number: float64's is minus infinity in the softmax's float32, float16's when a
        score is added, and its row would be nan. What stands in for an attention's forward sees to that itself.
        """
        lowest = torch.finfo(torch.float16 if self.dtype == torch.float16 else torch.float32).min
        blocks = self.model.blocks if self.dtype in (torch.float64, torch.float16) else ()
        own = [n for n, block in enumerate(blocks) if "forward" not in vars(block.attn)]
        names = [f"blocks.{n}.attn.hook_attn_scores" for n in own]
        return self.model.hooks(fwd_hooks=[(name, lambda scores, hook: scores.clamp(min=lowest)) for name in names])

    def step(self, tokens: Int[Tensor, "batch new"], mask: Mask | None, kept: Any) -> tuple[Logits, Any]:
        """Logits at the new positions, and the keys and values kept with them. mask: over kept and new positions."""
        with self._finite() if mask is not None else nullcontext():
            mask = None if mask is None else mask.long()
            how = {"return_type": "logits_and_cache", "use_cache": True, "past_key_values": kept}
            return self.model(tokens, attention_mask=mask, **how)

    def n_params(self) -> int:
        """As the checkpoint counts them, tied ones once. The bridge itself holds some twice, whole and split."""
        split: list[nn.Module] = []
        for block in self.model.blocks:
            split += [getattr(block.attn, which) for which in "qkv"] if hasattr(block.attn, "qkv") else []
            fused = self.architecture in LAYOUTS and self.layout.mlp
            split += [block.mlp.gate, getattr(block.mlp, "in")] if fused else []
        out = {id(p) for module in split for p in module.parameters()}
        unembed, embed = self.model.unembed.original_component, self.model.embed.original_component
        if getattr(self.root.config, "tie_word_embeddings", False) and unembed.weight is not embed.weight:
            out.add(id(unembed.weight))  # processing parts them
        bias = getattr(unembed, "bias", None)
        if hooked.hooked_transformer() is not None and bias is not None and (self.processed() or not bias.any()):
            out.add(id(bias))  # TransformerLens 3.9 adds one of zeros
        return sum(p.numel() for p in self.root.parameters() if id(p) not in out)

    def processed(self) -> str:
        """Why the weights are no longer the checkpoint's; empty if they are."""
        # The bridge has no public name for it.
        return "enable_compatibility_mode folds norms and centres weights" if self.model._weights_processed else ""

    def head(self, layer: int, which: Projection, unit: int) -> tuple[nn.Parameter, Pick]:
        """The live parameter that holds a head's slice, and how to pick it: [d_head, d_model], for o its transpose."""
        module, size = self.projection(layer, which), self.shape.d_head
        return module.weight, block_of(unit * size, size, which == "o", isinstance(module, Conv1D))

    def projection(self, layer: int, which: Projection) -> Any:
        self.layout  # noqa: B018 - raises for an architecture that is not known
        part = getattr(self.model.blocks[layer].attn, which, None)
        module = getattr(part, "original_component", part)
        weight = getattr(module, "weight", None)
        inner = len(self.shape.units(which)) * self.shape.d_head
        expected = (self.shape.d_model, inner) if which == "o" else (inner, self.shape.d_model)
        found = None if weight is None else tuple(weight.T.shape if isinstance(module, Conv1D) else weight.shape)
        if found != expected:
            raise NotImplementedError(
                f"the {which} projection of layer {layer} is {found}, expected {expected}: this kind of "
                f"{self.architecture} can be measured, but not tuned or exported"
            )
        return module

    def _splits(self) -> Iterator[Split]:
        """The live parameters that Hugging Face has as parts of a fused one."""
        layout, shape = self.layout, self.shape
        for layer in range(shape.n_layers if layout.fused else 0):
            for which in ("q", "k", "v"):
                module, name = self.projection(layer, which), layout.module(layer, which)
                for unit in self.shape.units(which):
                    yield name + ".weight", layout.pick(shape, which, unit), *self.head(layer, which, unit)
                    if module.bias is not None:
                        here = block_of(unit * shape.d_head, shape.d_head)
                        yield name + ".bias", layout.pick_bias(shape, which, unit), module.bias, here
            if layout.mlp:
                mlp, start = self.model.blocks[layer].mlp, 0
                for module in (mlp.gate.original_component, getattr(mlp, "in").original_component):
                    size = len(module.weight)
                    yield layout.mlp.format(layer) + ".weight", block_of(start, size), module.weight, block_of(0, size)
                    start += size

    def hf_weights(self, names: set[str]) -> dict[str, Tensor]:
        """The live weights under Hugging Face's names, fused where it fuses. Shares memory where it can."""
        state = _plainly(state_of(self.root).items())
        found = {name: state[name] for name in names if name in state}
        stale = [split for split in self._splits() if not same_place(split[1](state[split[0]]), split[3](split[2]))]
        found |= {name: found[name].clone() for name in {split[0] for split in stale}}  # made anew
        for name, pick, parameter, here in stale:
            pick(found[name]).copy_(here(parameter.detach()))
        return found

    def plain(self, base: str | None = None, share: bool = False) -> PreTrainedModel:
        """A plain transformers model with these weights: a copy, or with `share` the live tensors, where it can.

        Where it can't (fused weights whose live parts lie elsewhere), `load_plain` takes home what is done to it.
        """
        config: Any = copy.deepcopy(self.root.config)
        config.output_attentions = False  # the bridge may have turned it on
        # The new model draws weights that are overwritten.
        empty = init_empty_weights(include_buffers=False) if share else nullcontext()
        with torch.random.fork_rng(devices=[]), torch.device("cpu"), empty:
            options = {"attn_implementation": "eager", "trust_remote_code": made_by_own_code(self.root)}
            plain = AutoModelForCausalLM.from_config(config, dtype=self.dtype, **options)
        expected = {name for name, _ in plain.named_parameters()}
        own = self.hf_weights(expected)
        if own.keys() != expected:
            odd = sorted(own.keys() ^ expected)
            raise NotImplementedError(
                f"the weights of {self.architecture} can't be named as Hugging Face does: {odd[:3]}"
            )
        plain.load_state_dict(own, strict=False, assign=share)  # tied weights are named once
        plain.tie_weights()
        plain.generation_config = copy.deepcopy(self.root.generation_config)
        return plain

    @torch.no_grad()
    def load_plain(self, plain: PreTrainedModel) -> None:
        """Copies a plain model's weights into the live parameters, but for those that it shares with them."""
        weights, state = dict(plain.named_parameters()), _plainly(self.root.state_dict().items())
        into = [(state[name], value) for name, value in weights.items()]
        into += [(here(parameter), pick(weights[name])) for name, pick, parameter, here in self._splits()]
        for live, value in into:
            if not same_place(live, value):
                live.copy_(value)


class HookedBackend(Backend):
    """A HookedTransformer, of TransformerLens 3.9."""

    may_drop_out = False  # the class has no dropout, and from_pretrained leaves it in training mode

    def __init__(self, model: Any) -> None:
        super().__init__(model, model, model.cfg.original_architecture or "a HookedTransformer of no known checkpoint")
        self.vocab_size: int = model.unembed.W_U.shape[1]

    def forward(self, tokens: Tokens, mask: Mask | None) -> Logits:
        self.check_length(tokens)
        # Without a mask it would guess one from tokens that happen to be the padding token.
        return self.model(tokens, attention_mask=torch.ones_like(tokens) if mask is None else mask.long())

    def step(self, tokens: Int[Tensor, "batch new"], mask: Mask | None, kept: Any) -> tuple[Logits, Any]:
        kept = hooked.new_cache(self.model, len(tokens)) if kept is None else kept
        new = torch.ones_like(tokens) if mask is None else mask[:, -tokens.shape[1] :].long()
        return self.model(tokens, attention_mask=new, past_kv_cache=kept), kept

    @property
    def generation_config(self) -> Any:
        return getattr(getattr(self.model, "spt_lens_source", None), "generation_config", None)

    def n_params(self) -> int:
        """As the checkpoint counts them: without biases that only this class has, and a tied unembedding once."""
        parameters = self.named_parameters()
        unembed, embed = parameters.pop("unembed.W_U"), parameters["embed.W_E"]
        tied = hooked.same_up_to_scale(unembed.detach().T, embed.detach())
        biases = [p for name, p in parameters.items() if name.rpartition(".")[2].lstrip("_").startswith("b_")]
        made_up = sum(p.numel() for p in biases if not p.any())
        return sum(p.numel() for p in parameters.values()) - made_up + (0 if tied else unembed.numel())

    def processed(self) -> str:
        return hooked.processed(self.model)

    def head(self, layer: int, which: Projection, unit: int) -> tuple[nn.Parameter, Pick]:
        self.layout  # noqa: B018 - raises for an architecture that is not known
        attention = self.model.blocks[layer].attn
        # Of a grouped-query model, W_K and W_V are expanded copies; the weights have an underscore.
        name = f"_W_{which.upper()}" if which in "kv" and hasattr(attention, "_W_K") else f"W_{which.upper()}"
        return getattr(attention, name), lambda weight: weight[unit].T

    def plain(self, base: str | None = None, share: bool = False) -> PreTrainedModel:
        """An independent plain transformers model: that of `base`, with all heads' weights taken from here."""
        plain = hooked.base_model(self.model, base)
        named = dict(plain.named_parameters())
        with torch.no_grad():
            for layer in range(self.shape.n_layers):
                for which in ("q", "k", "v", "o"):
                    into = named[self.layout.module(layer, which) + ".weight"]
                    for unit in self.shape.units(which):
                        weight, pick = self.head(layer, which, unit)
                        self.layout.pick(self.shape, which, unit)(into).copy_(pick(weight))
        own = self.named_parameters()
        again = hooked.converted(self.model.cfg, plain)
        odd = [name for name in own if name in again and not torch.equal(own[name], again[name].to(own[name]))]
        if odd:
            raise ValueError(
                f"{len(odd)} weights of this HookedTransformer, first {odd[0]}, are not those of the checkpoint it was "
                "made of, and only W_Q, W_K, W_V and W_O can be carried over: undo that change first, or name the "
                "right checkpoint with base= (one moved to another dtype: load it with that dtype)"
            )
        return plain

    @torch.no_grad()
    def load_plain(self, plain: PreTrainedModel) -> None:
        own = self.named_parameters()
        for name, value in hooked.converted(self.model.cfg, plain).items():
            if name in own:
                own[name].copy_(value)


def backend_of(model: Any) -> BridgeBackend | HookedBackend:
    """The backend of a model. Raises TypeError for an object of another class."""
    if hasattr(model, "spt_lens_backend"):
        return model.spt_lens_backend()
    from transformer_lens.model_bridge import TransformerBridge  # takes seconds, and is needed only with a model

    if isinstance(model, TransformerBridge):
        return BridgeBackend(model)
    if hooked.is_hooked(model):
        return HookedBackend(model)
    wanted = "a TransformerBridge or HookedTransformer"
    raise TypeError(f"expected {wanted}, got {type(model).__name__}: load one by spt_lens.load_model(name or folder)")
