from __future__ import annotations

import pytest
import torch

from spt_lens.chat.batches import Reads
from spt_lens.model.targets import logits_of, model_logits
from spt_lens.model.view import ModelView
from spt_lens.tune.training import KeepTerm, mean_kl


def test_unembedding_only_the_targets_gives_the_same_logits(tiny, tokens):
    view = ModelView(tiny)
    where = torch.rand(tokens.shape, generator=torch.Generator().manual_seed(1)) < 0.3
    module = view.model.unembed
    batch = Reads(tokens, where, torch.full((len(tokens),), tokens.shape[1]))
    hooks = len(module._forward_pre_hooks)
    with torch.no_grad():
        full = view.logits(tokens)
        torch.testing.assert_close(model_logits(view)(batch), full[where], rtol=1e-5, atol=1e-5)
        assert torch.equal(logits_of(view.logits)(batch), full[where])
        assert torch.equal(view.logits(tokens), full)
    assert len(module._forward_pre_hooks) == hooks


def test_the_unembedding_is_whole_again_after_an_error(tiny, tokens):

    def broken(_: torch.Tensor) -> torch.Tensor:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        logits_of(broken, tiny.unembed)(Reads(tokens, tokens > 0, (tokens > 0).sum(1)))
    assert ModelView(tiny).logits(tokens).shape[:2] == tokens.shape


def test_kl_equals_its_definition():
    p = torch.tensor([[0.5, 0.5], [0.9, 0.1]])
    q = torch.tensor([[0.25, 0.75], [0.9, 0.1]])
    by_hand = (p * (p / q).log()).sum(-1).mean()
    torch.testing.assert_close(mean_kl(p.log(), q.log() + 3.0), by_hand)  # logits are free up to a constant


def test_keep_term_is_zero_at_the_start_and_ignores_padding(tiny):
    view = ModelView(tiny)
    texts = [[10, 11, 12, 13, 14, 15, 16], [20, 21, 22], [30, 31, 32, 33]]
    logits = model_logits(view)
    together, apart = KeepTerm(logits, texts, batch_size=3), KeepTerm(logits, texts, batch_size=1)
    parts = KeepTerm(logits, texts, batch_size=3, at_once=2)
    assert [[len(reads.tokens) for reads, _ in term.batch(0)] for term in (together, apart, parts)] == [
        [3],
        [1],
        [2, 1],
    ]

    def found(term: KeepTerm, step: int) -> tuple[float, int]:
        """Mean KL over all positions, and how many these are."""
        each = [(mean_kl(reference, logits(reads)).item(), len(reference)) for reads, reference in term.batch(step)]
        n = sum(size for _, size in each)
        return sum(kl * size for kl, size in each) / n, n

    with torch.no_grad():
        assert found(together, 0)[0] == pytest.approx(0.0, abs=1e-6)
        view.head_weight(1, "o", 0)[0].mul_(1.5)
        each = [found(apart, i) for i in range(3)]
        assert sorted(n for _, n in each) == [3, 4, 7] and all(value > 1e-4 for value, _ in each)
        weighted = sum(n * value for value, n in each) / 14
        assert found(together, 0) == (pytest.approx(weighted, rel=1e-4), 14)
        assert found(parts, 0) == (pytest.approx(weighted, rel=1e-4), 14)
        assert found(apart, 3) == found(apart, 0)


def test_nothing_to_keep_is_refused(tiny):
    with pytest.raises(ValueError, match="no texts"):
        KeepTerm(model_logits(tiny), [], 4)
