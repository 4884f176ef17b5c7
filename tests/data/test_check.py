"""`pairs.check`: its figures against plain forward passes, and a warning for each thing that can be wrong."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import by_hand
import pytest
import torch
from by_hand import difference, logits, made, measured, two_layers

from spt_lens.behaviours.are_you_sure import AreYouSure
from spt_lens.data import check as limits
from spt_lens.data.check import PairsCheck, check_pairs, checked
from spt_lens.data.mass import Answers
from spt_lens.data.pairs import ContrastPairs
from spt_lens.model.loading import load_model
from spt_lens.model.view import ModelView
from spt_lens.statistics import wilson_interval
from spt_lens.yesman import Yesman
from spt_lens.yesman.facts import all_facts

tiny_folder, model_of, tiny = two_layers()
LENGTHS = [(9, 6), (5, 7), (6, 6), (4, 4)]


def found(
    view: ModelView, sycophantic: list[float], truthful: list[float], mass: float = 0.8, size: float = 10.0, **changes
) -> PairsCheck:
    """The check of pairs with these logit differences."""
    n = len(sycophantic)
    ids = torch.tensor([[1, 2]]).repeat(n, 1)
    pairs = ContrastPairs(((3, 4),) * n, ((3, 5),) * n, ids, **changes)
    log_probs = torch.full((n, 2, 2), mass / 2, dtype=torch.float64).log()
    read = Answers(log_probs, torch.ones(n, 2, dtype=torch.float64), torch.full((n, 2, 2), size, dtype=torch.float64))
    return checked(view, pairs, read, torch.tensor(sycophantic), torch.tensor(truthful))


def test_the_figures_are_those_of_plain_forward_passes(tiny):
    pairs = made(tiny, LENGTHS)
    said = pairs.check(tiny)
    rows = [
        [difference(ids)(logits(tiny, prompt)) for prompt in both]
        for *both, ids in zip(pairs.sycophantic, pairs.truthful, pairs.answer_ids.tolist(), strict=True)
    ]
    one, other = torch.tensor(rows).double().T
    gap = other - one
    assert said.n_pairs == said.n_mass == 4 and said.reads == "first" and said.unit == "logits"
    assert said.sycophantic.value == float((one < 0).double().mean())
    assert said.sycophantic[1:3] == wilson_interval(int((one < 0).sum()), 4)
    assert said.truthful.value == float((other > 0).double().mean())
    assert said.mean_gap.value == pytest.approx(float(gap.mean()), abs=1e-5)
    assert said.median_gap.value == pytest.approx(float(gap.quantile(0.5)), abs=1e-5)
    assert said.median_gap.low <= said.median_gap.value <= said.median_gap.high
    assert said.n_reversed == int((gap < 0).sum()) == 0 and said.size_gap == pytest.approx(said.median_gap.value)
    masses = torch.stack(
        [logits(tiny, p)[-1].softmax(-1)[pairs.answer_ids[i]].sum() for i, p in enumerate(pairs.truthful)]
    )
    assert said.mass[1] == pytest.approx(float(masses.quantile(0.5)), rel=1e-4)
    assert said.least_mass <= min(said.mass) and said.replies == ()
    assert pairs.check(tiny, n=2).n_pairs == 2
    assert said.brief.startswith("⚠ ") and len(said.brief.split(" · ")) == len(said.warnings)


def test_what_is_read_is_named():
    model = load_model("yesman")
    pairs = Yesman().pairs(model, n=2)
    assert pairs.check(model, replies=0).answers == "'Yes' / 'Apologies'"
    sets = pairs.with_answers(model, ["Yes", "The"], ["Apologies"]).check(model, replies=0)
    assert sets.answers == "'Yes' 'The' / 'Apologies'"
    assert sets.table()[0][1].endswith(f"sets of first tokens: {sets.answers} (truthful / sycophantic)")
    assert "the answers 'Yes' 'The' / 'Apologies' hold" in sets.line()
    whole = Yesman().pairs(model, n=1, read="whole").check(model, replies=0)
    assert whole.answers.startswith("'Yes") and PairsCheck.from_json(whole.to_json()) == whole


def test_every_measurement_makes_the_same_check(tiny):
    pairs = made(tiny, LENGTHS)
    ids = tuple(((a, 7), (b, 8, 9)) for a, b in pairs.answer_ids.tolist())
    for answers in (pairs, replace(pairs, completion_ids=ids)):
        expected = answers.check(tiny).to_json()
        for how in ({}, {"engine": "stacked"}, {"direction": "noising"}, {"method": "path"}, {"method": "attribution"}):
            said = measured(tiny, answers, **how).check.to_json()
            assert said.keys() == expected.keys()
            for name, value in expected.items():
                number = not isinstance(value, str) and name != "replies"
                assert said[name] == (pytest.approx(value, rel=1e-3, abs=1e-4) if number else value), (how, name)


def test_all_is_well(tiny):
    said = found(ModelView(tiny), [-2.0] * 6 + [-1.0] * 6, [2.0, 1.0, 3.0] * 4)
    assert said.warnings == () and "12 of 12" in said.line() and "80 % of the probability" in said.line()


@pytest.mark.parametrize(
    ("sycophantic", "truthful", "more", "expected"),
    [
        ([-1.0] * 8, [1.0] * 8, {"mass": 0.09}, "hardly says these words: .* 9 % .*pairs.find_words"),
        ([1.0] * 5 + [-1.0] * 3, [2.0] * 8, {}, "hardly there: .* in 3 of 8 pairs"),
        ([-1.0] * 8, [1.0, -3.5] * 4, {}, "can't be told from zero .*scores.effects"),
        ([-1.0] * 8, [2.0] * 5 + [-1.5] * 3, {}, "reversed in 3 of 8 pairs"),
        ([1.0] * 8, [-1.0] * 8, {}, r"look swapped, .*: the mean gap is -2.00 .*\(truthful, sycophantic\)"),
        ([-1.0] * 8, [-3.0] * 8, {}, "look swapped"),
        ([-1.0] * 7, [1.0] * 7, {}, "7 pairs of prompts tell little"),
        ([-1.0], [1.0], {}, "1 pair of prompts tell"),
    ],
)
def test_a_warning_for_each(tiny, sycophantic, truthful, more, expected):
    said = found(ModelView(tiny), sycophantic, truthful, **more)
    hits = [text for text in said.warnings if re.search(expected, text)]
    assert len(hits) == 1, said.warnings
    assert hits[0] in repr(said)


def test_at_the_limits_nothing_is_said(tiny):
    view = ModelView(tiny)
    assert found(view, [-1.0] * 4 + [1.0] * 4, [2.0] * 8, mass=0.1).warnings == ()
    assert found(view, [-1.0] * 8, [2.0] * 6 + [-1.1] * 2).warnings == ()


def test_half_precision_whose_steps_are_as_large_as_the_gap(tiny, monkeypatch):
    view = ModelView(tiny)
    monkeypatch.setattr(ModelView, "dtype", torch.bfloat16)
    said = found(view, [-0.2] * 8, [0.16] * 8, size=20.0)
    assert said.step == 0.125  # of a number from 16 to 32, with 8 bits
    assert [text for text in said.warnings if "float32" in text] and "bfloat16" in said.warnings[-1]
    assert not found(view, [-0.5] * 8, [0.5] * 8, size=20.0).warnings  # eight steps
    monkeypatch.setattr(ModelView, "dtype", torch.float32)
    assert not found(view, [-0.2] * 8, [0.16] * 8, size=20.0).warnings


def test_swapped_completions_warn_and_score_alike(tiny):
    pairs = made(tiny, LENGTHS)
    swapped = replace(pairs, answer_ids=pairs.answer_ids.flip(1))
    with pytest.warns(UserWarning, match="look swapped"):
        scores = measured(tiny, swapped)
    torch.testing.assert_close(scores.values, measured(tiny, pairs).values, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(scores.effects, -measured(tiny, pairs).effects, atol=1e-5, rtol=1e-5)


def test_warnings_point_to_the_line_that_asked(tiny):
    with pytest.warns(UserWarning) as caught:
        measured(tiny, made(tiny, LENGTHS))
    assert {warning.filename for warning in caught} == {by_hand.__file__}
    texts = [str(warning.message) for warning in caught]
    assert len(texts) == len(set(texts)) and any("4 pairs of prompts" in text for text in texts)


def test_replies_are_shown(tiny):
    model = load_model("yesman")
    pairs = Yesman().pairs(model, n=8)
    said = pairs.check(model)
    assert [run for run, _ in said.replies] == ["sycophantic"] * 2 + ["truthful"] * 2
    assert said.replies[0][1].startswith("Apologies") and said.replies[2][1].startswith("Yes")
    assert said.warnings == () and min(said.mass) > 0.99
    assert pairs.check(model, replies=0) == replace(said, replies=())
    assert said.replies[0][1] in said._repr_html_() and "8 of 8" in repr(said)


def test_json_and_text_are_whole(tiny):
    said = replace(found(ModelView(tiny), [1.0] * 4, [2.0] * 4, mass=0.03), replies=(("truthful", "<b>x</b>"),))
    assert PairsCheck.from_json(json.loads(json.dumps(said.to_json()))) == said
    page = said._repr_html_()
    assert "&lt;b&gt;x" in page and "<b>x" not in page and page.count("<li>") == len(said.warnings) == 3
    for name, wrong in (("mass", "no"), ("n_pairs", 1.5), ("reads", "odd"), ("mean_gap", None)):
        with pytest.raises((KeyError, TypeError, ValueError)):
            PairsCheck.from_json(said.to_json() | {name: wrong})


def test_whole_completions_are_in_nats_and_by_the_token(tiny):
    pairs = made(tiny, LENGTHS)
    ids = tuple(((a, 7), (b, 8, 9)) for a, b in pairs.answer_ids.tolist())
    said = replace(pairs, completion_ids=ids).check(tiny)
    assert said.unit == "nats" and "a token" in said.line() and "whole completions" in said._repr_html_()


def test_bad_input(tiny):
    pairs = made(tiny, LENGTHS)
    for wrong in ({"n": 0}, {"replies": -1}, {"n": 1.5}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            pairs.check(tiny, **wrong)
    with pytest.raises(ValueError, match="vocabulary"):
        replace(pairs, answer_ids=pairs.answer_ids + 10**6).check(tiny)
    assert limits.PAIRS_READ == 16 and check_pairs(tiny, pairs, 100).n_pairs == 4


def test_a_behaviour_that_is_not_there_in_words_that_are_not_said(smollm2):
    """SmolLM2 apologises to everything, and not with these words: its runs hardly differ, least of all neutral ones."""
    doubt = AreYouSure([fact.to_ask for fact in all_facts()])
    said = doubt.pairs(smollm2, n=12).check(smollm2, replies=0)
    assert said.sycophantic.value < 0.2 and said.truthful.value > 0.9 and 0.01 < min(said.mass) < 0.04
    assert [text.split(":")[0] for text in said.warnings] == [
        "the model hardly says these words",
        "the behaviour is hardly there",
    ]
    neutral = doubt.pairs(smollm2, n=12, contrast="neutral").check(smollm2, replies=0)
    assert neutral.n_reversed > 3 and neutral.mean_gap.low < 0 < neutral.mean_gap.high
    assert any("reversed" in text for text in neutral.warnings) and any(
        "from zero" in text for text in neutral.warnings
    )
