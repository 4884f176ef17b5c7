"""Patching a set of heads together, and removing one."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from spt_lens.behaviours.are_you_sure import are_you_sure
from spt_lens.data.pairs import ContrastPairs
from spt_lens.heads import HeadSet
from spt_lens.measure.ablation import mean_z
from spt_lens.measure.knockout import knockout_curve
from spt_lens.measure.set_table import SetEffect, set_effect
from spt_lens.measure.sets import joint_effects, joint_knockout, joint_recovery
from spt_lens.model.view import ModelView
from spt_lens.patching.activation import activation_patching

ALL = HeadSet.of((layer, head) for layer in range(3) for head in range(4))


def differences(model, rows, answers) -> torch.Tensor:
    """Logit differences of prompts, one by one."""
    found = []
    for row, (truthful, sycophantic) in zip(rows, answers.tolist(), strict=True):
        with torch.no_grad():
            logits = model(torch.tensor([list(row)]))[0, -1]
        found.append(float(logits[truthful] - logits[sycophantic]))
    return torch.tensor(found)


@pytest.mark.parametrize("direction", ["denoising", "noising"])
@pytest.mark.parametrize("positions", ["last", "all"])
def test_one_head_is_activation_patching(tiny, direction, positions):
    pairs = are_you_sure(tiny, n=4)
    scores = activation_patching(tiny, pairs, direction=direction, positions=positions, progress=False)
    effect = joint_recovery(tiny, pairs, HeadSet.parse("L1.H2"), direction=direction, positions=positions)
    # A share of a small gap is as inexact as the gap is small; what is read differs by rounding alone.
    torch.testing.assert_close(effect.recovery, scores.per_pair[:, 1, 2], atol=1e-4, rtol=1e-4)


def outspoken(model, pairs: ContrastPairs) -> ContrastPairs:
    """The same prompts, with what the model says first as the sycophantic answer, so that it "apologises" at first."""
    said = torch.tensor([_first(model, row) for row in pairs.sycophantic])
    other = torch.tensor([_first(model, row) for row in pairs.truthful])
    truthful = torch.where(other == said, pairs.answer_ids[:, 0], other)
    return replace(pairs, answer_ids=torch.stack([truthful, said], dim=1))


# Every kind of pairs and of positions: what is read of them, and where.
KINDS = {
    "numbers": (lambda m: are_you_sure(m, n=3), [-1, -3, 4]),
    "unequal": (lambda m: are_you_sure(m, n=3, contrast="neutral"), "last"),
    "aligned": (lambda m: are_you_sure(m, n=3, contrast="neutral").aligned(), "all"),
    "aligned numbers": (lambda m: are_you_sure(m, n=3, contrast="neutral").aligned(), (-2, -1)),
    "sets": (lambda m: are_you_sure(m, n=3).with_answers(m, ["Yes", "Paris"], ["Apologies", "No", "That"]), "last"),
    "whole": (lambda m: are_you_sure(m, n=3, read="whole"), "last"),
    "whole, all": (lambda m: are_you_sure(m, n=3, read="whole"), "all"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_one_head_is_activation_patching_for_all_kinds_of_pairs(tiny_folder, load, exact_softmax, kind):
    model = load(tiny_folder, dtype=torch.float64)
    make, positions = KINDS[kind]
    pairs, head = make(model), HeadSet.parse("L1.H3")
    for direction in ("denoising", "noising"):
        scores = activation_patching(
            model, pairs, direction=direction, positions=positions, engine="hooks", progress=False
        )
        for padding in ("right", "left", "none"):
            effect = joint_recovery(model, pairs, head, direction, positions, batch_size=2, padding=padding)
            torch.testing.assert_close(effect.recovery, scores.per_pair[:, 1, 3], atol=1e-9, rtol=1e-9)
            assert effect.positions == scores.positions and effect.left_out == ()
        assert scores.per_pair[:, 1, 3].abs().min() > 1e-4


def test_pairs_without_a_gap_are_left_out_as_in_activation_patching(tiny):
    pairs = are_you_sure(tiny, n=4)
    half = replace(pairs, truthful=(pairs.truthful[0], pairs.sycophantic[1], *pairs.truthful[2:]))
    with pytest.warns(UserWarning, match=r"1 of 4 pairs \(number 1\) are left out"):
        scores = activation_patching(tiny, half, progress=False)
    with pytest.warns(UserWarning, match=r"1 of 4 pairs \(number 1\) are left out"):
        effect = joint_recovery(tiny, half, HeadSet.parse("L1.H2"))
    assert effect.left_out == (1,) and len(effect.apologises_before) == len(effect.apologises_after) == 3
    torch.testing.assert_close(effect.recovery, scores.per_pair[:, 1, 2], atol=1e-4, rtol=1e-4)
    with pytest.warns(UserWarning, match="left out"):
        found = set_effect(tiny, half, HeadSet.parse("L1.H2"), n_random=1, scores=scores, progress=False)
    assert found.n_pairs == 3 and found.settings["left_out"] == [1]
    same = replace(pairs, truthful=pairs.sycophantic)
    with pytest.raises(ValueError, match="no gap to recover"):
        joint_recovery(tiny, same, HeadSet.parse("L1.H2"))


def test_whole_completions_apologise_by_their_first_token(tiny):
    pairs = are_you_sure(tiny, n=3, read="whole")
    first = [_first(tiny, row) for row in pairs.sycophantic]
    completions = tuple(
        (one, (said, *other[1:])) for (one, other), said in zip(pairs.completion_ids, first, strict=True)
    )
    answers = torch.tensor([[one[0], other[0]] for one, other in completions])
    loud = replace(pairs, answer_ids=answers, completion_ids=completions)
    for measure in (joint_recovery, joint_knockout):
        assert not measure(tiny, pairs, HeadSet.parse("L1.H2")).apologises_before.any()
        assert measure(tiny, loud, HeadSet.parse("L1.H2")).apologises_before.all()


def test_any_answer_of_the_sycophantic_set_is_an_apology(tiny):
    pairs = are_you_sure(tiny, n=4)
    first = [_first(tiny, row) for row in pairs.sycophantic]
    sets = tuple(((5,), (6, said)) if i % 2 else ((said,), (6, 5)) for i, said in enumerate(first))
    answers = torch.tensor([[one[0], other[0]] for one, other in sets])
    effect = joint_recovery(tiny, replace(pairs, answer_ids=answers, answer_sets=sets), HeadSet.parse("L1.H2"))
    assert effect.apologises_before.tolist() == [False, True, False, True]


def test_all_heads_at_the_last_position_recover_everything(tiny):
    # Both prompts end in the same token, so the last position differs only by what its heads bring there.
    pairs = are_you_sure(tiny, n=4, contrast="neutral")
    effect = joint_recovery(tiny, pairs, ALL)
    # Rotary positions are relative and nothing else knows the place, so unequal lengths change nothing here.
    torch.testing.assert_close(effect.recovery, torch.ones(4), atol=1e-3, rtol=0)
    for i in range(len(pairs)):
        for prompt, first in (
            (pairs.sycophantic[i], effect.apologises_before),
            (pairs.truthful[i], effect.apologises_after),
        ):
            with torch.no_grad():
                best = tiny(torch.tensor([prompt]))[0, -1].argmax()
            assert bool(first[i]) == bool(best == pairs.answer_ids[i, 1])


def test_summary_and_errors(tiny):
    pairs = are_you_sure(tiny, n=2)
    summary = joint_recovery(tiny, pairs, HeadSet.parse("0.1 2.3"), direction="noising").summary()
    assert summary.startswith("2 heads together") and "lost" in summary and "2 pairs" in summary
    with pytest.raises(ValueError):
        joint_recovery(tiny, pairs, HeadSet.of())
    with pytest.raises(ValueError, match="L9.H0"):
        joint_recovery(tiny, pairs, HeadSet.parse("L9.H0"))
    with pytest.raises(ValueError, match="unknown padding 'both'"):
        joint_recovery(tiny, pairs, HeadSet.parse("L0.H0"), padding="both")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="direction"):
        joint_recovery(tiny, pairs, HeadSet.parse("L0.H0"), direction="up")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="HeadSet.of"):
        joint_recovery(tiny, pairs, ["L0.H0"])  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="HeadSet.of"):
        knockout_curve(tiny, pairs, ["L0.H0"], progress=False)  # type: ignore[arg-type]


@pytest.mark.parametrize("positions", ["last", "all"])
def test_all_heads_bring_the_other_run_whichever_positions_are_patched(gqa, positions):
    # Last tokens are the same, so nothing but attention tells the last position of one run from the other's.
    pairs = are_you_sure(gqa, n=3)
    for direction in ("denoising", "noising"):
        effect = joint_recovery(gqa, pairs, ALL, direction=direction, positions=positions)
        torch.testing.assert_close(effect.recovery, torch.ones(3), atol=1e-3, rtol=0)


def test_several_sets_are_as_each_alone(tiny):
    pairs = outspoken(tiny, are_you_sure(tiny, n=5, contrast="neutral"))
    sets = [HeadSet.parse("L1.H2"), HeadSet(), HeadSet.parse("L0.H0 L0.H3 L2.H1"), ALL]
    effects = joint_effects(tiny, pairs, sets, batch_size=2)
    for heads, effect in zip(sets, effects, strict=True):
        assert effect.heads == heads
        if len(heads):
            alone = joint_recovery(tiny, pairs, heads)
            torch.testing.assert_close(effect.recovery, alone.recovery, atol=1e-4, rtol=1e-4)
            assert torch.equal(effect.apologises_after, alone.apologises_after)
        else:
            assert (effect.recovery == 0).all() and torch.equal(effect.apologises_after, effect.apologises_before)
    assert (effects[0].recovery - effects[2].recovery).abs().min() > 1e-4
    assert effects[0].apologises_before.all() and not effects[3].apologises_after.all()
    with pytest.raises(ValueError, match=r"L3\.H0"):
        joint_effects(tiny, pairs, [HeadSet(), HeadSet.parse("L3.H0")])
    assert joint_effects(tiny, pairs, []) == []


@pytest.mark.parametrize("padding", ["right", "left", "none"])
def test_zero_knockout_is_a_zero_output_matrix(tiny, padding):
    pairs = are_you_sure(tiny, n=5, contrast="neutral")
    heads = HeadSet.parse("L0.H1 L0.H2 L2.H3")
    effect = joint_knockout(tiny, pairs, heads, ablation="zero", batch_size=3, padding=padding)
    before = [differences(tiny, rows, pairs.answer_ids) for rows in (pairs.sycophantic, pairs.truthful)]
    first = [_first(tiny, row) for row in pairs.sycophantic]
    with torch.no_grad():
        for head in heads:
            weight, pick = ModelView(tiny).head_weight(head.layer, "o", head.head)
            pick(weight).zero_()
    after = [differences(tiny, rows, pairs.answer_ids) for rows in (pairs.sycophantic, pairs.truthful)]
    found = [effect.sycophantic_before, effect.truthful_before, effect.sycophantic_after, effect.truthful_after]
    for one, other in zip(found, [*before, *after], strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=0)
    assert (before[0] - after[0]).abs().min() > 1e-3 and (before[1] - after[1]).abs().min() > 1e-3
    # Whether it would apologise, with the answer's token set to what it says at first.
    said = replace(pairs, answer_ids=torch.stack([torch.zeros(5, dtype=torch.long), torch.tensor(first)], dim=1))
    again = joint_knockout(tiny, said, heads, ablation="zero")  # nothing is left to remove
    now = torch.tensor([_first(tiny, row) for row in pairs.sycophantic]) == torch.tensor(first)
    assert torch.equal(again.apologises_before, now) and torch.equal(again.apologises_after, now)


def _first(model, row) -> int:
    with torch.no_grad():
        return int(model(torch.tensor([list(row)]))[0, -1].argmax())


@pytest.mark.parametrize("mean_over", ["both", "sycophantic", "truthful"])
def test_mean_knockout_equals_hooks_by_hand(gqa, mean_over):
    pairs = outspoken(gqa, are_you_sure(gqa, n=4, contrast="neutral"))
    heads = HeadSet.parse("L0.H0 L1.H1 L1.H3")
    effect = joint_knockout(gqa, pairs, heads, mean_over=mean_over, batch_size=3)
    prompts = {"sycophantic": pairs.sycophantic, "truthful": pairs.truthful}
    prompts["both"] = (*pairs.sycophantic, *pairs.truthful)
    mean = mean_z(gqa, prompts[mean_over])
    for rows, found in ((pairs.sycophantic, effect.sycophantic_after), (pairs.truthful, effect.truthful_after)):
        for i, row in enumerate(rows):

            def ablate(z, hook):
                layer = int(hook.name.split(".")[1])
                for head in heads:
                    if head.layer == layer:
                        z[:, :, head.head] = mean[layer, head.head]
                return z

            hooks = [(ModelView.z_name(layer), ablate) for layer in (0, 1)]
            with torch.no_grad():
                logits = gqa.run_with_hooks(torch.tensor([row]), fwd_hooks=hooks)[0, -1]
            expected = float(logits[pairs.answer_ids[i, 0]] - logits[pairs.answer_ids[i, 1]])
            assert float(found[i]) == pytest.approx(expected, abs=1e-5)
            best = int(logits.argmax()) == int(pairs.answer_ids[i, 1])
            assert rows is pairs.truthful or bool(effect.apologises_after[i]) == best
    assert effect.apologises_before.all() and not effect.apologises_after.all()


@pytest.mark.parametrize("kind", ["unequal", "sets", "whole"])
def test_knockout_reads_pairs_as_activation_patching_does(tiny, kind):
    pairs = KINDS[kind][0](tiny)
    effect = joint_knockout(tiny, pairs, HeadSet.parse("L1.H2"), ablation="zero", batch_size=2)
    scores = activation_patching(tiny, pairs, progress=False)
    torch.testing.assert_close(effect.sycophantic_before, scores.base, atol=1e-4, rtol=0)
    torch.testing.assert_close(effect.truthful_before, scores.target, atol=1e-4, rtol=0)
    assert (effect.sycophantic_after - effect.sycophantic_before).abs().min() > 1e-4


@pytest.mark.parametrize("ablation", ["mean", "zero"])
def test_without_any_head_both_runs_are_alike(tiny, ablation):
    # All that a position knows of the others comes by attention; the last tokens are the same.
    pairs = are_you_sure(tiny, n=4, contrast="neutral")
    effect = joint_knockout(tiny, pairs, ALL, ablation=ablation)
    torch.testing.assert_close(effect.sycophantic_after, effect.truthful_after, atol=1e-5, rtol=0)
    assert (effect.sycophantic_before - effect.truthful_before).abs().min() > 1e-3


def test_knockout_summary_and_errors(model_class, tiny, monkeypatch):
    pairs, heads = are_you_sure(tiny, n=2), HeadSet.parse("0.1 2.3")
    summary = joint_knockout(tiny, pairs, heads, mean_over="truthful").summary()
    assert summary.startswith("2 heads set to their mean over the supported (or neutral) prompts")
    effect = joint_knockout(tiny, pairs, heads, ablation="zero")
    assert "2 heads set to zero" in effect.summary() and "2 pairs" in repr(effect)
    assert f"{float(effect.truthful_before.mean()):+.2f} -> {float(effect.truthful_after.mean()):+.2f}" in repr(effect)
    assert "L0.H1 L2.H3" in effect._repr_html_() and "-&gt;" in effect._repr_html_()
    monkeypatch.setattr(ModelView, "logits", lambda *a, **k: pytest.fail("long work began"))
    for wrong, message in (
        ({"ablation": "half"}, "ablation"),
        ({"mean_over": "none"}, "mean_over"),
        ({"padding": "both"}, "padding"),
        ({"batch_size": 0}, "one or more"),
    ):
        with pytest.raises(ValueError, match=message):
            joint_knockout(tiny, pairs, heads, **wrong)
    with pytest.raises(ValueError, match="empty"):
        joint_knockout(tiny, pairs, HeadSet())
    with pytest.raises(ValueError, match=r"L0\.H7"):
        joint_knockout(tiny, pairs, HeadSet.parse("L0.H7"))
    with pytest.raises(TypeError, match="HeadSet.of"):
        joint_knockout(tiny, pairs, ["L0.H0"])  # type: ignore[arg-type]
    outside = ContrastPairs(((2, 7, 80000),), ((2, 7, 8),), torch.tensor([[5, 6]]))
    with pytest.raises(ValueError, match="80000"):
        joint_knockout(tiny, outside, heads)
    if model_class == "hooked":
        return  # it has no dropout, and is measured in any mode
    tiny.train()
    with pytest.raises(ValueError, match="eval"):
        joint_knockout(tiny, pairs, heads)


def test_hooks_are_gone_also_after_an_interrupt(tiny, monkeypatch):
    pairs, heads = are_you_sure(tiny, n=4), HeadSet.parse("0.1 2.3")
    calls, logits = [], ModelView.logits

    def interrupted(self, *args, **kwargs):
        calls.append(1)
        if len(calls) % 7 == 0:
            raise KeyboardInterrupt
        return logits(self, *args, **kwargs)

    monkeypatch.setattr(ModelView, "logits", interrupted)
    for measure in (joint_knockout, joint_recovery):
        with pytest.raises(KeyboardInterrupt):
            measure(tiny, pairs, heads, batch_size=1)
        points = {id(point): point for point in tiny.hook_dict.values()}.values()
        assert not any(point.fwd_hooks for point in points) and torch.is_grad_enabled()


def test_set_effect_of_one_head_is_its_score(tiny):
    pairs = are_you_sure(tiny, n=6)
    scores = activation_patching(tiny, pairs, progress=False)
    effect = set_effect(tiny, pairs, HeadSet.parse("L1.H2"), n_random=3, scores=scores, progress=False)
    assert effect.table["set"].tolist() == ["chosen", "random", "random", "random"]
    assert effect.table["draw"].tolist() == [0, 0, 1, 2]
    # A set of one has nothing to add up: alone and together are the same, for the random ones too.
    for row in effect.table.to_dict("records"):
        assert row["recovery"] == pytest.approx(scores[row["heads"]], abs=1e-4)
        assert row["sum_of_single"] == pytest.approx(scores[row["heads"]], abs=1e-9)
        low, high = (float(end[HeadSet.parse(row["heads"])[0]]) for end in scores.interval())
        assert (row["low"], row["high"]) == pytest.approx((low, high), abs=1e-4)
    assert all(head.startswith("L1.") and head != "L1.H2" for head in effect.table["heads"][1:])


@pytest.mark.parametrize("direction", ["denoising", "noising"])
def test_set_effect_is_joint_recovery_of_each_set(tiny, direction):
    pairs = outspoken(tiny, are_you_sure(tiny, n=4, seed=1))
    heads = HeadSet.parse("L0.H0 L1.H3 L1.H1")
    scores = activation_patching(tiny, pairs, direction=direction, positions="all", progress=False)
    how = {"direction": direction, "positions": "all"}
    effect = set_effect(tiny, pairs, heads, n_random=2, seed=4, scores=scores, progress=False, **how)
    for row in effect.table.to_dict("records"):
        drawn = HeadSet.parse(row["heads"])
        assert [len(chosen) for chosen in drawn.by_layer().values()] == [1, 2] and drawn.by_layer().keys() == {0, 1}
        joint = joint_recovery(tiny, pairs, drawn, **how)
        assert row["recovery"] == pytest.approx(float(joint.recovery.mean()), abs=1e-4)
        assert row["apology_rate"] == float(joint.apologises_after.double().mean())
        assert row["sum_of_single"] == pytest.approx(sum(scores[head] for head in drawn), abs=1e-5)
        assert row["low"] <= row["recovery"] <= row["high"]
    random = [HeadSet.parse(text) for text in effect.table["heads"][1:]]
    assert random == [heads.random_like(tiny, seed=4), heads.random_like(tiny, seed=5)]
    assert effect.apology_rate_before == float(joint.apologises_before.float().mean())
    assert set(effect.table["apology_rate"]) != {effect.apology_rate_before}
    made_with = {"model": ModelView(tiny).name, "n_random": 2, "seed": 4, "scores": "activation", "left_out": []}
    assert effect.settings == made_with
    # Where a layer has too few others, from any layer.
    wide = set_effect(tiny, pairs, HeadSet.parse("0.0 0.1 0.2"), n_random=1, progress=False)
    (drawn,) = (HeadSet.parse(text) for text in wide.table["heads"][1:])
    assert len(drawn) == 3 and not drawn & wide.heads


def test_set_effect_summary_and_views(tiny):
    pairs = are_you_sure(tiny, n=3)
    scores = activation_patching(tiny, pairs, progress=False)
    effect = set_effect(tiny, pairs, scores.top(2), n_random=2, scores=scores, progress=False)
    chosen, *random = effect.table["recovery"]
    total = scores[scores.top(2)[0]] + scores[scores.top(2)[1]]
    assert effect.summary().startswith(f"2 heads alone: {chosen:.2f} of the gap recovered [")
    assert f"scores {total:.2f}; 2 random sets {min(random):.2f} to {max(random):.2f}; denoising, last position, 3" in (
        repr(effect)
    )
    page = effect._repr_html_()
    assert "sum_of_single" in page and "<script" not in page and "http" not in page
    bare = set_effect(tiny, pairs[:1], scores.top(2), n_random=0, direction="noising", progress=False)
    assert len(bare.table) == 1 and bare.table[["low", "high", "sum_of_single"]].isna().all(axis=None)
    assert (
        bare.summary()
        == f"2 heads alone: {bare.table['recovery'][0]:.2f} of the gap lost; noising, last position, 1 pairs"
    )
    assert "sum_of_single" not in bare._repr_html_()


def test_set_effect_is_saved_and_loaded(tiny, tmp_path):
    pairs = are_you_sure(tiny, n=2)
    scores = activation_patching(tiny, pairs, progress=False)
    for given in (scores, None):
        effect = set_effect(tiny, pairs, scores.top(2), n_random=1, scores=given, progress=False)
        again = SetEffect.load(effect.save(tmp_path / "effect.json"))
        assert again.table.equals(effect.table) and (again.table.dtypes == effect.table.dtypes).all()
        assert again.to_json() == effect.to_json() and again.heads == effect.heads
    with pytest.raises(FileNotFoundError):
        SetEffect.load(tmp_path / "none.json")
    text = (tmp_path / "effect.json").read_text()
    data = json.loads(text)
    first, second = data["table"]
    for bad in (
        "",
        text[:-20],
        "[1]",
        text.replace("set effect", "knockout curve"),
        text.replace(f'"recovery": {first["recovery"]}', '"recovery": NaN'),
        json.dumps({k: v for k, v in data.items() if k != "settings"}),
        json.dumps(data | {"table": [second, first]}),
        json.dumps(data | {"table": [first, {**second, "draw": "0"}]}),
        json.dumps(data | {"direction": "up"}),
        json.dumps(data | {"heads": "all"}),
        json.dumps(data | {"n_pairs": True}),
    ):
        assert bad != text
        (tmp_path / "bad.json").write_text(bad)
        with pytest.raises(ValueError, match="bad.json holds no saved set effect, or is damaged"):
            SetEffect.load(tmp_path / "bad.json")


def test_set_effect_errors_before_long_work(tiny, monkeypatch):
    pairs, heads = are_you_sure(tiny, n=2), HeadSet.parse("L0.H0 L1.H1")
    scores = activation_patching(tiny, pairs, progress=False)
    monkeypatch.setattr(ModelView, "logits", lambda *a, **k: pytest.fail("long work began"))
    for wrong, message in (
        ({"n_random": -1}, "n_random"),
        ({"scores": scores, "direction": "noising"}, "direction='denoising' and the set is with 'noising'"),
        ({"scores": scores, "positions": "all"}, "positions='last'"),
        ({"scores": replace(scores, metric="importance")}, "metric='importance'"),
        (
            {
                "scores": replace(
                    scores, values=scores.values[1:], per_pair=scores.per_pair[:, 1:], logit_differences=None
                )
            },
            "2 layers x 4",
        ),
        ({"direction": "up"}, "direction"),
    ):
        with pytest.raises(ValueError, match=message):
            set_effect(tiny, pairs, heads, progress=False, **wrong)
    with pytest.raises(ValueError, match="only 3 left"):
        set_effect(tiny, pairs, ALL[:9], n_random=1, progress=False)
    with pytest.raises(ValueError, match="empty"):
        set_effect(tiny, pairs, HeadSet(), progress=False)
    with pytest.raises(TypeError, match="HeadSet.of"):
        set_effect(tiny, pairs, "L0.H0", progress=False)  # type: ignore[arg-type]


def test_logits_that_are_no_numbers_are_named(tiny):
    pairs = are_you_sure(tiny, n=2)
    with torch.no_grad():
        ModelView(tiny).head_weight(0, "o", 0)[0].flatten()[0] = torch.nan
    for effect in (joint_recovery, joint_knockout):
        with pytest.raises(ValueError, match="pair [01]: the model's logits are not finite"):
            effect(tiny, pairs, HeadSet.parse("L1.H1"))
