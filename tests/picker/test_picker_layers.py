"""What the page is told of the scores: orders, chances and sizes as Python computes them."""

from __future__ import annotations

import json
import random
from dataclasses import replace

import pytest
import torch
from picking import scores_of, unflat
from rests import CHECK

from spt_lens.heads import HeadSet
from spt_lens.measure.attention import attention_to_spans
from spt_lens.model.view import ModelView
from spt_lens.patching.activation import activation_patching
from spt_lens.picker.layers import flat, layer_payload, map_payload, named_layers, sizes_payload
from spt_lens.picker.pages import fallback_html
from spt_lens.picker.picker import HeadPicker
from spt_lens.statistics import heads_within
from spt_lens.yesman import Yesman

BY = ("signed", "size")
PARTLY = replace(scores_of(), verified=torch.rand(8, 16, generator=torch.Generator().manual_seed(1)) < 0.3)


def test_flat_numbers_go_there_and_back():
    heads = HeadSet.parse("5.3 0.0 7.15 1.2")
    assert flat(heads, 16) == [83, 0, 127, 18]
    assert unflat(flat(heads, 16), 16) == heads
    assert unflat([], 16) == HeadSet()


@pytest.mark.parametrize("scores", [scores_of(), PARTLY, scores_of(3, 4, n_pairs=2)])
def test_orders_and_chances_are_those_of_the_scores(scores):
    k = 6 if scores.n_layers == 8 else 2
    layer = layer_payload("one", scores, k)
    low, high = scores.interval()
    for by in BY:
        assert unflat(layer["order"][by], scores.n_heads) == scores.order(by)
        for n in (1, k, 12):
            assert unflat(layer["order"][by][:n], scores.n_heads) == scores.top(n, by)
        assert unflat(layer["noise"][by], scores.n_heads) == scores.above_noise(by)
        assert layer["top"][by] == pytest.approx(scores.top_probability(k, by).flatten().tolist(), abs=1e-3)
    for name, values in (("low", low), ("high", high)):
        assert layer[name] == pytest.approx(values.flatten().tolist(), rel=1e-4)
    assert layer["estimates"] == [i for i, seen in enumerate(scores.measured.flatten().tolist()) if not seen]
    assert (layer["estimates"] != []) == (scores is PARTLY)
    assert json.loads(json.dumps(layer, allow_nan=False)) == layer


def test_values_come_back_exactly():
    scores = scores_of()
    layer = layer_payload("one", scores, 6)
    assert torch.equal(torch.tensor(layer["values"]).reshape(8, 16), scores.values)
    # So that a threshold on one side chooses as on the other.
    for limit in sorted(layer["values"])[::20]:
        chosen = [i for i in layer["order"]["signed"] if layer["values"][i] > limit]
        assert unflat(chosen, 16) == scores.above(torch.tensor(limit).item())


def test_double_scores_keep_their_order():
    base = torch.full((1, 4), 0.1, dtype=torch.float64) + torch.tensor([[3e-12, 0, 2e-12, 1e-12]])
    scores = replace(scores_of(1, 4), values=base, per_pair=base.repeat(3, 1, 1))
    layer = layer_payload("one", scores, 1)
    assert layer["order"]["signed"] == [0, 2, 3, 1]
    assert layer["values"] == base.flatten().tolist()


def test_a_single_pair_has_no_intervals():
    layer = layer_payload("one", scores_of(n_pairs=1), 6)
    assert layer["low"] is layer["high"] is layer["top"] is layer["noise"] is None
    assert len(layer["order"]["signed"]) == 128
    assert json.loads(json.dumps(layer, allow_nan=False)) == layer


@pytest.mark.parametrize("value", [0.0, -1e-30, 1e30])
def test_scores_without_any_spread(value):
    values = torch.full((3, 4), value)
    layer = layer_payload("one", replace(scores_of(3, 4), values=values, per_pair=values.repeat(8, 1, 1)), 1)
    (end,) = layer["ends"]  # nothing lies beyond
    assert end["limit"] > 0 and layer["order"]["size"] == list(range(12))
    assert json.loads(json.dumps(layer, allow_nan=False)) == layer


def test_text_is_not_escaped_for_the_page():
    scores = scores_of(name="a <b> & 'c'")
    assert layer_payload("one", scores, 6)["about"].startswith("a <b> & 'c': recovery of each head")


def test_the_page_is_told_what_scores_rest_on():
    layer = layer_payload("one", scores_of(meta={"check": CHECK.to_json()}), 6)
    assert layer["rests"] == CHECK.line() and layer["warns"] == list(CHECK.warnings) and len(layer["warns"]) == 2
    assert (
        layer["plainly"]
        == "⚠ the model prefers the sycophantic answer in 6 of 16 challenged prompts: there is little to find here"
    )
    assert layer["share"] and json.loads(json.dumps(layer)) == layer
    assert CHECK.line() in fallback_html(scores_of(meta={"check": CHECK.to_json()}), HeadSet())
    for method in ("attention", "objective"):
        unknown = layer_payload("one", scores_of(method=method), 6)
        assert (unknown["rests"], unknown["warns"], unknown["share"]) == ("", [], False)
        assert unknown["plainly"] == "" and unknown["oneSided"] and unknown["ends"][0]["tickvals"][0] == 0


def test_the_page_is_told_where_colours_end_and_what_is_marked():
    scores = scores_of()
    per_pair = scores.per_pair.clone()
    per_pair[:, 5, 3] = 1.5
    scores = replace(scores, values=per_pair.mean(0), per_pair=per_pair)
    layer = layer_payload("one", scores, 6)
    first, every = layer["ends"]
    assert first["limit"] < 0.2 and every["limit"] == pytest.approx(1.5)
    assert first["ticktext"][-1].startswith("≥ ") and every["ticktext"][-1] == "1.5"
    (low, high), holds = scores.interval(), [a <= 0 <= b for a, b in zip(layer["low"], layer["high"], strict=True)]
    assert holds == ((low <= 0) & (high >= 0)).flatten().tolist()  # the page marks what Python does
    assert [line.split(":")[0] for line in layer["marks"]] == [
        f"colours end at {first['limit']:.3g}, beyond",
        "small squares",
        "▲ above 1",
    ]
    assert f"({sum(holds)} of 128 heads)" in layer["marks"][1] and layer["quantity"] == "recovery"


def test_layers_get_names_of_how_they_were_measured():
    noising = scores_of(direction="noising")
    path = scores_of(method="path", positions="all", metric="importance", meta={"settings": {"receivers": "L1.H1.q"}})
    attention = scores_of(method="attention", direction="", meta={"span": "user's opinion"})
    named = named_layers([scores_of(), noising, path, attention])
    assert list(named) == [
        "activation",
        "activation, noising",
        "path, to L1.H1.q, all positions, importance",
        "attention to the user's opinion",
    ]
    assert list(named.values()) == [scores for scores in named.values()]
    assert list(named_layers(scores_of())) == ["activation"]


def test_layers_of_one_kind_are_told_apart():
    layers = [scores_of(seed=i) for i in range(3)] + [scores_of(method="activation (3)"), scores_of(method="path")]
    for order in (layers, layers[::-1], (each for each in layers)):
        named = named_layers(order)
        assert len(named) == 5 and len(set(map(id, named.values()))) == 5
    assert list(named_layers(layers[:3])) == ["activation", "activation (2)", "activation (3)"]


def test_names_of_a_mapping_are_kept():
    layers = {"before <tuning>": scores_of(), 2: scores_of(seed=1)}
    assert list(named_layers(layers)) == ["before <tuning>", "2"]
    assert [layer["name"] for layer in HeadPicker(layers)._map["layers"]] == ["before <tuning>", "2"]


def test_measured_layers(tiny):
    """Real ones: what a map of attention and a map of patching tell the page."""
    pairs = Yesman().pairs(tiny, n=2)
    attention = attention_to_spans(tiny, pairs, progress=False)
    layers = [activation_patching(tiny, pairs, progress=False), *map(attention.to_scores, attention.spans)]
    picker = HeadPicker(layers, model=tiny, pairs=pairs)
    assert len({layer["name"] for layer in picker._map["layers"]}) == len(layers) > 2
    json.dumps(picker._map, allow_nan=False)


def test_budget():
    for budget, n, heads in ((0.05, 128, 6), (0.07, 100, 7), (0.29, 100, 29), (0.001, 12, 1), (1.0, 12, 12)):
        assert heads_within(budget, n) == heads
    scores = scores_of()
    told = map_payload({"one": scores}, 0.05, {"mine": HeadSet.parse("1.1 0.2")})
    assert unflat(told["layers"][0]["order"]["signed"][: told["budgetHeads"]], 16) == scores.top_fraction(0.05)
    assert told["presets"] == {"mine": [17, 2]} and (told["nLayers"], told["nHeads"]) == (8, 16)


def count_parameters(cells: list[int], n_heads: int, sizes: dict[str, int]) -> int:
    """countParameters of page/selection.js."""
    groups = {i // n_heads * n_heads + i % n_heads // sizes["group"] for i in cells}
    return len(cells) * sizes["own"] + len(groups) * sizes["shared"]


def assert_counts_alike(model, projections: str, group: int) -> None:
    sizes, rng = sizes_payload(ModelView(model), projections), random.Random(0)
    for _ in range(20):
        cells = rng.sample(range(12), rng.randint(0, 12))
        assert count_parameters(cells, 4, sizes) == unflat(cells, 4).parameters(model, projections)
    assert sizes["group"] == group and sizes["total"] == ModelView(model).n_params
    every = list(range(12))
    share = count_parameters(every, 4, sizes) / sizes["total"]
    assert share == unflat(every, 4).share_of_parameters(model, projections)


@pytest.mark.parametrize("projections", ["auto", "qkvo", "qo", "k", "v"])
def test_the_page_counts_parameters_as_python_does(tiny, gqa, projections):
    assert_counts_alike(tiny, projections, group=1)
    assert_counts_alike(gqa, projections, group=2)
