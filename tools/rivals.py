"""Every rival on SmolLM2 beside the chosen and random heads: `python -m tools.rivals`.

The study's data, suites and rule of choosing (tools/study/rivals.json): each method's rate or strength is chosen on the
validation split, and figures are told on the test split. It goes on where it was stopped: what is done is in the folder
of --out. Writes notebooks/results/rivals.json and the tables of docs/rivals.md; with --table it makes these alone.

python -m tools.rivals --shams --minutes 4     each method on sham data and along random directions, once that is there
python -m tools.rivals --bf16                  the main methods in bfloat16, with more data (tools/study/bf16.json)
"""

from __future__ import annotations

import argparse
import time
import warnings
from pathlib import Path

import torch

import spt_lens as spt
from spt_lens.behaviours.bank import question_bank
from spt_lens.evaluate.comparison import Comparison
from spt_lens.study.settings import StudySettings
from spt_lens.study.stages import STAGES
from spt_lens.study.work import Work
from tools import rival_shams
from tools.marks import put_between
from tools.rival_shams import Shams
from tools.study import tables

SETTINGS, RESULT, PAGE = Path("tools/study/rivals.json"), Path("notebooks/results/rivals.json"), Path("docs/rivals.md")
SHAMS = Path("notebooks/results/rivals-shams.json")
BF16_SETTINGS, BF16 = Path("tools/study/bf16.json"), Path("notebooks/results/rivals-bf16.json")
NEEDED = ("ask", "pairs", "scores", "heads", "trials")  # of a study's stages
DTYPES = ("float32", "bfloat16", "float16")
NOT_YET = "Not run yet: there are no figures."


def measured(work: Work) -> Comparison:
    """The comparison, after the stages that it rests on."""
    for stage in NEEDED:
        began = time.perf_counter()
        STAGES[stage](work, True)
        print(f"{stage}: {time.perf_counter() - began:.0f} s", flush=True)
    assert work.comparison is not None
    return work.comparison


def write() -> None:
    """The tables of the page, of the results that are kept."""
    for name, text in kept_texts().items():
        put_between(PAGE, *marks(name), text)


def kept_texts() -> dict[str, str]:
    """What stands between the marks, by their names."""
    comparison = Comparison.load(RESULT)
    shams = rival_shams.table(comparison, Shams.load(SHAMS)) if SHAMS.exists() else NOT_YET
    bf16 = main_table(Comparison.load(BF16)) if BF16.exists() else NOT_YET
    return {**texts(comparison), "shams": shams, "bf16": bf16}


def texts(comparison: Comparison) -> dict[str, str]:
    """Those of the comparison."""
    rates, cost = tables.rates_table(comparison, edges=True), tables.cost_table(comparison)
    return {"rivals": main_table(comparison), "strengths": rates, "cost": cost}


def main_table(comparison: Comparison) -> str:
    every = tuple(metric for metric in tables.ORDER if metric not in ("ends right: own wrong", "ability"))
    return f"{tables.methods_table(comparison, metrics=every)}\n\n{tables.caption(comparison)}"


def marks(name: str) -> tuple[str, str]:
    how = {"shams": " --shams", "bf16": " --bf16"}.get(name, "")
    return f"<!-- {name}: python -m tools.rivals{how} -->", f"<!-- end of {name} -->"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2", help="a checkpoint")
    parser.add_argument("--device", help="default: what load_model takes")
    parser.add_argument("--dtype", choices=DTYPES, help="of the weights; default: float32, with --bf16 bfloat16")
    parser.add_argument("--settings", type=Path, help=f"default: {SETTINGS}, with --bf16 {BF16_SETTINGS}")
    parser.add_argument("--out", type=Path, help="where trials are kept")
    parser.add_argument("--result", type=Path, help="the result's file; the page is made of the kept ones")
    parser.add_argument("--workers", type=int, default=1, help="processes that share the trials")
    parser.add_argument("--minutes", type=float, help="with --shams: no trial is begun after so many")
    parser.add_argument("--shams", action="store_true", help="sham data and random directions, at the chosen rates")
    parser.add_argument("--bf16", action="store_true", help="the main methods in bfloat16, with more data")
    parser.add_argument("--table", action="store_true", help="only make the page's tables of the results")
    given = parser.parse_args()
    if given.minutes is not None and not given.shams:
        parser.error("--minutes is for --shams")
    if given.shams and given.bf16:
        parser.error("--shams are of the comparison in float32: leave --bf16 out")
    usual = (BF16_SETTINGS, BF16, "spt-lens-rivals-bf16") if given.bf16 else (SETTINGS, RESULT, "spt-lens-rivals")
    result = given.result or (SHAMS if given.shams else usual[1])
    if not given.table:
        until = None if given.minutes is None else time.monotonic() + 60 * given.minutes
        out = given.out or Path(usual[2])
        out.mkdir(parents=True, exist_ok=True)
        dtype = getattr(torch, given.dtype or ("bfloat16" if given.bf16 else "float32"))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = spt.load_model(given.model, device=given.device, dtype=dtype)
            behaviour = spt.AreYouSure(question_bank(), name="question bank")
            settings = StudySettings.load(given.settings or usual[0])
            work = Work(model, behaviour, out, settings, workers=given.workers)
            if given.shams:
                comparison = Comparison.load(RESULT)  # whose heads and rates these are
                shams = rival_shams.run(work, comparison, until)
                shams.save(result)
                print(rival_shams.table(comparison, shams))
            else:
                comparison = measured(work)
                comparison.save(result)
                print("\n\n".join(texts(comparison).values()))
    if result in (RESULT, SHAMS, BF16):
        write()


if __name__ == "__main__":
    main()
