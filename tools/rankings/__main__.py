"""Which ranking of heads to use: every ranking of a model's heads beside its sham and layer-matched random heads.

python -m tools.rankings --model models/smollm2 --device cuda --out FOLDER --processes 8 --minutes 6
python -m tools.rankings --model yesman --out FOLDER
python -m tools.rankings --write

It goes on where it was ended; what is done lies in the folder. The result is notebooks/results/rankings-NAME.json; with
--write the tables and pictures of docs/which-ranking.md are made of what lies there.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from spt_lens.study.rankings import RANKINGS
from tools.rankings.page import RESULTS, result_path, write_all
from tools.rankings.plans import PLANS
from tools.rankings.process import run
from tools.sharing import begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help=f"a folder, whose name is one of {', '.join(PLANS)}, or yesman")
    parser.add_argument("--plan", choices=list(PLANS), help="whose data and settings; default: the folder's name")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=Path("spt-lens-rankings"), help="where all that is done is kept")
    parser.add_argument("--result", type=Path, help=f"the result's file; default: in {RESULTS}")
    parser.add_argument("--processes", type=int, default=1, help="on one device, which share the work")
    parser.add_argument("--minutes", type=float, help="no trial is begun after so many; the result is what there is")
    parser.add_argument("--n", type=int, help="challenged right, and as many wrong answers that tuning is judged by")
    parser.add_argument("--draws", type=int, help="of random heads beside each ranking at 5 %% of heads")
    parser.add_argument("--layers", type=int, nargs=2, help="the first and last that heads are chosen from")
    parser.add_argument("--only", nargs="+", choices=list(RANKINGS), help="some rankings")
    parser.add_argument("--quick", action="store_true", help="next to nothing: only to see that it runs")
    parser.add_argument("--write", action="store_true", help="make tables and pictures of the results that are there")
    given = parser.parse_args()
    if given.write:
        for path in write_all():
            print(f"Wrote {path}")
        return
    given.plan = given.plan or Path(given.model or "").name
    if given.model is None or given.plan not in PLANS:
        parser.error(f"--model must be a folder whose name is one of {', '.join(PLANS)}, or --plan say which it is")
    end, others = begun(run, given)
    found = run(given, 0, end, others)
    assert found is not None
    print(found.table.to_string(index=False))
    print("Wrote", found.save(given.result or result_path(given.plan)))


if __name__ == "__main__":
    main()
