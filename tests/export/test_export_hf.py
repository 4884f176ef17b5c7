from __future__ import annotations

import errno
import json
import os
import resource
import shutil
import warnings
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from exporting import DTYPES, NAMES, SAID_AGAIN, architecture, checkpoint, contents, state, tuned
from transformer_lens.model_bridge import TransformerBridge
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

import spt_lens
from spt_lens.export import hf
from spt_lens.export.checkpoint import places
from spt_lens.export.folder import MARKER
from spt_lens.export.hf import export_hf
from spt_lens.export.older import older_rope
from spt_lens.export.parity import Parity, without_hooks
from spt_lens.model.layout import LAYOUTS
from spt_lens.model.loading import load_model
from spt_lens.model.view import ModelView
from spt_lens.saving import same_bits


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where `checkpoint` puts its folders."""
    return tmp_path_factory.mktemp("made")


@pytest.fixture
def llama(made: Path) -> Path:
    return checkpoint("llama-grouped", made)


@pytest.fixture
def tokens() -> torch.Tensor:
    """Three random prompts of ten tokens of the tiny checkpoints' own small vocabulary."""
    return torch.randint(6, 120, (3, 10), generator=torch.Generator().manual_seed(0))


def test_every_architecture_with_a_layout_is_tried():
    assert {architecture(name) for name in NAMES} == set(LAYOUTS)
    assert spt_lens.export_hf is export_hf


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NAMES)
def test_plain_transformers_loads_the_same_model(name, dtype, model_class, made, tmp_path, tokens):
    source = checkpoint(name, made)
    model, adapter = tuned(source, model_class, dtype)
    before = state(model)
    export = export_hf(model, tmp_path / "out", progress=False)
    assert state(model) == before
    assert os.listdir(tmp_path) == ["out"]

    view = ModelView(model)
    plain = AutoModelForCausalLM.from_pretrained(export)
    assert plain.dtype == dtype
    with torch.no_grad():
        live, again = view.logits(tokens).float(), plain(tokens).logits.float()
    largest = max(1.0, again.abs().max().item())
    off = (live - again).abs().max().item()
    assert off <= (1e-5 if dtype == torch.float32 else 0.05) * largest
    assert export.parity.difference <= export.parity.allowed
    # Not the untuned model by chance.
    with adapter.reverted(model), torch.no_grad():
        assert (view.logits(tokens).float() - again).abs().max().item() > 3 * off
    assert all(same_bits(p, own) for p, own in zip(plain.parameters(), view.hf_copy().parameters(), strict=True))
    if dtype == torch.float32:
        new = plain.generate(tokens, max_new_tokens=5, do_sample=False)[:, tokens.shape[1] :]
        assert torch.equal(new, view.generate(tokens, 5)[:, : new.shape[1]])

    files, origin = contents(tmp_path / "out"), contents(source)
    assert files.keys() == origin.keys() | {MARKER}
    config, expected = json.loads(files["config.json"]), json.loads(origin["config.json"])
    assert config == older_rope(expected) | expected | {"dtype": str(dtype).removeprefix("torch.")}
    same = origin.keys() - {"config.json", "model.safetensors", "tokenizer_config.json"}
    assert {"generation_config.json", "chat_template.jinja", "tokenizer.json"} <= same
    assert all(files[file] == origin[file] for file in same)
    if config.get("tie_word_embeddings"):
        assert plain.get_input_embeddings().weight is plain.get_output_embeddings().weight
    assert not any(str(made).encode() in data or str(tmp_path).encode() in data for data in files.values())


@pytest.mark.parametrize("name", ["gpt2", "phi3", "neox", "llama"])
def test_a_model_moved_to_another_dtype_after_loading(name, model_class, made, tmp_path, tokens):
    model, _ = tuned(checkpoint(name, made), model_class)
    model.to(torch.bfloat16)
    export_hf(model, tmp_path / "out", progress=False)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert plain.dtype == torch.bfloat16
    with torch.no_grad():
        live, again = ModelView(model).logits(tokens).float(), plain(tokens).logits.float()
    assert (live - again).abs().max() <= 0.05 * again.abs().max().clamp(min=1)


def test_weights_are_split_into_files_of_the_size_asked_for(model_class, made, tmp_path, tokens):
    source = checkpoint("gemma2", made, shard="20KB")  # tied, and in several files itself
    model, _ = tuned(source, model_class)
    export_hf(model, tmp_path / "few", progress=False)
    export_hf(model, tmp_path / "many", max_shard_size="20KB", progress=False)
    assert len(list((tmp_path / "few").glob("*.safetensors"))) == 1
    assert len(list((tmp_path / "many").glob("*.safetensors"))) > 2
    one, other = (AutoModelForCausalLM.from_pretrained(tmp_path / name) for name in ("few", "many"))
    assert all(same_bits(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    assert (tmp_path / "many" / "config.json").stat().st_mode == (
        next((tmp_path / "many").glob("*.safetensors")).stat().st_mode
    )


def test_the_models_own_hooks_take_no_part_and_stay(llama, model_class, tmp_path, tokens):
    model, _ = tuned(llama, model_class)
    view = ModelView(model)
    with torch.no_grad():
        clean = view.logits(tokens)
    calls = []

    def ablate(z, hook):
        calls.append(1)
        return z * 0

    model.add_hook(view.z_name(0), ablate, is_permanent=True)
    model.add_hook(view.pattern_name(1), lambda pattern, hook: pattern * 0.5)
    handle = model.ln_final.register_forward_hook(lambda module, args, out: out * 2)
    weight, _ = view.head_weight(0, "q", 0)
    weight.requires_grad_(False)
    gradient = torch.ones_like(view.head_weight(1, "o", 0)[0])
    view.head_weight(1, "o", 0)[0].grad = gradient
    before = state(model)
    with torch.no_grad():
        hooked = view.logits(tokens)
    calls.clear()
    export_hf(model, tmp_path / "out", progress=False)
    assert not calls and state(model) == before
    assert view.head_weight(1, "o", 0)[0].grad is gradient and bool((gradient == 1).all())
    with torch.no_grad():
        assert torch.equal(view.logits(tokens), hooked) and calls
        plain = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
        torch.testing.assert_close(plain(tokens).logits, clean, atol=1e-5, rtol=1e-5)
    # The handles still work.
    handle.remove()
    model.reset_hooks(including_permanent=True)
    with torch.no_grad():
        assert torch.equal(view.logits(tokens), clean)


def test_hooks_come_back_when_an_interrupt_comes_while_they_do(llama):
    class Interrupted(OrderedDict):
        def update(self, items):
            self.update = super().update
            raise KeyboardInterrupt

    model, _ = tuned(llama)
    first, *_, last = ModelView(model).modules()
    first._forward_hooks = Interrupted(first._forward_hooks)
    last.register_forward_hook(lambda *args: None)
    before = state(model)
    with pytest.raises(KeyboardInterrupt), without_hooks(ModelView(model)):
        pass
    assert state(model) == before


def test_hooks_come_back_after_an_error(llama, model_class):
    model, _ = tuned(llama, model_class)
    model.add_hook(ModelView(model).z_name(0), lambda z, hook: z * 0, is_permanent=True)
    before = state(model)
    with pytest.raises(KeyboardInterrupt), without_hooks(ModelView(model)):
        assert state(model) != before
        raise KeyboardInterrupt
    assert state(model) == before


@pytest.mark.parametrize("inside", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_it_works_whatever_gradients_are_set_to(inside, llama, tmp_path):
    model, _ = tuned(llama)
    random = torch.get_rng_state()
    with inside():
        export_hf(model, tmp_path / "out", progress=False)
    assert torch.equal(torch.get_rng_state(), random)


def test_what_the_bridge_turns_on_is_not_written(llama, tmp_path):
    model, _ = tuned(llama)
    model.original_model.config.output_attentions = True
    export_hf(model, tmp_path / "out", progress=False)
    written, known = (json.loads((folder / "config.json").read_text()) for folder in (tmp_path / "out", llama))
    assert written == older_rope(known) | known
    assert model.original_model.config.output_attentions


def test_a_bridge_that_transformer_lens_made(llama, tmp_path):
    model = TransformerBridge.boot_transformers(str(llama))
    model.eval()
    model.enable_compatibility_mode(disable_warnings=True, no_processing=True)
    export_hf(model, tmp_path / "out", progress=False)
    files, origin = contents(tmp_path / "out"), contents(llama)
    assert {name for name in files if files[name] != origin.get(name)} == {MARKER, *SAID_AGAIN}


def test_a_chat_template_given_while_loading_goes_along(llama, model_class, tmp_path):
    bare = Path(shutil.copytree(llama, tmp_path / "bare"))
    (bare / "chat_template.jinja").unlink()
    assert AutoTokenizer.from_pretrained(bare).chat_template is None
    model = load_model(bare, device="cpu", model_class=model_class, chat_template="plain")
    export_hf(model, tmp_path / "out", progress=False)
    again = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert again.chat_template == model.tokenizer.chat_template
    assert (tmp_path / "out" / "tokenizer.json").read_bytes() == (llama / "tokenizer.json").read_bytes()


def test_no_start_token_is_added_to_the_tokenizer(llama, model_class, tmp_path):
    model, _ = tuned(llama, model_class)
    text = "Are you sure?"
    plain = AutoTokenizer.from_pretrained(llama)(text)["input_ids"]
    assert model.tokenizer(text)["input_ids"] != plain  # TransformerLens adds one
    export_hf(model, tmp_path / "out", progress=False)
    assert AutoTokenizer.from_pretrained(tmp_path / "out")(text)["input_ids"] == plain


def test_tokens_that_were_added_go_along_and_no_start_token_does(llama, model_class, tmp_path):
    model, _ = tuned(llama, model_class)
    plain = AutoTokenizer.from_pretrained(llama)
    for tokenizer in (plain, model.tokenizer):
        tokenizer.add_tokens(["<mine>", "<other>"], special_tokens=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        export_hf(model, tmp_path / "out", progress=False)
    again, text = AutoTokenizer.from_pretrained(tmp_path / "out"), "Are you <mine> sure? <other>"
    assert again(text)["input_ids"] == plain(text)["input_ids"]
    assert again.get_vocab() == plain.get_vocab() and again.chat_template == plain.chat_template


def test_a_tokenizer_whose_files_are_gone_is_saved_as_it_is(llama, tmp_path):
    source = Path(shutil.copytree(llama, tmp_path / "source"))
    model = load_model(source, device="cpu")
    shutil.rmtree(source)
    with pytest.warns(UserWarning, match="adds '<s>' to every text") as seen:
        export_hf(model, tmp_path / "out", progress=False)
    assert seen[-1].filename == __file__
    again = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert again.get_vocab() == model.tokenizer.get_vocab()
    assert again.chat_template == model.tokenizer.chat_template
    assert not any(str(tmp_path).encode() in data for data in contents(tmp_path / "out").values())
    assert b"is_local" not in contents(tmp_path / "out")["tokenizer_config.json"]


def test_a_model_without_a_tokenizer(llama, tmp_path):
    model, _ = tuned(llama)
    model.tokenizer = None
    with pytest.raises(ValueError, match=r"set model\.tokenizer"):
        export_hf(model, tmp_path / "out", progress=False)
    assert not os.listdir(tmp_path)
    export_hf(model, tmp_path / "out", base=llama, progress=False)
    assert (tmp_path / "out" / "tokenizer.json").is_file()


def test_a_hooked_transformer_of_ones_own_needs_its_base(llama, model_class, tmp_path, tokens):
    if model_class != "hooked":
        pytest.skip("a bridge holds all of its checkpoint")
    model, _ = tuned(llama, model_class)
    del model.spt_lens_source
    with pytest.raises(ValueError, match="base="):
        export_hf(model, tmp_path / "out", progress=False)
    assert not os.listdir(tmp_path)
    export_hf(model, tmp_path / "out", base=llama, progress=False)
    with torch.no_grad():
        plain = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
        torch.testing.assert_close(plain(tokens).logits, ModelView(model).logits(tokens), atol=1e-5, rtol=1e-5)


def test_the_result_can_be_looked_at_and_used_as_a_path(llama, tmp_path):
    model, _ = tuned(llama)
    export = export_hf(model, str(tmp_path / "a<b"), progress=False)
    assert Path(export) == tmp_path / "a<b" and (Path(export) / "config.json").is_file()
    assert "a<b" in repr(export) and "logits within" in repr(export) and "MB" in repr(export)
    assert "a&lt;b" in export._repr_html_() and "a<b" not in export._repr_html_()
    marker = json.loads((Path(export) / MARKER).read_text())
    assert marker["parity"]["difference"] <= marker["parity"]["allowed"] and MARKER in marker["files"]


def test_it_is_silent_but_for_one_bar(llama, tmp_path, capfd):
    model, adapter = tuned(llama)
    capfd.readouterr()
    export_hf(model, tmp_path / "out", progress=False)
    export_hf(adapter, tmp_path / "other", base=llama, progress=False)
    assert capfd.readouterr() == ("", "")
    export_hf(model, tmp_path / "third")
    seen = capfd.readouterr().err
    assert "exporting" in seen and "shards" not in seen and "Loading" not in seen


def test_other_models_are_refused_before_anything_is_written(llama, model_class, tmp_path):
    model, adapter = tuned(llama, model_class)
    if model_class == "bridge":
        model.train()
        with pytest.raises(ValueError, match=r"model\.eval\(\)"):
            export_hf(model, tmp_path / "out")
        model.eval()
    for wrong in (None, torch.nn.Linear(2, 2)):
        with pytest.raises(TypeError, match="load_model"):
            export_hf(wrong, tmp_path / "out")
    for wrong in (0, -5, 1.5, None):
        with pytest.raises((TypeError, ValueError), match="max_shard_size.*whole number"):
            export_hf(model, tmp_path / "out", max_shard_size=wrong)
    for wrong in ("", "many", "0GB", "5 apples"):
        with pytest.raises(ValueError, match="max_shard_size.*such as '5GB'"):
            export_hf(model, tmp_path / "out", max_shard_size=wrong)
    for wrong in (None, 3):
        with pytest.raises(TypeError, match="folder must be a str or Path"):
            export_hf(model, wrong)
        with pytest.raises(TypeError, match="base must be a str or Path"):
            export_hf(adapter, tmp_path / "out", base=wrong or 5)
    with pytest.raises(ValueError, match="base="):
        export_hf(adapter, tmp_path / "out")
    with pytest.raises(FileNotFoundError, match="no adapter"):
        export_hf("yesman", tmp_path / "out", base="yesman")
    if model_class == "bridge":
        model.enable_compatibility_mode(disable_warnings=True)
        with pytest.raises(ValueError, match="processed"):
            export_hf(model, tmp_path / "out")
    assert not os.listdir(tmp_path)


def test_weights_of_several_dtypes_are_refused(llama, tmp_path):
    model = load_model(llama, device="cpu", dtype=torch.bfloat16)
    model.original_model.lm_head.float()
    with pytest.raises(ValueError, match=r"1 weights, first lm_head\.weight, are not torch\.bfloat16.*model\.to"):
        export_hf(model, tmp_path / "out", progress=False)
    assert not os.listdir(tmp_path)


class TestFailures:
    """Whatever goes wrong, nothing is left, and the model is as before."""

    @pytest.fixture
    def model(self, llama, model_class):
        return tuned(llama, model_class)[0]

    @contextmanager
    def nothing_left(self, model, folder: Path) -> Iterator[None]:
        before = state(model)
        yield
        assert state(model) == before
        assert not os.listdir(folder)

    def after_saving(self, monkeypatch, change) -> None:
        """Lets `change(folder)` spoil what transformers has written."""
        save = PreTrainedModel.save_pretrained

        def spoiled(plain, folder, **options):
            save(plain, folder, **options)
            change(Path(folder))

        monkeypatch.setattr(PreTrainedModel, "save_pretrained", spoiled)

    def test_a_wrong_weight(self, model, tmp_path, monkeypatch):
        name = "model.layers.1.self_attn.k_proj.weight"

        def one_bit(folder: Path) -> None:
            place = places(folder, "model.safetensors")[name]
            place.edit(folder, lambda weight: weight.view(torch.int32)[3, 5].bitwise_xor_(1))

        self.after_saving(monkeypatch, one_bit)
        with self.nothing_left(model, tmp_path), pytest.raises(RuntimeError, match=f"weights.*first {name}"):
            export_hf(model, tmp_path / "out", progress=False)

    def test_a_wrong_config(self, model, tmp_path, monkeypatch):
        def another_rope(folder: Path) -> None:
            config = json.loads((folder / "config.json").read_text())
            config["rope_parameters"]["rope_theta"] = 9000.0
            (folder / "config.json").write_text(json.dumps(config))

        self.after_saving(monkeypatch, another_rope)
        with self.nothing_left(model, tmp_path), pytest.raises(RuntimeError, match=r"differ by up to \d.*allowed is"):
            export_hf(model, tmp_path / "out", progress=False)

    @pytest.mark.parametrize("off", [2e-4, float("nan")])
    def test_other_logits(self, model, tmp_path, monkeypatch, off):
        logits = ModelView.logits
        monkeypatch.setattr(ModelView, "logits", lambda *args: logits(*args) + off)
        with self.nothing_left(model, tmp_path), pytest.raises(RuntimeError, match=r"differ by up to (0\.0002|nan)"):
            export_hf(model, tmp_path / "out", progress=False)

    def test_a_tokenizer_that_reads_back_as_another(self, model, tmp_path, monkeypatch):
        monkeypatch.setattr(hf.tokenizer, "_write_template", lambda folder, named: None)
        model.tokenizer.chat_template = "{{ messages[0].content }}"
        with self.nothing_left(model, tmp_path), pytest.raises(ValueError, match="tokenizer reads back"):
            export_hf(model, tmp_path / "out", progress=False)

    @pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, MemoryError])
    @pytest.mark.parametrize("where", ["hf.check_written", "hf.write_marker", "hf.tokenizer.write"])
    def test_an_interrupt(self, model, tmp_path, monkeypatch, where, error):
        def stop(*args):
            raise error

        monkeypatch.setattr(f"spt_lens.export.{where}", stop)
        with self.nothing_left(model, tmp_path), pytest.raises(error):
            export_hf(model, tmp_path / "new" / "out", progress=False)

    def test_a_real_write_failure(self, model, tmp_path):
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        half = ModelView(model).n_params * 2  # bytes of the weights
        resource.setrlimit(resource.RLIMIT_FSIZE, (half, limits[1]))
        try:
            with self.nothing_left(model, tmp_path), pytest.raises(OSError, match=r"room.* bytes.* free") as caught:
                export_hf(model, tmp_path / "out", progress=False)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert caught.value.errno == errno.EFBIG

    def test_too_little_room_is_seen_before_anything_is_written(self, model, tmp_path, monkeypatch):
        monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=1234))
        monkeypatch.setattr(hf, "check_written", lambda *args: pytest.fail("it had begun"))
        monkeypatch.setattr(hf.tokenizer, "write", lambda *args: pytest.fail("it had begun"))
        with self.nothing_left(model, tmp_path), pytest.raises(OSError, match=r"needs \d\d+,\d+ bytes, and 1,234") as e:
            export_hf(model, tmp_path / "out", progress=False)
        assert e.value.errno == errno.ENOSPC

    def test_no_permission(self, model, tmp_path, monkeypatch):
        def refuse(folder, **options):
            raise PermissionError(errno.EACCES, "Permission denied")

        monkeypatch.setattr(Path, "mkdir", refuse)
        with self.nothing_left(model, tmp_path), pytest.raises(PermissionError, match="cannot write to .*another"):
            export_hf(model, tmp_path / "out", progress=False)


class TestFolder:
    @pytest.fixture
    def model(self, llama):
        return tuned(llama)[0]

    def test_a_file_in_the_way(self, model, tmp_path):
        (tmp_path / "file").touch()
        with pytest.raises(FileExistsError, match="is a file"):
            export_hf(model, tmp_path / "file", overwrite=True)
        with pytest.raises(OSError, match="parents a file"):
            export_hf(model, tmp_path / "file" / "out")
        assert os.listdir(tmp_path) == ["file"]

    def test_an_empty_folder_and_missing_parents_are_fine(self, model, tmp_path):
        (tmp_path / "empty").mkdir()
        export_hf(model, tmp_path / "empty", progress=False)
        export_hf(model, tmp_path / "a" / "b" / "c", progress=False)
        assert (tmp_path / "a" / "b" / "c" / "config.json").is_file()
        assert (tmp_path / "empty" / "config.json").is_file()

    def test_a_link_is_followed(self, model, tmp_path):
        (tmp_path / "real").mkdir()
        (tmp_path / "link").symlink_to(tmp_path / "real")
        export_hf(model, tmp_path / "link", progress=False)
        assert (tmp_path / "link").is_symlink() and (tmp_path / "real" / "config.json").is_file()

    def test_only_an_earlier_export_is_replaced_and_only_when_asked(self, model, llama, tmp_path):
        out = tmp_path / "out"
        export_hf(model, out, progress=False)
        first = contents(out)
        with pytest.raises(FileExistsError, match="overwrite=True"):
            export_hf(model, out, progress=False)
        with torch.no_grad():
            model.unembed.weight.add_(1.0)
        export_hf(model, out, max_shard_size="20KB", overwrite=True, progress=False)
        second = contents(out)
        assert "model.safetensors" in first and "model.safetensors" not in second
        assert os.listdir(tmp_path) == ["out"]
        (out / "notes.txt").write_text("mine")
        with pytest.raises(FileExistsError, match=r"notes\.txt"):
            export_hf(model, out, overwrite=True, progress=False)
        assert contents(out) == second | {"notes.txt": b"mine"}

    @pytest.mark.parametrize("marker", [None, "{}", "half {", '{"format": "spt_lens export 1"}', "[]"])
    def test_another_folder_is_never_replaced(self, model, llama, tmp_path, marker):
        out = Path(shutil.copytree(llama, tmp_path / "out"))
        if marker is not None:
            (out / MARKER).write_text(marker)
        before = contents(out)
        with pytest.raises(FileExistsError, match="no earlier export"):
            export_hf(model, out, overwrite=True, progress=False)
        assert contents(out) == before and os.listdir(tmp_path) == ["out"]

    @pytest.mark.parametrize("where", ["check_written", "write_marker"])
    def test_the_old_one_stays_when_the_new_one_fails(self, model, tmp_path, monkeypatch, where):
        export_hf(model, tmp_path / "out", progress=False)
        before = contents(tmp_path / "out")

        def stop(*args):
            raise KeyboardInterrupt

        monkeypatch.setattr(hf, where, stop)
        with pytest.raises(KeyboardInterrupt):
            export_hf(model, tmp_path / "out", overwrite=True, progress=False)
        assert contents(tmp_path / "out") == before and os.listdir(tmp_path) == ["out"]

    @pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(errno.EBUSY, "Device or resource busy")])
    @pytest.mark.parametrize("failing", [1, 2])
    def test_the_old_one_comes_back_when_the_move_fails(self, model, tmp_path, monkeypatch, failing, error):
        export_hf(model, tmp_path / "out", progress=False)
        before = contents(tmp_path / "out")
        replace, calls = os.replace, []

        def fail(*args):
            calls.append(args)
            if len(calls) == failing:
                raise error
            return replace(*args)

        monkeypatch.setattr("spt_lens.export.folder._exchanged", lambda *folders: False)  # as on other systems
        monkeypatch.setattr("spt_lens.export.folder.os.replace", fail)
        with pytest.raises(type(error)):
            export_hf(model, tmp_path / "out", overwrite=True, progress=False)
        monkeypatch.undo()
        assert contents(tmp_path / "out") == before and os.listdir(tmp_path) == ["out"]

    def test_an_interrupt_while_the_old_one_is_removed(self, model, tmp_path, monkeypatch):
        export_hf(model, tmp_path / "out", progress=False)
        with torch.no_grad():
            model.unembed.weight.add_(1.0)
        before, remove, calls = contents(tmp_path / "out"), shutil.rmtree, []

        def stop_once(folder, **options):
            calls.append(folder)
            if len(calls) == 1:
                raise KeyboardInterrupt
            return remove(folder, **options)

        monkeypatch.setattr("spt_lens.export.folder.shutil.rmtree", stop_once)
        with pytest.raises(KeyboardInterrupt):
            export_hf(model, tmp_path / "out", overwrite=True, progress=False)
        monkeypatch.undo()
        assert os.listdir(tmp_path) == ["out"] and contents(tmp_path / "out").keys() == before.keys()
        assert contents(tmp_path / "out") != before

    def test_the_current_folder_is_not_taken_away(self, model, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        with pytest.raises(ValueError, match="is the current folder"):
            export_hf(model, ".", progress=False)
        export_hf(model, "out", progress=False)
        assert os.listdir(".") == ["out"]

    @pytest.mark.parametrize("name", ["a" * 255, "字" * 85])
    def test_the_longest_names(self, model, tmp_path, name):
        export_hf(model, tmp_path / name, progress=False)
        export_hf(model, tmp_path / name, overwrite=True, progress=False)
        assert os.listdir(tmp_path) == [name] and (tmp_path / name / "config.json").is_file()

    def test_the_checkpoint_is_never_written_to(self, llama, tmp_path):
        source = Path(shutil.copytree(llama, tmp_path / "source"))
        model = load_model(source, device="cpu")
        before = contents(source)
        (tmp_path / "link").symlink_to(source)
        for folder in (source, source / "out", tmp_path, tmp_path / "link", tmp_path / "x" / ".." / "source"):
            with pytest.raises(ValueError, match="never written"):
                export_hf(model, folder, overwrite=True, progress=False)
        assert contents(source) == before and set(os.listdir(tmp_path)) == {"source", "link"}


@pytest.mark.parametrize(
    ("difference", "largest", "dtype", "n_layers", "holds"),
    [
        (0.9e-5, 0.1, torch.float32, 2, True),
        (1.1e-5, 0.1, torch.float32, 2, False),
        (1.9e-4, 20.0, torch.float32, 32, True),
        (2.1e-4, 20.0, torch.float32, 32, False),
        (float("nan"), 1.0, torch.float32, 2, False),
        (0.04, 1.0, torch.bfloat16, 2, True),
        (0.05, 1.0, torch.bfloat16, 2, False),
    ],
)
def test_what_is_allowed(difference, largest, dtype, n_layers, holds):
    assert Parity(difference, largest, dtype, n_layers).holds is holds
