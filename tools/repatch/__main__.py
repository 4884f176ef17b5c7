"""Patching again after tuning: do the chosen heads' effects shrink, and where does the behaviour go?

python -m tools.repatch --model models/smollm2 --out FOLDER
python -m tools.repatch --model yesman --out FOLDER
python -m tools.repatch --write

It goes on where it was ended; what is done lies in the folder. The result is notebooks/results/repatch-NAME.json; with
--write the tables and pictures of docs/patching-again.md are made of what lies there.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

import spt_lens as spt
from spt_lens import saving
from spt_lens.data.check import answers_read
from spt_lens.evaluate.repatch import repatch
from spt_lens.evaluate.repatched import Repatched
from spt_lens.model.held import to_the_end
from spt_lens.model.view import ModelView
from spt_lens.scores.head_scores import HeadScores
from spt_lens.tune.adapter import Adapter
from spt_lens.tune.pinpoint import Pinpoint
from tools.repatch.page import KIND, completed, record, result_path, write_all
from tools.repatch.plans import OWN, PLANS, Case, Opened, Reading, opened, quick


def adapter_of(work: Opened, case: Case, out: Path) -> Adapter:
    """Of the case's tuned heads; the model is left untuned."""
    folder = out / "adapters" / case.key
    if not (folder / "adapter.safetensors").exists():
        config = replace(work.plan.settings.tune, lr=work.plan.lr)
        torch.set_float32_matmul_precision("medium")  # of the tuning alone, as other commands have it on a CPU
        tuned = Pinpoint(case.moved).tune(work.model, work.dialogues, config, keep=work.keep or None, progress=False)
        torch.set_float32_matmul_precision("highest")
        to_the_end(tuned.undo, work.model)
        if tuned.interrupted:
            raise KeyboardInterrupt
        tuned.save(folder)
    return Adapter.load(folder)


def untuned(work: Opened, reading: Reading, out: Path) -> HeadScores:
    """The untuned model's scores, measured once."""
    path = out / f"before-{reading.name.replace(' ', '-')}.safetensors"
    if not path.exists():
        measure = {"activation": spt.activation_patching, "path": spt.path_patching}[reading.method]
        how: Any = {"direction": reading.direction, "batch_size": 32, "progress": False}
        measure(work.model, work.pairs[reading.name], **how).save(path)
    return HeadScores.load(path)


def read(work: Opened, case: Case, reading: Reading, out: Path) -> None:
    """Patches again, and keeps what came of it."""
    found = repatch(
        work.model,
        adapter_of(work, case, out),
        work.pairs[reading.name],
        case.heads,
        method=reading.method,
        direction=reading.direction,
        n_random=work.plan.n_random,
        before=untuned(work, reading, out),
        progress=False,
    )
    found.save(place(out, case, reading))
    print(f"\n{case.key}, {reading.name}\n{found.summary()}", flush=True)


def place(out: Path, case: Case, reading: Reading) -> Path:
    return out / f"{case.key}-{reading.name.replace(' ', '-')}.json"


def run(work: Opened, out: Path, end: float) -> bool:
    """Whether all was done before the time was over."""
    for reading in work.plan.readings:
        for case in work.cases:
            if place(out, case, reading).exists() or not (reading.controls or case.tuned == OWN):
                continue
            pieces: list[Callable[[], object]] = [
                partial(untuned, work, reading, out),
                partial(adapter_of, work, case, out),
                partial(read, work, case, reading, out),
            ]
            for piece in pieces:
                if time.time() > end:
                    return False
                piece()
    return True


def result(work: Opened, out: Path, name: str) -> dict[str, Any] | None:
    """What is done so far, as the committed file holds it: figures of every case, and all heads of the first one."""
    found, first = [], None
    for reading in work.plan.readings:
        for case in work.cases:
            if (path := place(out, case, reading)).exists():
                answers = answers_read(ModelView(work.model), work.pairs[reading.name])
                one = completed(Repatched.load(path), untuned(work, reading, out), answers)
                first = first or one
                found.append(record(one, case, reading.name))
    if first is None:
        return None
    tune = work.plan.settings.tune
    about = {"model": first.model_name, "pairs": work.plan.n, "dialogues": len(work.dialogues), "lr": work.plan.lr}
    about |= {"steps": tune.steps, "batch_size": tune.batch_size, "kl_weight": tune.kl_weight}
    return {"name": name, **about, "cases": found, "first": first.to_json()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help=f"a folder, whose name is one of {', '.join(PLANS)}, or yesman")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=Path("spt-lens-repatch"), help="where all that is done is kept")
    parser.add_argument("--result", type=Path, help="the result's file; default: in notebooks/results")
    parser.add_argument("--minutes", type=float, help="nothing is begun after so many; the result is what there is")
    parser.add_argument("--quick", action="store_true", help="next to nothing: only to see that it runs")
    parser.add_argument("--write", action="store_true", help="make tables and pictures of the results that are there")
    given = parser.parse_args()
    if given.write:
        for path in write_all():
            print(f"Wrote {path}")
        return
    name = Path(given.model or "").name
    if name not in PLANS:
        parser.error(f"--model must be a folder whose name is one of {', '.join(PLANS)}")
    end = time.time() + 60 * (given.minutes or 1e4)
    given.out.mkdir(parents=True, exist_ok=True)
    warnings.simplefilter("ignore")
    torch.set_float32_matmul_precision("highest")
    plan = quick(PLANS[name]) if given.quick else PLANS[name]
    work = opened(plan, spt.load_model(given.model, device=given.device), given.out)
    done = run(work, given.out, end)
    if (found := result(work, given.out, name)) is not None:
        print("Wrote", saving.save_json(given.result or result_path(name), KIND, found))
    print("All is done" if done else "There is more to do")


if __name__ == "__main__":
    main()
