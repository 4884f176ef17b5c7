"""Sets of heads together, patched in or removed: what single-head scores, which need not add up, can't tell."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from spt_lens.chat.batches import Padding
from spt_lens.data.pairs import ContrastPairs
from spt_lens.heads import HeadSet
from spt_lens.measure.ablation import PROMPTS, Ablation, MeanOver, ablation_hooks, ablation_values
from spt_lens.measure.set_steps import Runs, patched_steps, unpatched_steps
from spt_lens.model.view import Model, ModelView
from spt_lens.patching.limits import find_limits, finish, progress_bar
from spt_lens.patching.rows import Direction, Positions, check_patching, make_rows, named
from spt_lens.scores.metrics import warn_left_out


@dataclass(frozen=True, eq=False, repr=False)
class JointEffect:
    """The effect of patching a set of heads in together, pair by pair.

    recovery: the share of the gap that came back (denoising) or was lost (noising). apologises_before and
    apologises_after say where greedy decoding would begin with the sycophantic answer, without and with the patch.
    left_out: the numbers of the pairs that are in none of these, since their two runs hardly differ.
    """

    heads: HeadSet
    recovery: Float[Tensor, " n_pairs"]
    apologises_before: Bool[Tensor, " n_pairs"]
    apologises_after: Bool[Tensor, " n_pairs"]
    direction: Direction
    positions: str
    left_out: tuple[int, ...] = ()

    def summary(self) -> str:
        """One line: the mean recovery and the apology rates."""
        n = len(self.recovery)
        before, after = float(self.apologises_before.float().mean()), float(self.apologises_after.float().mean())
        what = "of the gap recovered" if self.direction == "denoising" else "of the gap lost"
        return (
            f"{len(self.heads)} heads together: {float(self.recovery.mean()):.2f} {what} ({self.direction}, "
            f"{self.positions} position{'s' if self.positions != 'last' else ''}); "
            f"apologies {before:.2f} -> {after:.2f}; {n} pairs"
        )

    def __repr__(self) -> str:
        return f"JointEffect({self.summary()})"

    def _repr_html_(self) -> str:
        return f"<p>{html.escape(f'{self.heads}: {self.summary()}')}</p>"


@dataclass(frozen=True, eq=False, repr=False)
class KnockoutEffect:
    """What removing a set of heads together, at every position, does to both runs, pair by pair.

    The four logit differences are as activation_patching reads them, truthful minus sycophantic: positive where the
    model leans to the truthful reply. apologises_before and apologises_after say where greedy decoding would begin the
    reply to the challenged prompt with the sycophantic answer.
    """

    heads: HeadSet
    sycophantic_before: Float[Tensor, " n_pairs"]
    sycophantic_after: Float[Tensor, " n_pairs"]
    truthful_before: Float[Tensor, " n_pairs"]
    truthful_after: Float[Tensor, " n_pairs"]
    apologises_before: Bool[Tensor, " n_pairs"]
    apologises_after: Bool[Tensor, " n_pairs"]
    ablation: Ablation
    mean_over: MeanOver

    def summary(self) -> str:
        """One line: the mean logit differences of both runs and the apology rates, before and after."""
        how = "zero" if self.ablation == "zero" else f"their mean over the {PROMPTS[self.mean_over]} prompts"
        changes = [
            f"{run} run's logit difference {float(before.mean()):+.2f} -> {float(after.mean()):+.2f}"
            for run, before, after in (
                ("sycophantic", self.sycophantic_before, self.sycophantic_after),
                ("truthful", self.truthful_before, self.truthful_after),
            )
        ]
        before, after = float(self.apologises_before.float().mean()), float(self.apologises_after.float().mean())
        return (
            f"{len(self.heads)} heads set to {how}: {', '.join(changes)}; apologies {before:.2f} -> {after:.2f}; "
            f"{len(self.sycophantic_before)} pairs"
        )

    def __repr__(self) -> str:
        return f"KnockoutEffect({self.summary()})"

    def _repr_html_(self) -> str:
        return f"<p>{html.escape(f'{self.heads}: {self.summary()}')}</p>"


def joint_recovery(
    model: Model,
    pairs: ContrastPairs,
    heads: HeadSet,
    direction: Direction = "denoising",
    positions: Positions = "last",
    batch_size: int | None = 32,
    padding: Padding = "right",
) -> JointEffect:
    """activation_patching for a whole set of heads at once, all of them patched in the same forward pass.

    Pairs whose two runs hardly differ are left out with a warning, as there. batch_size: at most so many prompts at
    once; None for what memory allows.

    Raises: ValueError as activation_patching does, and for an empty set or heads that the model does not have;
    TypeError for heads that are no HeadSet.
    """
    check_set(model, heads)
    (effect,) = joint_effects(model, pairs, [heads], direction, positions, batch_size, padding)
    return effect


def joint_effects(
    model: Model,
    pairs: ContrastPairs,
    sets: Sequence[HeadSet],
    direction: Direction = "denoising",
    positions: Positions = "last",
    batch_size: int | None = 32,
    padding: Padding = "right",
    progress: bool = False,
) -> list[JointEffect]:
    """joint_recovery for several sets, one after the other, with one unpatched run of each prompt for all of them.

    A set without heads patches nothing: its recovery is 0.

    Raises: ValueError as activation_patching does, and for heads that the model does not have.
    """
    view = ModelView(model)
    for heads in sets:
        if len(heads):
            heads.check(view)
    check_patching(view, pairs, direction, positions)
    rows = make_rows(pairs, direction, positions)
    limits = find_limits(view, rows, batch_size, None)
    runs = Runs(view, pairs, rows, padding)
    # A measurement that no pair has a gap for is an error before the long work.
    before = finish(unpatched_steps(runs, limits))
    with progress_bar(len(sets) * len(before.rows_of(rows)), "patching sets", progress) as tick:
        shares, after = finish(patched_steps(runs, limits, sets, before, tick))
    warn_left_out(before.left_out, len(pairs))
    left_out = tuple(before.left_out)
    return [
        JointEffect(heads, shares[i], before.apologises[before.kept], after[i], direction, named(positions), left_out)
        for i, heads in enumerate(sets)
    ]


def joint_knockout(
    model: Model,
    pairs: ContrastPairs,
    heads: HeadSet,
    ablation: Ablation = "mean",
    mean_over: MeanOver = "both",
    batch_size: int | None = 32,
    padding: Padding = "right",
) -> KnockoutEffect:
    """Removes a set of heads together, at every position, and reads both runs of every pair.

    A removed head is set to its mean over all positions of the pairs' prompts, or to zero; `mean_over` says which
    prompts. A set that only carries the challenge brings the sycophantic run up and leaves the truthful one as it is;
    one that the model can't do without brings both down. For replies in words see `knockout_curve`. The model is left
    as it was. Source: the knockout of Chen et al. 2024, section 3.2, read by logits.

    Raises: ValueError for an empty set, heads that the model does not have, an unknown ablation, mean_over or padding,
    ids outside of the vocabulary, or a model in training mode; TypeError for heads that are no HeadSet.
    """
    view = ModelView(model)
    check_set(view, heads)
    check_patching(view, pairs, "denoising", "last")
    rows = make_rows(pairs, "denoising", "last")
    limits = find_limits(view, rows, batch_size, None)
    with view.kept(), torch.no_grad():
        removed = ablation_hooks(view, heads, ablation_values(view, pairs, ablation, mean_over, limits.batch_size))
        runs = Runs(view, pairs, rows, padding)
        # As rows have it: the sycophantic prompt is what a truthful one would be patched into.
        differences = {(run, when): runs.empty() for run in ("into", "source") for when in ("before", "after")}
        apologises = {when: torch.zeros(len(pairs), dtype=torch.bool) for when in ("before", "after")}

        def read(part: list[int]) -> None:
            for when, hooks in (("before", []), ("after", removed)):
                runs.read(part, "into", differences["into", when], apologises[when], hooks)
                runs.read(part, "source", differences["source", when], hooks=hooks)

        limits.each(rows.alike(), read)
    by_pair = {key: rows.by_pair(values) for key, values in differences.items()}
    return KnockoutEffect(
        heads=heads,
        sycophantic_before=by_pair["into", "before"],
        sycophantic_after=by_pair["into", "after"],
        truthful_before=by_pair["source", "before"],
        truthful_after=by_pair["source", "after"],
        apologises_before=apologises["before"],
        apologises_after=apologises["after"],
        ablation=ablation,
        mean_over=mean_over,
    )


def check_set(model: Model, heads: HeadSet) -> None:
    """Raises TypeError for anything that is no HeadSet, ValueError for one without heads or with any others."""
    if not isinstance(heads, HeadSet):
        raise TypeError(f"expected a HeadSet, got {type(heads).__name__}: use HeadSet.of(...) or scores.top(4)")
    heads.check(ModelView(model))
