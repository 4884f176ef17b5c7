"""Faithfulness over set sizes: areas by the trapezoid rule, recoveries as set_patching has them."""

from __future__ import annotations

import pytest

from spt_lens.heads import HeadSet
from spt_lens.measure.faithfulness import Faithfulness, areas, faithfulness, of_recoveries, recoveries, sizes_of
from spt_lens.measure.sets import set_patching
from spt_lens.model.view import ModelView
from spt_lens.patching.activation import activation_patching
from spt_lens.yesman import Yesman


def test_areas_of_curves_that_are_known():
    assert areas([0, 0.5, 1], [0, 0.5, 1]) == (0.5, 0.5)
    assert areas([0, 1], [1, 1]) == (1, 0)
    under, off = areas([0, 0.25, 1], [0, 1.5, 1])  # above one is as far off as below
    assert under == pytest.approx(0.25 * 0.75 + 0.75 * 1.25) and off == pytest.approx(0.25 * 0.75 + 0.75 * 0.25)


def test_sizes_are_whole_heads_from_none_to_all():
    assert sizes_of(270) == [0, 1, 3, 5, 14, 27, 54, 135, 270]
    assert sizes_of(4) == [0, 1, 2, 4] or sizes_of(4) == [0, 2, 4]
    found = of_recoveries([0, 1, 4], [0.0, 0.4, 0.8])
    assert found.table["faithfulness"].tolist() == [0, 0.5, 1] and found.table["share"].tolist() == [0, 0.25, 1]
    assert found.cpr == pytest.approx(0.25 * 0.25 + 0.75 * 0.75) and found.cmd == pytest.approx(1 - found.cpr)
    assert found.absolute.equals(found.table)  # no other order was given
    # CPR is of the order by signed scores, CMD of that by their sizes: what works against the effect comes early there.
    found = of_recoveries([0, 1, 4], [0.0, 0.4, 0.8], [0.0, -0.4, 0.8])
    assert found.table["faithfulness"].tolist() == [0, 0.5, 1]
    assert found.absolute["faithfulness"].tolist() == [0, -0.5, 1]
    assert (found.cpr, found.cmd) == (areas([0, 0.25, 1], [0, 0.5, 1])[0], areas([0, 0.25, 1], [0, -0.5, 1])[1])
    again = Faithfulness.from_json(found.to_json())
    assert again.table.equals(found.table) and again.absolute.equals(found.absolute) and str(again) == str(found)
    with pytest.raises(ValueError, match="all heads together bring back 0.010 of the gap"):
        of_recoveries([0, 1], [0.0, 0.01])


def test_recoveries_are_those_of_set_patching(tiny):
    pairs, view = Yesman().pairs(tiny, 6), ModelView(tiny)
    scores = activation_patching(tiny, pairs, progress=False)
    order = scores.order()
    sets = [HeadSet(), order[:2], order[:5]]
    found = recoveries(view, pairs, sets, progress=False)
    expected = set_patching(tiny, pairs, order, [0, 2, 5], n_random=0, progress=False).table
    assert [each["recovery"] for each in found] == pytest.approx(expected["recovery"].tolist(), abs=1e-6)
    assert [each["low"] for each in found] == pytest.approx(expected["low"].tolist(), abs=1e-6)
    curve = faithfulness(tiny, pairs, order, progress=False)
    assert curve.table["faithfulness"].iloc[-1] == 1 and curve.table["size"].tolist() == sizes_of(12)
    both = faithfulness(tiny, pairs, scores, progress=False)
    by_size = faithfulness(tiny, pairs, scores.order("size"), progress=False)
    assert list(scores.order("size")) != list(order) and (both.cpr, both.cmd) == pytest.approx((curve.cpr, by_size.cmd))
    with pytest.raises(ValueError, match="the order has 2 heads"):
        faithfulness(tiny, pairs, order[:2])
