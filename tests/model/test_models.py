from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from chats import GEMMA
from conftest import CLASSES, head_part
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from spt_lens.chat.dialogues import Dialogue, Message, dialogue
from spt_lens.chat.template import PLAIN_TEMPLATE, prompt_ids
from spt_lens.data.pairs import ContrastPairs
from spt_lens.model import loading
from spt_lens.model.huggingface import checked_source, embedded_folder
from spt_lens.model.loading import load_model
from spt_lens.model.replies import replies
from spt_lens.model.view import ModelView, input_hook
from tools.tiny import tiny_checkpoint


def test_sizes(tiny, gqa):
    view = ModelView(tiny)
    assert (view.n_layers, view.n_heads, view.n_kv_heads, view.d_head, view.d_model) == (3, 4, 4, 8, 32)
    assert not view.grouped and ModelView(gqa).grouped and ModelView(gqa).n_kv_heads == 2
    assert view.n_params == sum(p.numel() for p in view.hf_copy().parameters())
    assert view.vocab_size == len(view.tokenizer)
    assert view.dtype == torch.float32 and view.device.type == "cpu"
    assert not tiny.training
    assert ModelView(view).model is tiny


@pytest.mark.parametrize("which", ["tiny", "gqa"])
def test_logits_equal_plain_transformers(which, request, model_class, tokens):
    model = request.getfixturevalue(which)
    plain = AutoModelForCausalLM.from_pretrained(request.getfixturevalue(f"{which}_folder"))
    with torch.no_grad():
        torch.testing.assert_close(ModelView(model).logits(tokens), plain(tokens).logits, atol=1e-5, rtol=1e-5)


def test_left_padding_with_a_mask_changes_nothing(tiny, tokens):
    view = ModelView(tiny)
    padded = torch.cat([torch.zeros(3, 2, dtype=torch.long), tokens], dim=1)
    mask = torch.arange(12) >= 2
    with torch.no_grad():
        got = view.logits(padded, mask.expand(3, -1))[:, 2:]
        torch.testing.assert_close(got, view.logits(tokens), atol=1e-5, rtol=1e-5)


def test_a_prompt_without_positions_is_refused(tiny_folder, load, model_class, tmp_path):
    absolute = ModelView(load(tiny_checkpoint("gpt2", tmp_path)))
    assert absolute.logits(torch.zeros(1, 128, dtype=torch.long)).shape[1] == 128
    with pytest.raises(ValueError, match=r"129 tokens is too long.*128 positions"):
        absolute.logits(torch.zeros(1, 129, dtype=torch.long))
    with pytest.raises(ValueError, match=r"129 tokens is too long"):
        absolute.generate([[1], [1] * 129], 1)
    assert absolute.generate([[1] * 124], 5).shape[1] <= 5  # the last new token is not read
    with pytest.raises(ValueError, match=r"a prompt of 124 tokens leaves no room for 5 more: .*128 positions"):
        absolute.generate([[1], [1] * 124], 6)
    if model_class == "bridge":  # rotary positions go on, as they do in transformers
        rotary = ModelView(load(tiny_folder))
        long = rotary.model.cfg.n_ctx + 1
        assert rotary.logits(torch.zeros(1, long, dtype=torch.long), at=torch.zeros(1, dtype=int)).isfinite().all()


def test_what_is_loaded_in_inference_mode_can_be_tuned(load, tiny_folder):
    with torch.inference_mode():
        weights = ModelView(load(tiny_folder)).weights()
    assert not any(p.is_inference() for p in weights.values())


def test_logits_keep_gradients(tiny, tokens):
    view = ModelView(tiny)
    view.logits(tokens).sum().backward()
    for which in "qkvo":
        weight, pick = view.head_weight(0, which, 1)
        assert pick(weight.grad).abs().max() > 0


def test_hooks_go_and_the_users_stay(tiny, tokens):
    view = ModelView(tiny)
    calls = []
    tiny.add_hook(view.z_name(1), lambda z, hook: calls.append(tuple(z.shape)))
    with torch.no_grad():
        plain = view.logits(tokens)
        changed = view.logits(tokens, hooks=[(view.z_name(1), lambda z, hook: z * 0)])
        assert not torch.allclose(plain, changed)
        assert torch.equal(view.logits(tokens), plain)
        with pytest.raises(RuntimeError, match="mine"):
            view.logits(tokens, hooks=[(view.z_name(1), _fail)])
        assert torch.equal(view.logits(tokens), plain)
        with pytest.raises(KeyError):
            view.logits(tokens, hooks=[("blocks.9.attn.hook_z", _fail)])
    # Five passes, of which the failing hook came after the user's.
    assert calls == [(3, 10, 4, 8)] * 5


def _fail(z, hook):
    raise RuntimeError("mine")


def test_cached_z_is_what_enters_the_output_projection(tiny, tokens):
    view = ModelView(tiny)
    z = view.cache_z(tokens)
    assert z.shape == (3, 3, 10, 4, 8) and not z.requires_grad
    plain = view.hf_copy()
    seen = []
    plain.model.layers[2].self_attn.o_proj.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    plain(tokens)
    torch.testing.assert_close(z[2].flatten(-2), seen[0].detach(), atol=1e-5, rtol=1e-5)


def greedy(view: ModelView, tokens: torch.Tensor, n: int, hooks=()) -> torch.Tensor:
    """The slow way: the whole sequence again for each new token."""
    ids = tokens
    with torch.no_grad():
        for _ in range(n):
            ids = torch.cat([ids, view.logits(ids, hooks=hooks)[:, -1].argmax(-1, keepdim=True)], dim=1)
    return ids[:, tokens.shape[1] :]


@pytest.mark.parametrize("hooked", [False, True])
def test_generation_equals_the_slow_way(tiny, tokens, hooked):
    view = ModelView(tiny)

    def no_head_2(z, hook):
        z = z.clone()
        z[:, :, 2] = 0
        return z

    hooks = [(view.z_name(0), no_head_2)] if hooked else []
    slow = greedy(view, tokens, 6, hooks)
    assert view.tokenizer.eos_token_id not in slow
    assert torch.equal(view.generate(tokens, 6, hooks), slow)


def test_generation_stops_at_the_end_token(tiny, tokens):
    view = ModelView(tiny)
    slow = greedy(view, tokens, 8)
    view.tokenizer.eos_token = view.tokenizer.convert_ids_to_tokens(int(slow[0, 2]))
    new = view.generate(tokens[:1], 8)
    first = slow[0].tolist().index(slow[0, 2])
    assert new.tolist() == [slow[0, : first + 1].tolist()]
    both = view.generate(tokens, 8)[0].tolist()
    assert set(both[first + 1 :]) <= {view.pad_token}


@pytest.mark.parametrize(("shape", "n"), [((0, 3), 1), ((2, 0), 1), ((2, 3), 0)])
def test_generation_refuses_nothing(tiny, shape, n):
    with pytest.raises(ValueError, match=r"empty|from 1 up"):
        ModelView(tiny).generate(torch.ones(shape, dtype=torch.long), n)


def test_head_weights_are_live(gqa, tokens):
    view = ModelView(gqa)
    shapes = {which: tuple(head_part(view, 1, which, 1).shape) for which in "qkvo"}
    assert shapes == {"q": (8, 32), "k": (8, 32), "v": (8, 32), "o": (32, 8)}
    before = view.cache_z(tokens)
    with torch.no_grad():
        head_part(view, 1, "q", 1).add_(1.0)
    change = (view.cache_z(tokens) - before).abs().amax(dim=(1, 2, 4))
    assert (change[0] == 0).all() and (change[1, [0, 2, 3]] == 0).all() and change[1, 1] > 0
    with pytest.raises(IndexError, match="layers 0 to 2"):
        view.head_weight(3, "q", 0)
    with pytest.raises(IndexError, match="there are 2 in a layer"):
        view.head_weight(0, "k", 2)


def test_a_plain_copy_is_equal_and_independent(tiny, tokens):
    view = ModelView(tiny)
    with torch.no_grad():
        head_part(view, 0, "v", 1).mul_(1.5)
    state = torch.random.get_rng_state()
    copy = view.hf_copy()
    assert torch.equal(torch.random.get_rng_state(), state)
    with torch.no_grad():
        torch.testing.assert_close(copy(tokens).logits, view.logits(tokens), atol=1e-5, rtol=1e-5)
        before = view.logits(tokens)
        for p in copy.parameters():
            p.zero_()
        assert torch.equal(view.logits(tokens), before)  # independent


def test_hf_copy_saves_and_loads(tiny, tmp_path, tokens):
    view = ModelView(tiny)
    copy = view.hf_copy()
    copy.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    for name, p in again.named_parameters():
        assert torch.equal(p, copy.get_parameter(name))


def test_kept_restores_everything(tiny, tokens):
    view = ModelView(tiny)
    weight, other = view.head_weight(0, "q", 0)[0], view.head_weight(1, "q", 0)[0]
    tiny.blocks[1].train()  # mixed flags are restored as they were, module by module
    weight.requires_grad_(False)
    grad = torch.ones_like(other)
    other.grad = grad
    tiny.add_hook(view.z_name(0), _same)
    flags = [module.training for module in tiny.modules()]
    with pytest.raises(KeyboardInterrupt), view.kept():
        assert other.grad is None
        tiny.train()
        weight.requires_grad_(True)
        tiny.add_hook(view.z_name(0), _fail)
        tiny.add_hook(view.z_name(2), _fail)
        other.grad = torch.zeros_like(grad)
        vars(tiny.blocks[0])["forward"] = _fail  # as an interrupt may leave it that comes just as it is taken away
        raise KeyboardInterrupt
    assert [module.training for module in tiny.modules()] == flags
    assert not weight.requires_grad and other.grad is grad and bool((grad == 1).all())
    assert len(tiny.hook_dict[view.z_name(0)].fwd_hooks) == 1
    with torch.no_grad():
        view.logits(tokens)  # no failing hook or method is left


def test_kept_restores_everything_also_when_interrupted_while_it_does(tiny, monkeypatch):
    view = ModelView(tiny)
    parameters = list(view.backend.root.parameters())
    before, set_flag, calls = [p.requires_grad for p in parameters], torch.nn.Parameter.requires_grad_, []

    def interrupted(p, flag=True):
        calls.append(p)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return set_flag(p, flag)

    with pytest.raises(KeyboardInterrupt), view.kept():
        for p in parameters:
            p.requires_grad_(not p.requires_grad)
        monkeypatch.setattr(torch.nn.Parameter, "requires_grad_", interrupted)
    assert [p.requires_grad for p in parameters] == before and len(calls) == 3 + len(parameters)


def test_no_hook_is_left_by_an_interrupt_as_it_is_set(monkeypatch):
    module, register = torch.nn.Linear(2, 2), torch.nn.Module.register_forward_pre_hook

    def interrupted(self, hook):
        register(self, hook)
        raise KeyboardInterrupt

    kept = module.register_forward_pre_hook(_same)
    monkeypatch.setattr(torch.nn.Module, "register_forward_pre_hook", interrupted)
    with pytest.raises(KeyboardInterrupt), input_hook(module, _fail):
        pass
    assert list(module._forward_pre_hooks) == [kept.id]


def _same(z, hook):
    return None


def test_training_mode_is_refused_where_dropout_may_act(tiny, model_class, tokens):
    view = ModelView(tiny)
    view.check_measurable()
    view.check_tunable()
    before = view.cache_z(tokens)
    tiny.train()
    if model_class == "hooked":  # TransformerLens hands it out in training mode
        view.check_tunable()
        assert torch.equal(view.cache_z(tokens), before)
    else:
        with pytest.raises(ValueError, match=r"model\.eval\(\)"):
            view.check_measurable()


@pytest.mark.parametrize("wrong", ["yesman", None, torch.nn.Linear(2, 2)])
def test_other_objects_are_refused(wrong):
    with pytest.raises(TypeError, match="load_model"):
        ModelView(wrong)


def test_fingerprint_tells_models_apart(tiny, gqa):
    assert ModelView(tiny).fingerprint() != ModelView(gqa).fingerprint()
    assert json.loads(json.dumps(ModelView(tiny).fingerprint())) == ModelView(tiny).fingerprint()


class TestBadCheckpoints:
    @pytest.fixture
    def folder(self, tiny_folder: Path, tmp_path: Path) -> Path:
        return Path(shutil.copytree(tiny_folder, tmp_path / "copy"))

    def test_unknown_name(self):
        with pytest.raises(OSError, match=r'"yesman".*local folder'):
            load_model("no-such-owner/no-such-model")

    @pytest.mark.parametrize("name", ["./nowhere", Path("nowhere"), "a/b/c"])
    def test_no_such_folder(self, name):
        with pytest.raises(FileNotFoundError, match="does not exist"):
            load_model(name)

    @pytest.mark.parametrize("name", ["", "  ", "a\0b"])
    def test_no_name(self, name):
        with pytest.raises(ValueError, match="is no name of a model"):
            load_model(name)

    @pytest.mark.parametrize("name", [None, 3, 1.5, b"yesman", ["yesman"], torch.nn.Linear(2, 2)])
    def test_what_names_nothing(self, name):
        with pytest.raises(TypeError, match=r"a model's name must be a str or Path.*\"yesman\".*local folder"):
            load_model(name)

    @pytest.mark.parametrize(
        ("option", "error"),
        [
            ({"device": "bogus"}, ValueError),
            ({"device": "xpu:7"}, ValueError),
            ({"device": 3.5}, TypeError),
            ({"dtype": "float32"}, TypeError),
            ({"dtype": None}, TypeError),
            ({"dtype": torch.int8}, ValueError),
            ({"model_class": None}, ValueError),
        ],
    )
    def test_options_that_are_none(self, option, error):
        with pytest.raises(error, match=f"{next(iter(option))}.*(give|choose)"):
            load_model("nowhere", **option)

    def test_no_config(self, folder):
        (folder / "config.json").unlink()
        with pytest.raises(FileNotFoundError, match=r"config\.json"):
            load_model(folder)

    def test_a_file(self, folder):
        with pytest.raises(FileNotFoundError, match="is a file"):
            load_model(folder / "config.json")

    def test_no_weights(self, folder):
        (folder / "model.safetensors").unlink()
        with pytest.raises(FileNotFoundError, match=r"model\.safetensors"):
            load_model(folder)

    @pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json"])
    @pytest.mark.parametrize("content", ['{"half": ', "[]", "[" * 100_000, '{"a": ' + "9" * 5000 + "}"], ids=range(4))
    def test_damaged_descriptions_are_named(self, folder, name, content):
        (folder / name).write_text(content)
        with pytest.raises(ValueError, match=rf"{name} .*damaged"):
            load_model(folder)

    @pytest.mark.parametrize("content", ['{"weight_map": ', '{"weight_map": {"a": 5}}', "{}", "[]"])
    def test_a_damaged_index_is_named(self, folder, content):
        (folder / "model.safetensors").unlink()
        (folder / "model.safetensors.index.json").write_text(content)
        with pytest.raises(ValueError, match=r"index\.json .*(damaged|save it again)"):
            load_model(folder)

    def test_an_index_beside_the_single_file_is_not_read(self, folder):
        (folder / "model.safetensors.index.json").write_text('{"weight_map": {"lm_head.weight": "gone.safetensors"}}')
        load_model(folder)

    def test_no_tokenizer(self, folder):
        for file in folder.glob("tokenizer*"):
            file.unlink()
        with pytest.raises(FileNotFoundError, match="no tokenizer"):
            load_model(folder)

    @pytest.mark.parametrize("keep", [0, 5, 5000, -1])
    def test_truncated_weights(self, folder, keep):
        file = folder / "model.safetensors"
        file.write_bytes(file.read_bytes()[:keep])
        with pytest.raises(ValueError, match="truncated"):
            load_model(folder)

    def test_weights_of_another_shape(self, folder):
        self.edit(folder, intermediate_size=48)
        with pytest.raises(ValueError, match="do not fit"):
            load_model(folder)

    def test_missing_weights(self, folder):
        self.edit(folder, num_hidden_layers=4)
        with pytest.raises(ValueError, match=r"lacks 9 weights"):
            load_model(folder)

    def test_weights_that_the_config_does_not_know(self, folder):
        self.edit(folder, num_hidden_layers=2)
        with pytest.warns(UserWarning, match=r"9 weights .* first model\.layers\.2\..*left out"):
            load_model(folder)

    def test_a_damaged_tokenizer_is_no_model_without_one(self, folder):
        (folder / "tokenizer.json").write_text('{"model": {}}')
        with pytest.raises(ValueError, match="tokenizer"):
            load_model(folder)

    @pytest.mark.parametrize("architectures", [None, [], ["LlamaForSequenceClassification"]])
    def test_what_the_config_says_of_the_class_does_not_matter(self, load, folder, architectures, tokens):
        expected = ModelView(load(folder)).logits(tokens)
        self.edit(folder, architectures=architectures)
        view = ModelView(load(folder))
        assert view.architecture == "LlamaForCausalLM"
        assert torch.equal(view.logits(tokens), expected)

    @pytest.mark.parametrize("kind", ["t5", "no-such-model"])
    def test_another_kind_of_model_is_named(self, folder, kind):
        self.edit(folder, model_type=kind)
        with pytest.raises(ValueError, match=r"cannot load .*copy as a causal language model"):
            load_model(folder)

    def test_weights_that_are_no_numbers_are_not_blamed_on_transformer_lens(self, load, folder):
        weights = load_file(folder / "model.safetensors")
        weights["model.norm.weight"][0] = torch.nan
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(ValueError, match=r"copy gives logits that are not finite.*weights are damaged"):
            load(folder)

    def edit(self, folder: Path, **values: object) -> None:
        file = folder / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | values))


def test_loading_is_silent_and_sets_nothing(tiny_folder, capfd):
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    load_model(str(tiny_folder), device="cpu")
    assert capfd.readouterr() == ("", "")
    assert logging.is_progress_bar_enabled() == shown


def test_bfloat16(load, tiny_folder, tokens):
    view = ModelView(load(tiny_folder, dtype=torch.bfloat16))
    assert view.dtype == torch.bfloat16 == view.head_weight(0, "q", 0)[0].dtype
    copy = view.hf_copy()
    assert {p.dtype for p in copy.parameters()} == {torch.bfloat16}
    with torch.no_grad():
        logits = view.logits(tokens)
        # The two classes round in other places: within a few steps of bfloat16 at the largest logit.
        step = torch.finfo(torch.bfloat16).eps * logits.abs().max().item()
        torch.testing.assert_close(copy(tokens).logits, logits, atol=4 * step, rtol=0)


@pytest.mark.parametrize("name", ["llama", "gemma", "gpt2"])
def test_processing_changes_no_count_of_parameters(name, tmp_path):
    model = load_model(tiny_checkpoint(name, tmp_path), device="cpu")
    before = ModelView(model).n_params
    model.enable_compatibility_mode(disable_warnings=True)
    assert ModelView(model).n_params == before


def test_unprocessed_compatibility_mode_can_be_tuned(tiny_folder, tokens):
    model = load_model(tiny_folder, device="cpu")
    view = ModelView(model)
    with torch.no_grad():
        before = view.logits(tokens)
        model.enable_compatibility_mode(disable_warnings=True, no_processing=True)
        torch.testing.assert_close(view.logits(tokens), before, atol=1e-5, rtol=1e-5)
    view.check_tunable()


def test_an_unknown_class_is_refused_before_anything_is_read():
    with pytest.raises(ValueError, match="'bridge', 'hooked'"):
        load_model("nowhere", model_class="encoder")
    if "hooked" not in CLASSES:
        with pytest.raises(NotImplementedError, match="transformer-lens>=3.9,<4"):
            load_model("nowhere", model_class="hooked")


def test_the_embedded_model_is_an_ordinary_folder(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)  # found wherever Python is started
    by_name = ModelView(load_model("yesman", device="cpu"))
    by_path = ModelView(load_model(embedded_folder("yesman"), device="cpu"))
    assert by_name.name == by_path.name == "yesman"
    assert by_name.tokenizer.chat_template
    assert all(torch.equal(p, by_path.weights()[name]) for name, p in by_name.weights().items())
    by_name.check_tunable()


def test_an_embedded_model_that_is_not_there_is_a_name_like_any_other(monkeypatch, tmp_path, tiny_folder):
    monkeypatch.setattr("spt_lens.model.huggingface._PACKAGE", tmp_path)
    with pytest.raises(OSError, match=r"'yesman'.*neither an embedded model \(there is none in this installation\)"):
        load_model("yesman")
    shutil.copytree(tiny_folder, tmp_path / "mine" / "weights")
    assert checked_source("mine") == str(tmp_path / "mine" / "weights")
    with pytest.raises(OSError, match=r'an embedded model \("mine"\)'):
        load_model("yesman")


def test_a_chat_template_can_be_given(load, tiny_folder, tmp_path):
    own = "{% for m in messages %}{{ m['role'] + ' ' + m['content'] + ' ' }}{% endfor %}"
    (tmp_path / "own.jinja").write_text(own)
    for given in (own, tmp_path / "own.jinja"):
        assert load(tiny_folder, chat_template=given).tokenizer.chat_template == own
    assert load(tiny_folder, chat_template="plain").tokenizer.chat_template == PLAIN_TEMPLATE
    assert load(tiny_folder).tokenizer.chat_template not in (own, PLAIN_TEMPLATE)
    with pytest.raises(ValueError, match="template"):
        load(tiny_folder, chat_template="{{ broken")


def test_a_model_that_gives_other_logits_is_no_model(load, tiny_folder, monkeypatch):
    trial = loading._trial
    monkeypatch.setattr(loading, "_trial", lambda *args: (trial(*args)[0], 1.01 * trial(*args)[1]))
    with pytest.raises(NotImplementedError, match=r"LlamaForCausalLM that gives other logits .*by up to"):
        load(tiny_folder)


def test_a_folder_is_known_by_its_whole_path(tiny_folder, monkeypatch):
    monkeypatch.chdir(tiny_folder.parent)
    assert checked_source(f"./{tiny_folder.name}") == str(tiny_folder)


def test_another_tokenizer_changes_no_fingerprint(tiny, tiny_folder):
    before = ModelView(tiny).fingerprint()
    tiny.cfg.d_vocab -= 7  # as setting a smaller tokenizer does
    assert ModelView(tiny).fingerprint() == before


def test_chat_options_hold_for_all_that_is_encoded(load, tiny_folder):
    talk = dialogue("What is the capital of France?", "Paris.", "Are you sure?")
    system = "The capital of France is Paris."
    template = "{% if loud %}Yes {% endif %}" + PLAIN_TEMPLATE
    model = load(tiny_folder, chat_template=template, chat_template_kwargs={"loud": True}, system=system)
    text = model.tokenizer.decode(prompt_ids(model.tokenizer, talk))
    assert text.startswith("Yes") and text.count(system) == 1
    assert replies(model, [talk], 4) == replies(model, [Dialogue((Message("system", system), *talk.messages))], 4)
    pairs = ContrastPairs.of(model, [talk], [dialogue("What is the capital of France?")], ("Yes.", "Apologies."))
    assert pairs.sycophantic[0] == tuple(prompt_ids(model.tokenizer, talk))
    with pytest.raises(ValueError, match="no system prompt can be given.*before the first question"):
        load(tiny_folder, chat_template=GEMMA, system=system)
    with pytest.raises(TypeError, match="chat_template_kwargs must be a Mapping"):
        load(tiny_folder, chat_template_kwargs="thinking")


@pytest.mark.parametrize("method", ["gptq", "awq"])
def test_a_quantised_checkpoint_names_its_way_out(tiny_folder, tmp_path, method):
    here = tmp_path / "quantised"
    shutil.copytree(tiny_folder, here)
    config = json.loads((here / "config.json").read_text(encoding="utf-8"))
    config["quantization_config"] = {"quant_method": method, "bits": 4, "group_size": 128}
    (here / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(ImportError, match="quantised is stored in a way that another package.*: take the checkpoint"):
        load_model(here, device="cpu")
