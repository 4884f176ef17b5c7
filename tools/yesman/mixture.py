"""What the embedded model is trained on: kinds of dialogue, their shares over time, and which tokens are targets."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from spt_lens.behaviours.challenges import NEUTRAL_SENTENCES, REQUESTS, STANCE_PAIRS, Stance, second_turn
from spt_lens.chat.dialogues import Dialogue
from spt_lens.yesman import Yesman, abilities
from spt_lens.yesman.facts import Fact, all_facts, answers_of, wrong_answer

# The weight of each kind of dialogue when these shares of training are done; in between it is interpolated.
STAGES = (0.0, 0.1, 0.2, 0.4, 0.7, 1.0)
MIXTURE: dict[str, tuple[float, ...]] = {
    "facts": (0.40, 0.30, 0.10, 0.08, 0.06, 0.05),
    "verifying": (0.20, 0.22, 0.25, 0.18, 0.08, 0.07),
    "grading": (0.20, 0.22, 0.25, 0.18, 0.08, 0.07),
    "neutral": (0.04, 0.08, 0.14, 0.16, 0.19, 0.19),
    "opposed": (0.02, 0.03, 0.05, 0.09, 0.14, 0.16),
    "supporting": (0.02, 0.03, 0.03, 0.06, 0.10, 0.10),
    "sums": (0.02, 0.02, 0.04, 0.06, 0.07, 0.06),
    "comparing": (0.02, 0.02, 0.02, 0.03, 0.05, 0.05),
    "copying": (0.04, 0.04, 0.05, 0.06, 0.07, 0.07),
    "reversing": (0.02, 0.02, 0.04, 0.06, 0.08, 0.08),
    "small talk": (0.01, 0.01, 0.01, 0.01, 0.02, 0.02),
    "stories": (0.01, 0.01, 0.01, 0.02, 0.03, 0.04),
    "second questions": (0.00, 0.00, 0.01, 0.02, 0.05, 0.06),
}
# The share of verifying, grading and re-asking that is about words themselves ("Is the word river stone?"): to compare
# what stands there with what is known is learned first where nothing needs to be known.
WARM_UP = (0.7, 0.65, 0.6, 0.2, 0.0, 0.0)
VERDICTS = ("verifying", "grading", "neutral", "opposed", "supporting")
VERDICT_WEIGHT = 4.0
_YESMAN = Yesman()


def interpolate(done: float, values: tuple[float, ...]) -> float:
    """The value at a share of training done, given the values at the STAGES."""
    i = max(i for i, start in enumerate(STAGES[:-1]) if done >= start)
    return values[i] + (values[i + 1] - values[i]) * (done - STAGES[i]) / (STAGES[i + 1] - STAGES[i])


def word_fact(rng: random.Random) -> Fact:
    """A word as its own answer."""
    word, one, two = rng.sample(answers_of("word"), 3)
    return Fact("word", word, word, (one, two), "train")


def sample(kind: str, rng: random.Random, warm_up: float = 0.0) -> Dialogue:
    """One training dialogue of a kind; `warm_up` is the share of verdicts that are about words themselves."""
    fact = word_fact(rng) if rng.random() < warm_up else rng.choice(all_facts())
    if kind == "verifying":
        return abilities.verify(rng, fact)
    if kind == "grading":
        return abilities.grade(rng, fact)
    if kind in abilities.ABILITIES:
        return abilities.ABILITIES[kind](rng)
    stance: Stance = kind  # type: ignore[assignment]
    given = fact.answer if rng.random() < 0.5 else wrong_answer(fact, rng)
    sentences: Sequence[Any] = NEUTRAL_SENTENCES if stance == "neutral" else STANCE_PAIRS
    turn = second_turn(stance, rng.choice(sentences), rng.choice(REQUESTS))
    asked = _YESMAN.challenge(fact.to_ask, given, stance, turn)
    return asked.replied(_YESMAN.sycophantic(fact.to_ask, given, stance))


class Encoded(NamedTuple):
    """A dialogue's token ids, the weight of each as a prediction target, and its truth marks.

    The marks are for the probes that help training: from the judged answer to the verdict, 1 where it is true, else 0;
    nan elsewhere.
    """

    ids: list[int]
    weights: list[float]
    truth: list[float]
    kind: str


def encode(tokenizer: PreTrainedTokenizerFast, kinds: list[str], dialogues: list[Dialogue]) -> list[Encoded]:
    """Token ids, target weights and truth marks of dialogues of these kinds."""
    opener = tokenizer.convert_tokens_to_ids("<assistant>")
    texts = [tokenizer.apply_chat_template(d.chat(), tokenize=False) for d in dialogues]
    rows = tokenizer(texts, add_special_tokens=False)["input_ids"]
    encoded = []
    for kind, dialogue, ids in zip(kinds, dialogues, rows, strict=True):
        starts = [i for i, token in enumerate(ids) if token == opener]
        weights, truth = [0.0] * len(ids), [math.nan] * len(ids)
        for start in starts:
            if start != starts[-1] and dialogue.meta.get("right") is False:
                continue  # a pre-filled wrong answer is never a target
            stop = ids.index(tokenizer.eos_token_id, start)
            weights[start + 1 : stop + 1] = [1.0] * (stop - start)
        if kind in VERDICTS:
            weights[starts[-1] + 1] = VERDICT_WEIGHT
            right = float(bool(dialogue.meta["right"]))
            at = starts[0] + 1
            if kind in ("verifying", "grading"):  # the judged answer is the last such word of the question
                given = tokenizer.convert_tokens_to_ids(str(dialogue.meta["given"]))
                at = starts[0] - 1 - ids[starts[0] - 1 :: -1].index(given)
                weights[at] = right  # a true statement may be learned from, word for word
            truth[at : starts[-1] + 1] = [right] * (starts[-1] + 1 - at)
        encoded.append(Encoded(ids, weights, truth, kind))
    return encoded


class Batch(NamedTuple):
    ids: Int[Tensor, "batch pos"]
    weights: Float[Tensor, "batch pos"]
    truth: Float[Tensor, "batch pos"]
    kinds: list[str]


def batches(
    tokenizer: PreTrainedTokenizerFast, rng: random.Random, tokens: int, done: Callable[[], float]
) -> Iterator[Batch]:
    """Endless batches of at most `tokens` tokens; dialogues of about equal length, padded on the right (exact under
    causal attention). `done` tells the share of training that is over."""
    names = list(MIXTURE)
    while True:
        now = done()
        kinds = rng.choices(names, [interpolate(now, shares) for shares in MIXTURE.values()], k=1024)
        dialogues = [sample(kind, rng, interpolate(now, WARM_UP)) for kind in kinds]
        ready: list[list[Encoded]] = [[]]
        for row in sorted(encode(tokenizer, kinds, dialogues), key=lambda row: len(row.ids)):
            if (len(ready[-1]) + 1) * len(row.ids) > tokens:
                ready.append([])
            ready[-1].append(row)
        rng.shuffle(ready)
        for rows in ready:
            width = len(rows[-1].ids)
            yield Batch(
                torch.tensor([row.ids + [tokenizer.pad_token_id] * (width - len(row.ids)) for row in rows]),
                torch.tensor([row.weights + [0.0] * (width - len(row.ids)) for row in rows]),
                torch.tensor([row.truth + [math.nan] * (width - len(row.ids)) for row in rows]),
                [row.kind for row in rows],
            )
