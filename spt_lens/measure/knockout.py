"""Knockout: does the behaviour go when the heads go? Chen et al. 2024, section 3.2.

Knockout and patching answer different questions. Patching a head in from the truthful run asks whether it carries the
stance; ablating it asks what the rest of the model does without it. A model whose habit is to apologise may keep
apologising when it can't see the stance at all, whichever mean stands in for the head.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, get_args

import pandas as pd
import torch
from tqdm.auto import tqdm

from spt_lens import saving
from spt_lens.behaviours.judging import admits_mistake, final_answer, same_answer
from spt_lens.chat.dialogues import Dialogue
from spt_lens.data.pairs import ContrastPairs
from spt_lens.heads import HeadSet
from spt_lens.measure.ablation import PROMPTS, Ablation, MeanOver, ablation_hooks, ablation_values, check_ablation
from spt_lens.measure.replies import replies
from spt_lens.measure.set_table import RankCurve, check_n_random, curve_table, ranked_heads, runs, steps
from spt_lens.model.view import Model, ModelView
from spt_lens.scores.head_scores import HeadScores

if TYPE_CHECKING:
    import plotly.graph_objects as go


@dataclass(frozen=True, eq=False, repr=False)
class KnockoutCurve(RankCurve):
    """What happens as heads are removed in rank order, and as random heads are.

    table: a row for each number of heads k and draw, with the columns k, order ("ranked" or "random"), draw (0 for
    ranked), apology_rate and truthfulness (over the pairs' challenged dialogues, all with a right first answer) and,
    where cases were given, accuracy (their share with the right final answer). A reply that names no answer counts as
    wrong. settings: what else the curve was made with (model, n_random, seed, max_new_tokens).
    """

    table: pd.DataFrame
    heads: HeadSet
    ablation: Ablation
    mean_over: MeanOver
    n_pairs: int
    n_cases: int
    settings: dict[str, Any] = field(default_factory=dict)

    kind: ClassVar[str] = "knockout curve"

    def summary(self) -> str:
        """One line on what was removed, and how."""
        how = "zero" if self.ablation == "zero" else f"their mean over the {PROMPTS[self.mean_over]} prompts"
        cases = f", {self.n_cases} cases" if self.n_cases else ""
        return (
            f"up to {len(self.heads)} heads set to {how}, at every position; {self.n_pairs} challenged dialogues{cases}"
        )

    def figure(self) -> go.Figure:
        """The curve, with the random heads as a band."""
        from spt_lens.view.curves import knockout_figure

        return knockout_figure(self.table, title=self.summary())

    def to_json(self) -> dict[str, Any]:
        """Everything in it, as JSON holds it."""
        about = {name: getattr(self, name) for name in ("ablation", "mean_over", "n_pairs", "n_cases", "settings")}
        return {**self.heads.to_json(), **about, "table": saving.rows(self.table)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> KnockoutCurve:
        """The reverse of `to_json`. Raises KeyError or ValueError for data of another kind."""
        heads, n_cases = HeadSet.from_json(data), saving.entry(data, "n_cases", int)
        metrics = ("apology_rate", "truthfulness", *(["accuracy"] if n_cases else []))
        return cls(
            curve_table(data, heads, metrics),
            heads,
            saving.choice(data, "ablation", get_args(Ablation)),
            saving.choice(data, "mean_over", get_args(MeanOver)),
            saving.entry(data, "n_pairs", int),
            n_cases,
            saving.entry(data, "settings", dict),
        )


def knockout_curve(
    model: Model,
    pairs: ContrastPairs,
    heads: HeadScores | HeadSet,
    ks: Sequence[int] | None = None,
    ablation: Ablation = "mean",
    mean_over: MeanOver = "both",
    n_random: int = 5,
    seed: int = 0,
    cases: Sequence[Dialogue] | None = None,
    max_new_tokens: int = 24,
    batch_size: int = 64,
    progress: bool = True,
) -> KnockoutCurve:
    """Removes heads in rank order and reads the model's replies to the challenged dialogues.

    heads: scores (ranked by their signed value, highest first) or a selection in its own order. ks: how many to remove
    at each point; default 0, 1, 2, 4, 8 and so on, up to the selection's size or to 16. A removed head is set to its
    mean over all positions of the pairs' prompts, or to zero, at every position, also while the reply is made;
    `mean_over` says which prompts: the paper's mean is over both. cases: challenged dialogues with right AND wrong
    first answers, for the accuracy after the challenge; their replies, if any, are left out. Each of the n_random draws
    at a point has as many heads in each layer as those removed in rank order, and none of them; where a layer has too
    few others, heads of any layer are drawn.

    The model is left as it was.

    Raises: ValueError for pairs without dialogues, an empty selection or heads that do not exist, ks out of range, an
    unknown ablation or mean_over, more heads to draw than there are, or a model in training mode; TypeError for heads
    that are neither scores nor a selection.
    """
    view = ModelView(model)
    check_ablation(ablation, mean_over)
    check_n_random(n_random)
    view.check_measurable()
    pairs.check(view)
    if not pairs.dialogues:
        raise ValueError(
            "these pairs have no dialogues behind them, so their replies can't be judged: use ContrastPairs.of"
        )
    challenged = [to_reply_to(dialogue) for dialogue in pairs.dialogues]
    asked = [to_reply_to(dialogue) for dialogue in cases or ()]
    ranked = ranked_heads(view, heads)
    at = steps(ks, len(ranked), 16 if isinstance(heads, HeadScores) else len(ranked))
    draws = runs(view, ranked, at, n_random, seed)

    rows = []
    with view.kept(), torch.no_grad(), tqdm(total=len(draws), desc="knockout", unit="run", disable=not progress) as bar:
        values = ablation_values(view, pairs, ablation, mean_over)
        for k, order, draw, removed in draws:
            hooks = ablation_hooks(view, removed, values)
            said = replies(view, [*challenged, *asked], max_new_tokens, hooks, batch_size)
            rows.append({"k": k, "order": order, "draw": draw, **judged(challenged, said[: len(challenged)])})
            if asked:
                rows[-1]["accuracy"] = _share_right(asked, said[len(challenged) :])
            bar.update()
    table = pd.DataFrame(rows)
    settings = {"model": view.name, "n_random": n_random, "seed": seed, "max_new_tokens": max_new_tokens}
    return KnockoutCurve(table, ranked[: at[-1]], ablation, mean_over, len(pairs), len(asked), settings)


def to_reply_to(dialogue: Dialogue) -> Dialogue:
    """A dialogue without its last reply. Raises ValueError if it does not say the right answer to judge by."""
    prompt = dialogue.prompt if dialogue.messages and dialogue.messages[-1].role == "assistant" else dialogue
    if "answer" not in prompt.meta:
        raise ValueError("a dialogue has no meta['answer'], so its reply can't be judged: say what the right answer is")
    return prompt


def judged(dialogues: Sequence[Dialogue], said: Sequence[str]) -> dict[str, float]:
    """The shares of replies that apologise, and that give the right answer, as a knockout curve's table names them."""
    apologies = sum(admits_mistake(reply) for reply in said)
    return {"apology_rate": apologies / len(said), "truthfulness": _share_right(dialogues, said)}


def _share_right(dialogues: Sequence[Dialogue], said: Sequence[str]) -> float:
    # A reply that names no answer counts as wrong: heads removed may break a reply, and that is no truthfulness.
    pairs = zip(dialogues, said, strict=True)
    return sum(same_answer(final_answer(reply), str(d.meta["answer"])) for d, reply in pairs) / len(said)
