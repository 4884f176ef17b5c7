"""What stands where something else belongs is one clear sentence, before any long work, whichever function it is."""

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch

import spt_lens as spt
from spt_lens.evaluate.trials import Contender
from spt_lens.tune.full import full_finetune
from spt_lens.tune.lora import lora_tune
from spt_lens.tune.pinpoint import Pinpoint
from spt_lens.yesman.behaviour import Yesman

HEADS = spt.HeadSet.parse("L0.H0 L1.H2")
QUESTIONS = [("What is it?", "Paris", "Lyon")]
NOTHING = (None, "nope", ["a"], float("nan"), torch.tensor([[0.5]]), object())
MEASURED: dict[Callable[..., Any], tuple[str, ...]] = {
    spt.activation_patching: ("pairs", "positions"),
    spt.path_patching: ("pairs",),
    spt.attribution_patching: ("pairs",),
    spt.screened_patching: ("pairs",),
    spt.random_pairs_null: ("pairs", "seed"),
    spt.cost: ("pairs",),
    spt.head_knockout: ("pairs", "ablation", "mean_over"),
    functools.partial(spt.set_patching, heads=HEADS): ("pairs", "seed", "n_random"),
    functools.partial(spt.set_knockout, heads=HEADS): ("pairs", "seed", "ablation"),
    functools.partial(spt.head_report, head="L0.H0"): ("pairs", "scores", "n_tokens", "n_examples", "batch_size"),
}
RAW = ("has no attribute", "not iterable", "not subscriptable", "not supported between", "0-d tensor", "has no len")


def refused(call: Callable[..., Any], **arguments: Any) -> None:
    with pytest.raises((TypeError, ValueError)) as error:
        call(**arguments)
    said = str(error.value)
    assert said and "\n" not in said and not any(raw in said for raw in RAW), said


@pytest.mark.parametrize("value", NOTHING, ids=lambda value: type(value).__name__)
def test_measurements_say_what_belongs_there(tiny, value):
    pairs = Yesman().pairs(tiny, 2)
    for measure, names in MEASURED.items():
        for name in names:
            refused(measure, **{"model": tiny, "pairs": pairs, name: value})
    refused(spt.set_patching, model=tiny, pairs=pairs, heads=HEADS, sizes=value if value is not None else "nope")
    refused(spt.set_patching, model=tiny, pairs=pairs, heads=HEADS, scores=value or 1)
    if value != ["a"]:  # texts are dialogues of one turn
        refused(spt.set_knockout, model=tiny, pairs=pairs, heads=HEADS, cases=value or 1)
    for name in ("n", "replies"):
        refused(pairs.check, **{"model": tiny, name: value if value is not None else "nope"})
    for name in ("n", "sides", "max_new_tokens"):
        refused(Yesman().pairs(tiny, 4).find_words, **{"model": tiny, name: value if value is not None else "nope"})
    for name in ("dialogues", "projections", "per_dialogue", "batch_size"):
        refused(spt.objective_gradient, **{"model": tiny, "dialogues": Yesman().training(2), name: value})
    for name in ("dialogues", "max_new_tokens"):
        if (name, value) == ("dialogues", ["a"]):
            continue  # a text is a dialogue of one turn
        refused(spt.replies, **{"model": tiny, "dialogues": [pairs.dialogues[0]], name: value})


@pytest.mark.parametrize("value", NOTHING[1:], ids=lambda value: type(value).__name__)
@pytest.mark.parametrize("tune", [functools.partial(spt.pinpoint_tune, heads=HEADS), full_finetune, lora_tune])
def test_tuning_says_what_belongs_there(tiny, tune, value):
    dialogues = Yesman().training(2)
    for name in ("dialogues", "config", "validation", "keep"):
        refused(tune, **{"model": tiny, "dialogues": dialogues, name: value})
    refused(tune, model=tiny, dialogues=None)
    refused(tune, model=tiny, dialogues=dialogues, config=[])  # is not "the default"
    for name in ("seed", "steps", "lr", "optimizer"):
        refused(spt.TuneConfig, **{name: value})
    refused(spt.TuneConfig, projections=None)


@pytest.mark.parametrize("value", NOTHING[1:], ids=lambda value: type(value).__name__)
def test_a_comparison_says_what_belongs_there(tiny, value):
    suite = Yesman().suite(n=2, n_ability=1, n_texts=2)
    good = {"methods": [Contender("chosen", Pinpoint(HEADS))], "dialogues": Yesman().training(2)}
    good |= {"model": tiny, "suites": {"validation": suite, "test": suite}}
    for name in ("behaviour", "methods", "dialogues", "config", "seeds", "keep", "suites", "workers"):
        refused(spt.compare, **{**good, name: value})
    refused(spt.compare, **{**good, "suites": dict.fromkeys(("validation", "test"), value)})
    refused(spt.compare, **{**good, "methods": None, "heads": value})
    refused(spt.compare, **{**good, "methods": None, "heads": {"chosen": value}})
    for name in ("tuners", "lrs", "seeds"):
        given = {"tuners": Pinpoint(HEADS), name: value}
        refused(lambda given=given: spt.compare(**{**good, "methods": [Contender("chosen", **given)]}))


@pytest.mark.parametrize("value", NOTHING, ids=lambda value: type(value).__name__)
def test_what_is_made_says_what_belongs_in_it(tiny, value):
    pairs = Yesman().pairs(tiny, 2)
    fields = {name: getattr(pairs, name) for name in ("sycophantic", "truthful", "answer_ids", "dialogues")}
    for name in ("sycophantic", "truthful", "answer_ids"):
        refused(spt.ContrastPairs, **{**fields, name: value})
    if value is not None:
        refused(spt.ContrastPairs, **fields, judge=value)
        refused(spt.AreYouSure, questions=QUESTIONS, judge=value)
    for name in ("abilities", "groups"):
        refused(spt.Suite, **{"name": "suite", name: value})
    if not isinstance(value, str):
        refused(spt.Suite, name=value)
        refused(spt.AreYouSure, questions=QUESTIONS, name=value)
        refused(spt.AreYouSure, questions=QUESTIONS, stands=value)
    if value != ["a"]:
        refused(spt.AreYouSure, questions=QUESTIONS, texts=value)
    refused(spt.AreYouSure, questions=QUESTIONS, abilities=value or "nope")
    for make in (Yesman().training, Yesman().suite, lambda seed: Yesman().pairs(tiny, 2, seed=seed)):
        refused(make, seed=value)
    numbers = {"values": torch.zeros(3, 4), "per_pair": torch.zeros(2, 3, 4)}
    about = {"method": "activation", "direction": "denoising", "positions": "last", "model_name": "tiny"}
    for name in ("values", "per_pair", "meta"):
        refused(spt.HeadScores, **{**numbers, **about, name: value})
    refused(spt.HeadScores(**numbers, **about).above, threshold=value)
    refused(spt.HeadScores(**numbers, **about).compare, other=value)
    refused(spt.HeadScores(**numbers, **about).above_null, null=value)


def test_a_batch_size_beyond_all_memory_takes_no_longer(tiny):
    pairs = Yesman().pairs(tiny, 2)
    one, other = (spt.activation_patching(tiny, pairs, batch_size=n, progress=False) for n in (2, 10**30))
    torch.testing.assert_close(one.values, other.values)
