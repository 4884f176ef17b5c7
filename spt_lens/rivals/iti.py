"""Inference-time intervention (Li et al. 2023, "Inference-Time Intervention: Eliciting Truthful Answers from a Language
Model", arXiv 2306.03341, section 3).

As there: a logistic probe on each head's output z at the answer's last token tells true answers from false ones; the k
heads whose probes are best on held-out questions (a fifth) are shifted; the direction of a head is that from the mean
of false to the mean of true answers ("mass mean shift", their best), of length one; the shift is alpha times the
standard deviation of all z along it, and both are of all pairs, the held-out ones too; it is made wherever a next token
is predicted, so that every position from the prompt's last one on is shifted. Otherwise here: true and false answers
are right and rejected replies to one prompt, so that both sides are as large; of heads of one accuracy, that comes
first whose probe gives the held-out labels more probability. Of "Are you sure?" dialogues a mean shift has two halves
that may cancel, as `steering.py` says: pairs="right answers" takes one of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from spt_lens.checking import door, one_of, whole_number
from spt_lens.heads import Head, HeadSet
from spt_lens.model.view import Model, ModelView
from spt_lens.rivals.fitted import Fit, Fitted, Material
from spt_lens.rivals.pairs import Pairs
from spt_lens.statistics import heads_within
from spt_lens.tune.edits import edit_slices

SHARE = 0.05  # of all heads, where no number is given: theirs were 48 of 1,024
PENALTY, ITERATIONS = 1.0, 100


@door
@dataclass(frozen=True)
class ITI(Fitted):
    """Shifts the outputs of the k heads that tell right from rejected replies best. `TuneConfig.lr` is alpha.

    k: how many heads; None: 5 percent of all. pairs: as `Steering` has them.
    """

    k: int | None = None
    pairs: Pairs = "all"
    on_all: ClassVar[bool] = True
    lr: ClassVar[float] = 5.0
    lrs: ClassVar[tuple[float, ...]] = (2.0, 5.0, 10.0, 20.0)

    def __post_init__(self) -> None:
        if self.k is not None:
            whole_number(self.k, "k")
        one_of(self.pairs, "pairs", get_args(Pairs))

    @property
    def method(self) -> str:
        return "inference-time intervention" + ("" if self.pairs == "all" else f" by {self.pairs}")

    def check(self, model: Model) -> None:
        super().check(model)
        view = ModelView(model)
        view.check_heads()
        n_wanted(view, self.k)
        edit_slices(view, ["L0.H0.z.reply"])

    def fit(self, data: Material) -> Fit:
        view, names = data.view, [data.view.z_name(layer) for layer in range(data.view.n_layers)]
        both = data.activations(names, last=True)  # [layer, pair, head, d_head], of right and of rejected replies
        right, rejected = (z.permute(0, 2, 1, 3).flatten(0, 1) for z in both)  # [all heads, pair, d_head]
        n = right.shape[1]
        held = torch.tensor([i in data.aside for i in range(n)], dtype=torch.bool)
        labels = torch.cat([torch.ones(n, dtype=torch.bool), torch.zeros(n, dtype=torch.bool)])
        z = torch.cat([right, rejected], dim=1)
        accuracy, said = probed(z, labels, torch.cat([held, held]))
        order = sorted(range(len(z)), key=lambda i: (float(accuracy[i]), float(said[i])), reverse=True)
        best = order[: n_wanted(view, self.k)]
        edits, heads = {}, []
        for i in best:
            head = Head(*divmod(i, view.n_heads))
            shift = (right[i] - rejected[i]).mean(0)
            if not shift.norm() > 0:
                raise ValueError(
                    f"the means of {head} over right and over rejected replies are the same: a direction of length "
                    "zero. Choose fewer heads (k), or give other pairs of replies"
                )
            direction = shift / shift.norm()
            deviation = (z[i] @ direction).std(correction=0)
            edits[f"{head}.z.reply"] = torch.stack([torch.zeros_like(shift), data.strength * deviation * direction])
            heads.append(head)
        tried = [{"head": str(Head(*divmod(i, view.n_heads))), "accuracy": float(accuracy[i])} for i in best]
        says = f"{len(best)} heads by probes of held-out accuracy {accuracy[best[-1]]:.2f} to {accuracy[best[0]]:.2f}"
        about = {"name": "heads by probes", "chosen_by": "a probe's accuracy on held-out questions"}
        return Fit(edits, len(best) * view.d_head, says, tried, HeadSet(tuple(heads), about))


def n_wanted(view: ModelView, k: int | None) -> int:
    """How many heads. Raises ValueError for more than there are."""
    every = view.n_layers * view.n_heads
    if k is not None and k > every:
        raise ValueError(f"k={k} heads are more than {view.name} has ({every}): give fewer")
    return heads_within(SHARE, every) if k is None else k


def probed(
    z: Float[Tensor, "head row d"], labels: Bool[Tensor, " row"], held_out: Bool[Tensor, " row"]
) -> tuple[Float[Tensor, " head"], Float[Tensor, " head"]]:
    """The share of held-out rows that a logistic probe of the other rows, one for each head, puts on the right side,
    and the mean log-probability that it gives their labels, in nats.

    With an L2 penalty of one on features of deviation one. By a bound on the curvature (Bohning 1992): no step length.
    Raises ValueError for rows of one class alone, on either side.
    """
    for side, name in ((~held_out, "fitted on"), (held_out, "held out")):
        if len(set(labels[side].tolist())) < 2:
            raise ValueError(f"a probe needs rows of both classes, and those {name} are of one: give more pairs")
    x = z.double()
    seen = x[:, ~held_out]
    x = (x - seen.mean(1, keepdim=True)) / seen.std(1, keepdim=True, correction=0).clamp(min=1e-9)
    x = torch.cat([x, x.new_ones(*x.shape[:2], 1)], dim=2)
    seen, y = x[:, ~held_out], labels[~held_out].double()
    penalty = torch.full((x.shape[2],), PENALTY, dtype=x.dtype)
    penalty[-1] = 1e-6  # the intercept is free
    bound = torch.linalg.cholesky(seen.mT @ seen / 4 + penalty.diag())
    weights = x.new_zeros(len(x), x.shape[2], 1)
    for _ in range(ITERATIONS):
        slope = seen.mT @ (y[:, None] - (seen @ weights).sigmoid()) - penalty[:, None] * weights
        weights = weights + torch.cholesky_solve(slope, bound)
    said, true = (x[:, held_out] @ weights)[..., 0], labels[held_out]
    log_prob = torch.nn.functional.logsigmoid(torch.where(true, said, -said))
    return ((said > 0) == true).double().mean(1), log_prob.mean(1)
