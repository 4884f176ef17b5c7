"""Makes a comparison again and again in processes that are killed as they write, each going on from the last.

`python tests/evaluate/broken_off.py MODEL FOLDER` prints as JSON how many were killed, and the figures of the
comparisons that were completed that way, first those of one that was never killed. Forked, so that all is imported and
loaded once: with one thread, torch bears that.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]

from kills import at_operation, begun, ended  # noqa: E402

from spt_lens.behaviours.judging import AnswerJudge  # noqa: E402
from spt_lens.evaluate.compare import compare  # noqa: E402
from spt_lens.evaluate.comparison import Comparison  # noqa: E402
from spt_lens.evaluate.trials import Contender  # noqa: E402
from spt_lens.heads import HeadSet  # noqa: E402
from spt_lens.model.loading import load_model  # noqa: E402
from spt_lens.model.view import Model  # noqa: E402
from spt_lens.tune.pinpoint import Pinpoint  # noqa: E402
from spt_lens.tune.training import TuneConfig  # noqa: E402
from spt_lens.yesman import Yesman  # noqa: E402

METHODS = [Contender("chosen heads", Pinpoint(HeadSet.parse("L1.H1 L2.H3")), (1e-3, 1e-2))]
KILLS = 20


def compared(model: Model, folder: Path) -> None:
    """Makes a comparison in a folder, with test at the chosen rate alone."""
    suites = {}
    for split in ("validation", "test"):
        whole = Yesman().suite(split, n=1, n_ability=1, n_texts=2)
        suites[split] = replace(whole, judge=AnswerJudge(max_new_tokens=2), first_tokens=2)
    given: dict[str, Any] = {"dialogues": Yesman().training(n=4), "config": TuneConfig(steps=2, batch_size=2)}
    given |= {"suites": suites, "test_each": False, "out": folder / "runs.jsonl", "progress": False}
    compare(model, methods=METHODS, seeds=(0, 1), **given).save(folder / "comparison.json")


def figures(folder: Path) -> list[str]:
    found = Comparison.load(folder / "comparison.json")
    return [found.frontier.drop(columns="seconds").to_json(), found.table.to_json()]


def main(model_folder: str, place: str) -> None:
    torch.set_num_threads(1)
    model = load_model(model_folder, device="cpu")
    kills, complete, operations = 0, [], 0
    folder = Path(place) / "whole"
    folder.mkdir()
    assert ended(begun(partial(compared, model, folder))) == 0
    complete.append(figures(folder))
    left: list[str] = []
    while True:
        folder = Path(place) / str(len(complete))
        folder.mkdir(exist_ok=True)
        operations = operations % 17 + 1
        never = kills >= KILLS
        prepare = (lambda: None) if never else at_operation(operations, folder)
        if ended(begun(partial(compared, model, folder), prepare)):
            kills += 1
            continue
        complete.append(figures(folder))
        left += [path.name for path in folder.iterdir() if path.name not in ("runs.jsonl", "comparison.json")]
        if never:
            break
    print(json.dumps({"kills": kills, "complete": complete, "left": left}))


if __name__ == "__main__":
    main(*sys.argv[1:])
