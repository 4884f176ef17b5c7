"""A checkpoint's files may name other files. None outside of the folder is opened, but for the base of an adapter."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from spt_lens.export.checkpoint import open_checkpoint
from spt_lens.export.hf import export_hf
from spt_lens.model.folders import INDEX, SINGLE
from spt_lens.model.loading import load_model

_heard: list[list[str]] = []


@contextmanager
def opened() -> Iterator[list[str]]:
    """The paths of all files that are opened in the block."""
    if not _heard:  # a hook stays for good: there is one, which tells the last block
        _heard.append([])
        sys.addaudithook(lambda event, values: _heard[-1].append(str(values[0])) if event == "open" else None)
    _heard.append([])
    try:
        yield _heard[-1]
    finally:
        _heard.append([])


def say(file: Path, **values: Any) -> None:
    known = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    file.write_text(json.dumps(known | values), encoding="utf-8")


@pytest.fixture
def elsewhere(tiny_folder, tmp_path) -> Path:
    """Whole files that nobody named but the checkpoint."""
    there = Path(shutil.copytree(tiny_folder, tmp_path / "elsewhere"))
    shutil.copy(there / "tokenizer.json", there / "tokenizer.4.0.json")
    (there / "template.jinja").write_text("{{ messages }}")
    return there


@pytest.fixture
def folder(tiny_folder, tmp_path) -> Path:
    return Path(shutil.copytree(tiny_folder, tmp_path / "checkpoint"))


NAMES = ("vocab_file", "merges_file", "tokenizer_file", "special_tokens_map_file", "added_tokens_file", "spm_file")
NAMES += ("chat_template_file", "model_file", "name_or_path", "_name_or_path", "base_model_name_or_path")


def test_no_file_that_a_checkpoint_names_is_read(elsewhere, folder, load, tmp_path):
    lies = {"vocab_file": "tokenizer.json", "tokenizer_file": "tokenizer.json", "chat_template_file": "template.jinja"}
    for name in ("config.json", "tokenizer_config.json", "generation_config.json"):
        say(folder / name, **{each: str(elsewhere / lies.get(each, "")) for each in NAMES})
    with opened() as paths:
        model = load(folder)
        export_hf(model, tmp_path / "out", progress=False)
    assert not [path for path in paths if str(elsewhere) in path] and any(str(folder) in path for path in paths)
    again = load(tmp_path / "out")
    assert all(map(torch.equal, again.parameters(), model.parameters()))


def test_weights_by_names_of_a_configs_own_are_refused(elsewhere, folder):
    """transformers would read these, and safetensors opens files where no hook of Python's sees it."""
    with torch.no_grad():
        model = load_model(folder, device="cpu")
    names = [name for name, _ in model.original_model.named_parameters()]
    index = {"weight_map": dict.fromkeys(names, "../elsewhere/model.safetensors")}
    (folder / "x.safetensors.index.json").write_text(json.dumps(index))
    for named in ("x.safetensors.index.json", "model.safetensors"):
        say(folder / "config.json", transformers_weights=named)
        for read in (load_model, open_checkpoint):
            with pytest.raises(ValueError, match=r"config.json names files of weights of its own .*: take that out"):
                read(folder)


def test_attention_that_a_config_asks_for_is_not_fetched(folder, monkeypatch):
    """By a name like this transformers loads code from the hub."""
    monkeypatch.setattr("transformers.modeling_utils.PreTrainedModel._check_and_adjust_attn_implementation", eager_only)
    say(folder / "config.json", _attn_implementation="kernels-community/flash-attn")
    assert load_model(folder, device="cpu").original_model.config._attn_implementation == "eager"


def eager_only(model: Any, attn_implementation: str | None, *more: Any, **named: Any) -> str:
    assert attn_implementation in (None, "eager", "sdpa")
    return attn_implementation or "eager"


def test_a_link_out_of_the_folder_is_said_when_it_is_exported(elsewhere, folder, tmp_path):
    (folder / "vocab_notes.txt").symlink_to(elsewhere / "template.jinja")
    model = load_model(folder, device="cpu")
    with pytest.warns(UserWarning, match="notes.txt is a link to .*template.jinja, which the export holds"):
        export_hf(model, tmp_path / "out", progress=False)


@pytest.mark.parametrize("name", ["../elsewhere/model.safetensors", "/model.safetensors", "sub/x.safetensors"])
def test_an_index_that_leads_elsewhere_is_refused(elsewhere, folder, name):
    (folder / SINGLE).unlink()
    (folder / INDEX).write_text(json.dumps({"weight_map": {"lm_head.weight": name}}))
    for read in (load_model, open_checkpoint):
        with (
            opened() as paths,
            pytest.raises(ValueError, match=f"{INDEX} names '{name}', which is not in the same folder"),
        ):
            read(folder)
        assert not [path for path in paths if str(elsewhere) in path]


def test_a_tokenizer_that_leads_elsewhere_is_refused(elsewhere, folder):
    there = "../elsewhere/tokenizer.4.0.json"
    for names in ([there], {there: 1}, there, [[there]]):
        say(folder / "tokenizer_config.json", fast_tokenizer_files=names)
        with opened() as paths, pytest.raises(ValueError, match=r"tokenizer_config.json names .*\.\./elsewhere/tokeni"):
            load_model(folder, device="cpu")
    assert not [path for path in paths if str(elsewhere) in path or "elsewhere" in path]


def test_an_adapter_names_its_base_which_is_said(elsewhere, folder, tmp_path):
    """The one path that is followed: without its base an adapter is nothing."""
    pytest.importorskip("peft")
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    plain = AutoModelForCausalLM.from_pretrained(elsewhere)
    get_peft_model(plain, LoraConfig(r=2, target_modules=["q_proj"])).save_pretrained(tmp_path / "adapter")
    for base in (elsewhere, "no/such/base/there"):
        say(tmp_path / "adapter" / "adapter_config.json", base_model_name_or_path=str(base))
        if base is elsewhere:
            with pytest.warns(UserWarning, match=f"merged into the weights of {elsewhere}"):
                load_model(tmp_path / "adapter", device="cpu")
        else:
            with pytest.raises(FileNotFoundError, match="adapter_config.json names is not there"):
                load_model(tmp_path / "adapter", device="cpu")
