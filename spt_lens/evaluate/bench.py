"""What the trials of a comparison share: data, suites, settings, and the model that each is done on and put back."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, is_dataclass, replace
from typing import Any

import torch

from spt_lens.behaviours.suite import Suite
from spt_lens.chat.dialogues import Dialogue
from spt_lens.chat.once import keeping
from spt_lens.chat.options import ChatOptions
from spt_lens.chat.template import chat_options, training_ids
from spt_lens.evaluate.change import Reference
from spt_lens.evaluate.evaluate import evaluate
from spt_lens.evaluate.trials import Spec, Trial
from spt_lens.model.attention_kind import without_patterns
from spt_lens.model.held import to_the_end
from spt_lens.model.ranks import alone
from spt_lens.model.states import States
from spt_lens.model.targets import LogitsAt
from spt_lens.model.unhooked import unhooked
from spt_lens.model.view import Model, ModelView
from spt_lens.saving import weights_digest
from spt_lens.tune.training import TuneConfig
from spt_lens.tune.tuned import Tuned
from spt_lens.tune.tuner import Tuner


@dataclass(frozen=True, eq=False)
class Task:
    """What all trials of a comparison share. `config.lr` and `config.seed` are each one's own."""

    dialogues: tuple[Dialogue, ...]
    config: TuneConfig
    suites: Mapping[str, Suite]
    keep: tuple[Dialogue, ...] = ()

    def fingerprint(self, model: Model) -> str:
        """Changes when anything does that decides what comes of a trial: see `made`."""
        return self.made(model).fingerprint

    def made(self, model: Model) -> Made:
        """What trials of this task are made with, the model's weights, config, tokenizer and template among it."""
        view = ModelView(model)
        weights, tokenizer = weights_digest(sorted(view.weights().items())), view.tokenizer
        settings = replace(self.config, lr=1.0, seed=0).deciding()
        data, keep = _words(self.dialogues), _words(self.keep)
        suites: list[Any] = []
        for name, suite in self.suites.items():
            groups = {**suite.groups, **suite.abilities}
            groups |= {"right": suite.right, "wrong": suite.wrong, "texts": suite.texts}
            named = repr(suite.judge) if is_dataclass(suite.judge) else type(suite.judge).__name__
            judge = [named, suite.judge.max_new_tokens, suite.first_tokens]
            cases = {group: [_words(dialogues), [d.meta for d in dialogues]] for group, dialogues in groups.items()}
            suites.append([name, judge, cases])
            more = [_words(suite.prompts), repr(suite.choices), *suite.passages]
            suites += [more] if suite.prompts or suite.choices or suite.passages else []
            suites += [suite.ends_right] if suite.ends_right else []
            suites += [["beside", suite.beside, suite.words.to_json()]] if suite.beside else []
        options = chat_options(tokenizer)
        chat = [repr(options)] if options != ChatOptions() else []
        template = getattr(tokenizer, "chat_template", None)
        parts = {
            "weights": weights.hexdigest(),
            "config": config_of(view),
            "tokenizer": [entries_of(tokenizer), view.end_tokens],
            "chat template": [template, *chat],  # as it is stored: with today in it, nothing would go on tomorrow
            "precision": [str(view.dtype), torch.get_float32_matmul_precision()],
            "settings": settings,
            "dialogues": data,
            "dialogues to keep": keep,
            "suites": suites,
        }
        if rejected := [str(each.meta.get("rejected")) for each in self.dialogues if each.rejected]:
            parts["rejected replies"] = rejected
        weights.update(json.dumps([settings, data, keep, *suites, *chat], sort_keys=True).encode())
        return Made({name: _digest(part) for name, part in parts.items()}, weights.hexdigest()[:16])


@dataclass(frozen=True)
class Made:
    """What trials were made with, a digest of each by its name. before: what stood for all of it in results files that
    knew nothing of chat template, tokenizer, config and precision."""

    parts: Mapping[str, str]
    before: str = ""

    @property
    def fingerprint(self) -> str:
        return _digest(dict(self.parts))

    def other(self, parts: Mapping[str, str]) -> set[str]:
        """The names of what differs there."""
        return {name for name, mine in self.parts.items() if parts.get(name) != mine}


# What a config says of files, packages and how a model is run, which decides no number.
_BESIDE = {"transformers_version", "architectures", "dtype", "torch_dtype", "use_cache", "output_attentions", "device"}
_BESIDE |= {"model_name", "tokenizer_name", "n_devices"}


def config_of(view: ModelView) -> dict[str, Any]:
    """What of a model beside its weights decides its numbers: rotary settings, norms, windows."""
    config = getattr(view.backend.root, "config", None)
    known = vars(view.model.cfg) if config is None else config.to_diff_dict()
    return {name: value for name, value in known.items() if name not in _BESIDE and not name.startswith("_")}


def entries_of(tokenizer: Any) -> Any:
    """What a tokenizer makes tokens by."""
    if not getattr(tokenizer, "is_fast", False):
        return None if tokenizer is None else tokenizer.get_vocab()
    found = json.loads(tokenizer.backend_tokenizer.to_str())
    return {name: value for name, value in found.items() if name not in ("padding", "truncation")}  # of the last call


def _digest(part: Any) -> str:
    return hashlib.sha256(json.dumps(part, sort_keys=True, default=str).encode()).hexdigest()[:16]


def _words(dialogues: Iterable[Dialogue]) -> list[list[str]]:
    return [[text for message in d.messages for text in (message.role, message.content)] for d in dialogues]


class Bench:
    """Does trials on one model, which is put back after each, also after an error or an interrupt.

    The ranks of a launcher do other trials each: in one, none talks to the others.

    Trials share what is the same to the bit whichever of them made it, so that they may come in any order, and the rest
    of them in a new process. What was computed in another way (from another layer on, say, or in other batches) differs
    in rounding: it is shared among trials of one way, hidden states among those of one seed, whose dialogues are the
    same.
    """

    def __init__(self, model: Model, task: Task):
        self.view, self.task = ModelView(model), task
        # What the trials have in common, as `once` makes it, and hidden states of the untuned model.
        self.kept: dict[Hashable, Any] = {}
        self._way: Any = None
        self._by_seed: dict[int, States] = {}
        with alone(), keeping(self.kept):
            self._reads = unhooked(self.view)
            self._references = {
                split: Reference.of(self._reads, suite.texts, suite.prompts)
                for split, suite in task.suites.items()
                if suite.texts or suite.prompts
            }

    def trial(self, spec: Spec, tuner: Tuner | None) -> Trial:
        heads: Any = getattr(tuner, "heads", None)
        what = type(getattr(tuner, "tuner", tuner))  # edits, say, are read in another way than slices of weights
        way = what, min(head.layer for head in heads) if heads else None
        if way != self._way:
            self._way, self.kept, self._by_seed = way, {}, {}
        if spec.seed not in self._by_seed:
            self._by_seed[spec.seed] = States(self.view)
        self.states = self._by_seed[spec.seed]
        with alone(), keeping(self.kept), without_patterns(self.view):  # states are kept and read in one way
            return self._trial(spec, tuner)

    def _trial(self, spec: Spec, tuner: Tuner | None) -> Trial:
        task, tuned = self.task, None
        began = time.perf_counter()
        try:
            if tuner is not None:
                config = replace(task.config, lr=spec.lr, seed=spec.seed)
                more: Any = {"keep": task.keep or None, "states": self.states, "progress": False}
                tuned = tuner.tune(self.view, task.dialogues, config, **more)
                if tuned.interrupted:
                    raise KeyboardInterrupt
            seconds = time.perf_counter() - began
            against = {split: (suite, self._references.get(split)) for split, suite in task.suites.items()}
            how: Any = {"logits": self._logits(tuned), "progress": False}
            # Edits are hooks on the model itself, which what reads its weights without hook points knows nothing of.
            reads = self.view if tuned and tuned.adapter.edits else self._reads
            found = {split: evaluate(reads, *each, **how) for split, each in against.items()}
            return Trial(spec, tuned.weights if tuned else 0, seconds, found)
        except FloatingPointError as error:  # a learning rate too high: a result too, but no figures
            return Trial(spec, 0, time.perf_counter() - began, {}, str(error))
        finally:
            if tuned:
                to_the_end(tuned.undo, self.view)

    def _logits(self, tuned: Tuned | None) -> LogitsAt | None:
        """From kept states where no weight below a layer has moved; in a low layer that saves less than it costs."""
        lowest = min((head.layer for head in tuned.heads), default=0) if tuned else 0
        if lowest < self.view.n_layers / 3:
            return None
        texts = [text for suite in self.task.suites.values() for text in suite.texts]
        texts += [d for suite in self.task.suites.values() for group in suite.abilities.values() for d in group]
        rows: list[Sequence[int]] = [training_ids(self.view.tokenizer, text)[0] for text in texts]
        rows += [text.ids for each in self._references.values() if each.own for text in each.own.texts]
        below = self.states.below(lowest)
        if not rows or below.problem(rows):
            return None
        whole = below.fill(rows) == len(set(map(tuple, rows)))
        return below.logits if whole else None
