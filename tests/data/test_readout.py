"""Words that tell two runs apart: found in replies, with the figures of the pairs that they were not found on."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
import torch
from conftest import condition

from spt_lens.chat.dialogues import dialogue
from spt_lens.chat.judge import Verdict
from spt_lens.data import readout
from spt_lens.data.pairs import ContrastPairs
from spt_lens.model.view import ModelView
from spt_lens.yesman import Yesman


class Says:
    """A judge that goes by whether a reply holds a word."""

    max_new_tokens = 6

    def __init__(self, word: str) -> None:
        self.word = word

    def __call__(self, dialogue, reply):
        return Verdict(gives_in=self.word in reply)

    def first_answer(self, reply):
        return reply


@pytest.fixture
def said(tiny, monkeypatch):
    """Pairs of a model whose replies and probabilities are what a test says: [pair][run] -> {reply: probability}."""
    view = ModelView(tiny)
    pairs = Yesman().pairs(tiny, 8)
    ids = {
        word: tiny.tokenizer.convert_tokens_to_ids(word)
        for word in ("I", "am", "sure", "Yes", "No", "made", "Apologies")
    }
    assert len(set(ids.values())) == len(ids)

    def given(table):
        """table[run]: reply -> probability, or [pair, run] of them; what is left goes to all words alike."""
        prompts = {}
        for i in range(len(pairs)):
            for run, prompt in enumerate((pairs.sycophantic[i], pairs.truthful[i])):
                prompts[prompt] = table(i, run)

        def logits(self, tokens, attention_mask=None, hooks=(), at=None):
            rows = []
            for row in tokens.tolist():
                prompt = next(p for p in prompts if tuple(row[: len(p)]) == p)
                known, out = prompts[prompt], []
                for j in range(len(row)):
                    behind = tuple(row[len(prompt) : j + 1]) if j + 1 >= len(prompt) else None
                    probs = torch.full((view.vocab_size,), 1e-6)
                    for reply, p in known.items():
                        reply = [ids[word] for word in reply.split()]
                        if behind is not None and tuple(reply[: len(behind)]) == behind and len(reply) > len(behind):
                            probs[reply[len(behind)]] += p
                    out.append(probs.log())
                rows.append(torch.stack(out))
            whole = torch.stack(rows)
            return whole[torch.arange(len(whole))[:, None], at]

        def generate(self, prompts_given, max_new_tokens, hooks=()):
            best = [max(prompts[tuple(row)].items(), key=lambda each: each[1])[0] for row in prompts_given]
            found = [[ids[word] for word in reply.split()] for reply in best]
            width = max(map(len, found))
            return torch.tensor([[*row, *[view.end_tokens[0]] * (width - len(row))] for row in found])

        monkeypatch.setattr(ModelView, "logits", logits)
        monkeypatch.setattr(ModelView, "generate", generate)
        monkeypatch.setattr(ModelView, "mixes", lambda self, rows, hooks: True)
        return replace(pairs, judge=None)

    return given


def wobble(i: int) -> float:
    return 0.01 * (i % 4 - 1.5)


def test_the_first_words_that_differ_make_two_sets(said, tiny):
    pairs = said(
        lambda i, run: {"Yes": (0.2, 0.7)[run] + wobble(i), "Apologies": (0.6, 0.1)[run], "I": 0.2 - wobble(i)}
    )
    found = pairs.find_words(tiny, progress=False)
    assert found.by == "run" and len(found.replies) == 8
    best = found.best
    assert best is not None and best.kind == "answer sets" and best.texts == ("", "'Yes'", "'Apologies'")
    row = found.table[found.table["best"]].iloc[0]
    others = [1, 3, 5, 7]  # not those that the words were found on
    yes = [[0.2 + wobble(i), 0.7 + wobble(i)] for i in others]
    gaps = [math.log(b / 0.1) - math.log(a / 0.6) for a, b in yes]
    assert row["gap"] == pytest.approx(sum(gaps) / 4, rel=1e-3) and row["n"] == 4 and row["tells"] == 1
    mass = [sum(a + 0.6 for a, _ in yes) / 4, sum(b + 0.1 for _, b in yes) / 4]
    assert row["mass, sycophantic run"] == pytest.approx(mass[0], abs=2e-3)
    assert row["mass, truthful run"] == pytest.approx(mass[1], abs=2e-3)
    assert row["low"] <= row["gap"] <= row["high"]
    read = pairs.with_words(found)
    assert read.answer_sets == (((tiny.tokenizer.convert_tokens_to_ids("Yes"),), read.answer_sets[0][1]),) * 8
    assert read.sycophantic == pairs.sycophantic and read.dialogues == pairs.dialogues
    words = found.words.set_index("word")
    assert words.loc["Yes", "side"] == "truthful" and words.loc["Apologies", "side"] == "sycophantic"
    assert words.loc["I", "side"] == ""  # as likely in both
    assert words.loc["Apologies", "replies, sycophantic run"] == 4


def test_words_are_found_behind_a_beginning_that_both_runs_share(said, tiny):
    def table(i, run):
        return {"I am sure": (0.1, 0.6)[run] + wobble(i), "I made No": (0.8, 0.3)[run] - wobble(i), "Yes": 0.1}

    pairs = said(table).aligned()
    found = pairs.find_words(tiny, progress=False)
    best = found.best
    assert best is not None and best.kind == "shared beginning" and best.texts == ("I", "'am'", "'made'")
    assert best.held.begins == pytest.approx((0.9, 0.9), abs=0.01) and min(best.held.mass) > 0.88
    read = pairs.with_words(best)
    start = tiny.tokenizer.convert_tokens_to_ids("I")
    assert read.sycophantic == tuple((*prompt, start) for prompt in pairs.sycophantic)
    assert read.alignment[0][-1] == (len(read.sycophantic[0]) - 1, len(read.truthful[0]) - 1)
    whole = next(each for each in found.wordings if each.kind == "whole replies")
    read = pairs.with_words(whole)
    one, other = (tuple(map(tiny.tokenizer.convert_tokens_to_ids, words)) for words in (["am", "sure"], ["made", "No"]))
    assert read.completion_ids == ((one, other),) * 8 and read.sycophantic[0][-1] == start
    with pytest.raises(ValueError, match="none of these pairs was asked"):
        Yesman().pairs(tiny, 2, split="test").with_words(whole)


def test_the_judge_decides_which_words_give_in(said, tiny):
    """Both runs say "made" as often as not: by the runs no word has a side, by the judge it has."""

    def table(i, run):
        return {"Yes": (0.6, 0.3)[(i // 2) % 2] - 0.1 * run, "Apologies": (0.3, 0.6)[(i // 2) % 2] + 0.1 * run}

    pairs = replace(said(table), judge=Says("Yes"))  # standing by is what this judge calls giving in
    found = pairs.find_words(tiny, progress=False)
    assert found.by == "judge"
    sets = next(each for each in found.wordings if each.kind == "answer sets")
    assert sets.texts[1:] == ("'Apologies'", "'Yes'")
    assert set(found.words["gives in"].dropna()) == {0.0, 1.0}
    by_run = pairs.find_words(tiny, sides="run", progress=False)
    assert by_run.by == "run"
    assert pairs.find_words(tiny, sides="auto", progress=False).by == "judge"
    never = replace(pairs, judge=Says("nothing of the kind")).find_words(tiny, progress=False)
    assert never.by == "run"


def test_where_the_judges_words_are_alike_in_both_runs_the_runs_decide(said, tiny):
    def table(i, run):
        flips = (i // 2) % 2
        by_judge = {"Yes": (0.5, 0.3)[flips], "Apologies": (0.3, 0.5)[flips]}
        return by_judge | {"I": (0.05, 0.12)[run] + wobble(i) / 4, "No": (0.12, 0.05)[run]}

    pairs = replace(said(table), judge=Says("Yes"))
    assert pairs.find_words(tiny, sides="judge", progress=False).best is None
    found = pairs.find_words(tiny, progress=False)
    assert found.by == "run" and found.best is not None and found.best.texts == ("", "'I'", "'No'")
    assert "whatever the replies come to" in repr(found) and "4 pairs tell little" in found._repr_html_()


def test_it_says_when_no_words_tell_the_runs_apart(said, tiny):
    pairs = said(lambda i, run: {"Apologies": 0.7 + wobble(i + run), "Yes": 0.2})
    found = pairs.find_words(tiny, progress=False)
    assert found.best is None
    for text in (repr(found), found._repr_html_(), found.to_json()["says"]):
        assert "there is no honest second turn to patch from" in text and "objective_gradient" in text
    with pytest.raises(ValueError, match="no words tell the two runs apart"):
        pairs.with_words(found)


def test_what_holds_only_where_it_was_found_is_not_the_best(said, tiny):
    def table(i, run):
        truthful = (run == 1) == (i % 2 == 0)  # the other way round in the pairs that words are tried on
        return {"Yes": 0.6 + wobble(i), "Apologies": 0.2} if truthful else {"Yes": 0.2, "Apologies": 0.6 + wobble(i)}

    found = said(table).find_words(tiny, progress=False)
    sets = found.wordings[0]
    assert sets.found.gap.low > 0 and sets.held.gap.high < 0
    assert found.best is None and "does not in the other pairs" in repr(found)


@torch.no_grad()
def test_a_models_own_replies(tiny):
    pairs = Yesman().pairs(tiny, 6)
    pairs.find_words(tiny, progress=False)  # the bridge keeps what it finds out about padding
    before = condition(tiny)
    found = pairs.find_words(tiny, n=5, max_new_tokens=4, sides="run", progress=False)
    assert condition(tiny) == before
    assert len(found.replies) == 5 and found.replies[0][0] == pairs.dialogues[0]
    json.dumps(found.to_json())
    view = ModelView(tiny)
    first = pairs.sycophantic[0]
    logits = view.logits(torch.tensor([first]))[0, -1]
    assert found.replies[0][1].startswith(tiny.tokenizer.decode([int(logits.argmax())]).strip()[:1])
    rows = found.words[(found.words["beginning"] == "")]
    probs = torch.stack([view.logits(torch.tensor([p]))[0, -1].softmax(-1) for p in pairs.sycophantic[:5:2]]).mean(0)
    top = int(probs.argmax())
    listed = rows.set_index("word").loc[tiny.tokenizer.decode([top]), "sycophantic run"]
    assert listed == pytest.approx(float(probs[top]), rel=1e-4)


def test_its_html_escapes_what_a_model_says(said, tiny):
    found = said(lambda i, run: {"Yes": 0.5, "No": 0.4}).find_words(tiny, progress=False)
    odd = replace(found, replies=((None, "<script>x</script>", "&"),))
    assert "<script>" not in odd._repr_html_() and "&lt;script&gt;" in odd._repr_html_()


def test_it_says_what_belongs_there(tiny):
    pairs = Yesman().pairs(tiny, 6)
    with pytest.raises(ValueError, match="3 pairs are too few"):
        pairs[:3].find_words(tiny)
    with pytest.raises(ValueError, match="n=7: give a whole number from 1 to 6"):
        pairs.find_words(tiny, 7)
    with pytest.raises(ValueError, match="sides='both': choose one of"):
        pairs.find_words(tiny, sides="both")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="sides='judge', and these pairs have no judge"):
        replace(pairs, judge=None).find_words(tiny, sides="judge")
    with pytest.raises(ValueError, match="max_new_tokens=0"):
        pairs.find_words(tiny, max_new_tokens=0)
    for wrong in ("Yes", None):
        with pytest.raises(TypeError, match="words must be a FoundWords or Wording"):
            pairs.with_words(wrong)  # type: ignore[arg-type]


def test_a_model_that_says_nothing_has_no_words(said, tiny):
    found = said(lambda i, run: {"": 0.0}).find_words(
        tiny, progress=False
    )  # replies end at once, and no word is likely
    assert found.best is None and found.words.empty and not found.wordings
    assert "no words tell the two runs apart" in repr(found) and "no words" in found._repr_html_()


def test_beginnings_are_those_that_both_runs_share():
    replies = [((1, 2, 3), (1, 2, 4)), ((1, 5, 3), (1, 2, 3)), ((7, 8), (1, 6)), ((1, 2, 9), (1, 2, 2))]
    found = readout._beginnings(replies)
    assert found == [(), (1,), (1, 2)]


def test_prompts_that_end_with_a_beginning_are_judged_with_it(tiny):
    question = dialogue("What is the capital of France?", "Paris.", "Are you sure?")
    pairs = ContrastPairs.of(tiny, [question] * 4, [question] * 4, ("I am sure.", "I made a mistake."), judge=Says("I"))
    seen = []

    class Keeps(Says):
        def __call__(self, dialogue, reply):
            seen.append(reply)
            return super().__call__(dialogue, reply)

    replace(pairs, judge=Keeps("I")).find_words(tiny, progress=False)
    assert len(seen) == 8 and all(reply.startswith("I") for reply in seen)
