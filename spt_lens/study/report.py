"""The one offline page of a study."""

from __future__ import annotations

from pathlib import Path

from spt_lens.study.work import Work


def write_study_report(work: Work) -> Path:
    """Writes `report.html` of a finished study and returns its path. Raises OSError if it can't be written."""
    raise NotImplementedError
