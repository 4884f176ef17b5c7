"""Log-likelihoods of continuations, with their prompt run once."""

from __future__ import annotations

import pytest
import torch

from spt_lens.model import likelihood
from spt_lens.model.generation import NotKnown
from spt_lens.model.likelihood import log_likelihoods
from spt_lens.model.view import ModelView

PROMPTS = [[20, 30, 40], [50, 60, 70, 80, 90, 100, 110], [33], [21, 31, 41]]
CONTINUATIONS = [[[7], [8, 9]], [[10, 11, 12], [13], [14, 15]], [[16, 17]], [[18]]]


def by_hand(model, prompt, continuation) -> float:
    with torch.no_grad():
        log_probs = model(torch.tensor([prompt + continuation]))[0].log_softmax(-1)
    return sum(float(log_probs[len(prompt) + i - 1, token]) for i, token in enumerate(continuation))


@pytest.mark.parametrize("way", ["shared", "whole", "hooked"])
@pytest.mark.parametrize("batch_size", [2, 16])
def test_they_are_those_of_a_whole_forward_pass(gqa, monkeypatch, way, batch_size):
    view = ModelView(gqa)
    expected = [[by_hand(gqa, p, c) for c in each] for p, each in zip(PROMPTS, CONTINUATIONS, strict=True)]
    seen = []

    def refuse(*parts):
        raise NotKnown

    if way == "whole":
        monkeypatch.setattr(likelihood, "_shared", refuse)
    hooks = [("blocks.0.hook_resid_pre", lambda value, hook: seen.append(value.shape[1]))] if way != "whole" else []
    if way == "hooked":  # the user's own: it sees whole texts
        with gqa.hooks(fwd_hooks=hooks):
            found = log_likelihoods(view, PROMPTS, CONTINUATIONS, batch_size)
        assert min(seen) >= 3
    else:
        found = log_likelihoods(view, PROMPTS, CONTINUATIONS, batch_size)
    for one, other in zip(found, expected, strict=True):
        assert [each.log_prob for each in one] == pytest.approx(other, abs=1e-5)


def test_greedy_says_whether_generating_would_give_it(tiny):
    view = ModelView(tiny)
    said = view.generate([PROMPTS[1]], 3)[0].tolist()
    other = [*said[:2], (said[2] + 1) % 700]
    (found,) = log_likelihoods(view, [PROMPTS[1]], [[said, other, said[:1]]])
    assert [each.greedy for each in found] == [True, False, True]


def test_nothing_and_empty_ones(tiny):
    view = ModelView(tiny)
    assert log_likelihoods(view, [], []) == []
    assert log_likelihoods(view, [[20], [21]], [[], [[22]]])[0] == []
    with pytest.raises(ValueError, match="no tokens"):
        log_likelihoods(view, [[20]], [[[]]])
