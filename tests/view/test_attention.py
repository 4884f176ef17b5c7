"""Attention of chosen heads: the right patterns in the right order, and a page that data cannot break."""

from __future__ import annotations

import json
import re

import pytest
import torch

from spt_lens.chat.dialogues import dialogue
from spt_lens.evaluate import attention as before_after_module
from spt_lens.evaluate.attention import attention_before_after
from spt_lens.heads import HeadSet
from spt_lens.measure.attention_view import attention_view, head_attention
from spt_lens.model.view import Model, ModelView
from spt_lens.tune.adapter import Adapter
from spt_lens.tune.slices import head_slices
from spt_lens.view import attention as attention_module
from spt_lens.view.attention import AttentionView, attention_script, attention_values

ASKED = dialogue("What is the capital of France?", "Paris.", "Are you sure?")


def values(html: str) -> dict:
    """What the page hands to circuitsvis."""
    found = re.search(r"CircuitsVis\.AttentionHeads,\s*(\{.*\})\s*\)\s*</script>", html, flags=re.DOTALL)
    assert found is not None
    return json.loads(found.group(1))


def test_patterns_are_those_of_the_cache_in_the_order_of_the_heads(tiny: Model, tokens: torch.Tensor) -> None:
    heads = HeadSet.parse("L2.H1 L0.H3 L2.H0")
    patterns = head_attention(tiny, heads, tokens[:1])
    _, cache = tiny.run_with_cache(tokens[:1])
    for pattern, head in zip(patterns, heads, strict=True):
        expected = cache[f"blocks.{head.layer}.attn.hook_pattern"][0, head.head]
        torch.testing.assert_close(pattern, expected)
    assert not patterns.triu(1).any()


def test_the_view_names_heads_and_tokens(tiny: Model) -> None:
    drawn = values(attention_view(tiny, HeadSet.parse("L1.H2"), ASKED)._repr_html_())
    assert drawn["attentionHeadNames"] == ["L1.H2"]
    assert drawn["tokens"][:3] == ["<s>", "<user>", "What"]
    assert torch.tensor(drawn["attention"]).sum(-1) == pytest.approx(torch.ones(1, len(drawn["tokens"])), abs=0.01)


def test_a_token_cannot_end_the_script_and_nothing_comes_from_the_network() -> None:
    html = AttentionView.of(torch.ones(1, 2, 2).tril(), ["</script><b>", "CircuitsVis.AttentionHeads,"], ["a"]).html
    assert html.count("</script>") == 1
    assert values(html)["tokens"] == ["</script><b>", "CircuitsVis.AttentionHeads,"]
    assert "unpkg.com" not in html and not re.search(r"<script[^>]*src=", html)


def test_the_script_stands_apart_from_the_values() -> None:
    script = attention_script()
    assert 1e6 < len(script) < 2e6 and script.startswith('"use strict";var CircuitsVis=')
    assert "</script" not in script and "sourceMappingURL" not in script
    pattern, tokens = torch.tensor([[[1.0, 0], [1 / 3, 2 / 3]]]), ["a", "</script>"]
    handed = attention_values(pattern.to(torch.bfloat16), tokens, ["L0.H1"])
    assert json.loads(json.dumps(handed)) == handed
    assert handed["attention"][0] == [[1.0, 0.0], [0.334, 0.668]]
    assert attention_values(pattern, tokens, ["L0.H1"])["attention"] == [[[1.0, 0.0], [0.3333, 0.6667]]]
    page, again = (AttentionView.of(pattern.to(torch.bfloat16), tokens, ["L0.H1"]).html for _ in range(2))
    assert script in page and values(page) == handed
    places = [re.search(r'<div id="([^"]*)"[^>]*></div>', page) for page in (page, again)]
    assert places[0] and places[1] and places[0][1] != places[1][1] and f'render("{places[0][1]}", ' in page


def test_the_values_are_what_circuitsvis_itself_would_draw() -> None:
    from circuitsvis.attention import attention_heads

    pattern, tokens, names = (
        torch.rand(2, 3, 3, dtype=torch.float64).tril().round(decimals=4),
        ["a", "b", "c"],
        ["x", "y"],
    )
    own = attention_heads(
        pattern, tokens, attention_head_names=names, min_value=0.0, max_value=1.0, mask_upper_tri=True
    )
    assert values(own.local_src) == attention_values(pattern, tokens, names)


def test_another_circuitsvis_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    monkeypatch.setattr(attention_module, "files", lambda package: tmp_path)
    with pytest.raises(RuntimeError, match="circuitsvis 1.43"):
        attention_script()
    script = tmp_path / "dist" / "cdn" / "iife.js"
    script.parent.mkdir(parents=True)
    script.write_text("export {}")
    with pytest.raises(RuntimeError, match="circuitsvis 1.43"):
        AttentionView.of(torch.ones(1, 1, 1), ["a"], ["x"])


@pytest.fixture
def adapter(tiny: Model) -> Adapter:
    """One that changes two heads of `tiny`, which stays untuned."""
    heads = HeadSet.parse("L0.H1 L1.H2")
    before = {piece.name: piece.read() for piece in head_slices(tiny, heads)}
    after = {name: -2 * value for name, value in before.items()}
    return Adapter(before, after, heads, "qkvo", ModelView(tiny).fingerprint())


@pytest.mark.parametrize("tuned", [False, True])
def test_before_and_after_stand_side_by_side(tiny: Model, adapter: Adapter, tuned: bool) -> None:
    heads = HeadSet.parse("L2.H0 L1.H2")  # the one reads what was changed, the other was changed
    expected = {"before": values(attention_view(tiny, heads, ASKED).html)}
    adapter.apply(tiny)
    expected["after"] = values(attention_view(tiny, heads, ASKED).html)
    if not tuned:
        adapter.revert(tiny)
    weights = {name: weight.clone() for name, weight in ModelView(tiny).weights().items()}
    drawn = values(attention_before_after(tiny, adapter, heads, ASKED)._repr_html_())
    assert drawn["attentionHeadNames"] == ["L2.H0 before", "L2.H0 after", "L1.H2 before", "L1.H2 after"]
    for i, (head, when) in enumerate((head, when) for head in (0, 1) for when in ("before", "after")):
        assert drawn["attention"][i] == expected[when]["attention"][head]
    assert drawn["attention"][0] != drawn["attention"][1] and drawn["attention"][2] != drawn["attention"][3]
    assert drawn["tokens"] == expected["before"]["tokens"]
    assert all(torch.equal(weight, weights[name]) for name, weight in ModelView(tiny).weights().items())


def test_before_and_after_leave_the_model_as_it_was_on_an_error(
    tiny: Model, adapter: Adapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    heads = HeadSet.parse("L1.H2")
    weights = {name: weight.clone() for name, weight in ModelView(tiny).weights().items()}

    def same() -> bool:
        return all(torch.equal(weight, weights[name]) for name, weight in ModelView(tiny).weights().items())

    with pytest.raises(ValueError, match="L9.H0"):
        attention_before_after(tiny, adapter, HeadSet.parse("L9.H0"), ASKED)
    seen = []

    def interrupted(view, heads, tokens):
        seen.append(same())
        if len(seen) == 2:
            raise KeyboardInterrupt
        return torch.ones(1, 1, 1)

    monkeypatch.setattr(before_after_module, "head_attention", interrupted)
    with pytest.raises(KeyboardInterrupt):
        attention_before_after(tiny, adapter, heads, ASKED)
    assert seen == [True, False] and same()
    for piece in head_slices(tiny, adapter.heads):
        piece.write(piece.read() + 1)
    with pytest.raises(ValueError, match="neither those before nor those after"):
        attention_before_after(tiny, adapter, heads, ASKED)


def test_what_does_not_fit_is_refused(tiny: Model, tokens: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="over 3 tokens"):
        attention_values(torch.ones(1, 2, 2), ["a", "b", "c"], ["x"])
    with pytest.raises(ValueError, match="2 names"):
        attention_values(torch.ones(1, 2, 2), ["a", "b"], ["L0.H0", "L0.H1"])
    with pytest.raises(ValueError, match="not finite"):
        attention_values(torch.full((1, 2, 2), torch.nan), ["a", "b"], ["x"])
    with pytest.raises(ValueError, match="one prompt"):
        head_attention(tiny, HeadSet.parse("L0.H0"), tokens)
    with pytest.raises(ValueError, match="L9.H0"):
        head_attention(tiny, HeadSet.parse("L9.H0"), tokens[:1])
