"""The bridge's weights as plain transformers runs them: the same numbers, live, and no hook points."""

from __future__ import annotations

import pytest
import torch

from spt_lens.chat.dialogues import dialogue
from spt_lens.evaluate.change import Reference, gives_reply
from spt_lens.evaluate.evaluate import evaluate
from spt_lens.model.backends import BridgeBackend
from spt_lens.model.loading import load_model
from spt_lens.model.replies import replies
from spt_lens.model.unhooked import Unhooked, unhooked
from spt_lens.model.view import ModelView
from spt_lens.yesman import Yesman
from tools.tiny import tiny_checkpoint

ASKED = [dialogue(text) for text in ("Hello!", "What is 2 plus 3?", "What is the capital of France? Are you sure?")]


@pytest.mark.parametrize("name", ["gemma2", "phi3", "gpt2", "qwen2"])
def test_it_gives_what_the_bridge_gives(name, tmp_path, tokens):
    model = load_model(tiny_checkpoint(name, tmp_path), device="cpu")
    view = ModelView(model)
    quick = unhooked(view)
    assert isinstance(quick.model, Unhooked) and quick.n_params == view.n_params
    tokens = tokens % view.vocab_size
    mask = torch.ones_like(tokens, dtype=torch.bool)
    mask[0, :4] = False  # padded on the left: positions count from the first real token
    with torch.no_grad():
        for given in (None, mask):
            real = mask if given is not None else torch.ones_like(mask)
            torch.testing.assert_close(
                quick.logits(tokens, given)[real], view.logits(tokens, given)[real], atol=1e-4, rtol=1e-4
            )
        at = torch.tensor([3, 4, 9])
        torch.testing.assert_close(quick.logits(tokens, at=at), view.logits(tokens, at=at), atol=1e-4, rtol=1e-4)
    assert quick.mixes([[5, 6], [7, 8, 9, 10]]) == view.mixes([[5, 6], [7, 8, 9, 10]])
    assert replies(quick, ASKED, 6) == replies(view, ASKED, 6)


def test_an_evaluation_is_the_same_and_sees_later_changes(tiny):
    view, suite = ModelView(tiny), Yesman().suite("validation", n=2, n_ability=2, n_texts=4)
    quick = unhooked(view)
    assert isinstance(view.backend, BridgeBackend) == (quick is not view)  # a HookedTransformer's is itself
    reference = Reference.of(view, suite.texts, suite.prompts)
    for _ in range(2):
        one, other = (evaluate(each, suite, reference, progress=False) for each in (view, quick))
        assert one.estimates.keys() == other.estimates.keys()
        for name, value in one.estimates.items():
            assert other[name].value == pytest.approx(value.value, abs=1e-5, nan_ok=True), name
        assert [case.reply for case in one.cases] == [case.reply for case in other.cases]
        with torch.no_grad():
            next(iter(view.weights().values())).mul_(1.5)
    texts = list(suite.texts)
    assert gives_reply(quick, texts) == gives_reply(view, texts)


def test_where_there_is_none_it_is_the_view_itself(tiny, gqa_folder, tmp_path):
    for model in (
        load_model(gqa_folder, device="cpu", dtype=torch.float64),
        load_model(tiny_checkpoint("neox", tmp_path), device="cpu"),  # its q, k and v are copies
    ):
        view = ModelView(model)
        assert unhooked(view) is view
    view = ModelView(tiny)
    tiny.add_hook("blocks.0.hook_resid_post", lambda value, hook: value * 2)
    assert unhooked(view) is view  # the user's hooks count
    tiny.reset_hooks()
    if isinstance(view.backend, BridgeBackend):
        quick = unhooked(view)
        assert unhooked(quick) is quick
        with pytest.raises((KeyError, ValueError), match="hook point"):
            quick.logits(
                torch.ones(1, 3, dtype=torch.long), hooks=[("blocks.0.hook_resid_post", lambda value, hook: value)]
            )
