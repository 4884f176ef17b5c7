"""Runs a study again and again in processes that are killed in stage after stage, each going on from the last.

One study is killed at moments of stages, another at numbers of files that are written, and a third is of two processes
at once. `python tests/study/stopped.py MODEL FOLDER` prints as JSON what each was ended by, and the digests of what
came of these, and of a study that was never killed. Forked, so that all is imported and loaded once: with one thread,
torch bears that.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]

from kills import at_operation, begun, die, ended  # noqa: E402

from spt_lens import saving  # noqa: E402
from spt_lens.behaviours.are_you_sure import AreYouSure  # noqa: E402
from spt_lens.evaluate import sharing  # noqa: E402
from spt_lens.model.loading import load_model  # noqa: E402
from spt_lens.study import stages  # noqa: E402
from spt_lens.study.settings import StudySettings  # noqa: E402
from spt_lens.study.study import Study  # noqa: E402
from spt_lens.study.work import FILES  # noqa: E402
from spt_lens.tune.config import TuneConfig  # noqa: E402
from spt_lens.yesman.facts import all_facts  # noqa: E402

METHODS = ("chosen heads", "full fine-tuning", "LoRA on the chosen heads", "random heads")
SETTINGS = StudySettings(
    n_asked=8,
    pairs={"n": 4},
    words="found",
    share=0.1,
    n_verify=2,
    n_sets=1,
    training={"n": 8},
    validation={"n": 3},
    test={"n": 3},
    n_prompts=2,
    n_choices=4,
    keep=2,
    methods=METHODS,
    rates=dict.fromkeys(METHODS, [1e-2]),
    seeds=(0,),
    n_random=1,
    tune=TuneConfig(steps=2, batch_size=4, kl_weight=0.1),
)


def behaviour() -> AreYouSure:
    """Of which even a random model gets some right: the likeliest option is its answer."""
    return AreYouSure.multiple_choice([fact.to_ask for fact in all_facts()], how="likelihood")


def naming(name: str, after: bool = False) -> Callable[[], None]:
    """Makes the process kill itself just before, or after, a file or folder gets its name."""

    def install() -> None:
        for function in ("replace", "rename"):
            plain = getattr(os, function)

            def renamed(old: Any, new: Any, plain: Any = plain, **options: Any) -> None:
                here = Path(new).name == name
                if here and not after:
                    die()
                plain(old, new, **options)
                if here:
                    die()

            setattr(os, function, renamed)

    return install


def at_step(number: int) -> Callable[[], None]:
    """In a step of some tuning, its weights moved."""

    def install() -> None:
        plain, calls = torch.optim.AdamW.step, iter(range(number))

        def step(*args: Any, **options: Any) -> Any:
            found = plain(*args, **options)
            if next(calls, None) == number - 1:
                die()
            return found

        torch.optim.AdamW.step = step  # type: ignore[method-assign]

    return install


def in_a_line() -> None:
    """Half of a trial's line is written."""
    plain = sharing.append_trial

    def half(path: Path, key: str, trial: Any) -> None:
        before = path.stat().st_size
        plain(path, key, trial)
        os.truncate(path, before + (path.stat().st_size - before) // 2)
        die()

    sharing.append_trial = half


POINTS: dict[str, Callable[[], None]] = {
    "before the answers have their name": naming(FILES["ask"]),
    "before the scores": naming(FILES["scores"]),
    "after the null": naming(FILES["null"], after=True),
    "before the knockout": naming(FILES["knockout"]),
    "in the second trial": at_step(3),
    "in a line of results": in_a_line,
    "before the comparison": naming(FILES["trials"]),
    "in the last tuning": at_step(2),
    "before the export": naming(FILES["export"]),
    "before the report": naming(FILES["report"]),
    "not at all": lambda: None,
}


OPERATIONS = range(3, 17)  # how many files are written, named, made or removed before the next kill


def run(study: Callable[[Path], Study], out: Path, prepare: Callable[[], None]) -> int:
    """The signal that ended it."""
    return ended(begun(lambda: study(out).run(progress=False), prepare))


def outcome(out: Path) -> dict[str, str]:
    """A digest of every file, but for the seconds that stages and trials took."""
    found = {}
    for path in sorted(out.rglob("*")):
        if path.suffix in (".json", ".safetensors") or path.name == "picker.html":
            data = path.read_bytes()
            if path.name == FILES["trials"]:
                whole = json.loads(data)
                for trial in whole["runs"]:
                    trial["seconds"] = 0
                whole.pop(saving.SEAL)  # which is also of the seconds
                data = json.dumps(whole).encode()
            found[str(path.relative_to(out))] = hashlib.sha256(data).hexdigest()
    found.pop("seconds.json", None)
    return found


def main(model_folder: str, folder: str) -> None:
    torch.set_num_threads(1)
    model, place = load_model(model_folder, device="cpu"), Path(folder)
    # The page has tests of its own.
    stages.write_study_report = lambda work: saving.write_text(work.path("report"), "")  # type: ignore[assignment]

    def study(out: Path) -> Study:
        return Study(model, behaviour(), out, SETTINGS, export=True)

    stages_ended = {name: run(study, place / "killed", prepare) for name, prepare in POINTS.items()}
    often = [run(study, place / "often", at_operation(n, place / "often")) for n in OPERATIONS]
    run(study, place / "often", POINTS["not at all"])
    two = [begun(lambda: study(place / "two").run(progress=False)) for _ in range(2)]
    told = {"ended": stages_ended, "often": often, "two": [ended(each) for each in two]}
    run(study, place / "whole", POINTS["not at all"])
    told["outcomes"] = {name: outcome(place / name) for name in ("whole", "killed", "often", "two")}
    told["left"] = [str(path) for path in place.rglob("*") if path.name.startswith(".") or path.suffix == ".tmp"]
    print(json.dumps(told))


if __name__ == "__main__":
    main(*sys.argv[1:])
