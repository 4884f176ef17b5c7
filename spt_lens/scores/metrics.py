"""By what a patch is judged: the recovered share of a gap in logits, or the change of a share (Chen et al. 2024).

A logit difference (LD) is that of the truthful completion minus the sycophantic one.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

Metric = Literal["recovery", "importance"]
MIN_GAP = 1e-4  # logits; float32 rounding of a difference of two logits is about 1e-6, so a hundredth of this
MIN_SHARE = 1e-6  # a change relative to a smaller share of the sycophantic answer is noise


def recovery(
    patched: Float[Tensor, "... batch"],
    base: Float[Tensor, " batch"],
    target: Float[Tensor, " batch"],
    least: float = MIN_GAP,
) -> Float[Tensor, "... batch"]:
    """(patched - base) / mean(target - base): each pair's effect as a share of the mean gap.

    Their mean over pairs is the mean effect over the mean gap: averages first, then the share, so that a pair with a
    tiny or a reversed gap counts by its effect and not by its gap. 0 where patches changed nothing, 1 where they did
    all. For denoising, base is the sycophantic run's logit difference and target the truthful one's. For noising it is
    the other way round, and the result is the share of the gap that is lost.

    Raises: ValueError if the mean gap is below `least`: then a share of it is noise.
    """
    return (patched - base) / mean_gap(base, target, least)


def mean_gap(
    base: Float[Tensor, " n_pairs"], target: Float[Tensor, " n_pairs"], least: float = MIN_GAP
) -> Float[Tensor, ""]:
    """mean(target - base), in logits; below zero if most gaps are reversed.

    Raises: ValueError if its size is below `least`, with whether no pair has a gap or the gaps cancel.
    """
    gap = target - base
    mean = gap.mean()
    if bool(mean.abs() >= least):  # nan is no gap
        return mean
    if bool((gap.abs() >= least).any()):
        said = f"the gaps of the {gap.numel()} pairs cancel: their mean is {float(mean):.2g}, below {least:.2g}"
    else:
        said = f"the two runs of all {gap.numel()} pairs have logit differences less than {least:.2g} apart"
    raise ValueError(
        f"there is no gap to recover: {said}. The model does not tell these prompts or completions apart: look at the "
        "prompts (are both the same?), or choose another contrast or other completions"
    )


def least_gap(dtype: torch.dtype) -> float:
    """The size of a mean gap below which it is rounding: MIN_GAP, in half precision the rounding of a logit of 1."""
    return max(MIN_GAP, torch.finfo(dtype).eps)


def importance(
    patched: Float[Tensor, "... batch"], base: Float[Tensor, " batch"], direction: str
) -> Float[Tensor, "... batch"]:
    """The relative change of F, positive where the patch moves it in its direction. From logit differences.

    F = sigmoid(-LD) is the share of the sycophantic answer among the two (Chen et al. 2024, section 3.1). Denoising is
    to lower it, -(F_patched - F_base) / F_base, at most 1; noising to raise it, without a bound where F_base is small.
    The paper's own number has no turned sign: of denoising, it is the negative of this.

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
            f"{base.numel()} pairs (pair {_first(small)}), so that its relative change is noise: leave these pairs out "
            "and measure again, or use recovery"
        )
    return (signs[direction] * (after - before) / before).to(patched.dtype)


def check_finite(values: Float[Tensor, " rows"], pairs: list[int], run: str) -> None:
    """Raises ValueError, naming the pair, if what was read from a run is no number."""
    odd = [pair for pair, fine in zip(pairs, values.isfinite().tolist(), strict=True) if not fine]
    if odd:
        raise ValueError(
            f"pair {odd[0]}: the model's logits are not finite in the {run} run, so nothing can be measured: look for "
            "overflow (float16: use bfloat16 or float32) or broken weights"
        )


def _first(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers[:5])) + (", ..." if len(numbers) > 5 else "")
