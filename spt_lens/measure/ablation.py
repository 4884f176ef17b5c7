"""What a removed head is set to: its mean output, or zero; and the hooks that do it."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from spt_lens.chat.batches import by_length
from spt_lens.checking import one_of
from spt_lens.data.pairs import ContrastPairs
from spt_lens.heads import HeadSet
from spt_lens.model.generation import finish
from spt_lens.model.limits import Limits
from spt_lens.model.ranks import Share
from spt_lens.model.view import Hook, Model, ModelView
from spt_lens.patching.plain import ablate_heads

Ablation = Literal["mean", "zero"]
MeanOver = Literal["both", "sycophantic", "truthful"]


def mean_z(
    model: Model, prompts: Sequence[Sequence[int]], batch_size: int = 32
) -> Float[Tensor, "n_layers n_heads d_head"]:
    """Each head's mean output over all positions of all prompts (token ids), every token counted once.

    Raises: ValueError if there are no prompts or one is empty, a batch size below one, or a model in training mode.
    """
    view = ModelView(model)
    view.check_heads()
    return finish(mean_parts(view, prompts, Limits(batch_size)))


def mean_parts(
    view: ModelView, prompts: Sequence[Sequence[int]], limits: Limits
) -> Generator[int, None, Float[Tensor, "n_layers n_heads d_head"]]:
    """`mean_z` in parts: yields how many prompts each one ran. Between them nothing of ours is on the model.

    Raises: ValueError if there are no prompts or one is empty.
    """
    if not prompts or not all(prompts):
        raise ValueError("a mean needs at least one prompt, and no empty ones")
    total = torch.zeros(view.n_layers, view.n_heads, view.d_head, dtype=torch.float64)

    def add(part: list[int]) -> None:
        with view.kept():
            z = view.cache_z(torch.tensor([list(prompts[i]) for i in part]))
        total.add_(z.to(torch.promote_types(z.dtype, torch.float32)).sum(dim=(1, 2)).cpu())

    share = Share("mean outputs", {"model": view, "prompts": tuple(map(tuple, prompts))}, added=[total])
    yield from limits.parts(list(by_length(prompts, len(prompts))), add, share)
    return (total / sum(len(prompt) for prompt in prompts)).to(view.dtype)


def check_ablation(ablation: str, mean_over: str) -> None:
    """Raises ValueError unless they are one of Ablation and one of MeanOver."""
    one_of(ablation, "ablation", get_args(Ablation))
    one_of(mean_over, "mean_over", get_args(MeanOver))


def ablation_values(
    model: Model, pairs: ContrastPairs, ablation: Ablation, mean_over: MeanOver, batch_size: int = 32
) -> Float[Tensor, "n_layers n_heads d_head"]:
    """What heads are set to when they are removed: zero, or `mean_z` over the prompts that `mean_over` says.

    Raises: ValueError as mean_z does, or for an unknown ablation or mean_over.
    """
    check_ablation(ablation, mean_over)
    view = ModelView(model)
    if ablation == "zero":
        return torch.zeros(view.n_layers, view.n_heads, view.d_head)
    prompts = {"both": (*pairs.sycophantic, *pairs.truthful)}
    prompts |= {"sycophantic": pairs.sycophantic, "truthful": pairs.truthful}
    return mean_z(view, prompts[mean_over], batch_size)


def ablation_hooks(model: Model, heads: HeadSet, values: Float[Tensor, "n_layers n_heads d_head"]) -> list[Hook]:
    """Hooks that set a selection's heads to `values`, at every position, for `replies` and `ModelView.logits`."""
    view = ModelView(model)
    return [(view.z_name(layer), ablate_heads(values[layer], chosen)) for layer, chosen in heads.by_layer().items()]
