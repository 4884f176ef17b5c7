"""How much runs at once: a batch size from the memory at hand, and half of it when memory runs out; and the bar.

A generator that works "in parts" yields how much each of them did; between parts nothing of ours is on the model.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from tqdm.auto import tqdm

from spt_lens.checking import number, whole_number
from spt_lens.model import ranks
from spt_lens.model.devices import free_bytes
from spt_lens.model.generation import finish
from spt_lens.model.held import is_out_of_memory
from spt_lens.model.view import ModelView

FORM = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}<{remaining}"  # as tqdm takes it


@contextmanager
def progress_bar(work: float, title: str, shown: bool) -> Iterator[Callable[[int], None]]:
    """Gives the function that is told of work as it is done: tokens that went through a block."""
    share = ranks.size()  # each tells of its own part
    with tqdm(total=max(work, 1), desc=title, bar_format=FORM, disable=not ranks.shows(shown)) as bar:

        def tick(tokens: int) -> None:
            bar.update(min(share * tokens, bar.total - bar.n))  # what did not fit in memory is done twice

        yield tick
        bar.update(bar.total - bar.n)


MOST = 16  # prompts at once where memory is no limit: larger batches are no faster, and noticeably slower on a CPU


@dataclass
class Limits:
    """At most `batch_size` prompts go through the model at once. Raises ValueError for a batch size below one."""

    batch_size: int
    shares: ClassVar[bool] = True  # with other ranks, where it is told what

    def __post_init__(self) -> None:
        self.batch_size = whole_number(self.batch_size, "batch_size")

    def halve(self) -> bool:
        """Whether there was anything to halve."""
        self.batch_size //= 2
        return self.batch_size > 0

    def each(
        self, groups: Sequence[Sequence[int]], run: Callable[[list[int]], None], share: ranks.Share | None = None
    ) -> None:
        """Runs every group in parts of at most batch_size rows; a part that does not fit in memory again, in halves.

        share: what the parts fill, which ranks then share out; without it each does it all. The parts are those of one
        process, so the numbers are too. Raises: MemoryError if not even a single row fits.
        """
        finish(self.parts(groups, run, share))

    def parts(
        self,
        groups: Sequence[Sequence[int]],
        run: Callable[[list[int]], Iterator[float] | None],
        share: ranks.Share | None = None,
    ) -> Generator[int, None, None]:
        """`each`, one part at a time: yields how many rows a part had. batch_size may be set anew before the next one.

        `run` may give an iterator, where rows that go through the model together take several parts: of the shares that
        are done of them. What `run` needs of the model or of torch's modes, it enters and leaves itself: other code
        runs in between.
        """
        if share is None or not self.shares or ranks.size() == 1:
            yield from self._parts(groups, run)
            return
        done = 0
        with ranks.shared(share, self) as mine:
            n = self.batch_size
            cut = [group[start : start + n] for group in groups for start in range(0, len(group), n)]
            for rows in self._parts([part for part in cut if mine(part)], run):
                done += rows
                yield rows
        yield sum(map(len, groups)) - done

    def _parts(
        self, groups: Sequence[Sequence[int]], run: Callable[[list[int]], Iterator[float] | None]
    ) -> Generator[int, None, None]:
        for group in groups:
            rest = list(group)
            while rest:
                part, done = rest[: self.batch_size], 0
                try:
                    for share in run(part) or ():
                        now = int(share * len(part))
                        yield now - done
                        done = now
                except Exception as error:
                    if not is_out_of_memory(error):
                        raise
                    if not self.halve():
                        raise MemoryError(
                            f"not even one prompt at a time fits in memory ({error}): use shorter prompts, a smaller "
                            "dtype, or a device with more memory"
                        ) from error
                else:
                    rest = rest[len(part) :]
                    yield len(part) - done
                    continue
                gc.collect()  # outside of the handler, which still holds the tensors that did not fit
                if torch.cuda.is_available():
                    torch.cuda.empty_cache()


@dataclass
class Pace(Limits):
    """A batch size that follows the clock, so that a part takes `seconds` to twice that; at most `most` prompts."""

    seconds: float
    most: int
    shares: ClassVar[bool] = False  # no two clocks go alike

    def halve(self) -> bool:
        fits = super().halve()
        self.batch_size = max(1, self.batch_size)  # a pace is for more than one measurement
        self.most = self.batch_size  # what did not fit once is not tried again
        return fits

    def took(self, rows: int, seconds: float) -> None:
        """Told of each part: the next may have twice as many rows after a quick one, half as many after a slow one.

        Quick is below `seconds`, not below half of it, or a batch that a busy machine had brought down to one prompt
        would stay there. A part of fewer rows than a batch may have says nothing of larger ones.
        """
        if seconds < self.seconds and rows >= self.batch_size:
            self.batch_size = min(2 * self.batch_size, self.most)
        elif seconds > 2 * self.seconds:
            self.batch_size = max(1, self.batch_size // 2)


def find_limits(view: ModelView, longest: int, batch_size: int | None, max_memory: float | None) -> Limits:
    """As many prompts at once as the user says, or as fit: into max_memory, else into half of what is free now.

    longest: tokens of the longest prompt. max_memory: GiB of activations.

    Raises: ValueError for a batch size below one, or memory that is not above zero.
    """
    if max_memory is not None:
        number(max_memory, "max_memory", above=0)
    if batch_size is not None:
        return Limits(batch_size)
    room = min(map(free_bytes, view.devices)) / 2 if max_memory is None else max_memory * 2**30
    return Limits(max(1, int(min(MOST, room / prompt_bytes(view, longest)))))


def prompt_bytes(view: ModelView, tokens: int) -> int:
    """Roughly what one prompt takes: kept residuals, keys and values of all layers, and one layer's own work."""
    size = torch.empty((), dtype=view.dtype).element_size()
    kept = view.n_layers * tokens * (2 * view.n_kv_heads * view.d_head + view.n_heads * view.d_head + view.d_model)
    attention = 3 * view.n_heads * tokens * tokens * max(size, 4)  # scores, their softmax, one of them once more
    layer = tokens * 16 * view.d_model  # the MLP's inner values and what surrounds them
    return size * (kept + layer) + attention


FULL_LOGITS = 2**25  # numbers in one piece of logits over the whole vocabulary: 128 MiB in float32
Tick = Callable[[int], Any]  # told of the tokens that went through a block
