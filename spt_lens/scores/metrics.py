"""By what a patch is judged: the recovered share of a gap in logits, or the change of a share (Chen et al. 2024).

A logit difference (LD) is that of the truthful completion minus the sycophantic one.
"""

from __future__ import annotations

import inspect
import warnings
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

Metric = Literal["recovery", "importance"]
MIN_GAP = 1e-4  # logits; float32 rounding of a difference of two logits is about 1e-6, so a hundredth of this
SMALL_GAP = 0.05  # of the median gap: a share of such a gap is twenty times as noisy as that of a usual one
MIN_SHARE = 1e-6  # a change relative to a smaller share of the sycophantic answer is noise


def recovery(
    patched: Float[Tensor, "... batch"], base: Float[Tensor, " batch"], target: Float[Tensor, " batch"]
) -> Float[Tensor, "... batch"]:
    """(patched - base) / (target - base), pair by pair: 0 where a patch changed nothing, 1 where it did all.

    For denoising, base is the sycophantic run's logit difference and target the truthful one's. For noising it is the
    other way round, and the result is the share of the gap that is lost.

    Raises: ValueError if a gap is (nearly) zero: then its share is noise.
    """
    gap = target - base
    small = (~(gap.abs() >= MIN_GAP)).nonzero().flatten().tolist()  # written so that nan counts as small
    if small:
        raise ValueError(
            f"the two runs of {len(small)} of {gap.numel()} pairs (first: pair {small[0]}) have logit differences less "
            f"than {MIN_GAP} apart, so there is no gap to recover: the model does not tell these prompts or "
            "completions apart; leave such pairs out or choose another contrast"
        )
    return (patched - base) / gap


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


def usable_pairs(base: Float[Tensor, " n_pairs"], target: Float[Tensor, " n_pairs"]) -> tuple[list[int], list[int]]:
    """The numbers of the pairs whose two runs differ enough for a share of the gap to mean something, and the others.

    Left out are gaps below MIN_GAP, and below SMALL_GAP of the median gap (of either sign).

    Raises: ValueError if no pair has a gap.
    """
    gap = (target - base).abs()
    if not bool((gap >= MIN_GAP).any()):  # written so that nan counts as none
        raise ValueError(
            f"there is no gap to recover: the two runs of all {gap.numel()} pairs have logit differences less than "
            f"{MIN_GAP} apart. The model does not tell these prompts or completions apart: look at the prompts (are "
            "both the same?), or choose another contrast or other completions"
        )
    least = max(MIN_GAP, SMALL_GAP * float(gap.median()))
    enough = (gap >= least).tolist()
    return [i for i, fine in enumerate(enough) if fine], [i for i, fine in enumerate(enough) if not fine]


def warn_caller(text: str) -> None:
    """Warns as coming from the line of the user's that called this library, however deep the call is."""
    frame, depth = inspect.currentframe(), 1
    while frame is not None and str(frame.f_globals.get("__name__")).startswith("spt_lens."):
        frame, depth = frame.f_back, depth + 1
    warnings.warn(text, stacklevel=depth)


def warn_left_out(left_out: list[int], n_pairs: int) -> None:
    """Says which pairs a measurement is without."""
    if left_out:
        warn_caller(
            f"{len(left_out)} of {n_pairs} pairs (number {_first(left_out)}) are left out: their two runs hardly "
            "differ, so that a share of the gap would be noise"
        )


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
