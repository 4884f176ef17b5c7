"""The gradient of the tuning objective as a ranking: against autograd by hand, and against the loss itself."""

from __future__ import annotations

import pytest
import torch
from conftest import condition, head_part

import spt_lens as spt
from spt_lens.chat.template import training_ids
from spt_lens.model.view import Model, ModelView
from spt_lens.yesman import Yesman

DIALOGUES = Yesman().training(6)


def losses(model: Model) -> torch.Tensor:
    """What each dialogue has of the mean loss over all target tokens, so that their mean is that loss."""
    view, sums, n = ModelView(model), [], 0
    for dialogue in DIALOGUES:
        ids, targets = training_ids(view.tokenizer, dialogue)
        log_probs = torch.log_softmax(view.logits(torch.tensor([ids]))[0].double(), -1)
        picked = [-log_probs[i - 1, ids[i]] for i in range(len(ids)) if targets[i]]
        sums.append(torch.stack(picked).sum())
        n += len(picked)
    return torch.stack(sums) * len(DIALOGUES) / n


def gradients(model: Model, letters: str, layer: int, head: int) -> torch.Tensor:
    """[dialogue, weights of the head], by plain autograd over the whole model."""
    view, rows = ModelView(model), []
    for i in range(len(DIALOGUES)):
        model.zero_grad()
        losses(model)[i].backward()
        row = []
        for which in letters:
            weight, pick = view.head_weight(layer, which, view.shape.unit(which, head))
            row.append(pick(weight.grad).flatten())
        rows.append(torch.cat(row).double())
    model.zero_grad()
    return torch.stack(rows)


@pytest.mark.parametrize("letters", ["qo", "kv"])
def test_it_is_the_length_of_the_gradient_on_the_heads_slices(gqa, letters):
    model = gqa
    scores = spt.objective_gradient(model, DIALOGUES, projections=letters, progress=False)
    assert scores.per_pair.shape == (6, 3, 4)
    for layer, head in [(0, 0), (1, 3), (2, 2)]:
        each = gradients(model, letters, layer, head)
        mean = each.mean(0)
        torch.testing.assert_close(scores.values[layer, head].double(), mean.norm(), rtol=1e-4, atol=1e-7)
        by_hand = each @ mean / mean.norm()
        torch.testing.assert_close(scores.per_pair[:, layer, head].double(), by_hand, rtol=1e-4, atol=1e-6)
    one = spt.objective_gradient(model, DIALOGUES, projections=letters, per_dialogue=False, progress=False)
    assert one.n_pairs == 1
    torch.testing.assert_close(one.values, scores.values, rtol=1e-4, atol=1e-7)
    assert one.label.endswith("6 dialogues") and "gradient of the tuning objective" in scores.describe()


def test_a_small_step_along_it_lowers_the_loss_by_as_much(tiny, exact_softmax):
    tiny.to(torch.float64)
    scores = spt.objective_gradient(tiny, DIALOGUES, projections="o", progress=False)
    assert scores.per_pair.dtype == torch.float64
    step, (layer, head) = 1e-3, scores.top(1).heads[0]
    direction = gradients(tiny, "o", layer, head).mean(0)
    part = head_part(tiny, layer, "o", head)
    found = []
    with torch.no_grad():
        whole = part.clone()
        for side in (1, -1):
            part.copy_(whole + side * step * (direction / direction.norm()).reshape(part.shape))
            found.append(losses(tiny))
    fallen = (found[0] - found[1]) / (2 * step)
    torch.testing.assert_close(fallen, scores.per_pair[:, layer, head], rtol=1e-3, atol=2e-4)
    torch.testing.assert_close(fallen.mean(), scores.values[layer, head], rtol=1e-3, atol=0)


def test_it_leaves_the_model_as_it_was_and_works_without_gradients(tiny):
    next(tiny.parameters()).requires_grad_(False)
    before = condition(tiny)
    with torch.no_grad():
        one = spt.objective_gradient(tiny, DIALOGUES, batch_size=4, progress=False)
    assert condition(tiny) == before
    assert all(parameter.grad is None for parameter in tiny.parameters())
    next(tiny.parameters()).requires_grad_(True)
    torch.testing.assert_close(one.values, spt.objective_gradient(tiny, DIALOGUES, progress=False).values)


def test_half_precision_ranks_alike(tiny):
    exact = spt.objective_gradient(tiny, DIALOGUES, progress=False)
    tiny.to(torch.bfloat16)
    half = spt.objective_gradient(tiny, DIALOGUES, progress=False)
    assert half.values.dtype == torch.float32
    assert half.compare(exact, k=3).spearman > 0.9


def test_a_gradient_that_overflows_is_an_error_and_the_model_as_it_was(tiny):
    weight, _ = ModelView(tiny).head_weight(1, "q", 0)
    hook = weight.register_hook(lambda grad: grad * torch.inf)
    before = condition(tiny)
    with pytest.raises(ValueError, match="the gradient of some heads is .*bfloat16"):
        spt.objective_gradient(tiny, DIALOGUES, progress=False)
    assert condition(tiny) == before
    hook.remove()


def test_it_says_what_belongs_there(tiny):
    for wrong in (None, "nope", ["a"], []):
        with pytest.raises((TypeError, ValueError), match="dialogues|what is learnt"):
            spt.objective_gradient(tiny, wrong)
    with pytest.raises(ValueError, match="projections='x'"):
        spt.objective_gradient(tiny, DIALOGUES, projections="x")
    with pytest.raises(ValueError, match="must end with an assistant turn"):
        spt.objective_gradient(tiny, [DIALOGUES[0].prompt])
