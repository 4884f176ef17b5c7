"""A study's folder and all that was found for it so far: what its stages, its report and its cost have in common."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from spt_lens.behaviours.asking import Answers
from spt_lens.behaviours.behaviour import Behaviour
from spt_lens.data.pairs import ContrastPairs
from spt_lens.data.wording import Wording
from spt_lens.evaluate.comparison import Comparison
from spt_lens.heads import HeadSet
from spt_lens.measure.set_effect import SetEffect
from spt_lens.model.view import Model
from spt_lens.scores.head_scores import HeadScores
from spt_lens.study.settings import StudySettings
from spt_lens.tune.adapter import Adapter

# The stages in their order, and the file (or folder) whose presence says that one is done.
FILES = {
    "ask": "answers.json",
    "pairs": "pairs.json",
    "scores": "scores.safetensors",
    "null": "null.safetensors",
    "heads": "heads.json",
    "patching": "patching.json",
    "knockout": "knockout.json",
    "trials": "comparison.json",
    "adapter": "adapter",
    "export": "export",
    "report": "report.html",
}
RUNS = "runs.jsonl"  # each trial, as it ends
SECONDS = "seconds.json"  # what each stage took
CHOSEN = "chosen heads"  # the method whose tuning is kept


@dataclass(eq=False, repr=False)
class Work:
    """What a study is of, and what its stages have found; None until they have.

    given: heads that were chosen elsewhere. checks: external behaviours by name. export: whether the tuned model is
    written too.

    asked, asked_checks: the behaviours over the model's own answers; of those that can't be asked, themselves. answers:
    the model's own. wording: the words that were found, None for the behaviour's own. pairs: as they are read. scores,
    null: of every head; no null where a ranking has none. heads: the chosen ones. patching, knockout: what they do
    together, beside random sets. comparison: every trial. adapter: of the chosen heads at their chosen rate, with the
    first seed. exported: the folder of the tuned model. report: the page's path. seconds: what each stage took.
    """

    model: Model
    behaviour: Behaviour
    out: Path
    settings: StudySettings
    given: HeadSet | None = None
    checks: Mapping[str, Behaviour] = field(default_factory=dict)
    workers: int = 1
    export: bool = False

    asked: Behaviour | None = None
    asked_checks: dict[str, Behaviour] = field(default_factory=dict)
    answers: Answers | None = None
    wording: Wording | None = None
    pairs: ContrastPairs | None = None
    scores: HeadScores | None = None
    null: HeadScores | None = None
    heads: HeadSet | None = None
    patching: SetEffect | None = None
    knockout: SetEffect | None = None
    comparison: Comparison | None = None
    adapter: Adapter | None = None
    exported: Path | None = None
    report: Path | None = None
    seconds: dict[str, float] = field(default_factory=dict)

    def path(self, stage: str) -> Path:
        """The file or folder of a stage."""
        return self.out / FILES[stage]
