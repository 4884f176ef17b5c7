"""Folders with a PEFT adapter: merged when they are loaded, or refused with the way out."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, PromptTuningConfig, get_peft_model
from transformers import AutoModelForCausalLM

import spt_lens as spt
from spt_lens.heads import HeadSet
from spt_lens.model.view import ModelView
from spt_lens.yesman import Yesman
from tools.tiny import tiny_checkpoint

HEADS = HeadSet.parse("L0.H1")


def adapted(base: Path, folder: Path, **options) -> PeftModel:
    """A random adapter of a checkpoint, saved to the folder."""
    plain = AutoModelForCausalLM.from_pretrained(base)
    config = LoraConfig(r=4, target_modules=["q_proj", "o_proj"], init_lora_weights=False, **options)
    torch.manual_seed(0)
    tuned = get_peft_model(plain, config).eval()
    tuned.save_pretrained(folder)
    return tuned


@pytest.fixture(params=["alone", "beside its base"])
def folder(request, gqa_folder, tmp_path) -> tuple[Path, PeftModel]:
    here = tmp_path / "adapter"
    if request.param != "alone":
        shutil.copytree(gqa_folder, here)
    return here, adapted(gqa_folder, here)


def test_an_adapter_is_merged_and_exported_as_one_model(folder, load, tokens, tmp_path, gqa_folder):
    here, expected = folder
    with pytest.warns(
        UserWarning, match=r"holds a PEFT adapter: it is merged into the weights .*which are meas"
    ) as said:
        model = load(here)
    assert [each.filename for each in said if "PEFT" in str(each.message)] == [__file__]
    view = ModelView(model)
    assert view.name == "adapter" and view.n_params == sum(p.numel() for p in view.hf_copy().parameters())
    with torch.no_grad():
        logits = expected(input_ids=tokens).logits
        torch.testing.assert_close(view.logits(tokens), logits, atol=1e-5, rtol=1e-5)
        assert (AutoModelForCausalLM.from_pretrained(gqa_folder)(tokens).logits - logits).abs().max() > 0.1
    dialogues = Yesman().cases("train", n=4)
    run = spt.pinpoint_tune(model, HEADS, dialogues, spt.TuneConfig(lr=1e-2, steps=1, batch_size=2), progress=False)
    if "HookedTransformer" not in type(model).__name__:
        assert not [name for name in view.weights() if "lora" in name]
    exported = spt.export_hf(model, tmp_path / "out", progress=False)
    names = {file.name for file in exported.folder.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= names
    assert not [name for name in names if name.startswith("adapter")]
    again = load(exported.folder)
    torch.testing.assert_close(ModelView(again).logits(tokens), view.logits(tokens), atol=1e-5, rtol=1e-5)
    with pytest.raises(NotImplementedError, match="holds a PEFT adapter.*load it, apply the adapter to it, and export"):
        spt.export_hf(run.adapter, tmp_path / "copy", base=here)
    assert not (tmp_path / "copy").exists()


def test_the_adapters_own_head_unties_the_model(tiny_folder, tmp_path, tokens):
    here = tmp_path / "adapter"
    base = tmp_path / "base"
    plain = AutoModelForCausalLM.from_pretrained(tiny_folder)
    plain.config.tie_word_embeddings = True
    plain.tie_weights()
    plain.save_pretrained(base)
    for file in tiny_folder.glob("tokenizer*"):
        shutil.copy(file, base)
    expected = adapted(base, here, modules_to_save=["lm_head"])
    with torch.no_grad():
        expected.base_model.model.lm_head.modules_to_save["default"].weight.add_(0.1)
        expected.save_pretrained(here)
        with pytest.warns(UserWarning, match="is merged into"):
            model = spt.load_model(here, device="cpu")
        torch.testing.assert_close(ModelView(model).logits(tokens), expected(tokens).logits, atol=1e-5, rtol=1e-5)
    exported = spt.export_hf(model, tmp_path / "out", progress=False)
    assert exported.parity.holds


def changed(folder: Path, **values: object) -> None:
    file = folder / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text(encoding="utf-8")), **values}), encoding="utf-8")


def test_what_can_not_be_merged_is_refused_with_the_way_out(gqa_folder, tmp_path, monkeypatch):
    here = tmp_path / "adapter"
    adapted(gqa_folder, here)
    load = spt.load_model
    changed(here, base_model_name_or_path=str(tmp_path / "none"))
    with pytest.raises(
        FileNotFoundError, match=r"none does not exist.*: write its folder or hub name there as base_mo"
    ):
        load(here)
    changed(here, base_model_name_or_path=None)
    with pytest.raises(ValueError, match="does not name the model that it was made for: write its folder"):
        load(here)
    shorter = tmp_path / "shorter"
    shutil.copytree(gqa_folder, shorter)
    AutoModelForCausalLM.from_pretrained(gqa_folder, num_hidden_layers=2).save_pretrained(shorter)
    other = tiny_checkpoint("gpt2", tmp_path / "gpt2")
    for base, why in ((other, "[Tt]arget modules"), (shorter, r"4 of its weights have no place there.*layers\.2")):
        changed(here, base_model_name_or_path=str(base))
        with pytest.raises(ValueError, match=rf"can't be merged into .*({why}).*: see that it was made for that model"):
            load(here)
    changed(here, megatron_config={"name": 1}, megatron_core="peft.planted")  # a module that loading would import
    with pytest.raises(ValueError, match="is of Megatron's layers: save the adapter without megatron_config"):
        load(here)
    changed(here, base_model_name_or_path=str(here), megatron_config=None)
    with pytest.raises(ValueError, match="is an adapter too: merge that one first"):
        load(here)
    changed(here, base_model_name_or_path=str(gqa_folder))
    (here / "adapter_model.safetensors").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="adapter_model.safetensors is truncated or damaged"):
        load(here)
    (here / "adapter_model.safetensors").unlink()
    with pytest.raises(
        FileNotFoundError, match="has adapter_config.json but no adapter_model.safetensors.*merged alre"
    ):
        load(here)
    plain = AutoModelForCausalLM.from_pretrained(gqa_folder)
    get_peft_model(plain, PromptTuningConfig(num_virtual_tokens=2, task_type="CAUSAL_LM")).save_pretrained(here)
    with pytest.raises(ValueError, match="is of the kind PROMPT_TUNING, and only LoRA is merged"):
        load(here)
    (here / "adapter_config.json").write_text("[]", encoding="utf-8")
    with pytest.raises(ValueError, match="adapter_config.json is damaged"):
        load(here)
    monkeypatch.setattr("spt_lens.model.adapter_folders.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install 'spt-lens\[lora\]'"):
        load(here)
