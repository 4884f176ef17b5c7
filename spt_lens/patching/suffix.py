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

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import Cache, DynamicCache

from spt_lens.model.blocks import passed_over, with_methods
from spt_lens.model.devices import brought
from spt_lens.model.hooked import is_hooked, new_cache
from spt_lens.model.view import Hook, ModelView
from spt_lens.patching.plain import as_rows, keeping


class NotPossible(Exception):
    """Why this model's blocks can't be run on suffixes. Its text completes "this model ..."."""


class SuffixRun:
    """One ordinary run of equally long prompts, kept so that blocks can be run again from position `start` on.

    Attributes:
        start, length: where the suffix begins, and how many positions it has.
        resid: `[batch, length, d_model]` for each layer: what its block was given there.
        final: `[batch, length, d_model]`: what the last block gave.
        own: by hook point: what passed through it there; of hook_z in every layer, and of those named in `also`.

    Costs one forward pass, and keeps the keys and values of the whole prompts. Raises NotPossible.
    """

    def __init__(self, view: ModelView, tokens: Int[Tensor, "batch pos"], start: int, also: Sequence[str]) -> None:
        self.view = view
        view.backend.check_length(tokens)
        self.tokens = tokens.to(view.device)
        self.start, self.length = start, tokens.shape[1] - start
        self.resid: list[Tensor] = []
        self.own: dict[str, Tensor] = {}
        self._blocks: list[nn.Module] = list(view.model.blocks)
        self._keys: list[Tensor] = []
        self._values: list[Tensor] = []
        self._calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
        self._masks: dict[tuple[int, int], Tensor] = {}
        names = [*map(view.z_name, range(view.n_layers)), *also]

        def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            hidden = args[0] if args else kwargs["hidden_states"]
            self.resid.append(hidden[:, self.start :].clone())
            self._calls.append((args[1:], {k: v for k, v in kwargs.items() if k != "hidden_states"}))

        def after(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            hidden, *rest = output if isinstance(output, tuple) else (output,)
            self.final: Tensor = hidden[:, self.start :].clone()
            self._rest = [None] * len(rest) if isinstance(output, tuple) else None

        with ExitStack() as stack:
            for block in self._blocks:
                stack.callback(block.register_forward_pre_hook(before, with_kwargs=True).remove)
            stack.callback(self._blocks[-1].register_forward_hook(after).remove)
            self._forward(keeping(self.own, names, start), torch.full((len(tokens),), tokens.shape[1] - 1))
        if len(self._calls) != len(self._blocks) or len(self.own) != len(names):
            raise NotPossible("does not call every block, with its heads' hook, just once in a forward pass")

    def _forward(self, hooks: list[Hook], at: Int[Tensor, " batch"]) -> None:
        """The ordinary run, which fills `self._keys` and `self._values`."""
        raise NotImplementedError

    def block(
        self, layer: int, hidden: Float[Tensor, "batch variants_length d_model"], hooks: list[Hook], alone: bool = False
    ) -> Float[Tensor, "batch variants_length d_model"]:
        """A block's output for variants that stand side by side, each with the kept positions before it, or `alone`."""
        raise NotImplementedError

    def alone(
        self, layer: int, hidden: Float[Tensor, "batch variants_length d_model"], hooks: list[Hook]
    ) -> Float[Tensor, "batch variants_length d_model"]:
        """The same with nothing before them, which is less work, for hooks that replace what all heads give."""
        by_row = [(name, as_rows(function, len(hidden))) for name, function in hooks]
        rows = hidden.reshape(-1, self.length, hidden.shape[-1])
        return self.block(layer, rows, by_row, alone=True).view(hidden.shape)

    def _called(
        self, layer: int, hidden: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any], hooks: list[Hook]
    ) -> Tensor:
        with ExitStack() as stack:
            for name, function in hooks:
                point = self.view.model.hook_dict[name]
                point.add_hook(function)
                stack.callback(lambda each: each.fwd_hooks.pop().hook.remove(), point)
            output = self._blocks[layer](hidden, *args, **kwargs)
        return output[0] if isinstance(output, tuple) else output

    def _mask(self, of: int, variants: int, make: Callable[[], tuple[Tensor, float | bool]]) -> Tensor:
        """A mask for so many variants, kept for the next layers. make: gives that of one, and what hides in it."""
        if (of, variants) not in self._masks:
            self._masks = {key: kept for key, kept in self._masks.items() if key[1] == variants}  # they are large
            mask, hidden = make()
            self._masks[of, variants] = tree(mask, self.start, variants, hidden)
        return self._masks[of, variants]

    def logits(
        self, hidden: Float[Tensor, "rows d_model"], ids: Int[Tensor, "rows k"] | None = None
    ) -> Float[Tensor, "rows k_or_vocab"]:
        """What the model makes of outputs of the last block: all logits, or of each row those of the tokens `ids`.

        By the model's own final norm, unembedding and whatever follows (caps, scales): a forward pass of one token, in
        which every block is passed over and gives `hidden`.
        """
        instead = hidden[:, None] if self._rest is None else (hidden[:, None], *self._rest)
        with passed_over(self._blocks, lambda *args, **kwargs: instead), only_tokens(self.view.model.unembed, ids):
            return self.view.backend.forward(self.tokens[:1, :1], None)[:, 0]


class _BridgeSuffix(SuffixRun):
    def _forward(self, hooks: list[Hook], at: Int[Tensor, " batch"]) -> None:
        cache = DynamicCache()
        with self.view.model.hooks(fwd_hooks=hooks), self.view.unembedded_at(at):
            self.view.model(self.tokens, use_cache=True, past_key_values=cache)
        if len(cache.layers) != len(self._blocks) or any(layer.keys is None for layer in cache.layers):
            raise NotPossible("does not keep keys and values for every layer")
        self._keys = [layer.keys[:, :, : self.start] for layer in cache.layers]
        self._values = [layer.values[:, :, : self.start] for layer in cache.layers]
        if any(keys.shape[2] != self.start for keys in self._keys):
            raise NotPossible("does not keep the keys and values of all positions")

    def block(self, layer: int, hidden: Tensor, hooks: list[Hook], alone: bool = False) -> Tensor:
        variants = hidden.shape[1] // self.length
        kept = None if alone else KeptCache(self._keys, self._values)
        first = self.start if alone else 0  # of the positions that a mask speaks of

        def cut(value: Any) -> Any:
            return kept if isinstance(value, Cache) else self._cut(value, variants, first)

        args, kwargs = tuple(map(cut, self._calls[layer][0])), {k: cut(v) for k, v in self._calls[layer][1].items()}
        if not any(value is kept for value in (*args, *kwargs.values())):
            raise NotPossible("does not hand its cache to the blocks")
        if not any(isinstance(value, Tensor) and value.ndim == 4 for value in (*args, *kwargs.values())):
            kwargs["attention_mask"] = self._tree_mask(None, variants)[..., first:]
        return self._called(layer, hidden, args, kwargs, hooks)

    def _cut(self, value: Any, variants: int, first: int) -> Any:
        """An argument of a block, cut to the suffix and repeated. Rows are equally long: one stands for all."""
        total = self.start + self.length
        if value is None or isinstance(value, bool | int | float | str):
            return value
        if isinstance(value, tuple | list) and value and all(isinstance(x, Tensor) for x in value):
            if all(x.ndim == 3 and x.shape[1] == total for x in value):  # the rotary cosines and sines
                return type(value)(x[:1, self.start :].repeat(1, variants, 1) for x in value)
        if isinstance(value, Tensor):
            if value.ndim == 4 and value.shape[-2:] == (total, total):
                return self._tree_mask(value[:1, :, self.start :], variants)[..., first:]
            if value.ndim in (1, 2) and value.shape[-1] == total and not value.is_floating_point():  # position ids
                ids = value[:1] if value.ndim == 2 else value
                return ids[..., self.start :].repeat(*[1] * (value.ndim - 1), variants)
        shape = tuple(value.shape) if isinstance(value, Tensor) else ""
        raise NotPossible(f"gives its blocks a {type(value).__name__} {shape} that is not known here")

    def _tree_mask(self, mask: Float[Tensor, "1 1 length total"] | None, variants: int) -> Tensor:
        """Each variant sees the kept positions as the suffix did, and itself; of the others, nothing."""

        def make() -> tuple[Tensor, float | bool]:
            if mask is not None:
                return mask, False if mask.dtype == torch.bool else torch.finfo(mask.dtype).min
            dtype, device = self.view.dtype, self.tokens.device  # the model leaves out a mask that is plainly causal
            seen = torch.ones(self.length, self.start + self.length, dtype=torch.bool, device=device).tril(self.start)
            lowest = torch.finfo(dtype).min
            return torch.zeros_like(seen, dtype=dtype).masked_fill(~seen, lowest)[None, None], lowest

        return self._mask(-1 if mask is None else mask.untyped_storage().data_ptr(), variants, make)


class _HookedSuffix(SuffixRun):
    def _forward(self, hooks: list[Hook], at: Int[Tensor, " batch"]) -> None:
        if self.view.model.cfg.positional_embedding_type not in ("standard", "rotary"):
            raise NotPossible(f"counts positions by {self.view.model.cfg.positional_embedding_type}")
        cache = new_cache(self.view.model, len(self.tokens))
        with self.view.model.hooks(fwd_hooks=hooks), self.view.unembedded_at(at):
            self.view.model(self.tokens, attention_mask=torch.ones_like(self.tokens), past_kv_cache=cache)
        self._keys = [entry.past_keys[:, : self.start] for entry in cache.entries]
        self._values = [entry.past_values[:, : self.start] for entry in cache.entries]

    def block(self, layer: int, hidden: Tensor, hooks: list[Hook], alone: bool = False) -> Tensor:
        if alone:
            return self._called(layer, hidden, (), {}, hooks)
        entry = KeptEntry(self._keys[layer], self._values[layer])
        with self._tree_attention(self._blocks[layer].attn, hidden.shape[1] // self.length):
            return self._called(layer, hidden, (), {"past_kv_cache_entry": entry}, hooks)

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
            def make() -> tuple[Tensor, bool]:
                seen = attention._make_causal_mask(length, start + length, start, scores.device)
                return seen.expand(1, 1, *seen.shape[-2:]), False

            mask = self._mask(int(attention.attn_type == "local"), variants, make)
            return torch.where(mask, scores, attention.IGNORE)

        with with_methods(attention, apply_rotary=apply_rotary, apply_causal_mask=apply_causal_mask):
            yield


def suffix_run(view: ModelView, tokens: Int[Tensor, "batch pos"], start: int, also: Sequence[str] = ()) -> SuffixRun:
    """One ordinary run of prompts of equal length, kept from position `start` on. Raises NotPossible."""
    return (_HookedSuffix if is_hooked(view.model) else _BridgeSuffix)(view, tokens, start, also)


class KeptCache:
    """Stands in for a cache of Hugging Face's: gives the kept keys and values before new ones, and keeps nothing."""

    def __init__(self, keys: list[Tensor], values: list[Tensor]) -> None:
        self.keys, self.values = keys, values

    def update(self, keys: Tensor, values: Tensor, layer: int, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        return torch.cat([self.keys[layer], keys], dim=2), torch.cat([self.values[layer], values], dim=2)


class KeptEntry:
    """The same for one layer of TransformerLens's cache."""

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        self.past_keys, self.past_values = keys, values

    def append(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        return torch.cat([self.past_keys, keys], dim=1), torch.cat([self.past_values, values], dim=1)


def tree(mask: Tensor, start: int, variants: int, hidden: float | bool) -> Tensor:
    """`[1, 1, length, start + length]` for one variant -> `[1, 1, variants * length, start + variants * length]`."""
    length = mask.shape[-2]
    own = mask.new_full((variants, length, variants, length), hidden)
    each = torch.arange(variants, device=mask.device)
    own[each, :, each] = mask[0, 0, :, start:]
    before = mask[0, 0, :, :start].repeat(variants, 1)
    return torch.cat([before, own.reshape(variants * length, variants * length)], dim=1)[None, None]


@contextmanager
def only_tokens(unembed: Any, ids: Int[Tensor, "rows k"] | None) -> Iterator[None]:
    """Unembeds of each row only its own tokens, the matrix being too large to multiply by for two of them."""
    if ids is None:
        yield
        return
    kept: list[Tensor] = []

    def before(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        kept.append(args[0])
        return (args[0][:1], *args[1:])  # one row for the module itself: what comes of it is replaced

    def after(module: Any, args: tuple[Any, ...], output: Tensor) -> Tensor:
        rows = kept.pop()
        with brought(module):
            columns, bias = (each[ids.to(each.device)].to(output) for each in (module.W_U.T, module.b_U))
        return torch.einsum("rpd,rkd->rpk", rows.to(output), columns) + bias[:, None]  # columns: [rows, k, d_model]

    with ExitStack() as stack:
        stack.callback(unembed.register_forward_pre_hook(before).remove)
        stack.callback(unembed.register_forward_hook(after).remove)
        yield
