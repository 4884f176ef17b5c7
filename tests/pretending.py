"""Several devices on a machine that has only a CPU: tensors carry the name of a pretended one, and mixing them raises.

torch takes "cpu:1" for a device's name, but puts the tensor on "cpu". So the name is kept here, by storage: what an
operation makes has that of its tensors, a move changes it, and an operation on tensors of several names raises, as it
would on two GPUs. "cpu" itself is the host: numbers without dimensions and indices may come from there, as on a GPU.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import dispatch_model
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

HOST = torch.device("cpu")
MADE = (torch.tensor, torch.as_tensor, torch.from_numpy)
MIXES = ("copy_", "_to_copy", "fill_", "set_")  # whose arguments may be on several devices


class MixedDevices(RuntimeError):
    """What torch would raise on two GPUs."""


class Names:
    """The device's name of each storage that is not on the host. They stay alive, or others would take their places."""

    def __init__(self) -> None:
        self.kept: dict[int, tuple[torch.device, Any]] = {}
        self.moves = 0

    def of(self, tensor: Tensor) -> torch.device:
        if tensor.is_meta:
            return torch.device("meta")
        return self.kept.get(_at(tensor), (HOST, None))[0]

    def put(self, tensors: Iterable[Any], device: torch.device) -> None:
        for tensor in tensors:
            if isinstance(tensor, Tensor) and not tensor.is_meta and _at(tensor):
                self.kept.pop(_at(tensor), None)
                if device != HOST:
                    self.kept[_at(tensor)] = device, tensor.untyped_storage()


class _Operations(TorchDispatchMode):
    def __init__(self, names: Names) -> None:
        super().__init__()
        self.known = names

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        given = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor) and not t.is_meta and t.numel()]
        bound = given
        if name in ("index", "index_put", "index_put_", "_unsafe_index"):  # indices may come from the host
            bound = [t for t in given if not (self.known.of(t) == HOST and any(t is i for i in tree_leaves(args[1])))]
        if name == "index_put":  # of a backward pass alone, into zeros for which torch names its own device
            bound = [t for t in bound if t is not args[0]]
        on = {self.known.of(t) for t in bound if t.ndim or self.known.of(t) != HOST}
        if name.startswith("_foreach"):  # torch sorts these by their devices first
            result = func(*args, **kwargs)
            for one, other in zip(args[0], result or (), strict=False):
                self.known.put([other], self.known.of(one))
            return result
        if len(on) > 1 and name not in MIXES:
            raise MixedDevices(f"{func} of tensors on {sorted(map(str, on))}")
        result = func(*args, **kwargs)
        before = {_at(t) for t in given} if "lift" not in name else set()
        new = [t for t in tree_leaves(result) if isinstance(t, Tensor) and not t.is_meta]
        # Of tensors, torch hands on what it takes for their device; a move is made below.
        place = next(iter(on), HOST) if given else kwargs.get("device") or HOST
        self.known.put([t for t in new if _at(t) not in before], place)
        return result


class _Move(torch.autograd.Function):
    """A copy on another device, whose gradient goes back to where the tensor was."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, names: Names, target: torch.device) -> Tensor:
        ctx.names, ctx.source = names, names.of(tensor)
        copy = tensor.clone()
        names.put([copy], target)
        return copy

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:  # type: ignore[override]
        copy = gradient.clone()
        ctx.names.put([copy], ctx.source)
        return copy, None, None


class _Calls(TorchFunctionMode):
    def __init__(self, names: Names) -> None:
        super().__init__()
        self.known = names

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func == Tensor.device.__get__:
            return self.known.of(args[0])
        if func == Tensor.numpy and self.known.of(args[0]) != HOST:
            raise MixedDevices("a tensor that is not on the host has no numpy array")
        if func in (Tensor.to, Tensor.cpu):
            return self.moved(func, args, kwargs)
        result = func(*args, **kwargs)
        if func in MADE:
            self.known.put([result], torch.device(kwargs.get("device") or HOST))
        return result

    def moved(self, func: Any, args: Any, kwargs: Any) -> Any:
        target = HOST if func == Tensor.cpu else None
        real: list[Any] = []
        for each in (*args[1:], *kwargs.values()):
            if isinstance(each, Tensor):
                target = self.known.of(each)
            elif isinstance(each, str | torch.device):
                target, each = torch.device(each), HOST if torch.device(each).type == "cpu" else each
            real.append(each)
        result = func(args[0], *real[: len(args) - 1], **dict(zip(kwargs, real[len(args) - 1 :], strict=True)))
        if target is None or result.is_meta or target == self.known.of(args[0]):
            return result
        self.known.moves += 1
        return _Move.apply(result, self.known, target)


def _at(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


@contextmanager
def pretended_devices() -> Iterator[Names]:
    """In the block, "cpu:1", "cpu:2", ... are devices of their own."""
    names = Names()
    with _Operations(names), _Calls(names):
        yield names


def dispatched(plain: Any, places: Mapping[str, str], names: Names) -> Any:
    """A plain model whose modules are on pretended devices, with accelerate's own hooks."""
    for name, place in places.items():
        module = plain.get_submodule(name)
        names.put((*module.parameters(), *module.buffers()), torch.device(place))
    return dispatch_model(plain, dict(places), skip_keys=plain._skip_keys_device_placement)
