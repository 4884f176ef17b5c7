"""Tunes a model again and again in processes of its own that are killed at given points, each going on from the last.

`python tests/tune/killed.py MODEL FOLDER` prints as JSON what each was ended by, whether what came out at the end is a
never killed run's to the bit, and how many steps the last part of it took. Forked, so that all is imported and loaded
once: with one thread, torch bears that.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import torch

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]

from spt_lens import saving  # noqa: E402
from spt_lens.heads import HeadSet  # noqa: E402
from spt_lens.model.loading import load_model  # noqa: E402
from spt_lens.model.view import Model, ModelView  # noqa: E402
from spt_lens.tune.config import TuneConfig  # noqa: E402
from spt_lens.tune.pinpoint import pinpoint_tune  # noqa: E402
from spt_lens.yesman import Yesman  # noqa: E402

CASES, KEEP = Yesman().cases("train", n=16), Yesman().cases("train", "supporting", n=5)
CONFIG = TuneConfig(
    lr=1e-2, steps=12, batch_size=3, weight_decay=0.1, kl_weight=0.4, validate_every=2, save_every=2, patience=50
)


def die(*args: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def at_call(number: int, module: object, name: str, after: bool = False) -> Callable[[], None]:
    """Makes the process kill itself in a call of a function, before or after the function did its work."""

    def install() -> None:
        function, calls = getattr(module, name), itertools.count(1)

        def counted(*args, **options):
            last = next(calls) == number
            if last and not after:
                die()
            found = function(*args, **options)
            if last:
                die()
            return found

        setattr(module, name, counted)

    return install


POINTS: dict[str, Callable[[], None]] = {
    "in the first save": at_call(1, os, "fsync"),
    "in a step, its weights moved": at_call(5, torch.optim.AdamW, "step", after=True),
    "in a save, before its rename": at_call(2, os, "replace"),
    "after a save": at_call(1, os, "replace", after=True),
    "in a backward pass": at_call(3, torch.Tensor, "backward"),
    "not at all": lambda: None,
}


def run(model: Model, folder: Path, out: Path, prepare: Callable[[], None]) -> int:
    """The signal that ended it."""
    child = os.fork()
    if child:
        return os.WTERMSIG(os.waitpid(child, 0)[1])
    try:
        prepare()
        steps: list[float] = []
        more = {
            "validation": CASES[:4],
            "keep": KEEP,
            "progress": False,
            "on_step": lambda row: steps.append(row["step"]),
        }
        tuned = pinpoint_tune(model, HeadSet.parse("L1.H1 L2.H3"), CASES, CONFIG, resume=folder, **more)
        weights = dict(ModelView(model).weights())
        about = {"history": tuned.history.drop(columns="seconds", errors="ignore").to_json(), "steps": len(steps)}
        before = {f"before.{name}": value for name, value in tuned.adapter.before.items()}
        saving.save_tensors(out, "outcome", weights | before, about)
        os._exit(0)
    finally:
        os._exit(1)


def main(model_folder: str, folder: str) -> None:
    torch.set_num_threads(1)
    model, place = load_model(model_folder, device="cpu"), Path(folder)
    run(model, place / "whole", place / "whole.out", POINTS["not at all"])
    ended = {name: run(model, place / "killed", place / "killed.out", prepare) for name, prepare in POINTS.items()}
    run(model, place / "killed", place / "again.out", POINTS["not at all"])
    found = {name: saving.load_tensors(place / f"{name}.out", "outcome") for name in ("whole", "killed", "again")}
    (whole, expected), untuned = found["whole"], ModelView(model).weights()
    told = {
        "ended": ended,
        "moved": not all(torch.equal(whole[name], weight) for name, weight in untuned.items()),
        "same": {
            name: all(saving.same_bits(whole[key], each[key]) for key in whole) for name, (each, _) in found.items()
        },
        "history": {name: about["history"] == expected["history"] for name, (_, about) in found.items()},
        "steps": {name: about["steps"] for name, (_, about) in found.items()},
    }
    print(json.dumps(told))


if __name__ == "__main__":
    main(*sys.argv[1:])
