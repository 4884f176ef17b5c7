"""The methods that a comparison knows by name. Adding one is a line in NAMED."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from spt_lens.chat.dialogues import Dialogue
from spt_lens.checking import one_of
from spt_lens.evaluate.trials import Contender
from spt_lens.heads import HeadSet
from spt_lens.measure.sets import matched_random
from spt_lens.model.view import ModelView
from spt_lens.rivals.ablation import Ablation
from spt_lens.rivals.dpo import DPO
from spt_lens.rivals.iti import ITI
from spt_lens.rivals.layers import LayerFullFineTuning, LayerLoRA
from spt_lens.rivals.lofit import LoFiT
from spt_lens.rivals.random_direction import RandomDirection
from spt_lens.rivals.steering import Steering
from spt_lens.tune.full import FullFineTuning
from spt_lens.tune.head_lora import HeadLoRA
from spt_lens.tune.lora import LoRA
from spt_lens.tune.pinpoint import Pinpoint
from spt_lens.tune.tuner import Tuner

RANDOM = "random heads"
# Of the chosen heads, of which ITI and LoFiT need only know how many there are.
OF_HEADS: dict[str, Callable[[HeadSet], Tuner]] = {
    "chosen heads": Pinpoint,
    "LoRA on the chosen heads": HeadLoRA,
    "LoRA on their layers": lambda heads: LayerLoRA(layers=tuple(heads.by_layer())),
    "full fine-tuning of their layers": lambda heads: LayerFullFineTuning(tuple(heads.by_layer())),
    "LoFiT on the chosen heads": LoFiT,
    "LoFiT": lambda heads: LoFiT(k=len(heads)),
    "ITI": lambda heads: ITI(len(heads)),
    "ITI, random directions": lambda heads: RandomDirection(ITI(len(heads))),
    "DPO on the chosen heads": lambda heads: DPO(Pinpoint(heads)),
}
ALONE: dict[str, Callable[[], Tuner]] = {
    "full fine-tuning": FullFineTuning,
    "LoRA": LoRA,
    "steering": Steering,
    "steering, random direction": lambda: RandomDirection(Steering()),
    "steering by right answers": lambda: Steering(pairs="right answers"),
    "steering by right answers, random direction": lambda: RandomDirection(Steering(pairs="right answers")),
    "ablation": Ablation,
    "ablation, random direction": lambda: RandomDirection(Ablation()),
    "ablation by right answers": lambda: Ablation(pairs="right answers"),
    "ablation by right answers, random direction": lambda: RandomDirection(Ablation(pairs="right answers")),
    "DPO with LoRA": lambda: DPO(LoRA()),
}
NAMED = (*OF_HEADS, *ALONE, RANDOM)
# Of rivals that find directions: the same along random ones.
ALONG_RANDOM = {
    "steering": "steering, random direction",
    "steering by right answers": "steering by right answers, random direction",
    "ITI": "ITI, random directions",
    "ablation": "ablation, random direction",
    "ablation by right answers": "ablation by right answers, random direction",
}


def check_data(names: Sequence[str], dialogues: Sequence[Dialogue]) -> None:
    """Raises ValueError, before any long work and before heads are chosen, for dialogues that lack what one of these
    methods needs of them: pairs of replies, say."""
    some = HeadSet.of("L0.H0")  # which heads, and how many, is of no account here
    for name in names:
        if name != RANDOM:
            (ALONE[name]() if name in ALONE else OF_HEADS[name](some)).check_data(dialogues)


def named(
    name: str,
    view: ModelView,
    heads: HeadSet | None,
    lrs: Sequence[float] = (),
    draws: Sequence[int] = range(5),
    random_seeds: Sequence[int] = (0,),
) -> Contender:
    """A method of NAMED. heads: the chosen ones. lrs: default: the tuner's own. draws: seeds of the random heads, each
    of which is tuned with `random_seeds`.

    Raises ValueError for an unknown name, or one about chosen heads where there are none.
    """
    if one_of(name, "a method", NAMED) in ALONE:
        return Contender(name, ALONE[name](), tuple(lrs))
    if not heads:
        raise ValueError(
            f"the method {name!r} is about chosen heads, and there are none: give heads, scores.top(4), say"
        )
    if name == RANDOM:  # the spread over them is that of the draws
        drawn = [Pinpoint(matched_random(view, heads, seed)) for seed in draws]
        return Contender(name, drawn, tuple(lrs), tuple(random_seeds))
    return Contender(name, OF_HEADS[name](heads), tuple(lrs))
