"""The tables and pictures of yesman in README and docs, made from what `spt-lens compare` saved: `make figures`."""

from __future__ import annotations

from pathlib import Path

import plotly.graph_objects as go

from spt_lens.evaluate.comparison import Comparison
from spt_lens.heads import HeadSet
from spt_lens.scores.head_scores import HeadScores
from spt_lens.study.reach import RULE, reach_table, saturation, split_of
from tools.marks import markdown, put_between
from tools.pictures import check_pictures, write_picture

README, PAGE, RESULTS = Path("README.md"), Path("docs/embedded-model.md"), Path("notebooks/results")
SHOWN = {
    "discernment": "discernment",
    "confidence": "confidence",
    "truthfulness": "truthfulness",
    "retracted": "wrong retracted",
    "self_correction": "self-correction",
    "ability": "abilities",
    "kl": "drift (KL)",
}
BEGIN, END = "<!-- results: make figures -->", "<!-- end of results -->"


def markdown_table(comparison: Comparison) -> str:
    """The test split at the learning rates that validation chose, with 95 % intervals, as Markdown."""
    found = comparison.intervals.set_index(["method", "metric"])
    rows = []
    for row in comparison.table.itertuples():
        runs = comparison.choice.get(row.method)
        cells = {"method": row.method, "tuned": f"{row.share:.1%}", "lr": "" if runs is None else f"{row.lr:g}"}
        for metric, label in SHOWN.items():
            value = found.loc[(row.method, metric)]
            digits = 4 if metric == "kl" else 3
            cells[label] = f"{value['value']:.{digits}f} [{value['low']:.{digits}f}, {value['high']:.{digits}f}]"
        cells["largest loss of one ability"] = "" if runs is None else f"{row.worst_ability_loss:.3f}"
        rows.append(cells)
    return markdown(rows)


def shown_first(comparison: Comparison) -> str:
    """What the README shows: the table; where it would be a row of ones, what each method takes to reach them."""
    full = saturation(comparison)
    if not full:
        return f"{markdown_table(comparison)}\n\n{caption(comparison)}"
    rows = reach_table(comparison).to_dict("records")
    return f"{full}\n\n{markdown(rows)}\n\n{cases(comparison)} {RULE.format(split=split_of(comparison))}"


def cases(comparison: Comparison) -> str:
    """How many cases and dialogues are behind a table."""
    untuned = comparison.untuned.evaluations["test"]
    return (
        f"Test split: {untuned['confidence'].n} right and {untuned['retracted'].n} wrong first answers challenged, "
        f"{untuned['ability'].n} ability dialogues, {untuned['kl'].n} texts for drift. "
        f"{comparison.settings['steps']} steps of {comparison.settings['batch_size']} dialogues for every method."
    )


def caption(comparison: Comparison) -> str:
    """The same, and the runs behind each row of the whole table."""
    runs = {row.method: row.runs for row in comparison.table.itertuples() if row.method in comparison.choice}
    seeds = ", ".join(f"{name} {n}" for name, n in runs.items())
    return (
        f"{cases(comparison)} Runs behind a row: {seeds}; means over tuning seeds, for random heads the median over "
        "draws. In brackets: 95 % intervals over the cases."
    )


def pictures(results: Path) -> dict[str, go.Figure]:
    """The README's pictures by file name: the head map with the chosen heads, and the frontiers on the test split."""
    comparison = Comparison.load(results / "comparison.json")
    scores = HeadScores.load(results / "scores.safetensors")
    chosen = HeadSet.parse(next(trial.spec.heads for trial in comparison.trials if trial.spec.method == "chosen heads"))
    return {
        "heatmap.png": scores.heatmap(chosen=chosen),
        "frontier.png": comparison.figure(x="kl", split="test"),
        "frontier-ability.png": comparison.figure(x="ability_loss", split="test"),
    }


def write_all(results: Path, readme: Path, page: Path) -> list[Path]:
    """Writes the pictures into the results' folder, and the tables into the README and its page. Returns all paths.

    Raises: ValueError or OSError for a folder without results; ImportError without kaleido.
    """
    check_pictures()
    written = []
    for name, figure in pictures(results).items():
        written.append(write_picture(results / name, figure))
    comparison = Comparison.load(results / "comparison.json")
    update_readme(readme, comparison)
    update_page(page, comparison)
    return [*written, readme, page]


def update_readme(readme: Path, comparison: Comparison) -> bool:
    """Puts what is shown first between the README's marks. Returns whether that changed anything.

    Raises: ValueError if the marks are not there.
    """
    return put_between(readme, BEGIN, END, shown_first(comparison))


def update_page(page: Path, comparison: Comparison) -> bool:
    """The same with every figure, on the page of the embedded model."""
    return put_between(page, BEGIN, END, f"{markdown_table(comparison)}\n\n{caption(comparison)}")


if __name__ == "__main__":
    for path in write_all(RESULTS, README, PAGE):
        print(f"Wrote {path}")
