"""Every known architecture, as every model class: where a head's weights are, and that nothing else moves.

Written out apart from `spt_lens.support`, which runs the like on users' checkpoints. The witness is plain transformers.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from conftest import CLASSES, head_part
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from spt_lens.heads import HeadSet
from spt_lens.model import hooked
from spt_lens.model.loading import load_model
from spt_lens.model.view import Model, ModelView
from spt_lens.patching.activation import activation_patching
from spt_lens.support.probes import ASKED
from spt_lens.tune.adapter import Adapter
from spt_lens.tune.pinpoint import pinpoint_tune
from spt_lens.tune.slices import head_slices
from spt_lens.tune.training import TuneConfig
from spt_lens.yesman import Yesman
from tools.tiny import TINY, tiny_checkpoint

UNKNOWN = ["olmo2", "opt"]
NAMES = [name for name in TINY if name not in UNKNOWN]
BRIDGE_ONLY = ["ministral3", "gemma3", "smollm3", "granite", "stablelm"]
FUSED = ["phi3", "gpt2", "neox"]
CASES = [(name, c) for name in NAMES for c in CLASSES if c == "bridge" or name not in BRIDGE_ONLY]
DTYPES = [torch.float32, torch.bfloat16]
HEADS = HeadSet.parse("L0.H1 L1.H2")
DIALOGUES = ASKED.cases(None, n=4)
QUICK = TuneConfig(lr=2e-2, steps=2, batch_size=4, warmup_share=0, weight_decay=0.1, projections="qkvo")

each_case = pytest.mark.parametrize(("name", "model_class"), CASES)
each_class = pytest.mark.parametrize("model_class", CLASSES)
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=["float32", "bfloat16"])


@pytest.fixture
def tokens() -> torch.Tensor:
    """Three random prompts of ten tokens of the tiny checkpoints' own small vocabulary."""
    return torch.randint(6, 120, (3, 10), generator=torch.Generator().manual_seed(0))


def plain_model(folder: Path, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation="eager").eval()


def as_heads(plain: PreTrainedModel, layer: int, which: str) -> Tensor:
    """A projection's weights in a plain model, head by head: a view, [units, d_head, d_model], for o its transpose."""
    config, kind = plain.config, plain.config.model_type
    n, d = (
        config.num_attention_heads,
        getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads,
    )
    groups = getattr(config, "num_key_value_heads", n)
    own = {"gpt2": "transformer.h.{}.attn", "gpt_neox": "gpt_neox.layers.{}.attention"}
    block = plain.get_submodule(own.get(kind, "model.layers.{}.self_attn").format(layer))
    if which == "o":
        weight = (
            block.c_proj.weight.T
            if kind == "gpt2"
            else block.dense.weight
            if kind == "gpt_neox"
            else block.o_proj.weight
        )
        return weight.unflatten(1, (n, d)).permute(1, 0, 2)
    if kind == "gpt2":
        return block.c_attn.weight.T.chunk(3)["qkv".index(which)].unflatten(0, (n, d))
    if kind == "gpt_neox":
        return block.query_key_value.weight.unflatten(0, (n, 3, d))[:, "qkv".index(which)]
    if kind == "phi3":
        parts = block.qkv_proj.weight.split([n * d, groups * d, groups * d])
        return parts["qkv".index(which)].unflatten(0, (-1, d))
    return getattr(block, f"{which}_proj").weight.unflatten(0, (-1, d))


def attention_output(model: Model, layer: int, tokens: Tensor) -> Tensor:
    """What a layer's attention gives, before any norm or residual sum."""
    found = []
    handle = model.blocks[layer].attn.register_forward_hook(
        lambda module, args, output: found.append(output if isinstance(output, Tensor) else output[0])
    )
    with torch.no_grad():
        ModelView(model).logits(tokens)
    handle.remove()
    return found[0].float()


def largest(difference: Tensor) -> float:
    return difference.abs().max().item()


def check_slices(model: Model, plain: PreTrainedModel, tokens: Tensor) -> None:
    """Every slice of layer 1 belongs to the heads it should, in the model and in the plain copy."""
    view, layer = ModelView(model), 1
    group = view.n_heads // view.n_kv_heads
    rounding = 1e-5 if view.dtype == torch.float32 else 4 * torch.finfo(view.dtype).eps
    z, written = view.cache_z(tokens)[layer], attention_output(model, layer, tokens)
    for which in "qkvo":
        units = as_heads(plain, layer, which)
        assert len(units) == (view.n_kv_heads if which in "kv" else view.n_heads)
        for unit, weights in enumerate(units):
            part = head_part(model, layer, which, unit)
            before = part.detach().clone()
            assert torch.equal(before, weights)  # where Hugging Face has them
            with torch.no_grad():
                part += torch.randn(part.shape, generator=torch.Generator().manual_seed(unit)).to(part)
                change = (part - before).float()
            moved = view.cache_z(tokens)[layer] != z
            heads = {head for head in range(view.n_heads) if moved[:, :, head].any()}
            expected = {"q": {unit}, "o": set()}.get(which, set(range(unit * group, unit * group + group)))
            assert heads == expected, (which, unit)
            if which == "o":
                sum_of_head = torch.einsum("bpd,md->bpm", z[:, :, unit].float(), change)
                now = attention_output(model, layer, tokens)
                assert largest(sum_of_head) > 0.1
                assert largest(now - written - sum_of_head) <= rounding * max(largest(now), largest(written))
            with torch.no_grad():
                part.copy_(before)


@each_dtype
@each_case
def test_each_slice_is_its_heads(name, model_class, dtype, folder_of, tokens):
    folder = folder_of(name)
    model = load_model(folder, dtype=dtype, device="cpu", model_class=model_class)
    check_slices(model, plain_model(folder, dtype), tokens)


def tuned(model: Model, config: TuneConfig = QUICK) -> Adapter:
    run = pinpoint_tune(model, HEADS, DIALOGUES, config, progress=False)
    assert len(run.adapter.after) == len(head_slices(model, HEADS, "qkvo"))
    return run.adapter


def check_only_slices(before: PreTrainedModel, after: PreTrainedModel) -> None:
    """Of two plain models, only the slices of HEADS differ, and all of them do."""
    group = before.config.num_attention_heads // (
        getattr(before.config, "num_key_value_heads", None) or before.config.num_attention_heads
    )
    for layer, head in HEADS:
        for which in "qkvo":
            unit = head // group if which in "kv" else head
            old, new = (as_heads(model, layer, which)[unit] for model in (before, after))
            assert (old != new).float().mean() > 0.5, (layer, which)
            with torch.no_grad():
                new.copy_(old)  # what is left must be as it was
    olds, news = dict(before.named_parameters()), dict(after.named_parameters())
    assert olds.keys() == news.keys()
    assert [name for name in olds if not torch.equal(olds[name], news[name])] == []


@each_dtype
@each_case
def test_tuning_leaves_every_other_bit(name, model_class, dtype, folder_of, tokens):
    folder = folder_of(name)
    model = load_model(folder, dtype=dtype, device="cpu", model_class=model_class)
    view, plain = ModelView(model), plain_model(folder, dtype)
    with torch.no_grad():
        untuned = view.logits(tokens)
        adapter = tuned(model)
        copy = view.hf_copy()
        live = view.logits(tokens)
        step = 1e-5 if dtype == torch.float32 else 8 * torch.finfo(dtype).eps
        assert largest(live - untuned) > 2 * step * largest(live)
        assert largest(copy(tokens).logits - live) <= step * largest(live)
    check_only_slices(plain, copy)
    adapter.revert(model)
    with torch.no_grad():
        assert torch.equal(view.logits(tokens), untuned)
    again = dict(view.hf_copy().named_parameters())
    assert all(torch.equal(p, again[name]) for name, p in plain.named_parameters())


@pytest.mark.parametrize(
    ("name", "model_class"), [case for case in CASES if case[0] in ("llama-grouped", "gemma2", *FUSED)]
)
def test_small_steps_add_up_in_bfloat16(name, model_class, folder_of):
    """A step of 3e-5 is less than half of what bfloat16 tells apart in most weights; forty are more."""
    model = load_model(folder_of(name), dtype=torch.bfloat16, device="cpu", model_class=model_class)
    few = {"lr": 3e-5, "batch_size": 2, "warmup_share": 0, "schedule": "constant", "projections": "qkvo"}

    def moved(steps: int) -> float:
        adapter = tuned(model, TuneConfig(steps=steps, **few))
        adapter.revert(model)
        old, new = (torch.cat([w.flatten() for w in values.values()]) for values in (adapter.before, adapter.after))
        return (old != new).float().mean().item()

    assert moved(1) < 0.1
    assert moved(40) > 0.5


@pytest.mark.parametrize(("name", "model_class"), [case for case in CASES if case[0] in ("llama-grouped", *FUSED)])
def test_a_model_moved_to_another_dtype_after_loading(name, model_class, folder_of, tokens):
    """The bridge's views into a fused weight are then copies, and the fused weight is stale."""
    folder = folder_of(name)
    model, plain = load_model(folder, device="cpu", model_class=model_class), plain_model(folder, torch.bfloat16)
    model.to(torch.bfloat16)
    view = ModelView(model)
    assert view.dtype == torch.bfloat16
    check_slices(model, plain, tokens)
    fresh = load_model(folder, dtype=torch.bfloat16, device="cpu", model_class=model_class)
    adapter = tuned(model)
    if model_class == "bridge":  # a HookedTransformer copies what is not tuned from its checkpoint, in its own dtype
        copy = view.hf_copy()
        with torch.no_grad():
            live = view.logits(tokens)
            assert largest(copy(tokens).logits - live) <= 8 * torch.finfo(torch.bfloat16).eps * largest(live)
        check_only_slices(plain, copy)
    adapter.apply(fresh)
    with torch.no_grad():  # moving rounds the frequencies of rotary positions too, which loading does not
        live, loaded = view.logits(tokens), ModelView(fresh).logits(tokens)
    assert largest(loaded - live) <= 8 * torch.finfo(torch.bfloat16).eps * largest(live)


@each_dtype
@each_case
def test_padding_with_a_mask_changes_nothing(name, model_class, dtype, folder_of, tokens):
    """Also where positions are learned, and where a window counts them."""
    view = ModelView(load_model(folder_of(name), dtype=dtype, device="cpu", model_class=model_class))
    tokens = torch.cat([tokens, tokens.flip(1)], dim=1)  # longer than the windows
    pad = torch.zeros(3, 4, dtype=torch.long)
    real = torch.ones_like(tokens, dtype=torch.bool)
    step = 1e-5 if dtype == torch.float32 else 8 * torch.finfo(dtype).eps
    with torch.no_grad():
        alone = view.logits(tokens)
        left = view.logits(torch.cat([pad, tokens], dim=1), torch.cat([pad.bool(), real], dim=1))[:, 4:]
        right = view.logits(torch.cat([tokens, pad], dim=1), torch.cat([real, pad.bool()], dim=1))[:, :-4]
        unmasked = view.logits(torch.cat([pad, tokens], dim=1))[:, 4:]
    assert largest(left - alone) <= step * largest(alone)
    assert largest(right - alone) <= step * largest(alone)
    assert largest(unmasked - alone) > 2 * step * largest(alone)  # so the mask is what does it


@each_case
def test_parameters_are_counted_as_the_checkpoint_has_them(name, model_class, folder_of):
    folder = folder_of(name)
    model, plain = load_model(folder, device="cpu", model_class=model_class), plain_model(folder)
    view = ModelView(model)
    assert view.n_params == sum(p.numel() for p in plain.parameters())
    for letters in ("qkvo", "qo", "v"):
        slices = head_slices(model, HEADS, letters)
        assert sum(piece.read().numel() for piece in slices) == len(HEADS) * len(letters) * view.d_head * view.d_model
        assert HEADS.parameters(view, letters) == sum(piece.read().numel() for piece in slices)
    assert as_heads(plain, 0, "k").shape == (view.n_kv_heads, view.d_head, view.d_model)


@each_case
def test_shared_keys_and_values_are_reported(name, model_class, folder_of):
    model = load_model(folder_of(name), device="cpu", model_class=model_class)
    group = ModelView(model).n_heads // ModelView(model).n_kv_heads
    run = pinpoint_tune(model, HEADS, DIALOGUES, TuneConfig(steps=1, batch_size=2, projections="qkvo"), progress=False)
    expected = {1: "", 2: "L0.H0 L1.H3", 4: "L0.H0 L0.H2 L0.H3 L1.H0 L1.H1 L1.H3"}[group]
    assert run.shared == HeadSet.parse(expected) if expected else not run.shared
    assert ("share" in run.summary()) == (group > 1)


@pytest.mark.skipif("hooked" not in CLASSES, reason="only TransformerLens 3.9 has both classes")
@pytest.mark.parametrize("name", [name for name in NAMES if name not in BRIDGE_ONLY])
def test_an_adapter_fits_the_other_class(name, folder_of, tokens, tmp_path):
    for one, other in (("bridge", "hooked"), ("hooked", "bridge")):
        model, second = (load_model(folder_of(name), device="cpu", model_class=c) for c in (one, other))
        adapter = tuned(model)
        Adapter.load(adapter.save(tmp_path / one)).apply(second)
        tuned_weights = [dict(ModelView(m).hf_copy().named_parameters()) for m in (model, second)]
        assert all(torch.equal(p, tuned_weights[1][key]) for key, p in tuned_weights[0].items())
        with torch.no_grad():
            first, then = (ModelView(m).logits(tokens) for m in (model, second))
        assert largest(first - then) <= 1e-5 * largest(first)
        adapter.revert(second)
        untuned = dict(plain_model(folder_of(name)).named_parameters())
        assert all(torch.equal(p, untuned[key]) for key, p in ModelView(second).hf_copy().named_parameters())


def processed_bridge(folder: Path) -> Model:
    model = load_model(folder, device="cpu")
    model.enable_compatibility_mode(disable_warnings=True)
    return model


def processed_hooked(folder: Path, **processing: bool) -> Model:
    """As HookedTransformer.from_pretrained makes it, whose defaults these are."""
    model = load_model(folder, device="cpu", model_class="hooked")
    off = {"fold_ln": False, "center_writing_weights": False, "center_unembed": False, "fold_value_biases": False}
    state = hooked.converted(model.cfg, plain_model(folder))
    model.load_and_process_state_dict(state, **{**off, **processing})
    return model.eval()  # folding makes new modules


PROCESSED = [("bridge", name, {}) for name in ("llama", "gpt2", "neox")]
if "hooked" in CLASSES:
    PROCESSED += [("hooked", "llama", {"fold_ln": True}), ("hooked", "qwen3", {"fold_ln": True})]
    PROCESSED += [("hooked", "gpt2", {"fold_ln": True, "center_writing_weights": True, "center_unembed": True})]
    PROCESSED += [("hooked", name, {"center_writing_weights": True}) for name in ("gpt2", "neox")]
    PROCESSED += [("hooked", name, {"center_unembed": True}) for name in ("llama-grouped", "gpt2", "neox")]


@pytest.mark.parametrize(("model_class", "name", "processing"), PROCESSED)
def test_processed_models_are_measured_but_not_tuned_or_exported(model_class, name, processing, folder_of, tmp_path):
    from spt_lens.export.hf import export_hf

    folder = folder_of(name)
    model = processed_bridge(folder) if model_class == "bridge" else processed_hooked(folder, **processing)
    raw = load_model(folder, device="cpu", model_class=model_class)
    pairs = Yesman().pairs(raw, n=3)
    expected, found = (activation_patching(m, pairs, progress=False).values for m in (raw, model))
    torch.testing.assert_close(found, expected, atol=1e-2, rtol=0)  # folding rounds, and random gaps are small
    adapter = tuned(raw)
    for refused in (lambda: tuned(model), lambda: adapter.apply(model), lambda: export_hf(model, tmp_path / "out")):
        with pytest.raises(ValueError, match=r"processed.*load the model again.*load_model"):
            refused()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("name", "reason"), [("olmo2", "over all heads together"), ("opt", r"layout\.py")])
def test_an_unknown_architecture_is_measured_and_its_tuning_refused(name, reason, folder_of, tokens, tmp_path):
    from spt_lens.export.hf import export_hf

    folder = folder_of(name)
    model = load_model(folder, device="cpu")
    view = ModelView(model)
    with torch.no_grad():
        torch.testing.assert_close(view.logits(tokens), plain_model(folder)(tokens).logits, atol=1e-5, rtol=1e-5)
    scores = activation_patching(model, Yesman().pairs(model, n=2), progress=False)
    assert scores.values.shape == (2, 4) and scores.values.isfinite().all() and scores.values.abs().max() > 0.05
    for refused in (lambda: tuned(model), lambda: export_hf(model, tmp_path / "out")):
        with pytest.raises(NotImplementedError, match=rf"{view.architecture}.*{reason}"):
            refused()


@pytest.mark.parametrize("sliding", [(True, True), (False, True), (False, False)], ids=["all", "second", "none"])
@pytest.mark.parametrize("name", ["qwen2", "qwen3", "gemma2"])
@each_class
def test_windows_are_kept_where_the_few_tokens_of_loading_do_not_show_them(name, model_class, sliding, tmp_path):
    folder = tiny_checkpoint(name, tmp_path)
    config = json.loads((folder / "config.json").read_text())
    config |= {"use_sliding_window": True, "sliding_window": 24}
    config["layer_types"] = ["sliding_attention" if local else "full_attention" for local in sliding]
    (folder / "config.json").write_text(json.dumps(config))
    tokens = torch.randint(6, 120, (1, 60), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found = ModelView(load_model(folder, device="cpu", model_class=model_class)).logits(tokens)
        torch.testing.assert_close(found, plain_model(folder)(tokens).logits, atol=1e-4, rtol=1e-4)


@each_class
def test_a_checkpoint_without_the_weights_that_transformer_lens_expects_is_refused(model_class, tmp_path):
    folder = tiny_checkpoint("neox", tmp_path)
    config = AutoConfig.from_pretrained(folder)
    config.attention_bias = False
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    with pytest.raises(NotImplementedError, match=r"TransformerLens cannot .*GPTNeoXForCausalLM"):
        load_model(folder, device="cpu", model_class=model_class)


@pytest.mark.skipif("hooked" not in CLASSES, reason="TransformerLens 4 has no HookedTransformer")
def test_a_hooked_gemma_that_was_moved_says_how_to_export_it(folder_of):
    """Its embedding is scaled: rounding and scaling in the other order gives other weights than the checkpoint's."""
    model = load_model(folder_of("gemma2"), device="cpu", model_class="hooked").to(torch.bfloat16)
    with pytest.raises(ValueError, match=r"embed\.W_E.*moved to another dtype: load it with that dtype"):
        ModelView(model).hf_copy()


@pytest.mark.skipif("hooked" not in CLASSES, reason="TransformerLens 4 has no HookedTransformer")
@pytest.mark.parametrize("name", [*BRIDGE_ONLY, *UNKNOWN])
def test_what_has_no_hooked_transformer_says_so(name, folder_of):
    with pytest.raises(NotImplementedError, match=r"HookedTransformer.*load it as a TransformerBridge"):
        load_model(folder_of(name), device="cpu", model_class="hooked")


LENGTHS = (5, 14, 9, 40, 23, 9, 6, 31)


@pytest.mark.parametrize(("name", "model_class"), [*CASES, *((name, "bridge") for name in UNKNOWN)])
def test_replies_to_prompts_of_all_lengths_are_those_one_by_one(folder_of, name, model_class):
    """Windows, learned and rotary positions, grouped heads: padding and rows that end early change no token."""
    view = ModelView(load_model(folder_of(name), device="cpu", model_class=model_class))
    draw = torch.Generator().manual_seed(2)
    prompts = [torch.randint(6, 120, (n,), generator=draw).tolist() for n in LENGTHS]
    alone = [view.generate([prompt], 8)[0].tolist() for prompt in prompts]
    view.model.tokenizer.eos_token_id = alone[3][2]  # so that some end early
    ended = [row[: row.index(alone[3][2]) + 1] if alone[3][2] in row else row for row in alone]
    assert view.mixes(prompts)
    found = view.generate(prompts, 8).tolist()
    assert found == [row + [view.pad_token] * (len(found[0]) - len(row)) for row in ended]


def test_a_model_that_does_otherwise_on_padded_prompts_keeps_to_one_length(folder_of, monkeypatch):
    """One that knows nothing of a mask; found out by trying, and its replies are right all the same."""
    view = ModelView(load_model(folder_of("llama"), device="cpu"))
    draw = torch.Generator().manual_seed(2)
    prompts = [torch.randint(6, 120, (n,), generator=draw).tolist() for n in LENGTHS]
    expected = view.generate(prompts, 6)
    deaf = ModelView(load_model(folder_of("llama"), device="cpu"))
    step = deaf.backend.step
    monkeypatch.setattr(deaf.backend, "step", lambda tokens, mask, kept: step(tokens, None, kept))
    assert not deaf.mixes(prompts)
    assert torch.equal(deaf.generate(prompts, 6), expected)
    monkeypatch.setattr(
        deaf.backend, "step", lambda tokens, mask, kept: 1 / (mask is None) and step(tokens, None, kept)
    )
    assert torch.equal(deaf.generate(prompts, 6), expected)
