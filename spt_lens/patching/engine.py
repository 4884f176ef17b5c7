"""Which way of patching a model allows, tried out on it before the work begins."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from spt_lens.model.view import ModelView
from spt_lens.patching.limits import is_out_of_memory
from spt_lens.patching.plain import patch_heads
from spt_lens.patching.rows import Batch, Row, Rows
from spt_lens.patching.suffix import NotPossible, suffix_run
from spt_lens.patching.sweep import joining, suffix_source, through, waves

Engine = Literal["auto", "sweep", "stacked", "hooks"]


def choose_engine(view: ModelView, rows: Rows, engine: str, without: Sequence[str] = ()) -> tuple[str, str]:
    """The engine, and why no faster one; "" if there is none.

    "auto" takes the sweep where it gives what plain hooks give on the shortest prompt (a few forward passes of one
    prompt), else stacked heads, and plain hooks for a model that carries hooks of the user's: those may count on the
    shape of a batch. without: engines that the method does not have.

    Raises: ValueError for an unknown engine, or one that does not fit the model.
    """
    known = [name for name in get_args(Engine) if name not in without]
    if engine in without:
        raise ValueError(f"engine={engine!r} does not go with this method: use one of {', '.join(map(repr, known))}")
    if engine not in known:
        raise ValueError(f"unknown engine {engine!r}: use one of {', '.join(map(repr, known))}")
    if engine in ("auto", "sweep"):
        problem = sweep_problem(view, rows)
        if not problem:
            return "sweep", ""
        if engine == "sweep":
            raise ValueError(f"engine='sweep' does not fit {view.name}: it {problem}. Use engine='auto'")
        reason = f"no sweep: {view.name} {problem}"
        plain = "hooks" if has_hooks(view) or "stacked" in without else "stacked"
        return plain, reason
    if engine == "stacked" and has_hooks(view):
        raise ValueError(
            f"engine='stacked' does not fit {view.name}: it carries hooks of yours, which would see several copies of "
            "a batch. Use engine='hooks', or take them off by model.reset_hooks()"
        )
    return engine, ""


LIBRARIES = ("transformer_lens", "transformers", "torch", "accelerate", "peft")  # whose own hooks are no concern


def has_hooks(view: ModelView) -> bool:
    """Whether the user has hooks on the model, TransformerLens's or torch's: they may count on whole prompts, or on the
    shape of a batch. TransformerLens itself hangs permanent ones into a few architectures (OPT).
    """
    points = {id(point): point for point in view.model.hook_dict.values()}
    for point in points.values():
        for handle in (*point.fwd_hooks, *point.bwd_hooks):
            function = handle.hook.hooks_dict_ref().get(handle.hook.id)
            inner = inspect.getclosurevars(function).nonlocals.get("hook") if inspect.isfunction(function) else None
            if not (handle.is_permanent and _of_a_library(inner)):
                return True
    return any(
        not _of_a_library(function)
        for module in view.modules()
        if id(module) not in points
        for function in (*module._forward_hooks.values(), *module._forward_pre_hooks.values())
    )


def _of_a_library(function: Any) -> bool:
    while isinstance(function, functools.partial):
        function = function.func
    return str(getattr(function, "__module__", "")).partition(".")[0] in LIBRARIES


@torch.no_grad()
def sweep_problem(view: ModelView, rows: Rows) -> str:
    """Why the sweep does not fit a model, as what follows "it"; "" where it fits.

    On the shortest prompt, two heads of two layers, set to much more than the negative of what they are, must change
    the last block's output as they do by plain hooks. Outputs tell more than logits do: in half precision, rounding
    hides in a single logit what is wrong by far.
    """
    if has_hooks(view):
        return "carries hooks of yours, which would see suffixes instead of whole prompts"
    i = min(range(len(rows)), key=lambda i: len(rows.rows[i].into))
    row = rows.rows[i]
    heads = [(layer, head) for layer in sorted({0, view.n_layers // 2}) for head in range(min(2, view.n_heads))]
    at = [at - row.start for at in row.into_at]
    try:
        run = suffix_run(view, torch.tensor([row.into]), row.start)
        z = torch.stack([-3 * own[0, at] for own in run.z])
        join = joining(run, suffix_source([row], z, run))
        found = torch.cat([through(run, wave, join, lambda tokens: None) for wave in waves(heads, 2)])
    except NotPossible as error:
        return str(error)
    except Exception as error:  # whatever a block makes of arguments that it was not written for
        if is_out_of_memory(error):
            return "has no memory for two suffixes of its shortest prompt"
        return f"can't run its blocks on suffixes ({type(error).__name__}: {error})"
    expected = torch.cat([_by_hooks(view, row, z, layer, head)[:, row.start :] for layer, head in heads])
    change, off = (expected - run.final).float(), (expected - found[:, 0]).float()
    share = float(off.norm() / change.norm()) if bool(change.any()) else float(off.norm())
    if share > (0.1 if torch.finfo(view.dtype).eps > 1e-4 else 1e-3):  # nan is no reason: it is looked for later
        return (
            f"gives other outputs in the sweep than with plain hooks (by {share:.2g} of the change that patches make)"
        )
    return ""


def _by_hooks(
    view: ModelView, row: Row, z: Float[Tensor, "layer places n_heads d_head"], layer: int, head: int
) -> Float[Tensor, "1 pos d_model"]:
    """The last block's output with one head patched by a plain hook."""
    kept: list[Tensor] = []
    batch = Batch.of([row], "into", "none")

    def keep(module: Any, args: Any, output: Any) -> None:
        kept.append(output[0] if isinstance(output, tuple) else output)

    handle = view.model.blocks[-1].register_forward_hook(keep)
    try:
        hook = (view.z_name(layer), patch_heads(batch.row, batch.pos, z[layer], [head]))
        view.logits(batch.prompts.tokens, None, [hook], at=batch.reads)
    finally:
        handle.remove()
    return kept[0]
