"""What runs on the same data have in common, made once: encodings, an untuned model's predictions or hidden states."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

Result = TypeVar("Result")

_kept: ContextVar[dict[Hashable, Any] | None] = ContextVar("kept", default=None)


@contextmanager
def keeping(kept: dict[Hashable, Any]) -> Iterator[None]:
    """In the block, what `once` makes is put into `kept`, and found there by later blocks with the same dict.

    Whoever opens it answers for it that the untuned model, its tokenizer and its chat options are the same in each.
    """
    token = _kept.set(kept)
    try:
        yield
    finally:
        _kept.reset(token)


def once(key: Hashable, make: Callable[[], Result]) -> Result:
    """What `make` gives; in a `keeping` block what it gave for this key before. Nobody may change it then."""
    kept = _kept.get()
    if kept is None:
        return make()
    if key not in kept:
        kept[key] = make()
    return kept[key]
