"""Supervised pinpoint tuning (Chen et al. 2024, section 3.3): train the chosen heads' projections and nothing else."""

from __future__ import annotations

import html
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import pandas as pd
import plotly.graph_objects as go
import torch

from spt_lens.chat.dialogues import Dialogue
from spt_lens.heads import HeadSet
from spt_lens.model.view import Model, ModelView
from spt_lens.tune.adapter import Adapter
from spt_lens.tune.slices import SliceMask, head_slices, parameter_count
from spt_lens.tune.training import Row, TuneConfig, encode_all, fit, unembedding


@dataclass(frozen=True, eq=False, repr=False)
class TuneRun:
    """What a tuning run did.

    history: a row for each step, with loss, lr, grad_norm and, where measured, kl and validation figures (see
    `tune.fit`).
    adapter: the change, to save or revert. seconds: wall time. interrupted: it was stopped by the user; the model
    then holds the last step's weights, and the adapter fits them.
    shared: unchosen heads that moved with the chosen ones, because a query group shares its keys and values.
    """

    heads: HeadSet
    config: TuneConfig
    history: pd.DataFrame
    adapter: Adapter
    seconds: float
    interrupted: bool
    shared: HeadSet

    def summary(self) -> str:
        """One or two sentences."""
        steps = int(self.history["step"].max()) if len(self.history) else 0
        text = f"Tuned {len(self.heads)} heads ({self.heads}), {self.adapter.numel():,} weights, "
        text += f"{self.adapter.projections}: {steps} of {self.config.steps} steps in {self.seconds:.0f} s"
        if steps:
            losses = self.history["loss"].dropna().tolist()
            text += f", loss {losses[0]:.3f} to {losses[-1]:.3f}"
        if self.shared:
            text += f". These heads share the tuned keys and values: {self.shared}"
        return text + (". Interrupted." if self.interrupted else ".")

    def figure(self) -> go.Figure:
        """Training loss and validation figures over the steps."""
        from spt_lens.view.curves import training_figure

        return training_figure(self.history)

    def __repr__(self) -> str:
        return f"TuneRun({self.summary()})"

    def _repr_html_(self) -> str:
        table = self.history.tail(5).to_html(index=False, escape=True, float_format="%.4g", na_rep="")
        return f"<p>{html.escape(self.summary())}</p>{table}"


@torch.inference_mode(False)  # what is made in inference mode can't be trained
def pinpoint_tune(
    model: Model,
    heads: HeadSet,
    dialogues: Sequence[Dialogue],
    config: TuneConfig | None = None,
    validation: Sequence[Dialogue] | None = None,
    keep: Sequence[Dialogue] | None = None,
    progress: bool = True,
) -> TuneRun:
    """Tunes the chosen heads' slices of W_Q, W_K, W_V, W_O on the last replies. **Changes the model in place.**

    Every weight outside the slices stays as it is, bit for bit; `run.adapter.revert(model)` puts the slices back
    exactly. The slices train in float32 whatever the model's dtype. Interrupting (Ctrl-C, or a notebook's stop
    button) ends the run early: the result has `interrupted=True`, a usable model and its adapter. After any other
    error, or a second interrupt before the result is there, the model is as before.

    Args:
        config: the defaults of `TuneConfig`, if None.
        dialogues: each ends in the assistant's reply that is to be learned, such as a behaviour's `training` makes.
        validation: dialogues that are only measured. With as many right as wrong first answers among them,
            `validation_first` is the discernment of the reply's first word.
        keep: ordinary dialogues for the KL term, if `config.kl_weight` is positive.

    Raises:
        ValueError: empty selection, a head that does not exist, no dialogues, a dialogue that can't be encoded, a
            processed or a training-mode model, a KL weight without `keep` or the reverse.
        FloatingPointError: the loss or a tuned weight is no longer finite; the model is put back.
    """
    config = config or TuneConfig()
    view = ModelView(model)
    view.check_tunable()
    projections = view.shape.letters(config.projections)
    slices = head_slices(view, heads, projections)
    examples = encode_all(view, dialogues)
    held_out = encode_all(view, validation) if validation else None
    texts = [ids for ids, _ in encode_all(view, keep)] if keep else None
    before = {s.name: s.read() for s in slices}
    history: list[Row] = []
    interrupted = False
    began = time.perf_counter()
    try:
        with SliceMask(view, slices) as mask:
            try:
                fit(
                    view.logits,
                    mask.masters,
                    examples,
                    config,
                    validation=held_out,
                    keep=texts,
                    unembed=unembedding(view),
                    after_step=mask.write_back,
                    history=history,
                    progress=progress,
                )
            except KeyboardInterrupt:
                interrupted = True
                mask.write_back()  # it may have come between two slices
        after = {s.name: s.read() for s in slices}
        if not all(value.isfinite().all() for value in after.values()):
            # The last step has no loss after it that would tell.
            raise FloatingPointError(f"A tuned weight is no longer finite in {view.dtype}. Lower lr (now {config.lr}).")
        meta = {
            "model": view.name,
            "config": asdict(config),
            "dialogues": len(examples),
            "parameters": parameter_count(slices),
            "interrupted": interrupted,
            # Where the choice came from stays with the weights.
            **({"selection": dict(heads.about)} if heads.about else {}),
        }
        return TuneRun(
            heads=heads,
            config=config,
            history=_table(history),
            adapter=Adapter(before, after, heads, projections, view.fingerprint(), meta),
            seconds=time.perf_counter() - began,
            interrupted=interrupted,
            shared=heads.sharing(view, projections),
        )
    except BaseException:  # the caller gets no adapter to revert with
        for piece in slices:
            piece.write(before[piece.name])
        raise


def _table(history: Sequence[Row]) -> pd.DataFrame:
    """With step and loss also where a run was interrupted before its first step."""
    names = dict.fromkeys(["step", "loss", *(name for row in history for name in row)])
    return pd.DataFrame(history, columns=list(names))
