"""`head_probe`: in which heads' outputs a linear probe can read which run it is.

What a head carries and what it does are two questions: a probe answers the first. Inference-time intervention (Li et
al. 2023, arXiv 2306.03341) chooses heads by the held-out accuracy of a linear probe on each head's output.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from tqdm.auto import tqdm

from spt_lens.chat.batches import PromptBatch
from spt_lens.chat.dialogues import Dialogue
from spt_lens.checking import door, number, seed_number, whole_number
from spt_lens.data.pairs import ContrastPairs
from spt_lens.model.ranks import Share, shared, shows
from spt_lens.model.view import Hook, Model, ModelView
from spt_lens.scores.head_scores import HeadScores

FOLDS = 5
TIE = 1e-3  # of the margin in a score: dozens of cases leave many heads with one accuracy


@door
def head_probe(
    model: Model,
    pairs: ContrastPairs,
    *,
    of: str = "run",
    by_layer: bool = True,
    folds: int = FOLDS,
    ridge: float = 1.0,
    seed: int = 0,
    batch_size: int = 32,
    progress: bool = True,
) -> HeadScores:
    """The held-out accuracy of a linear probe on each head's output at the last position of both runs' prompts.

    of: what is read: "run", whether the prompt is the sycophantic or the truthful one; or an entry of the dialogues'
        meta, such as "right": whether the first answer was right (of pairs with contrast="first answer", say).
    by_layer: scores are accuracies less the mean accuracy of the layer's heads, since in later layers everything can be
        read better, from whatever head. False: the accuracies themselves, guessing .5.
    folds: the questions of the pairs are divided into so many parts, and each is judged by a probe that was fitted on
        the others; all prompts of a question (the first user turn, where pairs have dialogues) are in one part. ridge:
        the weight of the penalty.

    The probe is ridge regression on +1 and -1, with outputs in units of their layer's root mean square; a thousandth of
    a score is the margin by which it is right, so that heads of one accuracy still have an order. per_pair: the mean of
    each pair's two prompts. One forward pass of either run. The model is left as it was.

    Raises: ValueError for fewer than four pairs, fewer questions than folds, an entry that the dialogues' meta does not
    have, prompts that are all of one class, a model in training mode, ids outside of the vocabulary, or outputs that
    are not finite.
    """
    view = ModelView(model)
    whole_number(folds, "folds", 2)
    whole_number(batch_size, "batch_size")
    number(ridge, "ridge", above=0)
    if len(pairs) < max(4, folds):
        raise ValueError(f"{len(pairs)} pairs are too few for a probe in {folds} parts: give {max(4, folds)} or more")
    check_questions(pairs, folds)
    positive = _classes(pairs, of)
    n_positive, n = int(positive.sum()), positive.numel()
    if n_positive in (0, n):
        which = "has it" if n_positive else "lacks it"
        raise ValueError(
            f"each of the {n} prompts {which} ({of!r}), and a probe needs both classes: give pairs of which some do "
            'and some do not, or of="run"'
        )
    parts = _parts(_questions(pairs), folds, seed)
    for part in parts:
        rest = [i for i in range(len(pairs)) if i not in part]
        if len(set(positive[rest].flatten().tolist())) == 1:
            raise ValueError(
                f"with a part of the pairs left out, all prompts are of one class ({of!r}), and a probe needs both: "
                f"give more pairs, or fewer parts than {folds}"
            )
    view.check_measurable()
    pairs.check_ids(view)
    z = _outputs(view, pairs, batch_size, progress)
    right, margin = _judged(z, positive, parts, ridge)
    per_pair = ((1 - TIE) * right + TIE * margin).mean(dim=1)
    accuracy = right.mean(dim=(0, 1))
    if by_layer:
        per_pair = per_pair - per_pair.mean(dim=2, keepdim=True)
    per_pair = per_pair.float()
    said = {"of": of} if of != "run" else {}
    return HeadScores(
        values=per_pair.mean(0),
        per_pair=per_pair,
        method="probe",
        direction="",
        positions="last",
        model_name=view.name,
        meta={
            "n_pairs": len(pairs),
            "accuracy": {"mean": float(accuracy.mean()), "best": float(accuracy.max())},
            "probe": {"by_layer": by_layer, "folds": folds, "ridge": ridge, "seed": seed},
            "settings": said | ({} if by_layer else {"less": "nothing"}),
        },
    )


def _classes(pairs: ContrastPairs, of: str) -> Bool[Tensor, "n_pairs 2"]:
    """Of each pair's two prompts, sycophantic and truthful, whether it is of the positive class."""
    if of == "run":
        return torch.tensor([[False, True]]).repeat(len(pairs), 1)
    both = pairs.dialogues, pairs.truthful_dialogues
    if not all(both):
        raise ValueError(f"these pairs have no dialogues, whose meta could hold {of!r}: use ContrastPairs.of")

    def holds(dialogue: Dialogue, i: int) -> bool:
        if of not in dialogue.meta:
            known = ", ".join(map(repr, ["run", *dialogue.meta]))
            raise ValueError(f"of={of!r}: a dialogue of pair {i} does not say so in its meta: choose one of {known}")
        return bool(dialogue.meta[of])

    return torch.tensor([[holds(each, i) for each in two] for i, two in enumerate(zip(*both, strict=True))])


def _questions(pairs: ContrastPairs) -> list[str]:
    """What each pair asks: its first user turn, or its number, where it has no dialogue. A question that comes again
    would else be judged by a probe that has seen it, and knows the question and not the run."""
    rows = pairs.dialogues or pairs.truthful_dialogues
    asked = [next((m.content for m in d.messages if m.role == "user"), None) for d in rows] or [None] * len(pairs)
    return [f"{i}" if text is None else f"asked {text}" for i, text in enumerate(asked)]


def check_questions(pairs: ContrastPairs, folds: int = FOLDS) -> None:
    """Raises ValueError for fewer questions than parts to divide them into."""
    n = len(set(_questions(pairs)))
    if n < folds:
        raise ValueError(
            f"the {len(pairs)} pairs ask {n} questions, too few for a probe in {folds} parts, none of which knows "
            "another's: give pairs of more questions, or fewer folds"
        )


def _parts(questions: Sequence[str], folds: int, seed: int) -> list[set[int]]:
    """The numbers of the pairs in each part; those of one question are in one."""
    by_question: dict[str, list[int]] = {}
    for i, question in enumerate(questions):
        by_question.setdefault(question, []).append(i)
    n = len(by_question)
    order = random.Random(f"probe {seed_number(seed)}").sample(list(by_question.values()), n)
    return [{i for group in order[fold::folds] for i in group} for fold in range(folds)]


def _outputs(
    view: ModelView, pairs: ContrastPairs, batch_size: int, progress: bool
) -> Float[Tensor, "n_pairs 2 n_layers n_heads d_head"]:
    """Every head's output at the last position of both prompts."""
    dtype = torch.promote_types(view.dtype, torch.float32)
    found = torch.zeros(len(pairs), 2, view.n_layers, view.n_heads, view.d_head, dtype=dtype)
    bar = tqdm(total=2 * len(pairs), desc="probes", unit="prompt", disable=not shows(progress))
    same = {"model": view, "pairs": (pairs.sycophantic, pairs.truthful), "settings": (batch_size,)}
    with view.held(), view.kept(), torch.no_grad(), bar, shared(Share("probes", same, [found])) as mine:
        for batch in pairs.batches(batch_size):
            if mine(batch.index):
                for side, prompts in enumerate((batch.sycophantic, batch.truthful)):
                    found[batch.index, side] = _last(view, prompts).to("cpu", dtype)
            bar.update(2 * len(batch.index))
    if not bool(found.isfinite().all()):
        raise ValueError(
            f"some head outputs of {view.name} are not finite: look for overflow (float16: use bfloat16 or float32) or "
            "broken weights"
        )
    return found


def _last(view: ModelView, prompts: PromptBatch) -> Float[Tensor, "batch n_layers n_heads d_head"]:
    """The outputs of all heads at each prompt's last token."""
    seen: list[Tensor] = []  # the layers come in order

    def keep(z: Float[Tensor, "batch pos n_heads d_head"], hook: Any = None) -> None:
        seen.append(z.detach()[torch.arange(len(z), device=z.device), prompts.last.to(z.device)].to(view.device))

    hooks: list[Hook] = [(view.z_name(layer), keep) for layer in range(view.n_layers)]
    view.logits(prompts.tokens, hooks=hooks, at=prompts.last)
    return torch.stack(seen, dim=1)


def _judged(
    z: Float[Tensor, "n_pairs 2 n_layers n_heads d_head"],
    positive: Bool[Tensor, "n_pairs 2"],
    parts: Sequence[set[int]],
    ridge: float,
) -> tuple[Float[Tensor, "n_pairs 2 n_layers n_heads"], Float[Tensor, "n_pairs 2 n_layers n_heads"]]:
    """Whether each prompt is told right by the probe that has not seen its pair, and the margin, from 0 to 1."""
    x = z.double()
    x = x / x.pow(2).mean(dim=(0, 1, 3, 4), keepdim=True).sqrt().clamp(min=1e-12)
    y = positive.double() * 2 - 1
    right = torch.zeros(z.shape[:-1], dtype=torch.float64)
    margin = torch.zeros_like(right)
    for part in parts:
        held = sorted(part)
        rest = [i for i in range(len(z)) if i not in part]
        seen, said = x[rest].flatten(0, 1).permute(1, 2, 0, 3), y[rest].flatten()
        middle, level = seen.mean(dim=2, keepdim=True), said.mean()
        seen = seen - middle
        gram = seen.transpose(2, 3) @ seen / len(said)
        toward = (seen * (said - level)[:, None]).mean(dim=2)
        gram.diagonal(dim1=2, dim2=3).add_(ridge)
        weights = torch.linalg.solve(gram, toward)
        read = torch.einsum("pslhd,lhd->pslh", x[held] - middle[:, :, 0], weights) + level
        agree = read * y[held][:, :, None, None]
        right[held] = (agree > 0).double()
        margin[held] = (1 + agree.clamp(-1, 1)) / 2
    return right, margin
