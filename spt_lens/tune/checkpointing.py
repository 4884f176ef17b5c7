"""Less memory for a forward pass more: a block keeps its input alone, and runs again in the backward pass."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from spt_lens.model.blocks import with_methods
from spt_lens.model.held import to_the_end
from spt_lens.model.layout import layout_of
from spt_lens.model.view import ModelView


@contextmanager
def checkpointed(blocks: Sequence[nn.Module]) -> Iterator[None]:
    """In the block, the modules keep no activations of their own for the backward pass. The same numbers, bit for bit.

    In a backward pass a block runs once more, with all that is hooked into it. On leaving, whatever happens, the
    modules are as before.
    """
    with ExitStack() as stack:
        for block in {id(block): block for block in blocks}.values():  # one that a model runs twice is wrapped once
            stack.enter_context(with_methods(block, forward=partial(_run, block, block.forward)))
        if blocks:
            stack.enter_context(_saving_as_before())
        yield


@contextmanager
def _saving_as_before() -> Iterator[None]:
    """After the block, what torch does with tensors saved for a backward pass is as before it.

    An interrupt just as torch's own checkpoint begins leaves its hooks on for the process, and every later backward
    pass under a checkpoint fails. There is no public way to see them.
    """
    hooks: Any = torch._C._autograd
    before = hooks._top_saved_tensors_default_hooks(True)

    def restore() -> None:
        while hooks._top_saved_tensors_default_hooks(True) not in (None, before):
            hooks._pop_saved_tensors_default_hooks()

    try:
        yield
    finally:
        to_the_end(restore)


def _run(block: nn.Module, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    inner = [module for module in block.modules() if module is not block]
    # What stands in for methods inside the block now, such as an MLP at a few positions, may be gone by then.
    now = [(module, vars(module)["forward"]) for module in inner if "forward" in vars(module)]

    def again(*args: Any, **kwargs: Any) -> Any:
        with ExitStack() as stack:
            for module, method in now:
                stack.enter_context(with_methods(module, forward=method))
            return forward(*args, **kwargs)

    return checkpoint(again, *args, use_reentrant=False, **kwargs)


def plain_blocks(plain: nn.Module, view: ModelView) -> list[nn.Module]:
    """The decoder blocks of a plain transformers model like the view's, also inside what peft put around it."""
    name = layout_of(view.architecture).block.rpartition(".")[0]
    ends = tuple(name.format(layer) for layer in range(view.n_layers))
    return [module for path, module in plain.named_modules() if path.endswith(ends)]
