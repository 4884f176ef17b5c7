"""By what a patch is judged: the recovery of a gap in logits, or the change of a share as in Chen et al. 2024."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from spt_lens.measure.metrics import recovery

if TYPE_CHECKING:
    from spt_lens.scores import HeadScores

Metric = Literal["recovery", "importance"]
MIN_SHARE = 1e-6  # a change relative to a smaller share of the sycophantic answer is noise


def in_metric(scores: HeadScores, metric: Metric) -> HeadScores:
    """The same patches judged by another metric, pair by pair.

    "recovery": (LD_patched - LD_base) / (LD_target - LD_base), LD being the logit differences. "importance": see there.

    Raises:
        ValueError: An unknown metric; scores without logit differences; for recovery, a gap of nearly zero; for
            importance, as there.
    """
    if metric not in get_args(Metric):
        raise ValueError(f'unknown metric {metric!r}: use "recovery" or "importance"')
    if metric == scores.metric:
        return scores
    if scores.logit_differences is None or scores.base is None or scores.target is None:
        raise ValueError(
            f"these scores hold no logit differences to compute {metric} from (an older file has none, nor has a mean "
            "of two measurements): measure again, and change the metric before taking a mean"
        )
    patched = scores.logit_differences.movedim(0, -1)
    if metric == "recovery":
        found = recovery(patched, scores.base, scores.target)
    else:
        found = importance(patched, scores.base, scores.direction)
    per_pair = found.movedim(-1, 0).contiguous()
    return replace(scores, values=per_pair.mean(0), per_pair=per_pair, metric=metric)


def importance(
    patched: Float[Tensor, "... batch"], base: Float[Tensor, " batch"], direction: str
) -> Float[Tensor, "... batch"]:
    """The relative change of F, positive where the patch moves it in its direction. From logit differences.

    F = sigmoid(-LD) is the share of the sycophantic answer among the two (Chen et al. 2024, section 3.1). Denoising is
    to lower it, -(F_patched - F_base) / F_base, at most 1; noising is to raise it, (F_patched - F_base) / F_base,
    without a bound where F_base is small. The paper's own number is that without the turned sign: of denoising, the
    negative of this.

    Raises: ValueError for another direction, or an F of the unpatched run so small that a change of it is noise.
    """
    signs = {"denoising": -1.0, "noising": 1.0}
    if direction not in signs:
        raise ValueError(f"importance of direction {direction!r} is not defined: measure 'denoising' or 'noising'")
    # In float64: near a share of 1, where a sycophantic model is, float32 keeps little of a change.
    before, after = torch.sigmoid(-base.double()), torch.sigmoid(-patched.double())
    small = (before < MIN_SHARE).nonzero().flatten().tolist()
    if small:
        raise ValueError(
            f"the unpatched run gives the sycophantic answer a share below {MIN_SHARE:g} in {len(small)} of "
            f"{base.numel()} pairs (pair {', '.join(map(str, small[:5]))}{', ...' * (len(small) > 5)}), so that its "
            "relative change is noise: leave these pairs out and measure again, or use recovery"
        )
    return (signs[direction] * (after - before) / before).to(patched.dtype)
