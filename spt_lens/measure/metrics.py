"""What a patch is judged by: the logit difference of the two completions, and the share of a gap that is recovered."""

from __future__ import annotations

import warnings

from jaxtyping import Float
from torch import Tensor

MIN_GAP = 1e-4  # logits; float32 rounding of a difference of two logits is about 1e-6, so a hundredth of this
SMALL_GAP = 0.05  # of the median gap: a share of such a gap is twenty times as noisy as that of a usual one


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


def warn_left_out(left_out: list[int], n_pairs: int) -> None:
    """Says which pairs a measurement is without, as coming from the line that called for it."""
    if left_out:
        shown = ", ".join(map(str, left_out[:5])) + (", ..." if len(left_out) > 5 else "")
        warnings.warn(
            f"{len(left_out)} of {n_pairs} pairs (number {shown}) are left out: their two runs hardly differ, so that "
            "a share of the gap would be noise",
            stacklevel=4,
        )


def check_finite(values: Float[Tensor, " rows"], pairs: list[int], run: str) -> None:
    """Raises ValueError, naming the pair, if what was read from a run is no number."""
    odd = [pair for pair, fine in zip(pairs, values.isfinite().tolist(), strict=True) if not fine]
    if odd:
        raise ValueError(
            f"pair {odd[0]}: the model's logits are not finite in the {run} run, so nothing can be measured: look for "
            "overflow (float16: use bfloat16 or float32) or broken weights"
        )
