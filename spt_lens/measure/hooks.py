"""The plain hook functions on hook_z that all measurements are defined by.

Each maker returns a function of (z, hook) as TransformerLens calls it, z of shape [batch, pos, n_heads, d_head]. They
return a changed copy and leave the model's own tensor as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor

HookFunction = Callable[..., Tensor]


def patch_heads(
    row: Int[Tensor, " places"],
    pos: Int[Tensor, " places"],
    source: Float[Tensor, "places n_heads d_head"],
    heads: Sequence[int],
) -> HookFunction:
    """Gives these heads of a layer, together, their values from `source`: source[j] at pos[j] of row[j]."""
    chosen = list(heads)

    def patch(z: Float[Tensor, "batch pos n_heads d_head"], hook: Any = None) -> Tensor:
        z = z.clone()
        z[row[:, None], pos[:, None], chosen] = source[:, chosen].to(z)
        return z

    return patch


def patch_stacked_heads(
    row: Int[Tensor, " places"],
    pos: Int[Tensor, " places"],
    source: Float[Tensor, "places n_heads d_head"],
    heads: Sequence[int],
    size: int,
) -> HookFunction:
    """As patch_heads, one head at a time: z holds len(heads) copies of a batch of `size`, and copy i gets heads[i]
    alone. row counts in one copy.
    """
    chosen = list(heads)

    def patch(z: Float[Tensor, "copies_batch pos n_heads d_head"], hook: Any = None) -> Tensor:
        z = z.clone()
        for i, head in enumerate(chosen):
            z[row + i * size, pos, head] = source[:, head].to(z)
        return z

    return patch


def ablate_heads(values: Float[Tensor, "n_heads d_head"], heads: Sequence[int]) -> HookFunction:
    """Sets these heads of a layer to fixed values (their mean, or zero) at every position, so also while generating."""
    chosen = list(heads)

    def ablate(z: Float[Tensor, "batch pos n_heads d_head"], hook: Any = None) -> Tensor:
        z = z.clone()
        z[:, :, chosen] = values[chosen].to(z)
        return z

    return ablate
