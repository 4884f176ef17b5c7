"""The plain hook functions on hook_z that all measurements are defined by.

Each maker returns a function of (z, hook) as TransformerLens calls it, z of shape [batch, pos, n_heads, d_head]. They
return a changed copy and leave the model's own tensor as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

from jaxtyping import Float
from torch import Tensor

Positions = Literal["last", "all"]
HookFunction = Callable[..., Tensor]


def patch_heads(
    source: Float[Tensor, "batch pos n_heads d_head"], heads: Sequence[int], positions: Positions
) -> HookFunction:
    """Gives these heads of a layer, together, their values from `source`: at the last position, or at all of them.

    With positions="last", source and z may differ in length: the last position of each is meant.
    """
    chosen = list(heads)

    def patch(z: Float[Tensor, "batch pos n_heads d_head"], hook: Any = None) -> Tensor:
        z = z.clone()
        if positions == "last":
            z[:, -1, chosen] = source[:, -1, chosen]
        else:
            z[:, :, chosen] = source[:, :, chosen]
        return z

    return patch


def patch_stacked_heads(
    source: Float[Tensor, "batch pos n_heads d_head"], heads: Sequence[int], positions: Positions
) -> HookFunction:
    """As patch_heads, one head at a time: z holds len(heads) copies of the batch, and copy i gets heads[i] alone."""
    size = source.shape[0]
    chosen = list(heads)

    def patch(z: Float[Tensor, "copies_batch pos n_heads d_head"], hook: Any = None) -> Tensor:
        z = z.clone()
        for i, head in enumerate(chosen):
            rows = slice(i * size, (i + 1) * size)
            if positions == "last":
                z[rows, -1, head] = source[:, -1, head]
            else:
                z[rows, :, head] = source[:, :, head]
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
