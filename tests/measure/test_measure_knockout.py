"""Sets of heads removed together: what is read of both runs, and of the replies."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from judged import by_letters, judged

from spt_lens.chat.judge import Verdict
from spt_lens.chat.template import prompt_ids
from spt_lens.data.check import PairsCheck
from spt_lens.data.pairs import ContrastPairs
from spt_lens.heads import HeadSet
from spt_lens.measure.ablation import ablation_hooks, mean_z
from spt_lens.measure.knockout import set_knockout
from spt_lens.measure.sets import set_patching
from spt_lens.model.loading import load_model
from spt_lens.model.replies import replies
from spt_lens.model.view import ModelView
from spt_lens.patching.activation import activation_patching
from spt_lens.yesman import Yesman

ALL = HeadSet.of((layer, head) for layer in range(3) for head in range(4))
BOTH = ["logit_difference_sycophantic", "logit_difference_truthful"]


def unjudged(model, n=4, **how) -> ContrastPairs:
    return replace(Yesman().pairs(model, n=n, **how), judge=None)


def removed(model, pairs, heads, sizes=None, **how):
    return set_knockout(model, pairs, heads, sizes, **{"n_random": 0, "progress": False} | how)


def run(model, row, hooks=()) -> torch.Tensor:
    """The last logits of one prompt."""
    with torch.no_grad():
        return model.run_with_hooks(torch.tensor([list(row)]), fwd_hooks=list(hooks))[0, -1]


def differences(model, pairs, hooks=()) -> list[float]:
    """The mean logit differences of both runs, prompt by prompt."""
    found = []
    for rows in (pairs.sycophantic, pairs.truthful):
        all_logits = [run(model, row, hooks) for row in rows]
        each = [float(x[one] - x[other]) for x, (one, other) in zip(all_logits, pairs.answer_ids.tolist(), strict=True)]
        found.append(sum(each) / len(each))
    return found


def outspoken(model, pairs: ContrastPairs) -> ContrastPairs:
    """The same prompts, with what the model says first as the sycophantic answer."""
    said = torch.tensor([int(run(model, row).argmax()) for row in pairs.sycophantic])
    return replace(pairs, answer_ids=torch.stack([torch.zeros_like(said), said], dim=1))


def test_mean_counts_every_token_once(tiny):
    rows = [[2, 10, 11, 12], [2, 20, 21], [2, 30, 31, 32]]
    view = ModelView(tiny)
    each = torch.cat([view.cache_z(torch.tensor([row]))[:, 0] for row in rows], dim=1)  # layer, all positions, heads, d
    torch.testing.assert_close(mean_z(tiny, rows), each.mean(dim=1), atol=1e-6, rtol=0)
    torch.testing.assert_close(mean_z(tiny, rows, batch_size=1), mean_z(tiny, rows), atol=1e-6, rtol=0)
    for wrong in ([], [[]]):
        with pytest.raises(ValueError, match="prompt"):
            mean_z(tiny, wrong)


def test_zero_ablation_is_a_zero_output_matrix_also_while_generating(tiny):
    heads = HeadSet.parse("L0.H1 L0.H2 L2.H3")
    asked = [d.prompt for d in Yesman().cases("train", n=6)]
    view = ModelView(tiny)
    hooks = ablation_hooks(tiny, heads, torch.zeros(3, 4, 8))
    ablated = replies(tiny, asked, max_new_tokens=8, hooks=hooks)
    untouched = replies(tiny, asked, max_new_tokens=8)
    tokens = torch.tensor([prompt_ids(tiny.tokenizer, asked[0])])
    with torch.no_grad():
        logits = view.logits(tokens, hooks=hooks)
        for head in heads:
            weight, pick = view.head_weight(head.layer, "o", head.head)
            pick(weight).zero_()
        torch.testing.assert_close(view.logits(tokens), logits, atol=1e-5, rtol=0)
    assert replies(tiny, asked, max_new_tokens=8) == ablated
    assert ablated != untouched


def test_mean_ablation_at_a_constant_head_changes_nothing(tiny):
    # Values that do not depend on the token make z constant, so its mean is what it was.
    view = ModelView(tiny)
    with torch.no_grad():
        weight, pick = view.head_weight(1, "v", 1)
        pick(weight).zero_()
        tokens = torch.tensor([[2, 10, 11, 12]])
        hooks = ablation_hooks(tiny, HeadSet.parse("L1.H1"), mean_z(tiny, tokens.tolist()))
        torch.testing.assert_close(view.logits(tokens, hooks=hooks), view.logits(tokens), atol=1e-6, rtol=0)


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_zero_knockout_is_a_zero_output_matrix(tiny, batch_size):
    pairs = outspoken(tiny, unjudged(tiny, n=5, contrast="neutral"))
    heads = HeadSet.parse("L0.H1 L0.H2 L2.H3")
    effect = removed(tiny, pairs, heads, ablation="zero", batch_size=batch_size)
    before = differences(tiny, pairs)
    with torch.no_grad():
        for head in heads:
            weight, pick = ModelView(tiny).head_weight(head.layer, "o", head.head)
            pick(weight).zero_()
    after = differences(tiny, pairs)
    assert effect.before[BOTH].tolist() == pytest.approx(before, abs=1e-5)
    assert effect.chosen[BOTH].tolist() == pytest.approx(after, abs=1e-5)
    assert all(abs(one - other) > 1e-3 for one, other in zip(before, after, strict=True))
    said = [int(run(tiny, row).argmax()) for row in pairs.sycophantic]
    still = [token == answer for token, answer in zip(said, pairs.answer_ids[:, 1].tolist(), strict=True)]
    assert effect.before["begins"] == 1 and effect.chosen["begins"] == sum(still) / 5
    assert (effect.n_dialogues, effect.n_cases, effect.n_pairs) == (0, 0, 5) and "gives_in" not in effect.table


@pytest.mark.parametrize("mean_over", ["both", "sycophantic", "truthful"])
def test_mean_knockout_equals_hooks_by_hand(gqa, mean_over):
    pairs = outspoken(gqa, unjudged(gqa, contrast="neutral"))
    heads = HeadSet.parse("L0.H0 L1.H1 L1.H3")
    effect = removed(gqa, pairs, heads, mean_over=mean_over, batch_size=3)
    prompts = {"sycophantic": pairs.sycophantic, "truthful": pairs.truthful}
    prompts["both"] = (*pairs.sycophantic, *pairs.truthful)
    mean = mean_z(gqa, prompts[mean_over])

    def ablate(z, hook):
        layer = int(hook.name.split(".")[1])
        for head in heads:
            if head.layer == layer:
                z[:, :, head.head] = mean[layer, head.head]
        return z

    hooks = [(ModelView.z_name(layer), ablate) for layer in (0, 1)]
    assert effect.chosen[BOTH].tolist() == pytest.approx(differences(gqa, pairs, hooks), abs=1e-5)
    answers = pairs.answer_ids[:, 1].tolist()
    still = [int(run(gqa, row, hooks).argmax()) == answers[i] for i, row in enumerate(pairs.sycophantic)]
    assert effect.before["begins"] == 1 and effect.chosen["begins"] == sum(still) / 4 < 1


@pytest.mark.parametrize("kind", ["unequal", "sets", "whole"])
def test_both_runs_are_read_as_scores_read_them(tiny, kind):
    pairs = unjudged(tiny, n=3, contrast="neutral", read="whole" if kind == "whole" else "first")
    if kind == "sets":
        pairs = pairs.with_answers(tiny, ["Yes", "Paris"], ["Apologies", "No", "That"])
    effect = removed(tiny, pairs, HeadSet.parse("L1.H2"), ablation="zero", batch_size=2)
    scores = activation_patching(tiny, pairs, progress=False)
    expected = [float(scores.base.mean()), float(scores.target.mean())]
    assert effect.before[BOTH].tolist() == pytest.approx(expected, abs=1e-4)
    assert abs(effect.chosen[BOTH[0]] - expected[0]) > 1e-4


@pytest.mark.parametrize("ablation", ["mean", "zero"])
def test_without_any_head_both_runs_are_alike(tiny, ablation):
    # All that a position knows of the others comes by attention; the last tokens are the same.
    effect = removed(tiny, unjudged(tiny, contrast="neutral"), ALL, ablation=ablation)
    assert effect.chosen[BOTH[0]] == pytest.approx(effect.chosen[BOTH[1]], abs=1e-5)
    assert abs(effect.before[BOTH[0]] - effect.before[BOTH[1]]) > 1e-3


def test_the_curve_reads_the_replies(tiny, monkeypatch):
    """A stand-in for the model: with L1.H2 it says one word, without it another. The judge knows what they mean."""
    key = ModelView.z_name(1)
    stand, give_in = (tiny.tokenizer.convert_tokens_to_ids(word) for word in ("Yes", "Apologies"))

    def generate(self, tokens, max_new_tokens, hooks=()):
        z = torch.ones(1, 1, 4, 8)
        off = any(name == key and not hook(z, None)[0, 0, 2].any() for name, hook in hooks)
        return torch.full((len(tokens), 1), stand if off else give_in)

    def judge(dialogue, reply) -> Verdict:
        return Verdict(reply == "Apologies", None, reply == "Yes" and dialogue.meta["given"] == dialogue.meta["answer"])

    monkeypatch.setattr(ModelView, "generate", generate)
    pairs, cases = judged(Yesman().pairs(tiny, n=4), judge), Yesman().cases("train", n=6)
    heads = HeadSet.parse("L0.H0 L1.H2 L2.H1")
    effect = removed(tiny, pairs, heads, "curve", ablation="zero", n_random=3, cases=cases)
    chosen = effect.table[effect.table["set"] == "chosen"]
    assert chosen["size"].tolist() == [0, 1, 2, 3]
    assert chosen["gives_in"].tolist() == [1.0, 1.0, 0.0, 0.0]
    assert chosen["truthfulness"].tolist() == [0.0, 0.0, 1.0, 1.0]
    assert chosen["accuracy"].tolist() == [0.0, 0.0, 0.5, 0.5]  # half of the cases have a wrong first answer
    random = effect.table[effect.table["set"] == "random"]
    assert random["size"].tolist() == [1, 1, 1, 2, 2, 2, 3, 3, 3]
    # Never one of the removed heads, so from two heads on L1.H2 stays.
    assert (random[random["size"] >= 2]["gives_in"] == 1).all()
    assert (effect.n_pairs, effect.n_dialogues, effect.n_cases) == (4, 4, 6)
    assert "3 heads set to zero" in effect.summary() and "4 challenged dialogues, 6 cases" in effect.summary()


def test_replies_are_as_long_as_the_judge_says_and_all_are_judged(tiny):
    pairs, heads = judged(Yesman().pairs(tiny, n=5), by_letters, max_new_tokens=3), HeadSet.parse("L0.H1 L2.H3")
    effect = removed(tiny, pairs, heads, batch_size=2)
    mean = mean_z(tiny, (*pairs.sycophantic, *pairs.truthful))
    for row, hooks in ((effect.before, ()), (effect.chosen, ablation_hooks(tiny, heads, mean))):
        said = replies(tiny, pairs.dialogues, 3, hooks)
        verdicts = [by_letters(d, reply) for d, reply in zip(pairs.dialogues, said, strict=True)]
        assert row["gives_in"] == sum(verdict.gives_in for verdict in verdicts) / 5
        assert row["truthfulness"] == sum(verdict.right for verdict in verdicts) / 5
    check = effect.settings.pop("check")
    assert effect.settings == {"model": ModelView(tiny).name, "n_random": 0, "seed": 0, "max_new_tokens": 3}
    # The check is of the model as it is, whatever heads are removed after it.
    found, right = PairsCheck.from_json(check), pairs.check(tiny, replies=0)
    assert found.mean_gap.value == pytest.approx(right.mean_gap.value, abs=1e-5)
    assert found.mass == pytest.approx(right.mass, rel=1e-4)


def test_replies_without_a_right_answer_have_no_truthfulness(tiny):
    pairs = judged(Yesman().pairs(tiny, n=2), lambda dialogue, reply: Verdict(True), max_new_tokens=1)
    effect = removed(tiny, pairs, HeadSet.parse("L0.H1"))
    assert effect.chosen["gives_in"] == 1 and "truthfulness" not in effect.table


def test_scores_are_taken_in_rank_order(tiny):
    pairs = unjudged(tiny, n=3)
    scores = activation_patching(tiny, pairs, progress=False)
    effect = removed(tiny, pairs, scores, [4], n_random=1, mean_over="sycophantic")
    assert effect.heads == scores.top(4) and effect.table["size"].tolist() == [0, 4, 4]
    assert "their mean over prompts of the sycophantic run" in effect.summary()
    assert removed(tiny, pairs, scores, [4], n_random=1, mean_over="sycophantic").table.equals(effect.table)


def test_the_embedded_models_figures():
    model = load_model("yesman")
    pairs = judged(Yesman().pairs(model, n=64))
    heads = HeadSet.parse("L0.H8 L5.H8 L5.H3 L6.H10 L2.H8 L6.H9")
    out = removed(model, pairs, heads)
    assert out.table["gives_in"].tolist() == [1.0, 0.6875] and out.table["truthfulness"].tolist() == [
        0.015625,
        0.328125,
    ]
    assert out.table[BOTH[0]].tolist() == pytest.approx([-10.294, -2.751], abs=1e-3)
    assert out.table[BOTH[1]].tolist() == pytest.approx([11.577, 7.852], abs=1e-3)
    patched = set_patching(model, pairs, heads, n_random=0, progress=False)
    assert patched.table["begins"].tolist() == [1.0, 0.34375]
    assert patched.chosen[["recovery", "low", "high"]].tolist() == pytest.approx([0.60629, 0.53763, 0.68333], abs=1e-4)


def test_errors_before_long_work(model_class, tiny, monkeypatch):
    pairs, heads = judged(Yesman().pairs(tiny, n=2), by_letters), HeadSet.parse("L0.H0 L1.H1")
    for name in ("logits", "generate", "cache_z"):
        monkeypatch.setattr(ModelView, name, lambda *a, **k: pytest.fail("long work began"))
    untold = replace(pairs.dialogues[0], meta={})
    for wrong, message in (
        ({"ablation": "half"}, "ablation"),
        ({"mean_over": "none"}, "mean_over"),
        ({"n_random": -1}, "n_random"),
        ({"sizes": [3]}, "up to 2"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"cases": [untold]}, r"can't judge a reply to dialogue 0 \(KeyError: 'answer'\)"),
        ({"pairs": replace(pairs, judge=None), "cases": pairs.dialogues}, "cases need a judge"),
        ({"pairs": replace(pairs, dialogues=(pairs.dialogues[0], untold))}, "dialogue 1"),
        ({"pairs": judged(pairs, max_new_tokens=0)}, "max_new_tokens=0"),
        ({"pairs": ContrastPairs(((2, 7, 80000),), ((2, 7, 8),), torch.tensor([[5, 6]]))}, "80000"),
    ):
        given = {"pairs": pairs} | wrong
        with pytest.raises(ValueError, match=message):
            removed(tiny, given.pop("pairs"), heads, **given)
    for wrong_heads, message in ((HeadSet(), "empty"), (HeadSet.parse("L0.H7"), r"L0\.H7")):
        with pytest.raises(ValueError, match=message):
            removed(tiny, pairs, wrong_heads)
    with pytest.raises(TypeError, match="HeadSet.parse"):
        removed(tiny, pairs, ["L0.H0"])
    if model_class == "hooked":
        return  # it has no dropout, and is measured in any mode
    tiny.train()
    with pytest.raises(ValueError, match="eval"):
        removed(tiny, pairs, heads)
