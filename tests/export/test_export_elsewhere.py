"""Exports as others read them: RoPE under its older names, and by transformers 4.57, which lies over the installed one.

`make` puts it into .venv/hf457. Where that is not there these tests are skipped; never where CI is set.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from exporting import checkpoint, contents, tuned
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, Phi3Config

from spt_lens.export import hf, reader, splice
from spt_lens.export.elsewhere import check_python
from spt_lens.export.hf import export_hf
from spt_lens.export.older import older_rope, say_again
from spt_lens.model.huggingface import no_loading_bar, read_config
from spt_lens.model.loading import load_model
from tools.tiny import TINY

LLAMA3 = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}  # fmt: skip
LONG = {"short_factor": [1.0, 1.1, 1.2, 1.3], "long_factor": [2.0, 2.1, 2.2, 2.3]}
TEXT = "Are you sure? <user> I don't think so."
NEEDS = {"ministral3": "the architecture is newer than transformers 4.57"}

# kind, what transformers 5 says, and the same in older words
CASES = [
    ("llama", {"rope_theta": 5e5, "rope_type": "default"}, {"rope_theta": 5e5}),
    ("llama", {"rope_theta": 5e5, **LLAMA3}, {"rope_theta": 5e5, "rope_scaling": LLAMA3}),
    ("qwen2", {"rope_theta": 1e4, "rope_type": "linear", "factor": 4.0},
     {"rope_theta": 1e4, "rope_scaling": {"rope_type": "linear", "factor": 4.0}}),
    ("olmo2", {"rope_theta": 1e4, "rope_type": "linear", "factor": 4.0, "beta": 1},
     {"rope_theta": 1e4, "rope_scaling": {"type": "linear", "factor": 4.0}}),
    ("stablelm", {"rope_theta": 1e4, "rope_type": "default", "partial_rotary_factor": 0.5},
     {"rope_theta": 1e4, "partial_rotary_factor": 0.5}),
    ("gpt_neox", {"rope_theta": 1e4, "rope_type": "default", "partial_rotary_factor": 0.5},
     {"rotary_emb_base": 1e4, "rotary_pct": 0.5}),
    ("phi3", {"rope_theta": 1e4, "rope_type": "longrope", "type": "longrope", **LONG,
              "original_max_position_embeddings": 64, "partial_rotary_factor": 1.0},
     {"rope_theta": 1e4, "partial_rotary_factor": 1.0, "rope_scaling": {"type": "longrope", **LONG}}),
    ("gemma3_text", {"full_attention": {"rope_theta": 1e6, "rope_type": "linear", "factor": 8.0},
                     "sliding_attention": {"rope_theta": 1e4, "rope_type": "default"}},
     {"rope_theta": 1e6, "rope_scaling": {"rope_type": "linear", "factor": 8.0}, "rope_local_base_freq": 1e4}),
    ("gemma3_text", {"full_attention": {"rope_theta": 1e6}, "sliding_attention": {"rope_type": "linear"}}, {}),
    ("another", {"full_attention": {"rope_theta": 1e6}, "sliding_attention": {"rope_theta": 1e4}}, {}),
    ("gpt2", None, {}),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "said", "older"), CASES)
def test_rope_in_older_words(kind, said, older):
    assert older_rope({"model_type": kind, "rope_parameters": said}) == older
    assert older_rope({"model_type": kind}) == {}


def varied(name: str, folder: Path, made: Path, config=None, **rope) -> Path:
    """A random checkpoint as transformers 5 saves it, of other RoPE settings."""
    source = checkpoint(name, made)
    if config is None:
        config = AutoConfig.from_pretrained(source)
        config.rope_parameters = {**config.rope_parameters, **rope}
    torch.manual_seed(0)
    with no_loading_bar():
        AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    for file in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copyfile(source / file, folder / file)
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("made")


@pytest.fixture(scope="module")
def again(made, tmp_path_factory) -> dict[str, tuple[Path, Path]]:
    """All architectures and the kinds of RoPE: as they are, and said again."""
    root, found = tmp_path_factory.mktemp("again"), {}
    sizes = {key: getattr(AutoConfig.from_pretrained(checkpoint("phi3", made)), key) for key in (
        "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "pad_token_id",
        "bos_token_id", "eos_token_id")}  # fmt: skip
    long = {"rope_type": "longrope", "rope_theta": 1e4, **LONG}
    phi3 = Phi3Config(**sizes, max_position_embeddings=128, original_max_position_embeddings=64, rope_parameters=long)
    others = {
        "llama, another theta": varied("llama", root / "theta", made, rope_theta=5e5),
        "llama 3": varied("llama", root / "llama3", made, rope_theta=5e5, **LLAMA3),
        "olmo2, linear": varied("olmo2", root / "olmo2", made, rope_type="linear", factor=4.0),
        "neox, linear": varied("neox", root / "neox", made, rope_type="linear", factor=4.0),
        "phi3, long": varied("phi3", root / "phi3", made, config=phi3),
        "qwen2, yarn": varied(
            "qwen2", root / "yarn", made, rope_type="yarn", factor=4.0, original_max_position_embeddings=32
        ),
    }
    for i, (name, folder) in enumerate(({name: checkpoint(name, made) for name in TINY} | others).items()):
        found[name] = folder, Path(shutil.copytree(folder, root / f"again-{i}"))
        say_again(found[name][1])
    return found


def test_transformers_5_reads_the_same_as_before(again):
    for name, (folder, copy) in again.items():
        before, after = (getattr(read_config(place), "rope_parameters", None) or {} for place in (folder, copy))
        assert {**before, "type": 0} == {**after, "type": 0}, name
        files, other = contents(folder), contents(copy)
        differing = {file for file in files if files[file] != other[file]}
        assert differing <= {"config.json", "tokenizer_config.json"} and files.keys() == other.keys(), name
        known, said = json.loads(files["config.json"]), json.loads(other["config.json"])
        assert said == older_rope(known) | known, name
        tokenizers = [AutoTokenizer.from_pretrained(place) for place in (folder, copy)]
        one, two = ((type(t), t(TEXT), t.chat_template, t.special_tokens_map, t.get_vocab()) for t in tokenizers)
        assert one == two, name
        assert json.loads(other["tokenizer_config.json"])["tokenizer_class"] == "PreTrainedTokenizerFast"


def test_ggufs_own_reader_finds_special_tokens_and_template(again):
    """What llama.cpp's converter takes from a folder; the converter itself is no package."""
    vocab = pytest.importorskip("gguf.vocab", reason="the extra gguf is not installed").SpecialVocab
    for folder in again["llama"]:
        tokenizer, found = AutoTokenizer.from_pretrained(folder), vocab(folder, n_vocab=200)
        ids = {kind: getattr(tokenizer, f"{kind}_token_id") for kind in ("bos", "eos", "pad")}
        assert found.special_token_ids.items() >= ids.items() and found.chat_template == tokenizer.chat_template


def test_what_is_said_already_stays_to_the_byte(again, tmp_path):
    copy = Path(shutil.copytree(again["llama 3"][1], tmp_path / "copy"))
    before = contents(copy)
    say_again(copy)
    assert contents(copy) == before


def test_what_would_be_read_as_another_thing_is_not_written(again, tmp_path, monkeypatch):
    copy = Path(shutil.copytree(again["neox"][0], tmp_path / "copy"))
    before = contents(copy)
    monkeypatch.setattr(
        "spt_lens.export.older._flat", lambda *args: {"rope_scaling": {"rope_type": "linear", "factor": 2.0}}
    )
    monkeypatch.setattr("spt_lens.export.older._words", lambda tokenizer: object())
    say_again(copy)
    assert contents(copy) == before


@pytest.fixture(scope="session")
def old_python(tmp_path_factory) -> Path:
    """A Python whose transformers is 4.57."""
    place = Path(os.environ.get("SPT_LENS_HF457", Path(sys.prefix) / "hf457"))
    if not (place / "transformers").is_dir():
        why = f"needs transformers 4.57 in {place}, which `make test` brings"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(why)
    script = tmp_path_factory.mktemp("old") / "python"
    script.write_text(f'#!/bin/sh\nPYTHONPATH="{place}" exec "{sys.executable}" "$@"\n')
    script.chmod(0o755)
    return script


def test_transformers_4_reads_the_same_model_of_every_kind(again, old_python, tmp_path):
    """By one process for all: most of the time goes to its start."""
    save_file({"tokens": torch.randint(100, (1, 100), generator=torch.Generator().manual_seed(0))}, tmp_path / "asked")
    names = [name for name in again if name not in NEEDS]
    text = Path(reader.__file__).read_text(encoding="utf-8").partition('if __name__ == "__main__":')[0]
    text += "for i, folder in enumerate(sys.argv[3:]):\n    read(folder, sys.argv[1], sys.argv[2] + f'/{i}')\n"
    folders = [str(again[name][1]) for name in names]
    subprocess.run([old_python, "-c", text, tmp_path / "asked", tmp_path, *folders], check=True, capture_output=True)
    for i, name in enumerate(names):
        with no_loading_bar():
            reader.read(folders[i], str(tmp_path / "asked"), str(tmp_path / "here"))
        here, there = load_file(tmp_path / "here"), load_file(tmp_path / str(i))
        torch.testing.assert_close(
            there["logits"], here["logits"], atol=1e-5, rtol=1e-5, msg=lambda m, n=name: f"{n}: {m}"
        )
        if not name.startswith("qwen2"):  # whose own class transformers 5 takes for this tokenizer of whole words
            assert torch.equal(here["ids"], there["ids"]), name


class TestCheckWith:
    def test_a_llama_of_top_level_theta_and_scaling(self, old_python, made, tmp_path):
        """Written by transformers 4: the export says it in both ways, where it once said it in the new one alone."""
        source = varied("llama", tmp_path / "base", made, rope_theta=5e5, **LLAMA3)
        known = json.loads((source / "config.json").read_text())
        del known["rope_parameters"]
        (source / "config.json").write_text(json.dumps(known | {"rope_theta": 5e5, "rope_scaling": LLAMA3}))
        export = export_hf(load_model(source, device="cpu"), tmp_path / "out", check_with=old_python, progress=False)
        said = json.loads((tmp_path / "out" / "config.json").read_text())
        assert said["rope_theta"] == 5e5 and said["rope_scaling"] == LLAMA3
        assert said["rope_parameters"] == {"rope_theta": 5e5, **LLAMA3}
        assert "; in transformers 4.57" in repr(export) and "logits within" in export.elsewhere

    @pytest.mark.parametrize("what", ["model", "adapter"])
    def test_another_model_to_the_older_one_is_refused(self, what, old_python, made, tmp_path, monkeypatch):
        source = checkpoint("neox", made)
        model, adapter = tuned(source)
        for room in (hf, splice):
            monkeypatch.setattr(room, "say_again", lambda folder: _tokenizer_only(folder))
        base = {"base": source} if what == "adapter" else {}
        with pytest.raises(RuntimeError, match=r"another model to the reader of transformers 4\.57.* differ by up to"):
            export_hf(adapter if base else model, tmp_path / "out", **base, check_with=old_python, progress=False)
        assert not os.listdir(tmp_path)
        monkeypatch.undo()
        if base:
            assert (
                "4.57" in export_hf(adapter, tmp_path / "out", **base, check_with=old_python, progress=False).elsewhere
            )

    def test_an_architecture_that_it_lacks(self, old_python, made, tmp_path):
        model, _ = tuned(checkpoint("ministral3", made))
        with pytest.raises(RuntimeError, match=r"can't be read by the reader of transformers 4\.57.*: .*ministral3"):
            export_hf(model, tmp_path / "out", check_with=old_python, progress=False)
        assert not os.listdir(tmp_path)

    @pytest.mark.parametrize("wrong", ["nowhere/python", "", "a folder", "another program", "a Python without torch"])
    def test_no_such_python(self, wrong, made, tmp_path):
        python = tmp_path / "python"
        if wrong == "a folder":
            python.mkdir()
        elif wrong.startswith("a"):
            program = "echo it broke >&2; exit 3" if wrong == "another program" else f'exec "{sys.executable}" -S "$@"'
            python.write_text(f"#!/bin/sh\n{program}\n")
            python.chmod(0o755)
        given = python if wrong.startswith("a") else wrong
        with pytest.raises(
            (FileNotFoundError, ValueError), match=r"check_with=.*(: give the path of one|names nothing)"
        ):
            export_hf(tuned(checkpoint("llama", made))[0], tmp_path / "out", check_with=given, progress=False)
        assert not (tmp_path / "out").exists()

    @pytest.mark.parametrize("wrong", [5, ["python"], True, b"python"])
    def test_no_path(self, wrong, made, tmp_path):
        with pytest.raises(TypeError, match="check_with"):
            export_hf(tuned(checkpoint("llama", made))[0], tmp_path / "out", check_with=wrong, progress=False)

    def test_this_python_agrees_with_itself(self, made, tmp_path, monkeypatch):
        (tmp_path / "sub").mkdir()
        monkeypatch.chdir(tmp_path / "sub")
        relative = os.path.relpath(sys.executable)  # it runs in another folder
        assert check_python(sys.executable)[1].startswith("5.") and check_python(relative) == check_python(
            sys.executable
        )
        for name, text in (
            ("here", f'#!/bin/sh\nexec "{sys.executable}" "$@"\n'),
            ("noscript", "\0"),
            ("echo", "#!/bin/sh\n"),
        ):
            (tmp_path / "sub" / name).write_text(text)
            (tmp_path / "sub" / name).chmod(0o755)
        assert check_python("./here")[1].startswith("5.")
        for name in ("./noscript", "echo"):
            with pytest.raises(ValueError, match="can't be (run|used).*: give the path of one in an environment"):
                check_python(name)
        model, _ = tuned(checkpoint("llama-grouped", made), dtype=torch.bfloat16)
        export = export_hf(model, tmp_path / "out", check_with=sys.executable, progress=False)
        assert "logits within 0 of those here" in export.elsewhere


def _tokenizer_only(folder: Path) -> None:
    own = (folder / "config.json").read_bytes()
    say_again(folder)
    (folder / "config.json").write_bytes(own)
