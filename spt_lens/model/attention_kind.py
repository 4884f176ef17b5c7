"""Attention as transformers itself computes it (sdpa, say), for passes in which nobody reads a pattern.

A TransformerBridge computes the attention of Llama and its like step by step, so that each step has its hook point, and
makes every pattern: memory grows with the square of the length. The Hugging Face module that it wraps gives the same
numbers up to rounding, through the bridge's own linear modules.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from spt_lens.model.backends import BridgeBackend
from spt_lens.model.blocks import with_methods
from spt_lens.model.held import came_between, without_gradients
from spt_lens.model.own_hooks import has_hooks
from spt_lens.model.targets import most_off, off_by
from spt_lens.model.unhooked import Unhooked
from spt_lens.model.view import Model, ModelView

LENGTH = 24  # tokens that it is tried on

# Of each model, by dtype, device and the config's kind of attention: the kind that gives its logits, "" for none.
_tried: WeakKeyDictionary[Any, dict[Any, str]] = WeakKeyDictionary()


@contextmanager
def without_patterns(model: Model) -> Iterator[str]:
    """In the block, attention is computed as the model's config names it, or by sdpa; gives which, "" for as ever.

    So it is where the wrapped modules hold the live weights and give the logits of the ordinary pass, which is tried
    once for each model: for a TransformerBridge of Llama and its like, not where q, k and v are fused, scores are
    capped (Gemma 2), or the model carries hooks of the user's. A layer that gets a hook on a pattern in the block runs
    as ever. On leaving, whatever happens, all is as before.
    """
    view = ModelView(model)
    with view.kept():
        kind = _kind_of(view)
        with _as(view, kind):
            yield kind


def _kind_of(view: ModelView) -> str:
    if not isinstance(view.backend, BridgeBackend) or isinstance(view.model, Unhooked):
        return ""
    root: Any = view.backend.root
    if not getattr(root, "_supports_sdpa", False) or has_hooks(view.model, view.modules(), False) or not _live(view):
        return ""
    named = str(root.config._attn_implementation)  # transformers has no public name for it, as for the other
    tried, key = _tried.setdefault(view.model, {}), (view.dtype, view.device, named)
    if key not in tried:
        kinds = [kind for kind in dict.fromkeys((named, "sdpa")) if kind not in ("eager", "None")]
        tried[key] = next((kind for kind in kinds if _same(view, kind)), "")
    return tried[key]


def _live(view: ModelView) -> bool:
    """Whether the wrapped modules multiply by the weights that the bridge does: fused ones may be copies, and stale."""
    try:
        return all(
            any(module is view.backend.projection(layer, which) for module in block.attn.original_component.modules())
            for layer, block in enumerate(view.model.blocks)
            for which in ("q", "k", "v", "o")
        )
    except (AttributeError, NotImplementedError):
        return False


@without_gradients
def _same(view: ModelView, kind: str) -> bool:
    """Whether logits are those of the ordinary pass: of whole rows, of padded ones, and after kept keys and values."""
    length = min(LENGTH, view.model.cfg.n_ctx)
    tokens = (torch.arange(2 * length, device=view.device) * 7 + 1).reshape(2, length) % view.vocab_size
    mask = torch.ones_like(tokens, dtype=torch.bool)
    mask[0, : length // 3] = False
    wide = torch.promote_types(view.dtype, torch.float32)

    def logits() -> Tensor:
        first, kept = view.step(tokens[:, :-1], mask[:, :-1], None)
        parts = (view.logits(tokens), view.logits(tokens, mask)[mask], first, view.step(tokens[:, -1:], mask, kept)[0])
        return torch.cat([part.reshape(-1, part.shape[-1]).to(wide) for part in parts])

    try:
        with view.kept():
            with _config(view, "eager"):
                expected = logits()
            with _as(view, kind):
                found = logits()
    except Exception as error:  # whatever a model makes of another kind of attention
        if came_between(error):
            raise
        return False
    # TransformerLens takes a float64 model's softmax in float32: such a model keeps to its own way, so that what is
    # computed in float64 doesn't depend on who reads a pattern.
    return off_by(found, expected) <= most_off(view.dtype)


@contextmanager
def _as(view: ModelView, kind: str) -> Iterator[None]:
    with ExitStack() as stack:
        if kind:
            for block in view.model.blocks:
                stack.enter_context(with_methods(block.attn, forward=_forward(block.attn)))
            stack.enter_context(_config(view, kind))
        yield


def _forward(attention: Any) -> Callable[..., Any]:
    from transformer_lens.hook_points import HookPoint

    own, inner = attention.forward, attention.original_component.forward  # accelerate's too, which brings the inputs
    points = [point for point in attention.children() if isinstance(point, HookPoint)]

    def forward(*args: Any, **kwargs: Any) -> Any:
        hooked = any(point.fwd_hooks or point.bwd_hooks for point in points)
        return (own if hooked else inner)(*args, **kwargs)

    return forward


@contextmanager
def _config(view: ModelView, kind: str) -> Iterator[None]:
    """In the block, the model makes masks for this kind of attention, and its attention modules compute it."""
    config: Any = view.backend.root.config
    before = config._attn_implementation
    try:
        config._attn_implementation = kind
        yield
    finally:
        config._attn_implementation = before
