"""Prompts of many lengths in one batch: the scores are those of prompts that are not padded."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path

import by_hand
import pandas as pd
import pytest
import torch
from by_hand import made
from transformers import GPT2Config, GPT2LMHeadModel

from spt_lens.chat import batches as padding_module
from spt_lens.chat.batches import PromptBatch
from spt_lens.heads import HeadSet
from spt_lens.measure.sets import set_patching
from spt_lens.model.view import ModelView
from spt_lens.patching.activation import activation_patching

EQUAL = [(9, 9), (4, 4), (17, 17), (5, 5), (9, 9), (12, 12)]  # the two lengths of each pair
UNEQUAL = [(9, 6), (4, 11), (17, 3), (5, 5), (9, 1), (12, 14)]
# The engine that pads. What the sweep gives is compared with it elsewhere.
measured = partial(by_hand.measured, engine="stacked")
together = partial(set_patching, n_random=0, progress=False)
HEADS = HeadSet.parse("L0.H1 L0.H3 L1.H0 L1.H2")


@pytest.fixture(scope="module")
def gpt2_folder(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Learned positions: a token's place matters by itself."""
    folder = tmp_path_factory.mktemp("gpt2")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=2, n_head=4, vocab_size=800, n_positions=32))
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(5)  # larger than the usual start, so that heads and places matter
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tiny_folder / name, folder / name)
    return folder


@pytest.mark.parametrize("architecture", ["tiny_folder", "gpt2_folder"])
@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-5), (torch.float64, 1e-10)])
@pytest.mark.parametrize("direction", ["denoising", "noising"])
def test_prompts_of_many_lengths_together(architecture, dtype, tolerance, direction, load, request, exact_softmax):
    model = load(request.getfixturevalue(architecture), dtype=dtype)
    for positions, lengths in (("last", UNEQUAL), ("all", EQUAL)):
        pairs = made(model, lengths)
        how = {"direction": direction, "positions": positions}
        alone = measured(model, pairs, batch_size=1, **how).per_pair
        together_alone = together(model, pairs, HEADS, batch_size=1, **how)
        assert alone.dtype == dtype
        assert alone.abs().amax(dim=(1, 2)).min() > 1e-2  # the test would be empty if nothing moved
        for size in (4, 64):
            scores = measured(model, pairs, batch_size=size, **how)
            torch.testing.assert_close(scores.per_pair, alone, atol=tolerance, rtol=0)
        effect = together(model, pairs, HEADS, **how)
        pd.testing.assert_frame_equal(effect.per_pair, together_alone.per_pair, atol=tolerance, rtol=0)
        assert effect.table["begins"].equals(together_alone.table["begins"])


@pytest.mark.parametrize("positions", ["last", "all"])
def test_the_padding_token_does_not_matter(tiny, positions, monkeypatch):
    pairs = made(tiny, EQUAL)
    found = []
    for pad in (0, 3, 444, pairs.sycophantic[0][0]):
        monkeypatch.setattr(padding_module, "PAD_ID", pad)
        assert pad in next(pairs.batches(64)).sycophantic.tokens
        scores = measured(tiny, pairs, positions=positions)
        recoveries = torch.tensor(together(tiny, pairs, HEADS).per_pair["recovery"].to_numpy())
        found.append(torch.cat([scores.per_pair.flatten(), recoveries]))
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], atol=1e-6, rtol=0)


def test_the_users_hooks_stay(tiny):
    pairs = made(tiny, UNEQUAL)
    own = []
    tiny.add_hook(ModelView.z_name(1), lambda z, hook: own.append(z.shape))
    activation_patching(tiny, pairs, progress=False)  # of itself it takes plain hooks
    together(tiny, pairs, HEADS)
    points = {id(point): point for point in tiny.hook_dict.values()}.values()
    assert own and sum(len(point.fwd_hooks) for point in points) == 1


@pytest.mark.parametrize("size", [1, 2, 64])
def test_batches_hold_every_pair_once(tiny, size):
    pairs = made(tiny, UNEQUAL)
    order = []
    for batch in pairs.batches(size):
        assert 1 <= len(batch.index) <= size
        order += batch.index
        assert torch.equal(batch.answer_ids, pairs.answer_ids[batch.index])
        for run, rows in ((batch.sycophantic, pairs.sycophantic), (batch.truthful, pairs.truthful)):
            assert run.tokens.shape == run.mask.shape == (len(batch.index), max(len(rows[i]) for i in batch.index))
            for i, tokens, mask, last in zip(batch.index, run.tokens, run.mask, run.last, strict=True):
                assert tuple(tokens[mask].tolist()) == rows[i]
                assert mask.nonzero().flatten().tolist() == list(range(len(rows[i])))
                assert int(last) == len(rows[i]) - 1
    assert order == [1, 3, 4, 0, 5, 2]  # shortest first; equally long sycophantic prompts by the truthful one


def test_a_batch_of_prompts():
    batch = PromptBatch.of([[5, 6, 7], [8]])
    assert batch.tokens.tolist() == [[5, 6, 7], [8, 0, 0]] and batch.last.tolist() == [2, 0]
    assert torch.equal(batch.mask, batch.tokens > 0)


def test_errors(tiny):
    pairs = made(tiny, UNEQUAL)
    for rows, message in (([[1], []], "empty prompt"), ([], "rows is empty")):
        with pytest.raises(ValueError, match=message):
            PromptBatch.of(rows)
    with pytest.raises(ValueError, match="pair 0 have 9 and 6 tokens"):
        measured(tiny, pairs, positions="all")
