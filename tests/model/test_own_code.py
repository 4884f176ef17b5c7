"""A checkpoint's own code runs when the user says so, and never else: not where a question could be answered either."""

from __future__ import annotations

import io
import json
import shutil
import sys
from pathlib import Path

import pytest

from spt_lens.export.hf import export_hf
from spt_lens.heads import HeadSet
from spt_lens.model.view import ModelView
from spt_lens.support.checks import check_checkpoint
from spt_lens.tune.adapter import Adapter
from spt_lens.tune.slices import head_slices


@pytest.fixture(params=["config.json", "tokenizer_config.json"])
def hostile(request, tiny_folder, tmp_path, monkeypatch) -> Path:
    """A folder whose code would leave a file, in a session that answers yes to every question."""
    folder = Path(shutil.copytree(tiny_folder, tmp_path / "hostile"))
    (folder / "code.py").write_text(
        f"open({str(tmp_path / 'ran')!r}, 'w')\n"
        "from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast\n"
        "class Config(LlamaConfig):\n    model_type = 'hostile'\n"
        "class Model(LlamaForCausalLM):\n    config_class = Config\n"
        "class Tokenizer(PreTrainedTokenizerFast):\n    pass\n"
    )
    name = request.param
    known = json.loads((folder / name).read_text())
    if name == "config.json":
        known |= {
            "model_type": "hostile",
            "auto_map": {"AutoConfig": "code.Config", "AutoModelForCausalLM": "code.Model"},
        }
    else:
        known |= {"tokenizer_class": "Tokenizer", "auto_map": {"AutoTokenizer": ["code.Tokenizer", "code.Tokenizer"]}}
    (folder / name).write_text(json.dumps(known))
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n" * 100))
    yield folder
    assert not (tmp_path / "ran").exists()


def test_loading(hostile, load):
    try:
        load(hostile)
    except ValueError as error:
        assert "hostile" in str(error)


def test_exporting_an_adapter(hostile, tiny, tmp_path):
    heads = HeadSet.of((0, 0))
    before = {piece.name: piece.read() for piece in head_slices(tiny, heads)}
    adapter = Adapter(
        before, {name: value + 1 for name, value in before.items()}, heads, "qkvo", ModelView(tiny).fingerprint()
    )
    try:
        export_hf(adapter, tmp_path / "out", base=hostile, progress=False)
    except ValueError as error:
        assert "hostile" in str(error) and not (tmp_path / "out").exists()


def test_the_support_check(hostile):
    assert "hostile" in check_checkpoint(hostile).checkpoint
