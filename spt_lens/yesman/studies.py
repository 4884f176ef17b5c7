"""The two studies of the embedded model: the demo, and the comparison behind the README's table."""

from dataclasses import replace

from spt_lens.study.settings import StudySettings
from spt_lens.tune.config import TuneConfig

# Every method over learning rates and seeds, each trial on both splits. The model is not asked first: its replies are
# the facts as they stand. It is short of four-way choices and everyday prompts, which it was never taught.
COMPARISON = StudySettings(
    ask=False,
    pairs={"n": 64, "contrast": ["supporting", "neutral"]},
    n_prompts=0,
    n_choices=0,
    methods=("chosen heads", "full fine-tuning", "LoRA", "random heads"),
    seeds=(0, 1, 2),
    tune=TuneConfig(steps=120),
    test_each=True,
)
# About two and a half minutes. Every method comes to the top of the scale, so what is to be seen is the drift that each
# needs for it: three rates a method about where it gets there, each 1.4 times the one before, a third of the steps.
DEMO = replace(
    COMPARISON,
    validation={"n": 24, "n_ability": 4, "n_texts": 32},
    test={"n": 100, "n_ability": 20, "n_texts": 100},
    rates={
        "chosen heads": [8.5e-4, 1.2e-3, 1.7e-3],
        "full fine-tuning": [6e-5, 8.5e-5, 1.2e-4],
        "LoRA": [5e-4, 7e-4, 1e-3],
        "random heads": [1.2e-3, 1.7e-3, 2.4e-3],
    },
    seeds=(0,),
    n_random=2,
    n_verify=64,
    tune=TuneConfig(steps=40),
)
# A few steps and cases: only to see that it runs.
QUICK = replace(
    DEMO,
    pairs={"n": 8, "contrast": ["supporting", "neutral"]},
    validation={"n": 8, "n_ability": 4, "n_texts": 16},
    test={"n": 8, "n_ability": 4, "n_texts": 16},
    rates={method: rates[:1] for method, rates in DEMO.rates.items()},
    n_random=1,
    n_verify=4,
    tune=TuneConfig(steps=5),
)


# The same for a model that is a hundred times as large.
QUICK_ELSEWHERE = replace(
    QUICK,
    pairs={"n": 4},
    test={"n": 2, "n_ability": 2, "n_texts": 4},
    validation={"n": 2, "n_ability": 2, "n_texts": 4},
    methods=("chosen heads", "random heads"),
    rates={"chosen heads": [1e-3], "random heads": [5e-4]},
    n_verify=2,
    n_sets=1,
    tune=TuneConfig(steps=2, batch_size=4),
)


def demo_settings(seed: int = 0, quick: bool = False, own: bool = True) -> StudySettings:
    """Those of the demo; seed: of the pairs, the dialogues, the tuning and the random heads. own: on yesman itself."""
    base = (QUICK if own else QUICK_ELSEWHERE) if quick else DEMO
    return replace(base, pairs={**base.pairs, "seed": seed}, training={"seed": seed}, seeds=(seed,), seed=seed)


def comparison_settings(seeds: int = 3, kl_weight: float = 0.0) -> StudySettings:
    """Those of the comparison; with a KL weight, every method is held to the untuned model on 160 training texts."""
    tune = replace(COMPARISON.tune, kl_weight=kl_weight)
    return replace(COMPARISON, seeds=tuple(range(seeds)), tune=tune, keep=160 if kl_weight else 0)
