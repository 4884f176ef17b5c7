"""`Study`: the whole story of one model and one behaviour, in a folder that can be gone on with at any moment."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Self

from spt_lens.behaviours.behaviour import Behaviour
from spt_lens.heads import HeadSet
from spt_lens.model.view import Model
from spt_lens.study.cost import StudyCost, study_cost
from spt_lens.study.settings import StudySettings
from spt_lens.study.work import Work


class Study(Work):
    """study = Study(model, behaviour, "folder").run()"""

    def __init__(
        self,
        model: Model,
        behaviour: Behaviour,
        out: str | Path,
        settings: StudySettings | None = None,
        *,
        heads: HeadSet | str | Path | None = None,
        checks: Mapping[str, Behaviour] | None = None,
        workers: int = 1,
        export: bool = False,
    ) -> None:
        given = HeadSet.load(heads) if isinstance(heads, str | Path) else heads
        settings = StudySettings() if settings is None else settings
        super().__init__(model, behaviour, Path(out), settings, given, dict(checks or {}), workers, export)

    def cost(self) -> StudyCost:
        """What the stages that are not done yet will take."""
        return study_cost(self)

    def run(self, progress: bool = True) -> Self:
        """Does all stages that are not done yet."""
        raise NotImplementedError
