"""Whether a model is still what it was: what was measured on it is of no use after a change."""

from __future__ import annotations

import weakref

from torch import Tensor

from spt_lens.models import ModelView


class ModelState:
    """Which weights, buffers and hooks a model has, to tell later whether it is still the same. Keeps none alive."""

    def __init__(self, view: ModelView) -> None:
        tensors, self.hooks = self._parts(view)
        self.tensors = [(weakref.ref(tensor), self._stamp(tensor)) for tensor in tensors]

    def is_of(self, view: ModelView) -> bool:
        tensors, hooks = self._parts(view)
        return (
            hooks == self.hooks
            and len(tensors) == len(self.tensors)
            and all(
                known() is tensor and stamp == self._stamp(tensor)
                for tensor, (known, stamp) in zip(tensors, self.tensors, strict=True)
            )
        )

    @staticmethod
    def _parts(view: ModelView) -> tuple[list[Tensor], list[int]]:
        modules = view.modules()
        held = (tensor for m in modules for tensor in (*m._parameters.values(), *m._buffers.values()))
        # torch numbers hooks, TransformerLens's too, and never gives a number twice.
        hooks = [number for m in modules for number in (*m._forward_hooks, *m._forward_pre_hooks)]
        return [tensor for tensor in held if tensor is not None], hooks

    @staticmethod
    def _stamp(tensor: Tensor) -> tuple[int, int, str]:
        """The count of changes in place; where its memory is, for .data that was set; and its first number, since
        fused optimizers (the Hugging Face trainer's default) do not count.
        """
        version = -1 if tensor.is_inference() else tensor._version
        first = repr(tensor.detach()[(0,) * tensor.ndim].item()) if tensor.numel() else ""
        return version, tensor.data_ptr(), first
