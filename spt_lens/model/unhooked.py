"""A TransformerBridge's own weights as plain transformers runs them, for passes into which nobody looks.

The bridge pays for its hook points at each module, and its attention makes every pattern. Without them a forward pass
on a CPU takes three quarters of the time (of the embedded model; nine tenths where replies are made).
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from spt_lens.model.backends import BridgeBackend, Logits, Mask, Tokens
from spt_lens.model.devices import spread
from spt_lens.model.held import by_a_signal, without_gradients
from spt_lens.model.own_hooks import has_hooks
from spt_lens.model.targets import most_off, off_by
from spt_lens.model.view import ModelView


class Unhooked:
    """What `ModelView` needs of a model: it stands in for the bridge, and has no hook points."""

    def __init__(self, bridge: Any, plain: PreTrainedModel) -> None:
        self.plain, self.original_model = plain, bridge.original_model
        self.cfg, self.blocks, self.tokenizer = bridge.cfg, bridge.blocks, bridge.tokenizer
        self.unembed = plain.get_output_embeddings()
        self.hook_dict: dict[str, Any] = {}
        self._weights_processed = bridge._weights_processed

    def spt_lens_backend(self) -> UnhookedBackend:
        return UnhookedBackend(self)

    def modules(self) -> Any:
        return self.plain.modules()

    def hooks(self, fwd_hooks: list[Any]) -> AbstractContextManager[None]:
        if fwd_hooks:
            raise ValueError(f"this model has no hook points, and {fwd_hooks[0][0]!r} was asked for: take the bridge")
        return nullcontext()


class UnhookedBackend(BridgeBackend):
    """Of an `Unhooked`."""

    def n_params(self) -> int:
        return int(self.model.plain.num_parameters())

    def forward(self, tokens: Tokens, mask: Mask | None) -> Logits:
        self.check_length(tokens)
        return self._run(tokens, mask, use_cache=False).logits

    def step(self, tokens: Tokens, mask: Mask | None, kept: Any) -> tuple[Logits, Any]:
        found = self._run(tokens, mask, past_key_values=kept, use_cache=True)
        return found.logits, found.past_key_values

    def _run(self, tokens: Tokens, mask: Mask | None, **more: Any) -> Any:
        if mask is not None:  # positions are counted from the first real token on
            places = (mask.long().cumsum(-1) - 1).clamp(min=0)[:, -tokens.shape[1] :]
            more |= {"attention_mask": mask.long(), "position_ids": places}
        return self.model.plain(input_ids=tokens, **more)


def shared_plain(view: ModelView) -> PreTrainedModel:
    """A plain model of the live tensors where it can be (`Backend.plain`), in evaluation mode, with sdpa where it has
    that."""
    plain = view.backend.plain(share=True).to(view.device).eval()
    if plain._supports_sdpa:  # transformers has no public name for it
        plain.set_attn_implementation("sdpa")
    return plain


@without_gradients
def unhooked(view: ModelView) -> ModelView:
    """The same live model without hook points, to read and not to tune; the view itself where there is no such thing.

    That is so for a HookedTransformer, one that is spread over devices, one in float16 or float64, one with hooks of
    the user's, where some weights are not live under Hugging Face's names (GPT-NeoX), and where it gives other logits,
    which is tried. Later changes of the weights are seen, if they are written in place.
    """
    known = isinstance(view.backend, BridgeBackend) and not isinstance(view.model, Unhooked)
    known = known and not spread(view.backend.root)
    if not known or view.dtype not in (torch.float32, torch.bfloat16) or has_hooks(view.model, view.modules()):
        return view
    live = {_place(weight) for weight in view.weights().values()}
    tokens = torch.arange(1, 9, device=view.device)[None] % view.vocab_size
    try:
        plain = shared_plain(view)
        if not all(_place(weight) in live for weight in plain.parameters()):
            return view
        found = ModelView(Unhooked(view.model, plain))
        expected = view.logits(tokens)
        off = off_by(found.logits(tokens), expected)
    except (NotImplementedError, RuntimeError, TypeError, ValueError) as error:
        if by_a_signal(error):
            raise
        return view
    return view if off > most_off(view.dtype) else found  # nan is the model's own


def _place(tensor: Tensor) -> tuple[torch.device, int]:
    return tensor.device, tensor.untyped_storage().data_ptr()
