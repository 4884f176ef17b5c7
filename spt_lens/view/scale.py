"""The colours of a map of heads, where they end, and what a map says below: marks, ends, numbers.

Two-sided quantities run from blue (below zero) to red (above), one-sided ones from nothing to green; colour-blind
readers can tell these apart. A scale ends at the 99th percentile of the scores' size, so that one strong head does not
pale the others; its end is marked where scores lie beyond.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from spt_lens.heads import Head
from spt_lens.view.style import rgb

# What the picker draws on a light page: the ends and middles of ColorBrewer's RdBu, and greens.
SCALE = [(0.0, "#2166ac"), (0.25, "#92c5de"), (0.5, "#f7f7f7"), (0.75, "#f4a582"), (1.0, "#b2182b")]
ONE_SIDED = [(0.0, "#f7f7f7"), (0.5, "#8cc9b0"), (1.0, "#00664d")]
# Elsewhere the page's colour isn't known: the more there is, the less of it is seen through.
BELOW, ABOVE, ONE = "#2b7cc0", "#d1492e", "#00876a"
_STOPS = (0.0, 0.05, 0.2, 0.5, 1.0)
TILE = 0.12  # the share of a middle grey behind each head, so that one of nothing can be seen

UNCERTAIN = "small squares: the 95 % interval holds 0"
MORE = "▲ above 1: more than the gap"


@dataclass(frozen=True, eq=False)
class Meaning:
    """What a map's numbers are. quantity: their name. one_sided: none can be below zero.

    uncertain: heads whose interval holds 0; None: there are no intervals. more: recoveries above 1.
    """

    quantity: str = "score"
    one_sided: bool = False
    uncertain: Bool[Tensor, "n_layers n_heads"] | None = None
    more: Bool[Tensor, "n_layers n_heads"] | None = None

    def is_uncertain(self, layer: int, head: int) -> bool:
        return self.uncertain is not None and bool(self.uncertain[layer, head])

    def is_more(self, layer: int, head: int) -> bool:
        return self.more is not None and bool(self.more[layer, head])

    def scale(self) -> list[tuple[float, str]]:
        """Plotly's, for any background."""
        if self.one_sided:
            return [(share, _through(ONE, share)) for share in _STOPS]
        below = [((1 - share) / 2, _through(BELOW, share)) for share in reversed(_STOPS)]
        return [*below, *(((1 + share) / 2, _through(ABOVE, share)) for share in _STOPS)]

    def colour(self, share: float) -> str:
        """Of a share of the limit, -1 to 1 (beyond: the end's), as CSS has it."""
        return _through(ONE if self.one_sided else BELOW if share < 0 else ABOVE, min(1.0, abs(share)))

    def lines(self, values: Float[Tensor, "n_layers n_heads"]) -> list[str]:
        """What is to be said below the map: heads beyond the colours' end, and what marks mean, where there are any."""
        found = beyond(values)
        if self.uncertain is not None and (n := int(self.uncertain.sum())):
            found.append(f"{UNCERTAIN} ({n} of {values.numel()} heads)")
        if self.more is not None and bool(self.more.any()):
            found.append(f"{MORE} ({_named(values, self.more)})")
        return found


def colour_limit(values: Float[Tensor, "n_layers n_heads"]) -> float:
    """Where the colour scale ends: the 99th percentile of the absolute scores, or 1 when all are zero; the largest
    where that is less than a twentieth more, since the colours would be the same."""
    size = values.abs().flatten()
    limit, most = float(torch.quantile(size, 0.99)), float(size.max())
    return (most if most <= 1.05 * limit else limit) or most or 1.0


def limits(values: Float[Tensor, "n_layers n_heads"]) -> tuple[float, float]:
    """Where the colours end at first, and where they end to show all; the same if nothing is beyond."""
    limit = colour_limit(values)
    return limit, max(limit, float(values.abs().max()))


def ticks(values: Float[Tensor, "n_layers n_heads"], limit: float, one_sided: bool) -> dict[str, Any]:
    """The colour bar's numbers; an end that clips says so: "0.03 and more"."""
    at = [limit * share for share in ((0, 0.5, 1) if one_sided else (-1, -0.5, 0, 0.5, 1))]
    text = [number(value) for value in at]
    over, under = float(values.max()) > limit, float(values.min()) < -limit
    text[-1] = f"≥ {text[-1]}" if over else text[-1]
    text[0] = f"≤ {text[0]}" if under and not one_sided else text[0]
    return {"tickvals": at, "ticktext": text}


def number(value: float) -> str:
    """Of three digits, as a reader writes it."""
    return f"{value:.3g}".replace("-", "−")


def beyond(values: Float[Tensor, "n_layers n_heads"]) -> list[str]:
    """A line for the heads whose scores are beyond the ends of the colour scale; none where there are none."""
    limit = colour_limit(values)
    out = values.abs() > limit
    return [f"colours end at {limit:.3g}, beyond: {_named(values, out)}"] if bool(out.any()) else []


def _named(values: Float[Tensor, "n_layers n_heads"], which: Bool[Tensor, "n_layers n_heads"], most: int = 3) -> str:
    """The largest of these heads, with their scores, and how many more there are."""
    heads = [Head(*place) for place in which.nonzero().tolist()]
    heads.sort(key=lambda head: -abs(float(values[head])))
    more = f" and {len(heads) - most} more" if len(heads) > most else ""
    return ", ".join(f"{head} {float(values[head]):+.3g}" for head in heads[:most]) + more


def _through(colour: str, share: float) -> str:
    red, green, blue = rgb(colour)
    # Not in proportion: half as much has to be well seen beside what is behind it.
    return f"rgba({red},{green},{blue},{share**0.7:.3g})"
