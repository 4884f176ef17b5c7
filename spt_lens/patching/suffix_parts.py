"""What suffix.py is put together from: stand-ins for caches, masks, methods and an unembedding for a moment."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn


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


def first(output: Any) -> Tensor:
    return output[0] if isinstance(output, tuple) else output


def take_back(point: Any) -> None:
    handle = point.fwd_hooks.pop()
    handle.hook.remove()


def tiled(times: int, x: Tensor, dim: int) -> Tensor:
    return x.repeat(*[times if i == dim else 1 for i in range(x.ndim)])


def causal(length: int, start: int, device: torch.device) -> Bool[Tensor, "length total"]:
    return torch.ones(length, start + length, dtype=torch.bool, device=device).tril(start)


def tree(mask: Tensor, start: int, variants: int, hidden: float | bool) -> Tensor:
    """`[1, 1, length, start + length]` for one variant -> `[1, 1, variants * length, start + variants * length]`."""
    length = mask.shape[-2]
    own = mask.new_full((variants, length, variants, length), hidden)
    each = torch.arange(variants, device=mask.device)
    own[each, :, each] = mask[0, 0, :, start:]
    before = mask[0, 0, :, :start].repeat(variants, 1)
    return torch.cat([before, own.reshape(variants * length, variants * length)], dim=1)[None, None]


@contextmanager
def with_methods(module: nn.Module, **methods: Callable[..., Any]) -> Iterator[None]:
    """Methods on this very module, that hide its class's until they are gone again (accelerate has some there too)."""
    own = module.__dict__
    before = {name: own[name] for name in methods if name in own}
    own.update(methods)
    try:
        yield
    finally:
        for name in methods:
            own.pop(name, None)
        own.update(before)


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
        columns = module.W_U.T[ids.to(rows.device)]  # [rows, k, d_model]
        return torch.einsum("rpd,rkd->rpk", rows, columns.to(rows)) + module.b_U[ids.to(rows.device)][:, None]

    handles = [unembed.register_forward_pre_hook(before), unembed.register_forward_hook(after)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
