"""Sets of heads together, patched in or removed: what single-head scores, which need not add up, can't tell."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from tqdm.auto import tqdm

from spt_lens.data.padding import Padding
from spt_lens.data.pairs import ContrastPairs
from spt_lens.heads import HeadSet
from spt_lens.measure.activation import (
    Direction,
    Positions,
    both_runs,
    check_patching,
    last_logits,
    patch_place,
    prompts,
    source_z,
)
from spt_lens.measure.hooks import patch_heads
from spt_lens.measure.knockout import PROMPTS, Ablation, MeanOver, ablation_hooks, ablation_values, check_ablation
from spt_lens.measure.metrics import first_choice, logit_difference, recovery
from spt_lens.models import Model, ModelView


@dataclass(frozen=True, eq=False, repr=False)
class JointEffect:
    """The effect of patching a set of heads in together, pair by pair.

    recovery: the share of the gap that came back (denoising) or was lost (noising). apologises_before and
    apologises_after say where greedy decoding would begin with the sycophantic completion, without and with the patch.
    """

    heads: HeadSet
    recovery: Float[Tensor, " n_pairs"]
    apologises_before: Bool[Tensor, " n_pairs"]
    apologises_after: Bool[Tensor, " n_pairs"]
    direction: Direction
    positions: Positions

    def summary(self) -> str:
        """One line: the mean recovery and the apology rates."""
        n = len(self.recovery)
        before, after = float(self.apologises_before.float().mean()), float(self.apologises_after.float().mean())
        what = "of the gap recovered" if self.direction == "denoising" else "of the gap lost"
        return (
            f"{len(self.heads)} heads together: {float(self.recovery.mean()):.2f} {what} ({self.direction}, "
            f"{self.positions} position{'s' if self.positions == 'all' else ''}); "
            f"apologies {before:.2f} -> {after:.2f}; {n} pairs"
        )

    def __repr__(self) -> str:
        return f"JointEffect({self.summary()})"

    def _repr_html_(self) -> str:
        return f"<p>{html.escape(f'{self.heads}: {self.summary()}')}</p>"


@dataclass(frozen=True, eq=False, repr=False)
class KnockoutEffect:
    """What removing a set of heads together, at every position, does to both runs, pair by pair.

    The four logit differences are of the truthful completion's first token minus the sycophantic one's, in logits:
    positive where the model leans to the truthful reply. apologises_before and apologises_after say where greedy
    decoding would begin the reply to the challenged prompt with the sycophantic completion.
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
    batch_size: int = 32,
    padding: Padding = "right",
) -> JointEffect:
    """head_recovery for a whole set of heads at once, all of them patched in the same forward pass.

    Raises: ValueError as head_recovery does, and for an empty set or heads that the model does not have; TypeError for
    heads that are no HeadSet.
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
    batch_size: int = 32,
    padding: Padding = "right",
    progress: bool = False,
) -> list[JointEffect]:
    """joint_recovery for several sets, one after the other, with one unpatched run of each prompt for all of them.

    A set without heads patches nothing: its recovery is 0.

    Raises: ValueError as head_recovery does, and for heads that the model does not have.
    """
    view = ModelView(model)
    for heads in sets:
        if len(heads):
            heads.check(view)
    check_patching(view, pairs, direction, positions, padding)
    with view.kept(), torch.no_grad():
        base, target = both_runs(view, pairs, direction, batch_size, padding)
        recovery(base, base, target)  # a gap of zero is an error before the long work
        patched = base.repeat(len(sets), 1)
        before = torch.zeros(len(pairs), dtype=torch.bool)
        after = torch.zeros(len(sets), len(pairs), dtype=torch.bool)
        with tqdm(total=len(sets) * len(pairs), desc="patching sets", unit="pair", disable=not progress) as bar:
            for batch in pairs.batches(batch_size, padding):
                into, source = prompts(batch, direction)
                z = source_z(view, source, positions)
                sycophantic = batch.answer_ids[:, 1]
                before[batch.index] = first_choice(last_logits(view, into), sycophantic).cpu()
                for i, heads in enumerate(sets):
                    if len(heads):
                        hooks = [
                            (view.z_name(layer), patch_heads(z[layer], chosen, patch_place(into, positions)))
                            for layer, chosen in heads.by_layer().items()
                        ]
                        logits = last_logits(view, into, hooks)
                        after[i, batch.index] = first_choice(logits, sycophantic).cpu()
                        patched[i, batch.index] = logit_difference(logits, batch.answer_ids).to(patched)
                    else:
                        after[i, batch.index] = before[batch.index]
                    bar.update(len(batch.index))
    shares = recovery(patched, base, target)
    return [JointEffect(heads, shares[i], before, after[i], direction, positions) for i, heads in enumerate(sets)]


def joint_knockout(
    model: Model,
    pairs: ContrastPairs,
    heads: HeadSet,
    ablation: Ablation = "mean",
    mean_over: MeanOver = "both",
    batch_size: int = 32,
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
    check_ablation(ablation, mean_over)
    check_patching(view, pairs, "denoising", "last", padding)
    with view.kept(), torch.no_grad():
        hooks = ablation_hooks(view, heads, ablation_values(view, pairs, ablation, mean_over, batch_size))
        size, dtype = len(pairs), torch.promote_types(view.dtype, torch.float32)
        differences = {
            f"{run}_{when}": torch.zeros(size, dtype=dtype)
            for run in ("sycophantic", "truthful")
            for when in ("before", "after")
        }
        apologises = {when: torch.zeros(size, dtype=torch.bool) for when in ("before", "after")}
        for batch in pairs.batches(batch_size, padding):
            for when, active in (("before", []), ("after", hooks)):
                for run, rows in (("sycophantic", batch.sycophantic), ("truthful", batch.truthful)):
                    logits = last_logits(view, rows, active)
                    into = differences[f"{run}_{when}"]
                    into[batch.index] = logit_difference(logits, batch.answer_ids).to(into)
                    if run == "sycophantic":
                        apologises[when][batch.index] = first_choice(logits, batch.answer_ids[:, 1]).cpu()
    return KnockoutEffect(
        heads=heads,
        **differences,
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
