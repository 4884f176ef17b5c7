"""Evaluation on text: drift on own replies, choice by likelihood, perplexity, and what changed."""

from __future__ import annotations

import math

import pytest
import torch

from spt_lens.behaviours.choices import Choice
from spt_lens.behaviours.suite import Suite
from spt_lens.chat.dialogues import dialogue
from spt_lens.chat.template import prompt_ids
from spt_lens.evaluate import change
from spt_lens.evaluate.change import Reference, own_drift, own_texts
from spt_lens.evaluate.evaluate import Evaluation, evaluate
from spt_lens.evaluate.paired import Units, changes
from spt_lens.evaluate.text import choice, chosen, perplexity
from spt_lens.heads import HeadSet
from spt_lens.model.view import ModelView
from spt_lens.tune.adapter import Adapter
from spt_lens.tune.slices import head_slices

PROMPTS = (dialogue("Hello!"), dialogue("What is the capital of France?"), dialogue("Who are you?"))
CHOICES = tuple(
    Choice(dialogue(f"What is the capital of {country}?"), ("Paris", "Madrid", "Oslo sure", "Rome"), i)
    for i, country in enumerate(("France", "Spain", "Norway", "Italy"))
)
PASSAGES = ("Hello! Who are you?", "The answer is Paris.", "Are you sure? Yes, the answer is Madrid.")


@pytest.fixture
def tuned(tiny):
    """An adapter that is on the model."""
    heads = HeadSet.parse("L0.H1 L2.H3")
    slices = head_slices(ModelView(tiny), heads)
    before = {s.name: s.read() for s in slices}
    for piece in slices:
        piece.write(piece.read() * 2)
    return Adapter(before, {s.name: s.read() for s in slices}, heads, "qkvo", ModelView(tiny).fingerprint())


def test_drift_on_own_replies_equals_a_plain_loop(load, tiny, tiny_folder, tuned):
    untuned = load(tiny_folder)
    total = positions = 0.0
    for prompt in PROMPTS:
        ids = prompt_ids(tiny.tokenizer, prompt)
        new = ModelView(untuned).generate([ids], 6)[0].tolist()
        tokens = torch.tensor([ids + new])
        with torch.no_grad():
            p, q = (m(tokens)[0, len(ids) - 1 : -1].log_softmax(-1) for m in (untuned, tiny))
        total += float((p.exp() * (p - q)).sum())
        positions += len(new)
    kept = Reference.own_replies(untuned, PROMPTS, 6)
    assert [text.ids[text.given :] for text in kept.texts] != [t.ids[t.given :] for t in own_texts(tiny, PROMPTS, 6)]
    for reference in (untuned, tuned, kept, Reference.of(untuned, (), PROMPTS, 6)):
        found = own_drift(tiny, PROMPTS, reference, 6)
        assert found.value == pytest.approx(total / positions, rel=1e-4)
        assert found.low <= found.value <= found.high and found.n == 3
    assert own_drift(untuned, PROMPTS, untuned, 6).value == pytest.approx(0, abs=1e-6)
    with pytest.raises(ValueError, match="without own replies to these prompts"):
        own_drift(tiny, PROMPTS[:2], kept, 6)
    with pytest.raises(ValueError, match="no prompts"):
        own_drift(tiny, (), untuned)


def test_small_batches_change_nothing(load, tiny, tiny_folder, tuned, monkeypatch):
    untuned = load(tiny_folder)
    whole = own_drift(tiny, PROMPTS, untuned, 6)
    monkeypatch.setattr(change, "MOST_NUMBERS", 1)
    assert own_drift(tiny, PROMPTS, untuned, 6) == pytest.approx(whole)


def test_choice_is_by_the_summed_likelihood_of_the_options(tiny):
    def by_hand(prompt, option) -> float:
        ids = prompt_ids(tiny.tokenizer, prompt)
        words = tiny.tokenizer(option, add_special_tokens=False)["input_ids"]
        with torch.no_grad():
            log_probs = tiny(torch.tensor([ids + words]))[0].log_softmax(-1)
        return sum(float(log_probs[len(ids) + i - 1, word]) for i, word in enumerate(words))

    expected = [max(range(4), key=lambda i, c=c: by_hand(c.dialogue, c.options[i])) for c in CHOICES]
    assert chosen(tiny, CHOICES) == expected
    hits = [i == c.right for i, c in zip(expected, CHOICES, strict=True)]
    found = choice(tiny, CHOICES)
    assert (found.value, found.n) == (sum(hits) / 4, 4)


def test_perplexity_is_that_of_each_token_after_the_first(tiny):
    nats = tokens = 0.0
    for passage in PASSAGES:
        ids = tiny.tokenizer(passage)["input_ids"]
        with torch.no_grad():
            log_probs = tiny(torch.tensor([ids]))[0].log_softmax(-1)
        nats -= sum(float(log_probs[i, word]) for i, word in enumerate(ids[1:]))
        tokens += len(ids) - 1
    found = perplexity(tiny, PASSAGES)
    assert found.value == pytest.approx(math.exp(nats / tokens), rel=1e-5)
    assert found.low < found.value < found.high and found.n == 3
    with pytest.raises(ValueError, match=r"passages\[1\] is 1 tokens"):
        perplexity(tiny, [PASSAGES[0], ""])


@pytest.fixture
def suite():
    hello = dialogue("Hello!", "Hello!")
    return Suite(
        "mine", abilities={"greeting": (hello,)}, texts=(hello,), prompts=PROMPTS, choices=CHOICES, passages=PASSAGES
    )


def test_a_suite_of_texts_is_evaluated_and_compared(load, tiny, tiny_folder, tuned, suite, tmp_path):
    untuned = load(tiny_folder)
    before = evaluate(untuned, suite, reference=untuned, progress=False)
    after = evaluate(tiny, suite, reference=tuned, progress=False)
    assert list(after.estimates) == [
        *("ability", "ability: greeting", "choice", "choice: by chance", "perplexity", "kl", "kl: own replies")
    ]
    assert after["choice: by chance"].value == 0.25
    assert after["kl: own replies"] == pytest.approx(own_drift(tiny, PROMPTS, untuned))
    again = Evaluation.load(after.save(tmp_path / "after.json"))
    for one in (after, again):
        table = one.change_from(before).set_index("metric")
        assert list(table.columns) == ["before", "after", "change", "low", "high", "n"]
        for metric in ("choice", "perplexity", "kl", "ability"):
            row = table.loc[metric]
            values = before[metric].value, after[metric].value
            assert (row["before"], row["after"]) == pytest.approx(values, rel=1e-6, abs=1e-7)
            assert row["change"] == pytest.approx(values[1] - values[0], rel=1e-5, abs=1e-7)
            assert row["low"] <= row["change"] <= row["high"]
    kept = evaluate(tiny, suite, reference=Reference.of(untuned, suite.texts, suite.prompts), progress=False)
    assert kept["kl: own replies"] == pytest.approx(after["kl: own replies"])
    only = evaluate(tiny, suite, reference=Reference.of(untuned, suite.texts), progress=False)
    assert "kl" in only and "kl: own replies" not in only


def test_a_paired_interval_is_narrower_than_two_beside_each_other():
    names = [f"q{i}" for i in range(100)]
    before = Units.of(names, [i % 2 for i in range(100)])
    after = Units.of(names, [1 if i < 10 else i % 2 for i in range(100)])  # five cases better, none worse
    (row,) = changes({"choice": before}, {"choice": after}, ["choice"]).to_dict("records")
    assert (row["before"], row["after"], row["n"]) == (0.5, 0.55, 100)
    assert row["change"] == pytest.approx(0.05)
    assert 0 < row["low"] < 0.03 and 0.07 < row["high"] < 0.11  # binomial of 5 in 100


def test_cases_of_one_question_are_drawn_together_and_means_are_of_their_parts():
    twice = [f"q{i // 2}" for i in range(40)]
    one, other = Units.of(twice, [0.0] * 40), Units.of(twice, [float(i % 4 < 2) for i in range(40)])
    table = changes({"confidence": one, "retracted": one}, {"confidence": other, "retracted": one}, ["discernment"])
    (row,) = table.to_dict("records")
    assert row["change"] == 0.25 and row["n"] == 40
    alone = Units.of([str(i) for i in range(40)], other.sums)
    (free,) = changes({"c": Units.of(alone.names, one.sums)}, {"c": alone}, ["c"]).to_dict("records")
    (bound,) = changes({"c": one}, {"c": other}, ["c"]).to_dict("records")
    assert bound["high"] - bound["low"] > 1.2 * (free["high"] - free["low"])


def test_what_cannot_be_compared_is_said(tiny, suite):
    found = evaluate(tiny, suite, progress=False)
    with pytest.raises(ValueError, match="can't be compared"):
        found.change_from(Evaluation("other", "another suite", {}))
    with pytest.raises(ValueError, match="has not kept its cases"):
        found.change_from(Evaluation("old", "mine", found.estimates))
    with pytest.raises(TypeError, match="must be an Evaluation"):
        found.change_from(found.table)
    with pytest.raises(ValueError, match="are of other cases"):
        changes({"choice": Units.of(["a"], [1])}, {"choice": Units.of(["b"], [1])}, ["choice"])


def test_challenges_are_compared_by_their_questions(tiny):
    asked = ("What is the capital of France?", "Paris.", "Are you sure?", "Yes.")
    case = dialogue(*asked, answer="Paris", given="Paris")
    suite = Suite("mine", wrong=(case,), groups={"asked": (dialogue("Who are you?"),)})
    found = evaluate(tiny, suite, progress=False)
    table = found.change_from(found).set_index("metric")
    assert table.loc["retracted", "change"] == 0 and table.loc["gives in: asked", "n"] == 1
