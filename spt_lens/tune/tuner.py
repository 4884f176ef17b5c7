"""The one face of all that tunes: pinpoint tuning, full fine-tuning, LoRA, and the rival that you write.

A rival is one file (`full.py` is the shortest): a frozen dataclass that derives from `Tuner` and has

- `method`, its name;
- `setup(view, config)`, a context that yields a `Trainable`: what runs, what is trained, where it is written;
- `lr`, its default learning rate, and `lrs`, those that a comparison tries: from hardly any change to lost abilities;
- `check(model)`, if it needs more than a model that can be tuned: a package, say.

A comparison tells tuners apart by their repr, that is, by their fields. The loop, the counting, undoing and saving, and
putting the model back after an error are done here, alike for all.
"""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Self

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from spt_lens.chat.batches import Example, Examples
from spt_lens.chat.dialogues import Dialogue, as_dialogues
from spt_lens.checking import a_path, instance, shown
from spt_lens.heads import HeadSet
from spt_lens.model import ranks
from spt_lens.model.held import to_the_end, unbroken
from spt_lens.model.own_hooks import check_unedited
from spt_lens.model.ranks import warn_caller
from spt_lens.model.states import States
from spt_lens.model.targets import LogitsAt, encode_all, logits_of
from spt_lens.model.view import Model, ModelView
from spt_lens.saving import same_bits, weights_digest
from spt_lens.tune.adapter import Adapter
from spt_lens.tune.checkpointing import plain_blocks
from spt_lens.tune.config import TuneConfig
from spt_lens.tune.preference import preferences
from spt_lens.tune.resume import RunFolder, digest
from spt_lens.tune.run import Row, best_validation
from spt_lens.tune.slices import Slice, put_back
from spt_lens.tune.training import OnStep, fit
from spt_lens.tune.tuned import Tuned as Tuned


@dataclass(frozen=True, eq=False)
class Trainable:
    """What one run trains.

    logits: of a batch at its targets, with gradients to `parameters`, which the optimiser gets. write: puts what was
    trained into `pieces`, the parts of the model that change; `live`: `logits` runs the model itself, so this comes
    after every step.
    heads, projections: whose slices the pieces are, if they are no whole weights. prepare: called before the first step
    with the token ids of all that will go through `logits`, where hidden states of them may be kept, and whether to
    show progress; says how steps run. blocks: the model's blocks that `logits` runs, whose activations may be made
    again in the backward pass (`TuneConfig.checkpoint_activations`). finish: puts what was trained into pieces that are
    edits (`edits.py`), once all else is as before.
    """

    logits: LogitsAt
    parameters: Sequence[Tensor]
    write: Callable[[], None]
    pieces: Sequence[Slice]
    live: bool = False
    heads: HeadSet = HeadSet()
    projections: str = ""
    prepare: Callable[[Sequence[Sequence[int]], States, bool], str] | None = None
    blocks: Sequence[nn.Module] = ()
    finish: Callable[[], None] | None = None

    @classmethod
    def of_plain(cls, plain: Any, view: ModelView, write: Callable[[], None], pieces: Sequence[Slice]) -> Self:
        """Whatever requires gradients in a plain model (`plain.plain_model`); `write` takes that home.

        A float32 copy of a bfloat16 model is trained as mixed precision is: it multiplies in bfloat16.
        """
        trained = [p for p in plain.parameters() if p.requires_grad]
        mixed = view.dtype == torch.bfloat16 and all(p.dtype != view.dtype for p in plain.parameters())

        def forward(ids: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos vocab"]:
            with torch.autocast(view.device.type, torch.bfloat16) if mixed else nullcontext():
                return plain(input_ids=ids, use_cache=False).logits

        logits = logits_of(forward, plain.get_output_embeddings())
        return cls(logits, trained, write, pieces, blocks=plain_blocks(plain, view))


class Tuner(ABC):
    """A way to tune a model; see the top of this file for what a new one must have."""

    lr: ClassVar[float] = 1e-3
    lrs: ClassVar[tuple[float, ...]] = (1e-4, 3e-4, 1e-3, 3e-3)
    beta: float | None = None  # of preference training (`preference.py`); None: the replies are learned

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
        check_unedited(ModelView(model).model)

    def check_data(self, dialogues: Sequence[Dialogue]) -> None:
        """Raises, before any long work, ValueError for dialogues that lack what this tuner needs of them."""
        if self.beta is not None:
            preferences(dialogues, self.method)

    @unbroken()
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
        resume: str | Path | None = None,
        on_step: OnStep | None = None,
    ) -> Tuned:
        """Tunes on the dialogues' last replies. **Changes the model in place**; `tuned.undo(model)` puts it back.

        Interrupting (Ctrl-C, or a notebook's stop button) ends the run early: the result has `interrupted=True`, and
        the model is usable. After any other error, or a second interrupt, the model is as before.

        dialogues: each ends in the reply that is to be learned. config: default: TuneConfig with the method's own lr.
        validation: dialogues that are only measured. With as many right as wrong first answers among them,
        `validation_first` is the discernment of the reply's first word. keep: ordinary dialogues for the KL term, if
        `config.kl_weight` is positive. progress: a bar with figures; in a notebook a live curve of the losses too.
        states: where pinpoint tuning keeps what lies below its lowest layer: in memory, up to half of what is free
        (True), in the files of a folder, where later runs on the model find it, in a `model.states.States` that several
        runs share, or not at all (False).

        resume: a folder for the run's state, every `config.save_every` steps and where it is interrupted. Started again
        on it with the same arguments and the untuned model, a run that was ended by whatever goes on to the same
        weights, bit for bit; one that is done is given back. on_step: is given each row of the history once it is
        measured, to log it elsewhere (`wandb.log`, or lambda row: writer.add_scalars("tuning", row, row["step"])); if
        it returns True, the run ends as by an interrupt.

        Raises: ValueError for no dialogues, one that can't be encoded, a processed or a training-mode model, a KL
        weight without `keep` or the reverse, patience without `validation`, a folder of another run or of something
        else, or states of another model or in the run's folder; FloatingPointError if the loss or a tuned weight is no
        longer finite; MemoryError if a step does not fit; OSError if a folder can't be written to.
        """
        view = ModelView(model)
        self.check(view)
        config = TuneConfig(lr=self.lr) if config is None else config
        instance(config, "config", TuneConfig, "give TuneConfig(steps=100), say, or leave it out")
        if on_step is not None and not callable(on_step):
            raise TypeError(f"on_step is {shown(on_step)}: give a function of a row, such as print")
        dialogues = as_dialogues(dialogues)
        validation = None if validation is None else as_dialogues(validation, "validation")
        keep = None if keep is None else as_dialogues(keep, "keep")
        self.check_data(dialogues)
        rejected = None
        if self.beta is not None:
            dialogues, others = zip(*preferences(dialogues, self.method), strict=True)
            rejected = encode_all(view, others)
        examples = encode_all(view, dialogues)
        ends = set(view.end_tokens)
        learned = {token for ids, target in examples for token, wanted in zip(ids, target, strict=True) if wanted}
        if examples and not learned & ends:
            warn_caller(
                "no reply that is learned holds a token that ends one, so the tuned model may not learn to stop: give "
                "the tokenizer a chat template that writes its end token after replies"
            )
        held_out = encode_all(view, validation) if validation else None
        texts = [ids for ids, _ in encode_all(view, keep)] if keep else None
        kept_states = States.given(view, states)
        if resume is not None and kept_states is not None and kept_states.folder is not None:
            run, place = a_path(resume, "resume").resolve(), kept_states.folder.resolve()
            if run in (place, *place.parents):
                raise ValueError(f"states are to lie in {resume}, the folder of the run: give them one outside of it")
        data = {"dialogues": examples, "validation": held_out, "keep": texts}
        data |= {} if rejected is None else {"rejected": rejected}
        folder = None if resume is None else self._folder(resume, view, config, data)
        history: list[Row] = []
        before: list[tuple[Slice, Tensor]] = []
        interrupted, began = False, time.perf_counter()
        try:
            # kept: also where a second interrupt parts what setup undoes
            with view.kept() as hold, self.setup(view, config) as what:
                before = [(piece, piece.read()) for piece in what.pieces]
                hold.undo.append(partial(put_back, before))
                weights = sum(p.numel() for p in what.parameters)
                way = ""
                try:
                    done = folder is not None and folder.over
                    if what.prepare is not None and kept_states is not None and not done:
                        rows = _rows(examples, config) + [ids for ids, _ in held_out or ()] + (texts or [])
                        rows += _rows(rejected, config) if rejected else []
                        way = what.prepare(rows, kept_states, progress)
                    after_step = what.write if what.live else None
                    more: Any = {"validation": held_out, "keep": texts, "history": history, "progress": progress}
                    more |= {"blocks": what.blocks, "folder": folder, "on_step": on_step}
                    more |= {"rejected": rejected, "beta": self.beta}
                    fit(what.logits, what.parameters, examples, config, after_step=after_step, **more)
                except KeyboardInterrupt:
                    interrupted = True
                for parameter in what.parameters:
                    parameter.grad = None
                what.write()  # also into a live model: the interrupt may have come between two pieces
            if what.finish is not None:
                what.finish()
            old, new = {}, {}
            for piece, value in before:
                now = piece.read()
                if not now.isfinite().all():  # the last step has no loss after it that would tell
                    hot = f"a tuned weight is no longer finite in {view.dtype}: {config.lower()}"
                    raise FloatingPointError(hot)
                if what.heads or not same_bits(value, now):  # of whole weights, those that moved
                    old[piece.name], new[piece.name] = value, now
            about = {"model": view.name, "config": config.deciding(), "dialogues": len(examples)}
            about |= {"parameters": weights, "interrupted": interrupted, "method": self.method}
            if what.heads.about:  # where the choice came from stays with the weights
                about["selection"] = dict(what.heads.about)
            adapter = Adapter(old, new, what.heads, what.projections, view.fingerprint(), about)
            sliced = what.heads and not adapter.edits
            shared = what.heads.sharing(view, what.projections) if sliced else HeadSet()
            # With step and loss also where a run was interrupted before its first step.
            names = dict.fromkeys(["step", "loss", *(name for row in history for name in row)])
            table, seconds = pd.DataFrame(history, columns=list(names)), time.perf_counter() - began
            seconds += folder.seconds if folder else 0
            ended = config.patience is not None and not interrupted
            best = best_validation(history)[0] if ended else None
            stopped = ended and history[-1]["step"] < config.steps
            made = Tuned(self.method, weights, config, table, seconds, interrupted, adapter, shared, way, best, stopped)
            unbroken.hand_over()
            return made
        except BaseException:  # the caller gets no result to undo it with
            to_the_end(put_back, before)
            raise

    def _folder(self, resume: str | Path, view: ModelView, config: TuneConfig, data: Mapping[str, Any]) -> RunFolder:
        weights = weights_digest(view.weights().items()).hexdigest()[:16]
        about = {"weights": weights, "method": repr(self), "settings": config.deciding()}
        about |= {name: digest(each) for name, each in data.items()}
        ranks.agree("a tuning run's folder", about)  # rank 0 may still be writing what an interrupt left
        return RunFolder(resume, about)


def _rows(examples: Sequence[Example], config: TuneConfig) -> list[list[int]]:
    """The token ids of the examples that the run's steps come to."""
    order = Examples(examples).order(config.batch_size, config.seed)
    numbers = {number for _, rows in zip(range(config.steps), order, strict=False) for number in rows.tolist()}
    return [examples[number][0] for number in sorted(numbers)]
