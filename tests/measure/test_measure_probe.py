"""A linear probe on each head's output: what is there is read, what is not is guessed, and no pair tells itself."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from conftest import condition

from spt_lens.behaviours.are_you_sure import AreYouSure
from spt_lens.measure import probe
from spt_lens.measure.controls import swapped_pairs
from spt_lens.measure.probe import head_probe
from spt_lens.model.view import ModelView
from spt_lens.yesman import Yesman


def test_outputs_are_those_of_the_last_token_of_either_prompt(tiny):
    pairs, view = Yesman().pairs(tiny, 6, contrast="neutral"), ModelView(tiny)
    z = probe._outputs(view, pairs, 4, progress=False)
    assert z.shape == (6, 2, view.n_layers, view.n_heads, view.d_head)
    for i, both in enumerate(zip(pairs.sycophantic, pairs.truthful, strict=True)):
        for side, ids in enumerate(both):  # one prompt at a time, without padding
            expected = view.cache_z(torch.tensor([ids]))[:, 0, -1]
            torch.testing.assert_close(z[i, side], expected.cpu().float(), atol=2e-5, rtol=1e-4)


def test_a_direction_that_tells_the_runs_apart_is_found_and_noise_is_not():
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(40, 2, 2, 3, 8, generator=generator)
    positive = torch.tensor([[False, True]]).repeat(40, 1)
    z[:, 1, 1, 2, 5] += 4  # one head of six says which run it is
    right, margin = probe._judged(z, positive, probe._parts(range(40), 5, 0), ridge=1.0)
    accuracy = right.mean(dim=(0, 1))
    assert accuracy[1, 2] > 0.9
    assert (accuracy.flatten()[:5] - 0.5).abs().max() < 0.2
    assert bool(((margin >= 0) & (margin <= 1)).all()) and margin[:, :, 1, 2].mean() > 0.7
    # Its own pair is not among what a probe has seen: labels that nothing foretells are told no better than by chance.
    coins = torch.rand(40, 2, generator=generator) < 0.5
    alone, _ = probe._judged(
        torch.randn(40, 2, 1, 1, 60, generator=generator), coins, probe._parts(range(40), 5, 0), 1e-6
    )
    assert alone.mean() < 0.65


def test_scores_are_accuracies_less_those_of_the_layer(tiny):
    pairs = Yesman().pairs(tiny, 8)
    before = condition(tiny)
    whole = head_probe(tiny, pairs, by_layer=False, progress=False)
    scores = head_probe(tiny, pairs, progress=False)
    assert condition(tiny) == before
    torch.testing.assert_close(scores.values.mean(dim=1), torch.zeros(3), atol=1e-6, rtol=0)
    torch.testing.assert_close(scores.values, whole.values - whole.values.mean(dim=1, keepdim=True), atol=1e-6, rtol=0)
    assert (whole.values >= 0).all() and (whole.values <= 1).all()
    assert scores.method == "probe" and not scores.of_gap and scores.n_pairs == 8
    assert "accuracy of a linear probe" in scores.describe()
    assert scores.meta["accuracy"]["best"] == pytest.approx(float(whole.values.max()), abs=2e-3)
    with pytest.raises(ValueError, match="settings"):
        scores.check_alike(whole, "these are two things")
    again = head_probe(tiny, pairs, progress=False)
    assert torch.equal(again.per_pair, scores.per_pair)


def test_an_entry_of_the_meta_can_be_read(tiny):
    pairs = Yesman().pairs(tiny, 8, contrast="first answer")
    by_run, by_meta = (head_probe(tiny, pairs, of=of, progress=False) for of in ("run", "right"))
    torch.testing.assert_close(by_meta.values, by_run.values)  # the first answer is right in the truthful run alone
    assert "of right" in by_meta.label


def test_a_question_that_comes_again_is_in_one_part(tiny):
    """As pairs have it that are more than the split has questions."""
    few = AreYouSure([q for q in Yesman().questions if q.wrong][:24], name="few")
    pairs = few.pairs(tiny, 60, contrast="first answer")
    asked = [dialogue.messages[0].content for dialogue in pairs.dialogues]
    assert len(set(asked)) < 30
    for known in (pairs, replace(pairs, dialogues=())):  # by either run's dialogues
        parts = probe._parts(probe._questions(known), 5, 0)
        assert sorted(i for part in parts for i in part) == list(range(60)) and all(parts)
        for part in parts:
            assert not {asked[i] for i in part} & {asked[i] for i in range(60) if i not in part}
    bare = replace(pairs, dialogues=(), truthful_dialogues=())  # where questions are not known, pair by pair
    assert sorted(map(len, probe._parts(probe._questions(bare), 5, 0))) == [12] * 5
    with pytest.raises(ValueError, match="the 60 pairs ask 24 questions, too few for a probe in 25 parts"):
        head_probe(tiny, pairs, folds=25, progress=False)


def test_what_can_not_be_probed_is_refused_before_the_model_runs(tiny, monkeypatch):
    pairs = Yesman().pairs(tiny, 8)
    monkeypatch.setattr(probe, "_outputs", lambda *_: pytest.fail("it ran"))
    for arguments, message in (
        ({"of": "right"}, "each of the 16 prompts has it .'right'., and a probe needs both classes"),
        ({"of": "nothing"}, "does not say so in its meta: choose one of 'run', "),
        ({"folds": 9}, "8 pairs are too few for a probe in 9 parts"),
        ({"ridge": 0}, "ridge"),
    ):
        with pytest.raises(ValueError, match=message):
            head_probe(tiny, pairs, progress=False, **arguments)
    bare = replace(pairs, dialogues=(), truthful_dialogues=())
    with pytest.raises(ValueError, match="no dialogues"):
        head_probe(tiny, bare, of="right")
    with pytest.raises(ValueError, match="3 pairs are too few"):
        head_probe(tiny, pairs[:3])
    few = swapped_pairs(pairs[:5])
    with pytest.raises(ValueError, match="all prompts are of one class"):
        head_probe(tiny, _one_wrong(few), of="right", folds=5)


def _one_wrong(pairs):
    """Pairs of which one prompt alone has a wrong first answer."""
    first, *rest = pairs.dialogues
    return replace(pairs, dialogues=(replace(first, meta={**first.meta, "right": False}), *rest))
