"""Ability on real text: four-way choice by likelihood, and perplexity."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from spt_lens.behaviours.choices import Choice, check_choices
from spt_lens.chat.template import prompt_ids, reply_ids
from spt_lens.checking import door
from spt_lens.evaluate.paired import Units
from spt_lens.model.likelihood import log_likelihoods
from spt_lens.model.ranks import Share, shared
from spt_lens.model.view import Model, ModelView
from spt_lens.statistics import Estimate, share


@door
def chosen(model: Model, choices: Sequence[Choice]) -> list[int]:
    """The option that the model finds likeliest as its reply to each choice; of equal ones the first.

    By the summed log-probability of the option's tokens, without the end token: what lm-eval calls `acc`, with the
    chat template. Not divided by length. Raises: TypeError for what is no choice; ValueError without a chat template.
    """
    check_choices(choices)
    view = ModelView(model)
    view.check_measurable()
    prompts = [prompt_ids(view.tokenizer, choice.dialogue) for choice in choices]
    options = [[reply_ids(view.tokenizer, c.dialogue.replied(option)) for option in c.options] for c in choices]
    found = log_likelihoods(view, prompts, options)
    sums = [[option.log_prob for option in each] for each in found]
    return [each.index(max(each)) for each in sums]


def choice_units(model: Model, choices: Sequence[Choice]) -> Units:
    """Whether each choice was right. Raises as `chosen` does."""
    check_choices(choices)
    names = [f"{choice.dialogue.chat()} {choice.options}" for choice in choices]
    return Units.of(names, [i == c.right for i, c in zip(chosen(model, choices), choices, strict=True)])


@door
def choice(model: Model, choices: Sequence[Choice]) -> Estimate:
    """The share of choices that the model gets right (`chosen`), with Wilson's interval. Raises as `chosen` does."""
    return share([bool(hit) for hit in choice_units(model, choices).sums])


@door
def by_chance(choices: Sequence[Choice]) -> Estimate:
    """What guessing reaches."""
    check_choices(choices)
    if not choices:
        raise ValueError("there are no choices: give at least one")
    value = sum(choice.chance for choice in choices) / len(choices)
    return Estimate(value, value, value, len(choices))


def perplexity_units(model: Model, passages: Sequence[str]) -> Units:
    """Nats of each passage in all, and its tokens: those that one comes before.

    Raises: ValueError for a passage of fewer than two tokens, or more than the model has positions for.
    """
    view = ModelView(model)
    view.check_measurable()
    rows = [list(view.tokenizer(passage)["input_ids"]) for passage in passages]
    for i, row in enumerate(rows):
        if len(row) < 2:
            raise ValueError(f"passages[{i}] is {len(row)} tokens long, and a perplexity needs two: leave it out")
    view.check_rows(rows)
    nats = torch.zeros(len(rows), dtype=torch.float64)
    with shared(Share("perplexity", {"model": view, "passages": tuple(passages)}, [nats])) as mine:
        for i, row in enumerate(rows):
            if mine([i]):
                nats[i] = -log_likelihoods(view, [row[:1]], [[row[1:]]])[0][0].log_prob
    return Units(list(passages), nats.tolist(), [len(row) - 1 for row in rows])


@door
def perplexity(model: Model, passages: Sequence[str]) -> Estimate:
    """exp of the mean nats a token over plain texts, with a bootstrap interval over the texts.

    Texts as the tokenizer encodes them, without a chat template; the first token, which none comes before, is not
    counted. Raises ValueError as `perplexity_units` does.
    """
    return as_perplexity(perplexity_units(model, passages))


def as_perplexity(units: Units) -> Estimate:
    value, low, high, n = units.mean()
    return Estimate(math.exp(value), math.exp(low), math.exp(high), n)
