"""Patching written out plainly, by TransformerLens's own hooks, on one unpadded prompt at a time; pairs to patch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

import pytest
import torch
from torch import Tensor

from spt_lens.data.pairs import ContrastPairs
from spt_lens.model.loading import load_model
from spt_lens.model.view import ModelView
from spt_lens.patching.activation import activation_patching
from spt_lens.patching.attribution import attribution_patching, screened_patching
from spt_lens.patching.path import path_patching
from spt_lens.scores.head_scores import HeadScores
from tools.tiny import tiny_checkpoint

PATCHING = {
    "activation": activation_patching,
    "path": path_patching,
    "attribution": attribution_patching,
    "screened": screened_patching,
}
Read = Callable[[Tensor], Tensor]  # a number, of the logits of all positions, [pos, vocab]
Places = Sequence[tuple[int, int]]  # (position that is patched, position of the other prompt that the value is from)


def measured(model, pairs: ContrastPairs, method: str = "activation", **how) -> HeadScores:
    """By the public function of a method."""
    return PATCHING[method](model, pairs, progress=False, **how)


def two_layers() -> tuple:
    """The fixtures tiny_folder, model_of and tiny, for a module whose tests all take one model and leave it as it was.

    It is quicker than the usual one, and has learned positions, so that where a token stands shows by itself.
    """

    @pytest.fixture(scope="module")
    def tiny_folder(tmp_path_factory):
        return tiny_checkpoint("gpt2", tmp_path_factory.mktemp("gpt2"))

    @pytest.fixture(scope="module")
    def model_of(tiny_folder):
        return cache(lambda model_class: load_model(tiny_folder, device="cpu", model_class=model_class))

    @pytest.fixture
    def tiny(model_of, model_class):
        return model_of(model_class)

    return tiny_folder, model_of, tiny


def made(model, lengths: Sequence[tuple[int, int]], seed: int = 1) -> ContrastPairs:
    """Random prompts of these (sycophantic, truthful) lengths, with the answers that they tell apart best."""
    draw = torch.Generator().manual_seed(seed)
    rows = [[torch.randint(6, model.cfg.d_vocab, (n,), generator=draw).tolist() for n in both] for both in lengths]
    return with_answers(model, *([both[i] for both in rows] for i in (0, 1)))


def with_answers(model, sycophantic: Sequence[Sequence[int]], truthful: Sequence[Sequence[int]]) -> ContrastPairs:
    """Pairs of these prompts, with the answers that they tell apart best: a share of their gap is no noise."""
    change = [logits(model, b)[-1] - logits(model, a)[-1] for a, b in zip(sycophantic, truthful, strict=True)]
    answers = torch.tensor([[int(each.argmax()), int(each.argmin())] for each in change])
    return ContrastPairs(tuple(map(tuple, sycophantic)), tuple(map(tuple, truthful)), answers)


@torch.no_grad()
def logits(model, tokens: Sequence[int], hooks: Sequence = ()) -> Tensor:
    """`[pos, vocab]`"""
    row = torch.tensor([list(tokens)])
    found = model.run_with_hooks(row, fwd_hooks=list(hooks), attention_mask=torch.ones_like(row))[0]
    return found.to(torch.promote_types(found.dtype, torch.float32))


def keeping(into: dict[str, Tensor], name: str):
    def keep(value, hook):
        into[name] = value.detach().clone()

    return name, keep


def put(value: Tensor):
    return lambda old, hook: value


def difference(ids: Sequence[int]) -> Read:
    """The logit difference of two tokens at the end."""
    return lambda found: found[-1, ids[0]] - found[-1, ids[1]]


def said(ids: Sequence[int]) -> Read:
    """The log-probability of a completion, whose tokens but the last stand at the end of the prompt."""
    places = torch.arange(-len(ids), 0)
    return lambda found: found.log_softmax(-1)[places, torch.tensor(ids)].sum()


def effects(model, into: Sequence[int], source: Sequence[int], places: Places, read: Read) -> tuple[Tensor, ...]:
    """What is read of `into`, of `source`, and of `into` with each head patched alone, `[layer, head]`."""
    view = ModelView(model)
    names = [view.z_name(layer) for layer in range(view.n_layers)]
    z: dict[str, Tensor] = {}
    target = read(logits(model, source, [keeping(z, name) for name in names]))
    base = read(logits(model, into))
    patched = torch.zeros(view.n_layers, view.n_heads, dtype=base.dtype)
    for layer, name in enumerate(names):
        for head in range(view.n_heads):

            def patch(value, hook, head=head, name=name):
                value = value.clone()
                for at, other in places:
                    value[0, at, head] = z[name][0, other, head]
                return value

            patched[layer, head] = read(logits(model, into, [(name, patch)]))
    return base, target, patched


def sent(
    model,
    into: Sequence[int],
    source: Sequence[int],
    places: Places,
    read: Read,
    receivers: Sequence[tuple[int, str, int]] = (),
) -> Tensor:
    """Path patching by its three steps, MLPs recomputed: what is read with each head as the sender, `[layer, head]`.

    receivers: (layer, "q" | "k" | "v", unit); none: the logits.
    """
    view = ModelView(model)
    names = [view.z_name(layer) for layer in range(view.n_layers)]
    own: dict[str, Tensor] = {}
    other: dict[str, Tensor] = {}
    base = read(logits(model, into, [keeping(own, name) for name in names]))
    logits(model, source, [keeping(other, name) for name in names])
    found = torch.zeros(view.n_layers, view.n_heads, dtype=base.dtype)
    for layer, name in enumerate(names):
        for head in range(view.n_heads):
            mixed = own[name].clone()
            for at, from_ in places:
                mixed[0, at, head] = other[name][0, from_, head]
            got: dict[str, Tensor] = {}
            points = [f"blocks.{at}.attn.hook_{which}" for at, which, _ in receivers]
            frozen = [(each, put(value)) for each, value in {**own, name: mixed}.items()]
            found[layer, head] = read(logits(model, into, [*frozen, *(keeping(got, point) for point in points)]))
            if not receivers:
                continue
            hooks = []
            for point, (_, _, unit) in zip(points, receivers, strict=True):

                def receive(value, hook, point=point, unit=unit, got=got):
                    value = value.clone()
                    value[:, :, unit] = got[point][:, :, unit]
                    return value

                hooks.append((point, receive))
            found[layer, head] = read(logits(model, into, hooks))
    return found


def both(pairs: ContrastPairs, i: int, direction: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The prompt that is patched, and the one that the values come from."""
    prompts = pairs.sycophantic[i], pairs.truthful[i]
    return prompts if direction == "denoising" else prompts[::-1]


def assert_close(scores, i: int, expected: tuple[Tensor, ...], tolerance: float = 1e-5) -> None:
    """What a method gives for a pair (base, target, each head patched) is what is expected, up to rounding."""
    base, target, patched = expected
    allowed = tolerance * max(1.0, abs(float(target - base)))  # 1e-5 of the gap, or of a logit for smaller gaps
    for found, want in ((scores.base[i], base), (scores.target[i], target), (scores.logit_differences[i], patched)):
        torch.testing.assert_close(found, want.to(found), atol=allowed, rtol=0)


def assert_same(one, other, tolerance: float = 1e-5) -> None:
    """Two measurements of the same pairs agree, up to rounding."""
    for i in range(len(other.base)):
        assert_close(one, i, (other.base[i], other.target[i], other.logit_differences[i]), tolerance)


def own_shares(scores: HeadScores) -> Tensor:
    """Each pair's effects as shares of its own gap, `[n_pairs, layer, head]`."""
    base, target = (each[:, None, None] for each in (scores.base, scores.target))
    return (scores.logit_differences - base) / (target - base)


def state(model) -> tuple:
    """All that a measurement must leave as it was, apart from the weights."""
    view = ModelView(model)
    modules = list({id(m): m for root in (model, view.backend.root) for m in root.modules()}.values())
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return (
        [[list(getattr(module, name)) for name in hooks] for module in modules],
        [(list(map(id, m.fwd_hooks)), list(map(id, m.bwd_hooks))) for m in modules if hasattr(m, "fwd_hooks")],
        [module.training for module in modules],
        [(p.requires_grad, id(p.grad)) for p in view.backend.root.parameters()],
        [sorted(block.attn.__dict__) for block in model.blocks],
        torch.is_grad_enabled(),
    )
