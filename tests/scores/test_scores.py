from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from spt_lens.heads import Head, HeadSet
from spt_lens.scores.head_scores import HeadScores
from spt_lens.scores.mean import mean_scores
from spt_lens.scores.metrics import recovery


def made(per_pair: torch.Tensor, **changes) -> HeadScores:
    values = {
        "values": per_pair.mean(0),
        "per_pair": per_pair,
        "method": "activation",
        "direction": "denoising",
        "positions": "last",
        "model_name": "tiny",
        "meta": {"gap": 2.5},
    }
    return HeadScores(**values | changes)


@pytest.fixture
def scores() -> HeadScores:
    """Two layers of three heads; the second pair is the first's, a tenth higher."""
    first = torch.tensor([[0.1, -0.9, 0.0], [0.5, 0.2, 0.1]])
    return made(torch.stack([first, first + 0.1]))


@pytest.fixture
def measured() -> HeadScores:
    """Eight pairs, two layers of three heads, with the logit differences behind them; two heads only estimated."""
    draw = torch.Generator().manual_seed(0)
    base, target = torch.rand(8, generator=draw) * 4 - 5, torch.rand(8, generator=draw) * 4 + 1
    patched = base[:, None, None] + torch.randn(8, 2, 3, generator=draw)
    return made(
        recovery(patched.movedim(0, -1), base, target).movedim(-1, 0),
        engine="sweep",
        logit_differences=patched,
        base=base,
        target=target,
        verified=torch.tensor([[True, True, False], [True, False, True]]),
    )


def noisy(strengths: list[list[float]], n_pairs: int = 40, noise: float = 0.3, seed: int = 0) -> HeadScores:
    """Scores that are these strengths and normal noise in each pair."""
    strength = torch.tensor(strengths)
    draw = torch.Generator().manual_seed(seed)
    return made(strength + noise * torch.randn(n_pairs, *strength.shape, generator=draw))


def test_order_by_sign_and_by_size(scores):
    assert scores.order() == HeadSet.parse("1.0 1.1 0.0 1.2 0.2 0.1")  # 0.0 and 1.2 are equal: the layer decides
    assert scores.order("size")[:2] == HeadSet.parse("0.1 1.0")
    assert scores.top(2) == HeadSet.parse("1.0 1.1")
    assert scores.top(1, by="size") == HeadSet.parse("0.1")
    assert len(scores.top(6)) == 6


@pytest.mark.parametrize("k", [0, -1, 7])
def test_top_of_nothing(scores, k):
    with pytest.raises(ValueError, match="1 to 6"):
        scores.top(k)


def test_by_is_checked(scores):
    for call in (lambda: scores.top(1, by="x"), lambda: scores.above(0, by="x"), lambda: scores.ranks(by="x")):
        with pytest.raises(ValueError, match="signed"):
            call()


def test_top_fraction_stays_within_the_share():
    many = made(torch.randn(2, 8, 16, generator=torch.Generator().manual_seed(0)))
    assert len(many.top_fraction(0.05)) == 6  # 6.4 of 128 heads
    assert len(many.top_fraction(1e-9)) == 1
    assert len(many.top_fraction(1.0)) == 128
    hundred = made(torch.randn(2, 10, 10, generator=torch.Generator().manual_seed(0)))
    assert [len(hundred.top_fraction(i / 100)) for i in range(1, 101)] == list(range(1, 101))
    for wrong in (0, -0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match="fraction"):
            many.top_fraction(wrong)


def test_above_a_threshold(scores):
    assert scores.above(0.2) == HeadSet.parse("1.0 1.1")
    assert scores.above(0.5, by="size") == HeadSet.parse("0.1 1.0")
    assert scores.above(9) == HeadSet()
    assert len(scores.above(-9)) == 6


def test_ranks_and_table_agree(scores):
    ranks = scores.ranks()
    assert sorted(ranks.flatten().tolist()) == [1, 2, 3, 4, 5, 6]
    table = scores.to_pandas()
    assert list(table.columns) == ["layer", "head", "name", "score", "std", "low", "high", "rank", "note"]
    low, high = scores.interval()
    assert list(table["rank"]) == [1, 2, 3, 4, 5, 6]
    assert HeadSet.of(list(table["name"])) == scores.order()
    for row in table.itertuples():
        assert ranks[row.layer, row.head] == row.rank
        assert row.score == pytest.approx(scores[row.name])
        assert row.std == pytest.approx(0.1 / 2**0.5, rel=1e-4)
        assert row.low == low[row.layer, row.head] < row.score < row.high == high[row.layer, row.head]


def test_one_score_by_name(scores):
    assert scores["L1.H0"] == scores[1, 0] == pytest.approx(0.55)
    with pytest.raises(KeyError, match="2 layers x 3 heads"):
        scores["2.0"]


def test_one_pair_has_no_spread():
    one = made(torch.ones(1, 2, 2))
    assert (one.std == 0).all()
    assert one.to_pandas()[["low", "high"]].isna().all(axis=None)
    for call in (one.interval, one.top_probability, one.above_noise, one.stability):
        with pytest.raises(ValueError, match="pair"):
            call()


def test_what_does_not_fit_is_refused(scores):
    with pytest.raises(ValueError, match="do not fit"):
        made(scores.per_pair, values=torch.zeros(3, 2))
    with pytest.raises(ValueError, match="do not fit"):
        made(scores.per_pair, values=torch.zeros(6))
    with pytest.raises(ValueError, match="no scores"):
        made(torch.zeros(0, 2, 3), values=torch.zeros(2, 3))
    with pytest.raises(ValueError, match="finite"):
        made(torch.full((1, 2, 3), torch.nan))


def test_scores_are_plain_tensors():
    made_with_grad = made(torch.ones(2, 2, 2, dtype=torch.bfloat16, requires_grad=True))
    assert not made_with_grad.values.requires_grad
    assert made_with_grad.per_pair.dtype == torch.float32


def test_saving_and_loading(scores, tmp_path):
    assert scores.save(tmp_path / "scores.safetensors") == tmp_path / "scores.safetensors"
    again = HeadScores.load(tmp_path / "scores.safetensors")
    assert torch.equal(again.values, scores.values) and torch.equal(again.per_pair, scores.per_pair)
    assert (again.method, again.direction, again.positions, again.model_name, again.meta) == (
        "activation",
        "denoising",
        "last",
        "tiny",
        {"gap": 2.5},
    )
    with pytest.raises(FileNotFoundError):
        HeadScores.load(tmp_path / "none")
    with pytest.raises(OSError, match="nowhere"):
        scores.save(tmp_path / "nowhere" / "scores.safetensors")
    whole = (tmp_path / "scores.safetensors").read_bytes()
    for part in (b"", whole[:20], whole[:-1]):
        (tmp_path / "bad").write_bytes(part)
        with pytest.raises(ValueError, match="damaged"):
            HeadScores.load(tmp_path / "bad")


def test_every_field_is_saved(measured, tmp_path):
    measured.save(tmp_path / "scores.safetensors")
    again = HeadScores.load(tmp_path / "scores.safetensors")
    for name in ("values", "per_pair", "logit_differences", "base", "target", "verified"):
        assert torch.equal(getattr(again, name), getattr(measured, name)), name
        assert getattr(again, name).dtype == getattr(measured, name).dtype
    assert (again.engine, again.metric, again.meta) == ("sweep", "recovery", measured.meta)
    important = replace(measured, metric="importance", verified=None, logit_differences=None)
    important.save(tmp_path / "scores.safetensors")
    again = HeadScores.load(tmp_path / "scores.safetensors")
    assert again.metric == "importance" and again.verified is None and again.logit_differences is None
    assert torch.equal(again.base, measured.base)


def test_tensors_that_share_memory_are_saved(tmp_path):
    per_pair, ends = torch.ones(2, 1, 2), torch.arange(4.0).view(2, 2)
    scores = made(per_pair, values=per_pair[0], logit_differences=per_pair, base=ends[0], target=ends[1])
    scores.save(tmp_path / "scores")
    again = HeadScores.load(tmp_path / "scores")
    assert again.base.tolist() == [0, 1] and again.target.tolist() == [2, 3]


def test_files_from_before_there_were_these_fields_load(scores, tmp_path):
    kept = HeadScores.load(Path(__file__).parents[2] / "notebooks/results/scores.safetensors")
    assert kept.per_pair.shape == (64, 8, 16) and kept.top(1) == HeadSet.parse("L0.H8")
    about = {name: getattr(scores, name) for name in ("method", "direction", "positions", "model_name", "meta")}
    tensors = {"values": scores.values, "per_pair": scores.per_pair}
    save_file(tensors, tmp_path / "old", metadata={"spt_lens.scores": json.dumps(about)})
    old = HeadScores.load(tmp_path / "old")
    assert old.engine == "" and old.metric == "recovery" and old.verified is None and old.base is None


@pytest.mark.parametrize(
    "about, tensors",
    [
        ([], {}),
        ({"method": 3}, {}),
        ({"meta": []}, {}),
        ({"meta": None}, {}),
        ({"engine": None}, {}),
        ({"metric": "other"}, {}),
        ({}, {"base": torch.zeros(3)}),
        ({}, {"verified": torch.ones(2, 3)}),
        ({}, {"logit_differences": torch.full((2, 2, 3), torch.nan)}),
        ({}, {"values": torch.zeros(3, 2)}),
    ],
)
def test_damaged_descriptions_and_tensors_are_refused_by_name(measured, tmp_path, about, tensors):
    path = tmp_path / "scores.safetensors"
    measured.save(path)
    names = ("method", "direction", "positions", "model_name", "engine", "metric", "meta")
    whole = {name: getattr(measured, name) for name in names}
    header = json.dumps(whole | about if isinstance(about, dict) else about)
    save_file(load_file(path) | tensors, path, metadata={"spt_lens.scores": header})
    with pytest.raises(ValueError, match=r"scores\.safetensors holds no saved scores, or is damaged"):
        HeadScores.load(path)


def test_a_header_that_is_no_description_is_refused(measured, tmp_path):
    for header in ("", "{", "[" * 100_000, '{"method": "activation"}'):
        save_file({"values": measured.values}, tmp_path / "bad", metadata={"spt_lens.scores": header})
        with pytest.raises(ValueError, match="damaged"):
            HeadScores.load(tmp_path / "bad")


def test_saving_in_vain_leaves_what_was_there(scores, tmp_path):
    scores.save(tmp_path / "scores.safetensors")
    whole = (tmp_path / "scores.safetensors").read_bytes()
    with pytest.raises(TypeError):
        replace(scores, meta={"not JSON": torch.ones(1)}).save(tmp_path / "scores.safetensors")
    assert (tmp_path / "scores.safetensors").read_bytes() == whole
    with pytest.raises(TypeError):
        replace(scores, meta={"not JSON": torch.ones(1)}).save(tmp_path / "new")
    assert not (tmp_path / "new").exists()
    with pytest.raises(OSError):
        scores.save(tmp_path)


def test_other_safetensors_are_refused(tiny_folder):
    with pytest.raises(ValueError, match="holds no saved scores"):
        HeadScores.load(tiny_folder / "model.safetensors")


def test_text_and_notebook_views(scores):
    assert "2 layers x 3 heads, 2 pairs; best L1.H0 +0.550" in repr(scores)
    bundle = scores._repr_mimebundle_()
    assert bundle["application/vnd.plotly.v1+json"]["data"][0]["type"] == "heatmap"
    assert bundle["text/html"] == scores._repr_html_()
    assert "<script" not in bundle["text/html"] and "http" not in bundle["text/html"]


def test_the_mean_of_two_measurements_is_taken_pair_by_pair(scores):
    other = made(scores.per_pair * 3, meta={"gap": 1.0})
    both = mean_scores(scores, other)
    assert torch.allclose(both.per_pair, scores.per_pair * 2) and torch.allclose(both.values, scores.values * 2)
    assert both.meta == {"mean_of": [{"gap": 2.5}, {"gap": 1.0}]}
    with pytest.raises(ValueError, match="as many pairs"):
        mean_scores(scores, made(scores.per_pair[:1]))


@pytest.mark.parametrize("field", ["direction", "positions", "model_name", "metric", "method"])
def test_measurements_of_different_kinds_have_no_mean(scores, field):
    with pytest.raises(ValueError, match=field):
        mean_scores(scores, replace(scores, **{field: "importance" if field == "metric" else "another"}))


def test_the_mean_of_two_measurements_is_of_neither_run(measured):
    verified = torch.tensor([[True, False, True], [True, True, True]])
    other = replace(measured, engine="hooks", verified=verified)
    both = mean_scores(measured, other)
    assert both.logit_differences is None and both.base is None and both.target is None
    assert torch.equal(both.verified, measured.verified & verified) and both.engine == ""
    assert torch.equal(mean_scores(measured, replace(measured, verified=None)).verified, measured.verified)
    alike = mean_scores(measured, measured)
    assert alike.engine == "sweep" and torch.allclose(alike.values, measured.values)
    plain = replace(measured, verified=None)
    assert mean_scores(plain, plain).verified is None
    with pytest.raises(ValueError, match="no logit differences"):
        alike.as_metric("importance")


def test_the_mean_is_over_the_pairs_that_both_kept(measured):
    one = replace(measured, meta={"pairs_used": [0, 1, 2, 4, 5, 7, 8, 9]})
    other = made(measured.per_pair[:3] * 3 + 1, meta={"pairs_used": [7, 3, 1]}, engine="sweep")
    both = mean_scores(one, other)
    assert both.meta == {"mean_of": [one.meta, other.meta], "pairs_used": [1, 7]}
    expected = torch.stack([one.per_pair[1] + other.per_pair[2], one.per_pair[5] + other.per_pair[0]]) / 2
    assert torch.equal(both.per_pair, expected) and torch.equal(both.values, expected.mean(0))
    # Without the list, all pairs were kept.
    found = mean_scores(other, replace(measured, meta={}))
    assert found.meta["pairs_used"] == [7, 3, 1]
    assert torch.equal(found.per_pair[1], (other.per_pair[1] + measured.per_pair[3]) / 2)
    same = mean_scores(one, one)
    assert same.meta["pairs_used"] == one.meta["pairs_used"] and torch.equal(same.per_pair, one.per_pair)


def test_pairs_that_do_not_meet_have_no_mean(measured):
    one = replace(measured, meta={"pairs_used": list(range(8))})
    with pytest.raises(ValueError, match="no pair was kept in both"):
        mean_scores(one, replace(measured, meta={"pairs_used": list(range(8, 16))}))
    for wrong in ([1, 2], [0] * 8, "all", None, list("abcdefgh")):
        with pytest.raises(ValueError, match="pairs_used"):
            mean_scores(one, replace(measured, meta={"pairs_used": wrong}))
    with pytest.raises(ValueError, match="n_layers, 2 and 3"):
        mean_scores(one, made(torch.ones(8, 3, 2), meta=one.meta))


def test_fields_that_do_not_fit_are_refused(measured):
    pairs, heads = torch.zeros(8), torch.ones(2, 3, dtype=torch.bool)
    for name, wrong in (
        ("logit_differences", torch.zeros(7, 2, 3)),
        ("base", torch.zeros(7)),
        ("base", pairs.bool()),
        ("target", torch.zeros(8, 1)),
        ("verified", heads.T),
        ("verified", heads.float()),
    ):
        with pytest.raises(ValueError, match=f"{name} is .* does not fit"):
            replace(measured, **{name: wrong})
    for name in ("logit_differences", "base", "target"):
        with pytest.raises(ValueError, match=f"{name} are not finite"):
            replace(measured, **{name: torch.full_like(getattr(measured, name), torch.inf)})
    for name in ("base", "target"):
        with pytest.raises(ValueError, match="need base and target"):
            replace(measured, **{name: None})
    assert replace(measured, logit_differences=None, target=None).base is not None
    with pytest.raises(ValueError, match="metric='other': choose one of"):
        replace(measured, metric="other")


def test_new_fields_are_plain_tensors(measured):
    half = replace(measured, base=measured.base.bfloat16().requires_grad_())
    assert half.base.dtype == torch.float32 and not half.base.requires_grad
    assert replace(measured, base=measured.base.double()).base.dtype == torch.float64


def test_estimated_heads_come_after_all_measured_ones():
    values = torch.tensor([[0.9, 0.1, -0.5], [0.3, 0.8, 0.0]])
    scores = made(values[None], verified=torch.tensor([[False, True, True], [True, False, True]]))
    assert scores.order() == HeadSet.parse("1.0 0.1 1.2 0.2 0.0 1.1")
    assert scores.order("size") == HeadSet.parse("0.2 1.0 0.1 1.2 0.0 1.1")
    assert scores.top(5)[4] == Head(0, 0) and scores.top_fraction(0.5) == HeadSet.parse("1.0 0.1 1.2")
    assert scores.above(0.2) == HeadSet.parse("1.0 0.0 1.1")  # L0.H1 is below, though it ranks before L0.H0
    assert scores.ranks()[0, 0] == 5
    table = scores.to_pandas()
    assert list(table["verified"]) == [True] * 4 + [False] * 2 and list(table["rank"]) == [1, 2, 3, 4, 5, 6]
    assert "verified" not in replace(scores, verified=None).to_pandas()
    assert "2 layers x 3 heads (2 of these estimated)" in repr(scores) and "best L1.H0" in repr(scores)


def test_intervals_are_of_each_head(measured):
    low, high = measured.interval(0.9, draws=500, seed=1)
    assert low.shape == high.shape == (2, 3) and low.dtype == measured.values.dtype
    assert bool(((low < measured.values) & (measured.values < high)).all())
    some = {
        "logit_differences": measured.logit_differences[:, 1:, 2:],
        "base": measured.base,
        "target": measured.target,
    }
    alone = made(measured.per_pair[:, 1:, 2:], **some).interval(0.9, draws=500, seed=1)
    assert float(alone[0]) == pytest.approx(float(low[1, 2])) and float(alone[1]) == pytest.approx(float(high[1, 2]))


def test_top_probability_is_of_the_same_order_as_top():
    scores = noisy([[1.0, 0.55, 0.5, 0.0], [0.0, 0.0, 0.0, -3.0]])
    found = scores.top_probability(k=2)
    assert float(found.sum()) == pytest.approx(2) and float(found[0, 0]) == 1 and float(found[1, 3]) == 0
    assert 0.05 < float(found[0, 1]) < 0.95 and float(found[0, 1] + found[0, 2]) == pytest.approx(1)
    assert float(scores.top_probability(k=1, by="size")[1, 3]) == 1
    assert float(scores.top_probability().sum()) == pytest.approx(1)  # 5 % of 8 heads, at least one
    for k in (0, 9):
        with pytest.raises(ValueError, match="1 to 8"):
            scores.top_probability(k)


def test_estimates_get_only_the_places_that_measured_heads_leave():
    scores = noisy([[1.0, 0.5, 0.4, 9.0, 8.9, 0.0]])
    scores = replace(scores, verified=torch.tensor([[True, True, True, False, False, False]]))
    few, many = scores.top_probability(k=2), scores.top_probability(k=4)
    assert few[0, 3:].tolist() == [0, 0, 0] and float(few.sum()) == pytest.approx(2)
    assert 0 < float(few[0, 2]) < float(few[0, 1])
    assert many[0, :3].tolist() == [1, 1, 1] and float(many.sum()) == pytest.approx(4)
    assert 0 < float(many[0, 4]) < float(many[0, 3]) < 1 and float(many[0, 5]) == 0
    assert scores.top_probability(k=3)[0].tolist() == [1, 1, 1, 0, 0, 0]


def test_stability_is_that_of_the_measured_heads(scores):
    strong = noisy([[float(4 * layer + head) for head in range(4)] for layer in range(5)], noise=0.1)
    found = strong.stability()
    assert found.k == 1 and found.overlap == 1 and found.spearman > 0.99
    assert noisy([[0.0] * 20] * 20).stability().spearman < 0.2
    half = replace(strong, verified=torch.tensor([[True] * 4] * 2 + [[False] * 4] * 3))
    assert half.stability(k=3).n_heads == 8 and half.stability(k=3) != strong.stability(k=3)
    alone = made(strong.per_pair[:, :2]).stability(k=3)
    assert half.stability(k=3) == alone
    with pytest.raises(ValueError, match="only 8 heads were measured"):
        half.stability(k=8)
    assert strong.stability(k=20).overlap == 1
    with pytest.raises(ValueError, match="at least 4"):
        scores.stability()


def test_heads_above_the_noise():
    scores = noisy([[0.0, 1.0, -2.0], [0.0, 3.0, 0.0]], noise=0.1)
    scores = made(scores.per_pair - scores.per_pair.mean(0) + torch.tensor([[0.0, 1.0, -2.0], [0.0, 3.0, 0.0]]))
    assert scores.above_noise() == HeadSet.parse("1.1 0.1")
    assert scores.above_noise("size") == HeadSet.parse("1.1 0.2 0.1")
    estimated = replace(scores, verified=torch.tensor([[True] * 3, [True, False, True]]))
    assert estimated.above_noise("size") == HeadSet.parse("0.2 0.1")
    with pytest.raises(ValueError, match="signed"):
        scores.above_noise("x")
    with pytest.raises(ValueError, match="draws=2000"):
        scores.above_noise(confidence=0.999)


def test_of_heads_that_do_nothing_as_many_pass_as_the_confidence_says():
    nothing = noisy([[0.0] * 50] * 40)
    assert 0.015 < len(nothing.above_noise()) / 2000 < 0.045
    assert 0.035 < len(nothing.above_noise("size")) / 2000 < 0.08
    assert len(nothing.above_noise(confidence=0.5)) / 2000 == pytest.approx(0.25, abs=0.03)


def test_heads_above_a_null():
    scores = made(torch.tensor([[[0.5, 0.2, -0.9], [0.21, 0.1, 0.0]]]))
    null = made(torch.tensor([[[0.1, -0.2, 0.0], [0.05, 0.15, 0.0]]]).repeat(3, 1, 1))
    assert scores.above_null(null) == HeadSet.parse("0.0 1.0")  # above .2, not at it
    assert scores.above_null(null, by="size") == HeadSet.parse("0.2 0.0 1.0")
    assert scores.above_null(null, quantile=0.8) == HeadSet.parse("0.0 1.0 0.1")  # above .15
    assert scores.above_null(null, quantile=0) == HeadSet.parse("0.0 1.0 0.1 1.1")
    assert null.above_null(null) == HeadSet()
    estimated = replace(scores, verified=torch.tensor([[False, True, True]] * 2))
    assert estimated.above_null(null, by="size") == HeadSet.parse("0.2")
    for quantile in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match="quantile"):
            scores.above_null(null, quantile)
    with pytest.raises(ValueError, match="n_layers, 2 and 3"):
        scores.above_null(made(torch.ones(1, 3, 2)))
    with pytest.raises(ValueError, match="metric"):
        scores.above_null(replace(null, metric="importance"))
    with pytest.raises(ValueError, match="positions"):
        scores.above_null(replace(null, positions="all"))


@pytest.mark.parametrize("direction", ["denoising", "noising"])
def test_importance_is_that_of_a_plain_loop(measured, direction):
    found = replace(measured, direction=direction).as_metric("importance")
    assert found.metric == "importance" and found.engine == "sweep" and found.per_pair.dtype == torch.float32
    for pair in range(8):
        before = 1 / (1 + math.exp(float(measured.base[pair])))
        for layer in range(2):
            for head in range(3):
                after = 1 / (1 + math.exp(float(measured.logit_differences[pair, layer, head])))
                change = (after - before) / before
                expected = -change if direction == "denoising" else change
                assert float(found.per_pair[pair, layer, head]) == pytest.approx(expected, abs=1e-7)
    assert torch.allclose(found.values, found.per_pair.mean(0))
    assert torch.equal(found.verified, measured.verified) and torch.equal(found.base, measured.base)


def test_importance_is_positive_where_the_patch_goes_the_way_of_the_direction():
    base, target, up = torch.tensor([-2.0, -1.0]), torch.tensor([3.0, 4.0]), torch.tensor([[0.5, -0.5]])
    heals = made(torch.zeros(2, 1, 2), logit_differences=base[:, None, None] + up, base=base, target=target)
    assert (heals.as_metric("importance").values > 0).tolist() == [[True, False]]
    breaks = made(
        torch.zeros(2, 1, 2),
        direction="noising",
        logit_differences=target[:, None, None] + up,
        base=target,
        target=base,
    )
    assert (breaks.as_metric("importance").values > 0).tolist() == [[False, True]]
    for scores in (heals, breaks):  # recovery and importance have the same sign
        zero = replace(scores, metric="importance")
        assert (zero.as_metric("recovery").values > 0).equal(scores.as_metric("importance").values > 0)


def test_importance_keeps_small_changes_of_a_share_near_one():
    base = torch.tensor([-16.0])
    scores = made(
        torch.zeros(1, 1, 1), logit_differences=torch.tensor([[[-15.0]]]), base=base, target=torch.tensor([9.0])
    )
    expected = 1 - (1 + math.exp(-16)) / (1 + math.exp(-15))
    assert float(scores.as_metric("importance").values) == pytest.approx(expected, rel=1e-4)  # 1.9e-7


def test_metrics_and_back(measured):
    assert measured.as_metric("recovery") is measured
    there = measured.as_metric("importance")
    assert torch.equal(there.as_metric("recovery").per_pair, measured.per_pair)
    assert torch.allclose(there.as_metric("recovery").values, measured.values)


def test_metrics_that_cannot_be_had(scores, measured):
    with pytest.raises(ValueError, match="measure again"):
        scores.as_metric("importance")
    with pytest.raises(ValueError, match="metric='share': choose one of"):
        measured.as_metric("share")
    with pytest.raises(ValueError, match="direction 'other' is not defined"):
        replace(measured, direction="other").as_metric("importance")
    honest = measured.base.clone()
    honest[[2, 5]] = 20.0
    with pytest.raises(ValueError, match=r"in 2 of 8 pairs \(pair 2, 5\).*use recovery"):
        replace(measured, base=honest).as_metric("importance")
    with pytest.raises(ValueError, match="no gap to recover"):
        replace(measured, metric="importance", target=measured.base).as_metric("recovery")


def test_the_text_names_engine_and_metric(scores, measured):
    assert "positions=last, tiny: 2 layers" in repr(scores)
    assert "positions=last, engine=sweep, tiny" in repr(measured)
    assert "engine=sweep, metric=importance, tiny" in repr(measured.as_metric("importance"))


def test_the_mean_of_two_nulls_is_one_and_of_a_null_and_scores_is_refused():
    per_pair = torch.rand(3, 2, 2)
    scores = HeadScores(per_pair.mean(0), per_pair, "activation", "denoising", "last", "m")
    null = replace(scores, meta={"null": "random pairs"})
    assert mean_scores(null, null).meta["null"] == "random pairs" and "null" not in mean_scores(scores, scores).meta
    with pytest.raises(ValueError, match="one of these scores is a null"):
        mean_scores(null, scores)
