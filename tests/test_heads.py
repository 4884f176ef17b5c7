from __future__ import annotations

import pickle
from collections import Counter

import pytest

from spt_lens.heads import Head, HeadSet
from spt_lens.model.layout import Shape
from spt_lens.model.view import ModelView


@pytest.mark.parametrize("text", ["L5.H3", "l5.h3", "5.3", "(5, 3)", "(5,3)", " 5.3 ", (5, 3), [5, 3], Head(5, 3)])
def test_a_head_parses(text):
    head = Head.parse(text)
    assert head == Head(5, 3)
    assert str(head) == "L5.H3"


@pytest.mark.parametrize(
    "text",
    ["", "5", "5.3.1", "L5", "H3.L5", "5, 3", "(5, 3", "-1.2", (5,), (5, 3, 1), (-1, 0), (1.5, 2), 7, None, (None, 1)],
)
def test_what_is_no_head(text):
    with pytest.raises(ValueError, match="not a head"):
        Head.parse(text)


def test_a_set_parses_and_prints():
    heads = HeadSet.parse("L5.H3 6.1, (2, 3);(0,0)")
    assert HeadSet.parse("L18H3 l5h12") == HeadSet.of((18, 3), (5, 12))
    assert str(heads) == "L5.H3 L6.H1 L2.H3 L0.H0"
    assert HeadSet.parse(str(heads)) == heads
    assert eval(repr(heads)) == heads
    assert HeadSet.parse("") == HeadSet()
    assert str(HeadSet()) == ""


@pytest.mark.parametrize("text", ["5.36.1.2", "5 3", "5.3 x", "L5.H3L6.H1", "(5, 3) )"])
def test_a_set_does_not_guess(text):
    with pytest.raises(ValueError, match="not a head"):
        HeadSet.parse(text)


def test_many_ways_to_make_a_set():
    expected = HeadSet((Head(5, 3), Head(6, 1)))
    assert HeadSet.of((5, 3), (6, 1)) == expected
    assert HeadSet.of([(5, 3), (6, 1)]) == expected
    assert HeadSet.of(((5, 3), (6, 1))) == expected
    assert HeadSet.of("5.3", "L6.H1") == expected
    assert HeadSet.of("5.3 6.1") == expected
    assert HeadSet.of(["5.3", (6, 1)]) == expected
    assert HeadSet.of(h for h in expected) == expected
    assert HeadSet.of(expected) == expected
    assert HeadSet.of((5, 3), (6, 1), (5, 3)) == expected  # once each, at the first place
    assert HeadSet.of() == HeadSet() and HeadSet.of([]) == HeadSet()
    for wrong in (5, (5,), [5, 3], None, 1.5, [None], [1.5]):
        with pytest.raises(ValueError, match="not a head"):
            HeadSet.of(wrong)
    for wrong in (None, 5, "L5.H3"):
        with pytest.raises(ValueError, match=r"not a list of heads: use HeadSet\.of or HeadSet\.parse"):
            HeadSet(wrong)
    for wrong in (None, 5, 1.5, ["5.3"]):
        with pytest.raises(TypeError, match="heads must be a str"):
            HeadSet.parse(wrong)


def test_a_set_is_a_sequence_without_change():
    heads = HeadSet.parse("5.3 6.1 2.3")
    assert len(heads) == 3 and bool(heads) and not HeadSet()
    assert heads[0] == Head(5, 3) and heads[-1] == Head(2, 3)
    assert heads[:2] == HeadSet.parse("5.3 6.1")
    assert list(heads) == [(5, 3), (6, 1), (2, 3)]
    assert (6, 1) in heads and "6.1" in heads and (6, 2) not in heads and "no head" not in heads
    with pytest.raises(AttributeError):
        heads.heads = ()
    assert len({heads, HeadSet.parse("5.3 6.1 2.3"), heads[::-1]}) == 2  # order is part of it
    assert pickle.loads(pickle.dumps(heads)) == heads  # worker processes need it


def test_algebra_keeps_order():
    a, b = HeadSet.parse("3.0 1.1 2.2"), HeadSet.parse("2.2 0.0 3.0")
    assert a | b == HeadSet.parse("3.0 1.1 2.2 0.0")
    assert a & b == HeadSet.parse("3.0 2.2")
    assert a - b == HeadSet.parse("1.1")
    assert a ^ b == HeadSet.parse("1.1 0.0")
    assert (a - a) == HeadSet() == a & HeadSet()
    with pytest.raises(TypeError):
        a | {(1, 1)}


def test_by_layer():
    assert HeadSet.parse("2.3 0.1 2.0").by_layer() == {0: [1], 2: [3, 0]}


def test_check_names_what_is_missing(tiny):
    HeadSet.parse("0.0 2.3").check(tiny)
    with pytest.raises(ValueError, match=r"L3\.H0, L0\.H4 not in .*layers 0 to 2 and heads 0 to 3"):
        HeadSet.parse("1.1 3.0 0.4").check(tiny)
    with pytest.raises(ValueError, match="empty"):
        HeadSet().check(tiny)


def test_shares(tiny, gqa):
    heads = HeadSet.parse("0.0 0.1 2.3")
    assert heads.share_of_heads(tiny) == 3 / 12
    one_projection = 8 * 32  # d_head x d_model
    assert heads.parameters(tiny) == 3 * 4 * one_projection
    assert heads.parameters(tiny, "qo") == 3 * 2 * one_projection
    assert heads.parameters(gqa) == 3 * 2 * one_projection
    # Heads 0 and 1 of layer 0 share one group, so there are two groups of keys and of values.
    assert heads.parameters(gqa, "qkvo") == (3 * 2 + 2 * 2) * one_projection
    assert heads.share_of_parameters(tiny) == heads.parameters(tiny) / ModelView(tiny).n_params
    assert HeadSet().parameters(tiny) == 0 == HeadSet().share_of_heads(tiny)
    with pytest.raises(ValueError, match="not in"):
        HeadSet.parse("9.9").share_of_heads(tiny)
    assert heads.summary(tiny).startswith("3 of 12 heads (25.0%), 3,072 of ")


def test_all_heads_own_all_attention_weights(tiny, gqa):
    for model in (tiny, gqa):
        every = HeadSet.of((layer, head) for layer in range(3) for head in range(4))
        names = ("q_proj", "k_proj", "v_proj", "o_proj")
        plain = ModelView(model).hf_copy().named_parameters()
        attention = sum(p.numel() for name, p in plain if name.split(".")[-2] in names)
        assert every.parameters(model, "qkvo") == attention


def test_what_heads_own():
    alone, grouped = Shape(3, 4, 4, 8, 32), Shape(3, 4, 2, 8, 32)
    assert alone.letters() == "qkvo" and grouped.letters() == "qo" and grouped.letters("ovq") == "qvo"
    for wrong in ("", "qq", "all", "QO", None, 3, ["q"]):
        with pytest.raises(ValueError, match="projections"):
            alone.letters(wrong)
    assert [part.name for part in alone.parts([(1, 3)])] == ["L1.H3.q", "L1.H3.k", "L1.H3.v", "L1.H3.o"]
    parts = grouped.parts([(1, 3), (1, 2)], "ko")
    assert [part.name for part in parts] == ["L1.G1.k", "L1.H3.o", "L1.H2.o"]
    assert [list(grouped.owners(part)) for part in parts] == [[2, 3], [3], [2]]


def test_random_heads_match_the_layers(tiny):
    heads = HeadSet.parse("2.3 0.1 2.0")
    drawn = [heads.random_like(tiny, seed) for seed in range(20)]
    for other in drawn:
        assert [head.layer for head in other] == [2, 0, 2]
        assert not other & heads
        other.check(tiny)
    assert len(set(drawn)) > 1
    assert drawn[3] == heads.random_like(tiny, 3)
    for wrong in (None, 1.5, -1):
        with pytest.raises((TypeError, ValueError), match="seed"):
            heads.random_like(tiny, wrong)


def test_random_heads_are_uniform(tiny):
    drawn = Counter(HeadSet.parse("0.1").random_like(tiny, seed)[0].head for seed in range(600))
    # Three heads at a third each: the standard deviation of a count is sqrt(600 * 1/3 * 2/3) = 11.5; five of them.
    assert set(drawn) == {0, 2, 3} and all(abs(count - 200) < 58 for count in drawn.values())


def test_unmatched_random_heads(tiny):
    heads = HeadSet.parse("0.0 0.1 0.2")
    drawn = [heads.random_like(tiny, seed, matched=False) for seed in range(20)]
    assert all(len(other) == 3 and not other & heads for other in drawn)
    assert any(head.layer > 0 for other in drawn for head in other)
    with pytest.raises(ValueError, match="matched=False"):
        heads.random_like(tiny, 0)
    most = HeadSet.of((layer, head) for layer in range(3) for head in range(3))
    with pytest.raises(ValueError, match="only 3 left"):
        most.random_like(tiny, 0, matched=False)


def test_json_and_files(tmp_path):
    heads = HeadSet.parse("5.3 6.1")
    assert heads.to_json() == {"heads": ["L5.H3", "L6.H1"]}
    assert HeadSet.from_json(heads.to_json()) == heads
    assert heads.save(tmp_path / "heads.json") == tmp_path / "heads.json"
    assert HeadSet.load(tmp_path / "heads.json") == heads
    with pytest.raises(FileNotFoundError):
        HeadSet.load(tmp_path / "none.json")
    for text in ("{", "[]", '{"heads": "L5.H3"}', '{"heads": ["x"]}', '{"heads": [7]}'):
        (tmp_path / "bad.json").write_text(text)
        with pytest.raises(ValueError, match="head"):
            HeadSet.load(tmp_path / "bad.json")
    with pytest.raises(OSError, match="nowhere"):
        heads.save(tmp_path / "nowhere" / "heads.json")


def test_html():
    assert "layer 5" in HeadSet.parse("5.3")._repr_html_()
    assert "no heads" in HeadSet()._repr_html_()


@pytest.mark.parametrize("about", ["text", 3, None, {"a": {1}}, {"a": float("nan")}])
def test_about_is_what_json_holds(about):
    with pytest.raises(ValueError, match="about must be a dict that JSON can hold"):
        HeadSet(((5, 3),), about)


def test_about_is_kept_in_files_and_is_the_selections_own(tmp_path):
    about = {"name": "mine", "pairs": [1, 2]}
    heads = HeadSet(((5, 3),), about)
    about["pairs"].append(3)
    assert heads.about == {"name": "mine", "pairs": [1, 2]} and heads == HeadSet(((5, 3),))
    heads.save(tmp_path / "heads.json")
    assert HeadSet.load(tmp_path / "heads.json").about == heads.about
    assert (heads | HeadSet.parse("1.1")).about == heads[:1].about == {}
    (tmp_path / "old.json").write_text('{"heads": ["L5.H3"], "about": null}')
    assert HeadSet.load(tmp_path / "old.json").about == {}
    (tmp_path / "deep.json").write_text("[" * 100_000)
    with pytest.raises(ValueError, match="deep.json holds no saved head selection"):
        HeadSet.load(tmp_path / "deep.json")
