"""The rankings of heads that a study can choose by. Adding one is a line in RANKINGS."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from spt_lens.chat.dialogues import Dialogue
from spt_lens.data.pairs import ContrastPairs
from spt_lens.measure.null import random_pairs_null
from spt_lens.measure.objective import objective_gradient
from spt_lens.model.view import Model
from spt_lens.patching.activation import activation_patching
from spt_lens.patching.attribution import attribution_patching
from spt_lens.patching.path import path_patching
from spt_lens.scores.head_scores import HeadScores


@dataclass(frozen=True)
class Ranking:
    """How heads are scored. measure: of pairs, or, where `by_dialogues`, of training dialogues. null: the name of its
    random-pairs null; "" where there is none."""

    measure: Callable[..., HeadScores]
    null: str = ""
    by_dialogues: bool = False

    def scores(
        self, model: Model, pairs: ContrastPairs, dialogues: Sequence[Dialogue], progress: bool = True
    ) -> HeadScores:
        """Every head's score; of dialogues, of the first two for each pair."""
        of: Any = list(dialogues[: 2 * len(pairs)]) if self.by_dialogues else pairs
        return self.measure(model, of, progress=progress)

    def null_scores(self, model: Model, pairs: ContrastPairs, seed: int = 0, progress: bool = True) -> HeadScores:
        """The scores where nothing is to be recovered, for a ranking that has a null."""
        return random_pairs_null(model, pairs, method=self.null, seed=seed, progress=progress)


RANKINGS: dict[str, Ranking] = {
    "activation patching": Ranking(activation_patching, "activation"),
    "path patching": Ranking(path_patching, "path"),
    "attribution patching": Ranking(attribution_patching, "attribution"),
    "objective gradient": Ranking(objective_gradient, by_dialogues=True),
}
