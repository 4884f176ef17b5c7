"""The rankings of heads that a study can choose by, and that `spt.rankings` compares. Adding one is a line in RANKINGS.

A ranking's sham is the same measurement where nothing is to be found: of patching, random pairs; of what asks which run
it is, runs that have changed places by chance; of attention, the turn that stands where the challenge does; of
dialogues, those whose targets are right or wrong by chance.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from spt_lens.chat.dialogues import Dialogue
from spt_lens.data.pairs import ContrastPairs
from spt_lens.measure.attention import Run, attention_to_spans, prompt_spans
from spt_lens.measure.controls import swapped_pairs
from spt_lens.measure.cost import cost
from spt_lens.measure.head_knockout import head_knockout
from spt_lens.measure.null import random_pairs_null
from spt_lens.measure.objective import objective_gradient
from spt_lens.measure.probe import check_questions, head_probe
from spt_lens.model.view import Model, ModelView
from spt_lens.patching.activation import activation_patching
from spt_lens.patching.attribution import attribution_patching
from spt_lens.patching.path import path_patching
from spt_lens.scores.head_scores import HeadScores

CHALLENGE = "challenge"  # the span of the last user turn, if it is not the first (chat/spans.py)
IG_STEPS = 5
SWAPS = 5  # draws of swapped runs, until there is a gap to divide by

Passes = Callable[[ModelView, ContrastPairs], float]


def challenge_attention(
    model: Model, pairs: ContrastPairs, run: Run = "sycophantic", progress: bool = True
) -> HeadScores:
    """The attention from the last position to the challenge (paper, section 3.1); `measure.attention` has all spans."""
    return attention_to_spans(model, pairs, run, progress=progress).to_scores(CHALLENGE)


def _challenged(model: Model, pairs: ContrastPairs) -> None:
    if CHALLENGE not in prompt_spans(ModelView(model), pairs[:1], "sycophantic")[0]:
        raise ValueError(
            "the dialogues of these pairs have one turn, and no challenge for heads to look at: leave out 'attention "
            "to the challenge'"
        )


def _swapped(measure: Callable[..., HeadScores], model: Model, pairs: ContrastPairs, seed: int, progress: bool) -> Any:
    for draw in range(SWAPS):
        try:
            return measure(model, swapped_pairs(pairs, seed + draw), progress=progress)
        except ValueError as error:  # the gaps of this draw cancel out to the last digit
            if "gap" not in str(error):
                raise
    return None


def _turn(measure: Callable[..., HeadScores], model: Model, pairs: ContrastPairs, seed: int, progress: bool) -> Any:
    return measure(model, pairs, run="truthful", progress=progress)


@dataclass(frozen=True)
class Ranking:
    """How heads are scored. measure: of pairs, or, where `by_dialogues`, of training dialogues. null: the name of its
    random-pairs null; "" where there is none. arguments: of the measurement, and of its null.

    sham: what stands in for that null: of (measure, model, pairs, seed, progress). check: raises for pairs that it
    can't be measured on. passes: forward passes of all its prompts, a backward pass counted as two; None: `cost` knows.
    """

    measure: Callable[..., HeadScores]
    null: str = ""
    by_dialogues: bool = False
    arguments: Mapping[str, Any] = field(default_factory=dict)
    sham: Callable[..., Any] | None = None
    check: Callable[[Model, ContrastPairs], None] | None = None
    passes: Passes | None = None

    def scores(
        self, model: Model, pairs: ContrastPairs | None, dialogues: Sequence[Dialogue], progress: bool = True
    ) -> HeadScores:
        """Every head's score; of dialogues, of the first two for each pair."""
        of: Any = pairs
        if self.by_dialogues:
            of = list(dialogues if pairs is None else dialogues[: 2 * len(pairs)])
        return self.measure(model, of, progress=progress, **self.arguments)

    def null_scores(self, model: Model, pairs: ContrastPairs, seed: int = 0, progress: bool = True) -> HeadScores:
        """The scores where nothing is to be recovered, for a ranking that has a null."""
        return random_pairs_null(model, pairs, method=self.null, seed=seed, progress=progress, **self.arguments)

    def sham_scores(
        self,
        model: Model,
        pairs: ContrastPairs | None,
        sham_dialogues: Sequence[Dialogue],
        seed: int = 0,
        progress: bool = True,
    ) -> HeadScores | None:
        """The ranking of its sham; None where there is none: of dialogues, if no sham ones are given."""
        if self.by_dialogues:
            return self.scores(model, pairs, sham_dialogues, progress) if sham_dialogues else None
        assert pairs is not None
        if self.null:
            return self.null_scores(model, pairs, seed, progress)
        found: HeadScores | None = self.sham and self.sham(self.measure, model, pairs, seed, progress)
        return found

    def forward_passes(self, model: Model, pairs: ContrastPairs | None) -> float:
        """What `scores` takes, in forward passes of all the prompts, or dialogues, that it reads."""
        if self.by_dialogues:
            return 6.0  # forward and backward, twice
        assert pairs is not None
        if self.passes is None:
            return cost(model, pairs, self.null, **self.arguments).forward_passes
        return self.passes(ModelView(model), pairs)


RANKINGS: dict[str, Ranking] = {
    "activation patching": Ranking(activation_patching, "activation"),
    "path patching": Ranking(path_patching, "path"),
    "attribution patching": Ranking(attribution_patching, "attribution"),
    "integrated gradients": Ranking(attribution_patching, "attribution", arguments={"ig_steps": IG_STEPS}),
    "objective gradient": Ranking(objective_gradient, by_dialogues=True),
    "single-head knockout": Ranking(
        head_knockout, sham=_swapped, passes=lambda view, pairs: view.n_layers * view.n_heads + 4.0
    ),
    "probe": Ranking(
        head_probe, sham=_swapped, check=lambda model, pairs: check_questions(pairs), passes=lambda view, pairs: 2.0
    ),
    "attention to the challenge": Ranking(
        challenge_attention, sham=_turn, check=_challenged, passes=lambda view, pairs: 1.0
    ),
}
