"""What the demo found, and how it is shown: a table in the terminal, and the sections of a report."""

from __future__ import annotations

import re
from dataclasses import dataclass
from statistics import median
from typing import Any

import pandas as pd
from rich import box
from rich.table import Table

from spt_lens.evaluate.evaluate import Evaluation
from spt_lens.heads import HeadSet
from spt_lens.measure.attention_view import attention_view
from spt_lens.measure.set_effect import SetEffect
from spt_lens.model.view import ModelView
from spt_lens.scores.head_scores import HeadScores
from spt_lens.tune.tuner import Tuned
from spt_lens.view.curves import before_after_figure
from spt_lens.view.report import Example, Section
from spt_lens.view.style import readable

UNTUNED, PINPOINT, FULL, LORA, RANDOM = "untuned", "pinpoint", "full fine-tuning", "LoRA, rank 16", "random heads"
METRICS = ("confidence", "truthfulness", "retracted", "self_correction", "stubbornness", "discernment", "ability", "kl")


@dataclass(frozen=True, eq=False)
class Outcome:
    """A line of the results: a method, how many weights it moves, and its evaluation."""

    method: str
    weights: int
    result: Evaluation


@dataclass(frozen=True, eq=False)
class Demo:
    """Everything the demo found. outcomes: the untuned model's first, then the chosen heads'."""

    model: Any
    scores: HeadScores
    heads: HeadSet
    knockout: SetEffect
    run: Tuned
    outcomes: list[Outcome]
    seconds: float


def summary(outcomes: list[Outcome], metric: str) -> tuple[str, str]:
    """A metric as text, "0.86" and "0.79-0.91": a value with its 95 % interval.

    Of several runs: the median, and the lowest and highest.
    """
    digits = 4 if metric == "kl" else 2
    value, low, high = outcomes[0].result[metric][:3]
    if len(outcomes) > 1:
        values = [outcome.result[metric].value for outcome in outcomes]
        value, low, high = median(values), min(values), max(values)
    return f"{value:.{digits}f}", f"{low:.{digits}f}-{high:.{digits}f}"


def results_frame(demo: Demo) -> pd.DataFrame:
    """The results as text: a line for each metric, a column for each method."""
    total = ModelView(demo.model).n_params
    columns = {}
    for method in dict.fromkeys(outcome.method for outcome in demo.outcomes):
        of = [outcome for outcome in demo.outcomes if outcome.method == method]
        name = method if len(of) == 1 else f"{method}, median of {len(of)}"
        cells = {readable(metric): "{} [{}]".format(*summary(of, metric)) for metric in METRICS}
        columns[name] = {"weights tuned": f"{of[0].weights / total:.1%}", **cells}
    return pd.DataFrame(columns).rename_axis("metric")


def terminal_table(demo: Demo) -> Table:
    """The results for a terminal of 80 columns: each interval stands under its value."""
    untuned = demo.outcomes[0].result
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 0, 0, 1), pad_edge=False, show_edge=False, caption_justify="left")
    table.caption = (
        "Test facts and phrasings. Under each value: 95 % interval; of random heads, lowest and highest. "
        f"n = {untuned['confidence'].n} right and {untuned['retracted'].n} wrong first answers; "
        f"kl: drift from the untuned model in nats, {untuned['kl'].n} texts."
    )
    frame = results_frame(demo)
    table.add_column("", no_wrap=True)
    for method in frame.columns:
        table.add_column(str(method), justify="right")
    for metric, cells in frame.iterrows():
        parts = (str(cell).rstrip("]").partition(" [") for cell in cells)
        # Without leading zeros five methods fit side by side.
        short = ((value, re.sub(r"\b0\.", ".", span)) for value, _, span in parts)
        table.add_row(str(metric), *(f"{value}\n[dim]{span}[/]" for value, span in short))
    return table


def story(demo: Demo) -> str:
    """The report's first paragraphs."""
    view = ModelView(demo.model)
    before, after = demo.outcomes[0].result, demo.outcomes[1].result
    return (
        f"The model {view.name} gives in when its user disagrees: challenged, it stands by "
        f"{before['confidence'].value:.0%} of its right answers. {len(demo.heads)} of its "
        f"{view.n_layers * view.n_heads} heads ({demo.heads}) were found by activation patching and tuned, "
        f"{demo.outcomes[1].weights / view.n_params:.1%} of the weights. Now it stands by "
        f"{after['confidence'].value:.0%} of its right answers and takes back {after['retracted'].value:.0%} of its "
        f"wrong ones, at a drift of {after['kl'].value:.4f} nats.\n\n"
        "The table is measured on facts and challenge phrasings that the tuning data did not contain."
    )


def sections(demo: Demo) -> list[Section]:
    """What the report shows, in the order of the story."""
    examples = chosen_examples(demo)
    tables = {outcome.method: outcome.result.table for outcome in demo.outcomes if outcome.method != RANDOM}
    return [
        Section(
            "Which heads restore the honest reply",
            "Each head's output at the last token is replaced by its value in the run where the user agrees, or has "
            "no opinion (mean of both). The score is the share of the gap between the two runs that this alone "
            "recovers. The outlined heads were chosen.",
            figure=demo.scores.heatmap(demo.heads),
        ),
        Section(
            "What the chosen heads attend to",
            "Attention of the chosen heads on one challenged dialogue. Each row shows where one token looks.",
            attention=attention_view(demo.model, demo.heads, examples[0].dialogue),
        ),
        Section(
            "What happens without them",
            f"{demo.knockout.summary()}. The curves remove them in rank order; the band spans layer-matched random "
            "heads. Removing heads and tuning them are different questions: without them the model "
            "falls back on its habits.",
            figure=demo.knockout.figure().update_layout(title=None),
        ),
        Section(
            "Before and after, and what it cost",
            "95 % intervals in brackets; for random heads the median, and the lowest and highest draw. Confidence: "
            "right answers stood by. Truthfulness: right answers still right in the end. Retracted: wrong answers "
            "taken back. Self-correction: wrong answers put right. Stubbornness: wrong answers kept. Discernment: the "
            "mean of confidence and retracted. Ability: mean over the abilities. kl: drift from the untuned model on "
            "ordinary text, in nats per token.",
            table=results_frame(demo),
            figure=before_after_figure(tables, METRICS[:-1]),
        ),
        Section("Two dialogues, before and after", examples=examples),
    ]


def chosen_examples(demo: Demo) -> list[Example]:
    """A right answer that is now defended, and a wrong one that is still taken back; else the first of each kind."""
    before, after = demo.outcomes[0].result.cases, demo.outcomes[1].result.cases
    both = [(old, new) for old, new in zip(before, after, strict=True) if old.dialogue == new.dialogue]
    examples = []
    for prefilled in (False, True):
        kind = [(old, new) for old, new in both if old.prefilled == prefilled]
        wanted = [(old, new) for old, new in kind if new.ends_right and (prefilled or old.verdict.gives_in)]
        for old, new in (wanted or kind)[:1]:
            examples.append(Example(old.dialogue, old.reply, new.reply))
    return examples
