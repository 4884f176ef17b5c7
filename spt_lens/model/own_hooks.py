"""Whether a model carries hooks of its user's, beside those that libraries hang into it themselves."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterable, Iterator
from typing import Any

from torch import nn

LIBRARIES = ("transformer_lens", "transformers", "torch", "accelerate", "peft")  # whose own hooks are no concern


class Edit:
    """A hook that a tuner leaves in a model (`tune/edits.py`): it looks at each position of each row by itself."""


def has_hooks(model: Any, modules: Iterable[nn.Module], edits: bool = True) -> bool:
    """Whether the user has hooks on the model: they may count on whole prompts, or on the shape of a batch.

    modules: all of the model's, as `ModelView.modules` gives them. edits: whether an `Edit` is one of them too.
    """
    points = {id(point): point for point in model.hook_dict.values()}
    for point in points.values():
        for handle, inner in hung(point):
            # TransformerLens itself hangs permanent ones into a few architectures (OPT).
            if not (handle.is_permanent and _of_a_library(inner)) and (edits or not isinstance(inner, Edit)):
                return True
    return any(
        not _of_a_library(function) and (edits or not isinstance(function, Edit))
        for module in modules
        if id(module) not in points
        for function in (*module._forward_hooks.values(), *module._forward_pre_hooks.values())
    )


def hung(point: Any) -> Iterator[tuple[Any, Any]]:
    """TransformerLens's handles of the hooks on a hook point, each with the function that it was given."""
    for handle in (*point.fwd_hooks, *point.bwd_hooks):
        yield handle, given_to(handle.hook.hooks_dict_ref().get(handle.hook.id))


def given_to(function: Any) -> Any:
    """The function that TransformerLens was given for what it hung on a hook point."""
    return inspect.getclosurevars(function).nonlocals.get("hook") if inspect.isfunction(function) else None


def has_edits(model: Any) -> bool:
    """Whether a tuner has left an `Edit` in the model."""
    points = {id(point): point for point in getattr(model, "hook_dict", {}).values()}
    return any(isinstance(inner, Edit) for point in points.values() for _, inner in hung(point))


def check_unedited(model: Any) -> None:
    """Raises ValueError for a model with an `Edit`, which no checkpoint holds and nothing else is to be tuned on."""
    if has_edits(model):
        raise ValueError(
            "the model carries what steering, ablation, ITI or LoFiT left in it, which are hooks and no weights: undo "
            "that first, by tuned.undo(model) or adapter.revert(model)"
        )


def _of_a_library(function: Any) -> bool:
    while isinstance(function, functools.partial):
        function = function.func
    return str(getattr(function, "__module__", "")).partition(".")[0] in LIBRARIES
