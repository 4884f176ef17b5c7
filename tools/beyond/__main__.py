"""What each way of tuning changes beyond the tuned behaviour: other pressure, other kinds, refusals, ability, drift.

python -m tools.beyond --model models/smollm2 --device cuda --out FOLDER --processes 6 --minutes 4
python -m tools.beyond --model yesman --out FOLDER
python -m tools.beyond --plan smollm2 --out FOLDER --collect
python -m tools.beyond --table

Methods are tuned once, at the rates that validation chose in notebooks/results (nothing is chosen here), and evaluated
on the test split and on suites that tuning has nothing of. It goes on where it was ended; what is done lies in the
folder, which takes nothing of other settings or weights; an answers.json there is not asked again. The result is
notebooks/results/beyond-NAME.json; --collect makes it of a folder, and with --table the tables of docs/what-changes.md
are made of what lies there.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from tools.beyond.page import write_all
from tools.beyond.plans import PLANS
from tools.beyond.process import run
from tools.beyond.result import RESULTS, collected, result_path
from tools.sharing import begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help=f"a folder, whose name is one of {', '.join(PLANS)}, or yesman")
    parser.add_argument("--plan", choices=list(PLANS), help="whose data, heads and rates; default: the folder's name")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, help="where all that is done is kept; default: spt-lens-beyond-PLAN")
    parser.add_argument("--result", type=Path, help=f"the result's file; default: in {RESULTS}")
    parser.add_argument("--processes", type=int, default=1, help="on one device, which share the methods")
    parser.add_argument("--minutes", type=float, help="no suite is begun after so many; the result is what there is")
    parser.add_argument("--only", nargs="+", help="some methods; untuned comes with them")
    parser.add_argument("--quick", action="store_true", help="next to nothing: only to see that it runs")
    parser.add_argument("--collect", action="store_true", help="measure nothing: the result is what lies in the folder")
    parser.add_argument("--table", action="store_true", help="make the tables of the results that are there")
    given = parser.parse_args()
    if given.table:
        for path in write_all():
            print(f"Wrote {path}")
        return
    given.plan = given.plan or Path(given.model or "").name
    if (given.model is None and not given.collect) or given.plan not in PLANS:
        parser.error(f"--model must be a folder whose name is one of {', '.join(PLANS)}, or --plan say which it is")
    if unknown := set(given.only or ()) - set(PLANS[given.plan].methods):
        parser.error(f"--only has {', '.join(sorted(unknown))}: choose some of {', '.join(PLANS[given.plan].methods)}")
    given.out = given.out or Path(f"spt-lens-beyond-{given.plan}{'-quick' if given.quick else ''}")
    if not given.collect:
        measure(given)
    found = collected(given.out)
    path = given.result or (given.out if given.quick else RESULTS) / result_path(given.plan).name
    print("Wrote", found.save(path), f"({path.stat().st_size:,} bytes)")
    print(found.summary())


def measure(given: argparse.Namespace) -> None:
    end, others = begun(run, given)
    run(given, 0, end)
    for other in others:
        other.join()


if __name__ == "__main__":
    main()
