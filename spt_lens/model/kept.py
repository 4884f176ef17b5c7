"""Leaving a model as it was found."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import nn


def to_the_end(restore: Callable[[], object]) -> None:
    """Restores something. An interrupt in the middle is raised once all is restored."""
    try:
        restore()
    except KeyboardInterrupt:
        restore()
        raise


@contextmanager
def as_before(model: Any, root: nn.Module, modules: Sequence[nn.Module]) -> Iterator[None]:
    """`ModelView.kept`, of a model, the module that holds its parameters, and all modules of both."""
    trained = [(module, module.training) for module in modules]
    # Also what stands in for a module's own method: an interrupt may come just as it is put there or taken away.
    methods = [(own, own.get("forward")) for own in map(vars, modules)]
    # By module and name: weights that are brought to a device for their turn come back as other parameters.
    parameters: list[tuple[dict[str, nn.Parameter | None], str, bool, Any]] = []
    seen: set[int] = set()  # a tied one is there twice
    for module in root.modules():
        for name, p in module._parameters.items():
            if p is not None and (p.is_meta or id(p) not in seen):
                seen.add(id(p))
                parameters.append((module._parameters, name, p.requires_grad, p.grad))
    points = {id(point): point for point in model.hook_dict.values()}.values()
    hooks = [(point, list(point.fwd_hooks), list(point.bwd_hooks)) for point in points]

    def now() -> Iterator[tuple[nn.Parameter, bool, Any]]:
        for own, name, requires_grad, grad in parameters:
            if (p := own[name]) is not None:
                yield p, requires_grad, grad

    def restore() -> None:
        for module, training in trained:
            module.training = training
        for own, forward in methods:
            if forward is None:
                own.pop("forward", None)
            else:
                own["forward"] = forward
        for p, requires_grad, grad in now():
            p.requires_grad_(requires_grad)
            p.grad = grad
        for point, forward, backward in hooks:
            for present, before in ((point.fwd_hooks, forward), (point.bwd_hooks, backward)):
                for handle in [h for h in present if not any(h is b for b in before)]:
                    handle.hook.remove()
                    present.remove(handle)

    try:
        for p, _, _ in now():
            p.grad = None
        yield
    finally:
        to_the_end(restore)
