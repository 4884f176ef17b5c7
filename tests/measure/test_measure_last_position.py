"""What heads write straight to the logits, against plain hooks on the model."""

from __future__ import annotations

import json
import warnings
from functools import partial
from shutil import copytree

import pytest
import torch

from spt_lens.chat.batches import PromptBatch
from spt_lens.heads import Head
from spt_lens.measure.attention import last_attention
from spt_lens.measure.last_position import LastPositions, post_norm
from spt_lens.measure.seen import SeenPairs
from spt_lens.model.view import ModelView
from spt_lens.yesman import Yesman


def at_the_end(model, prompt, *names):
    """What passes hook points at a prompt's last position."""
    seen = {}

    def keep(name, value, hook):  # a bridge's hook calls itself otherwise
        seen[name] = value[0, -1].detach().clone()

    with torch.no_grad():
        model.run_with_hooks(torch.tensor([prompt]), fwd_hooks=[(name, partial(keep, name)) for name in names])
    return [seen[name] for name in names]


def by_hand(model, prompt, head: Head) -> torch.Tensor:
    """The head's part of the final residual stream, by the scale of the whole, unembedded: all of it written out."""
    view = ModelView(model)
    z, whole = at_the_end(model, prompt, view.z_name(head.layer), f"blocks.{view.n_layers - 1}.hook_resid_post")
    with torch.no_grad():
        weight, pick = view.head_weight(head.layer, "o", head.head)
        part = pick(weight) @ z[head.head]
        scale = (whole.pow(2).mean() + model.cfg.eps).sqrt()
        norm = getattr(model.ln_final, "w", None)
        norm = model.ln_final.weight if norm is None else norm
        return (part / scale * norm) @ model.unembed.W_U


# float32 keeps seven digits of a stream that is some ten times as large as what a head writes. In float64, what is off
# is a Llama's own final norm, which goes through float32.
@pytest.mark.parametrize(("dtype", "off"), [(torch.float32, 1e-5), (torch.float64, 1e-7)])
@pytest.mark.parametrize("kv_heads", ["tiny_folder", "gqa_folder"])
def test_direct_effects_are_those_of_plain_hooks(request, load, kv_heads, dtype, off):
    model = load(request.getfixturevalue(kv_heads), dtype=dtype)
    pairs = Yesman().pairs(model, n=3)
    ends = LastPositions(ModelView(model))
    for prompts in ([pairs.sycophantic[0]], [pairs.sycophantic[1]], [pairs.sycophantic[0], pairs.sycophantic[0]]):
        ends.read(prompts)
    for head in (Head(0, 0), Head(1, 2), Head(2, 3)):
        found = ends.written(head)
        assert found.shape == (4, ModelView(model).vocab_size) and found.abs().max() > 0.05
        for row, i in zip(found, (0, 1, 0, 0), strict=True):
            torch.testing.assert_close(row, by_hand(model, pairs.sycophantic[i], head).to(row), atol=off, rtol=0)


def test_parts_add_up_with_a_layer_norm_too(folder_of, load):
    """GPT-2's final norm takes a mean away and adds a bias: of the parts, that of a head alone has neither."""
    model = load(folder_of("gpt2"), dtype=torch.float64)
    view, prompt = ModelView(model), [5, 9, 3, 7]
    ends = LastPositions(view)
    ends.read([prompt])
    head = Head(view.n_layers - 1, 1)
    z, whole = at_the_end(model, prompt, view.z_name(head.layer), f"blocks.{head.layer}.hook_resid_post")
    with torch.no_grad():
        weight, pick = view.head_weight(head.layer, "o", head.head)
        part = pick(weight) @ z[head.head]
        scale = ((whole - whole.mean()).pow(2).mean() + model.cfg.eps).sqrt()
        norm = model.ln_final.w if hasattr(model.ln_final, "w") else model.ln_final.weight
        expected = ((part - part.mean()) / scale * norm) @ model.unembed.W_U
    torch.testing.assert_close(ends.written(head)[0], expected, atol=1e-10, rtol=0)


@pytest.mark.parametrize("name", ["olmo2", "gemma2", "gemma3"])
def test_heads_add_up_to_their_attention_where_a_norm_follows_it(folder_of, load, model_class, tmp_path, name):
    """All heads of a layer together write what its attention writes, behind the norm that divides them all."""
    if model_class == "hooked" and name != "gemma2":
        pytest.skip("TransformerLens 3.9 makes no HookedTransformer of it")
    folder = copytree(folder_of(name), tmp_path / name)
    config = json.loads((folder / "config.json").read_text()) | {"final_logit_softcapping": None}  # a cap is no sum
    (folder / "config.json").write_text(json.dumps(config))
    model = load(folder, dtype=torch.float64)
    view, prompts = ModelView(model), [[5, 9, 3, 7], [6, 2, 8, 11, 4, 10]]
    norms = [getattr(block, str(post_norm(block))) for block in model.blocks]
    ends = LastPositions(view)
    for prompt in prompts:
        ends.read([prompt])
    for layer in range(view.n_layers):
        total = torch.stack([ends.written(Head(layer, head)) for head in range(view.n_heads)]).sum(0)
        for row, prompt in zip(total, prompts, strict=True):
            seen = []
            handles = [
                module.register_forward_hook(lambda module, args, out, seen=seen: seen.append((args[0], out)))
                for module in (norms[layer], model.ln_final)
            ]
            with torch.no_grad():
                model(torch.tensor([prompt]))
            for handle in handles:
                handle.remove()
            (_, written), (whole, normed) = ([each[0, -1] for each in both] for both in seen)
            expected = (written * normed / whole) @ model.unembed.W_U
            assert expected.abs().max() > 0.1
            torch.testing.assert_close(row, expected.to(row), atol=2e-6, rtol=0)
    assert not any(norm._forward_hooks for norm in norms)


def test_a_norm_after_attention_that_shows_no_scale_is_refused(folder_of, load, monkeypatch):
    model = load(folder_of("gemma2"))
    monkeypatch.setattr("spt_lens.measure.last_position.post_norm", lambda block: "attn")
    with pytest.raises(ValueError, match="norms after attention show no scale"):
        LastPositions(ModelView(model))


def test_attention_is_that_of_a_pass_of_its_own_and_the_model_is_as_it_was(tiny):
    view, pairs = ModelView(tiny), Yesman().pairs(tiny, n=2)
    before = [p.detach().clone() for p in view.backend.root.parameters()]
    for direct in (True, False):
        ends = LastPositions(view, direct)
        ends.read(pairs.sycophantic[:1])
        ends.read(pairs.truthful[:1])
        for found, prompt in zip(ends.attention, (pairs.sycophantic[0], pairs.truthful[0]), strict=True):
            torch.testing.assert_close(found, last_attention(view, PromptBatch.of([prompt]))[0], atol=1e-6, rtol=0)
    assert all(map(torch.equal, before, view.backend.root.parameters()))
    assert not any(point.fwd_hooks for point in tiny.hook_dict.values())


def test_to_look_at_a_model_beforehand_warns_of_nothing(tiny):
    pairs = Yesman().pairs(tiny, n=2)
    torch.set_warn_always(True)  # torch says some things only once, whatever Python's filters
    try:
        with warnings.catch_warnings(action="error"):
            seen = SeenPairs(ModelView(tiny), pairs)
            assert sum(seen.parts(1)) == 4 and seen.done == [0, 1]
            seen.direct(seen.written(Head(1, 1)))
    finally:
        torch.set_warn_always(False)


def test_the_first_pair_is_seen_first_and_nothing_twice(tiny):
    pairs = Yesman().pairs(tiny, n=4)
    seen = SeenPairs(ModelView(tiny), pairs)
    work = seen.parts(1)
    next(work), next(work)
    assert seen.done == [0]
    assert sum(seen.parts(2)) == 6 and seen.done == [0, 1, 2, 3] and list(seen.parts()) == []
    direct = seen.direct(seen.written(Head(1, 2))).set_index(["run", "answer"])["logit"]
    for run, prompts in seen.prompts.items():
        rows = [by_hand(tiny, prompt, Head(1, 2)) for prompt in prompts]
        both = torch.stack([row[ids] for row, ids in zip(rows, pairs.answer_ids, strict=True)]).mean(0)
        expected = [*both.tolist(), float(both[0] - both[1])]
        assert direct[run].tolist() == pytest.approx(expected, abs=1e-5)
