"""A model's blocks, passed over or run in part: methods put in place of a module's own, and gone again afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import nn


@contextmanager
def with_methods(module: nn.Module, **methods: Callable[..., Any]) -> Iterator[None]:
    """Methods on this very module, that hide its class's until they are gone again (accelerate has some there too)."""
    own = module.__dict__
    before = {name: own[name] for name in methods if name in own}
    try:
        own.update(methods)
        yield
    finally:
        for name, method in methods.items():
            if own.get(name) is not method:  # after two interrupts others may have put back what was there
                continue
            if name in before:
                own[name] = before[name]
            else:
                del own[name]


@contextmanager
def passed_over(blocks: Sequence[nn.Module], give: Callable[..., Any]) -> Iterator[None]:
    """In the block, each of these gives what `give` makes of its arguments, and does nothing else."""
    with ExitStack() as stack:
        for each in blocks:
            stack.enter_context(with_methods(each, forward=give))
        yield
