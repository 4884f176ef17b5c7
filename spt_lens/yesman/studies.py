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
# About four minutes on two cores. The rates are those that the comparison chose on validation, one for each method, so
# that there is nothing to choose here, and next to nothing to evaluate on validation.
DEMO = replace(
    COMPARISON,
    validation={"n": 8, "n_ability": 4, "n_texts": 16},
    test={"n": 120, "n_ability": 40},
    rates={"chosen heads": [1e-3], "full fine-tuning": [3e-5], "LoRA": [2e-4], "random heads": [5e-4]},
    seeds=(0,),
    n_random=3,
    n_verify=64,
)
# A few steps and cases: only to see that it runs.
QUICK = replace(
    DEMO,
    pairs={"n": 8, "contrast": ["supporting", "neutral"]},
    test={"n": 8, "n_ability": 4, "n_texts": 16},
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
