"""spt_lens.scores.made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jaxtyping import Bool, Float
from torch import Tensor

from spt_lens.model.view import ModelView
from spt_lens.scores.head_scores import HeadScores
from spt_lens.scores.metrics import usable_pairs, warn_left_out


@dataclass(frozen=True)
class How:
    """How something was measured, for the scores to say."""

    method: str
    direction: str
    positions: str
    engine: str
    settings: dict[str, Any]


def to_scores(
    view: ModelView,
    how: How,
    base: Float[Tensor, " n_pairs"],
    target: Float[Tensor, " n_pairs"],
    patched: Float[Tensor, "n_pairs n_layers n_heads"],
    verified: Bool[Tensor, "n_layers n_heads"] | None = None,
    numbers: list[int] | None = None,
) -> HeadScores:
    """Recoveries of the pairs that have a gap; the others are left out, with a warning and in meta["left_out"].

    numbers: of the pairs, as the warning names them; default: in order.
    """
    kept, left_out = usable_pairs(base, target)
    warn_left_out([numbers[i] for i in left_out] if numbers else left_out, len(base))
    base, target, patched = base[kept], target[kept], patched[kept]
    shares = (patched - base[:, None, None]) / (target - base)[:, None, None]
    return HeadScores(
        values=shares.mean(dim=0),
        per_pair=shares,
        method=how.method,
        direction=how.direction,
        positions=how.positions,
        model_name=view.name,
        engine=how.engine,
        logit_differences=patched,
        base=base,
        target=target,
        verified=verified,
        meta={
            "n_pairs": len(kept),
            "pairs_used": kept,
            "left_out": left_out,
            "reversed": int(((target - base) * (target - base).median() < 0).sum()),
            "logit_difference_before": float(base.mean()),
            "logit_difference_target": float(target.mean()),
            "settings": how.settings,
        },
    )
