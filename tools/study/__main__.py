"""`python -m tools.study [FOLDER]`: the pages' tables and pictures from notebooks/results/study; first what is kept of
a finished study's folder, if one is named."""

import sys
from pathlib import Path

from tools.study.kept import keep, write_all

if len(sys.argv) > 2:
    sys.exit(__doc__)
for given in sys.argv[1:]:
    keep(Path(given))
for path in write_all():
    print(f"Wrote {path}")
