"""The plain transformers model in which full fine-tuning and LoRA train: made of the model's own tensors."""

from collections.abc import Sequence

import torch
from transformers import PreTrainedModel

from spt_lens.model.backends import BridgeBackend
from spt_lens.model.devices import spread
from spt_lens.model.unhooked import shared_plain
from spt_lens.model.view import Model, ModelView
from spt_lens.tune.slices import Slice, whole_weights

WIDE = (torch.float32, torch.float64)  # training rounds away most small steps in less


def plain_model(view: ModelView, in_place: Sequence[torch.dtype] = WIDE) -> PreTrainedModel:
    """A plain model to train, which `view.load_plain` takes home, in evaluation mode, with sdpa where it has that.

    In a dtype of `in_place` its parameters are the model's own tensors, but for fused ones whose live parts lie
    elsewhere (GPT-NeoX); in another, a copy in float32. Of a HookedTransformer, whose weights are laid out in another
    way, it is a copy whatever the dtype; of a model that is spread over devices, one on the CPU.
    """
    if spread(view.backend.root):
        return view.hf_copy().float()
    plain = shared_plain(view)
    return plain if view.dtype in in_place else plain.float()  # parameter by parameter: those shared stay as they are


def attention_weights(model: Model) -> list[Slice]:
    """Of `whole_weights`, those that training the attention's projections can move, also where some lie twice.

    All of a HookedTransformer's: what it takes home is converted as a whole.
    """
    view, whole = ModelView(model), whole_weights(model)
    if not isinstance(view.backend, BridgeBackend):
        return whole
    inside = [f"{view.backend.layout.block.format(layer)}." for layer in range(view.n_layers)]
    return [weight for weight in whole if weight.name.startswith(tuple(inside))]
