"""Knockout: does the behaviour go when the heads go? Chen et al. 2024, section 3.2.

Knockout and patching answer different questions. Patching a head in from the truthful run asks whether it carries the
stance; ablating it asks what the rest of the model does without it. A model whose habit is to give in may keep giving
in when it can't see the stance at all, whichever mean stands in for the head.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from spt_lens.chat.dialogues import Dialogue, as_dialogues
from spt_lens.chat.judge import Judge, Verdict, check_verdict, judged
from spt_lens.checking import door
from spt_lens.data.pairs import ContrastPairs
from spt_lens.heads import HeadSet
from spt_lens.measure.ablation import Ablation, MeanOver, ablation_hooks, ablation_values, check_ablation
from spt_lens.measure.set_effect import SetEffect, table_of
from spt_lens.measure.sets import Runs, Sizes, both_runs, by_pair, sets_of
from spt_lens.model.generation import finish
from spt_lens.model.limits import Limits, progress_bar
from spt_lens.model.replies import reply_parts, reply_prompts
from spt_lens.model.view import Model, ModelView
from spt_lens.patching.readings import Resting
from spt_lens.patching.rows import make_rows
from spt_lens.scores.head_scores import HeadScores


@door
def set_knockout(
    model: Model,
    pairs: ContrastPairs,
    heads: HeadSet | HeadScores,
    sizes: Sizes | None = None,
    *,
    ablation: Ablation = "mean",
    mean_over: MeanOver = "both",
    n_random: int = 5,
    seed: int = 0,
    cases: Sequence[Dialogue] | None = None,
    batch_size: int = 64,
    progress: bool = True,
) -> SetEffect:
    """Removes a set of heads together, at every position, and reads both runs of every pair and the model's replies.

    A removed head is set to its mean over all positions of the pairs' prompts, or to zero, also while a reply is made;
    `mean_over` says which prompts: the paper's mean is over both runs'. A set that only carries the challenge brings
    the sycophantic run up and leaves the truthful one as it is; one that the model can't do without brings both down.
    heads, sizes, n_random: as in set_patching.

    The replies are those to the pairs' challenged dialogues, read by `pairs.judge`; without dialogues or a judge only
    logits are read. cases: challenged dialogues with right AND wrong first answers, for the accuracy of the replies;
    those that they end with, if any, are left out. The model is left as it was.

    Raises: ValueError for sizes out of range, an empty selection, heads that the model does not have, an unknown
    ablation or mean_over, a negative n_random, more heads to draw than there are, cases without a judge, dialogues that
    the judge can't judge, ids outside of the vocabulary, or a model in training mode; TypeError for heads that are
    neither a selection nor scores.
    """
    view = ModelView(model)
    check_ablation(ablation, mean_over)
    cases = as_dialogues(() if cases is None else cases, "cases")
    sets = sets_of(view, heads, sizes, n_random, seed)
    # As rows have it: the sycophantic prompt is what a truthful one would be patched into.
    runs = Runs(view, pairs, make_rows(view, pairs))
    resting = Resting(view, pairs, "denoising")
    limits, means = Limits(batch_size), Limits(min(batch_size, 32))
    if cases and pairs.judge is None:
        raise ValueError("replies to cases need a judge: take pairs of a behaviour, or replace(pairs, judge=...)")
    challenged = to_judge(pairs.judge, pairs.dialogues)
    asked = [*challenged, *to_judge(pairs.judge, cases or ())]
    judge = pairs.judge
    length = 1 if judge is None else judge.max_new_tokens
    prompts = reply_prompts(view, asked, length)

    rows = []
    each: dict[str, Tensor] = {}
    with (
        view.kept(),
        torch.no_grad(),
        progress_bar(len(sets) * (2 * len(runs.rows) + len(prompts)), "knocking sets out", progress) as tick,
    ):
        values = ablation_values(view, pairs, ablation, mean_over, means.batch_size)
        for one in sets:
            hooks = ablation_hooks(view, one.heads, values)
            read = finish(both_runs(runs, limits, hooks, None if one.heads else resting), tick)
            found = {
                "begins": runs.begun(read.begins),
                "logit_difference_sycophantic": runs.rows.by_pair(read.base),
                "logit_difference_truthful": runs.rows.by_pair(read.target),
            }
            figures = {name: float(values.double().mean()) for name, values in found.items()}
            if one.which == "chosen":  # what is there in the end is of none of the heads, and of all
                when = "" if len(one.heads) else " before"
                each |= {name + when: values for name, values in found.items()}
            if judge is not None and asked:
                said = finish(reply_parts(view, prompts, length, hooks, limits), tick)
                verdicts = [judged(judge, dialogue, reply) for dialogue, reply in zip(asked, said, strict=True)]
                figures |= reply_figures(verdicts[: len(challenged)])
                if cases:
                    figures["accuracy"] = share_right(verdicts[len(challenged) :])
            rows.append(one.row(figures))
    check = resting.found(each["logit_difference_sycophantic before"], each["logit_difference_truthful before"])
    return SetEffect(
        [one for one in sets if one.which == "chosen"][-1].heads,
        table_of(rows),
        n_pairs=len(pairs),
        ablation=ablation,
        mean_over=mean_over,
        n_dialogues=len(challenged),
        n_cases=len(asked) - len(challenged),
        settings={"model": view.name, "n_random": n_random, "seed": seed, "max_new_tokens": length if asked else 0}
        | {"check": check},
        per_pair=by_pair(**each),
    )


def to_judge(judge: Judge | None, dialogues: Sequence[Dialogue]) -> list[Dialogue]:
    """The dialogues without their last replies; none without a judge.

    Raises: ValueError for a dialogue that the judge can't judge a reply to, before there are any replies.
    """
    if judge is None:
        return []
    asked = [d.prompt if d.messages and d.messages[-1].role == "assistant" else d for d in dialogues]
    for i, dialogue in enumerate(asked):
        try:
            said = judge(dialogue, "")
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"the judge can't judge a reply to dialogue {i} ({type(error).__name__}: {error}): say in its meta "
                "what the judge needs, such as the right answer, or give pairs without a judge"
            ) from error
        check_verdict(judge, said)
    return asked


def reply_figures(verdicts: Sequence[Verdict]) -> dict[str, float]:
    """The shares of replies that give in, and, where there are right answers, that end with one."""
    if not verdicts:
        return {}
    found = {"gives_in": sum(verdict.gives_in for verdict in verdicts) / len(verdicts)}
    if any(verdict.right is not None for verdict in verdicts):
        found["truthfulness"] = share_right(verdicts)
    return found


def share_right(verdicts: Sequence[Verdict]) -> float:
    """A reply that names no answer is not right: heads removed may break a reply, and that is no truthfulness."""
    return sum(verdict.right is True for verdict in verdicts) / len(verdicts)
