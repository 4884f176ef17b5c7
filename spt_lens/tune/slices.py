"""Where a head's weights live: the blocks of the projection weights that belong to chosen heads.

Tuning a few slices of some weights, and nothing else, exactly.

Multiplying gradients by a mask is not enough: weight decay and stale momentum move what the mask covers. So the
optimiser never sees the model's weights. It gets small float32 parameters of its own, one per slice; the gradient of
a full weight is cut up and dropped as soon as it is there; after a step the slices are copied back into the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from spt_lens.checking import instance
from spt_lens.heads import HeadSet
from spt_lens.model.layout import Part, Pick
from spt_lens.model.view import Model, ModelView


@dataclass(frozen=True, eq=False)
class Slice:
    """One head's part of one projection weight, in Hugging Face's layout whatever the model class.

    `parameter` is the live weight that holds it, and `pick` takes the part out of it, as a view.
    """

    part: Part
    parameter: nn.Parameter
    pick: Pick

    @property
    def name(self) -> str:
        """Such as "L5.H3.q"; keys and values of a query group are called "L5.G1.k"."""
        return self.part.name

    def of(self, weight: Float[Tensor, ...]) -> Float[Tensor, "slice_rows slice_cols"]:
        """The part of a tensor that has the parameter's shape, [d_head, d_model], for o [d_model, d_head]: a view."""
        return self.pick(weight)

    def read(self) -> Float[Tensor, "slice_rows slice_cols"]:
        """A contiguous copy of the block as it is now, in the model's dtype."""
        return self.of(self.parameter.detach()).clone(memory_format=torch.contiguous_format)

    @torch.no_grad()
    def write(self, value: Float[Tensor, "slice_rows slice_cols"]) -> None:
        """Copies `value` into the block, rounded to the model's dtype."""
        self.of(self.parameter).copy_(value)

    def numel(self) -> int:
        return self.of(self.parameter).numel()


def head_slices(model: Model, heads: HeadSet, projections: str = "auto") -> list[Slice]:
    """The slices of the chosen heads, in the heads' order; what a query group shares is listed once.

    Raises:
        ValueError: for an empty selection, a head that does not exist, or unknown projections.
        TypeError: the heads are not a HeadSet.
    """
    view = ModelView(model)
    heads = instance(heads, "heads", HeadSet, 'use HeadSet.of("L5.H3") or scores.top(4)')
    heads.check(view)
    return [
        Slice(part, *view.head_weight(part.layer, part.which, part.unit))
        for part in view.shape.parts(heads, projections)
    ]


def parameter_count(slices: list[Slice]) -> int:
    """How many weights the slices hold together."""
    return sum(s.numel() for s in slices)


class SliceMask:
    """A context in which backward() gives gradients to `masters`, and only the weights that hold a slice require them.

    `masters[i]` is a contiguous float32 copy of `slices[i]`, in master precision also when the model is in bfloat16:
    give these to an optimiser, and call `write_back()` after each of its steps. On leaving, requires_grad and the
    gradients of the model's own parameters are as they were; what was written back stays.

        with SliceMask(model, slices) as mask:
            optimiser = torch.optim.AdamW(mask.masters)
            loss(model).backward()
            optimiser.step()
            mask.write_back()
    """

    def __init__(self, model: Model, slices: Sequence[Slice]):
        if not slices:
            raise ValueError("No slices to tune: the selection of heads or the choice of projections is empty.")
        self.slices = list(slices)
        self.masters: list[nn.Parameter] = [nn.Parameter(s.read().float()) for s in slices]
        self._parameters = list(ModelView(model).weights().values())
        self._before: list[tuple[bool, Tensor | None]] = []
        self._handles: list[RemovableHandle] = []

    def __enter__(self) -> SliceMask:
        if self._handles:
            raise RuntimeError("This SliceMask is already in use; make another one.")
        by_weight: dict[Tensor, list[tuple[Slice, nn.Parameter]]] = {}
        for piece, master in zip(self.slices, self.masters, strict=True):
            by_weight.setdefault(piece.parameter, []).append((piece, master))
        self._before = [(p.requires_grad, p.grad) for p in self._parameters]
        try:
            for p in self._parameters:
                p.grad = None
                p.requires_grad_(p in by_weight)
            for weight, pieces in by_weight.items():
                self._handles.append(weight.register_post_accumulate_grad_hook(_hand_over(pieces)))
        except BaseException:  # an interrupt, say: no __exit__ comes then
            self._leave()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave()

    def _leave(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []
        for p, (required, grad) in zip(self._parameters, self._before, strict=True):
            p.requires_grad_(required)
            p.grad = grad

    @torch.no_grad()
    def write_back(self) -> None:
        """Copies the masters into the model, rounded to its dtype."""
        for piece, master in zip(self.slices, self.masters, strict=True):
            piece.of(piece.parameter).copy_(master)


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
