"""Tuning a few slices of some weights, and nothing else, exactly.

Multiplying gradients by a mask is not enough: weight decay and stale momentum move what the mask covers. So the
optimiser never sees the model's weights. It gets small float32 parameters of its own, one per slice; after a step
these are copied back into the model.

Nor is a gradient made for a weight outside the slices: the linear modules that hold some multiply as ever, and what
they do in the backward pass is written out here, for the slices alone. HookedTransformer has no such modules: there the
gradient of one full weight at a time is cut up, and dropped as soon as it is there.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Self

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from spt_lens.checking import instance
from spt_lens.heads import HeadSet
from spt_lens.model.blocks import with_methods
from spt_lens.model.layout import Pick
from spt_lens.model.view import Model, ModelView


@dataclass(frozen=True, eq=False)
class Slice:
    """A part of one weight: a head's, in Hugging Face's layout whatever the model class, or the whole of it.

    name: such as "L5.H3.q" (see `layout.Part`), or the whole weight's. `parameter` is the live weight that holds it.
    `of` takes the part out of a tensor of its shape, as a view: a head's is [d_head, d_model], for o [d_model, d_head].
    module: the linear module that multiplies by it, if the model class has one, and `start`, where the part begins
    among its outputs, or with `of_input`, as in o, among its inputs.
    """

    name: str
    parameter: nn.Parameter
    of: Pick
    module: nn.Module | None = None
    start: int = 0
    of_input: bool = False

    def read(self) -> Float[Tensor, "..."]:
        """A contiguous copy of it as it is now, in the model's dtype."""
        return self.of(self.parameter.detach()).clone(memory_format=torch.contiguous_format)

    @torch.no_grad()
    def write(self, value: Float[Tensor, "..."]) -> None:
        """Copies `value` into it, rounded to the model's dtype."""
        self.of(self.parameter).copy_(value)


def put_back(before: Sequence[tuple[Slice, Tensor]]) -> None:
    """Writes slices as they were read."""
    for piece, value in before:
        piece.write(value)


def head_slices(model: Model, heads: HeadSet, projections: str = "auto") -> list[Slice]:
    """The slices of the chosen heads, in the heads' order; what a query group shares is listed once.

    Raises: ValueError for an empty selection, a head that does not exist, or unknown projections; TypeError for what is
    no HeadSet.
    """
    view = ModelView(model)
    instance(heads, "heads", HeadSet, 'use HeadSet.of("L5.H3") or scores.top(4)').check(view)
    made = []
    for part in view.shape.parts(heads, projections):
        module = view.backend.projection(part.layer, part.which)
        where = view.head_weight(part.layer, part.which, part.unit)
        made.append(Slice(part.name, *where, module, part.unit * view.d_head, part.which == "o"))
    return made


def whole_weights(model: Model) -> list[Slice]:
    """All weights of the model, under the names that its class gives them, tied ones once."""
    return [Slice(name, parameter, lambda whole: whole) for name, parameter in ModelView(model).weights().items()]


class SliceMask:
    """A context in which backward() gives gradients to `masters`, and no weight of the model gets any.

    `masters[i]` is a contiguous copy of `slices[i]`, in float32 also when the model is in bfloat16 (or what is wider):
    give these to an optimiser, and call `write_back()` after each of its steps. On leaving, requires_grad and the
    gradients of the model's own parameters are as they were; what was written back stays.

    whole: for slices whose modules can't be seen to (`reached` tells): the gradient of each weight that holds a slice
    is made, cut up and dropped.
    """

    def __init__(self, model: Model, slices: Sequence[Slice], whole: bool = False):
        if not slices:
            raise ValueError("no slices to tune: the selection of heads or the choice of projections is empty")
        self.slices = list(slices)
        self.masters: list[nn.Parameter] = [nn.Parameter(_wide(s.read())) for s in slices]
        self._view, self._whole = ModelView(model), whole

    def __enter__(self) -> Self:
        both = list(zip(self.slices, self.masters, strict=True))
        by_module: dict[nn.Module, list[tuple[Slice, nn.Parameter]]] = {}
        by_weight: dict[Tensor, list[tuple[Slice, nn.Parameter]]] = {}
        for piece, master in both:
            if piece.module is None or self._whole:
                by_weight.setdefault(piece.parameter, []).append((piece, master))
            else:
                by_module.setdefault(piece.module, []).append((piece, master))
        with ExitStack() as stack:  # an interrupt in here undoes what was done so far
            stack.enter_context(self._view.kept())
            for p in self._view.weights().values():
                p.requires_grad_(p in by_weight)
            for weight, pieces in by_weight.items():
                stack.callback(weight.register_post_accumulate_grad_hook(_hand_over(pieces)).remove)
            for module, pieces in by_module.items():
                stack.enter_context(_slices_trained(module, pieces))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def reached(self) -> bool:
        """Whether a backward pass gives every slice its gradient: tried on a few tokens."""
        tokens = torch.arange(8)[None] % self._view.vocab_size
        with torch.enable_grad():
            self._view.logits(tokens, at=torch.full((1,), 7)).logsumexp(-1).sum().backward()
        found = all(master.grad is not None for master in self.masters)
        for master in self.masters:
            master.grad = None
        return found

    def write_back(self) -> None:
        """Copies the masters into the model, rounded to its dtype."""
        for piece, master in zip(self.slices, self.masters, strict=True):
            piece.write(master)


@contextmanager
def _slices_trained(module: nn.Module, pieces: Sequence[tuple[Slice, nn.Parameter]]) -> Iterator[None]:
    """In the block, the module's backward pass gives gradients to its input and to these slices."""
    slices, masters = [piece for piece, _ in pieces], [master for _, master in pieces]
    name = "_old_forward" if hasattr(module, "_old_forward") else "forward"  # accelerate brings its inputs first
    own = getattr(module, name)

    def forward(hidden: Tensor) -> Tensor:
        return _OfSlices.apply(hidden, own, slices, *masters)

    with with_methods(module, **{name: forward}):
        yield


class _OfSlices(torch.autograd.Function):
    """A linear module, of whose weight some slices are trained. It holds what their masters were last written as."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Float[Tensor, "*batch d_in"], own: Any, slices: list[Slice], *masters: Tensor
    ) -> Tensor:
        ctx.slices, ctx.dtypes = slices, [master.dtype for master in masters]
        flat = hidden.flatten(0, -2)
        # Of the input, a slice of o needs its head's part alone.
        parts = [flat.narrow(1, s.start, s.of(s.parameter).shape[1]) if s.of_input else flat for s in slices]
        ctx.save_for_backward(*parts)
        return own(hidden)

    @staticmethod
    def backward(ctx: Any, *grads: Float[Tensor, "*batch d_out"]) -> Any:
        (grad,) = grads
        weight = ctx.slices[0].module.weight
        flat = grad.flatten(0, -2)
        to_input = None
        if ctx.needs_input_grad[0]:
            to_input = grad @ (weight.T if isinstance(ctx.slices[0].module, Conv1D) else weight)
        found = []
        for piece, part, dtype in zip(ctx.slices, ctx.saved_tensors, ctx.dtypes, strict=True):
            rows = flat if piece.of_input else flat.narrow(1, piece.start, piece.of(piece.parameter).shape[0])
            found.append((rows.T @ part).to(dtype))
        return to_input, None, None, *found


def _hand_over(pieces: list[tuple[Slice, nn.Parameter]]):
    def hook(weight: Float[Tensor, "rows cols"]) -> None:
        grad = weight.grad
        assert grad is not None  # torch calls this hook right after it has accumulated the gradient
        for piece, master in pieces:
            # A contiguous copy: a view would keep the whole gradient alive. By torch, which tells the master's hooks.
            part = piece.of(grad).to(master.dtype, copy=True, memory_format=torch.contiguous_format)
            torch.autograd.backward(master, part)
        weight.grad = None

    return hook


def _wide(value: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    return value.to(torch.promote_types(value.dtype, torch.float32))
