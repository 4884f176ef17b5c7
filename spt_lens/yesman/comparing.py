"""The full comparison on the embedded model, written to a folder: what `spt-lens compare` and `make compare` run."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from rich.console import Console
from rich.markup import escape

from spt_lens import saving
from spt_lens.chat.dialogues import Dialogue
from spt_lens.evaluate.compare import compare
from spt_lens.evaluate.comparison import Comparison
from spt_lens.evaluate.trials import read_trials
from spt_lens.model.loading import load_model
from spt_lens.tune.lora import LoRA
from spt_lens.tune.training import TuneConfig
from spt_lens.view.report import Section, write_report
from spt_lens.yesman import Yesman
from spt_lens.yesman.demo import DemoSettings, find, writable_folder


def run_comparison(
    out: str | Path = "spt-lens-compare",
    model_name: str = "yesman",
    workers: int = 2,
    settings: DemoSettings | None = None,
    console: Console | None = None,
    seeds: Sequence[int] = (0, 1, 2),
    kl_weight: float = 0.0,
) -> Comparison:
    """Finds the heads as the demo does, then tunes by every method over learning rates and seeds.

    kl_weight: of a KL term that keeps every method near the untuned model on ordinary text: at most 40 dialogues of
    each ability, in a draw of their own. Abilities with few dialogues (small talk, sums) share some with those that
    drift and ability are measured on.

    Writes into `out`: `scores.safetensors`, `runs.jsonl` (each trial as it ends; an interrupted comparison goes on
    there), `comparison.json`, `table.csv` (chosen settings, test split), `frontier.csv` (every trial), `report.html`.

    Raises: OSError if `out` can't be written to, or the model can't be loaded; ValueError if `out` holds a `runs.jsonl`
    that is something else; NotImplementedError if the model can't be tuned; ImportError without peft.
    """
    settings, console, out = settings or DemoSettings(), console or Console(), writable_folder(out)
    runs = out / "runs.jsonl"
    read_trials(runs)
    model = load_model(model_name)
    LoRA().check(model)
    _, scores = find(model, settings)
    scores.save(out / "scores.safetensors")
    heads = scores.top_fraction(settings.share)
    console.print(heads.summary(model))
    config, keep = TuneConfig(steps=settings.steps, kl_weight=kl_weight), ordinary_dialogues() if kl_weight else ()
    comparison = compare(model, heads, Yesman(), config=config, keep=keep, seeds=seeds, out=runs, workers=workers)
    comparison.save(out / "comparison.json")
    for name, table in (("table", comparison.table), ("frontier", comparison.frontier)):
        saving.write_text(out / f"{name}.csv", table.to_csv(index=False, float_format="%.5g"))
    report = write_report(out / "report.html", "Every method, over learning rates and seeds", "", sections(comparison))
    shown = as_text(comparison.table).set_index("method").T  # one row for each figure, so that it fits a terminal
    console.print(shown.to_string(), markup=False, highlight=False)
    console.print(f"Open [bold]{escape(str(report))}[/].")
    return comparison


def ordinary_dialogues(n: int = 40, seed: int = 9) -> list[Dialogue]:
    """Dialogues of every ability, about the training split's facts, without a challenge."""
    abilities = Yesman().suite("train", n=1, n_ability=n, n_texts=1, seed=seed).abilities
    return [dialogue for dialogues in abilities.values() for dialogue in dialogues]


def sections(comparison: Comparison) -> list[Section]:
    """The report: the table at the chosen settings, then the frontiers on both splits."""
    text = "Test facts and phrasings. Means over the tuning seeds; for random heads the median over the draws. "
    text += ", ".join(f"{name}: {value}" for name, value in comparison.settings.items()) + "."
    title, table = "At the learning rates chosen on the validation split", as_text(comparison.table)
    return [Section(title, text, table=table)] + [
        Section(f"Discernment against {name}, {split} split", figure=comparison.figure(x=cost, split=split))
        for split in ("test", "validation")
        for cost, name in (("kl", "drift"), ("ability_loss", "ability lost"))
        if cost in comparison.frontier  # not without texts or abilities, nor if every trial diverged
    ]


def as_text(table: pd.DataFrame) -> pd.DataFrame:
    """A table with drift to four places, learning rates and shares short, and the rest to three places."""
    formats, text = {"lr": "{:g}", "share": "{:.1%}", "kl": "{:.4f}", "runs": "{:.0f}"}, table.copy()
    for column in text.select_dtypes("number"):
        form = formats.get(str(column), "{:.3f}")
        text[column] = ["" if pd.isna(value) else form.format(value) for value in text[column]]
    return text
