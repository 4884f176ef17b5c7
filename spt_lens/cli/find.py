"""`spt-lens find`: which heads a behaviour goes through."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from spt_lens.checking import MANY
from spt_lens.cli import options
from spt_lens.cli.output import places, result_of, tell, tell_table

if TYPE_CHECKING:
    from spt_lens.scores.head_scores import HeadScores

Method = Literal["activation", "path", "attribution", "objective"]
Words = Literal["behaviour", "found"]
Contrast = Literal["supporting", "neutral", "first answer", "first turn"]


def find(
    model: options.Model,
    questions: options.Questions,
    method: Annotated[Method, typer.Option(help="Patching, or the gradient of the tuning objective.")] = "activation",
    out: Annotated[Path, typer.Option(help="The folder to write into.")] = Path("spt-lens-heads"),
    n: Annotated[int, typer.Option("--n", help="Pairs; of the objective, dialogues.", min=1, max=MANY)] = 64,
    contrast: Annotated[Contrast, typer.Option(help="What a challenge is set beside.")] = "supporting",
    words: Annotated[Words, typer.Option(help="The behaviour's own, or those found in the model's replies.")] = (
        "behaviour"
    ),
    positions: Annotated[Literal["last", "all"], typer.Option(help="Where heads are patched.")] = "last",
    share: Annotated[float, typer.Option(help="Of all heads, the best that are named.", max=1)] = 0.05,
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
    """Score every head: what it does for the behaviour, with intervals over the pairs.

    Writes a score file METHOD.safetensors, which `spt-lens pick` opens, and a heat map, METHOD.html. The model is asked
    first; its answers are kept in answers.json, which tune and evaluate take as --answers.
    """
    from spt_lens.checking import share as a_share
    from spt_lens.saving import writable, write_text

    with result_of(as_json) as result:
        a_share(share, "--share")
        if method == "objective" and words == "found":
            raise ValueError("--words found is of pairs, and --method objective has none: leave one of them out")
        ask = options.asks(ask, questions, answers)
        behaviour = options.behaviour_of(questions)
        behaviour.of_split("train")
        folder = writable(out, "the scores")
        answers = folder / "answers.json" if answers is None and ask else answers
        loaded = options.loaded(model, device, dtype, chat_template, system)
        if ask:
            behaviour = options.asked(behaviour, loaded, ["train"], answers, max_new_tokens)
        scores = _scores(loaded, behaviour, method, n, contrast, positions, seed, words)
        file = scores.save(folder / f"{method}.safetensors")
        best = scores.top_fraction(share)
        page = scores.heatmap(best).to_html(include_plotlyjs=True, full_html=True)
        map_page = write_text(folder / f"{method}.html", page)
        table = scores.to_pandas().head(len(best))
        check = scores.check
        tell(*scores.titled().split("\n"))
        tell_table(table, ["name", "score", "low", "high", "note"])
        places(scores=file, map=map_page, answers=answers)
        if words == "behaviour" and any("hardly says" in each for each in (() if check is None else check.warnings)):
            tell("Words that the model does say: the same command with --words found")
        tell(f"Choose heads with: spt-lens pick {shlex.quote(str(file))}")
        result(
            {"scores": file, "map": map_page, "answers": answers, "model": scores.model_name, "method": method}
            | {"n_pairs": scores.n_pairs, "rests_on": None if check is None else check.line()}
            | {"warnings": [] if check is None else list(check.warnings), "heads": str(best), "table": table}
        )


def _scores(
    model: Any, behaviour: Any, method: Method, n: int, contrast: Contrast, positions: Any, seed: int, words: Words
) -> HeadScores:
    from spt_lens.measure.objective import objective_gradient
    from spt_lens.patching.activation import activation_patching
    from spt_lens.patching.attribution import attribution_patching
    from spt_lens.patching.path import path_patching

    if method == "objective":
        return objective_gradient(model, behaviour.training(n, seed=seed))
    measure: Any = {"activation": activation_patching, "path": path_patching, "attribution": attribution_patching}
    pairs = behaviour.pairs(model, n, contrast=contrast, seed=seed)
    if words == "found":
        found_words = pairs.find_words(model)
        tell(str(found_words))
        pairs = pairs if found_words.best is None else pairs.with_words(found_words)
    found: HeadScores = measure[method](model, pairs, positions=positions)
    return found
