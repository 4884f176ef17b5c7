"""The engines against each other, on every architecture; which one is taken, and why; interrupts in the middle."""

from __future__ import annotations

import pytest
import torch
from by_hand import assert_close, assert_same, both, difference, effects, made, measured, sent, state
from conftest import CLASSES

from spt_lens.model.loading import load_model
from spt_lens.model.view import ModelView
from spt_lens.patching import suffix
from spt_lens.support.probes import two_pairs
from tools.tiny import TINY

POSITIONS = ["last", "all", [-2, -1]]
SUFFIXES = {"bridge": suffix._BridgeSuffix, "hooked": suffix._HookedSuffix}
BLOCKS = {cls: cls.block for cls in SUFFIXES.values()}
each_class = pytest.mark.parametrize("model_class", CLASSES)


@pytest.fixture(scope="module")
def tiny_folder(folder_of):
    """Two layers: quicker."""
    return folder_of("gpt2")


def loaded(folder, model_class: str, dtype: torch.dtype = torch.float32):
    try:
        return load_model(folder, device="cpu", model_class=model_class, dtype=dtype)
    except NotImplementedError as error:
        pytest.skip(str(error))


def of_a_library(function):
    """Hooks of libraries are no concern; those of the user's own are another test's."""
    function.__module__ = "accelerate.hooks"
    return function


@each_class
@pytest.mark.parametrize("name", TINY)
def test_every_architecture(folder_of, name, model_class):
    model = loaded(folder_of(name), model_class)
    pairs = two_pairs(ModelView(model))
    for positions in POSITIONS:
        found = measured(model, pairs, positions=positions)
        assert found.engine == "sweep" and "engine_reason" not in found.meta["settings"]
        plain = measured(model, pairs, positions=positions, engine="hooks")
        assert plain.engine == "hooks"
        assert_same(found, plain)
        assert (plain.logit_differences - plain.base[:, None, None]).abs().max() > 1e-2  # something moved
    into, source = both(pairs, 0, "denoising")
    places = [(len(into) - n, len(source) - n) for n in (2, 1)]
    assert_close(found, 0, effects(model, into, source, places, difference(pairs.answer_ids[0].tolist())))


@each_class
@pytest.mark.parametrize("name", TINY)
def test_every_architecture_in_float64(folder_of, name, model_class, exact_softmax):
    model = loaded(folder_of(name), model_class, torch.float64)
    pairs = two_pairs(ModelView(model))
    found, plain = (measured(model, pairs, positions="all", engine=engine) for engine in ("auto", "hooks"))
    assert found.engine == "sweep" and found.logit_differences.dtype == torch.float64
    assert_same(found, plain, 1e-9)


@each_class
@pytest.mark.parametrize("name", ["gemma2", "neox"])
def test_bfloat16(folder_of, name, model_class):
    model = loaded(folder_of(name), model_class, torch.bfloat16)
    pairs = two_pairs(ModelView(model))
    for positions in ("last", "all"):
        found, plain = (measured(model, pairs, positions=positions, engine=engine) for engine in ("auto", "hooks"))
        assert found.engine == "sweep" and found.logit_differences.dtype == torch.float32
        assert_same(found, plain, 0.1)


@each_class
@pytest.mark.parametrize("name, direction", [("gemma2", "noising"), ("gpt2", "denoising")])
def test_all_engines_and_batch_sizes(folder_of, name, model_class, direction):
    model = loaded(folder_of(name), model_class)
    pairs = made(model, [(14, 14), (9, 9), (14, 14)])
    for positions in POSITIONS:
        how = {"direction": direction, "positions": positions}
        plain = measured(model, pairs, engine="hooks", batch_size=1, **how)
        for engine in ("sweep", "stacked"):
            for size in (1, 64):
                found = measured(model, pairs, engine=engine, batch_size=size, **how)
                assert found.engine == engine and found.meta["settings"]["batch_size"] == size
                assert_same(found, plain)


@each_class
@pytest.mark.parametrize("name", ["qwen3", "gemma2", "neox", "phi3"])
@pytest.mark.parametrize(
    "how",
    [
        {"method": "path"},
        {"method": "path", "receivers": "L1.H3.q L1.H0.k L1.H2.v", "mlps": "frozen"},
        {"method": "attribution", "ig_steps": 2},
    ],
    ids=["direct", "receivers", "attribution"],
)
def test_the_other_methods_on_what_architectures_differ_in(folder_of, name, model_class, how):
    """Normed queries, norms behind, caps and windows, blocks in parallel, fused projections."""
    model = loaded(folder_of(name), model_class)
    pairs = two_pairs(ModelView(model))
    found, plain = (measured(model, pairs, positions="all", engine=engine, **how) for engine in ("auto", "hooks"))
    assert (found.engine, plain.engine) == ("sweep", "hooks")
    assert_same(found, plain)
    assert (plain.logit_differences - plain.base[:, None, None]).abs().max() > 1e-3


def test_a_model_with_hooks_of_the_users(tiny):
    pairs = made(tiny, [(9, 9), (7, 7)])
    before = measured(tiny, pairs)
    seen = []
    tiny.add_hook(ModelView.z_name(1), lambda z, hook: seen.append(z.shape))
    for how in ({}, {"method": "path"}, {"method": "attribution"}, {"method": "screened", "share": 0.5}):
        found = measured(tiny, pairs, **how)
        assert found.engine == "hooks" and "carries hooks of yours" in found.meta["settings"]["engine_reason"]
    assert_same(measured(tiny, pairs), before)
    assert all(shape[:2] in ((2, 9), (1, 9), (1, 7), (2, 7)) for shape in seen) and seen  # whole prompts
    for engine in ("sweep", "stacked"):
        with pytest.raises(ValueError, match=f"engine='{engine}' does not fit .* hooks of yours"):
            measured(tiny, pairs, engine=engine)
    tiny.reset_hooks()
    assert measured(tiny, pairs).engine == "sweep"


def test_permanent_hooks_of_the_users(tiny):
    """Whatever they do: what they do at one position can't be told by trying."""
    pairs = made(tiny, [(9, 9), (7, 7)])
    point = tiny.hook_dict[ModelView.z_name(1)]
    before = measured(tiny, pairs)

    def everywhere(z, hook):
        return z * 0.5

    def at_the_end(z, hook):
        z = z.clone()
        z[:, -1] *= 0.5
        return z

    for hook, engine in ((everywhere, "hooks"), (at_the_end, "hooks")):
        point.add_perma_hook(hook)
        for positions in ("last", "all"):
            found = measured(tiny, pairs, positions=positions)
            assert found.engine == engine
            assert_same(found, measured(tiny, pairs, positions=positions, engine="hooks"))
        assert (found.base - before.base).abs().max() > 1e-3
        assert len(point.fwd_hooks) == 1
        point.remove_hooks(including_permanent=True)
    assert_same(measured(tiny, pairs), before)


def test_a_permanent_hook_at_one_position(tiny):
    # Known to fail: the try-out has two variants of one position, so that a hook at the fifth position does nothing in
    # it; in the sweep, it meets the fifth variant.
    pairs = made(tiny, [(9, 9), (7, 7)])
    point = tiny.hook_dict[ModelView.z_name(1)]

    def at_the_fifth(z, hook):
        z = z.clone()
        z[:, 4:5] = 0
        return z

    point.add_perma_hook(at_the_fifth)
    assert_same(measured(tiny, pairs), measured(tiny, pairs, engine="hooks"))


def refused(self, layer, hidden, hooks):
    raise suffix.NotPossible("asks riddles")


def broken(self, layer, hidden, hooks):
    raise TypeError("an unexpected riddle")


def wrong(self, layer, hidden, hooks):
    return BLOCKS[type(self)](self, layer, hidden, hooks) * 1.01


@pytest.mark.parametrize(
    "block, why", [(refused, "asks riddles"), (broken, "TypeError"), (wrong, "gives other outputs")]
)
def test_blocks_that_can_not_be_run_on_suffixes(tiny, model_class, monkeypatch, block, why):
    pairs = made(tiny, [(9, 9), (7, 7)])
    ways = ({"positions": "all"}, {"method": "path"}, {"method": "attribution"}, {"method": "screened", "share": 0.5})
    before = [measured(tiny, pairs, **how) for how in ways]
    assert {each.engine for each in before} == {"sweep"}
    monkeypatch.setattr(SUFFIXES[model_class], "block", block)
    for how, right in zip(ways, before, strict=True):
        found = measured(tiny, pairs, **how)
        assert found.engine == ("hooks" if how.get("method") in ("path", "attribution") else "stacked")
        reason = found.meta["settings"]["engine_reason"]
        assert why in reason and reason.startswith("no sweep: ")
        assert_same(found, right)
        with pytest.raises(ValueError, match=f"engine='sweep' does not fit.*{why}"):
            measured(tiny, pairs, engine="sweep", **how)


def test_blocks_that_take_an_unknown_tensor(folder_of):
    """Of the bridge: the blocks of Hugging Face take any argument."""
    model = load_model(folder_of("llama"), device="cpu")
    pairs = made(model, [(9, 9), (7, 7)])
    before = measured(model, pairs)
    for block in model.blocks:
        riddle = of_a_library(lambda m, a, kw: (a, {**kw, "riddle": torch.zeros(3)}))
        block.register_forward_pre_hook(riddle, with_kwargs=True)
    found = measured(model, pairs)
    assert found.engine == "stacked" and "Tensor (3,) that is not known here" in found.meta["settings"]["engine_reason"]
    assert_same(found, before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("positions", ["last", "all"])
def test_variants_that_see_each_other_are_found_in_every_dtype(folder_of, dtype, positions, monkeypatch):
    model = load_model(folder_of("llama"), device="cpu", dtype=dtype)
    pairs = made(model, [(12, 12), (14, 14)])
    assert measured(model, pairs, positions=positions).engine == "sweep"
    tree = suffix.tree
    monkeypatch.setattr(suffix, "tree", lambda *args: torch.zeros_like(tree(*args)))
    found = measured(model, pairs, positions=positions)
    assert found.engine == "stacked" and "gives other outputs" in found.meta["settings"]["engine_reason"]


def test_plain_hooks_on_modules_are_the_users_too(tiny):
    pairs = made(tiny, [(9, 9), (7, 7)])
    handle = tiny.blocks[1].register_forward_hook(lambda module, args, output: None)
    assert measured(tiny, pairs).engine == "hooks"
    handle.remove()
    assert measured(tiny, pairs).engine == "sweep"


def test_under_inference_mode(tiny):
    pairs = made(tiny, [(9, 9)])
    for how in ({}, {"method": "attribution"}, {"method": "attribution", "engine": "hooks"}, {"method": "path"}):
        right = measured(tiny, pairs, **how)
        with torch.inference_mode():
            assert_same(measured(tiny, pairs, **how), right)


@pytest.mark.skipif("hooked" not in CLASSES, reason="of HookedTransformer alone")
def test_ungrouped_keys_and_values(gqa_folder):
    """An option of the class: each head gets a copy of its group's keys and values, and hooks see the copies."""
    model = load_model(gqa_folder, device="cpu", model_class="hooked")
    pairs = made(model, [(9, 9)])
    ways = ({}, {"method": "path"}, {"method": "attribution"})
    grouped = [measured(model, pairs, positions="all", **how) for how in ways]
    model.set_ungroup_grouped_query_attention(True)
    for how, right in zip(ways, grouped, strict=True):
        assert_same(measured(model, pairs, positions="all", **how), right)
    found = measured(model, pairs, positions="all", method="path", receivers="L1.H3.k L2.H2.v")
    read = difference(pairs.answer_ids[0].tolist())
    into, source = both(pairs, 0, "denoising")
    expected = sent(model, into, source, [(at, at) for at in range(9)], read, [(1, "k", 3), (2, "v", 2)])
    torch.testing.assert_close(found.logit_differences[0], expected, atol=1e-5, rtol=1e-5)


def test_a_sweep_that_goes_wrong_at_one_head_is_found(tiny, model_class, monkeypatch):
    """Only a patched variant differs: comparing the run without a patch would not show it."""
    pairs = made(tiny, [(9, 9)])
    block = SUFFIXES[model_class].block
    monkeypatch.setattr(
        SUFFIXES[model_class], "block", lambda self, layer, hidden, hooks: block(self, layer, hidden, [])
    )
    found = measured(tiny, pairs)
    assert found.engine == "stacked" and "other outputs" in found.meta["settings"]["engine_reason"]


def test_unknown_engines(tiny):
    pairs = made(tiny, [(7, 7)])
    for engine in ("magic", "", None):
        with pytest.raises(ValueError, match="engine=.* choose one of 'auto', 'sweep', 'stacked', 'hooks'"):
            measured(tiny, pairs, engine=engine)
    for method in ("path", "attribution"):
        with pytest.raises(ValueError, match="engine='stacked': choose one of 'auto', 'sweep', 'hooks'"):
            measured(tiny, pairs, method=method, engine="stacked")


class Bell:
    """Counts how often it is rung, and interrupts at the n-th time."""

    def __init__(self) -> None:
        self.rung, self.at = 0, 0

    def __call__(self, *args, **named) -> None:
        self.rung += 1
        if self.rung == self.at:
            raise KeyboardInterrupt


def ring_inside_blocks(bell: Bell, cls, monkeypatch) -> None:
    """When a block's heads have been computed, with all hooks on: in an ordinary run, and in suffixes."""

    def wrapped(method):
        def run(self, layer, hidden, hooks, **how):
            return method(self, layer, hidden, [*hooks, (self.view.z_name(layer), bell)], **how)

        return run

    monkeypatch.setattr(cls, "block", wrapped(cls.block))
    forward = cls._forward
    monkeypatch.setattr(
        cls, "_forward", lambda self, hooks, at: forward(self, [*hooks, (self.view.z_name(1), bell)], at)
    )


def ring_before_logits(bell: Bell, view: ModelView, monkeypatch) -> None:
    """In every ordinary forward pass, and when suffixes are unembedded."""
    backend = type(view.backend)
    forward = backend.forward

    def run(self, tokens, mask):
        bell()
        return forward(self, tokens, mask)

    monkeypatch.setattr(backend, "forward", run)


@pytest.mark.parametrize("place", ["blocks", "logits"])
@pytest.mark.parametrize(
    "how",
    [
        {"positions": "all"},
        {"method": "path", "mlps": "frozen"},
        {"method": "path", "receivers": "L1.H1.q L1.H2.v"},
        {"method": "attribution"},
        {"method": "attribution", "ig_steps": 2, "positions": "all"},
    ],
    ids=["activation", "direct", "receivers", "attribution", "steps"],
)
def test_an_interrupt_leaves_the_model_as_it_was(tiny, model_class, how, place, monkeypatch):
    view = ModelView(tiny)
    pairs = made(tiny, [(9, 9), (7, 7)])
    first, second, *_ = view.backend.root.parameters()
    first.requires_grad_(False)
    second.grad = torch.ones_like(second)
    tiny.blocks[1].register_forward_hook(of_a_library(lambda module, args, output: None))
    if model_class == "hooked":
        tiny.train()  # it is measured in any mode
    before = state(tiny)
    expected = measured(tiny, pairs, **how)
    assert state(tiny) == before
    bell = Bell()
    if place == "blocks":
        ring_inside_blocks(bell, SUFFIXES[model_class], monkeypatch)
    else:
        ring_before_logits(bell, view, monkeypatch)
    assert measured(tiny, pairs, **how).engine == "sweep"
    assert state(tiny) == before
    total = bell.rung
    assert total > 5
    for at in sorted({1, total // 3, 2 * total // 3, total}):
        bell.rung, bell.at = 0, at
        with pytest.raises(KeyboardInterrupt):
            measured(tiny, pairs, **how)
        assert state(tiny) == before, at
    bell.at = 0
    assert torch.equal(measured(tiny, pairs, **how).per_pair, expected.per_pair)
