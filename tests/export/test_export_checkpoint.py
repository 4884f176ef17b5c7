from __future__ import annotations

import errno
import json
import os
import resource
import shutil
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from exporting import DTYPES, HEADS, NAMES, SAID_AGAIN, checkpoint, contents, tuned
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from spt_lens.export import splice
from spt_lens.export.checkpoint import open_checkpoint, places
from spt_lens.export.folder import MARKER
from spt_lens.export.hf import export_hf
from spt_lens.model.folders import INDEX
from spt_lens.model.view import ModelView
from spt_lens.saving import same_bits
from spt_lens.tune.adapter import Adapter

WEIGHTS = "model.safetensors"


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where `checkpoint` puts its folders."""
    return tmp_path_factory.mktemp("made")


@pytest.fixture
def llama(made: Path) -> Path:
    return checkpoint("llama-grouped", made)


@pytest.fixture
def base(llama: Path, tmp_path: Path) -> Path:
    """One that a test may change, in a folder of its own."""
    return Path(shutil.copytree(llama, tmp_path / "base"))


@pytest.fixture
def adapter(llama: Path) -> Adapter:
    return tuned(llama)[1]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NAMES)
def test_the_same_folder_as_an_export_of_the_model(name, dtype, model_class, made, tmp_path, monkeypatch):
    source = checkpoint(name, made, dtype)
    before = contents(source)
    model, adapter = tuned(source, model_class, dtype)
    adapter.save(tmp_path / "adapter")
    export_hf(model, tmp_path / "of-model", progress=False)
    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", lambda *args: pytest.fail("a model was made"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        export = export_hf(tmp_path / "adapter", tmp_path / "of-adapter", base=source, progress=False)
    one, other = contents(tmp_path / "of-model"), contents(tmp_path / "of-adapter")
    marker = json.loads(other.pop(MARKER))
    del one[MARKER]
    assert one.keys() == other.keys() and [name for name in one if one[name] != other[name]] == []
    assert other[WEIGHTS] != before[WEIGHTS]
    assert contents(source) == before
    assert marker["heads"] == ["L0.H1", "L1.H2"] and marker["slices"] == export.slices == len(adapter.after)
    assert marker["changed_weights_kept"] == 1 and str(tmp_path) not in str(marker)
    assert f"{export.slices} slices" in repr(export) and export.parity is None
    assert ModelView(model).fingerprint() == open_checkpoint(source).fingerprint()


@pytest.mark.parametrize("name", ["gemma2", "gpt2", "phi3", "neox"])
def test_a_checkpoint_in_several_files(name, made, tmp_path):
    source = checkpoint(name, made, shard="20KB")
    _, adapter = tuned(source)
    export_hf(adapter, tmp_path / "out", base=source, progress=False)
    one, other = contents(source), contents(tmp_path / "out")
    assert other.keys() == one.keys() | {MARKER}
    changed = {file for file in one if one[file] != other[file]} - SAID_AGAIN
    assert 0 < len(changed) < sum(file.endswith(".safetensors") for file in one)
    export_hf(adapter, tmp_path / "whole", base=checkpoint(name, made), progress=False)
    plain, again = (AutoModelForCausalLM.from_pretrained(tmp_path / name) for name in ("out", "whole"))
    assert all(same_bits(p, own) for p, own in zip(plain.parameters(), again.parameters(), strict=True))


def test_nothing_but_the_slices_changes(llama, adapter, tmp_path):
    export_hf(adapter, tmp_path / "out", base=llama, progress=False)
    old, new = load_file(llama / WEIGHTS), load_file(tmp_path / "out" / WEIGHTS)
    differing = {name: int((old[name] != new[name]).sum()) for name in old if not torch.equal(old[name], new[name])}
    assert set(differing) == {
        f"model.layers.{layer}.self_attn.{which}_proj.weight" for layer in (0, 1) for which in "qkvo"
    }
    tuned_entries = sum(int((adapter.before[name] != adapter.after[name]).sum()) for name in adapter.after)
    assert sum(differing.values()) == tuned_entries
    a, b = (llama / WEIGHTS).read_bytes(), (tmp_path / "out" / WEIGHTS).read_bytes()
    assert len(a) == len(b) and sum(x != y for x, y in zip(a, b, strict=True)) <= 4 * tuned_entries


@pytest.mark.parametrize("name", ["gpt2", "neox", "llama-grouped"])
def test_names_without_the_outermost_module(name, made, tmp_path):
    """As in the first GPT-2 checkpoints, which were saved from the model without its head."""
    source = checkpoint(name, made)
    base = Path(shutil.copytree(source, tmp_path / "base"))
    prefix = {"gpt2": "transformer.", "neox": "gpt_neox.", "llama-grouped": "model."}[name]
    weights = {key.removeprefix(prefix): value for key, value in load_file(source / WEIGHTS).items()}
    save_file(weights, base / WEIGHTS, metadata={"format": "pt"})
    _, adapter = tuned(source)
    export_hf(adapter, tmp_path / "out", base=base, progress=False)
    export_hf(adapter, tmp_path / "usual", base=source, progress=False)
    got, expected = load_file(tmp_path / "out" / WEIGHTS), load_file(tmp_path / "usual" / WEIGHTS)
    assert {key.removeprefix(prefix) for key in expected} == set(got)
    assert all(same_bits(value, got[key.removeprefix(prefix)]) for key, value in expected.items())


def test_which_files_are_copied(base, adapter, tmp_path):
    own = {"README.md", "LICENSE", "modeling_mine.py", "vocab.txt", "additional_chat_templates/tool_use.jinja"}
    stale = {"pytorch_model.bin", "pytorch_model.bin.index.json", "tf_model.h5", "consolidated.safetensors", "x.gguf"}
    stale |= {"consolidated.00.pth", "model.fp16.safetensors", "original/params.json", "onnx/model.onnx", ".cache/x"}
    stale |= {"flax_model.msgpack", "optimizer.pt", ".gitattributes", "rust_model.ot", MARKER}
    for name in own | stale:
        (base / name).parent.mkdir(exist_ok=True)
        (base / name).write_text("{}")
    (base / "link.txt").symlink_to(base / "README.md")
    before = contents(base)
    export_hf(adapter, tmp_path / "out", base=base, progress=False)
    files = contents(tmp_path / "out")
    assert files.keys() == (before.keys() - stale) | {MARKER}
    assert not (tmp_path / "out" / "link.txt").is_symlink() and files["link.txt"] == b"{}"
    assert json.loads(files[MARKER])["made_from"] == "base"
    assert contents(base) == before


def test_a_single_file_goes_before_an_index_as_in_transformers(base, adapter, tmp_path):
    names = dict.fromkeys(load_file(base / WEIGHTS), "other.safetensors")
    shutil.copyfile(base / WEIGHTS, base / "other.safetensors")
    (base / INDEX).write_text(json.dumps({"weight_map": names}))
    export_hf(adapter, tmp_path / "out", base=base, progress=False)
    assert INDEX not in os.listdir(tmp_path / "out") and "other.safetensors" not in os.listdir(tmp_path / "out")
    (base / WEIGHTS).unlink()
    export_hf(adapter, tmp_path / "second", base=base, progress=False)
    assert {INDEX, "other.safetensors"} <= set(os.listdir(tmp_path / "second"))


class TestDtypes:
    def test_a_narrower_base_warns_what_is_lost(self, made, adapter, tmp_path):
        narrow = checkpoint("llama-grouped", made, torch.bfloat16)
        tiny_steps = {  # one in two changes is too small for bfloat16
            name: value + torch.where(torch.arange(value.shape[1]) % 2 == 0, 1e-6, 0.5)
            for name, value in adapter.before.items()
        }
        small = replace(adapter, after=tiny_steps)
        with pytest.warns(UserWarning, match=r"fewer digits.* (49\.\d|50\.\d)% are still changed") as caught:
            export_hf(small, tmp_path / "out", base=narrow, progress=False)
        assert caught[0].filename == __file__
        marker = json.loads((tmp_path / "out" / MARKER).read_text())
        assert 0.49 < marker["changed_weights_kept"] < 0.51
        weights = load_file(tmp_path / "out" / WEIGHTS)
        assert {value.dtype for value in weights.values()} == {torch.bfloat16}
        got = weights["model.layers.1.self_attn.q_proj.weight"][2 * 16 : 3 * 16]
        assert same_bits(got, small.after["L1.H2.q"].bfloat16())

    def test_a_wider_base_keeps_its_dtype(self, llama, tmp_path):
        _, half = tuned(llama, dtype=torch.bfloat16)
        with pytest.warns(UserWarning, match="stores more digits.* loaded with dtype=torch.bfloat16"):
            export_hf(half, tmp_path / "out", base=llama, progress=False)
        old, new = load_file(llama / WEIGHTS), load_file(tmp_path / "out" / WEIGHTS)
        name = "model.layers.0.self_attn.o_proj.weight"
        assert same_bits(new[name][:, 16:32].contiguous(), half.after["L0.H1.o"].float())
        assert same_bits(new[name][:, 32:].contiguous(), old[name][:, 32:].contiguous())

    def test_half_precision_of_the_other_kind(self, made, llama, tmp_path):
        source = checkpoint("llama-grouped", made, torch.bfloat16)
        _, half = tuned(source, dtype=torch.float16)
        with pytest.warns(UserWarning, match="fewer digits"):
            export_hf(half, tmp_path / "out", base=source, progress=False)
        other = checkpoint("llama-grouped", made, torch.float16)
        _, wide = tuned(llama)
        wide = replace(wide, after={name: value * 0 + 70_000 for name, value in wide.after.items()})
        with pytest.raises(ValueError, match="L0.H1.q holds numbers that are not finite"):
            export_hf(wide, tmp_path / "never", base=other, progress=False)


class TestWrongBase:
    """Refused before anything is written."""

    @pytest.fixture(autouse=True)
    def nothing_left(self, base, tmp_path):
        yield
        assert set(os.listdir(tmp_path)) <= {"base", "adapter"}

    def refused(self, adapter, base, tmp_path, match: str, error=ValueError) -> None:
        with pytest.raises(error, match=match):
            export_hf(adapter, tmp_path / "out", base=base, progress=False)

    def edit(self, base: Path, change) -> None:
        weights = load_file(base / WEIGHTS)
        change(weights)
        save_file(weights, base / WEIGHTS, metadata={"format": "pt"})

    def test_another_architecture(self, adapter, made, tmp_path):
        match = "another model: architecture is Qwen2ForCausalLM, not LlamaForCausalLM"
        self.refused(adapter, checkpoint("qwen2", made), tmp_path, match)
        match = "another model: n_kv_heads is 4, not 2"
        self.refused(adapter, checkpoint("llama", made), tmp_path, match)

    def test_another_vocabulary(self, adapter, base, tmp_path):
        config = json.loads((base / "config.json").read_text())
        (base / "config.json").write_text(json.dumps(config | {"vocab_size": 5}))
        self.refused(adapter, base, tmp_path, "vocab_size is 5, not")

    def test_another_revision(self, adapter, base, tmp_path):
        def other(weights):
            weights["model.layers.1.self_attn.v_proj.weight"][17, 3] += 1e-3
            weights["model.layers.1.self_attn.v_proj.weight"][0, 0] += 1  # of no tuned head
            weights["model.layers.0.self_attn.q_proj.weight"][0, 0] += 1

        self.edit(base, other)
        match = r"another revision than base: L1\.G1\.v there .*\(1 of 8 slices\)"
        self.refused(adapter, base, tmp_path, match)

    def test_one_that_has_the_adapter_already(self, adapter, llama, tmp_path, made):
        done = made / "done"
        export_hf(adapter, done, base=llama, overwrite=True, progress=False)
        self.refused(adapter, done, tmp_path, "holds this adapter's tuned slices already")

    def test_a_missing_weight(self, adapter, base, tmp_path):
        self.edit(base, lambda weights: weights.pop("model.layers.1.self_attn.o_proj.weight"))
        self.refused(adapter, base, tmp_path, r"lacks the weight model\.layers\.1\.self_attn\.o_proj\.weight")

    def test_a_weight_of_another_shape(self, adapter, base, tmp_path):
        def short(weights):
            name = "model.layers.0.self_attn.q_proj.weight"
            weights[name] = weights[name][:-1].contiguous()

        self.edit(base, short)
        self.refused(adapter, base, tmp_path, r"q_proj\.weight in .* is \[63, 32\], expected \[64, 32\]")

    def test_pickled_weights_only(self, adapter, base, tmp_path):
        (base / WEIGHTS).rename(base / "pytorch_model.bin")
        self.refused(adapter, base, tmp_path, "pickled weights are not read", FileNotFoundError)

    @pytest.mark.parametrize("keep", [0, 5, 5000, -1])
    def test_truncated_weights(self, adapter, base, tmp_path, keep):
        (base / WEIGHTS).write_bytes((base / WEIGHTS).read_bytes()[:keep])
        self.refused(adapter, base, tmp_path, "truncated or damaged")

    def test_a_quantised_one(self, adapter, base, tmp_path):
        def bytes_only(weights):
            name = "model.layers.0.self_attn.q_proj.weight"
            weights[name] = weights[name].to(torch.int8)

        self.edit(base, bytes_only)
        self.refused(adapter, base, tmp_path, "stored as I8", NotImplementedError)
        config = json.loads((base / "config.json").read_text())
        config["quantization_config"] = {"quant_method": "fp8"}
        (base / "config.json").write_text(json.dumps(config))
        self.refused(adapter, base, tmp_path, "is quantised", NotImplementedError)

    @pytest.mark.parametrize(
        "change", [{"model_type": "nothing"}, {"architectures": ["OPTForCausalLM"]}, {"architectures": None}]
    )
    def test_an_unknown_architecture(self, adapter, base, tmp_path, change):
        config = json.loads((base / "config.json").read_text())
        (base / "config.json").write_text(json.dumps(config | change))
        self.refused(adapter, base, tmp_path, r"cannot read|not tuned or exported", (ValueError, NotImplementedError))

    def test_an_index_that_leads_elsewhere(self, adapter, base, tmp_path):
        (base / "sub").mkdir()
        (base / WEIGHTS).rename(base / "sub" / WEIGHTS)
        (base / INDEX).write_text(json.dumps({"weight_map": {"a": f"sub/{WEIGHTS}"}}))
        self.refused(adapter, base, tmp_path, "not in the same folder")

    def test_no_such_base(self, adapter, tmp_path):
        self.refused(adapter, "./nowhere", tmp_path, "does not exist", FileNotFoundError)

    def test_into_the_base(self, adapter, base):
        before = contents(base)
        for folder in (base, base / "out", base.parent):
            with pytest.raises(ValueError, match="never written"):
                export_hf(adapter, folder, base=base, overwrite=True, progress=False)
        assert contents(base) == before

    def test_damaged_adapters(self, adapter, base, tmp_path):
        def without(slices):
            return {name: value for name, value in slices.items() if name != "L1.H2.o"}

        less = replace(adapter, before=without(adapter.before), after=without(adapter.after))
        self.refused(less, base, tmp_path, "damaged")
        first = ({name: value[:1] for name, value in slices.items()} for slices in (adapter.before, adapter.after))
        short = replace(adapter, **dict(zip(("before", "after"), first, strict=True)))
        self.refused(short, base, tmp_path, r"L0\.H1\.q is \[1, 32\]")
        far = replace(adapter, heads=HEADS | type(HEADS).parse("L7.H0"))
        self.refused(far, base, tmp_path, "damaged")
        adapter.save(tmp_path / "adapter")
        file = tmp_path / "adapter" / "adapter.safetensors"
        file.write_bytes(file.read_bytes()[:-1])
        self.refused(tmp_path / "adapter", base, tmp_path, "holds no saved adapter, or is damaged")


class TestHub:
    def test_a_hub_name_is_downloaded_without_other_weights(self, adapter, llama, tmp_path, monkeypatch):
        asked = {}

        def download(name, **options):
            asked.update(options, name=name)
            return str(llama)

        monkeypatch.setattr("huggingface_hub.snapshot_download", download)
        export_hf(adapter, tmp_path / "out", base="some-owner/some-model", revision="v2", progress=False)
        assert asked["name"] == "some-owner/some-model" and asked["revision"] == "v2"
        from huggingface_hub.utils import filter_repo_objects

        repository = [
            WEIGHTS,
            INDEX,
            "model-00001-of-00002.safetensors",
            "config.json",
            "tokenizer.model",
            "merges.txt",
        ]
        repository += ["chat_template.jinja", "additional_chat_templates/a.jinja", "README.md", "LICENSE"]
        others = ["pytorch_model.bin", "onnx/config.json", "original/consolidated.00.pth", "consolidated.safetensors"]
        patterns = {key: asked[key] for key in ("allow_patterns", "ignore_patterns")}
        assert list(filter_repo_objects(repository + others, **patterns)) == repository
        assert json.loads((tmp_path / "out" / MARKER).read_text())["made_from"] == "some-owner/some-model"

    def test_an_unknown_name(self, adapter, tmp_path, monkeypatch):
        def download(name, **options):
            raise OSError("404: no such repository\nmore")

        monkeypatch.setattr("huggingface_hub.snapshot_download", download)
        with pytest.raises(OSError, match=r"cannot get 'a/b'.*404: no such repository\)"):
            export_hf(adapter, tmp_path / "out", base="a/b", progress=False)
        assert not os.listdir(tmp_path)


class TestFailures:
    @pytest.mark.parametrize("where", ["_put", "_check_written", "write_marker"])
    def test_an_interrupt_leaves_nothing(self, llama, adapter, tmp_path, monkeypatch, where):
        def stop(*args):
            raise KeyboardInterrupt

        monkeypatch.setattr(splice, where, stop)
        with pytest.raises(KeyboardInterrupt):
            export_hf(adapter, tmp_path / "out", base=llama, progress=False)
        assert not os.listdir(tmp_path)

    @pytest.mark.parametrize("wrong", ["nothing", "one bit", "size", "header"])
    def test_what_was_written_is_read_again(self, llama, adapter, tmp_path, monkeypatch, wrong):
        put = splice._put

        def badly(adapter, base, pieces, weight):
            if wrong != "nothing":
                put(adapter, base, pieces, weight)
            if wrong == "one bit" and pieces[0].name == "L1.H2.q":
                base.pick(pieces[0])(weight)[0, 0] *= 1 + 1e-6
            file = next(tmp_path.glob(".out*")) / WEIGHTS
            if wrong == "size":
                (file.parent / "tokenizer.json").write_text("{}")
            if wrong == "header":
                file.write_bytes(file.read_bytes().replace(b"layers.0.mlp.up_proj", b"layers.9.mlp.up_proj", 1))

        monkeypatch.setattr(splice, "_put", badly)
        with pytest.raises(RuntimeError, match="not what was to be written: (L0.H1.q|L1.H2.q|tokenizer.json|model)"):
            export_hf(adapter, tmp_path / "out", base=llama, progress=False)
        assert not os.listdir(tmp_path)

    def test_a_real_write_failure(self, llama, adapter, tmp_path):
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, ((llama / WEIGHTS).stat().st_size // 2, limits[1]))
        try:
            with pytest.raises(OSError, match=r"room.* bytes.* free") as caught:
                export_hf(adapter, tmp_path / "out", base=llama, progress=False)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert caught.value.errno == errno.EFBIG and not os.listdir(tmp_path)

    def test_an_earlier_export_is_replaced_only_when_asked(self, llama, adapter, tmp_path):
        export_hf(adapter, tmp_path / "out", base=llama, progress=False)
        before = contents(tmp_path / "out")
        with pytest.raises(FileExistsError, match="overwrite=True"):
            export_hf(adapter, tmp_path / "out", base=llama, progress=False)
        more = replace(adapter, after={name: value * 2 for name, value in adapter.after.items()})
        export_hf(more, tmp_path / "out", base=llama, overwrite=True, progress=False)
        assert contents(tmp_path / "out") != before and os.listdir(tmp_path) == ["out"]


def test_one_tensor_is_read_and_written_alone(llama, tmp_path):
    """Against safetensors itself: every tensor of every kind, and nothing beside it."""
    save_file(
        {"a": torch.ones(3), "b": torch.randn(2, 5).bfloat16(), "c": torch.ones(2, 2)}, tmp_path / "x.safetensors"
    )
    for folder, file in ((llama, WEIGHTS), (tmp_path, "x.safetensors")):
        expected = load_file(folder / file)
        found = places(folder, file)
        assert found.keys() == expected.keys()
        assert all(same_bits(place.read(folder), expected[name]) for name, place in found.items())
    place = places(tmp_path, "x.safetensors")["b"]
    place.edit(tmp_path, lambda weight: weight.T[1].zero_())
    after = load_file(tmp_path / "x.safetensors")
    assert (after["b"][:, 1] == 0).all() and (after["b"][:, 0] != 0).all()
    assert (after["a"] == 1).all() and (after["c"] == 1).all()


def test_the_same_bits():
    one = torch.tensor([[1.0, -0.0]])
    assert same_bits(one, one.clone()) and same_bits(one.T, one.T.contiguous())
    assert same_bits(one * float("nan"), one * float("nan"))
    for other in (one.abs(), one.view(torch.int32), one.T, one[0]):
        assert not same_bits(one, other)
    assert not same_bits(one.half(), one.half().view(torch.bfloat16))
