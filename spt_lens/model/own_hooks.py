"""Whether a model carries hooks of its user's, beside those that libraries hang into it themselves."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterable
from typing import Any

from torch import nn

LIBRARIES = ("transformer_lens", "transformers", "torch", "accelerate", "peft")  # whose own hooks are no concern


def has_hooks(model: Any, modules: Iterable[nn.Module]) -> bool:
    """Whether the user has hooks on the model: they may count on whole prompts, or on the shape of a batch.

    modules: all of the model's, as `ModelView.modules` gives them.
    """
    points = {id(point): point for point in model.hook_dict.values()}
    for point in points.values():
        for handle in (*point.fwd_hooks, *point.bwd_hooks):
            function = handle.hook.hooks_dict_ref().get(handle.hook.id)
            inner = inspect.getclosurevars(function).nonlocals.get("hook") if inspect.isfunction(function) else None
            # TransformerLens itself hangs permanent ones into a few architectures (OPT).
            if not (handle.is_permanent and _of_a_library(inner)):
                return True
    return any(
        not _of_a_library(function)
        for module in modules
        if id(module) not in points
        for function in (*module._forward_hooks.values(), *module._forward_pre_hooks.values())
    )


def _of_a_library(function: Any) -> bool:
    while isinstance(function, functools.partial):
        function = function.func
    return str(getattr(function, "__module__", "")).partition(".")[0] in LIBRARIES
