"""Every rival on SmolLM2 beside the chosen and random heads: `python -m tools.rivals`.

The study's data, suites and rule of choosing (tools/study/rivals.json): each method's rate or strength is chosen on the
validation split, and figures are told on the test split. It goes on where it was stopped: what is done is in the folder
of --out. Writes notebooks/results/rivals.json and the tables of docs/rivals.md; with --table it makes these alone.
"""

from __future__ import annotations

import argparse
import time
import warnings
from pathlib import Path

import spt_lens as spt
from spt_lens.behaviours.bank import question_bank
from spt_lens.evaluate.comparison import Comparison
from spt_lens.study.settings import StudySettings
from spt_lens.study.stages import STAGES
from spt_lens.study.work import Work
from tools.marks import put_between
from tools.study import tables

SETTINGS, RESULT, PAGE = Path("tools/study/rivals.json"), Path("notebooks/results/rivals.json"), Path("docs/rivals.md")
NEEDED = ("ask", "pairs", "scores", "heads", "trials")  # of a study's stages


def measured(work: Work) -> Comparison:
    """The comparison, after the stages that it rests on."""
    for stage in NEEDED:
        began = time.perf_counter()
        STAGES[stage](work, True)
        print(f"{stage}: {time.perf_counter() - began:.0f} s", flush=True)
    assert work.comparison is not None
    return work.comparison


def write(comparison: Comparison) -> None:
    """The tables of the page."""
    for name, text in texts(comparison).items():
        put_between(PAGE, *marks(name), text)


def texts(comparison: Comparison) -> dict[str, str]:
    """What stands between the marks, by their names."""
    every = tuple(metric for metric in tables.ORDER if metric not in ("ends right: own wrong", "ability"))
    whole = tables.methods_table(comparison, metrics=every)
    return {
        "rivals": f"{whole}\n\n{tables.caption(comparison)}",
        "strengths": tables.rates_table(comparison),
        "cost": tables.cost_table(comparison),
    }


def marks(name: str) -> tuple[str, str]:
    return f"<!-- {name}: python -m tools.rivals -->", f"<!-- end of {name} -->"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2", help="a checkpoint")
    parser.add_argument("--device", help="default: what load_model takes")
    parser.add_argument("--settings", type=Path, default=SETTINGS)
    parser.add_argument("--out", type=Path, default=Path("spt-lens-rivals"), help="where trials are kept")
    parser.add_argument("--result", type=Path, default=RESULT, help="the comparison's file; the page is made of it")
    parser.add_argument("--workers", type=int, default=1, help="processes that share the trials")
    parser.add_argument("--table", action="store_true", help="only make the page's tables of the result")
    given = parser.parse_args()
    if not given.table:
        given.out.mkdir(parents=True, exist_ok=True)
        model = spt.load_model(given.model, device=given.device)
        behaviour = spt.AreYouSure(question_bank(), name="question bank")
        work = Work(model, behaviour, given.out, StudySettings.load(given.settings), workers=given.workers)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            comparison = measured(work)
        comparison.save(given.result)
        print("\n\n".join(texts(comparison).values()))
    if given.result == RESULT:
        write(Comparison.load(RESULT))


if __name__ == "__main__":
    main()
