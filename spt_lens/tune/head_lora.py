"""LoRA on the chosen heads alone (Chen et al. 2024, section 4): low-rank updates of their slices and nothing else.

Not by peft, which adapts whole modules: a head is a part of one.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from spt_lens.checking import MANY, door, whole_number
from spt_lens.tune.pinpoint import Pinpoint
from spt_lens.tune.slices import SliceMask
from spt_lens.tune.training import TuneConfig


@door
@dataclass(frozen=True)
class HeadLoRA(Pinpoint):
    """Trains an update B A of each of the chosen heads' slices, in float32 or what is wider, and merges it in place.

    The slices, and what is kept below them, are pinpoint tuning's. B begins at zero, and A as peft draws it, from
    `config.seed`; alpha = rank, that is, a scale of one; no dropout. rank: at most d_head, which a slice can't exceed.
    """

    rank: int = 16
    lr: ClassVar[float] = 3e-3
    lrs: ClassVar[tuple[float, ...]] = (3e-4, 1e-3, 3e-3, 1e-2)

    def __post_init__(self) -> None:
        whole_number(self.rank, "rank", 1, MANY)

    @property
    def method(self) -> str:  # type: ignore[override]
        return f"LoRA, rank {self.rank}, on the slices"

    def trained(self, mask: SliceMask, config: TuneConfig) -> tuple[Sequence[Tensor], Callable[[], None]]:
        generator = torch.Generator().manual_seed(config.seed)
        updates = [_Update(master, self.rank, generator) for master in mask.masters]

        def write() -> None:
            for update in updates:
                update.merge()
            mask.write_back()

        return [factor for update in updates for factor in (update.down, update.up)], write


class _Update:
    """up @ down on a slice as it was at first; what gradient the slice gets goes on to both."""

    def __init__(self, master: nn.Parameter, rank: int, generator: torch.Generator) -> None:
        rows, columns = master.shape
        rank = min(rank, rows, columns)
        drawn = torch.empty(rank, columns, dtype=master.dtype)  # on the CPU: the same on any device
        nn.init.kaiming_uniform_(drawn, a=math.sqrt(5), generator=generator)
        self.down = nn.Parameter(drawn.to(master.device))
        self.up = nn.Parameter(master.new_zeros(rows, rank))
        self._master, self._first = master, master.detach().clone()
        master.register_post_accumulate_grad_hook(partial(_hand_on, self.down, self.up))

    @torch.no_grad()
    def merge(self) -> None:
        self._master.copy_(self._first + self.up @ self.down)


@torch.no_grad()
def _hand_on(down: Float[Tensor, "rank cols"], up: Float[Tensor, "rows rank"], master: Tensor) -> None:
    """By the chain rule; the slice's own gradient is dropped."""
    grad = master.grad
    assert grad is not None  # torch calls this hook right after it has accumulated the gradient
    for factor, part in ((down, up.T @ grad), (up, grad @ down.T)):
        factor.grad = part if factor.grad is None else factor.grad.add_(part)
    master.grad = None
