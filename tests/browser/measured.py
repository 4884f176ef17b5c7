"""Figures that tests measure, printed at the end of the run. They depend on the machine: none decides a test."""

from __future__ import annotations

LINES: list[str] = []
