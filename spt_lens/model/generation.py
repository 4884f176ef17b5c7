"""Greedy generation from prompts of any lengths in one batch, with keys and values kept.

Prompts are read a few at a time, of like lengths. What was kept of them is then joined, a shorter prompt's with nothing
before it, which a mask hides, and from there all rows go on together, a position at a time. Rows that have ended are
left out when enough of them have.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from spt_lens.model.held import by_a_signal, is_out_of_memory

READ_AT_ONCE = 16  # prompts: more at once are no faster on a CPU, and padded more
ENDED = 0.25  # of the rows, from which on they are left out: that copies all keys and values, as each step does anyway

Mask = Bool[Tensor, "batch pos"]
# New tokens, the mask over kept and new positions or None, and what was kept; gives logits at the last position.
Step = Callable[[Int[Tensor, "batch new"], Mask | None, Any], tuple[Float[Tensor, "batch vocab"], Any]]


Part = TypeVar("Part")
Result = TypeVar("Result")


class NotKnown(Exception):
    """Keys and values are kept in a way that is not known here."""


@dataclass
class Reading:
    """Prompts that were read: logits after each, what was kept, and the mask over it; None where nothing is padded."""

    logits: Float[Tensor, "batch vocab"]
    kept: Any
    mask: Mask | None
    width: int

    @classmethod
    def of(cls, step: Step, prompts: Sequence[Sequence[int]], device: torch.device) -> Reading:
        width = max(map(len, prompts))
        tokens = torch.tensor([[0] * (width - len(prompt)) + list(prompt) for prompt in prompts], device=device)
        mask = None
        if any(len(prompt) < width for prompt in prompts):
            places = torch.arange(width, device=device)
            mask = places >= torch.tensor([[width - len(prompt)] for prompt in prompts], device=device)
        return cls(*step(tokens, mask, None), mask, width)

    def whole_mask(self, width: int) -> Mask:
        rows = len(self.logits)
        mask = torch.ones(rows, self.width, dtype=torch.bool) if self.mask is None else self.mask
        return torch.nn.functional.pad(mask.to(self.logits.device), (width - self.width, 0))


def joined(readings: Sequence[Reading]) -> Reading:
    """Several readings as one, in order. Raises NotKnown. What they kept stays as it is."""
    if len(readings) == 1:
        return readings[0]
    width = max(reading.width for reading in readings)
    mask = torch.cat([reading.whole_mask(width) for reading in readings])
    kept = _with(
        max(readings, key=lambda reading: reading.width).kept,
        [_tensors(reading.kept) for reading in readings],
        lambda parts, dim: torch.cat([_wider(part, max(p.shape[dim] for p in parts), dim) for part in parts]),
        mask,
    )
    return Reading(torch.cat([reading.logits for reading in readings]), kept, mask, width)


def rows_of(reading: Reading, rows: Tensor) -> Reading:
    """Some of a reading's rows, by number (also repeated) or a mask over them. Raises NotKnown."""
    kept = _with(reading.kept, [_tensors(reading.kept)], lambda parts, dim: parts[0][rows.to(parts[0].device)], None)
    return Reading(reading.logits[rows], kept, None if reading.mask is None else reading.mask[rows], reading.width)


def greedy(
    step: Step,
    prompts: Sequence[Sequence[int]],
    groups: Sequence[Sequence[int]],
    max_new_tokens: int,
    ends: Sequence[int],
    device: torch.device,
) -> Generator[None, None, dict[int, list[int]]]:
    """The likeliest tokens after each prompt, by its number, up to and with an end token; yields after forward passes.

    groups: prompts that are read together. If what is kept of several can't be joined, each goes on by itself.
    """
    readings = []
    for group in groups:
        readings.append(Reading.of(step, [prompts[i] for i in group], device))
        yield
    try:
        now = joined(readings)
    except NotKnown:
        alone: dict[int, list[int]] = {}
        for group in groups:
            alone |= yield from greedy(step, prompts, [group], max_new_tokens, ends, device)
        return alone
    readings.clear()  # else their keys and values would be held twice
    rows = torch.tensor([i for group in groups for i in group])
    new: dict[int, list[int]] = {i: [] for i in rows.tolist()}
    logits, kept, mask = now.logits, now.kept, now.mask
    best = logits.argmax(-1)
    done = torch.zeros(len(rows), dtype=torch.bool)
    for count in range(1, max_new_tokens + 1):
        said = best.cpu()
        for i, token, over in zip(rows.tolist(), said.tolist(), done.tolist(), strict=True):
            if not over:
                new[i].append(token)
        done |= torch.isin(said, torch.tensor(ends, dtype=torch.long))
        if count == max_new_tokens or bool(done.all()):
            break
        if done.float().mean() >= ENDED:
            on = (~done).to(device)
            with suppress(NotKnown):  # then they go on, and what they say is not kept
                left = rows_of(Reading(logits, kept, mask, 0), on)
                best, kept, mask = best[on], left.kept, left.mask
                rows, done = rows[~done], done[~done]
        if mask is not None:
            mask = torch.nn.functional.pad(mask, (0, 1), value=True)
        logits, kept = step(best[:, None], mask, kept)
        best = logits.argmax(-1)
        yield
    return new


def replying(
    step: Step,
    prompts: Sequence[Sequence[int]],
    batches: Sequence[Sequence[Sequence[int]]],
    max_new_tokens: int,
    ends: Sequence[int],
    device: torch.device,
) -> Generator[None, None, list[list[int]]]:
    """`greedy` of one batch after the other, in the order of the prompts."""
    new: dict[int, list[int]] = {}
    for groups in batches:
        new |= yield from greedy(step, prompts, groups, max_new_tokens, ends, device)
    return [new[i] for i in range(len(prompts))]


def finish(parts: Generator[Part, None, Result], told: Callable[[Part], Any] = lambda part: None) -> Result:
    """Runs a generator to its end, and gives what it returns. told: called with all that it yields on the way."""
    while True:
        try:
            told(next(parts))
        except StopIteration as end:
            return end.value


def batches_of(
    prompts: Sequence[Sequence[int]], alike: bool, mixed: bool, device: torch.device, at_once: int | None
) -> list[list[list[int]]]:
    """Batches of groups as `replying` takes them. alike: only prompts of one length are read together; mixed: all go
    on together, else each length by itself. at_once: the most that are read together."""
    groups, size = groups_of(prompts, alike, device), at_once or len(prompts)
    read = [[group[i : i + size] for i in range(0, len(group), size)] for group in groups]
    return [[part for parts in read for part in parts]] if mixed else read


def groups_of(prompts: Sequence[Sequence[int]], alike: bool, device: torch.device) -> list[list[int]]:
    """The prompts in the order of their lengths, those that are read at once together. alike: of one length alone."""
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    size = READ_AT_ONCE if device.type == "cpu" else len(order)
    groups: list[list[int]] = []
    for i in order:
        last = groups[-1] if groups else []
        fits = len(prompts[last[0]]) == len(prompts[i]) if alike and last else len(last) < size
        if last and fits:
            last.append(i)
        else:
            groups.append([i])
    return groups


# Of each model, the lengths of prompts that were tried, shortest and longest, and whether they go on in one batch.
_tried: WeakKeyDictionary[Any, dict[tuple[int, int], bool]] = WeakKeyDictionary()


def mixes(model: Any, step: Step, short: Sequence[int], long: Sequence[int], device: torch.device) -> bool:
    """Whether prompts of these lengths and those between go on in one batch: no `problem`, looked for once a model."""
    tried, key = _tried.setdefault(model, {}), (len(short), len(long))
    if any(fits and at_least <= key[0] and key[1] <= at_most for (at_least, at_most), fits in tried.items()):
        return True
    if key not in tried:
        try:
            tried[key] = not problem(step, short, long, device)
        except (RuntimeError, TypeError, ValueError, LookupError, AttributeError, NotKnown) as error:
            if by_a_signal(error):
                raise
            if is_out_of_memory(error):  # another time there may be more
                return False
            tried[key] = False  # whatever a model makes of arguments that it was not written for
    return tried[key]


@torch.no_grad()
def problem(step: Step, short: Sequence[int], long: Sequence[int], device: torch.device) -> str:
    """Why prompts of these two lengths don't go on in one batch, "" if they do: the logits must be those of each alone.

    Tried as they are read padded, and as they go on joined. Raises what a model makes of arguments that it was not
    written for.
    """
    alone = [Reading.of(step, [prompt], device) for prompt in (short, long)]
    padded = Reading.of(step, [short, long], device)
    both = joined(alone)
    token = both.logits.argmax(-1)[:, None]
    grown = torch.nn.functional.pad(both.whole_mask(both.width), (0, 1), value=True)
    went_on = [step(token, grown, reading.kept)[0] for reading in (both, padded)]
    # The readings come last: a step adds to what they kept.
    expected = torch.cat([step(token[i : i + 1], None, reading.kept)[0] for i, reading in enumerate(alone)])
    tolerance = 0.1 if torch.finfo(expected.dtype).eps > 1e-4 else 1e-3
    for found, right in ((padded.logits, both.logits), *((found, expected) for found in went_on)):
        off = float((found - right).float().norm() / right.float().norm())
        if off > tolerance:  # nan is no reason: it is the model's own
            return f"gives other logits on padded prompts, by a share of {off:.2g}"
    return ""


def _wider(part: Tensor, width: int, dim: int) -> Tensor:
    shape = list(part.shape)
    shape[dim] = width - shape[dim]
    return torch.cat([part.new_zeros(shape), part], dim)


def _layers(kept: Any) -> Iterator[tuple[Any, str, str, int]]:
    """Of what was kept, each layer, the names of its keys and values, and the dimension of their positions."""
    if hasattr(kept, "entries"):  # HookedTransformer
        yield from ((entry, "past_keys", "past_values", 1) for entry in kept.entries)
        return
    for layer in getattr(kept, "layers", [None]):
        if type(layer).__name__ not in ("DynamicLayer", "DynamicSlidingWindowLayer"):
            raise NotKnown(f"a {type(kept).__name__} of {type(layer).__name__}")
        if layer.keys is not None:
            yield layer, "keys", "values", 2


def _tensors(kept: Any) -> list[Tensor]:
    return [getattr(layer, name) for layer, *names, _ in _layers(kept) for name in names]


def _with(like: Any, tensors: Sequence[list[Tensor]], make: Callable[..., Tensor], mask: Mask | None) -> Any:
    """A copy of what was kept, with its keys and values made of those of one or several."""
    kept = copy.copy(like)
    which = "entries" if hasattr(kept, "entries") else "layers"
    setattr(kept, which, [copy.copy(layer) for layer in getattr(kept, which, ())])
    parts = zip(*tensors, strict=True)
    for layer, *names, dim in _layers(kept):
        for name in names:
            setattr(layer, name, make(next(parts), dim))
    if hasattr(kept, "previous_attention_mask"):
        before = kept.previous_attention_mask
        kept.previous_attention_mask = make([before], 1) if mask is None else mask.to(before)
    return kept
