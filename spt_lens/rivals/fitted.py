"""Rivals that take no steps: what they change is computed from the model's own activations on pairs of replies.

Their settings have no learning rate. `TuneConfig.lr` is their strength (a steering vector's coefficient, ITI's alpha),
so that a comparison chooses it on validation as it chooses a learning rate; of the rest they use the seed alone.
"""

from __future__ import annotations

import random
import time
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from spt_lens.chat.batches import Example, Examples, PromptBatch
from spt_lens.chat.dialogues import Dialogue, as_dialogues
from spt_lens.chat.once import once
from spt_lens.checking import instance
from spt_lens.heads import HeadSet
from spt_lens.model import ranks
from spt_lens.model.held import to_the_end, unbroken
from spt_lens.model.states import States
from spt_lens.model.targets import encode_all, model_logits
from spt_lens.model.view import Model, ModelView
from spt_lens.rivals.pairs import Pairs, first_is_right, of_pairs
from spt_lens.tune.adapter import Adapter
from spt_lens.tune.config import TuneConfig
from spt_lens.tune.edits import edit_slices, edited
from spt_lens.tune.preference import preferences
from spt_lens.tune.training import OnStep, validate
from spt_lens.tune.tuner import Trainable, Tuned, Tuner

HELD_OUT = 0.2  # of the questions, where no validation dialogues are given
FEWEST = 4  # pairs
MOST = 48  # dialogues held out that something is chosen by: each layer that is tried is a pass over all of them
_AT_ONCE = 32  # rows


@dataclass(frozen=True, eq=False)
class Material:
    """What a rival is fitted on: encoded right replies, each beside the rejected one, and right replies held out.

    strength: what its change is multiplied by. right: of each pair, whether the first answer was right; None where the
    dialogue does not say. aside: numbers of the pairs of about a fifth of the questions, for what judges on other
    questions than it is fitted on, of a rival that is given all pairs.
    """

    view: ModelView
    chosen: Sequence[Example]
    rejected: Sequence[Example]
    held_out: Sequence[Example]
    strength: float
    seed: int
    progress: bool = False
    right: Sequence[bool | None] = ()
    aside: frozenset[int] = frozenset()

    def held_out_loss(self, edits: Mapping[str, Tensor]) -> float:
        """The mean cross-entropy of the held-out right replies with these edits, in nats a token."""
        with edited(self.view, edits), torch.no_grad():
            figures = validate(model_logits(self.view), Examples(self.held_out, self.view.device))
        return figures["validation_loss"]

    def bar(self, items: Sequence[Any], title: str) -> Iterator[Any]:
        return iter(tqdm(items, desc=title, disable=not ranks.shows(self.progress)))

    def activations(
        self, points: Sequence[str], last: bool = False
    ) -> tuple[Float[Tensor, "point pair *rest"], Float[Tensor, "point pair *rest"]]:
        """What goes through hook points in the runs with right and with rejected replies, at one token of each: the
        first in which the two differ, or the last of the reply before what ends it."""
        both = list(zip(self.chosen, self.rejected, strict=True))
        places = [(len(one[0]) - 1, len(other[0]) - 1) for one, other in both]
        for i, (one, other) in enumerate(both):
            if last:
                places[i] = _last(one, self.view.end_tokens), _last(other, self.view.end_tokens)
            else:
                same = [a == b for a, b in zip(one[0], other[0], strict=False)]
                first = same.index(False) if False in same else len(same) - 1
                places[i] = first, first
        sides = []
        for side in (0, 1):
            rows = tuple((tuple(pair[side][0]), place[side]) for pair, place in zip(both, places, strict=True))
            key = ("activations", tuple(points), str(self.view.device), rows)
            sides.append(once(key, lambda rows=rows: activations_at(self.view, rows, points)))  # type: ignore[misc]
        return sides[0], sides[1]


def _last(example: Example, ends: Sequence[int]) -> int:
    ids, target = example
    places = [i for i, wanted in enumerate(target) if wanted]
    return places[-2] if len(places) > 1 and ids[places[-1]] in ends else places[-1]


@torch.no_grad()
def activations_at(
    view: ModelView, rows: Sequence[tuple[tuple[int, ...], int]], points: Sequence[str]
) -> Float[Tensor, "point row *rest"]:
    """What goes through hook points at one position of each row of token ids, in float32, on the CPU."""
    found: dict[int, Tensor] = {}
    order = sorted(range(len(rows)), key=lambda i: len(rows[i][0]))
    for start in range(0, len(order), _AT_ONCE):
        part = order[start : start + _AT_ONCE]
        batch, at = PromptBatch.of([rows[i][0] for i in part]), torch.tensor([rows[i][1] for i in part])
        seen: dict[str, Tensor] = {}

        def keep(x: Tensor, hook: Any, name: str, at: Tensor = at, seen: dict[str, Tensor] = seen) -> None:
            seen[name] = x[torch.arange(len(at), device=x.device), at.to(x.device)].float().cpu()

        hooks = [(name, lambda x, hook, name=name: keep(x, hook, name)) for name in points]  # type: ignore[misc]
        view.logits(batch.tokens, hooks=hooks, at=at)
        for place, i in enumerate(part):
            found[i] = torch.stack([seen[name][place] for name in points])
    return torch.stack([found[i] for i in range(len(rows))], dim=1)


@dataclass(frozen=True, eq=False)
class Fit:
    """What was found: edits by their names, how many numbers that is, and what was tried on the way."""

    edits: Mapping[str, Tensor]
    numbers: int
    says: str
    tried: Sequence[Mapping[str, Any]] = ()
    heads: HeadSet = HeadSet()


class Fitted(Tuner):
    """A tuner without steps. A new one has `method`, its strengths `lr` and `lrs`, and `fit`.

    pairs: which of the dialogues it learns from. on_all: whether `fit` is given all of them, also those of the
    questions that are held out.
    """

    pairs: Pairs = "all"
    on_all: ClassVar[bool] = False

    @abstractmethod
    def fit(self, data: Material) -> Fit:
        """Finds the edits. The model is as it was afterwards."""

    def check_data(self, dialogues: Sequence[Dialogue]) -> None:
        found = len(self._pairs(dialogues))
        if found < FEWEST:
            of = "" if self.pairs == "all" else f" of {self.pairs}"
            raise ValueError(
                f"{self.method} needs {FEWEST} pairs of replies{of} or more, and there are {found}: give more"
            )

    def _pairs(self, dialogues: Sequence[Dialogue]) -> list[tuple[Dialogue, Dialogue]]:
        every = preferences(dialogues, self.method)
        wanted = {id(each) for each in of_pairs([each for each, _ in every], self.pairs, self.method)}
        return [pair for pair in every if id(pair[0]) in wanted]

    @contextmanager
    def setup(self, view: ModelView, config: TuneConfig) -> Iterator[Trainable]:
        raise ValueError(f"{self.method} is fitted and has no steps: it can't be trained by another objective")
        yield

    @unbroken()
    @torch.inference_mode(False)
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
        """Fits on the dialogues that hold a rejected reply too. **Changes the model**; `tuned.undo(model)` undoes it.

        config: its lr is the strength; default: the method's own. validation: dialogues whose right replies decide what
        there is to choose (a layer), at most 48, drawn by the seed; default: those of a fifth of the questions, which
        are then not fitted on.
        keep, states, resume and on_step are other tuners', and do nothing here.

        Raises: ValueError for fewer than four pairs, dialogues that do not say whether their first answer was right
        where that is needed, and as `Tuner.tune`; KeyboardInterrupt, the model as before.
        """
        view = ModelView(model)
        self.check(view)
        config = TuneConfig(lr=self.lr) if config is None else config
        instance(config, "config", TuneConfig, "give TuneConfig(lr=2.0), say, or leave it out")
        dialogues = as_dialogues(dialogues)
        validation = None if validation is None else as_dialogues(validation, "validation")
        self.check_data(dialogues)
        began, name = time.perf_counter(), self.method
        pairs = self._pairs(dialogues)
        aside = _held_out([one for one, _ in pairs], config.seed)
        judging: Sequence[Dialogue] = [pairs[i][0] for i in sorted(aside)]
        if validation:
            judging = of_pairs(validation, self.pairs, name, "validation dialogues")
            if not judging:
                raise ValueError(f"none of the validation dialogues has a right first answer, which {name} needs")
        fitted = [both for i, both in enumerate(pairs) if self.on_all or validation or i not in aside]
        chosen, rejected = (encode_all(view, side) for side in zip(*fitted, strict=True))
        draw = random.Random(f"validation {config.seed}")
        judging = [judging[i] for i in sorted(draw.sample(range(len(judging)), min(MOST, len(judging))))]
        more: Any = {"right": [first_is_right(one) for one, _ in fitted]}
        more |= {"aside": frozenset(aside) if self.on_all else frozenset()}
        data = Material(view, chosen, rejected, encode_all(view, judging), config.lr, config.seed, progress, **more)
        with view.held():
            found = self.fit(data)
            for edit, value in found.edits.items():
                if not value.isfinite().all():
                    raise FloatingPointError(
                        f"{edit} is not finite: the model's activations overflow, or {config.lower()}"
                    )
            pieces = edit_slices(view, list(found.edits))
            before = {piece.name: piece.read() for piece in pieces}
            after = {edit: value.detach().to("cpu", torch.float32, copy=True) for edit, value in found.edits.items()}
            about: dict[str, Any] = {"model": view.name, "config": {"lr": config.lr, "seed": config.seed}}
            about |= {"method": name, "dialogues": len(fitted), "parameters": found.numbers, "says": found.says}
            adapter = Adapter(before, after, found.heads, "z" if found.heads else "", view.fingerprint(), about)
            table, seconds = pd.DataFrame(found.tried), time.perf_counter() - began
            made = Tuned(name, found.numbers, config, table, seconds, False, adapter, way=found.says)
            try:
                adapter.apply(view)
                unbroken.hand_over()
                return made
            except BaseException:
                to_the_end(adapter.revert, view)
                raise


def _held_out(dialogues: Sequence[Dialogue], seed: int) -> set[int]:
    """Numbers of the dialogues of about a fifth of the questions; with hardly any of these, of a fifth of all.

    Dialogues are about one question that have the same first user turn: a system message may be all dialogues'.
    """
    about: list[Any] = [
        next((each.content for each in one.messages if each.role == "user"), one.messages[0].content)
        for one in dialogues
    ]
    if len(set(about)) < FEWEST:
        about = list(range(len(dialogues)))
    all_of_them = sorted(set(about), key=str)
    drawn = random.Random(f"held out {seed}").sample(all_of_them, max(1, round(HELD_OUT * len(all_of_them))))
    return {i for i, each in enumerate(about) if each in set(drawn)}
