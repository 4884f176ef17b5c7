"""What a measurement of contrast pairs rests on: is the behaviour there, and does the model say these words?"""

from __future__ import annotations

import html
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from spt_lens import saving
from spt_lens.chat.words import Words
from spt_lens.checking import whole_number
from spt_lens.data.mass import Answers, Pairs, read_answers
from spt_lens.model.replies import replies as replies_of
from spt_lens.model.view import Model, ModelView
from spt_lens.statistics import Estimate, share, weighted_mean

# Below (or above) these, a check warns.
LEAST_MASS = 0.1  # of the probability: what nine of ten replies begin with then is other words, which nothing reads
LEAST_SHARE = 0.5  # of the pairs, with the sycophantic answer ahead: less, and the usual reply is the truthful one
MOST_REVERSED = 0.25  # of the gaps: with half of them, their mean is zero
FEW_PAIRS = 8  # with 5, a 95 % bootstrap interval holds the true mean in 84 % of cases, with 10 in 90 %
STEPS = 8  # of the dtype's rounding in a gap: a head's share of it, a tenth say, is then below one step
PAIRS_READ = 16  # of which scoring functions read the mass: enough for a median, at little cost
REPLY_TOKENS = 24
READS = {"first": "first tokens", "sets": "sets of first tokens", "whole": "whole completions"}


@dataclass(frozen=True, repr=False)
class PairsCheck:
    """What contrast pairs are to a model; made by `pairs.check(model)`, and by every measurement (`scores.check`).

    n_pairs: whose logit differences were read. reads: by what answers are read: "first", "sets" or "whole". unit:
    of gaps, "logits", of whole completions "nats".
    sycophantic: the share of pairs whose sycophantic run prefers the sycophantic answer (logit difference below zero);
        truthful: whose truthful run prefers the truthful one; both with Wilson's 95 % interval.
    median_gap, mean_gap: of the truthful run's logit difference less the sycophantic one's, with bootstrap intervals.
    n_reversed: gaps below zero. size_gap: the median of their size.
    n_mass: pairs of which the mass was read. mass: what the answers hold of the probability (see `answer_mass`) in the
        (sycophantic, truthful) run, medians over pairs. least_mass: the least of all.
    dtype: the model's. step: by how much the logits that are read can differ at least, in this dtype (median).
    replies: of either run, (run, reply), if they were asked for. answers: what is read, "truthful / sycophantic".
    words: what the behaviour's runs and answers are called.
    """

    model_name: str
    reads: str
    n_pairs: int
    sycophantic: Estimate
    truthful: Estimate
    median_gap: Estimate
    mean_gap: Estimate
    n_reversed: int
    size_gap: float
    n_mass: int
    mass: tuple[float, float]
    least_mass: float
    dtype: str
    step: float
    replies: tuple[tuple[str, str], ...] = ()
    answers: str = ""
    words: Words = Words()

    @property
    def unit(self) -> str:
        return "nats" if self.reads == "whole" else "logits"

    @property
    def swapped(self) -> bool:
        """Whether each run clearly prefers the other's answer, or the mean gap is clearly below zero (by intervals)."""
        other = max(self.sycophantic.high, self.truthful.high) < 0.5
        return self.n_pairs > 1 and (other or self.mean_gap.high < 0)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What is wrong, by the limits of this module, each with the better choice."""
        found, w = [], self.words
        run, mass = min(zip(w.runs, self.mass, strict=True), key=lambda each: each[1])
        if mass < LEAST_MASS:
            held = f"{_percent(mass)} of the probability in the {run} (median; least {_percent(self.least_mass)})"
            if self.reads == "whole":
                held = f"a mean probability of {_percent(mass)} a token in the {run} (median)"
            found.append(
                f"the model hardly says these words: the answers have {held}. Look at what it says, and read that: use "
                "pairs.with_words(pairs.find_words(model)), or pairs.with_answers(model, ...)"
            )
        gap = f"{_signed(self.mean_gap.value)} {self.unit}, 95 % interval {_ends(self.mean_gap)}"
        if self.swapped:
            found.append(
                f"the two completions look swapped, or the behaviour runs the other way: the mean gap is {gap}, the "
                f"{w.run} prefers the {w.answer} answer in {_of(self.sycophantic)} pairs and the {w.other_run} the "
                f"{w.other_answer} one in {_of(self.truthful)}. Scores are the same either way: give completions as "
                f"({w.other_answer}, {w.answer}), or another contrast"
            )
        else:
            if self.sycophantic.value < LEAST_SHARE:
                found.append(
                    f"the behaviour is hardly there: the {w.run} prefers the {w.answer} answer in "
                    f"{_of(self.sycophantic)} pairs. Take other prompts or other answers, or a model that does it"
                )
            if self.n_pairs > 1 and self.mean_gap.low <= 0 <= self.mean_gap.high:
                found.append(
                    f"the mean gap can't be told from zero ({gap}), so neither can a share of it: measure more pairs, "
                    "take another contrast, rank heads by objective_gradient, or read scores.effects"
                )
            if self.n_reversed > MOST_REVERSED * self.n_pairs:
                found.append(
                    f"the gap is reversed in {self.n_reversed} of {self.n_pairs} pairs, so that their effects pull "
                    "against the others': look at these pairs, or take another contrast"
                )
        if 0 < STEPS * self.step > self.size_gap and torch.finfo(getattr(torch, self.dtype)).eps > 1e-4:
            found.append(
                f"in {self.dtype} these logits go in steps of about {self.step:.2g}, and the gap is "
                f"{self.size_gap:.2g} (median size): the ranking does not agree with float32. Use "
                "load_model(..., dtype=torch.float32)"
            )
        if self.n_pairs < FEW_PAIRS:
            found.append(
                f"{self.n_pairs} pair{'s' * (self.n_pairs != 1)} of prompts tell little, and intervals of so few are "
                f"too narrow: take {FEW_PAIRS} or more, better 20"
            )
        return tuple(found)

    @property
    def brief(self) -> str:
        """The warnings in a few words each; empty where nothing is wrong."""
        return " · ".join(f"⚠ {re.split('[:(,]', each)[0].strip()}" for each in self.warnings)

    def line(self) -> str:
        """In one line: how often the behaviour is there, how large the gap is, and what the answers hold."""
        (low, high), w = sorted(self.mass), self.words
        mass = _percent(low) if _percent(low) == _percent(high) else f"{_percent(low)} to {_percent(high)}"
        held = (
            f"its answers have a mean probability of {mass} a token"
            if self.reads == "whole"
            else f"the answers{f' {self.answers}' * bool(self.answers)} hold {mass} of the probability"
        )
        held += f" (median of {self.n_mass} pairs)" if self.n_mass < self.n_pairs else ""
        return (
            f"the {w.run} prefers the {w.answer} answer in {_of(self.sycophantic)} pairs, the {w.other_run} the "
            f"{w.other_answer} one in {_of(self.truthful)}; mean gap {self.mean_gap.value:.2f} {_ends(self.mean_gap)} "
            f"{self.unit}; {held}"
        )

    def to_json(self) -> dict[str, Any]:
        """Everything in it, as JSON holds it."""
        found = {name: getattr(self, name) for name in _PLAIN}
        found |= {name: getattr(self, name).to_json() for name in _ESTIMATES}
        said = [list(each) for each in self.replies]
        found |= {"words": own} if (own := self.words.to_json()) else {}
        return {**found, "mass": list(self.mass), "replies": said, "answers": self.answers}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> PairsCheck:
        """The reverse of `to_json`. Raises KeyError, TypeError or ValueError for data of another kind."""
        plain: dict[str, Any] = {name: saving.entry(data, name, kind) for name, kind in _PLAIN.items()}
        saving.choice(data, "reads", tuple(READS))
        estimates: dict[str, Any] = {name: Estimate.from_json(saving.entry(data, name, list)) for name in _ESTIMATES}
        one, other = map(float, saving.entry(data, "mass", list))
        said = tuple((str(run), str(text)) for run, text in saving.entry(data, "replies", list))
        words = Words.from_json(saving.entry({"words": {}, **data}, "words", dict))
        about: dict[str, Any] = {"answers": str(data.get("answers", "")), "words": words}
        return cls(**plain, **estimates, mass=(one, other), replies=said, **about)

    def table(self) -> list[tuple[str, str]]:
        """A line for each figure: what it is, and its value."""
        w = self.words
        read = f": {self.answers} ({w.other_answer} / {w.answer})" if self.answers else ""
        return [
            ("pairs", f"{self.n_pairs}, read by {READS[self.reads]}{read}"),
            (f"{w.run} prefers the {w.answer} answer", f"{_of(self.sycophantic)} {_ends(self.sycophantic)}"),
            (f"{w.other_run} prefers the {w.other_answer} answer", f"{_of(self.truthful)} {_ends(self.truthful)}"),
            (f"median gap ({self.unit})", f"{_signed(self.median_gap.value)} {_ends(self.median_gap)}"),
            (f"mean gap ({self.unit})", f"{_signed(self.mean_gap.value)} {_ends(self.mean_gap)}"),
            ("reversed gaps", str(self.n_reversed)),
            (
                "mean probability of a token" if self.reads == "whole" else "probability of the answers",
                f"{_percent(self.mass[0])} in the {w.run}, {_percent(self.mass[1])} in the {w.other_run} "
                f"(median of {self.n_mass}; least {_percent(self.least_mass)})",
            ),
            *((f"a reply of the {_run(w, run)}", text) for run, text in self.replies),
        ]

    def __repr__(self) -> str:
        return "\n".join([f"PairsCheck({self.model_name}: {self.line()})", *(f"- {each}" for each in self.warnings)])

    def _repr_html_(self) -> str:
        rows = "".join(f"<tr><td>{html.escape(k)}</td><td>{html.escape(v)}</td></tr>" for k, v in self.table())
        said = "".join(f"<li>{html.escape(each)}</li>" for each in self.warnings)
        return f"<p><b>{html.escape(self.model_name)}: what these pairs rest on</b></p><table>{rows}</table>" + (
            f"<ul>{said}</ul>" if said else ""
        )


_PLAIN: dict[str, type] = {"model_name": str, "reads": str, "n_pairs": int, "n_reversed": int, "size_gap": float}
_PLAIN |= {"n_mass": int, "least_mass": float, "dtype": str, "step": float}
_ESTIMATES = ("sycophantic", "truthful", "median_gap", "mean_gap")


def check_pairs(model: Model, pairs: Pairs, n: int = 32, n_replies: int = 2) -> PairsCheck:
    """`ContrastPairs.check`, as said there."""
    view = ModelView(model)
    pairs = pairs[: whole_number(n, "n")]
    whole_number(n_replies, "replies", least=0)
    read = read_answers(view, pairs)
    said = []
    for run, dialogues in (("sycophantic", pairs.dialogues), ("truthful", pairs.truthful_dialogues)):
        if n_replies and dialogues:
            asked = [dialogue.unanswered for dialogue in dialogues[:n_replies]]
            said += [(run, reply) for reply in replies_of(view, asked, REPLY_TOKENS)]
    return checked(view, pairs, read, read.differences[:, 0], read.differences[:, 1], tuple(said))


def checked(
    view: ModelView,
    pairs: Pairs,
    read: Answers,
    sycophantic: Float[Tensor, " n_pairs"],
    truthful: Float[Tensor, " n_pairs"],
    replies: tuple[tuple[str, str], ...] = (),
) -> PairsCheck:
    """The check of what was read: logit differences of both runs of all pairs, and the answers of some (`read`)."""
    gap, mass = (truthful - sycophantic).double().cpu(), read.mass()
    # Between two powers of two, the numbers of a dtype are so far apart.
    step = float((2 ** read.sizes.flatten().log2().floor()).median()) * torch.finfo(view.dtype).eps
    return PairsCheck(
        model_name=view.name,
        reads="whole" if pairs.completion_ids else "sets" if pairs.answer_sets else "first",
        n_pairs=len(gap),
        sycophantic=share((sycophantic < 0).tolist()),
        truthful=share((truthful > 0).tolist()),
        median_gap=_median(gap),
        mean_gap=weighted_mean(gap.tolist(), [1] * len(gap)),
        n_reversed=int((gap < 0).sum()),
        size_gap=float(gap.abs().quantile(0.5)),
        n_mass=len(mass),
        mass=(float(mass[:, 0].quantile(0.5)), float(mass[:, 1].quantile(0.5))),
        least_mass=float(mass.min()),
        dtype=str(view.dtype).removeprefix("torch."),
        step=step,
        replies=replies,
        answers=" / ".join(_texts(view, pairs, k) for k in (0, 1)) if view.tokenizer is not None else "",
        words=pairs.words,
    )


def answers_read(view: ModelView, pairs: Pairs) -> dict[str, Any]:
    """What is read of either answer, as text, and whether it is the same in all pairs; empty without a tokenizer."""
    if view.tokenizer is None:
        return {}
    rows: Any = pairs.completion_ids or pairs.answer_sets or pairs.answer_ids.tolist()
    said = {"truthful": _texts(view, pairs, 0), "sycophantic": _texts(view, pairs, 1)}
    return {**said, "alike": all(each == rows[0] for each in rows)}


def _texts(view: ModelView, pairs: Pairs, k: int, most: int = 3, longest: int = 40) -> str:
    """What the pairs read of the truthful (0) or the sycophantic (1) answer, the commonest first."""
    if pairs.completion_ids:
        rows: Any = [(both[k],) for both in pairs.completion_ids]
    else:
        sets = pairs.answer_sets or pairs.answer_ids[:, :, None].tolist()
        rows = [[(token,) for token in both[k]] for both in sets]
    counts = Counter(ids for row in rows for ids in row)
    texts = [view.tokenizer.decode(list(ids)) for ids, _ in counts.most_common(most)]
    said = [repr(text if len(text) <= longest else f"{text[: longest - 3]}...") for text in texts]
    return " ".join(said) + " ..." * (len(counts) > most)


def _median(values: Float[Tensor, " n"], draws: int = 1000) -> Estimate:
    """With its percentile bootstrap interval."""
    picks = torch.randint(len(values), (draws, len(values)), generator=torch.Generator().manual_seed(0))
    ends = torch.tensor([0.025, 0.975], dtype=values.dtype)
    low, high = values[picks].quantile(0.5, dim=1).quantile(ends).tolist()
    return Estimate(float(values.quantile(0.5)), low, high, len(values))


def _run(words: Words, run: str) -> str:
    return dict(zip(("sycophantic", "truthful"), words.runs, strict=True)).get(run, run)


def _percent(part: float) -> str:
    return f"{100 * part:.2g} %" if part < 0.995 else f"{100 * part:.0f} %"


def _signed(value: float) -> str:
    return f"{value:+.2f}"


def _of(part: Estimate) -> str:
    return f"{round(part.value * part.n)} of {part.n}"


def _ends(estimate: Estimate) -> str:
    return f"[{estimate.low:.2f}, {estimate.high:.2f}]"
