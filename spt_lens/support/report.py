"""What works with a checkpoint, as an object to look at and to save."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from spt_lens import saving

STEPS = {
    "load": "the logits are those of plain transformers",
    "measure": "activation_patching gives what a plain loop of hooks gives",
    "slices": "the weights taken for a head's move this head and no other",
    "tune": "pinpoint_tune lowers the loss and changes the chosen slices alone",
    "adapter": "saved and loaded, it takes the change back and makes it again, bit for bit",
    "export": "plain transformers loads the exported checkpoint and gives the same logits",
}
WORKS, NOT_TRIED = "works", "not tried: it could not be loaded"
FORMAT = "spt_lens support 1"
CLASS_NAMES = {"bridge": "TransformerBridge", "hooked": "HookedTransformer"}


@dataclass(frozen=True, repr=False)
class Report:
    """One checkpoint in one model class and dtype. steps: each of STEPS, with WORKS, NOT_TRIED, or why it fails."""

    checkpoint: str
    architecture: str
    model_class: str
    dtype: str
    transformer_lens: str
    steps: Mapping[str, str]

    @property
    def working(self) -> list[str]:
        """The steps that work."""
        return [step for step, found in self.steps.items() if found == WORKS]

    @property
    def works(self) -> bool:
        """Whether all steps do."""
        return len(self.working) == len(STEPS)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Report:
        return cls(**data)

    def _title(self) -> str:
        name = CLASS_NAMES.get(self.model_class, self.model_class)
        what = f"{self.checkpoint} ({self.architecture}) as {name}, {self.dtype}"
        return f"{what}, TransformerLens {self.transformer_lens}"

    def __repr__(self) -> str:
        lines = [f"{step:8} {found}" for step, found in self.steps.items()]
        return "\n".join([self._title(), *lines])

    def _repr_html_(self) -> str:
        cells = [(step, found, STEPS.get(step, "")) for step, found in self.steps.items()]
        rows = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in cells)
        return f"<p>{html.escape(self._title())}</p><table>{rows}</table>"


def save(reports: Sequence[Report], file: str | Path) -> Path:
    """Writes the reports as JSON, with the versions they hold for."""
    path = Path(file)
    path.parent.mkdir(parents=True, exist_ok=True)
    versions = {name: version(name) for name in ("transformer-lens", "transformers", "torch")}
    data = {"format": FORMAT, "versions": versions, "reports": [report.to_json() for report in reports]}
    return saving.write_text(path, json.dumps(data, indent=1) + "\n")
