"""What is kept of a finished study's folder in notebooks/results/study, and the pages and pictures made of it."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import plotly.graph_objects as go

from spt_lens import saving
from spt_lens.behaviours.asking import Answers
from spt_lens.checking import existing_file
from spt_lens.evaluate.comparison import Comparison
from spt_lens.heads import HeadSet
from spt_lens.scores.head_scores import HeadScores
from spt_lens.study.verdict import FULL, RANDOM
from spt_lens.study.work import CHOSEN, SECONDS
from spt_lens.view.curves import frontier_figure
from tools.marks import markdown, put_between
from tools.pictures import check_pictures, write_picture
from tools.study import tables

RESULTS = Path("notebooks/results/study")
WHOLE = ("study.json", SECONDS, "comparison.json", "scores.safetensors", "heads.json", "table.csv", "frontier.csv")
ASKED, ASKED_KIND = "asked.json", "study's answers"  # the answers themselves are as many as the questions
SETTINGS = Path("tools/study/smollm2-large.json")
README, STUDY, REAL = Path("README.md"), Path("docs/study.md"), Path("docs/real-models.md")
# Where tables stand: the name in their marks, and the page.
PLACES = (
    ("study", README),
    ("goals", REAL),
    *(
        (name, STUDY)
        for name in ("asked", "heads", "test split", "goals", "frontier", "equal drift", "checks", "rates", "cost")
    ),
)


@dataclass(frozen=True)
class Kept:
    """The kept files, read."""

    comparison: Comparison
    scores: HeadScores
    heads: HeadSet
    asked: pd.DataFrame
    seconds: dict[str, float]

    @classmethod
    def load(cls, folder: Path = RESULTS) -> Kept:
        """Raises: FileNotFoundError or ValueError that names the file."""
        asked = saving.load_json(folder / ASKED, ASKED_KIND, lambda data: pd.DataFrame(data["splits"]))
        return cls(
            Comparison.load(folder / "comparison.json"),
            HeadScores.load(folder / "scores.safetensors"),
            HeadSet.load(folder / "heads.json"),
            asked,
            saving.load_json(folder / SECONDS, "seconds", lambda data: dict(data["seconds"])),
        )

    @property
    def frontier_split(self) -> str:
        """The test split, if every trial was evaluated there; else validation."""
        tuned = [trial for trial in self.comparison.trials if not trial.error]
        return "test" if all("test" in trial.evaluations for trial in tuned) else "validation"


def keep(study: Path, folder: Path = RESULTS) -> None:
    """Copies the small files of a finished study, and what its answers come to.

    Raises: FileNotFoundError for a file that is not there yet: let the study end first.
    """
    found = {name: existing_file(study / name) for name in (*WHOLE, "answers.json")}
    folder.mkdir(parents=True, exist_ok=True)
    for name in WHOLE:
        shutil.copyfile(found[name], folder / name)
    answers = Answers.load(found["answers.json"])
    rows = [row for row in saving.rows(answers.table) if row["asked"]]
    for path in sorted(study.glob("answers-*.json")):  # of the checks
        whole = saving.rows(Answers.load(path).table)[-1]
        rows.append(whole | {"split": path.stem.removeprefix("answers-")})
    saving.save_json(folder / ASKED, ASKED_KIND, {"model": answers.about["model"], "splits": rows})


def pictures(kept: Kept) -> dict[str, go.Figure]:
    """By file name: the heads' map with those that were tuned, and the frontier against drift on own replies."""
    table, goal, split = kept.comparison.frontier, kept.comparison.goal, kept.frontier_split
    table, x = table[table["split"] == split], tables.drift_of(kept.comparison)
    frontier = frontier_figure(table, x, goal, title=f"{split} split")
    frontier.update_xaxes(title=f"{tables.NAMES[x]}: next-token KL from the untuned model (nats)")
    return {"heads.png": kept.scores.heatmap(chosen=kept.heads), "frontier.png": frontier}


def texts(kept: Kept) -> dict[tuple[str, Path], str]:
    """What stands between the marks of each page, by the marks' name and the page."""
    comparison, every = kept.comparison, tables.ORDER
    found = {
        ("study", README): f"{tables.methods_table(comparison)}\n\n{tables.caption(comparison)}",
        ("goals", REAL): tables.goals_table(comparison),
        ("cost", STUDY): f"{stages_table(kept.seconds)}\n\n{tables.cost_table(comparison)}",
        ("asked", STUDY): asked_table(kept.asked),
        ("heads", STUDY): heads_text(kept),
        ("frontier", STUDY): (
            f"![{comparison.goal.capitalize()} against drift, over the learning rates of every method, on "
            f"{kept.frontier_split}](../{RESULTS}/frontier.png)"
        ),
        ("test split", STUDY): "\n\n".join(
            (tables.methods_table(comparison, metrics=every, digits=3), tables.caption(comparison))
        ),
        ("goals", STUDY): tables.goals_table(comparison),
        ("rates", STUDY): tables.rates_table(comparison),
    }
    equal = []
    for rival, share in ((RANDOM, 1.0), (FULL, 0.5)):
        if table := tables.equal_table(comparison, kept.frontier_split, share, rival):
            within = "no more drift than" if share == 1 else f"{share:g} of the drift of"
            equal.append(f"The {CHOSEN} at {within} {rival}, on {kept.frontier_split}:\n\n{table}")
    found |= {("equal drift", STUDY): "\n\n".join(equal)}
    checks = []
    for name in tables.other_splits(comparison):
        table = tables.methods_table(comparison, name, every, digits=3)
        checks.append(f"**{name}**\n\n{table}\n\n{tables.caption(comparison, name)}")
    return found | {("checks", STUDY): "\n\n".join(checks)}


def asked_table(asked: pd.DataFrame) -> str:
    """How many questions of each split the model got right."""
    rows = []
    for row in asked.itertuples():
        share = f"{row.share:.2f} [{row.low:.2f}, {row.high:.2f}]"
        rows.append({"split": row.split, "asked": str(row.asked), "right": str(row.right), "share": share})
    return markdown(rows)


def stages_table(seconds: dict[str, float]) -> str:
    """What each stage took, in minutes, on the clock."""
    rows = [{"stage": stage, "minutes": f"{value / 60:.1f}"} for stage, value in seconds.items()]
    return markdown([*rows, {"stage": "in all", "minutes": f"{sum(seconds.values()) / 60:.0f}"}])


def heads_text(kept: Kept) -> str:
    """Which heads were chosen, by what, and their map."""
    n, every = len(kept.heads), kept.scores.values.numel()
    said = f"{n} of {every} heads ({n / every:.1%}): {kept.heads}. The map is {kept.scores.describe()}."
    return f"{said}\n\n![The score of every head; those that were tuned are outlined](../{RESULTS}/heads.png)"


def marks(name: str) -> tuple[str, str]:
    return f"<!-- {name}: python -m tools.study -->", f"<!-- end of {name} -->"


def write_all(folder: Path = RESULTS) -> list[Path]:
    """Makes pictures and tables of the kept files. Returns what was written.

    Raises: FileNotFoundError or ValueError without kept files, or for a page without its marks; ImportError without
    kaleido.
    """
    check_pictures()
    kept, written = Kept.load(folder), []
    for name, figure in pictures(kept).items():
        height = 700 if name == "heads.png" else 450  # room for a label beside each layer
        written.append(write_picture(folder / name, figure, height=height))
    for (name, page), text in texts(kept).items():
        put_between(page, *marks(name), text)
        written.append(page)
    return list(dict.fromkeys(written))
