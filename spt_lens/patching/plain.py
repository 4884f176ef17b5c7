"""The plain hook functions on hook_z that all measurements are defined by, and that the sweep is held against.

Each maker returns a function of (z, hook) as TransformerLens calls it, z of shape [batch, pos, n_heads, d_head]. They
return a changed copy and leave the model's own tensor as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor

from spt_lens.model.view import Hook


def patch_heads(
    row: Int[Tensor, " places"],
    pos: Int[Tensor, " places"],
    source: Float[Tensor, "places n_heads d_head"],
    heads: Sequence[int],
) -> Callable[..., Tensor]:
    """Gives these heads of a layer, together, their values from `source`: source[j] at pos[j] of row[j]."""
    chosen = list(heads)

    def patch(z: Float[Tensor, "batch pos n_heads d_head"], hook: Any = None) -> Tensor:
        z = z.clone()
        z[row[:, None], pos[:, None], chosen] = source[:, chosen].to(z)
        return z

    return patch


def ablate_heads(values: Float[Tensor, "n_heads d_head"], heads: Sequence[int]) -> Callable[..., Tensor]:
    """Sets these heads of a layer to fixed values (their mean, or zero) at every position, so also while generating."""
    chosen = list(heads)

    def ablate(z: Float[Tensor, "batch pos n_heads d_head"], hook: Any = None) -> Tensor:
        z = z.clone()
        z[:, :, chosen] = values[chosen].to(z)
        return z

    return ablate


def keeping(into: dict[str, Tensor], names: Iterable[str], start: int = 0) -> list[Hook]:
    """Keeps what passes through hook points, from a position on, by their names."""

    def keep(name: str) -> Hook:
        return name, lambda value, hook=None: into.update({name: value[:, start:].detach().clone()})

    return list(map(keep, names))


def as_rows(function: Callable[..., Any], batch: int) -> Callable[..., Any]:
    """A hook on `[batch, variants * length, ...]`, for a module that is given each variant as a row of its own."""

    def run(value: Float[Tensor, "batch_variants length *unit"], hook: Any = None) -> Tensor | None:
        found = function(value.reshape(batch, -1, *value.shape[2:]), hook)
        return None if found is None else found.view(value.shape)

    return run
