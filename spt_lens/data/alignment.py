"""Which positions of two prompts correspond to each other, where the prompts are not equally long."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import SequenceMatcher

Alignment = tuple[tuple[int, int], ...]  # (position in the one, position in the other), both strictly increasing


def align(one: Sequence[int], other: Sequence[int]) -> Alignment:
    """The positions of two prompts' tokens that correspond, as (position in one, position in other), in order.

    Prompts of equal length are aligned one to one, as they are where nothing says how. Of others, first the end that
    both share is aligned, and their last positions even if they differ: the model replies there. Before it, runs of
    the same tokens are (those that difflib finds), and a run between two of them that was replaced by as many tokens.
    Tokens that only one of the prompts has are left out.

    Raises: ValueError if a prompt is empty.
    """
    if not one or not other:
        raise ValueError("an empty prompt can't be aligned: it has no last position, leave it out")
    if len(one) == len(other):
        return tuple((i, i) for i in range(len(one)))
    # The shared end goes first: difflib, which takes the longest run first, could give it to an earlier turn that reads
    # the same.
    backwards = zip(reversed(one), reversed(other), strict=False)
    same_end = next((i for i, (a, b) in enumerate(backwards) if a != b), min(len(one), len(other)))
    ends = len(one) - max(same_end, 1), len(other) - max(same_end, 1)
    before = SequenceMatcher(None, one[: ends[0]], other[: ends[1]], autojunk=False)
    found: list[tuple[int, int]] = []
    for tag, start, stop, other_start, other_stop in before.get_opcodes():
        if tag == "equal" or (tag == "replace" and stop - start == other_stop - other_start):
            found += zip(range(start, stop), range(other_start, other_stop), strict=True)
    return (*found, *zip(range(ends[0], len(one)), range(ends[1], len(other)), strict=True))


def check_alignment(alignment: Alignment, sycophantic: int, truthful: int, name: str) -> None:
    """Raises ValueError unless this can align prompts of `sycophantic` and `truthful` tokens, the pair `name`."""
    advice = "give (sycophantic position, truthful position), or use pairs.aligned()"
    if not alignment or any(len(both) != 2 for both in alignment):
        shown = f"{alignment!r}" if len(alignment) <= 4 else f"{alignment[:4]!r}..."
        raise ValueError(f"{name}: the alignment {shown} is empty or not of two positions each: {advice}")
    lengths = {"sycophantic": sycophantic, "truthful": truthful}
    for (which, length), positions in zip(lengths.items(), zip(*alignment, strict=True), strict=True):
        outside = next((at for at in positions if not 0 <= at < length), None)
        if outside is not None:
            raise ValueError(
                f"{name}: the alignment has position {outside} of the {which} prompt, which has {length} tokens, "
                f"counted from 0: {advice}"
            )
        falls = next(((a, b) for a, b in zip(positions, positions[1:], strict=False) if b <= a), None)
        if falls is not None:
            raise ValueError(
                f"{name}: the alignment goes from position {falls[0]} of the {which} prompt to {falls[1]}: both "
                f"positions must increase from each to the next; {advice}"
            )
    if tuple(alignment[-1]) != (sycophantic - 1, truthful - 1):
        raise ValueError(
            f"{name}: the alignment ends with {alignment[-1]}, the prompts end at {(sycophantic - 1, truthful - 1)}: "
            f"the last positions must be aligned to each other, as the answer is read there; {advice}"
        )
