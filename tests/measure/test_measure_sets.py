"""Sets of heads patched in together: alone, in rank order, and beside random sets."""

from __future__ import annotations

import html
from dataclasses import replace

import pytest
import torch
from picking import scores_of

from spt_lens.data.pairs import ContrastPairs
from spt_lens.heads import HeadSet
from spt_lens.measure.knockout import set_knockout
from spt_lens.measure.sets import set_patching, sets_of
from spt_lens.model.view import ModelView
from spt_lens.patching.activation import activation_patching
from spt_lens.yesman import Yesman

ALL = HeadSet.of((layer, head) for layer in range(3) for head in range(4))
HEAD = HeadSet.parse("L1.H2")


def patched(model, pairs, heads, sizes=None, **how):
    return set_patching(model, pairs, heads, sizes, **{"n_random": 0, "progress": False} | how)


def first(model, row) -> int:
    """The token that a reply to this prompt begins with."""
    with torch.no_grad():
        return int(model(torch.tensor([list(row)]))[0, -1].argmax())


def outspoken(model, pairs: ContrastPairs) -> ContrastPairs:
    """The same prompts, with what the model says first as the sycophantic answer, so that it begins with that."""
    said = torch.tensor([first(model, row) for row in pairs.sycophantic])
    other = torch.tensor([first(model, row) for row in pairs.truthful])
    truthful = torch.where(other == said, pairs.answer_ids[:, 0], other)
    return replace(pairs, answer_ids=torch.stack([truthful, said], dim=1))


@pytest.mark.parametrize("direction", ["denoising", "noising"])
@pytest.mark.parametrize("positions", ["last", "all"])
def test_one_head_is_its_score(tiny, direction, positions):
    pairs = Yesman().pairs(tiny, n=4)
    scores = activation_patching(tiny, pairs, direction=direction, positions=positions, progress=False)
    effect = patched(tiny, pairs, HEAD, direction=direction, positions=positions)
    # A share of a small gap is as inexact as the gap is small; what is read differs by rounding alone.
    torch.testing.assert_close(
        torch.tensor(effect.per_pair["recovery"].to_numpy()), scores.per_pair[:, 1, 2].double(), atol=1e-4, rtol=1e-4
    )
    assert effect.chosen["recovery"] == pytest.approx(effect.per_pair["recovery"].mean(), abs=1e-6)
    moved = torch.tensor(effect.per_pair["logits"].to_numpy())
    torch.testing.assert_close(moved, scores.effects[:, 1, 2].double(), atol=1e-4, rtol=1e-4)


# Every kind of pairs and of positions: what is read of them, and where.
KINDS = {
    "numbers": (lambda m: Yesman().pairs(m, n=3), [-1, -3, 4]),
    "unequal": (lambda m: Yesman().pairs(m, n=3, contrast="neutral"), "last"),
    "aligned": (lambda m: Yesman().pairs(m, n=3, contrast="neutral").aligned(), "all"),
    "aligned numbers": (lambda m: Yesman().pairs(m, n=3, contrast="neutral").aligned(), (-2, -1)),
    "sets": (lambda m: Yesman().pairs(m, n=3).with_answers(m, ["Yes", "Paris"], ["Apologies", "No", "That"]), "last"),
    "whole": (lambda m: Yesman().pairs(m, n=3, read="whole"), "last"),
    "whole, all": (lambda m: Yesman().pairs(m, n=3, read="whole"), "all"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_one_head_is_its_score_for_all_kinds_of_pairs(tiny_folder, load, exact_softmax, kind):
    model = load(tiny_folder, dtype=torch.float64)
    make, positions = KINDS[kind]
    pairs = make(model)
    for direction in ("denoising", "noising"):
        how = {"direction": direction, "positions": positions}
        scores = activation_patching(model, pairs, engine="hooks", progress=False, **how)
        for batch_size in (1, 2, 32):
            effect = patched(model, pairs, HeadSet.parse("L1.H3"), batch_size=batch_size, **how)
            torch.testing.assert_close(
                torch.tensor(effect.per_pair["recovery"].to_numpy()), scores.per_pair[:, 1, 3], atol=1e-9, rtol=1e-9
            )
            assert effect.positions == scores.positions and "left_out" not in effect.settings
        assert scores.per_pair[:, 1, 3].abs().min() > 1e-4


def test_pairs_without_a_gap_count_as_in_scores(tiny):
    pairs = Yesman().pairs(tiny, n=4)
    half = replace(pairs, truthful=(pairs.truthful[0], pairs.sycophantic[1], *pairs.truthful[2:]))
    scores = activation_patching(tiny, half, progress=False)
    with pytest.warns(UserWarning, match=r"4 pairs of prompts tell little") as caught:
        effect = set_patching(tiny, half, HEAD, n_random=1, scores=scores, progress=False)
    assert {each.filename for each in caught} == {__file__}
    assert effect.n_pairs == len(effect.per_pair) == 4 and abs(effect.per_pair["recovery"][1]) < 1e-4
    assert effect.check.line() == scores.check.line() and effect.check.line() in effect.summary()
    assert html.escape(effect.check.line()) in effect._repr_html_()
    # Effects and gaps are drawn together, as the scores' interval is.
    low, high = scores.interval()
    assert effect.chosen[["low", "high"]].tolist() == pytest.approx([float(low[1, 2]), float(high[1, 2])], rel=1e-3)
    torch.testing.assert_close(
        torch.tensor(effect.per_pair["recovery"].to_numpy()), scores.per_pair[:, 1, 2].double(), atol=1e-4, rtol=1e-4
    )
    with pytest.raises(ValueError, match="no gap to recover"):
        patched(tiny, replace(pairs, truthful=pairs.sycophantic), HEAD)


def test_whole_completions_begin_with_their_first_token(tiny):
    pairs = Yesman().pairs(tiny, n=3, read="whole")
    said = [first(tiny, row) for row in pairs.sycophantic]
    completions = tuple(
        (one, (token, *other[1:])) for (one, other), token in zip(pairs.completion_ids, said, strict=True)
    )
    answers = torch.tensor([[one[0], other[0]] for one, other in completions])
    loud = replace(pairs, answer_ids=answers, completion_ids=completions, judge=None)
    for measure in (set_patching, set_knockout):
        how = {"n_random": 0, "progress": False}
        assert measure(tiny, replace(pairs, judge=None), HEAD, **how).before["begins"] == 0
        assert measure(tiny, loud, HEAD, **how).before["begins"] == 1


def test_a_reply_may_begin_with_any_answer_of_the_sycophantic_set(tiny):
    pairs = Yesman().pairs(tiny, n=4)
    said = [first(tiny, row) for row in pairs.sycophantic]
    sets = tuple(((5,), (6, token)) if i in (1, 2, 3) else ((token,), (6, 5)) for i, token in enumerate(said))
    answers = torch.tensor([[one[0], other[0]] for one, other in sets])
    effect = patched(tiny, replace(pairs, answer_ids=answers, answer_sets=sets), HEAD)
    assert effect.before["begins"] == 0.75


def test_all_heads_at_the_last_position_recover_everything(tiny):
    # Both prompts end in the same token, so the last position differs only by what its heads bring there.
    pairs = outspoken(tiny, Yesman().pairs(tiny, n=4, contrast="neutral"))
    effect = patched(tiny, pairs, ALL)
    # Rotary positions are relative and nothing else knows the place, so unequal lengths change nothing here.
    assert effect.chosen["recovery"] == pytest.approx(1, abs=1e-3)
    answers = pairs.answer_ids[:, 1].tolist()
    for prompts, row in ((pairs.sycophantic, effect.before), (pairs.truthful, effect.chosen)):
        begin = [first(tiny, prompt) == answer for prompt, answer in zip(prompts, answers, strict=True)]
        assert row["begins"] == sum(begin) / 4


@pytest.mark.parametrize("positions", ["last", "all"])
def test_all_heads_bring_the_other_run_whichever_positions_are_patched(gqa, positions):
    # Last tokens are the same, so nothing but attention tells the last position of one run from the other's.
    pairs = Yesman().pairs(gqa, n=3)
    for direction in ("denoising", "noising"):
        effect = patched(gqa, pairs, ALL, direction=direction, positions=positions)
        # All of every pair's gap: so the share is certain, whatever pairs are drawn.
        assert effect.chosen[["recovery", "low", "high"]].tolist() == pytest.approx([1.0] * 3, abs=1e-3)


@pytest.mark.parametrize("direction", ["denoising", "noising"])
@pytest.mark.parametrize("positions", ["last", "all"])
def test_each_row_is_what_its_heads_do_alone(gqa, direction, positions):
    pairs, heads = outspoken(gqa, Yesman().pairs(gqa, n=4)), HeadSet.parse("L2.H1 L0.H3 L1.H0 L1.H2")
    how = {"direction": direction, "positions": positions}
    scores = activation_patching(gqa, pairs, progress=False, **how)
    effect = patched(gqa, pairs, heads, "curve", n_random=2, seed=4, scores=scores, batch_size=3, **how)
    rows = [(k, "chosen", 0) for k in (0, 1, 2, 4)] + [(k, "random", draw) for k in (1, 2, 4) for draw in (0, 1)]
    assert list(effect.table[["size", "set", "draw"]].itertuples(index=False, name=None)) == rows
    columns = ["recovery", "low", "high", "sum_of_single", "begins"]
    assert list(effect.table.columns) == ["size", "set", "draw", "heads", *columns]
    for row in effect.table.to_dict("records"):
        drawn = HeadSet.parse(row["heads"])
        assert row["sum_of_single"] == pytest.approx(sum(scores[head] for head in drawn), abs=1e-5)
        if row["size"] == 0:
            assert row["recovery"] == 0 and row["begins"] == effect.before["begins"]
            continue
        assert drawn == (heads[: row["size"]] if row["set"] == "chosen" else drawn) and len(drawn) == row["size"]
        if row["set"] == "random":
            assert drawn == heads[: row["size"]].random_like(gqa, seed=4 + row["draw"])
        alone = patched(gqa, pairs, drawn, **how)
        assert row["recovery"] == pytest.approx(alone.chosen["recovery"], abs=1e-4)
        assert row["begins"] == alone.chosen["begins"] and row["low"] <= row["recovery"] <= row["high"]
    assert effect.heads == heads and effect.n_pairs == 4
    assert direction == "noising" or effect.table["begins"].nunique() > 1  # both runs begin alike
    assert (effect.direction, effect.positions, effect.ablation) == (direction, positions, "")
    made_with = {"model": ModelView(gqa).name, "n_random": 2, "seed": 4, "scores": "activation"}
    assert effect.settings == made_with | {"check": effect.check.to_json()} and effect.check.n_pairs == 4


def test_sets_of_one_are_the_scores_of_their_heads(tiny):
    pairs = Yesman().pairs(tiny, n=6)
    scores = activation_patching(tiny, pairs, progress=False)
    effect = patched(tiny, pairs, HEAD, n_random=3, scores=scores)
    assert effect.table["set"].tolist() == ["chosen", "chosen", "random", "random", "random"]
    # A set of one has nothing to add up: alone and together are the same, for the random ones too.
    for row in effect.table[1:].to_dict("records"):
        assert row["recovery"] == pytest.approx(scores[row["heads"]], abs=1e-4)
        assert row["sum_of_single"] == pytest.approx(scores[row["heads"]], abs=1e-9)
        low, high = (float(end[HeadSet.parse(row["heads"])[0]]) for end in scores.interval())
        assert (row["low"], row["high"]) == pytest.approx((low, high), abs=1e-4)
    assert all(head.startswith("L1.") and head != "L1.H2" for head in effect.random["heads"])
    single = patched(tiny, pairs[:1], HEAD, direction="noising")
    assert single.table[["low", "high"]].isna().all(axis=None) and "sum_of_single" not in single.table
    assert single.summary().startswith(f"1 head alone: gap lost {single.chosen['recovery']:.2f}; ")


def test_scores_are_taken_in_rank_order_and_all_heads_recover_everything(tiny):
    pairs = Yesman().pairs(tiny, n=3, contrast="neutral")
    scores = activation_patching(tiny, pairs, progress=False)
    effect = patched(tiny, pairs, scores, [12, 1])
    assert effect.sizes == [1, 12] and effect.heads == scores.order()
    assert effect.table["recovery"][1] == pytest.approx(float(scores.values.max()), abs=1e-4)
    assert effect.chosen["recovery"] == pytest.approx(1, abs=1e-3)
    assert patched(tiny, pairs, scores).sizes == [1, 2, 4, 8, 12]
    short = patched(tiny, pairs, scores, [2], n_random=1, seed=3)
    assert short.heads == scores.top(2) and short.table["size"].tolist() == [0, 2, 2]
    assert short.table.equals(patched(tiny, pairs, scores, [2], n_random=1, seed=3).table)


def test_which_sizes_are_measured_and_which_heads_are_drawn(tiny):
    view, heads = ModelView(tiny), HeadSet.parse("0.0 1.1 0.1 0.2")

    def sizes(heads, asked) -> list[int]:
        return [len(one.heads) for one in sets_of(view, heads, asked, 0, 0)]

    assert sizes(heads, None) == [0, 4] and sizes(heads, [3, 1, 3, 0]) == [0, 1, 3]
    assert sizes(ALL[:1], "curve") == [0, 1] and sizes(ALL[:6], "curve") == [0, 1, 2, 4, 6]
    sets = sets_of(view, heads, [2, 4], n_random=3, seed=5)
    assert [one.heads for one in sets[:3]] == [HeadSet(), heads[:2], heads]
    for drawn, which, draw in sets[3:]:
        k = len(drawn)
        assert which == "random" and not drawn & heads[:k]
        # Three of four heads of layer 0 can't be matched by others of it.
        assert drawn == heads[:k].random_like(tiny, seed=5 + draw, matched=k == 2)


def test_a_long_rankings_curve_ends_by_itself(tiny, monkeypatch):
    monkeypatch.setattr("spt_lens.measure.sets.LONGEST", 6)
    scores = scores_of(3, 4)
    assert [len(one.heads) for one in sets_of(ModelView(tiny), scores, None, 0, 0)] == [0, 1, 2, 4, 6]
    assert len(sets_of(ModelView(tiny), scores.order(), "curve", 0, 0)[-1].heads) == 12  # a selection's to its end


def test_errors_before_long_work(model_class, tiny, monkeypatch):
    pairs, heads = Yesman().pairs(tiny, n=2), HeadSet.parse("L0.H0 L1.H1")
    scores = activation_patching(tiny, pairs, progress=False)
    monkeypatch.setattr(ModelView, "logits", lambda *a, **k: pytest.fail("long work began"))
    fewer = replace(scores, values=scores.values[1:], per_pair=scores.per_pair[:, 1:], logit_differences=None)
    for wrong, message in (
        ({"sizes": [3]}, "up to 2"),
        ({"sizes": []}, "at least one"),
        ({"sizes": [0]}, "at least one"),
        ({"sizes": [-1, 1]}, "up to 2"),
        ({"sizes": [1.5]}, "give a whole number"),
        ({"sizes": "all"}, "'curve'"),
        ({"n_random": -1}, "n_random"),
        ({"direction": "up"}, "direction"),
        ({"positions": "first"}, "positions"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"scores": scores, "direction": "noising"}, "direction='denoising' and the set is with 'noising'"),
        ({"scores": scores, "positions": "all"}, "positions='last'"),
        ({"scores": replace(scores, metric="importance")}, "metric='importance'"),
        ({"scores": replace(scores, meta={"null": "random pairs"})}, "null of random pairs"),
        ({"scores": fewer}, "2 layers x 4"),
    ):
        with pytest.raises(ValueError, match=message):
            patched(tiny, pairs, heads, **wrong)
    for wrong_heads, message in ((HeadSet(), "empty"), (HeadSet.parse("L0.H7"), r"L0\.H7"), (ALL[:9], "only 3 left")):
        with pytest.raises(ValueError, match=message):
            set_patching(tiny, pairs, wrong_heads, n_random=1)
    for no_heads in (["L0.H0"], "L0.H0", None):
        with pytest.raises(TypeError, match="HeadSet.parse"):
            patched(tiny, pairs, no_heads)
    if model_class == "hooked":
        return  # it has no dropout, and is measured in any mode
    tiny.train()
    with pytest.raises(ValueError, match="eval"):
        patched(tiny, pairs, heads)


def test_logits_that_are_no_numbers_are_named(tiny):
    pairs = replace(Yesman().pairs(tiny, n=2), judge=None)
    with torch.no_grad():
        ModelView(tiny).head_weight(0, "o", 0)[0].flatten()[0] = torch.nan
    for measure in (set_patching, set_knockout):
        with pytest.raises(ValueError, match="pair [01]: the model's logits are not finite"):
            measure(tiny, pairs, HeadSet.parse("L1.H1"))


def test_hooks_are_gone_also_after_an_interrupt(tiny, monkeypatch):
    pairs, heads = replace(Yesman().pairs(tiny, n=4), judge=None), HeadSet.parse("0.1 2.3")
    calls, logits = [], ModelView.logits

    def interrupted(self, *args, **kwargs):
        calls.append(1)
        if len(calls) % 7 == 0:
            raise KeyboardInterrupt
        return logits(self, *args, **kwargs)

    monkeypatch.setattr(ModelView, "logits", interrupted)
    for measure in (set_knockout, set_patching):
        with pytest.raises(KeyboardInterrupt):
            measure(tiny, pairs, heads, batch_size=1, progress=False)
        points = {id(point): point for point in tiny.hook_dict.values()}.values()
        assert not any(point.fwd_hooks for point in points) and torch.is_grad_enabled()


def test_progress_is_one_bar_that_can_be_turned_off(tiny, capsys):
    pairs = replace(Yesman().pairs(tiny, n=2), judge=None)
    for measure, title in ((set_patching, "patching sets"), (set_knockout, "knocking sets out")):
        measure(tiny, pairs, HEAD, n_random=1, progress=False)
        assert capsys.readouterr() == ("", "")
        measure(tiny, pairs, HEAD, n_random=1)
        shown = capsys.readouterr()
        assert shown.out == "" and title in shown.err and "100%" in shown.err and shown.err.count("\n") == 1
