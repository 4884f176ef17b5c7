"""Real signals at chosen moments of an operation, and all that one could leave behind.

Python takes a signal up as a function begins or goes on, and as one written in C has ended. A profile function sees
just these moments, and a trace function those after the first signal has been raised.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from types import FrameType
from typing import Any

import torch
from conftest import condition
from torch import nn

from spt_lens.model import held
from spt_lens.model.view import ModelView

# What TransformerLens itself puts down in one forward pass and picks up in the next.
OF_THE_BRIDGE = ("_captured_pre_ln_residual",)
OWN = {getattr(held.unbroken, name).__code__ for name in ("__enter__", "__exit__", "_leave", "_came")}


def everything(model: Any) -> list[Any]:
    """Of the model and of the process, but for the weights: hooks, flags, methods, modes, random numbers, patches."""
    root = ModelView(model).backend.root
    config = getattr(root, "config", None)
    of_weights = [len(getattr(p, "_post_accumulate_grad_hooks", None) or ()) for p in root.parameters()]
    hooks = torch._C._autograd._top_saved_tensors_default_hooks(True)
    modes = [torch._C._len_torch_function_stack(), torch._C._len_torch_dispatch_stack(), hooks]
    modes += [torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cpu")]
    modes += [torch.get_default_dtype(), torch.get_default_device(), nn.Module.register_parameter]
    modes += [torch.get_rng_state().tolist(), os.getcwd(), list(warnings.filters), sys.stdout]
    modes += [logging.root.level, logging.root.manager.disable, signal.getsignal(signal.SIGINT)]
    modes += [held.unbroken._depth, dict(held.unbroken._since), set(held.unbroken._waiting)]
    own = [each for each in condition(model) if not (isinstance(each, tuple) and each[0] in OF_THE_BRIDGE)]
    return [*own, getattr(config, "_attn_implementation", None), of_weights, modes, dict(held._held)]


def weights(model: Any) -> list[torch.Tensor]:
    return [p.detach().clone() for p in ModelView(model).weights().values()]


def same_weights(model: Any, before: list[torch.Tensor]) -> bool:
    return all(map(torch.equal, ModelView(model).weights().values(), before))


def moments(operation: Callable[[], Any]) -> int:
    """How many moments there are at which a signal is taken up."""
    seen = 0

    def count(frame: FrameType, event: str, arg: Any) -> None:
        nonlocal seen
        seen += event in ("call", "c_return") and frame.f_code not in OWN

    sys.setprofile(count)
    try:
        operation()
    finally:
        sys.setprofile(None)
    return seen


class Stop:
    """Sends Ctrl-C to this very process at a moment, and again so many moments after the first was raised."""

    def __init__(self, at: int, again: int = 0) -> None:
        self.at, self.again, self.sent, self.raised = at, again, 0, 0
        self.late, self.where = False, list[list[str]]()

    def __call__(self, operation: Callable[[], Any]) -> Any:
        """What it gives, or the KeyboardInterrupt that ended it."""
        # A signal taken up as something is collected can't be raised there: Python tells this hook. pytest's own
        # would be broken off by the next signal, and call that an error; these tests ignore what it tells anyway.
        told, sys.unraisablehook = sys.unraisablehook, lambda unraisable: None
        before = signal.signal(signal.SIGINT, self._raise)
        found: Any = None
        try:
            try:
                sys.setprofile(self._first)
                found = operation()
            except KeyboardInterrupt as error:
                found = error
            sys.setprofile(None)
            sys.settrace(None)
            until = time.monotonic() + 10
            while (held.unbroken._waiting or held.unbroken._since) and time.monotonic() < until:
                time.sleep(held.SOON)  # one that waited comes now
            with held.unbroken._lock:  # or has just been sent
                pass
            time.sleep(held.SOON)
        except KeyboardInterrupt:
            self.late = True
        finally:
            sys.setprofile(None)
            sys.settrace(None)
            signal.signal(signal.SIGINT, before)
            sys.unraisablehook = told
        return found

    def __repr__(self) -> str:
        return "\n\n".join("".join(lines[-12:]) for lines in self.where)

    def _first(self, frame: FrameType, event: str, arg: Any) -> None:
        if event in ("call", "c_return") and frame.f_code not in OWN:
            self.at -= 1
            if not self.at:
                self.sent += 1
                signal.raise_signal(signal.SIGINT)

    def _second(self, frame: FrameType, event: str, arg: Any) -> None:
        if frame.f_code not in OWN:
            self.again -= 1
            if not self.again:
                self.sent += 1
                sys.settrace(None)
                signal.raise_signal(signal.SIGINT)

    def _raise(self, number: int, frame: FrameType | None) -> None:
        self.raised += 1
        self.where.append(traceback.format_list(traceback.extract_stack(frame)))
        sys.setprofile(None)
        if self.raised == 1 and self.again:
            sys.settrace(self._second)
        raise KeyboardInterrupt
