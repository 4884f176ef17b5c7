"""One progress bar for a measurement, in work done rather than in pairs, so that the time left is an honest guess."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm.auto import tqdm

FORM = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}<{remaining}"  # as tqdm takes it


@contextmanager
def progress_bar(work: float, title: str, shown: bool) -> Iterator[Callable[[int], None]]:
    """Gives the function that is told of work as it is done: tokens that went through a block."""
    with tqdm(total=max(work, 1), desc=title, bar_format=FORM, disable=not shown) as bar:

        def tick(tokens: int) -> None:
            bar.update(min(tokens, bar.total - bar.n))  # what did not fit in memory is done twice

        yield tick
        bar.update(bar.total - bar.n)
