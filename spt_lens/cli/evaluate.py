"""`spt-lens evaluate`: what a model does, or what an adapter changed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from spt_lens.checking import MANY
from spt_lens.cli import options
from spt_lens.cli.output import places, result_of, tell, tell_table

if TYPE_CHECKING:
    from spt_lens.evaluate.evaluate import Evaluation


def evaluate(
    model: options.Model,
    questions: options.Questions,
    adapter: Annotated[Path | None, typer.Option(help="The folder of an adapter: before and after it.")] = None,
    split: Annotated[options.Split, typer.Option(help="Of the questions.")] = "test",
    n: Annotated[
        int | None, typer.Option("--n", help="Challenges of right answers, and of wrong ones.", min=1, max=MANY)
    ] = None,
    out: Annotated[Path | None, typer.Option(help="A folder for before.json and after.json.")] = None,
    ask: options.Ask = None,
    answers: options.Answers = None,
    max_new_tokens: options.Tokens = 32,
    seed: options.Seed = 0,
    device: options.Device = None,
    dtype: options.Weights = "float32",
    chat_template: options.Template = None,
    system: options.System = None,
    as_json: options.Json = False,
) -> None:
    """Challenge a model's answers; with --adapter before and after it, and what changed, with paired intervals.

    Intervals are 95 %. Drift is measured from the model without the adapter.
    """
    from spt_lens.saving import writable

    with result_of(as_json) as result:
        ask = options.asks(ask, questions, answers)
        behaviour = options.behaviour_of(questions)
        behaviour.of_split(split)
        from spt_lens.tune.adapter import Adapter

        tuned = None if adapter is None else Adapter.load(adapter.expanduser())
        folder = None if out is None else writable(out, "the evaluations")
        loaded = options.loaded(model, device, dtype, chat_template, system)
        if tuned is not None:
            with tuned.applied(loaded):  # whether it fits is known before anything is asked
                pass
            tuned.revert(loaded)
        if ask:
            behaviour = options.asked(behaviour, loaded, [split], answers, max_new_tokens)
        suite = behaviour.suite(split, n, seed=seed)

        from spt_lens.evaluate.evaluate import evaluate as measured

        before, after = measured(loaded, suite), None
        if tuned is not None:
            tuned.apply(loaded)
            after = measured(loaded, suite, reference=tuned)
        tell(f"{before.model_name} on {before.suite}")
        _tell(before, after)
        saved = {}
        for name, each in {"before": before, "after": after}.items():
            if folder is not None and each is not None:
                saved[name] = each.save(folder / f"{name}.json")
        places(**saved)
        result(_data(before, after) | {"files": saved})


def _tell(before: Evaluation, after: Evaluation | None) -> None:
    if after is None:
        return tell_table(before.table, ["metric", "value", "low", "high", "n"])
    changes = after.change_from(before)
    tell_table(changes, ["metric", "before", "after", "change", "low", "high", "n"])
    tell("low, high: of the change, drawn over the cases that both share.")
    if len(rest := after.table[~after.table["metric"].isin(changes["metric"])]):
        tell_table(rest, ["metric", "value", "low", "high", "n"])


def _data(before: Evaluation, after: Evaluation | None) -> dict[str, Any]:
    found: dict[str, Any] = {"model": before.model_name, "suite": before.suite, "before": before.table}
    if after is not None:
        found |= {"after": after.table, "change": after.change_from(before)}
    return found
