"""Tuning a few slices of some weights, and nothing else, exactly.

Multiplying gradients by a mask is not enough: weight decay and stale momentum move what the mask covers. So the
optimiser never sees the model's weights. It gets small float32 parameters of its own, one per slice; the gradient of
a full weight is cut up and dropped as soon as it is there; after a step the slices are copied back into the model.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Self

import torch
from jaxtyping import Float
from torch import Tensor, nn

from spt_lens.checking import instance
from spt_lens.heads import HeadSet
from spt_lens.model.layout import Pick
from spt_lens.model.view import Model, ModelView


@dataclass(frozen=True, eq=False)
class Slice:
    """A part of one weight: a head's, in Hugging Face's layout whatever the model class, or the whole of it.

    name: such as "L5.H3.q" (see `layout.Part`), or the whole weight's. `parameter` is the live weight that holds it.
    `of` takes the part out of a tensor of its shape, as a view: a head's is [d_head, d_model], for o [d_model, d_head].
    """

    name: str
    parameter: nn.Parameter
    of: Pick

    def read(self) -> Float[Tensor, "..."]:
        """A contiguous copy of it as it is now, in the model's dtype."""
        return self.of(self.parameter.detach()).clone(memory_format=torch.contiguous_format)

    @torch.no_grad()
    def write(self, value: Float[Tensor, "..."]) -> None:
        """Copies `value` into it, rounded to the model's dtype."""
        self.of(self.parameter).copy_(value)


def head_slices(model: Model, heads: HeadSet, projections: str = "auto") -> list[Slice]:
    """The slices of the chosen heads, in the heads' order; what a query group shares is listed once.

    Raises: ValueError for an empty selection, a head that does not exist, or unknown projections; TypeError for what is
    no HeadSet.
    """
    view = ModelView(model)
    instance(heads, "heads", HeadSet, 'use HeadSet.of("L5.H3") or scores.top(4)').check(view)
    parts = view.shape.parts(heads, projections)
    return [Slice(part.name, *view.head_weight(part.layer, part.which, part.unit)) for part in parts]


def whole_weights(model: Model) -> list[Slice]:
    """All weights of the model, under the names that its class gives them, tied ones once."""
    return [Slice(name, parameter, lambda whole: whole) for name, parameter in ModelView(model).weights().items()]


class SliceMask:
    """A context in which backward() gives gradients to `masters`, and only the weights that hold a slice require them.

    `masters[i]` is a contiguous float32 copy of `slices[i]`, in master precision also when the model is in bfloat16:
    give these to an optimiser, and call `write_back()` after each of its steps. On leaving, requires_grad and the
    gradients of the model's own parameters are as they were; what was written back stays.
    """

    def __init__(self, model: Model, slices: Sequence[Slice]):
        if not slices:
            raise ValueError("no slices to tune: the selection of heads or the choice of projections is empty")
        self.slices = list(slices)
        self.masters: list[nn.Parameter] = [nn.Parameter(s.read().float()) for s in slices]
        self._view = ModelView(model)

    def __enter__(self) -> Self:
        by_weight: dict[Tensor, list[tuple[Slice, nn.Parameter]]] = {}
        for piece, master in zip(self.slices, self.masters, strict=True):
            by_weight.setdefault(piece.parameter, []).append((piece, master))
        with ExitStack() as stack:  # an interrupt in here undoes what was done so far
            stack.enter_context(self._view.kept())
            for p in self._view.weights().values():
                p.requires_grad_(p in by_weight)
            for weight, pieces in by_weight.items():
                stack.callback(weight.register_post_accumulate_grad_hook(_hand_over(pieces)).remove)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def write_back(self) -> None:
        """Copies the masters into the model, rounded to its dtype."""
        for piece, master in zip(self.slices, self.masters, strict=True):
            piece.write(master)


def _hand_over(pieces: list[tuple[Slice, nn.Parameter]]):
    def hook(weight: Float[Tensor, "rows cols"]) -> None:
        grad = weight.grad
        assert grad is not None  # torch calls this hook right after it has accumulated the gradient
        for piece, master in pieces:
            # A contiguous copy: a view would keep the whole gradient alive.
            part = piece.of(grad).to(torch.float32, copy=True, memory_format=torch.contiguous_format)
            master.grad = part if master.grad is None else master.grad.add_(part)
        weight.grad = None

    return hook
