"""`Study`: the whole story of one model and one behaviour, in a folder that can be gone on with at any moment."""

from __future__ import annotations

import html
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self

import pandas as pd

from spt_lens.behaviours.are_you_sure import AreYouSure
from spt_lens.behaviours.behaviour import Behaviour
from spt_lens.checking import a_path, door, instance, whole_number
from spt_lens.evaluate.methods import ALONE, check_data
from spt_lens.heads import HeadSet
from spt_lens.model import ranks
from spt_lens.model.held import unbroken
from spt_lens.model.view import Model, ModelView
from spt_lens.saving import load_json, save_json
from spt_lens.study.cost import Speeds, StudyCost
from spt_lens.study.data import can_ask, contrasts
from spt_lens.study.folder import about, check_folder, check_room, loaded, open_folder
from spt_lens.study.settings import StudySettings
from spt_lens.study.stages import STAGES, n_chosen
from spt_lens.study.work import FILES, SECONDS, Work


def _times(data: Mapping[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in data["seconds"].items()}


@contextmanager
def _keywords(name: str, settings: StudySettings) -> Iterator[None]:
    """What a behaviour says of keywords that it does not take, with the setting that gives them."""
    try:
        yield
    except TypeError as error:
        raise TypeError(f"the setting {name}={getattr(settings, name)} can't be used: {error}") from error


_SPLITS = ("train", "validation", "test", "answers")


@door
class Study(Work):
    """Which heads, what they do, and how tuning them compares: `spt.Study(model, behaviour, "folder").run()`.

    Asks the model (of a behaviour that can be), makes pairs, scores every head, chooses, verifies the choice, tunes by
    every method over learning rates and seeds, evaluates the rates that validation chose once on the test split, and
    writes tables, an adapter, a report and a picker. What each stage has found is an attribute (see `Work`), and a file
    in the folder: a study that was ended by whatever, kill -9 too, goes on from there to the same bits.

    settings: what is done; default StudySettings(). heads: chosen elsewhere, a HeadSet or the file of one, as a
    HeadPicker saves it; default: by the settings' rule. checks: external behaviours by name, evaluated on their test
    split at the chosen rates. workers: processes of the trials, as in `compare`. export: the tuned model too, as a
    Hugging Face folder. The model is left as it was.

    Raises: before anything is measured, TypeError or ValueError for what can't be meant, heads that the model lacks, a
    folder of another study (named by what differs) or of something else; OSError for one that can't be written to, or
    a disk without room; NotImplementedError, ImportError for a model that can't be tuned, or no peft.
    """

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
        settings = StudySettings() if settings is None else settings
        checks = dict(checks or {})
        for name, check in checks.items():
            instance(check, f"checks[{name!r}]", Behaviour, "give one such as AreYouSure(questions)")
            if not isinstance(name, str) or not name.replace("-", "_").isidentifier() or name in _SPLITS:
                raise ValueError(f"a check is called {name!r}, which is to be part of a file's name: give letters")
        whole_number(workers, "workers", 1, 1000)
        given = HeadSet.load(heads) if isinstance(heads, str | Path) else heads
        super().__init__(model, behaviour, a_path(out, "out").expanduser(), settings, given, checks, workers, export)
        if ranks.size() > 1:
            raise ValueError(
                "a study runs in one process, and shares its trials by workers=: start it without torchrun"
            )
        view = ModelView(model)
        check_room(self.out, export * view.n_params * view.dtype.itemsize)
        self._check_heads()
        self._about = about(self, self._data())
        check_folder(self.out, self._about)

    def _check_heads(self) -> None:
        view, settings = ModelView(self.model), self.settings
        view.check_tunable()
        view.shape.letters(settings.tune.projections)
        for name in settings.methods:
            if name in ALONE:
                ALONE[name]().check(view)
        every = view.n_layers * view.n_heads
        if self.given is not None:
            instance(self.given, "heads", HeadSet, "give a HeadSet, or the path of a file that holds one").check(view)
            n = len(self.given)
        else:
            first, last = settings.layers or (0, view.n_layers - 1)
            n, there = n_chosen(settings, every), view.n_heads * (last - first + 1)
            if last >= view.n_layers or n > there:
                raise ValueError(
                    f"layers={[first, last]} of {view.name}, which has {view.n_layers} of {view.n_heads} heads, do not "
                    f"hold the {n} heads of share={settings.share:g}: give others, or a smaller share"
                )
        if 2 * n > every:
            raise ValueError(f"{n} of {every} heads leave too few for random ones beside them: choose up to half")

    def _data(self) -> dict[str, Any]:
        """What the behaviours have before anything is asked; their keywords in the settings are tried by that."""
        settings, found = self.settings, {}
        to_ask = can_ask(self.behaviour, settings)
        if settings.replies and not to_ask:
            raise ValueError(
                f"replies are for a model that is asked, and {self.behaviour.name!r} does not: leave it out"
            )
        with _keywords("pairs", settings):
            pairs = contrasts(self.behaviour, self.model, settings)
        if len(pairs[0]) < (least := 4 if settings.words == "found" else 2):
            raise ValueError(
                f"{len(pairs[0])} pairs are too few, of which a null or words are found: give {least} or more"
            )
        texts = [[each.dialogues, each.truthful_dialogues] if each.dialogues else each for each in pairs]
        with _keywords("validation", settings):
            suites = [self.behaviour.suite("validation", **settings.validation)]
        with _keywords("test", settings):
            suites += [self.behaviour.suite("test", **settings.test)]
        try:
            with _keywords("training", settings):
                dialogues: Any = self.behaviour.training(**settings.training)
        except ValueError as error:
            own: Any = self.behaviour
            if not to_ask or (isinstance(own, AreYouSure) and any(each.wrong for each in own.of_split("train"))):
                raise
            dialogues = str(error)  # there may be some once it is known what the model gets wrong
        else:
            check_data(settings.methods, dialogues)
        found["main"] = [type(self.behaviour).__qualname__, self.behaviour.name, texts, dialogues, suites]
        for name, check in self.checks.items():
            found[name] = [type(check).__qualname__, check.name, check.suite("test")]
        return found

    @unbroken()
    def cost(self) -> StudyCost:
        """What the stages that are not done yet will take, measured on a few passes."""
        return Speeds(self).cost(self.settings)

    @unbroken()
    def run(self, progress: bool = True) -> Self:
        """Does every stage that is not done yet, one bar each, and returns the study.

        Raises: as the class; ValueError for a damaged file of a stage, with the way out; OSError where one can't be
        written; and what the stages raise, such as for a model that gives no right answer. KeyboardInterrupt is passed
        on. All that was measured until then stays.
        """
        open_folder(self.out, self._about)
        times = self.out / SECONDS
        self.seconds = loaded(times, lambda path: load_json(path, "seconds", _times)) if times.exists() else {}
        for name, stage in STAGES.items():
            begun, done = time.monotonic(), self.path(name).exists()
            try:
                stage(self, progress)
            finally:  # also of a stage that is ended, and gone on with later
                if not done:
                    self.seconds[name] = self.seconds.get(name, 0.0) + time.monotonic() - begun
                    with suppress(OSError):  # what ended the stage is to be told
                        save_json(times, "seconds", {"seconds": self.seconds})
        return self

    @property
    def table(self) -> pd.DataFrame | None:
        """Every method at its chosen rate, on the test split (`Comparison.table`)."""
        return None if self.comparison is None else self.comparison.table

    def __repr__(self) -> str:
        done = [name for name in FILES if self.path(name).exists()]
        model = ModelView(self.model).name
        return f"Study({self.behaviour.name!r} of {model} in {self.out}; done: {', '.join(done) or 'nothing yet'})"

    def _repr_html_(self) -> str:
        table = "" if self.comparison is None else self.comparison._repr_html_()
        return f"<p>{html.escape(repr(self))}</p>{table}"
