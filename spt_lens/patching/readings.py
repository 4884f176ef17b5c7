"""What every method gives: logit differences, of each pair with each head patched, and what they come to as scores."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from spt_lens.model.view import ModelView
from spt_lens.patching.rows import Rows
from spt_lens.scores.metrics import MIN_GAP, check_finite, usable_pairs

ENOUGH = 8  # rows without any gap, after which the others' gaps are looked at before anything else is measured


class Readings:
    """Collects what is read, row by row: without a patch, in the other run, and with each head patched.

    Raises, as they come in: ValueError for readings that are not finite.
    """

    def __init__(self, view: ModelView, rows: Rows) -> None:
        self.rows = rows
        dtype = torch.promote_types(view.dtype, torch.float32)
        self._base, self._target = torch.full((2, len(rows)), torch.nan, dtype=dtype)
        self._patched = torch.zeros(len(rows), view.n_layers, view.n_heads, dtype=dtype)

    def runs(self, part: list[int], base: Float[Tensor, " batch"], target: Float[Tensor, " batch"]) -> None:
        """The two runs without any patch. rows.targets, where there are any, take the place of `target`."""
        target = target if self.rows.targets is None else self.rows.targets[part]
        for name, into, values in (("patched", self._base, base), ("source", self._target, target)):
            check_finite(values, [self.rows.rows[i].pair for i in part], name)
            into[part] = values.to(into)

    @property
    def unseen(self) -> list[int]:
        """The rows that nothing was read from so far."""
        return self._base.isnan().nonzero().flatten().tolist()

    @property
    def gapless(self) -> bool:
        """Whether some rows were read, and no two runs of them differ."""
        return len(self.unseen) <= len(self.rows) - min(ENOUGH, len(self.rows)) and not bool(
            ((self._target - self._base).abs() >= MIN_GAP).any()
        )

    def check_gap(self) -> None:
        """Raises ValueError if no pair has a gap."""
        usable_pairs(self.base, self.target)

    def patched(self, part: list[int], layer_head: Any, values: Float[Tensor, "heads batch"]) -> None:
        """With each of some heads patched alone."""
        layers, heads = zip(*layer_head, strict=True)
        rows = torch.tensor(part)[:, None]
        self._patched[rows, torch.tensor(layers), torch.tensor(heads)] = values.T.to(self._patched)

    @property
    def base(self) -> Float[Tensor, " n_pairs"]:
        return self.rows.by_pair(self._base)

    @property
    def target(self) -> Float[Tensor, " n_pairs"]:
        return self.rows.by_pair(self._target)

    @property
    def logit_differences(self) -> Float[Tensor, "n_pairs n_layers n_heads"]:
        return self.rows.by_pair(self._patched)
