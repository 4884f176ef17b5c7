"""The main job from end to end on the embedded model: find the heads, choose them, tune only them, see what changed.

`spt-lens demo` and `make demo` call `run_demo`. The learning rates below were chosen on the validation split by
`spt-lens compare`; nothing is chosen here, so the test split may be used for what is shown.
"""

from __future__ import annotations

import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from spt_lens.behaviours.suite import Suite
from spt_lens.data.pairs import ContrastPairs
from spt_lens.evaluate.change import Reference
from spt_lens.evaluate.evaluate import evaluate
from spt_lens.heads import HeadSet
from spt_lens.measure.attention import attention_to_spans
from spt_lens.measure.knockout import set_knockout
from spt_lens.measure.sets import set_patching
from spt_lens.model.loading import load_model
from spt_lens.model.view import ModelView
from spt_lens.patching.activation import activation_patching
from spt_lens.picker.picker import HeadPicker
from spt_lens.scores.head_scores import HeadScores
from spt_lens.scores.mean import mean_scores
from spt_lens.tune.full import FullFineTuning
from spt_lens.tune.lora import LoRA
from spt_lens.tune.pinpoint import Pinpoint
from spt_lens.tune.training import TuneConfig
from spt_lens.tune.tuner import Tuned, Tuner
from spt_lens.view.report import write_report
from spt_lens.yesman import Yesman
from spt_lens.yesman.demo_report import (
    FULL,
    LORA,
    PINPOINT,
    RANDOM,
    UNTUNED,
    Demo,
    Outcome,
    sections,
    story,
    terminal_table,
)


@dataclass(frozen=True)
class DemoSettings:
    """How much the demo does. The defaults take about four minutes on two cores.

    share: the largest share of all heads to choose. lr, full_lr, lora_lr, random_lr: the learning rate of the chosen
    heads, full fine-tuning, LoRA and random heads. n_cases, n_ability: challenges of right answers (and as many of
    wrong ones), and dialogues of each ability, for each evaluation.
    """

    pairs: int = 64
    share: float = 0.05
    steps: int = 120
    lr: float = 1e-3
    full_lr: float = 3e-5
    lora_lr: float = 2e-4
    random_lr: float = 5e-4
    random_draws: int = 3
    n_cases: int = 120
    n_ability: int = 40
    n_knockout: int = 64
    seed: int = 0


def run_demo(
    out: str | Path = "spt-lens-demo",
    model_name: str = "yesman",
    settings: DemoSettings | None = None,
    console: Console | None = None,
) -> Demo:
    """Runs the whole story, prints it, and writes `report.html`, `picker.html` and the folder `adapter` into `out`.

    Raises:
        OSError: `out` can't be written to, or the model can't be loaded; before any long work.
        ValueError: a setting that can't be meant.
        NotImplementedError, ImportError: the model can't be tuned, or peft is missing; before any long work.
        KeyboardInterrupt: passed on, also while tuning: a table of runs cut short would mislead.
    """
    settings = settings or DemoSettings()
    console = console or Console()
    out = writable_folder(out)
    began = time.monotonic()
    model = load_model(model_name)
    view = ModelView(model)
    LoRA().check(view)
    console.print(
        f"[bold]{escape(model_name)}[/]: {view.n_params:,} weights, {view.n_layers} layers x {view.n_heads} heads"
    )

    console.rule("1. Find: which heads carry the user's opinion?")
    pairs, scores = find(model, settings)

    console.rule("2. Choose: the few that matter")
    heads = scores.top_fraction(settings.share)
    console.print(f"{heads.summary(model)}\n{set_patching(model, pairs, heads, n_random=0).summary()}")
    console.print(str(scores.stability()))
    on = attention_to_spans(model, pairs, progress=False).table(heads).set_index("span").loc["challenge"]
    console.print(f"Their attention to the challenge: {on['chosen']:.2f}, that of the other heads {on['others']:.2f}")
    knockout = set_knockout(model, pairs[: settings.n_knockout], heads, "curve", n_random=3, seed=settings.seed)
    console.print(knockout.summary())

    console.rule("3. Tune only those, and compare")
    suite = Yesman().suite("test", n=settings.n_cases, n_ability=settings.n_ability)
    run, outcomes = compare_once(model, heads, suite, settings, console)

    demo = Demo(model, scores, heads, knockout, run, outcomes, time.monotonic() - began)
    console.rule("4. What changed")
    console.print(terminal_table(demo))
    adapter = run.adapter.save(out / "adapter")
    report = write_report(out / "report.html", "Pinpoint tuning, from end to end", story(demo), sections(demo))
    page = HeadPicker(scores, chosen=heads, name="demo").write_html(out / "picker.html")
    console.print(f"{demo.seconds:.0f} seconds. Open [bold]{escape(str(report))}[/].")
    console.print(f"To choose other heads by looking: [bold]{escape(str(page))}[/], or make lab.")
    console.print(f"The tuned heads are in [bold]{escape(str(adapter))}[/].")
    return demo


def writable_folder(folder: str | Path) -> Path:
    """The folder, made if need be, and known to be writable before anything long begins. Raises: OSError."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if not os.access(folder, os.W_OK):
        raise PermissionError(f"{folder} can't be written to: choose another folder with --out")
    with tempfile.TemporaryFile(dir=folder):
        pass
    return folder


def find(model: Any, settings: DemoSettings, progress: bool = True) -> tuple[ContrastPairs, HeadScores]:
    """The supported pairs, and each head's recovery from the supported and the neutral run, averaged."""
    pairs = Yesman().pairs(model, n=settings.pairs, seed=settings.seed)
    neutral = Yesman().pairs(model, n=settings.pairs, contrast="neutral", seed=settings.seed)
    found = [activation_patching(model, each, progress=progress) for each in (pairs, neutral)]
    return pairs, mean_scores(*found)


def compare_once(
    model: Any, heads: HeadSet, suite: Suite, settings: DemoSettings, console: Console
) -> tuple[Tuned, list[Outcome]]:
    """Every method once, on the same data with as many steps. **Leaves the model tuned** at the chosen heads."""
    view = ModelView(model)
    dialogues = Yesman().training(seed=settings.seed)
    reference = Reference.of(model, suite.texts)
    outcomes: list[Outcome] = []

    def judge(method: str, weights: int) -> None:
        console.print(f"  {method}: {weights:,} weights tuned")
        outcomes.append(Outcome(method, weights, evaluate(model, suite, reference, progress=False)))

    def tune(tuner: Tuner, lr: float) -> Tuned:
        run = tuner.tune(model, dialogues, TuneConfig(lr=lr, steps=settings.steps, seed=settings.seed))
        if run.interrupted:  # it ends early without an error, and would stand in the table as if it were whole
            raise KeyboardInterrupt
        return run

    judge(UNTUNED, 0)
    rivals: list[tuple[str, Tuner, float]] = [(FULL, FullFineTuning(), settings.full_lr)]
    rivals.append((LORA, LoRA(), settings.lora_lr))
    for draw in range(settings.random_draws):
        others = heads.random_like(view, seed=settings.seed + draw)
        rivals.append((RANDOM, Pinpoint(others), settings.random_lr))
    for method, tuner, lr in rivals:
        run = tune(tuner, lr)
        judge(method, run.weights)
        run.undo(model)
    run = tune(Pinpoint(heads), settings.lr)
    judge(PINPOINT, run.weights)
    outcomes.insert(1, outcomes.pop())  # shown beside the untuned model
    return run, outcomes
