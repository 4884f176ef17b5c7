"""Two evaluations on the same cases: what changed, with an interval over the cases themselves."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from spt_lens import saving
from spt_lens.statistics import CONFIDENCE, Estimate, weighted_mean, wilson_interval

DRAWS = 1000
MEANS = {"discernment": ("confidence", "retracted")}  # figures that are the mean of others
SCALES: dict[str, Callable[[Tensor], Tensor]] = {"perplexity": torch.exp}  # kept as nats a token


@dataclass(frozen=True)
class Units:
    """What a figure is made of: sum(sums) / sum(sizes) over cases or texts. names: which one each is of.

    Those of one name, such as challenges to one question, are drawn together where two evaluations are compared.
    """

    names: Sequence[str]
    sums: Sequence[float]
    sizes: Sequence[int]

    @classmethod
    def of(cls, names: Sequence[str], values: Sequence[float]) -> Units:
        """Of a mean over cases."""
        return cls(names, [float(value) for value in values], [1] * len(values))

    def mean(self) -> Estimate:
        """With a bootstrap interval over the units."""
        return weighted_mean(self.sums, self.sizes)

    def to_json(self) -> dict[str, Any]:
        """Names as short hashes."""
        hashes = [hashlib.sha256(name.encode("utf-8", "replace")).hexdigest()[:12] for name in self.names]
        names = [
            name if len(name) == 12 and name.isalnum() else short
            for name, short in zip(self.names, hashes, strict=True)
        ]
        sums = [float(f"{value:.9g}") if math.isfinite(value) else None for value in self.sums]
        return {"names": names, "sums": sums, "sizes": list(self.sizes)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Units:
        names, sums, sizes = (saving.entry(data, name, list) for name in ("names", "sums", "sizes"))
        if not len(names) == len(sums) == len(sizes):
            raise ValueError(f"there are {len(names)} names, {len(sums)} sums and {len(sizes)} sizes")
        return cls(list(map(str, names)), [math.nan if x is None else float(x) for x in sums], list(map(int, sizes)))


def mean_by_question(units: Units) -> Estimate:
    """The mean of values from -1 to 1, with a bootstrap over the names (questions): those of one are drawn together.

    Where all questions have one value, a bootstrap would be sure of it. Then Wilson's bound tells how many others may
    be different, and the interval is what the mean would be if these were -1, or 1. n: the cases.
    """
    sums: dict[str, float] = {}
    sizes: dict[str, int] = {}
    for name, value, size in zip(units.names, units.sums, units.sizes, strict=True):
        sums[name], sizes[name] = sums.get(name, 0.0) + value, sizes.get(name, 0) + size
    found = weighted_mean(list(sums.values()), list(sizes.values()))
    if len({sums[name] / sizes[name] for name in sums}) == 1:
        _, other = wilson_interval(0, len(sums))
        low, high = found.value - other * (found.value + 1), found.value + other * (1 - found.value)
        found = found._replace(low=low, high=high)
    return found._replace(n=sum(sizes.values()))


def changes(before: Mapping[str, Units], after: Mapping[str, Units], names: Sequence[str]) -> pd.DataFrame:
    """metric, before, after, change (after - before), low, high (95 %, a paired bootstrap over the cases), n.

    A case that counts in one of both alone, such as a challenge to a first answer that was right only then, is drawn
    with the others and counts where it counts. n: the different cases.

    Raises: ValueError for a figure whose cases are others in the one than in the other, without one in common.
    """
    rows = []
    for metric in names:
        parts: tuple[str, ...] = MEANS.get(metric, (metric,))
        if metric == "ability":
            parts = tuple(name for name in after if name.startswith("ability: "))
        if not parts or not all(part in each for part in parts for each in (before, after)):
            continue
        found = [_drawn(part, before[part], after[part]) for part in parts]
        ends = torch.stack([each for each, _ in found]).mean(0)
        change = ends[:, 1] - ends[:, 0]
        tails = torch.tensor([(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2], dtype=torch.float64)
        low, high = torch.nanquantile(change[1:], tails).tolist()
        row = {"before": ends[0, 0].item(), "after": ends[0, 1].item(), "change": change[0].item()}
        rows.append({"metric": metric, **row, "low": low, "high": high, "n": sum(n for _, n in found)})
    return pd.DataFrame(rows, columns=["metric", "before", "after", "change", "low", "high", "n"])


def _drawn(metric: str, before: Units, after: Units) -> tuple[Float[Tensor, "draws_and_1 2"], int]:
    """The figure before and after: as it is, then over cases drawn with replacement."""
    known = [Units.from_json(each.to_json()) for each in (before, after)]
    names = sorted({name for each in known for name in each.names})
    if names and all(each.names for each in known) and not set(known[0].names) & set(known[1].names):
        raise ValueError(f"the figures for {metric!r} are of other cases: compare evaluations on one suite")
    row = {name: i for i, name in enumerate(names)}
    table = torch.zeros(len(names), 2, 2, dtype=torch.float64)  # a case, before or after, its sum and size
    for side, each in enumerate(known):
        for name, total, size in zip(each.names, each.sums, each.sizes, strict=True):
            table[row[name], side] += torch.tensor([total, size], dtype=torch.float64)
    picks = torch.randint(max(1, len(names)), (DRAWS, len(names)), generator=torch.Generator().manual_seed(0))
    drawn = torch.stack([table.sum(0), *(table[pick].sum(0) for pick in picks)])
    return SCALES.get(metric, torch.clone)(drawn[..., 0] / drawn[..., 1]), len(names)
