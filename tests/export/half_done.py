"""Exports over an earlier export in processes that are killed at given moments, the next one over what they left.

`python tests/export/half_done.py MODEL FOLDER` prints as JSON, of a model and of an adapter, how many were killed and
what was found after each: the "old" export, the "new" one, or what else; and what came of full disks. Forked, so that
all is imported and loaded once: with one thread, torch bears that.
"""

from __future__ import annotations

import errno
import hashlib
import itertools
import json
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import torch

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]

from kills import die, full_at, killed, moments  # noqa: E402

from spt_lens.export import folder as exports  # noqa: E402
from spt_lens.export.hf import export_hf  # noqa: E402
from spt_lens.heads import HeadSet  # noqa: E402
from spt_lens.model.loading import load_model  # noqa: E402
from spt_lens.tune.adapter import Adapter  # noqa: E402
from spt_lens.tune.config import TuneConfig  # noqa: E402
from spt_lens.tune.pinpoint import pinpoint_tune  # noqa: E402
from spt_lens.yesman import Yesman  # noqa: E402

KILLS = 22
Export = Callable[[Path], object]


def contents(folder: Path) -> dict[str, str]:
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def repeated(place: Path, one: Export, other: Export) -> dict[str, Any]:
    """What is found after each kill, while the two take turns."""
    place.mkdir()
    out, known = place / "out", {}
    for name, export in {"new": other, "old": one}.items():
        export(out)
        known[name] = contents(out)
    one(place / "counted")
    found, kills, now = [], 0, "old"
    for moment in moments(partial(other, place / "counted"), KILLS):
        kills += killed(partial(other if now == "old" else one, out), moment)
        now = next((name for name, each in known.items() if contents(out) == each), "another")
        found.append(now)
    one(out)
    left = sorted(os.listdir(place))
    return {"kills": kills, "found": found, "left": left, "same": contents(out) == known["old"]}


def full(place: Path, one: Export, other: Export, step: int) -> dict[str, Any]:
    """The disk is full at one write after the other, or at each `step`th."""
    place.mkdir()
    one(out := place / "out")
    old, failed, said = contents(out), 0, True
    for number in itertools.count(1, step):
        try:
            if not full_at(partial(other, out), number):
                break
        except OSError as error:
            failed += 1
            said &= error.errno == errno.ENOSPC and contents(out) == old and os.listdir(place) == ["out"]
        else:  # it was written before what failed
            one(out)
    return {"failed": failed, "said": said}


def between(place: Path, one: Export, other: Export) -> dict[str, Any]:
    """A kill between two moves, where names can't be exchanged."""
    place.mkdir()
    one(out := place / "out")
    old, plain, calls = contents(out), os.replace, itertools.count(1)

    def replaced(*names: Any) -> None:
        if next(calls) == 2:
            die()
        plain(*names)

    def export() -> None:
        exports._exchanged = lambda *names: False  # type: ignore[assignment]
        os.replace = replaced  # type: ignore[assignment]
        other(out)

    told: dict[str, Any] = {"killed": killed(export, 0), "gone": not out.exists()}
    with suppress(FileExistsError), exports.replacing(out, 0, overwrite=False):
        told["replaced"] = True
    return told | {"back": contents(out) == old, "left": os.listdir(place)}


def main(model_folder: str, folder: str) -> None:
    torch.set_num_threads(1)
    model, place = load_model(model_folder, device="cpu"), Path(folder)
    adapters: list[Adapter] = []
    for lr in (1e-2, 2e-2):
        config, data = TuneConfig(lr=lr, steps=2, batch_size=2), Yesman().cases("train", n=4)
        tuned = pinpoint_tune(model, HeadSet.parse("L1.H1"), data, config, progress=False)
        tuned.undo(model)
        adapters.append(tuned.adapter)

    def tuned_model(adapter: Adapter, out: Path) -> None:
        with adapter.applied(model):
            export_hf(model, out, overwrite=True, progress=False)

    def checkpoint(adapter: Adapter, out: Path) -> None:
        export_hf(adapter, out, base=model_folder, overwrite=True, progress=False)

    told: dict[str, Any] = {}
    for name, export in {"model": tuned_model, "adapter": checkpoint}.items():
        told[name] = repeated(place / name, *(partial(export, each) for each in adapters))
    for name, export, step in (("model full", tuned_model, 4), ("adapter full", checkpoint, 1)):
        told[name] = full(place / name, *(partial(export, each) for each in adapters), step)
    told["between"] = between(place / "between", *(partial(checkpoint, each) for each in adapters))
    print(json.dumps(told))


if __name__ == "__main__":
    main(*sys.argv[1:])
