"""A folder in which a tuning run keeps its state, so that it goes on after whatever ended it, to the same bits.

The state is one file, written by one rename: what is there is whole. It says of which run it is; another one, started
on the same folder by mistake, is refused before anything moves.
"""

import hashlib
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from spt_lens import saving
from spt_lens.checking import a_path, shown
from spt_lens.tune.run import Run

FILE, KIND = "run.safetensors", "tuning run"
_PARTS = {"weights": "the model's weights", "dialogues": "the dialogues", "method": "the method"}
_PARTS |= {"validation": "the validation dialogues", "keep": "the dialogues to keep", "settings": "the settings"}
_PARTS |= {"rejected": "the rejected replies"}


class RunFolder:
    """The folder of one run, which may have begun earlier.

    about: what decides the run, as JSON holds it: two runs of the same `about` do the same. seconds: those that earlier
    parts of it took. over: it is done.

    Raises: ValueError, nothing written, if the folder holds anything but this run, and names what differs; OSError if
    it can't be made or written to.
    """

    def __init__(self, folder: str | Path, about: Mapping[str, Any]):
        self.folder = a_path(folder, "resume")
        self.about, self.over = dict(about), False
        self.seconds, self._began = 0.0, time.perf_counter()
        self._file, self._known = self.folder / FILE, False
        if self.folder.exists() and not self.folder.is_dir():
            raise ValueError(f"resume={str(folder)!r} is a file: name a folder, which is made if it does not exist")
        self._found = saving.load_tensors(self._file, KIND) if self._file.exists() else None
        if self._found is None:
            self._make()
            return
        found, self._known = self._found[1], True
        self._check(found)
        with saving.reading(self._file, KIND):
            self.over, self.seconds = saving.entry(found, "over", bool), saving.entry(found, "seconds", float)

    def restore(self, run: Run) -> None:
        """Puts a run where an earlier part of it stopped, if there was one. Raises ValueError for a damaged file."""
        if self._found is not None:
            with saving.reading(self._file, KIND):
                run.restore(*self._found)
        self._found = None  # as large as what is trained, three times or more

    def save(self, run: Run) -> None:
        """Writes where the run is; not in the middle of a step, whose state would be of none.

        Raises: OSError; ValueError if another run was started on the folder meanwhile, and has saved.
        """
        if run.whole:
            if not self._known and self._file.exists():  # another run has begun in it meanwhile
                self._check(saving.load_tensors(self._file, KIND)[1])
            tensors, about = run.state()
            seconds = self.seconds + time.perf_counter() - self._began
            # An interrupt may have come between the last step and its validation.
            measured = bool(run.rows) and ("validation_loss" in run.rows[-1] or "validation_loss" not in run.rows[0])
            about |= {"run": self.about, "seconds": seconds, "over": run.over and measured}
            saving.save_tensors(self._file, KIND, tensors, about)
            self._known = True

    def _check(self, found: Mapping[str, Any]) -> None:
        with saving.reading(self._file, KIND):
            theirs = saving.entry(found, "run", dict)
        own = json.loads(json.dumps(self.about))  # tuples and the like as they come out of a file
        wrong = [_differs(key, theirs.get(key), own.get(key)) for key in _PARTS if theirs.get(key) != own.get(key)]
        if wrong:
            way_out = "give another folder, or all that it was started with"
            if theirs.get("weights") != own.get("weights"):
                way_out += " (a model that was tuned since: tuned.undo(model), or load it again)"
            raise ValueError(f"{self.folder} holds another run, by {'; '.join(wrong)}: {way_out}")

    def _make(self) -> None:
        saving.make_folder(self.folder, "the run's state")
        # A run that was killed in its first save leaves a hidden file.
        other = sorted(path.name for path in self.folder.iterdir() if not path.name.startswith(f".{FILE}"))
        if other:
            raise ValueError(f"{self.folder} holds no tuning run, but {other[0]}: give another folder")
        if not os.access(self.folder, os.W_OK):
            raise PermissionError(f"the folder {self.folder} is write-protected: give another one")


def digest(data: Any) -> str:
    """Names what JSON can hold."""
    return hashlib.sha256(json.dumps(data).encode()).hexdigest()[:16]


def _differs(key: str, theirs: Any, own: Any) -> str:
    if key == "method":
        return f"the method ({shown(theirs)} there, {shown(own)} here)"
    if key == "settings" and isinstance(theirs, dict):
        odd = [name for name in (*theirs, *(own.keys() - theirs.keys())) if theirs.get(name) != own.get(name)]
        return ", ".join(f"{name} ({theirs.get(name)!r} there, {own.get(name)!r} here)" for name in odd)
    return _PARTS[key]
