"""The probability of answers, against the softmax of plain forward passes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from by_hand import logits, made, two_layers

from spt_lens.data.mass import answer_mass, read_answers
from spt_lens.model.limits import Limits
from spt_lens.model.view import ModelView

tiny_folder, model_of, tiny = two_layers()
LENGTHS = [(9, 6), (5, 7), (6, 6)]


def by_hand(model, pairs, sets):
    """[n_pairs, 2 runs, 2 answers], of sets of tokens."""
    shares = [
        [[logits(model, run[i])[-1].softmax(-1)[list(ids)].sum() for ids in sets[i]] for run in runs]
        for i in range(len(pairs))
        for runs in [(pairs.sycophantic, pairs.truthful)]
    ]
    return torch.tensor(shares)


def test_the_mass_of_tokens_and_of_sets(tiny):
    pairs = made(tiny, LENGTHS)
    first = [((a,), (b,)) for a, b in pairs.answer_ids.tolist()]
    free = [t for t in range(6, 40) if t not in pairs.answer_ids]
    more = [((*one, *free[:2]), (*other, free[2])) for one, other in first]
    for answers, sets in ((pairs, first), (replace(pairs, answer_sets=tuple(more)), more)):
        expected = by_hand(tiny, pairs, sets).double()
        torch.testing.assert_close(answer_mass(tiny, answers), expected.sum(-1))
        torch.testing.assert_close(answer_mass(tiny, answers, "truthful"), expected[..., 0])
        torch.testing.assert_close(answer_mass(ModelView(tiny), answers, "sycophantic", n=2), expected[:2, :, 1])
        for size in (1, 3, 16):
            found = read_answers(ModelView(tiny), answers, Limits(size))
            expected_gap = expected.log()[..., 0] - expected.log()[..., 1]
            torch.testing.assert_close(found.differences.float(), expected_gap.float(), atol=1e-5, rtol=1e-5)


def test_of_whole_completions_it_is_the_mean_probability_of_a_token_of_the_likelier_one(tiny):
    pairs = made(tiny, LENGTHS)
    ids = tuple(((a, 7), (b, 8, 9)) for a, b in pairs.answer_ids.tolist())
    found = read_answers(ModelView(tiny), replace(pairs, completion_ids=ids), Limits(2))
    for i in range(len(pairs)):
        for k, prompt in enumerate((pairs.sycophantic[i], pairs.truthful[i])):
            means = []
            for j, completion in enumerate(ids[i]):
                said = logits(tiny, [*prompt, *completion[:-1]]).log_softmax(-1)[len(prompt) - 1 :]
                each = said[torch.arange(len(completion)), list(completion)]
                torch.testing.assert_close(found.log_probs[i, k, j].float(), each.sum(), atol=1e-5, rtol=1e-5)
                means.append(each.mean().exp().double())
            torch.testing.assert_close(found.mass()[i, k], max(means))
            torch.testing.assert_close(found.mass("sycophantic")[i, k], means[1])


def test_the_size_of_what_is_read(tiny):
    pairs = made(tiny, LENGTHS)
    found = read_answers(ModelView(tiny), pairs).sizes
    for i, prompts in enumerate(zip(pairs.sycophantic, pairs.truthful, strict=True)):
        expected = torch.stack([logits(tiny, prompt)[-1][pairs.answer_ids[i]].abs() for prompt in prompts])
        torch.testing.assert_close(found[i].float(), expected, atol=1e-5, rtol=1e-5)


def test_bad_input(tiny):
    pairs = made(tiny, LENGTHS)
    for arguments, message in (
        ({"which": "all"}, "which='all'"),
        ({"n": 4}, "n=4"),
        ({"n": 0}, "n=0"),
    ):
        with pytest.raises(ValueError, match=message):
            answer_mass(tiny, pairs, **arguments)
    with pytest.raises(TypeError, match="pairs must be a Pairs"):
        answer_mass(tiny, [1])
