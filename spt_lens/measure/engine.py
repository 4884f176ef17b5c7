"""Which way of patching a model allows, tried out on it before the work begins."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch

from spt_lens.heads import Head
from spt_lens.measure.places import Rows
from spt_lens.measure.plain import plain_base, plain_values
from spt_lens.measure.sweep import read, suffix_source, sweep
from spt_lens.models import ModelView
from spt_lens.suffix import NotPossible, suffix_run

Engine = Literal["auto", "sweep", "stacked", "hooks"]


def choose_engine(view: ModelView, rows: Rows, engine: str, without: Sequence[str] = ()) -> tuple[str, str]:
    """The engine, and why no faster one; "" if there is none.

    "auto" takes the sweep where it gives what plain hooks give on the shortest prompt (a few forward passes of one
    prompt), else stacked heads, and plain hooks for a model that carries hooks of the user's: those may count on the
    shape of a batch. without: engines that the method does not have.

    Raises: ValueError for an unknown engine, or one that does not fit the model.
    """
    known = [name for name in get_args(Engine) if name not in without]
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


def has_hooks(view: ModelView) -> bool:
    """Whether the user has hooks on the model: they may count on whole prompts and on the shape of a batch.

    Permanent ones are left to the try-out: TransformerLens hangs some of its own into a few architectures (OPT).
    """
    points = {id(point): point for point in view.model.hook_dict.values()}.values()
    return any(not hook.is_permanent for point in points for hook in (*point.fwd_hooks, *point.bwd_hooks))


@torch.no_grad()
def sweep_problem(view: ModelView, rows: Rows) -> str:
    """Why the sweep does not fit a model, as what follows "it"; "" where it fits.

    On the shortest prompt, the run without a patch, and two heads set to the negative of what they are, must read as
    by plain hooks, to rounding.
    """
    if has_hooks(view):
        return "carries hooks of yours, which would see suffixes instead of whole prompts"
    i = min(range(len(rows)), key=lambda i: len(rows.rows[i].into))
    row, readout = rows.rows[i], rows.readout([i])
    heads = sorted({Head(0, 0), Head(view.n_layers // 2, view.n_heads - 1)})
    try:
        run = suffix_run(view, torch.tensor([row.into]), row.start)
        z = torch.stack([-own[:, [at - run.start for at in row.into_at]][0] for own in run.z])
        found = torch.cat(
            [
                read(run, run.final[None, :, -row.reads :], readout),
                sweep(run, suffix_source([row], z, run), readout, row.reads, heads, most=2),
            ]
        )
    except NotPossible as error:
        return str(error)
    except Exception as error:  # whatever a block makes of arguments that it was not written for
        return f"can't run its blocks on suffixes ({type(error).__name__}: {error})"
    expected = torch.cat(
        [plain_base(view, [row], readout, "none")[None], plain_values(view, [row], z, readout, heads, 1, "none")]
    )
    off = float((found - expected).abs().max())
    # Rounding of the logits, which are what both add up in another order; more where a completion has many tokens.
    eps = torch.finfo(view.dtype).eps
    allowed = 64 * torch.finfo(torch.float32).eps if eps < 1e-4 else 16 * eps
    allowed *= float(run.last_logits.abs().max()) * row.reads
    if not off <= allowed and bool(expected.isfinite().all()):
        return f"gives other numbers in the sweep than with plain hooks (by {off:.2g}, more than rounding)"
    return ""
