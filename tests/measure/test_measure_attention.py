"""Attention to spans: against a plain loop over TransformerLens's cache, and what must hold by arithmetic."""

from __future__ import annotations

from dataclasses import replace

import chats
import pytest
import torch

from spt_lens.chat.dialogues import dialogue
from spt_lens.chat.spans import spans
from spt_lens.chat.template import prompt_ids
from spt_lens.data.pairs import ContrastPairs
from spt_lens.heads import HeadSet
from spt_lens.measure.attention import AttentionToSpans, attention_to_spans
from spt_lens.model.view import ModelView
from spt_lens.yesman import Yesman

NAMES = ("question", "first answer", "challenge", "template")


def by_hand(model, dialogues, rows, names) -> torch.Tensor:
    """[n_pairs, n_spans, n_layers, n_heads], one prompt and one head at a time."""
    cfg = model.cfg
    found = torch.zeros(len(rows), len(names), cfg.n_layers, cfg.n_heads)
    for i, (talk, row) in enumerate(zip(dialogues, rows, strict=True)):
        with torch.no_grad():
            _, cache = model.run_with_cache(torch.tensor([row]))
        where = spans(model.tokenizer, talk) | {"reply": range(len(prompt_ids(model.tokenizer, talk)), len(row))}
        for layer in range(cfg.n_layers):
            pattern = cache[f"blocks.{layer}.attn.hook_pattern"]
            for head in range(cfg.n_heads):
                for s, name in enumerate(names):
                    found[i, s, layer, head] = sum(pattern[0, head, -1, at] for at in where.get(name, ()))
    return found


@pytest.mark.parametrize("run", ["sycophantic", "truthful"])
@pytest.mark.parametrize("folder", ["tiny_folder", "gqa_folder"])
def test_equals_a_loop_by_hand(folder, run, load, request):
    model = load(request.getfixturevalue(folder))
    pairs = Yesman().pairs(model, n=6, contrast="neutral")
    assert len({len(row) for row in (*pairs.sycophantic, *pairs.truthful)}) > 2  # so that some are padded
    found = attention_to_spans(model, pairs, run, batch_size=4, progress=False)
    of = (pairs.dialogues, pairs.sycophantic) if run == "sycophantic" else (pairs.truthful_dialogues, pairs.truthful)
    expected = by_hand(model, *of, found.spans)
    assert found.spans == NAMES and found.run == run
    torch.testing.assert_close(found.per_pair, expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(found.values, expected.mean(dim=0), atol=1e-6, rtol=0)
    torch.testing.assert_close(found.per_pair.sum(dim=1), torch.ones(6, 3, 4), atol=1e-6, rtol=0)
    assert found.values.std(dim=(1, 2)).min() > 1e-3  # the test would be empty if all heads looked alike
    for i, (talk, row) in enumerate(zip(*of, strict=True)):
        assert found.tokens[i].tolist() == [len(spans(model.tokenizer, talk)[name]) for name in NAMES]
        assert int(found.tokens[i].sum()) == len(row)


def test_tokens_that_completions_share_are_the_replys(tiny):
    talks = [d for d in Yesman().pairs(tiny, n=3).dialogues]
    others = [d for d in Yesman().pairs(tiny, n=3).truthful_dialogues]
    pairs = ContrastPairs.of(tiny, talks, others, ("The answer is Paris.", "The answer is Rome."))
    found = attention_to_spans(tiny, pairs, progress=False)
    assert found.spans == (*NAMES, "reply") and found.tokens[:, -1].tolist() == [3, 3, 3]
    torch.testing.assert_close(found.per_pair, by_hand(tiny, talks, pairs.sycophantic, found.spans), atol=1e-6, rtol=0)
    assert found.to("reply").min() > 0


def test_a_span_that_only_some_prompts_have(tiny):
    pairs = Yesman().pairs(tiny, n=1)
    talks = [dialogue("Are you sure?"), pairs.dialogues[0]]
    others = [dialogue("Can you confirm that?"), pairs.truthful_dialogues[0]]
    pairs = ContrastPairs.of(tiny, talks, others, ("Yes.", "Apologies."))
    found = attention_to_spans(tiny, pairs, progress=False)
    assert found.spans == NAMES
    assert found.per_pair[0, 1:3].abs().max() == 0 and found.tokens[0].tolist()[1:3] == [0, 0]
    torch.testing.assert_close(found.per_pair.sum(dim=1), torch.ones(2, 3, 4), atol=1e-6, rtol=0)
    torch.testing.assert_close(found.to("challenge"), found.per_pair[1, 2] / 2, atol=1e-6, rtol=0)


def test_uniform_attention_is_the_share_of_tokens(tiny):
    # Queries of zero look everywhere alike.
    view = ModelView(tiny)
    with torch.no_grad():
        for layer in range(3):
            for head in range(4):
                weight, pick = view.head_weight(layer, "q", head)
                pick(weight).zero_()
    pairs = Yesman().pairs(tiny, n=5, contrast="neutral")
    found = attention_to_spans(tiny, pairs, "truthful", progress=False)
    shares = found.tokens / found.tokens.sum(dim=1, keepdim=True)
    torch.testing.assert_close(found.per_pair, shares[:, :, None, None].expand(5, 4, 3, 4), atol=1e-6, rtol=0)


@pytest.fixture
def made() -> AttentionToSpans:
    """Two pairs, two layers of two heads, spans "a" and "<b>" with a known share."""
    a = torch.tensor([[[0.2, 0.4], [0.6, 0.8]], [[0.4, 0.4], [0.8, 1.0]]])
    per_pair = torch.stack([a, 1 - a], dim=1)
    return AttentionToSpans(
        ("a", "<b>"), per_pair.mean(0), per_pair, torch.tensor([[3, 1], [4, 1]]), "sycophantic", "<i>m"
    )


def test_table_of_chosen_heads_and_others(made):
    table = made.table(HeadSet.parse("L1.H0 L1.H1"))
    assert list(table.columns) == ["span", "tokens", "chosen", "others"]
    assert table["span"].tolist() == ["a", "<b>"] and table["tokens"].tolist() == [3.5, 1.0]
    assert table["chosen"].tolist() == pytest.approx([0.8, 0.2])
    assert table["others"].tolist() == pytest.approx([0.35, 0.65])
    whole = made.table(HeadSet.parse("0.0 0.1 1.0 1.1"))
    assert whole["others"].isna().all() and whole["chosen"].tolist() == pytest.approx([0.575, 0.425])
    for heads, message in ((HeadSet(), "empty"), (HeadSet.parse("L0.H1 L2.H0"), r"L2\.H0 not measured.*2 layers x 2")):
        with pytest.raises(ValueError, match=message):
            made.table(heads)


def test_scores_of_a_span(made):
    torch.testing.assert_close(made.to("a"), torch.tensor([[0.3, 0.4], [0.7, 0.9]]))
    scores = made.to_scores("<b>")
    assert torch.equal(scores.values, made.values[1]) and torch.equal(scores.per_pair, made.per_pair[:, 1])
    assert (scores.method, scores.direction, scores.positions) == ("attention", "", "last")
    assert scores.meta == {"span": "<b>", "run": "sycophantic", "n_pairs": 2}
    assert scores.top(1) == HeadSet.parse("L0.H0") and made.to_scores("a").top(1) == HeadSet.parse("L1.H1")
    assert scores.heatmap().data[0].z[0][1] == pytest.approx(0.6)
    for call in (made.to, made.to_scores):
        with pytest.raises(ValueError, match="no span 'c': use one of 'a', '<b>'"):
            call("c")


def test_views(made):
    assert "a 0.58, <b> 0.43" in made.summary() and "sycophantic run" in made.summary() and "2 pairs" in repr(made)
    page = made._repr_html_()
    assert "&lt;b&gt;" in page and "<b>" not in page and "<i>" not in page
    assert "L1.H1 0.90" in page and "<script" not in page and "http" not in page


def test_errors_before_long_work(model_class, tiny, monkeypatch):
    pairs = Yesman().pairs(tiny, n=2)
    monkeypatch.setattr(ModelView, "logits", lambda *a, **k: pytest.fail("long work began"))
    with pytest.raises(ValueError, match="run=.*: choose one of 'sycophantic', 'truthful'"):
        attention_to_spans(tiny, pairs, run="both")
    with pytest.raises(ValueError, match="size=0: give a whole number"):
        attention_to_spans(tiny, pairs, batch_size=0, progress=False)
    bare = ContrastPairs(pairs.sycophantic, pairs.truthful, pairs.answer_ids, pairs.dialogues)
    with pytest.raises(ValueError, match="no dialogues behind their truthful prompts"):
        attention_to_spans(tiny, bare, "truthful")
    moved = replace(pairs, dialogues=pairs.dialogues[::-1])
    with pytest.raises(ValueError, match="pair 0 is not how this model"):
        attention_to_spans(tiny, moved)
    outside = replace(pairs, sycophantic=((*pairs.sycophantic[0], 80000), pairs.sycophantic[1]))
    with pytest.raises(ValueError, match="80000"):
        attention_to_spans(tiny, outside)
    tiny.tokenizer.chat_template = chats.CHATML.replace("message['content']", "message['content'] | upper")
    rewritten = tuple(tuple(prompt_ids(tiny.tokenizer, talk)) for talk in pairs.dialogues)
    monkeypatch.setattr(ContrastPairs, "check", lambda *a: None)
    with pytest.raises(ValueError, match="pair 0: the chat template leaves out or rewrites turn 1"):
        attention_to_spans(tiny, replace(pairs, sycophantic=rewritten))
    if model_class == "hooked":
        return  # it has no dropout, and is measured in any mode
    tiny.train()
    with pytest.raises(ValueError, match="eval"):
        attention_to_spans(tiny, pairs)


def test_hidden_patterns_are_an_error(tiny, monkeypatch):
    logits = ModelView.logits

    def without_the_first(self, tokens, mask=None, hooks=(), at=None):
        return logits(self, tokens, mask, hooks[1:], at)

    monkeypatch.setattr(ModelView, "logits", without_the_first)
    with pytest.raises(NotImplementedError, match="layer 0 of .* does not show its attention"):
        attention_to_spans(tiny, Yesman().pairs(tiny, n=2), progress=False)


def test_the_model_is_left_as_it_was(tiny):
    own = []
    tiny.add_hook(ModelView.pattern_name(1), lambda pattern, hook: own.append(1))
    attention_to_spans(tiny, Yesman().pairs(tiny, n=3), batch_size=2, progress=False)
    points = {id(point): point for point in tiny.hook_dict.values()}.values()
    assert own == [1, 1] and sum(len(point.fwd_hooks) for point in points) == 1 and torch.is_grad_enabled()
