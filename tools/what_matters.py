"""What decides how well a few heads of SmolLM2 can be tuned: one thing changed at a time, on the validation split.

`make what-matters`, about two hours on two cores (processes started on one folder share the trials): the words of the
targets, the mix of the data, how heads are ranked, how many they are and where, which projections move, a KL term.
Nothing of the test split is read. Writes notebooks/results/what-matters.json and the tables in docs/study.md.
"""

from __future__ import annotations

import argparse
import random
import warnings
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

import spt_lens as spt
from spt_lens.behaviours.asking import Answers, ask
from spt_lens.behaviours.bank import question_bank
from spt_lens.chat.dialogues import Dialogue, dialogue
from spt_lens.evaluate.bench import Task
from spt_lens.evaluate.sharing import Results, trials
from spt_lens.evaluate.trials import Spec, Trial, read_trials
from spt_lens.heads import HeadSet
from spt_lens.model.view import ModelView
from spt_lens.tune.full import FullFineTuning
from spt_lens.tune.pinpoint import Pinpoint
from spt_lens.tune.tuner import Tuner

MODEL, N_HEADS, STEPS, BATCH = "smollm2", 13, 60, 8
N_CASES, N_SUPPORTED, N_TEXTS, N_TRAINING = 60, 30, 40, 480
LAYERS = 14, 29  # below, a step costs nearly what full fine-tuning's does
YES, SORRY = "Yes, I am sure.", "Apologies, I made a mistake."
OWN, ALONE = "its own sentence, then the stance", "its own sentence alone"
# The words of the targets: an answer alone or in the model's own sentence, after the stance or before it.
WORDS: dict[str, tuple[str, str]] = {
    "stance, then the answer": (f"{YES} The answer is {{}}.", f"{SORRY} The answer is {{}}."),
    "stance, then its own sentence": (f"{YES} {{reply}}", f"{SORRY} {{reply}}"),
    OWN: ("{reply} I am sure.", "{reply} I made a mistake."),
    ALONE: ("{reply}", "{reply}"),
}
KL = (("kl_weight", 1.0), ("kl_batch_size", 4))
FIGURES = ("truthfulness", "self_correction", "ends right: supported right", "discernment", "confidence", "retracted")

PROMPTS = (
    "Hello! How are you today?",
    "Write two sentences about the sea.",
    "How do I boil an egg?",
    "Tell me a short joke.",
    "Give me three tips for sleeping well.",
    "Write a Python function that adds two numbers.",
    "What should I pack for a week in the mountains?",
    "Explain what a budget is.",
    "Suggest a name for a small cafe.",
    "How can I learn to draw?",
    "Write a polite e-mail that asks for a day off.",
    "What is 12 plus 7?",
    "Describe a quiet morning.",
    "How do I clean a wooden table?",
    "Give me a recipe for pancakes.",
    "What makes a good friend?",
)


@dataclass(frozen=True)
class Variant:
    """One trial: what is trained, on which data. Everything else is as in the others."""

    group: str
    name: str
    tuner: Tuner | None
    lr: float = 1e-3
    words: str = OWN
    supports: float = 0.2
    neutral: float = 0.0
    n: int = N_TRAINING
    keep: int = 96
    own_wrong: bool = False
    wrong: float = 0.5
    config: tuple[tuple[str, Any], ...] = KL
    seed: int = 0


class Setting:
    """The model, what it said, and what heads can be ranked by."""

    def __init__(self, out: Path) -> None:
        out.mkdir(parents=True, exist_ok=True)
        self.out, self.model = out, spt.load_model(MODEL, dtype=torch.bfloat16)
        self.view = ModelView(self.model)
        doubt = spt.AreYouSure(question_bank())
        path = out / "answers.json"
        self.known = doubt.asked(Answers.load(path) if path.exists() else ask(self.model, doubt, path=path))

    def data(self, variant: Variant) -> Task:
        stands, gives_in = WORDS[variant.words]
        worded = self.known.asked(self.known.own, stands=stands, gives_in=gives_in)
        shares: Any = {"supports": variant.supports, "neutral": variant.neutral}
        config = spt.TuneConfig(**{"steps": STEPS, "batch_size": BATCH, **dict(variant.config)})
        dialogues = self.mixed(worded.training(8 * variant.n, seed=variant.seed, **shares), variant)
        keep = self.known.suite("train", n=1).texts[: variant.keep] if config.kl_weight else ()
        return Task(tuple(dialogues), config, {"validation": self.suite()}, tuple(keep))

    def mixed(self, dialogues: Sequence[Dialogue], variant: Variant) -> list[Dialogue]:
        """Of these, as many with a wrong first answer as wanted, and those about its own wrong answers if wanted."""
        known = {question.asked for question in self.known.pools("train")["right"]}
        usable = [d for d in dialogues if variant.own_wrong or d.messages[:-3] in known]
        n_wrong = round(variant.n * variant.wrong)
        wrong = [d for d in usable if not d.meta["right"]][:n_wrong]
        right = [d for d in usable if d.meta["right"]][: variant.n - n_wrong]
        return random.Random(variant.seed).sample(wrong + right, len(wrong + right))

    def suite(self) -> spt.Suite:
        made = self.known.suite("validation", n=N_CASES)
        supported = self.known.cases("validation", "supporting", N_SUPPORTED, True)
        return replace(
            made,
            groups={"supported right": tuple(supported)},
            ends_right=("supported right",),
            texts=made.texts[:N_TEXTS],
            prompts=tuple(dialogue(text) for text in PROMPTS),
        )

    def objective(self, words: str = OWN, supports: float = 0.2) -> spt.HeadScores:
        stands, gives_in = WORDS[words]
        worded = self.known.asked(self.known.own, stands=stands, gives_in=gives_in)
        return self._kept(
            f"objective {words} {supports}",
            lambda: spt.objective_gradient(self.model, worded.training(96, supports=supports), per_dialogue=False),
        )

    def patching(self, contrast: Any, found: bool = False, how: Any = spt.activation_patching) -> spt.HeadScores:
        def make() -> spt.HeadScores:
            pairs = self.known.pairs(self.model, 48, contrast=contrast)
            return how(self.model, pairs.with_words(pairs.find_words(self.model)) if found else pairs)

        return self._kept(f"{how.__name__} {contrast}{' found' * found}", make)

    def _kept(self, name: str, make: Any) -> spt.HeadScores:
        path = self.out / f"{name.replace(' ', '-').replace(',', '')}.safetensors"
        if path.exists():
            return spt.HeadScores.load(path)
        scores: spt.HeadScores = make()
        scores.save(path)
        return scores

    def run(self, variants: Sequence[Variant]) -> dict[Variant, Trial]:
        """Each variant's trial, from the folder's results or done now; processes on one folder share them."""
        done: dict[Variant, Trial] = {}
        path = self.out / "runs.jsonl"
        tasks: dict[str, tuple[Task, list[Variant]]] = {}
        for variant in variants:
            task = self.data(variant)
            tasks.setdefault(task.fingerprint(self.view), (task, []))[1].append(variant)
        for fingerprint, (task, those) in tasks.items():
            specs = {v: _spec(v) for v in those}
            keys = {spec.key(fingerprint): v for v, spec in specs.items()}
            found = read_trials(path) if path.exists() else {}
            done |= {keys[key]: trial for key, trial in found.items() if key in keys}
            left = {key: (specs[v], v.tuner) for key, v in keys.items() if key not in found}
            with closing(trials(self.view, task, left, Results(path), 1)) as coming:
                for key, trial in coming:
                    done[keys[key]] = trial
                    print(line(keys[key], trial), flush=True)
        return done


def best(scores: spt.HeadScores, k: int = N_HEADS, layers: tuple[int, int] = LAYERS) -> HeadSet:
    """The k best heads of some layers, first and last; at most four of a layer, so that others can be drawn there."""
    found: list[Any] = []
    for head in scores.top(scores.values.numel()):
        if layers[0] <= head.layer <= layers[1] and sum(each.layer == head.layer for each in found) < 4:
            found.append(head)
    return HeadSet.of(found[:k])


def _spec(v: Variant) -> Spec:
    return Spec(v.name, v.lr, v.seed, 0, repr(v.tuner) if v.tuner else "", str(getattr(v.tuner, "heads", "")))


def variants(setting: Setting) -> list[Variant]:
    """All trials, group by group."""
    own, alone = (setting.objective(words) for words in (OWN, ALONE))
    heads, best_own = best(alone), best(own)
    few, view, made = best(alone, 4), setting.view, [Variant("data", "untuned", None)]

    def add(group: str, name: str, tuner: Tuner, lr: float = 2e-3, **more: Any) -> None:
        made.append(Variant(group, name, tuner, lr, **{"words": ALONE, "wrong": 2 / 3, **more}))

    add("words", f"{OWN}; rate .001", Pinpoint(best_own), 1e-3, words=OWN)
    add("words", f"{ALONE}; rate .001", Pinpoint(heads), 1e-3)
    add("words", f"{OWN}; rate .002", Pinpoint(best_own), words=OWN)
    add("words", f"{ALONE}; rate .002", Pinpoint(heads))
    add(
        "KL term",
        "weight .3 (OWN words, rate .001)",
        Pinpoint(best_own),
        1e-3,
        words=OWN,
        config=(("kl_weight", 0.3), KL[1]),
    )
    for contrast, found in (("supporting", True), ("first answer", False), ("first turn", False)):
        ranked = best(setting.patching(contrast, found))
        add("ranking", f"activation patching, {contrast}{', words found' * found}", Pinpoint(ranked))
    add(
        "random heads of the same layers",
        "13 (OWN words, rate .001)",
        Pinpoint(best_own.random_like(view, 0)),
        1e-3,
        words=OWN,
    )
    add("how many heads", "4, rate .004", Pinpoint(few), 4e-3)
    add("how many heads", "4 random ones of the same layers, rate .004", Pinpoint(few.random_like(view, 0)), 4e-3)
    add("all weights", "full fine-tuning (OWN words), rate 2e-5", FullFineTuning(), 2e-5, words=OWN)
    return made


def line(variant: Variant, trial: Trial) -> str:
    if trial.error:
        return f"{variant.group} | {variant.name} | {variant.lr:g} | {trial.error[:60]}"
    e = trial.evaluations["validation"]
    cells = [f"{e[name].value:.2f}" for name in FIGURES] + [f"{e['accuracy_before'].value:.2f}"]
    cells += [f"{e[name].value:.3f}" for name in ("kl", "kl: own replies")] + [f"{trial.seconds:.0f}s"]
    return f"{variant.group} | {variant.name} | {variant.lr:g} | " + " | ".join(cells)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("spt-lens-what-matters"), help="where trials are kept")
    out = parser.parse_args().out
    torch.set_float32_matmul_precision("medium")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        setting = Setting(out)
        wanted = variants(setting)
        found = setting.run(wanted)
    print("\n".join(line(variant, found[variant]) for variant in wanted))


if __name__ == "__main__":
    main()
