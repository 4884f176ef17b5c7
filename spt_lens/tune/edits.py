"""Changes of activations that last: what steering, ablation, ITI and LoFiT leave in a model, as others leave weights.

As weights they would need biases that most models lack (Llama, Mistral, SmolLM2), and a direction can't be taken out of
a stream whose embedding is tied to the unembedding. So they are permanent hooks at TransformerLens's hook points, which
every architecture and both model classes have. Each is read and written like a slice of a weight, by its name:

- "L5.H3.z", [2, d_head]: a head's output z becomes (1 + first row) * z + second row;
- "L5.out", [d_model]: is added to the residual stream after a block;
- "L5.in.off", "L5.attn.off", "L5.mlp.off", "L5.out.off", [d_model]: x becomes x - (x . v) v, where x is what a block is
  given, what its attention or its MLP writes, or what it gives: with v of length one nothing along v is left.

With ".reply" at its end, one works only where a reply is made: from the position that predicts its first token on.
Zeros change nothing and are no hook: writing them takes it off, and the model is as before, bit for bit.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from spt_lens.chat.dialogues import dialogue
from spt_lens.chat.template import prompt_ids
from spt_lens.model.held import to_the_end
from spt_lens.model.own_hooks import Edit, given_to
from spt_lens.model.view import Model, ModelView
from spt_lens.tune.slices import Slice, put_back

_NAME = re.compile(r"L(\d+)\.(?:H(\d+)\.z|(out)|(in|attn|mlp|out)\.off)(\.reply)?")
_POINTS = {"out": "hook_resid_post", "in": "hook_resid_pre", "attn": "hook_attn_out", "mlp": "hook_mlp_out"}


def is_edit(name: str) -> bool:
    """Whether a name is one of an edit, and not of weights."""
    return _NAME.fullmatch(name) is not None


@dataclass(frozen=True, eq=False, kw_only=True)
class EditSlice(Slice):
    """A place for an edit, read and written as `Slice`s are. Its `parameter` is nobody's: it has its shape and dtype.

    point: the hook point. kind: what is done there, "z", "out" or "off"; of z, to this head. reply: in replies alone.
    """

    view: ModelView
    point: Any
    kind: str
    head: int | None
    reply: bool

    @classmethod
    def of_name(cls, model: Model, name: str, points: Mapping[str, Any] | None = None) -> Self:
        """The place of that name. points: the model's hook points by name, which take a bridge some milliseconds.

        Raises: ValueError for a name that is none of an edit, or a model without that layer, head or hook point; as
        `reply_mark` for one of replies alone.
        """
        view, found = ModelView(model), _NAME.fullmatch(name)
        if found is None:
            raise ValueError(f"{name!r} is no edit: they are called L5.H3.z, L5.out, L5.in.off, say")
        layer, head, place = int(found[1]), found[2], found[3] or found[4]
        point = view.z_name(layer) if head else f"blocks.{layer}.{_POINTS[place]}"
        lacks = [f"layer {layer}"] if layer >= view.n_layers else []
        lacks += [f"head {head}"] if head and int(head) >= view.n_heads else []
        points = view.model.hook_dict if points is None else points
        lacks += [point] if not lacks and point not in points else []
        if lacks:
            raise ValueError(f"{name} can't be edited: {view.name} has no {lacks[0]}")
        shape = (2, view.d_head) if head else (view.d_model,)
        if found[5]:
            reply_mark(view)
        stands_for = nn.Parameter(torch.zeros(shape), requires_grad=False)
        about: Any = {"view": view, "point": points[point], "head": int(head) if head else None}
        about |= {"kind": "z" if head else "out" if found[3] else "off", "reply": bool(found[5])}
        return cls(name, stands_for, lambda whole: whole, **about)

    def read(self) -> Float[Tensor, "*shape"]:
        """A copy of it in float32, on the CPU."""
        now = list(self._hooks().values())
        return now[0].value.detach().to("cpu", copy=True) if now else torch.zeros(self.parameter.shape)

    @torch.no_grad()
    def write(self, value: Float[Tensor, "*shape"]) -> None:
        """Makes it this. Zeros take it off."""
        value = value.detach().to(self.view.device, torch.float32, copy=True)
        for key in self._hooks():  # what an interrupt parted, a hook without its handle, is seen here too
            for handle in [each for each in self.point.fwd_hooks if each.hook.id == key]:
                self.point.fwd_hooks.remove(handle)
            del self.point._forward_hooks[key]
        if value.any():
            self.hang(value)
        if self.reply and not value.any():
            points = {id(point): point for point in self.view.model.hook_dict.values()}.values()
            if not any(hook.gate for point in points for hook in _hooks_on(point).values()):
                _Gate.off(self.view)

    def hang(self, value: Tensor | Callable[[], Tensor]) -> None:
        """Puts a hook there that works with this very tensor, or what is made at each pass of what is trained."""
        gate = _Gate.on(self.view) if self.reply else None
        self.point.add_hook(_Hook(self.name, self.kind, self.head, value, gate), is_permanent=True)

    def _hooks(self) -> dict[int, _Hook]:
        """Its own: one, or none. What is made anew at each pass is a training run's, and goes with it."""
        every = _hooks_on(self.point).items()
        return {key: hook for key, hook in every if hook.name == self.name and isinstance(hook.value, Tensor)}


def _hooks_on(point: Any) -> dict[int, _Hook]:
    found = {key: given_to(function) for key, function in point._forward_hooks.items()}
    return {key: hook for key, hook in found.items() if isinstance(hook, _Hook)}


@contextmanager
def edited(model: Model, edits: Mapping[str, Tensor]) -> Iterator[None]:
    """In the block, the model carries these edits, by name, and not after it."""
    with ModelView(model).held(lasting=True):
        pieces = edit_slices(model, list(edits))
        before = [(piece, piece.read()) for piece in pieces]
        try:
            for piece in pieces:
                piece.write(edits[piece.name])
            yield
        finally:
            to_the_end(put_back, before)


def edit_slices(model: Model, names: Sequence[str]) -> list[Slice]:
    """The places of edits, in order. Raises as `EditSlice.of_name`."""
    points = ModelView(model).model.hook_dict if names else {}
    return [EditSlice.of_name(model, name, points) for name in names]


class _Hook(Edit):
    """What hangs on a hook point."""

    def __init__(self, name: str, kind: str, head: int | None, value: Any, gate: _Gate | None) -> None:
        self.name, self.kind, self.head, self.value, self.gate = name, kind, head, value, gate

    def __call__(self, found: Float[Tensor, "batch pos *rest"], hook: Any) -> Float[Tensor, "batch pos *rest"]:
        if self.head is not None:
            z = found.clone()
            z[:, :, self.head] = self._edited(found[:, :, self.head])
            return z
        return self._edited(found)

    def _edited(self, x: Float[Tensor, "batch pos d"]) -> Float[Tensor, "batch pos d"]:
        value = (self.value() if callable(self.value) else self.value).to(x.device, x.dtype)
        if self.kind == "z":
            edited = x * (1 + value[0]) + value[1]
        elif self.kind == "out":
            edited = x + value
        else:
            edited = x - (x @ value)[..., None] * value
        return edited if self.gate is None else torch.where(self.gate.where[..., None].to(x.device), edited, x)

    def __repr__(self) -> str:
        return f"edit {self.name}"


class _Gate(Edit):
    """Sees the token ids that go through the model, and says where a reply is made: `where`, [batch, pos].

    A row's reply begins at its last reply mark. A pass over one position goes on with a reply.
    """

    def __init__(self, mark: Int[Tensor, " mark"]) -> None:
        self.mark, self.where = mark, torch.zeros(0)

    def __call__(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        self.where = self.of(args[0])

    def of(self, tokens: Int[Tensor, "batch pos"]) -> Bool[Tensor, "batch pos"]:
        if tokens.shape[1] == 1:
            return torch.ones_like(tokens, dtype=torch.bool)
        width, n = tokens.shape[1], len(self.mark)
        if width < n:
            return torch.zeros_like(tokens, dtype=torch.bool)
        ends = (tokens.unfold(1, n, 1) == self.mark.to(tokens.device)).all(-1)  # [batch, pos - n + 1]
        ends = nn.functional.pad(ends, (n - 1, 0))
        places = torch.arange(width, device=tokens.device)
        last = torch.where(ends, places, -1).amax(1, keepdim=True)
        return (last >= 0) & (places >= last)

    @classmethod
    def on(cls, view: ModelView) -> _Gate:
        """The model's own, which is put on if there is none."""
        hooks = view.model.embed._forward_pre_hooks.values()
        found = next((hook for hook in hooks if isinstance(hook, cls)), None)
        if found is None:
            found = cls(torch.tensor(reply_mark(view)))
            view.model.embed.register_forward_pre_hook(found)
        return found

    @classmethod
    def off(cls, view: ModelView) -> None:
        hooks = view.model.embed._forward_pre_hooks
        for key in [key for key, hook in hooks.items() if isinstance(hook, cls)]:
            del hooks[key]


def reply_mark(view: ModelView) -> list[int]:
    """The tokens that every prompt of a model ends with: those by which its chat template asks for a reply.

    Raises ValueError where there are none, or no chat template.
    """
    one, other = (prompt_ids(view.tokenizer, dialogue(text)) for text in ("What is 2 + 3?", "Name a colour"))
    same = [a == b for a, b in zip(reversed(one), reversed(other), strict=False)]
    n = same.index(False) if False in same else 0
    if not n:
        raise ValueError(
            f"the chat template of {view.name} writes nothing between a prompt and its reply, so that where replies "
            "are made can't be told: give it one that does (load_model(..., chat_template=)), or edit all positions"
        )
    return one[-n:]
