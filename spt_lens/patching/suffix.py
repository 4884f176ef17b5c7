"""Running a model's blocks on the end of its prompts alone: what makes all heads in one sweep possible.

A patch changes nothing before the first position that it touches. So the keys and values of all earlier positions are
kept from one ordinary run, and only the positions from there on (the suffix) go through the blocks again, as often as
there are patches to try. Each try is a *variant* of the suffix. Variants of one prompt stand side by side on the
position axis and share the kept keys and values, which are never copied: a mask lets each variant see the kept
positions and itself, nothing of the others.

The blocks are the model's own, called with the arguments that the model itself gave them; only those that run along
positions are cut to the suffix and repeated. What they can't be cut from is refused (`NotPossible`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import Cache, DynamicCache

from spt_lens.model.hooked import is_hooked, new_cache
from spt_lens.model.view import Hook, ModelView
from spt_lens.patching.suffix_parts import (
    KeptCache,
    KeptEntry,
    causal,
    first,
    only_tokens,
    take_back,
    tiled,
    tree,
    with_methods,
)


class NotPossible(Exception):
    """Why this model's blocks can't be run on suffixes. Its text completes "this model ..."."""


class SuffixRun:
    """One ordinary run of equally long prompts, kept so that blocks can be run again from position `start` on.

    Attributes:
        start, length: where the suffix begins, and how many positions it has.
        resid: `[batch, length, d_model]` for each layer: what its block was given there.
        final: `[batch, length, d_model]`: what the last block gave.
        z: `[batch, length, n_heads, d_head]` for each layer: the outputs of the heads.
        last_logits: `[batch, vocab]`, by the model's own forward pass.

    Costs one forward pass. Keeps the keys and values of the whole prompts until it is deleted.

    Raises:
        NotPossible: the model's blocks take something that this code does not know.
    """

    def __init__(self, view: ModelView, tokens: Int[Tensor, "batch pos"], start: int) -> None:
        self.view = view
        view.backend.check_length(tokens)
        self.tokens = tokens.to(view.device)
        self.start, self.length = start, tokens.shape[1] - start
        self.resid: list[Tensor] = []
        self.z: list[Tensor] = []
        self._blocks: list[nn.Module] = list(view.model.blocks)
        self._calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
        self._masks: dict[tuple[int, int], Tensor] = {}
        self._run()

    def _run(self) -> None:
        last = torch.full((len(self.tokens),), self.tokens.shape[1] - 1)

        def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            hidden = args[0] if args else kwargs["hidden_states"]
            self.resid.append(hidden[:, self.start :].clone())
            self._calls.append((args[1:], {k: v for k, v in kwargs.items() if k != "hidden_states"}))

        def after(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            self.final: Tensor = first(output)[:, self.start :].clone()
            self._rest = [None] * (len(output) - 1) if isinstance(output, tuple) else None

        def keep_z(z: Tensor, hook: Any) -> None:
            self.z.append(z[:, self.start :].detach().clone())

        hooks = [(self.view.z_name(layer), keep_z) for layer in range(self.view.n_layers)]
        with ExitStack() as stack:
            for block in self._blocks:
                stack.callback(block.register_forward_pre_hook(before, with_kwargs=True).remove)
            stack.callback(self._blocks[-1].register_forward_hook(after).remove)
            self.last_logits = self._forward(hooks, last)
        if len(self._calls) != len(self._blocks) or len(self.z) != len(self._blocks):
            raise NotPossible("does not call every block, with its heads' hook, just once in a forward pass")

    def _forward(self, hooks: list[Hook], at: Int[Tensor, " batch"]) -> Float[Tensor, "batch vocab"]:
        """The ordinary run, which fills `self._keys` and `self._values`."""
        raise NotImplementedError

    def block(
        self, layer: int, hidden: Float[Tensor, "batch variants_length d_model"], hooks: list[Hook]
    ) -> Float[Tensor, "batch variants_length d_model"]:
        """A block's output for variants that stand side by side, each with the kept positions before it."""
        raise NotImplementedError

    def alone(
        self, layer: int, hidden: Float[Tensor, "rows length d_model"], hooks: list[Hook]
    ) -> Float[Tensor, "rows length d_model"]:
        """A block's output for suffixes that have nothing before them, for hooks that replace what attention gives."""
        raise NotImplementedError

    def _called(
        self, layer: int, hidden: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any], hooks: list[Hook]
    ) -> Tensor:
        points = [(self.view.model.hook_dict[name], function) for name, function in hooks]
        with ExitStack() as stack:
            for point, function in points:
                point.add_hook(function)
                stack.callback(take_back, point)
            return first(self._blocks[layer](hidden, *args, **kwargs))

    def logits(
        self, hidden: Float[Tensor, "rows d_model"], ids: Int[Tensor, "rows k"] | None = None
    ) -> Float[Tensor, "rows k_or_vocab"]:
        """What the model makes of outputs of the last block: all logits, or of each row those of the tokens `ids`.

        By the model's own final norm, unembedding and whatever follows (caps, scales): a forward pass of one token, in
        which every block is passed over and gives `hidden`.
        """
        instead = hidden[:, None] if self._rest is None else (hidden[:, None], *self._rest)
        with ExitStack() as stack:
            for block in self._blocks:
                stack.enter_context(with_methods(block, forward=lambda *args, **kwargs: instead))
            stack.enter_context(only_tokens(self.view.model.unembed, ids))
            return self.view.backend.forward(self.tokens[:1, :1], None)[:, 0]


class _BridgeSuffix(SuffixRun):
    def _forward(self, hooks: list[Hook], at: Int[Tensor, " batch"]) -> Float[Tensor, "batch vocab"]:
        cache = DynamicCache()
        with self.view.model.hooks(fwd_hooks=hooks), self.view.unembedded_at(at):
            logits = self.view.model(self.tokens, use_cache=True, past_key_values=cache)[:, 0]
        if len(cache.layers) != len(self._blocks) or any(layer.keys is None for layer in cache.layers):
            raise NotPossible("does not keep keys and values for every layer")
        self._keys = [layer.keys[:, :, : self.start] for layer in cache.layers]
        self._values = [layer.values[:, :, : self.start] for layer in cache.layers]
        if any(keys.shape[2] != self.start for keys in self._keys):
            raise NotPossible("does not keep the keys and values of all positions")
        return logits

    def block(self, layer: int, hidden: Tensor, hooks: list[Hook]) -> Tensor:
        variants = hidden.shape[1] // self.length
        kept = KeptCache(self._keys, self._values)

        def cut(value: Any) -> Any:
            if isinstance(value, Cache):
                return kept
            return self._cut(value, partial(self._tree_mask, variants=variants), partial(tiled, variants))

        args, kwargs = self._calls[layer]
        found = tuple(map(cut, args)), {name: cut(value) for name, value in kwargs.items()}
        if not any(value is kept for value in (*found[0], *found[1].values())):
            raise NotPossible("does not hand its cache to the blocks")
        if not any(isinstance(value, Tensor) and value.ndim == 4 for value in (*found[0], *found[1].values())):
            found[1]["attention_mask"] = self._tree_mask(None, variants)
        return self._called(layer, hidden, *found, hooks)

    def alone(self, layer: int, hidden: Tensor, hooks: list[Hook]) -> Tensor:
        def cut(value: Any) -> Any:
            if isinstance(value, Cache):
                return None
            return self._cut(value, lambda mask: mask[..., -self.length :], lambda x, dim: x)

        args, kwargs = self._calls[layer]
        return self._called(
            layer, hidden, tuple(map(cut, args)), {name: cut(value) for name, value in kwargs.items()}, hooks
        )

    def _cut(self, value: Any, mask: Callable[[Tensor], Tensor], along: Callable[[Tensor, int], Tensor]) -> Any:
        """An argument of a block, cut to the suffix. Rows are equally long and not padded: one stands for all."""
        total = self.start + self.length
        if value is None or isinstance(value, bool | int | float | str):
            return value
        if isinstance(value, tuple | list) and value and all(isinstance(x, Tensor) for x in value):
            if all(x.ndim == 3 and x.shape[1] == total for x in value):  # the rotary cosines and sines
                return type(value)(along(x[:1, self.start :], 1) for x in value)
        if isinstance(value, Tensor):
            if value.ndim == 4 and value.shape[-2:] == (total, total):
                return mask(value[:1, :, self.start :])
            if value.ndim in (1, 2) and value.shape[-1] == total and not value.is_floating_point():  # position ids
                return along(value[:1, self.start :] if value.ndim == 2 else value[self.start :], value.ndim - 1)
        shape = tuple(value.shape) if isinstance(value, Tensor) else ""
        raise NotPossible(f"gives its blocks a {type(value).__name__} {shape} that is not known here")

    def _tree_mask(self, mask: Float[Tensor, "1 1 length total"] | None, variants: int) -> Tensor:
        """Each variant sees the kept positions as the suffix did, and itself; of the others, nothing."""
        if mask is None:  # the model leaves out a mask that is plainly causal
            dtype = self.view.dtype
            hidden = ~causal(self.length, self.start, self.tokens.device)
            mask = torch.zeros(hidden.shape, dtype=dtype, device=self.tokens.device)
            mask = mask.masked_fill(hidden, torch.finfo(dtype).min)[None, None]
            key = (-1, variants)
        else:
            key = (mask.untyped_storage().data_ptr(), variants)
        if key not in self._masks:
            self._masks = {of: kept for of, kept in self._masks.items() if of[1] == variants}  # they are large
            lowest = False if mask.dtype == torch.bool else torch.finfo(mask.dtype).min
            self._masks[key] = tree(mask, self.start, variants, lowest)
        return self._masks[key]


class _HookedSuffix(SuffixRun):
    def _forward(self, hooks: list[Hook], at: Int[Tensor, " batch"]) -> Float[Tensor, "batch vocab"]:
        if self.view.model.cfg.positional_embedding_type not in ("standard", "rotary"):
            raise NotPossible(f"counts positions by {self.view.model.cfg.positional_embedding_type}")
        cache = new_cache(self.view.model, len(self.tokens))
        with self.view.model.hooks(fwd_hooks=hooks), self.view.unembedded_at(at):
            mask = torch.ones_like(self.tokens)
            logits = self.view.model(self.tokens, attention_mask=mask, past_kv_cache=cache)[:, 0]
        self._keys = [entry.past_keys[:, : self.start] for entry in cache.entries]
        self._values = [entry.past_values[:, : self.start] for entry in cache.entries]
        return logits

    def block(self, layer: int, hidden: Tensor, hooks: list[Hook]) -> Tensor:
        entry = KeptEntry(self._keys[layer], self._values[layer])
        variants = hidden.shape[1] // self.length
        with self._tree_attention(self._blocks[layer].attn, variants):
            return self._called(layer, hidden, (), {"past_kv_cache_entry": entry}, hooks)

    def alone(self, layer: int, hidden: Tensor, hooks: list[Hook]) -> Tensor:
        return self._called(layer, hidden, (), {}, hooks)

    @contextmanager
    def _tree_attention(self, attention: Any, variants: int) -> Iterator[None]:
        """This class turns keys and masks by where a position stands; here variants stand behind each other."""
        rotary, start, length = type(attention).apply_rotary, self.start, self.length

        def apply_rotary(x: Tensor, offset: int = 0, attention_mask: Any = None) -> Tensor:
            kept = x[:, : x.shape[1] - variants * length]
            own = x[:, kept.shape[1] :].reshape(len(x) * variants, length, *x.shape[2:])
            own = rotary(attention, own, start).reshape(len(x), variants * length, *x.shape[2:])
            return torch.cat([rotary(attention, kept, 0), own], dim=1) if kept.shape[1] else own

        def apply_causal_mask(scores: Tensor, offset: int = 0, attention_mask: Any = None) -> Tensor:
            key = (int(attention.attn_type == "local"), variants)
            if key not in self._masks:
                self._masks = {of: kept for of, kept in self._masks.items() if of[1] == variants}
                seen = attention._make_causal_mask(length, start + length, start, scores.device)
                self._masks[key] = tree(seen.expand(1, 1, *seen.shape[-2:]), start, variants, False)
            return torch.where(self._masks[key], scores, attention.IGNORE)

        with with_methods(attention, apply_rotary=apply_rotary, apply_causal_mask=apply_causal_mask):
            yield


def suffix_run(view: ModelView, tokens: Int[Tensor, "batch pos"], start: int) -> SuffixRun:
    """One ordinary run of prompts of equal length, kept from position `start` on. Raises NotPossible."""
    return (_HookedSuffix if is_hooked(view.model) else _BridgeSuffix)(view, tokens, start)
