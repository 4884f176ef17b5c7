"""The plan of docs/scaling.md: formulas on known models, and tables that are what formulas and the kept result say."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import spt_lens as spt
from spt_lens import saving
from spt_lens.model.view import ModelView
from spt_lens.patching.activation import Activation
from spt_lens.patching.attribution import Attribution
from tools import scaling_check, scaling_plan
from tools.made_up import made_up_dialogues, made_up_pairs, spread_heads
from tools.scaling_formulas import LLAMAS, Sizes

SEVEN, THIRTEEN, SEVENTY = LLAMAS


@pytest.fixture(scope="module")
def found():
    return saving.load_json(scaling_check.RESULT, scaling_check.KIND, dict)


def test_tables_are_of_the_formulas_and_the_kept_result(found):
    page = scaling_plan.PAGE.read_text(encoding="utf-8")
    for name, text in scaling_plan.tables(found).items():
        begin, end = scaling_plan.marks(name)
        assert page.split(begin)[1].split(end)[0].strip() == text


def test_every_task_was_measured_at_both_sizes(found):
    rows = [(row["model"], row["task"]) for row in found["rows"]]
    assert rows == [(model, task) for model in scaling_check.MODELS for task in scaling_check.TASKS]
    assert all(row["passes measured"] > 0 and row["memory measured"] > 0 for row in found["rows"])


def test_weights_are_the_published_ones():
    assert [m.weights for m in LLAMAS] == [6_738_415_616, 13_015_864_320, 68_976_648_192]
    assert SEVEN.weights * SEVEN.size / 1e9 == pytest.approx(13.5, abs=0.03)  # bfloat16


@pytest.mark.parametrize("tied", [True, False])
def test_weights_are_those_that_transformers_counts(tied):
    config = LlamaConfig(
        vocab_size=50, hidden_size=24, intermediate_size=40, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, tie_word_embeddings=tied,
    )  # fmt: skip
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    assert Sizes.of_config("small", config, 4).weights == sum(p.numel() for p in model.parameters())


def test_memory_by_hand():
    # Llama-2-7B's keys and values take half a megabyte a token, and its hidden states 8 KB.
    assert SEVEN.keys_and_values(1, 1) == 2 * 32 * 4096 * 2 == 2**19
    assert SEVEN.states(1000 * 128) == 1000 * 128 * 4096 * 2
    assert SEVENTY.keys_and_values(1, 1) == 2 * 80 * 8 * 128 * 2
    # One of its heads owns 4 x 128 x 4096 weights, with query groups half of that.
    assert SEVEN.slices(1) == 4 * 128 * 4096 and SEVENTY.slices(1) == 2 * 128 * 8192
    assert SEVEN.lora(16) == 32 * 4 * 16 * (4096 + 4096)
    # A float32 copy, gradient, two moments, and what is needed to undo: 16 + 2 bytes.
    assert SEVEN.trained_bytes("slices", 1) == SEVEN.slices(1) * 18
    assert SEVEN.trained_bytes("full") == SEVEN.weights * 18


def test_work_by_hand():
    tokens, read = 2048, 384
    unit = SEVEN.forward(tokens, 128, read)
    weights = 32 * (4 * 4096**2 + 3 * 4096 * 11008)
    assert unit == 2 * weights * tokens + 32 * 4 * 128 * 4096 * tokens + 2 * 32000 * 4096 * read
    assert SEVEN.step("full", tokens, 128, read) == 3 * unit
    # Forward and backward through half of the layers; of the last MLP, only what is read.
    half = SEVEN.step("slices", tokens, 128, read, lowest=16, heads=51)
    last = 2 * 2 * 3 * 4096 * 11008 * (tokens - read)
    unembedded, slices = 2 * 2 * 32000 * 4096 * read, 2 * tokens * 51 * 4 * 128 * 4096
    assert half == 2 * SEVEN.blocks(tokens, 128, 16) - last + unembedded + slices
    assert half / unit == pytest.approx(1, abs=0.02)
    assert SEVEN.below(tokens, 128, 16) * 2 == SEVEN.blocks(tokens, 128)


def test_passes_are_those_that_cost_counts(tiny):
    pairs = made_up_pairs(tiny, 3, 20, 8)
    sizes = Sizes.of_config("tiny", ModelView(tiny).hf_copy().config, 4)
    for name, method in (("activation", Activation()), ("attribution", Attribution())):
        for positions, suffix in (("last", 1), ("all", 8)):
            counted = spt.cost(tiny, pairs, name, positions=positions, batch_size=3)
            assert sizes.passes(method, 20, suffix) == pytest.approx(counted.forward_passes)
            assert 3 * sizes.prompt(20) * method.memory / 2**30 == pytest.approx(counted.memory)


def test_made_up_work_is_what_it_says(tiny):
    pairs = made_up_pairs(tiny, 4, 20, 8)
    both = zip(pairs.sycophantic, pairs.truthful, strict=True)
    differs = [[a != b for a, b in zip(one, other, strict=True)] for one, other in both]
    assert all(not any(row[:12]) and not any(row[16:]) and any(row[12:16]) for row in differs)
    scores = spt.activation_patching(tiny, pairs, progress=False)
    assert scores.check is not None and scores.check.mean_gap[0] > 0
    dialogues = made_up_dialogues(tiny.tokenizer, 5, 16, 6)
    lengths = {tuple(len(m.content.split()) for m in each.messages) for each in dialogues}
    assert lengths == {(8, 4, 4, 6)} and len({str(each) for each in dialogues}) == 5
    heads = spread_heads(32, 32, 16)
    assert len(heads) == 51 and min(layer for layer, _ in heads) == 16 and len(heads.heads) == len(set(heads.heads))
