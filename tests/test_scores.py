from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from spt_lens.heads import HeadSet
from spt_lens.scores import HeadScores, mean_scores


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
        with pytest.raises(ValueError, match="share"):
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
    assert list(table.columns) == ["layer", "head", "name", "score", "std", "rank"]
    assert list(table["rank"]) == [1, 2, 3, 4, 5, 6]
    assert HeadSet.of(list(table["name"])) == scores.order()
    for row in table.itertuples():
        assert ranks[row.layer, row.head] == row.rank
        assert row.score == pytest.approx(scores[row.name])
        assert row.std == pytest.approx(0.1 / 2**0.5, rel=1e-4)


def test_one_score_by_name(scores):
    assert scores["L1.H0"] == scores[1, 0] == pytest.approx(0.55)
    with pytest.raises(KeyError, match="2 layers x 3 heads"):
        scores["2.0"]


def test_one_pair_has_no_spread():
    assert (made(torch.ones(1, 2, 2)).std == 0).all()


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
    scores.save(tmp_path / "scores.safetensors")
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
    with pytest.raises(ValueError, match="does not hold saved head scores"):
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


@pytest.mark.parametrize("other", [{"direction": "noising"}, {"positions": "all"}, {"model_name": "another"}])
def test_measurements_of_different_kinds_have_no_mean(scores, other):
    with pytest.raises(ValueError, match=next(iter(other))):
        mean_scores(scores, replace(scores, **other))
