"""What a tuning run did: its history, and the weights before and after."""

from __future__ import annotations

import html
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from spt_lens.heads import HeadSet
from spt_lens.model.view import Model
from spt_lens.tune.adapter import Adapter
from spt_lens.tune.config import TuneConfig

if TYPE_CHECKING:
    import plotly.graph_objects as go


@dataclass(frozen=True, eq=False, repr=False)
class Tuned:
    """What a tuning run did.

    weights: how many were trained. history: a row for each step, with loss, lr, grad_norm and, where measured, kl and
    validation figures (see `training.fit`). seconds: wall time, also of a resumed run's earlier parts. interrupted: the
    user stopped it; the model then holds the last step's weights. adapter: the weights before and after, to save, apply
    or revert. shared: unchosen heads that moved with the chosen ones, because a query group shares its keys and values.
    way: how its steps ran. best_step: with `TuneConfig.patience`, the step whose weights these are, that of the lowest
    validation loss. stopped: patience ended the run before its last step.
    """

    method: str
    weights: int
    config: TuneConfig
    history: pd.DataFrame
    seconds: float
    interrupted: bool
    adapter: Adapter
    shared: HeadSet = HeadSet()
    way: str = ""
    best_step: int | None = None
    stopped: bool = False

    @property
    def heads(self) -> HeadSet:
        """Those that were tuned; none if whole weights were."""
        return self.adapter.heads

    def undo(self, model: Model) -> None:
        """**Changes the model**: puts the weights back, bit for bit. Raises as `Adapter.revert` does."""
        self.adapter.revert(model)

    def save(self, folder: str | Path) -> Path:
        """Writes the adapter into a folder, from which `Adapter.load` reads it. Raises as `Adapter.save` does."""
        return self.adapter.save(folder)

    def summary(self) -> str:
        """One or two sentences."""
        text = self.method[:1].upper() + self.method[1:]
        if self.heads:
            text += f" of {len(self.heads)} heads ({self.heads}), {self.adapter.projections}"
        if "step" not in self.history:
            return f"{text}, {self.weights:,} numbers, fitted in {self.seconds:.0f} s: {self.way}."
        steps = int(self.history["step"].max()) if len(self.history) else 0
        text += f", {self.weights:,} weights: {steps} of {self.config.steps} steps in {self.seconds:.0f} s"
        if steps:
            losses = self.history["loss"].dropna().tolist()
            text += f", loss {losses[0]:.3f} to {losses[-1]:.3f}"
        if self.best_step is not None:
            text += f". These are the weights of step {self.best_step}, which had the lowest validation loss"
            text += f": the run was stopped early, at step {steps}" if self.stopped else ""
        if self.shared:
            text += f". These heads share the tuned keys and values: {self.shared}"
        return text + (". Interrupted." if self.interrupted else ".")

    def figure(self) -> go.Figure:
        """Training loss and validation figures over the steps."""
        from spt_lens.view.curves import training_figure

        return training_figure(self.history)

    def __repr__(self) -> str:
        return f"Tuned({self.summary()})"

    def _repr_html_(self) -> str:
        table = self.history.tail(5).to_html(index=False, escape=True, float_format="%.4g", na_rep="")
        return f"<p>{html.escape(self.summary())}</p>{table}"
