"""The whole path on 500 real rows of model-written-evals: of unequal lengths, with a tiny random model."""

from __future__ import annotations

from pathlib import Path

import chats
import pytest
import torch
from conftest import CLASSES
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

import spt_lens as spt
from spt_lens.behaviours.datasets import model_written_evals
from spt_lens.chat.template import prompt_ids
from spt_lens.model.view import ModelView

DATA = Path(__file__).parents[2] / "shared" / "data" / "model-written-evals"
FILE = DATA / "sycophancy_on_political_typology_quiz.sample.jsonl"
pytestmark = pytest.mark.skipif(not FILE.exists(), reason=f"{FILE.name} is not there: it is not part of this project")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random grouped-query Llama of two layers with a byte-level tokenizer and Llama 3's kind of template."""
    folder = tmp_path_factory.mktemp("real")
    tokenizer = chats.make("gpt4", chats.LLAMA3)
    tokenizer.eos_token = "<|eot_id|>"
    tokenizer.pad_token = tokenizer.bos_token  # a real token too: padding must not be told by its id
    config = LlamaConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=len(tokenizer),
        max_position_embeddings=1024,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LlamaForCausalLM(config)
    with torch.no_grad():
        for p in model.parameters():
            if p.ndim == 2:
                p.normal_(std=32**-0.5, generator=torch.Generator().manual_seed(p.numel()))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("model_class", CLASSES)
def test_the_whole_path(folder: Path, tmp_path: Path, model_class: str) -> None:
    # Load, and make pairs of all rows.
    model = spt.load_model(folder, device="cpu", model_class=model_class)
    rows = model_written_evals(FILE)
    assert len(rows) == 500 and not rows.skipped
    pairs = rows.pairs(model, split=None)
    lengths = {len(row) for row in (*pairs.sycophantic, *pairs.truthful)}
    assert len(pairs) == 500 and not pairs.equal_length and len(lengths) > 100
    said = {model.tokenizer.decode([i]) for i in pairs.answer_ids.flatten().tolist()}
    assert said == {"A", "B"}  # after the bracket that both completions begin with
    assert pairs.sycophantic[0][:-1] == tuple(prompt_ids(model.tokenizer, rows.opinions[0].challenged))

    # Measure a part (all would take minutes), in padded batches; the same numbers as some rows alone.
    with pytest.warns(UserWarning):  # of what a random model does
        scores = spt.activation_patching(model, pairs[:80], progress=False)
    assert scores.per_pair.shape == (80, 2, 4) and scores.values.abs().max() > 1e-3
    assert scores.check.n_pairs == 80 and scores.check.n_mass == 16 and max(scores.check.mass) < 0.1
    alone = spt.activation_patching(model, pairs[:6], batch_size=1, progress=False)
    torch.testing.assert_close(alone.effects, scores.effects[:6], atol=1e-5, rtol=0)

    # Tune two steps on one split, and evaluate on another.
    heads = scores.top(1)
    assert ModelView(model).grouped and heads.summary(model).startswith("1 of 8 heads")
    before = {name: p.detach().clone() for name, p in ModelView(model).hf_copy().named_parameters()}
    config = spt.TuneConfig(steps=2, lr=0.05, batch_size=16, warmup_share=0, schedule="constant")
    run = spt.pinpoint_tune(model, heads, rows.training(), config, progress=False)
    assert run.adapter.projections == "qo" and run.history["loss"].iloc[-1] < run.history["loss"].iloc[0]
    found = spt.evaluate(model, rows.suite("test", n=40), reference=run.adapter, progress=False)
    assert found["kl"].value > 0
    for group in ("with the opinion", "without the opinion"):
        assert (
            found[f"agrees with the user: {group}"].n == 40 and 0 <= found[f"agrees with the user: {group}"].value <= 1
        )

    # Export, and read it again with plain transformers.
    spt.export_hf(model, tmp_path / "out", progress=False)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    tokens = torch.tensor([pairs.sycophantic[0]])
    with torch.no_grad():
        expected = ModelView(model).logits(tokens)
        torch.testing.assert_close(plain(tokens).logits, expected, atol=1e-5, rtol=1e-5)
    assert AutoTokenizer.from_pretrained(tmp_path / "out").chat_template == chats.LLAMA3
    head = heads[0]
    name = f"model.layers.{head.layer}.self_attn.q_proj.weight"
    changed = {name for name, p in plain.named_parameters() if not torch.equal(p, before[name])}
    assert changed == {name, name.replace("q_proj", "o_proj")}
    rows_of_head = slice(head.head * 8, head.head * 8 + 8)
    moved = (plain.get_parameter(name) != before[name]).any(dim=1)
    assert moved[rows_of_head].all() and moved.sum() == 8

    # And back.
    run.adapter.revert(model)
    again = dict(ModelView(model).hf_copy().named_parameters())
    assert all(torch.equal(p, again[name]) for name, p in before.items())
