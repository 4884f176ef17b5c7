"""A checkpoint's own code runs when the user says so, and never else: not where a question could be answered either.

Every entrance is tried with folders whose files name code that would leave a file behind, in a session that answers yes
to whatever is asked. And transformers is told no, or yes, each time: where it is told nothing, it asks.
"""

from __future__ import annotations

import io
import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from peft import LoraConfig, get_peft_model
from test_gguf import write_gguf
from transformers import AutoModelForCausalLM, dynamic_module_utils
from typer.testing import CliRunner

from spt_lens import cli
from spt_lens.evaluate.harness import lm_eval
from spt_lens.export.hf import export_hf
from spt_lens.heads import HeadSet
from spt_lens.model.loading import load_model
from spt_lens.model.view import ModelView
from spt_lens.support.checks import check_checkpoint
from spt_lens.tune.adapter import Adapter
from spt_lens.tune.slices import head_slices

CODE = """
open({ran!r}, 'w')
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, ProcessorMixin
class Config(LlamaConfig):
    model_type = 'hostile'
class Model(LlamaForCausalLM):
    config_class = Config
class Tokenizer(PreTrainedTokenizerFast):
    pass
class Processor(ProcessorMixin):
    pass
def generate(model, **options):
    pass
"""
NAMED = {
    "AutoConfig": "code.Config", "AutoModel": "code.Model", "AutoModelForCausalLM": "code.Model",
    "AutoTokenizer": ["code.Tokenizer", "code.Tokenizer"], "AutoProcessor": "code.Processor",
    "AutoImageProcessor": "code.Processor", "AutoFeatureExtractor": "code.Processor",
}  # fmt: skip
PROCESSOR = {"processor_class": "Processor", "image_processor_type": "Processor", "auto_map": NAMED}
TOKENIZER = {"tokenizer_class": "Tokenizer"}
# What each kind of hostile folder says in its files. Those of the last are of classes that transformers has itself.
KINDS: dict[str, dict[str, dict[str, Any]]] = {
    "config": {"config.json": {"model_type": "hostile", "auto_map": NAMED}},
    "tokenizer": {"tokenizer_config.json": {**TOKENIZER, "auto_map": NAMED}},
    "tokenizer, old": {"tokenizer_config.json": {**TOKENIZER, "auto_map": ["code.Tokenizer", "code.Tokenizer"]}},
    "everywhere": {
        "config.json": {"auto_map": NAMED, "custom_pipelines": {"text-generation": {"impl": "code.Model"}}},
        "tokenizer_config.json": {"auto_map": NAMED},
        "generation_config.json": {"auto_map": NAMED, "custom_generate": "code.py", "trust_remote_code": True},
        "processor_config.json": PROCESSOR,
        "preprocessor_config.json": PROCESSOR,
    },
}


def spoil(folder: Path, kind: str) -> Path:
    """Makes a folder hostile. Its code would leave a file "ran" beside it."""
    (folder / "code.py").write_text(CODE.format(ran=str(folder.parent / "ran")))
    (folder / "custom_generate").mkdir()
    shutil.copyfile(folder / "code.py", folder / "custom_generate" / "generate.py")
    for name, said in KINDS[kind].items():
        file = folder / name
        known = json.loads(file.read_text()) if file.exists() else {}
        file.write_text(json.dumps(known | said))
    return folder


@pytest.fixture(autouse=True)
def told(monkeypatch, tmp_path) -> Iterator[list[bool | None]]:
    """What transformers was told about a checkpoint's own code; in a session that would answer yes."""
    known, seen = dynamic_module_utils.resolve_trust_remote_code, []

    def resolve(trust: bool | None, *args: Any, **options: Any) -> bool:
        seen.append(trust)
        return known(trust, *args, **options)

    for name, module in list(sys.modules.items()):
        if name.startswith("transformers.") and vars(module).get("resolve_trust_remote_code") is known:
            monkeypatch.setattr(module, "resolve_trust_remote_code", resolve)
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n" * 100))
    yield seen
    assert None not in seen
    assert sys.stdin.tell() == 0
    assert (tmp_path / "ran").exists() == (True in seen)


@pytest.fixture(params=KINDS)
def hostile(request, tiny_folder, tmp_path) -> Path:
    return spoil(Path(shutil.copytree(tiny_folder, tmp_path / "hostile")), request.param)


def tried(run: Callable[[], Any]) -> Any:
    """What comes of it; None where it is refused by name."""
    try:
        return run()
    except ValueError as error:
        assert "hostile" in str(error)
        return None


def made_for(model: Any) -> Adapter:
    heads = HeadSet.of((0, 0))
    before = {piece.name: piece.read() for piece in head_slices(model, heads)}
    after = {name: value + 1 for name, value in before.items()}
    return Adapter(before, after, heads, "qkvo", ModelView(model).fingerprint())


def lora(base: Path, folder: Path) -> Path:
    """A random PEFT adapter, whose own files are hostile too."""
    plain = AutoModelForCausalLM.from_pretrained(base, trust_remote_code=False)
    tuned = get_peft_model(plain, LoraConfig(r=2, target_modules=["q_proj"]))
    tuned.save_pretrained(folder)
    file = folder / "adapter_config.json"
    custom = {"base_model_class": "Model", "parent_library": "code"}
    file.write_text(json.dumps(json.loads(file.read_text()) | {"auto_mapping": custom, "auto_map": NAMED}))
    (folder / "code.py").write_text(CODE.format(ran=str(folder.parent / "ran")))
    return folder


def test_loading(hostile, load, request):
    model = tried(lambda: load(hostile))
    known = "everywhere" in request.node.name  # of classes that transformers has: these are taken
    assert (model is not None) == known
    if known:
        assert "trust_remote_code" not in model.tokenizer.init_kwargs
        assert type(model.tokenizer).__module__.startswith("transformers.")


def test_loading_on_several_devices(hostile):
    tried(lambda: load_model(hostile, device_map="auto"))


def test_loading_an_adapter_of_a_hostile_base(hostile, tiny_folder, tmp_path):
    folder = lora(tiny_folder, tmp_path / "adapter")
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"base_model_name_or_path": str(hostile)}))
    tried(lambda: load_model(folder, device="cpu"))
    tried(lambda: export_hf(load_model(folder, device="cpu"), tmp_path / "out", progress=False))


def test_loading_an_adapter_beside_hostile_weights(hostile, tiny_folder):
    lora(tiny_folder, hostile)
    tried(lambda: load_model(hostile, device="cpu"))


def test_loading_a_gguf_file_in_a_hostile_folder(hostile):
    write_gguf(hostile / "tiny.gguf")
    tried(lambda: load_model(hostile / "tiny.gguf", device="cpu"))


def test_exporting_an_adapter(hostile, tiny, tmp_path):
    if tried(lambda: export_hf(made_for(tiny), tmp_path / "out", base=hostile, progress=False)) is None:
        assert not (tmp_path / "out").exists()


def test_exporting_a_model(hostile, load, tiny, tmp_path):
    model = tried(lambda: load(hostile))
    if model is not None:
        export_hf(model, tmp_path / "out", check_with=sys.executable, progress=False)
        assert not list((tmp_path / "out").glob("*/*.py"))
    tried(lambda: export_hf(tiny, tmp_path / "other", base=hostile, progress=False))


def test_lm_eval(hostile, tmp_path, monkeypatch):
    pytest.importorskip("lm_eval", reason="the extra eval is not installed")
    monkeypatch.setattr("lm_eval.simple_evaluate", lambda model, **options: {"results": {}, "n-samples": {}})
    task = {"task": "none", "dataset_path": "json", "output_type": "multiple_choice"}
    tried(lambda: lm_eval(hostile, task))


def test_the_support_check(hostile, request):
    report = check_checkpoint(hostile)
    assert ("hostile" in report.steps["load"]) == ("everywhere" not in request.node.name)


def test_the_command_line(hostile, tmp_path, request):
    done = CliRunner().invoke(cli.app, ["support", str(hostile)], input="y\n" * 100)
    assert done.exception is None or isinstance(done.exception, SystemExit), done.output
    if "everywhere" not in request.node.name:
        given = ["--model", str(hostile), "--questions", "bank", "--out", str(tmp_path / "out"), "--dry-run"]
        done = CliRunner().invoke(cli.app, ["study", *given], input="y\n" * 100)
        assert isinstance(done.exception, ValueError) and "hostile" in str(done.exception)
        assert not (tmp_path / "out").exists()


OWN = """
from transformers import LlamaConfig
from transformers import LlamaForCausalLM as Plain
class Config(LlamaConfig):
    model_type = 'hostile'
class LlamaForCausalLM(Plain):
    config_class = Config
"""


@pytest.mark.parametrize("kind", ["config", "tokenizer"])
def test_whoever_wants_it_says_so_once(kind, tiny_folder, tmp_path, told):
    folder = spoil(Path(shutil.copytree(tiny_folder, tmp_path / "hostile")), kind)
    if kind == "config":  # with a class of the name that TransformerLens knows
        (folder / "code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n{OWN}")
        file = folder / "config.json"
        file.write_text(file.read_text().replace("code.Model", "code.LlamaForCausalLM"))
    model = load_model(folder, device="cpu", trust_remote_code=True)
    assert told and all(told)
    own = model.original_model if kind == "config" else model.tokenizer
    assert type(own).__module__.startswith("transformers_modules")
    export_hf(model, tmp_path / "out", progress=False)
