"""The one face of all that tunes: pinpoint tuning, full fine-tuning, LoRA, and the rival that you write.

A rival is one file (`full.py` is the shortest): a frozen dataclass that derives from `Tuner` and has

- `method`, its name;
- `setup(view, config)`, a context that yields a `Trainable`: what runs, what is trained, where it is written;
- `lr`, its default learning rate, and `lrs`, those that a comparison tries: from hardly any change to lost abilities;
- `check(model)`, if it needs more than a model that can be tuned: a package, say.

A comparison tells tuners apart by their repr, that is, by their fields. The loop, the counting, undoing and saving, and
putting the model back after an error are done here, alike for all.
"""

import html
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import pandas as pd
import plotly.graph_objects as go
import torch
from torch import Tensor

from spt_lens.chat.batches import Example, Examples
from spt_lens.chat.dialogues import Dialogue, check_dialogues
from spt_lens.checking import instance
from spt_lens.heads import HeadSet
from spt_lens.model.states import States
from spt_lens.model.targets import LogitsAt, encode_all, logits_of
from spt_lens.model.view import Model, ModelView
from spt_lens.saving import same_bits
from spt_lens.scores.metrics import warn_caller
from spt_lens.tune.adapter import Adapter
from spt_lens.tune.slices import Slice, whole_weights
from spt_lens.tune.training import TuneConfig, fit


@dataclass(frozen=True, eq=False)
class Trainable:
    """What one run trains.

    logits: of a batch at its targets, with gradients to `parameters`, which the optimiser gets. write: puts what was
    trained into `pieces`, the parts of the model that change; `live`: `logits` runs the model itself, so this comes
    after every step.
    heads, projections: whose slices the pieces are, if they are no whole weights. prepare: called before the first step
    with the token ids of all that will go through `logits`, where hidden states of them may be kept, and whether to
    show progress; says how steps run.
    """

    logits: LogitsAt
    parameters: Sequence[Tensor]
    write: Callable[[], None]
    pieces: Sequence[Slice]
    live: bool = False
    heads: HeadSet = HeadSet()
    projections: str = ""
    prepare: Callable[[Sequence[Sequence[int]], States, bool], str] | None = None

    @classmethod
    def of_copy(cls, copy: Any, view: ModelView, write: Callable[[], None]) -> Self:
        """Whatever requires gradients in a plain copy of the model; `write` takes it back into the model, whole."""
        trained = [p for p in copy.parameters() if p.requires_grad]
        logits = logits_of(lambda ids: copy(input_ids=ids, use_cache=False).logits, copy.get_output_embeddings())
        return cls(logits, trained, write, whole_weights(view))


@dataclass(frozen=True, eq=False, repr=False)
class Tuned:
    """What a tuning run did.

    weights: how many were trained. history: a row for each step, with loss, lr, grad_norm and, where measured, kl and
    validation figures (see `training.fit`). seconds: wall time. interrupted: the user stopped it; the model then holds
    the last step's weights. adapter: the weights before and after, to save, apply or revert. shared: unchosen heads
    that moved with the chosen ones, because a query group shares its keys and values. way: how its steps ran.
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
        steps = int(self.history["step"].max()) if len(self.history) else 0
        text += f", {self.weights:,} weights: {steps} of {self.config.steps} steps in {self.seconds:.0f} s"
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
        return f"Tuned({self.summary()})"

    def _repr_html_(self) -> str:
        table = self.history.tail(5).to_html(index=False, escape=True, float_format="%.4g", na_rep="")
        return f"<p>{html.escape(self.summary())}</p>{table}"


class Tuner(ABC):
    """A way to tune a model; see the top of this file for what a new one must have."""

    lr: ClassVar[float] = 1e-3
    lrs: ClassVar[tuple[float, ...]] = (1e-4, 3e-4, 1e-3, 3e-3)

    @property
    @abstractmethod
    def method(self) -> str:
        """What it is called in summaries."""

    @abstractmethod
    def setup(self, view: ModelView, config: TuneConfig) -> AbstractContextManager[Trainable]:
        """What is to be trained; on leaving, all but the weights that were written is as before."""

    def check(self, model: Model) -> None:
        """Raises, before any long work, what `tune` would raise on this model whatever the dialogues."""
        ModelView(model).check_tunable()

    @torch.inference_mode(False)  # what is made in inference mode can't be trained
    def tune(
        self,
        model: Model,
        dialogues: Sequence[Dialogue],
        config: TuneConfig | None = None,
        *,
        validation: Sequence[Dialogue] | None = None,
        keep: Sequence[Dialogue] | None = None,
        progress: bool = True,
        states: States | str | Path | bool = True,
    ) -> Tuned:
        """Tunes on the dialogues' last replies. **Changes the model in place**; `tuned.undo(model)` puts it back.

        Interrupting (Ctrl-C, or a notebook's stop button) ends the run early: the result has `interrupted=True`, and
        the model is usable. After any other error, or a second interrupt, the model is as before.

        dialogues: each ends in the reply that is to be learned. config: default: TuneConfig with the method's own lr.
        validation: dialogues that are only measured. With as many right as wrong first answers among them,
        `validation_first` is the discernment of the reply's first word. keep: ordinary dialogues for the KL term, if
        `config.kl_weight` is positive. states: where pinpoint tuning keeps what lies below its lowest layer: in memory,
        up to half of what is free (True), in the files of a folder, where later runs on the model find it, in a
        `model.states.States` that several runs share, or not at all (False).

        Raises: ValueError for no dialogues, one that can't be encoded, a processed or a training-mode model, or a KL
        weight without `keep` or the reverse; FloatingPointError if the loss or a tuned weight is no longer finite.
        """
        view = ModelView(model)
        self.check(view)
        config = TuneConfig(lr=self.lr) if config is None else config
        instance(config, "config", TuneConfig, "give TuneConfig(steps=100), say, or leave it out")
        given = {"dialogues": dialogues, "validation": validation, "keep": keep}
        for name, each in given.items():
            if each is not None or name == "dialogues":
                check_dialogues(each, name)
        examples = encode_all(view, dialogues)
        ends = set(view.end_tokens)
        if examples and not any(token in ends for ids, target in examples for token in ids[target.index(True) :]):
            warn_caller(
                "no reply that is learned holds a token that ends one, so the tuned model may not learn to stop: give "
                "the tokenizer a chat template that writes its end token after replies"
            )
        held_out = encode_all(view, validation) if validation else None
        texts = [ids for ids, _ in encode_all(view, keep)] if keep else None
        if isinstance(states, bool):
            kept_states = States(view) if states else None
        else:
            kept_states = states if isinstance(states, States) else States(view, folder=states)
        history: list[dict[str, float]] = []
        before: list[tuple[Slice, Tensor]] = []
        interrupted, began = False, time.perf_counter()
        try:
            with self.setup(view, config) as what:
                before = [(piece, piece.read()) for piece in what.pieces]
                weights = sum(p.numel() for p in what.parameters)
                way = ""
                try:
                    if what.prepare is not None and kept_states is not None:
                        rows = _rows(examples, config) + [ids for ids, _ in held_out or ()] + (texts or [])
                        way = what.prepare(rows, kept_states, progress)
                    after_step = what.write if what.live else None
                    more: Any = {"validation": held_out, "keep": texts, "history": history, "progress": progress}
                    fit(what.logits, what.parameters, examples, config, after_step=after_step, **more)
                except KeyboardInterrupt:
                    interrupted = True
                what.write()  # also into a live model: the interrupt may have come between two pieces
            old = {piece.name: value for piece, value in before}
            new = {piece.name: piece.read() for piece, _ in before}
            if not all(value.isfinite().all() for value in new.values()):
                # The last step has no loss after it that would tell.
                raise FloatingPointError(f"a tuned weight is no longer finite in {view.dtype}: lower lr ({config.lr})")
            if not what.heads:  # of whole weights, those that moved
                old = {name: value for name, value in old.items() if not same_bits(value, new[name])}
                new = {name: new[name] for name in old}
            about = {"model": view.name, "config": asdict(config), "dialogues": len(examples)}
            about |= {"parameters": weights, "interrupted": interrupted, "method": self.method}
            if what.heads.about:  # where the choice came from stays with the weights
                about["selection"] = dict(what.heads.about)
            adapter = Adapter(old, new, what.heads, what.projections, view.fingerprint(), about)
            shared = what.heads.sharing(view, what.projections) if what.heads else HeadSet()
            # With step and loss also where a run was interrupted before its first step.
            names = dict.fromkeys(["step", "loss", *(name for row in history for name in row)])
            table, seconds = pd.DataFrame(history, columns=list(names)), time.perf_counter() - began
            return Tuned(self.method, weights, config, table, seconds, interrupted, adapter, shared, way)
        except BaseException:  # the caller gets no result to undo it with
            for piece, value in before:
                piece.write(value)
            raise


def _rows(examples: Sequence[Example], config: TuneConfig) -> list[list[int]]:
    """The token ids of the examples that the run's steps come to."""
    order = Examples(examples).order(config.batch_size, config.seed)
    numbers = {number for _, rows in zip(range(config.steps), order, strict=False) for number in rows.tolist()}
    return [examples[number][0] for number in sorted(numbers)]
