"""What was found of the words that tell two runs apart: ways to read replies, with the figures that speak for them."""

from __future__ import annotations

import html
from dataclasses import dataclass, field
from typing import Any, Literal

import pandas as pd
import torch

from spt_lens.chat.dialogues import Dialogue
from spt_lens.chat.words import Words
from spt_lens.data.answers import TokenLists
from spt_lens.statistics import Estimate
from spt_lens.view.tables import table_html

Kind = Literal["answer sets", "shared beginning", "whole replies"]
Pairs = Any  # ContrastPairs, which imports this
NONE = "no words tell the two runs apart: there is no honest second turn to patch from."
ONLY_THERE = "what tells the two runs apart where it was found does not in the other pairs: ask more of them (n=)."
FEW = 8  # pairs that words were tried on: with fewer, an interval is too narrow
SIDES = {
    "judge": "{answer} are words of replies that do it, as the judge reads them",
    "run": "{answer} are words that the {run} says more, whatever the replies come to",
}
LEFT = (
    "What is left: pairs of another contrast, the first turn as the source, or heads ranked by "
    "objective_gradient(model, dialogues)"
)


@dataclass(frozen=True)
class Figures:
    """What a wording comes to on some pairs; runs are (sycophantic, truthful).

    mass: the probability of its words in either run, with the beginning before them; of whole replies the mean
    probability of a token of the likelier one. begins: that of the beginning alone. gap: between the runs, in logits
    (of whole replies, nats). tells: the share of pairs with a gap above 0.
    """

    mass: tuple[float, float]
    begins: tuple[float, float]
    gap: Estimate
    tells: float


@dataclass(frozen=True, eq=False)
class Wording:
    """One way to read replies: by sets of words, (truthful, sycophantic), after a beginning or none, or as a whole.

    found: its figures on the pairs in whose replies it was found. held: on the others; these are to be believed, but
    for whole replies, which are each pair's own: their gap is above 0 by construction.
    """

    kind: Kind
    texts: tuple[str, str, str]  # the beginning, truthful words, sycophantic words
    found: Figures
    held: Figures
    beginning: tuple[int, ...] = ()
    sets: TokenLists = ((), ())
    replies: dict[tuple[tuple[int, ...], tuple[int, ...]], tuple[tuple[int, ...], TokenLists]] = field(
        default_factory=dict
    )  # of whole replies: prompts -> what both replies begin with, and their rests

    def fields(self, pairs: Pairs) -> dict[str, Any]:
        """The fields of ContrastPairs that are read so. Raises ValueError for whole replies to none of the pairs."""
        rows = list(zip(pairs.sycophantic, pairs.truthful, strict=True))
        if self.kind == "whole replies":
            kept = [i for i, row in enumerate(rows) if row in self.replies]
            if not kept:
                raise ValueError("none of these pairs was asked: find_words on these pairs, or read them by sets")
            found = [self.replies[rows[i]] for i in kept]
        else:
            kept, found = list(range(len(rows))), [(self.beginning, self.sets)] * len(rows)
        made: dict[str, Any] = {
            name: tuple(getattr(pairs, name)[i] for i in kept) if getattr(pairs, name) else ()
            for name in ("dialogues", "truthful_dialogues")
        }
        runs = zip(
            *[[(*prompt, *shared) for prompt in rows[i]] for i, (shared, _) in zip(kept, found, strict=True)],
            strict=True,
        )
        made["sycophantic"], made["truthful"] = map(tuple, runs)
        made["answer_ids"] = torch.tensor([[both[0][0], both[1][0]] for _, both in found])
        sets = tuple(both for _, both in found)
        made["answer_sets"], made["completion_ids"] = ((), sets) if self.kind == "whole replies" else (sets, ())
        if pairs.alignment:
            made["alignment"] = tuple(
                (*pairs.alignment[i], *((len(rows[i][0]) + j, len(rows[i][1]) + j) for j in range(len(shared))))
                for i, (shared, _) in zip(kept, found, strict=True)
            )
        return made


@dataclass(frozen=True, eq=False, repr=False)
class FoundWords:
    """What find_words found. In Jupyter: a table.

    wordings: the ways to read replies, with their figures. words: a row for each word and the beginning before it, with
    its mean probability in either run, the replies that begin so (of either run, and the share that gives in), and its
    side; of the pairs that words were found on. replies: (dialogue or None, sycophantic reply, truthful reply), pair by
    pair. by: what decides which words are sycophantic, "judge" or "run". called: what runs and answers are called.
    """

    wordings: tuple[Wording, ...]
    words: pd.DataFrame
    replies: tuple[tuple[Dialogue | None, str, str], ...]
    by: str
    model_name: str
    called: Words = Words()

    @property
    def best(self) -> Wording | None:
        """Of the sets whose gap was above 0 where they were found, by its 95 % interval, the one of highest mass in
        the run that gives it less; if the other pairs don't bear it out, None. Whole replies are yours to choose."""
        telling = [each for each in self.wordings if each.kind != "whole replies" and each.found.gap.low > 0]
        first = max(telling, key=lambda each: min(each.found.mass), default=None)
        return first if first is not None and first.held.gap.low > 0 else None

    @property
    def table(self) -> pd.DataFrame:
        """A row for each wording, with the figures of the pairs that it was not found on; `best` marks the best."""
        rows = []
        for each in self.wordings:
            held, w = each.held, self.called
            row: dict[str, Any] = {"read": each.kind, "beginning": each.texts[0]}
            row |= {f"{w.other_answer} words": each.texts[1], f"{w.answer} words": each.texts[2]}
            row |= {f"mass, {run}": value for run, value in zip(w.runs, held.mass, strict=True)}
            row |= {"gap": held.gap.value, "low": held.gap.low, "high": held.gap.high, "tells": held.tells}
            rows.append(row | {"n": held.gap.n, "best": each is self.best})
        return pd.DataFrame(rows)

    def to_json(self) -> dict[str, Any]:
        """All but the replies, as JSON holds it."""
        tables = {"wordings": self.table, "words": self.words}
        rows = {
            name: [{k: None if v != v else v for k, v in row.items()} for row in table.to_dict("records")]
            for name, table in tables.items()
        }
        about = {"by": self.by, "model_name": self.model_name, "n_pairs": len(self.replies), "says": self._says()}
        return {**about, **rows}

    def _says(self) -> str:
        best = self.best
        if best is None:
            some = any(each.found.gap.low > 0 for each in self.wordings if each.kind != "whole replies")
            return f"{ONLY_THERE} {LEFT}" if some else f"{NONE} {LEFT}"
        begins = f" after {best.texts[0]!r}" if best.beginning else ""
        low, gap = min(best.held.mass), best.held.gap
        by = SIDES[self.by].format(**vars(self.called))
        few = f". {gap.n} pairs tell little: ask 20 or more (n=)" if gap.n < FEW else ""
        return (
            f"{best.texts[1]} against {best.texts[2]}{begins}: at least {low:.0%} of the probability, gap {gap}, there "
            f"in {best.held.tells:.0%} of the pairs that it was not found on ({by}){few}"
        )

    def __repr__(self) -> str:
        return f"FoundWords({self.model_name}, {len(self.replies)} pairs, sides by {self.by}: {self._says()})"

    def _repr_html_(self) -> str:
        shown = self.table
        if len(shown):
            shown["best"] = ["best" * bool(best) for best in shown["best"]]
        table = table_html(shown, ".3f")
        said = "".join(
            f"<tr><td>{html.escape(one)}</td><td>{html.escape(other)}</td></tr>" for _, one, other in self.replies[:3]
        )
        one, other = map(html.escape, self.called.runs)
        heads = f"<tr><th>a reply of the {one}</th><th>of the {other}</th></tr>"
        return f"<p>{html.escape(self._says())}</p>{table}<table>{heads}{said}</table>"
