"""Leaving a model as it was found."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import nn

from spt_lens.model.held import Hold, held, to_the_end

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


@contextmanager
def as_before(model: Any, root: nn.Module, modules: Sequence[nn.Module], name: str) -> Iterator[Hold]:
    """`ModelView.kept`, of a model, the module that holds its parameters, and all modules of both."""
    with held(root, name) as hold, _as_before(model, root, modules, hold):
        yield hold


@contextmanager
def _as_before(model: Any, root: nn.Module, modules: Sequence[nn.Module], hold: Hold) -> Iterator[None]:
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
    # Of blocks in one another the outermost sees to what hangs on modules and weights without a hook point.
    every = () if hold.undo else {id(module): module for module in (*modules, *points)}.values()
    hung = [(own, dict(own)) for module in every for own in (getattr(module, kind) for kind in _HOOKS)]
    config, outermost, depth = getattr(root, "config", None), not hold.undo, len(hold.undo)
    kind = getattr(config, "_attn_implementation", None)

    def now() -> Iterator[tuple[nn.Parameter, bool, Any]]:
        for own, name, requires_grad, grad in parameters:
            if (p := own[name]) is not None:
                yield p, requires_grad, grad

    of_gradients = {id(p): dict(_accumulating(p)) for p, *_ in now()} if outermost else {}

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
            if id(p) in of_gradients:
                _only(_accumulating(p), of_gradients[id(p)])
        for point, forward, backward in hooks:
            for present, before in ((point.fwd_hooks, forward), (point.bwd_hooks, backward)):
                for handle in [h for h in present if not any(h is b for b in before)]:
                    handle.hook.remove()
                    present.remove(handle)
        for known, were in hung:
            _only(known, were)
        if config is not None and getattr(config, "_attn_implementation", None) != kind:
            config._attn_implementation = kind

    try:
        hold.undo.append(restore)
        for p, _, _ in now():
            p.grad = None
        yield
    finally:
        if restore in hold.undo:
            to_the_end(restore)
            del hold.undo[depth:]


def _accumulating(parameter: nn.Parameter) -> dict[int, Any]:
    return getattr(parameter, "_post_accumulate_grad_hooks", None) or {}


def _only(present: dict[int, Any], before: dict[int, Any]) -> None:
    """Takes off what was hung there since; torch's handles refer to this very dict."""
    for key in [key for key in present if key not in before]:
        del present[key]
