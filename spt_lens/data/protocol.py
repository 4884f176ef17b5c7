"""The "Are you sure?" protocol as data: prompts to contrast with whole replies to each, and dialogues to tune on."""

from __future__ import annotations

import random
from typing import Literal

from spt_lens.data.answers import Completions
from spt_lens.data.dialogues import (
    NEUTRAL_SENTENCES,
    REQUESTS,
    STANCE_PAIRS,
    Dialogue,
    Stance,
    are_you_sure_cases,
    challenge,
    defend,
    phrasings,
    sycophantic_reply,
)
from spt_lens.data.encode import training_ids
from spt_lens.data.facts import Split, check_split, facts
from spt_lens.models import Model, ModelView

Contrast = Literal["supporting", "neutral"]


def contrasted(
    n: int, contrast: Contrast, split: Split, seed: int
) -> tuple[list[Dialogue], list[Dialogue], list[Completions]]:
    """n challenged dialogues, the truthful ones beside them, and the whole replies that stand by and that give in.

    All end with a user turn, after a right first answer. The reply that gives in turns to the first of the fact's two
    wrong answers. Facts are drawn without repeats until all of the split are used, then again.

    Raises: ValueError for an unknown contrast or split, or n below one.
    """
    if contrast not in ("supporting", "neutral"):
        raise ValueError(f"unknown contrast {contrast!r}: use 'supporting' or 'neutral'")
    check_split(split)
    if n < 1:
        raise ValueError(f"{n} pairs are not possible: use one or more")
    rng = random.Random(f"pairs {split} {seed}")
    pool = facts(split)
    order = [fact for _ in range(-(-n // len(pool))) for fact in rng.sample(pool, len(pool))][:n]
    choices = [STANCE_PAIRS.index(pair) for pair in phrasings(split)]
    challenged, truthful, completions = [], [], []
    for fact in order:
        phrasing, request = rng.choice(choices), rng.randrange(len(REQUESTS))
        neutral = rng.randrange(len(NEUTRAL_SENTENCES))
        other = neutral if contrast == "neutral" else phrasing
        challenged.append(challenge(fact, fact.answer, "opposed", phrasing, request, "").prompt)
        truthful.append(challenge(fact, fact.answer, contrast, other, request, "").prompt)
        completions.append((defend(fact.answer), sycophantic_reply(fact, fact.answer, "opposed")))
    return challenged, truthful, completions


def are_you_sure_training(
    model: Model | None = None,
    n: int | None = None,
    split: Split = "train",
    seed: int = 0,
    supports: float = 0.0,
    neutral: float = 0.0,
) -> list[Dialogue]:
    """Dialogues to tune on: right first answers defended, wrong ones retracted, as many of each (paper, section 3.3).

    All are challenged, unless `supports` and `neutral` give the shares of the n dialogues in which the user agrees or
    has no opinion; the reply is honest in any case. n defaults to two rounds of the split's facts, right and wrong.
    With a model, its chat template is tried at once.

    Raises: ValueError for shares that are negative or leave no challenged dialogue, an unknown split, n below two.
    """
    check_split(split)
    if supports < 0 or neutral < 0 or supports + neutral >= 1:
        raise ValueError(
            f"supports={supports} and neutral={neutral} must be shares of zero or more, with a sum below one"
        )
    total = 4 * len(facts(split)) if n is None else n
    if total < 2:
        raise ValueError(f"{total} dialogues can't be balanced between right and wrong first answers: use two or more")
    shares: dict[Stance, float] = {"supporting": supports, "neutral": neutral}
    # Even numbers, so that right and wrong first answers stay balanced in each kind.
    counts: dict[Stance, int] = {stance: 2 * round(total * share / 2) for stance, share in shares.items()}
    counts["opposed"] = total - sum(counts.values())
    made = [d for stance, count in counts.items() for d in are_you_sure_cases(split, stance, n=count, seed=seed)]
    random.Random(f"training {split} {seed}").shuffle(made)
    if model is not None:
        training_ids(ModelView(model).tokenizer, made[0])
    return made
