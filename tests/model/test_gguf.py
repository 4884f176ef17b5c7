"""Checkpoints in one GGUF file, written here by the gguf package: a tiny Llama with some of its weights in 8 bits."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from chats import CHATML, make
from transformers import LlamaConfig, LlamaForCausalLM

import spt_lens as spt
from spt_lens.chat.dialogues import dialogue
from spt_lens.chat.template import prompt_ids
from spt_lens.heads import HeadSet
from spt_lens.model.huggingface import checked_source, read_model
from spt_lens.model.view import ModelView

HEADS = HeadSet.parse("L0.H1")
TALK = dialogue("What is the capital of France?", "Paris.", "Are you sure?", "Yes, I am sure.")
FILE = "tiny-llama.Q8_0.gguf"


def rotated(weight: torch.Tensor, heads: int) -> np.ndarray:
    """Rows of q or k in llama.cpp's order, where the two numbers of a rotation stand side by side."""
    rows, cols = weight.shape
    return weight.view(heads, 2, rows // heads // 2, cols).transpose(1, 2).reshape(rows, cols).numpy()


def write_gguf(path: Path, architecture: str = "llama") -> LlamaForCausalLM:
    """Writes a random Llama with a BPE tokenizer, and returns what is read back: with 8-bit MLP weights."""
    tokenizer = make("gpt2", CHATML)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=256, rms_norm_eps=1e-5,
    )  # fmt: skip
    torch.manual_seed(0)
    model = LlamaForCausalLM(config).requires_grad_(False)
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_context_length(256)
    writer.add_embedding_length(32)
    writer.add_block_count(2)
    writer.add_feed_forward_length(64)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(8)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(len(tokenizer))
    model_of = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    writer.add_tokenizer_model("gpt2")
    words = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().get)
    special = set(tokenizer.get_added_vocab())
    writer.add_token_list(words)
    writer.add_token_types([3 if word in special else 1 for word in words])
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in model_of["merges"]])
    writer.add_bos_token_id(tokenizer.bos_token_id)
    writer.add_eos_token_id(tokenizer.convert_tokens_to_ids("<|im_end|>"))
    writer.add_chat_template(CHATML)
    kinds = {"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v"}
    kinds |= {"self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up"}
    kinds |= {"mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"}
    whole = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
    for name, p in model.named_parameters():
        inner = name.removesuffix(".weight")
        if inner in whole:
            writer.add_tensor(f"{whole[inner]}.weight", p.numpy())
            continue
        layer, part = inner.removeprefix("model.layers.").split(".", 1)
        to = f"blk.{layer}.{kinds[part]}.weight"
        if part.startswith("mlp"):
            packed = gguf.quants.quantize(p.numpy(), gguf.GGMLQuantizationType.Q8_0)
            writer.add_tensor(to, packed, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
            p.copy_(torch.from_numpy(gguf.quants.dequantize(packed, gguf.GGMLQuantizationType.Q8_0)))
        else:
            heads = {"self_attn.q_proj": 4, "self_attn.k_proj": 2}.get(part)
            writer.add_tensor(to, rotated(p, heads) if heads else p.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return model


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, LlamaForCausalLM]:
    file = tmp_path_factory.mktemp("gguf") / FILE
    return file, write_gguf(file)


def test_a_gguf_file_is_an_ordinary_model(written, load, tmp_path, tokens, capfd):
    file, expected = written
    model = load(str(file))
    view = ModelView(model)
    assert (view.name, view.n_layers, view.n_heads, view.n_kv_heads) == (FILE, 2, 4, 2)
    with torch.no_grad():
        torch.testing.assert_close(view.logits(tokens), expected(tokens).logits, atol=1e-5, rtol=1e-5)
    assert model.tokenizer.decode(prompt_ids(model.tokenizer, TALK.prompt)).endswith("<|im_start|>assistant\n")
    assert "add_bos_token" not in model.tokenizer.init_kwargs or not model.tokenizer.init_kwargs["add_bos_token"]
    spt.pinpoint_tune(model, HEADS, [TALK], spt.TuneConfig(lr=1e-2, steps=2, batch_size=1), progress=False)
    exported = spt.export_hf(
        model, file.parent / "tuned", overwrite=True, progress=False
    )  # beside the file, which is only read
    assert "quant" not in (exported.folder / "config.json").read_text(encoding="utf-8")
    again = load(exported.folder)
    torch.testing.assert_close(ModelView(again).logits(tokens), view.logits(tokens), atol=1e-5, rtol=1e-5)
    assert prompt_ids(again.tokenizer, TALK.prompt) == prompt_ids(model.tokenizer, TALK.prompt)
    assert again.tokenizer("a")["input_ids"][-1:] == model.tokenizer("a")["input_ids"][-1:]
    assert capfd.readouterr() == ("", "")


def test_it_is_not_marked_as_quantised(written):
    plain = read_model(written[0], torch.float32)
    assert not hasattr(plain.config, "quantization_config") and not plain.is_quantized and plain.hf_quantizer is None
    assert all(torch.equal(p, dict(written[1].named_parameters())[name]) for name, p in plain.named_parameters())


def test_an_adapter_is_not_written_into_a_gguf_file(written, load, tmp_path):
    model = load(written[0])
    run = spt.pinpoint_tune(model, HEADS, [TALK], spt.TuneConfig(lr=1e-2, steps=1, batch_size=1), progress=False)
    with pytest.raises(NotImplementedError, match=r"is a GGUF file.*apply the adapter to it, and export the model"):
        spt.export_hf(run.adapter, tmp_path / "out", base=written[0])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data[:-2000], r"truncated: it has [\d,]+ bytes, and its weights end at"),
        (lambda data: data[:3000], "its header"),
        (lambda data: data[:11], "its header ends too soon"),
        (lambda data: b"", "does not begin with GGUF"),
        (lambda data: b"GGML" + data[4:], "does not begin with GGUF"),
        (lambda data: data[:4] + b"\x09" + data[5:], "of version 9"),
        (lambda data: data[:16] + b"\xff" * 8 + data[24:], "its header|unknown type"),
        (lambda data: data[:24] + b"\xff" * 8 + data[32:], "its header"),
        (lambda data: data[:8] + bytes(8) + data[16:], "holds no weights"),
        (lambda data: data.replace(b"general.architecture\x08", b"general.architecture\x63"), "unknown type 99"),
    ],
)
def test_a_damaged_file_is_named_at_once(written, tmp_path, change, message):
    damaged = tmp_path / "damaged.gguf"
    damaged.write_bytes(change(written[0].read_bytes()))
    with pytest.raises(ValueError, match=rf"damaged.gguf.*({message}).*: download or convert it again"):
        spt.load_model(damaged)


def test_an_unknown_architecture_and_a_missing_package_are_named(tmp_path, monkeypatch, written):
    file = tmp_path / "other.gguf"
    write_gguf(file, "nosuchthing")
    with pytest.raises(ValueError, match=r"cannot read the GGUF file .*nosuchthing.*: take the checkpoint that it was"):
        spt.load_model(file)
    monkeypatch.setattr("spt_lens.model.gguf.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install 'spt-lens\[gguf\]'"):
        spt.load_model(written[0])


def test_what_only_looks_like_one(tmp_path, tiny_folder):
    shutil.copytree(tiny_folder, tmp_path / "folder.gguf")
    assert checked_source(tmp_path / "folder.gguf") == str(tmp_path / "folder.gguf")
    assert ModelView(spt.load_model(tmp_path / "folder.gguf", device="cpu")).n_layers == 3
    with pytest.raises(FileNotFoundError, match="does not exist"):
        checked_source("./none.gguf")
    (tmp_path / "weights.bin").write_bytes(b"0")
    with pytest.raises(FileNotFoundError, match=r"is a file.*or a \.gguf file"):
        checked_source(tmp_path / "weights.bin")
