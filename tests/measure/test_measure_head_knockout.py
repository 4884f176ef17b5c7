"""Every head knocked out by itself: what plain hooks give, on one unpadded prompt at a time."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from by_hand import assert_close, assert_same, difference, keeping, logits, made, said, state
from torch import Tensor

from spt_lens.data.pairs import ContrastPairs
from spt_lens.measure.ablation import ablation_values
from spt_lens.measure.head_knockout import head_knockout
from spt_lens.model.view import ModelView
from spt_lens.patching.activation import activation_patching
from spt_lens.scores.head_scores import HeadScores
from spt_lens.scores.mean import mean_scores
from spt_lens.yesman import Yesman

LENGTHS = [(9, 6), (4, 11), (17, 3), (5, 5), (9, 1)]  # the two lengths of each pair
MEANS = [("mean", "both"), ("mean", "sycophantic"), ("mean", "truthful"), ("zero", "both")]


def measured(model, pairs, **how) -> HeadScores:
    return head_knockout(model, pairs, progress=False, **how)


def values_by_hand(model, pairs: ContrastPairs, ablation: str, mean_over: str) -> list[Tensor]:
    """What the heads of each layer are set to, `[n_heads, d_head]`."""
    view = ModelView(model)
    prompts = {"sycophantic": pairs.sycophantic, "truthful": pairs.truthful}
    prompts["both"] = (*pairs.sycophantic, *pairs.truthful)
    names = [view.z_name(layer) for layer in range(view.n_layers)]
    seen: dict[str, list[Tensor]] = {name: [] for name in names}
    for prompt in prompts[mean_over]:
        z: dict[str, Tensor] = {}
        logits(model, prompt, [keeping(z, name) for name in names])
        for name in names:
            seen[name] += z[name][0]
    means = [torch.stack(seen[name]).mean(dim=0) for name in names]
    return [torch.zeros_like(mean) for mean in means] if ablation == "zero" else means


def without_each_head(model, prompt, read, values: list[Tensor]) -> Tensor:
    """What is read with each head set to its value at every position, `[n_layers, n_heads]`."""
    view = ModelView(model)
    found = torch.zeros(view.n_layers, view.n_heads, dtype=torch.float64)
    for layer in range(view.n_layers):
        for head in range(view.n_heads):

            def remove(z, hook, layer=layer, head=head):
                z = z.clone()
                z[:, :, head] = values[layer][head]
                return z

            found[layer, head] = read(logits(model, prompt, [(view.z_name(layer), remove)]))
    return found


@pytest.mark.parametrize("ablation, mean_over", MEANS)
@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-5), (torch.float64, 1e-9)])
def test_it_is_what_a_plain_loop_of_hooks_gives(
    tiny_folder, load, exact_softmax, dtype, tolerance, ablation, mean_over
):
    model = load(tiny_folder, dtype=dtype)
    pairs = made(model, LENGTHS)
    scores = measured(model, pairs, ablation=ablation, mean_over=mean_over, batch_size=4)
    values = values_by_hand(model, pairs, ablation, mean_over)
    removed_to = ablation_values(model, pairs, ablation, mean_over)
    torch.testing.assert_close(torch.stack(values).to(removed_to), removed_to, atol=1e-6, rtol=0)
    values = list(removed_to.to(dtype))  # a mean is rounded to float32 whatever the model is in
    for i, (into, source) in enumerate(zip(pairs.sycophantic, pairs.truthful, strict=True)):
        read = difference(pairs.answer_ids[i].tolist())
        base, target = read(logits(model, into)), read(logits(model, source))
        patched = without_each_head(model, into, read, values)
        assert_close(scores, i, (base, target, patched), tolerance)
        share = ((patched - base) / (scores.target - scores.base).mean()).to(dtype)
        torch.testing.assert_close(scores.per_pair[i], share, atol=tolerance, rtol=tolerance)
    torch.testing.assert_close(scores.values, scores.per_pair.mean(dim=0))
    assert scores.per_pair.abs().amax(dim=(1, 2)).min() > 1e-2  # the test would be empty if nothing moved


def test_it_says_how_it_was_measured_and_both_runs_are_those_of_activation_patching(tiny):
    pairs = made(tiny, LENGTHS)
    scores, patched = measured(tiny, pairs, mean_over="truthful"), activation_patching(tiny, pairs, progress=False)
    torch.testing.assert_close(scores.base, patched.base, atol=1e-5, rtol=0)
    torch.testing.assert_close(scores.target, patched.target, atol=1e-5, rtol=0)
    assert (scores.method, scores.direction, scores.positions) == ("knockout", "", "all")
    assert scores.metric == "recovery" and scores.engine == "stacked" and scores.model_name == patched.model_name
    assert scores.meta.keys() == patched.meta.keys()
    assert scores.meta["settings"] == {
        "ablation": "mean",
        "mean_over": "truthful",
        "engine": "auto",
        "batch_size": 32,
    }
    assert "HeadScores(knockout, positions=all, engine=stacked, " in repr(scores)
    assert scores.compare(patched).k == 1


def test_whole_completions_are_read_with_the_head_gone_there_too(tiny):
    pairs = made(tiny, [(9, 6), (5, 5)])
    pairs = replace(pairs, completion_ids=tuple(((a, 7), (b, 8, 9)) for a, b in pairs.answer_ids.tolist()))
    scores = measured(tiny, pairs)
    values = values_by_hand(tiny, pairs, "mean", "both")
    for i, both in enumerate(pairs.completion_ids):
        expected = []
        for ids in both:
            into, source = ((*prompts[i], *ids[:-1]) for prompts in (pairs.sycophantic, pairs.truthful))
            read = said(ids)
            base, target = read(logits(tiny, into)), read(logits(tiny, source))
            expected.append((base, target, without_each_head(tiny, into, read, values)))
        assert_close(scores, i, tuple(one - other for one, other in zip(*expected, strict=True)))


def test_sets_of_answers(tiny):
    pairs = made(tiny, [(6, 6)] * 3)
    sets = replace(pairs, answer_sets=tuple(((a, 7), (b, 8)) for a, b in pairs.answer_ids.tolist()))
    scores = measured(tiny, sets, ablation="zero")
    values = values_by_hand(tiny, pairs, "zero", "both")

    for i, (one, other) in enumerate(sets.answer_sets):

        def read(found, one=one, other=other):
            return found[-1, list(one)].logsumexp(0) - found[-1, list(other)].logsumexp(0)

        torch.testing.assert_close(
            scores.logit_differences[i].double(),
            without_each_head(tiny, sets.sycophantic[i], read, values),
            atol=1e-5,
            rtol=1e-5,
        )


def test_batches_change_nothing(tiny):
    """Also of prompts of many lengths."""
    pairs = made(tiny, LENGTHS)
    alone = measured(tiny, pairs, batch_size=1)
    for size in (2, 64, None):
        assert_same(measured(tiny, pairs, batch_size=size), alone)


def test_heads_share_a_pass_where_few_prompts_do(tiny, monkeypatch):
    pairs, passes = made(tiny, [(6, 6)] * 3), []
    forward = ModelView.logits

    def counted(self, tokens, *args, **kwargs):
        passes.append(len(tokens))
        return forward(self, tokens, *args, **kwargs)

    monkeypatch.setattr(ModelView, "logits", counted)
    measured(tiny, pairs, batch_size=6)
    assert passes == [3, 3, 6, *[6] * 6]  # both runs, the mean over both, two of a layer's four heads at a time
    passes.clear()
    measured(tiny, pairs, batch_size=3)
    assert passes == [3, 3, 3, 3, *[3] * 12]


def test_pairs_without_a_gap_count(tiny):
    pairs = made(tiny, [(6, 6)] * 4)
    alike = replace(pairs, truthful=(pairs.truthful[0], pairs.sycophantic[1], *pairs.truthful[2:]))
    with pytest.warns(UserWarning, match="4 pairs of prompts tell little") as caught:
        scores = measured_here(tiny, alike)
    assert {each.filename for each in caught} == {__file__} and scores.check.n_pairs == scores.n_pairs == 4
    # A head may do as much in a pair whose two runs are alike: it is removed, and nothing is put in from there.
    rest = measured(tiny, pairs, ablation="zero")
    torch.testing.assert_close(scores.effects, rest.effects, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(scores.values, rest.effects.mean(0) / (scores.target - scores.base).mean())
    with pytest.raises(ValueError, match="there is no gap to recover: .* all 4 pairs"):
        measured(tiny, replace(pairs, truthful=pairs.sycophantic))


def measured_here(model, pairs) -> HeadScores:
    return head_knockout(model, pairs, ablation="zero", progress=False)


def test_the_model_is_left_as_it_was_also_by_an_interrupt(tiny, monkeypatch):
    pairs = made(tiny, [(6, 6)] * 3)
    weights = {name: weight.clone() for name, weight in ModelView(tiny).weights().items()}
    before = state(tiny)
    measured(tiny, pairs)
    assert state(tiny) == before
    forward, passes = ModelView.logits, []

    def interrupted(self, tokens, attention_mask=None, hooks=(), at=None):
        passes.append(1)
        if len(passes) == 5:
            hooks = [*hooks, (self.z_name(2), stop)]
        return forward(self, tokens, attention_mask, hooks, at)

    def stop(z, hook):
        raise KeyboardInterrupt

    monkeypatch.setattr(ModelView, "logits", interrupted)
    with pytest.raises(KeyboardInterrupt):
        measured(tiny, pairs)
    assert state(tiny) == before
    assert all(torch.equal(weight, weights[name]) for name, weight in ModelView(tiny).weights().items())


def test_hooks_of_the_users_stay_and_see_one_batch_at_a_time(tiny):
    pairs, shapes = made(tiny, [(6, 6)] * 2), []

    def own(z, hook):
        shapes.append(len(z))
        return z * 1.5

    name = ModelView(tiny).z_name(1)
    tiny.add_hook(name, own)
    scores = measured(tiny, pairs, ablation="zero")
    assert scores.engine == "hooks" and set(shapes) == {2}
    points = {id(point): point for point in tiny.hook_dict.values()}.values()
    assert sum(len(point.fwd_hooks) for point in points) == 1
    tiny.reset_hooks()
    assert measured(tiny, pairs, ablation="zero").engine == "stacked"


def test_scores_of_other_knockouts_are_no_more_of_one_kind(tiny, tmp_path):
    pairs = made(tiny, LENGTHS)
    both, zero, truthful = (
        measured(tiny, pairs, **how) for how in ({}, {"ablation": "zero"}, {"mean_over": "truthful"})
    )
    for one, other in ((both, zero), (both, truthful), (zero, truthful)):
        with pytest.raises(ValueError, match="differ in settings"):
            mean_scores(one, other)
    with pytest.raises(ValueError, match="differ in method"):
        mean_scores(both, activation_patching(tiny, pairs, progress=False))
    torch.testing.assert_close(mean_scores(both, both).values, both.values)
    both.save(tmp_path / "scores.safetensors")
    again = HeadScores.load(tmp_path / "scores.safetensors")
    assert again.meta == both.meta and torch.equal(again.per_pair, both.per_pair) and repr(again) == repr(both)
    with pytest.raises(ValueError, match="importance of direction '' is not defined"):
        both.as_metric("importance")
    assert "knockout, one head at a time" in both._repr_html_()


def test_progress_is_one_bar_that_can_be_turned_off(tiny, capsys):
    pairs = Yesman().pairs(tiny, n=2)
    head_knockout(tiny, pairs, progress=False)
    assert capsys.readouterr() == ("", "")
    head_knockout(tiny, pairs)
    shown = capsys.readouterr()
    assert shown.out == "" and "knocking heads out" in shown.err and "100%" in shown.err and shown.err.count("\n") == 1


def test_errors_before_long_work(model_class, tiny, monkeypatch):
    pairs = Yesman().pairs(tiny, n=2)
    monkeypatch.setattr(ModelView, "logits", lambda *a, **k: pytest.fail("long work began"))
    for wrong, message in (
        ({"ablation": "half"}, "ablation='half'"),
        ({"mean_over": "none"}, "mean_over='none'"),
        ({"batch_size": 0}, "batch_size=0"),
    ):
        with pytest.raises(ValueError, match=message):
            measured(tiny, pairs, **wrong)
    with pytest.raises(TypeError):
        measured(torch.nn.Linear(2, 2), pairs)
    if model_class == "hooked":
        return  # it has no dropout, and is measured in any mode
    tiny.train()
    with pytest.raises(ValueError, match="eval"):
        measured(tiny, pairs)
