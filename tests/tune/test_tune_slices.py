from __future__ import annotations

import pytest
import torch
from conftest import head_part

from spt_lens.heads import HeadSet
from spt_lens.model.view import ModelView
from spt_lens.tune.slices import head_slices


def test_a_slice_moves_its_own_head_and_no_other_in_its_layer(tiny, tokens):
    view = ModelView(tiny)
    before = view.cache_z(tokens)
    for piece in head_slices(tiny, HeadSet.parse("L1.H2"), "qkv"):
        piece.write(piece.read() + 0.5)
    changed = (view.cache_z(tokens) != before).flatten(1, 2).any(dim=-1).any(dim=1)  # [layer, head]
    assert not changed[0].any()
    assert changed[1].tolist() == [False, False, True, False]


def test_an_output_slice_reads_only_its_own_head(tiny):
    view = ModelView(tiny)
    (piece,) = head_slices(tiny, HeadSet.parse("L1.H2"), "o")
    z = torch.randn(5, view.n_heads, view.d_head)
    weight = torch.cat([head_part(view, 1, "o", head) for head in range(4)], dim=1).detach()
    before = z.flatten(1) @ weight.T
    piece.write(piece.read() + 0.5)
    weight = torch.cat([head_part(view, 1, "o", head) for head in range(4)], dim=1).detach()
    moved = z.flatten(1) @ weight.T - before
    torch.testing.assert_close(moved, 0.5 * z[:, 2].sum(dim=1, keepdim=True).expand(-1, view.d_model))


def test_blocks_are_views_and_cover_the_weights_once(tiny):
    every = HeadSet.of(*((layer, head) for layer in range(3) for head in range(4)))
    slices = head_slices(tiny, every)
    assert len({s.name for s in slices}) == len(slices) == 3 * 4 * 4
    weights = {id(p): p for s in slices for p in [s.parameter]}
    assert sum(piece.read().numel() for piece in slices) == sum(p.numel() for p in weights.values()) == 3 * 4 * 32 * 32
    for piece in slices:
        assert piece.of(piece.parameter).untyped_storage().data_ptr() == piece.parameter.untyped_storage().data_ptr()
        assert piece.read().is_contiguous()


def test_default_projections_leave_shared_keys_and_values_alone(tiny, gqa):
    heads = HeadSet.parse("L0.H1 L2.H3")
    assert [s.name[-1] for s in head_slices(tiny, heads)] == list("qkvoqkvo")
    assert [s.name for s in head_slices(gqa, heads)] == ["L0.H1.q", "L0.H1.o", "L2.H3.q", "L2.H3.o"]
    assert not heads.sharing(gqa) and not heads.sharing(tiny, "qkvo")


@pytest.mark.parametrize("projections", ["auto", "qkvo", "qo", "vk"])
def test_the_count_is_the_one_that_a_head_set_announces(tiny, gqa, projections):
    heads = HeadSet.parse("L0.H1 L2.H2 L2.H3")
    for model in (tiny, gqa):
        assert sum(piece.read().numel() for piece in head_slices(model, heads, projections)) == heads.parameters(
            model, projections
        )


def test_explicit_grouped_keys_name_their_group_once_and_the_heads_that_share_it(gqa, tokens):
    heads = HeadSet.parse("L1.H2 L1.H3 L2.H0")
    slices = head_slices(gqa, heads, "qkvo")
    assert sum(s.name == "L1.G1.k" for s in slices) == 1
    assert str(heads.sharing(gqa, "qkvo")) == "L2.H1"
    assert heads.summary(gqa, "qkvo").endswith("; their keys and values are shared by L2.H1")
    assert "shared" not in heads.summary(gqa)
    view = ModelView(gqa)
    before = view.cache_z(tokens)
    (values,) = [s for s in slices if s.name == "L2.G0.v"]
    values.write(values.read() + 0.5)
    changed = (view.cache_z(tokens) != before)[2].flatten(0, 1).any(dim=-1).any(dim=0)
    assert changed.tolist() == [True, True, False, False]


@pytest.mark.parametrize("projections", ["", "qq", "qx", "all"])
def test_unknown_projections_are_refused(tiny, projections):
    with pytest.raises(ValueError, match="qkvo"):
        head_slices(tiny, HeadSet.parse("L0.H0"), projections)


@pytest.mark.parametrize("heads", [HeadSet.of(), HeadSet.parse("L0.H0 L9.H0"), HeadSet.parse("L0.H4")])
def test_empty_and_missing_heads_are_refused(tiny, heads):
    with pytest.raises(ValueError):
        head_slices(tiny, heads)


def test_what_is_no_selection_is_refused_by_type(tiny):
    with pytest.raises(TypeError, match="HeadSet"):
        head_slices(tiny, "L0.H1")  # type: ignore[arg-type]
